// sin, cos and atan.
#pragma once

#include "elementary.h"

namespace fastlayers::FL_NAMESPACE {
namespace math {

constexpr float largest_reduced = 131072.0f;  // 2^17: sin and cos of larger floats go through double, lane by lane

struct SineCosine {
  float sine, cosine;
};

// Of an angle beyond that. Rarely needed, hence apart.
inline FL_APART SineCosine far_sine_cosine(double angle) { return {static_cast<float>(::sin(angle)), static_cast<float>(::cos(angle))}; }

// Where |a x| > largest_reduced, its sine and cosine and the quadrant 0, which says that they are those asked for.
FL_HD void replace_far(float a, float x, int32_t& quadrant, float& sine, float& cosine) {
  const double angle = static_cast<double>(a) * x;
  if (!(::fabs(angle) > largest_reduced)) return;
  const SineCosine far = far_sine_cosine(angle);
  quadrant = 0;
  sine = far.sine;
  cosine = far.cosine;
}
template <class T, class Bits> FL_APART_FOR_VECTORS void replace_far(T a, T x, Bits& quadrant, T& sine, T& cosine) {
  for (int i = 0; i < T::size; ++i) {
    int32_t lane_quadrant = quadrant[i];
    float lane_sine = sine[i], lane_cosine = cosine[i];
    replace_far(a[i], x[i], lane_quadrant, lane_sine, lane_cosine);
    quadrant.set(i, lane_quadrant);
    sine.set(i, lane_sine);
    cosine.set(i, lane_cosine);
  }
}

// sin(a x) and cos(a x), the product not rounded; NaN where x is infinite. 2 ULP.
template <class T, bool = is_double<T>> class Angle;

template <class T> class Angle<T, false> {
 public:
  FL_HD explicit Angle(T x) : Angle(T(1.0f), x, Pair<T>{x, T(0.0f)}) {}
  FL_HD Angle(T a, T x) : Angle(a, x, exact_product(a, x)) {}
  FL_HD T sin() const { return negated_if_odd(of_even(sine_, cosine_), quadrant_ >> 1); }
  FL_HD T cos() const { return negated_if_odd(of_even(cosine_, sine_), (quadrant_ + Bits(1)) >> 1); }

  // sin(a x)^2, with what rounding would take from it.
  FL_HD Pair<T> squared_sin() const {
    const T sine = of_even(sine_, cosine_), low = of_even(sine_low_, cosine_low_), square = sine * sine;
    return {square, multiply_add(sine + sine, low, multiply_subtract_once(sine, sine, square))};
  }

 private:
  using Bits = decltype(float_as_int(T()));

  FL_HD Angle(T a, T x, Pair<T> angle) {
    const T shifter(12582912.0f);  // 1.5 * 2^23: adding it rounds to a whole number
    const T shifted = multiply_add(angle.value, T(0.636619772f), shifter), n = shifted - shifter;
    quadrant_ = float_as_int(shifted);
    // x - n pi / 2: pi / 2 in three floats, of which the first difference is exact.
    const T exact = -multiply_subtract_once(n, T(1.57079637f), angle.value);
    const T rest = -multiply_subtract_once(n, T(-4.37113883e-8f), exact);
    const T r = multiply_add(n, T(1.71512489e-15f), rest) + angle.low;
    const T square = r * r;
    const T sine_tail = r * square * polynomial(square, -0.166666538f, 0.00833205692f, -0.000195007247f);
    sine_ = r + sine_tail;
    sine_low_ = sine_tail - (sine_ - r);
    const T half = T(0.5f) * square, rough = T(1.0f) - half, lost = (T(1.0f) - rough) - half;  // by rounding
    const T cosine_tail = multiply_add(square * square, polynomial(square, 0.0416666418f, -0.0013887207f, 2.44198563e-05f), lost);
    cosine_ = rough + cosine_tail;
    cosine_low_ = cosine_tail - (cosine_ - rough);
    const auto far = absolute(angle.value) > T(largest_reduced);
    if (any(far)) {
      replace_far(a, x, quadrant_, sine_, cosine_);
      sine_low_ = select(far, T(0.0f), sine_low_);  // of the quadrant 0
    }
  }

  // What is one number in even quadrants and another in odd ones.
  FL_HD T of_even(T even, T odd) const { return select((quadrant_ & Bits(1)) == Bits(0), even, odd); }

  Bits quadrant_;
  T sine_, cosine_, sine_low_, cosine_low_;
};

template <class T> class Angle<T, true> {
 public:
  FL_HD explicit Angle(T x) : x_(x) {}
  FL_HD Angle(T a, T x) : x_(a * x) {
    x_ = select((absolute(x_) == T(infinity<T>)) & (absolute(x) < T(infinity<T>)), T(0.0), x_);  // nobody knows the phase of an overflow
  }
  FL_HD T sin() const { return system_sin(x_); }
  FL_HD T cos() const { return system_cos(x_); }
  FL_HD Pair<T> squared_sin() const { return {sin() * sin(), T(0.0)}; }

 private:
  T x_;
};

// 2 ULP.
template <class T> FL_HD T atan(T x) {
  if constexpr (is_double<T>) {
    return system_atan(x);
  } else {
    const T magnitude = absolute(x);
    const auto inverted = magnitude > T(1.0f);  // atan(x) = pi / 2 - atan(1 / x)
    const T t = select(inverted, T(1.0f) / magnitude, magnitude), square = t * t;
    const T tail = polynomial(square, -0.333332986f, 0.199985474f, -0.142642394f, 0.109521754f, -0.0840341896f, 0.0579570569f,
                              -0.0311773121f, 0.0109143201f, -0.00179355801f);
    const T angle = multiply_add(t * square, tail, t);
    return with_sign_of(select(inverted, (T(1.57079637f) - angle) + T(-4.37113883e-8f), angle), x);
  }
}

}  // namespace math
}  // namespace fastlayers::FL_NAMESPACE
