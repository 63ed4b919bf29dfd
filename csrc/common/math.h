// Elementary functions for T = float or a vector of floats (branch-free polynomials) and for T = double or a vector of doubles
// (the system's libm, lane by lane: accuracy before speed).
//
// Why not libm or Sleef throughout: a call per vector costs more than the function, and their erfc and x * exp(x) lose all accuracy
// where the result leaves the normal range. Each function states its largest error in units in the last place (ULP) of the result,
// measured over every float32 by tests/test_cpu_math.py; results below the normal range are correct to the spacing there, and
// infinities, NaN and signed zeros give what the limit says. The same bits on every processor with fused multiply-add.
#pragma once

#include <cmath>

#include "platform.h"
#include "scalar.h"

namespace fastlayers::FL_NAMESPACE {

// What T is a vector of, or T itself.
template <class T> struct ScalarOf {
  using type = typename T::Scalar;
};
template <> struct ScalarOf<float> {
  using type = float;
};
template <> struct ScalarOf<double> {
  using type = double;
};
template <class T> constexpr bool is_double = sizeof(typename ScalarOf<T>::type) == 8;
template <class T> using Constant = typename ScalarOf<T>::type;

namespace math {

// f of each lane of a vector of doubles, or of one double.
template <class Function> FL_HD double lane_by_lane(double x, Function f) { return f(x); }
template <class T, class Function> FL_HD T lane_by_lane(T x, Function f) {
  T y;
  for (int i = 0; i < T::size; ++i) y.lanes[i] = f(x.lanes[i]);
  return y;
}

// c0 + c1 x + c2 x^2 + ..., by Horner's rule.
template <class T> FL_HD T polynomial(T, Constant<T> c0) { return T(c0); }
template <class T, class... Rest> FL_HD T polynomial(T x, Constant<T> c0, Rest... rest) {
  return multiply_add(x, polynomial(x, static_cast<Constant<T>>(rest)...), T(c0));
}

// exp(x + low) = 2^n (1 + expm1) with whole n: power = 2^(n + bias) and expm1 = exp(r) - 1 for the rest r, |r| <= ln(2) / 2.
template <class T> struct ReducedExponential {
  T power, expm1;

  FL_HD ReducedExponential(T x, int bias) {
    const T n = begin(x, bias);
    finish(multiply_add(n, T(2.12194440e-4f), multiply_add(n, T(-0.693359375f), x)));
  }
  FL_HD ReducedExponential(T x, T low, int bias) {
    const T n = begin(x, bias);
    finish(multiply_add(n, T(-0.693359375f), x) + multiply_add(n, T(2.12194440e-4f), low));
  }

 private:
  // Sets power; returns n. The constants of the rest add up to ln 2, the larger one of ten bits, so that n times it is exact.
  FL_HD T begin(T x, int bias) {
    const T shifter(12582912.0f + static_cast<float>(127 + bias));  // 1.5 * 2^23: adding it rounds to a whole number
    const T shifted = multiply_add(x, T(1.44269504f), shifter);
    power = power_from_shifted(shifted);
    return shifted - shifter;
  }
  FL_HD void finish(T r) {
    expm1 = multiply_add(r * r, polynomial(r, 0.5f, 0.16666518f, 0.041666206f, 0.008368953f, 0.0013950587f), r);  // error 3e-9
  }
};

// exp(x + low) for -150 <= x <= 0 and tiny low. Kept 2^100 times too large, so that a product with it underflows only if the product
// itself does, and is rounded once there. 1 ULP.
template <class T, bool = is_double<T>> class Decay {
 public:
  FL_HD explicit Decay(T x) : Decay(ReducedExponential<T>(x, 100)) {}
  FL_HD Decay(T x, T low) : Decay(ReducedExponential<T>(x, low, 100)) {}
  FL_HD T value() const { return magnified_ * T(0x1p-100f); }
  FL_HD T times(T factor) const { return factor * magnified_ * T(0x1p-100f); }

 private:
  FL_HD explicit Decay(const ReducedExponential<T>& reduced) : magnified_(multiply_add(reduced.power, reduced.expm1, reduced.power)) {}

  T magnified_;
};

template <class T> class Decay<T, true> {
 public:
  FL_HD explicit Decay(T x) : value_(lane_by_lane(x, [](double v) { return ::exp(v); })) {}
  FL_HD T value() const { return value_; }
  FL_HD T times(T factor) const { return factor * value_; }

 private:
  T value_;
};

// |x|, at most so large that exp(-|x|) is 0 (150 for float, 750 for double).
template <class T> FL_HD T bounded_magnitude(T x) { return minimum(T(is_double<T> ? 750 : 150), absolute(x)); }

// What the logistic sigmoid s(x) = 1 / (1 + exp(-x)) and all that is built on it are made of.
template <class T> struct Logistic {
  const T magnitude;     // a = |x|, bounded
  const Decay<T> decay;  // exp(-a)
  T larger, smaller;     // s(a), s(-a)

  FL_HD explicit Logistic(T x) : magnitude(bounded_magnitude(x)), decay(-magnitude) {
    const T e = decay.value();
    larger = T(1) / (T(1) + e);
    smaller = e * larger;
  }
};

// 2 ULP.
template <class T> FL_HD T sigmoid(T x) {
  const Logistic<T> parts(x);
  return select(x < T(0), parts.smaller, parts.larger);
}

// s(x) s(-x) with one rounding less than the product. 3 ULP.
template <class T> FL_HD T logistic_density(T x) {
  const T e = Decay<T>(-bounded_magnitude(x)).value();
  return e / multiply_add(e, e + T(2), T(1));
}

// 3 ULP.
template <class T> FL_HD T tanh(T x) {
  if constexpr (is_double<T>) {
    return lane_by_lane(x, [](double v) { return ::tanh(v); });
  } else {
    const T magnitude = minimum(T(10.0f), absolute(x));
    const ReducedExponential<T> reduced(magnitude + magnitude, 0);
    const T expm1 = multiply_add(reduced.power, reduced.expm1, reduced.power - T(1.0f));
    return with_sign_of(expm1 / (expm1 + T(2.0f)), x);
  }
}

// The standard normal distribution at a = |x|: upper tail 1 - Phi(a), density exp(-a^2 / 2) / sqrt(2 pi).
template <class T, bool = is_double<T>> struct NormalTail;

template <class T> struct NormalTail<T, false> {
  const T magnitude;  // a, at most 15, where the tail is 0
  const T exponent;   // -a^2 / 2, rounded
  const Decay<T> decay;
  T factor;  // tail = factor * exp(-a^2 / 2): falls smoothly from 0.5 at a = 0 to 0.027 at a = 15. 3 ULP

  FL_HD explicit NormalTail(T x)
      : magnitude(minimum(T(15.0f), absolute(x))),
        exponent(T(-0.5f) * magnitude * magnitude),
        decay(exponent, multiply_subtract_once(T(-0.5f) * magnitude, magnitude, exponent)) {
    // (a + 1.5) * factor is smooth in (a - 1.5) / (a + 1.5): minimax polynomial of relative error 8e-9 for a <= 14.7.
    const T inverse = T(1.0f) / (magnitude + T(1.5f));
    const T q = (magnitude - T(1.5f)) * inverse;
    factor = inverse * polynomial(q, 0.617341995f, -0.195099458f, -0.0574957132f, 0.0178960562f, 0.01764304f, 0.0039915829f,
                                  -0.00244428939f, -0.00272119697f, -0.00102588604f, 0.000265584473f, 0.000456779147f, 0.000143360652f);
  }
  // a * tail, 4 ULP.
  FL_HD T moment() const { return decay.times(magnitude * factor); }
  // tail - a * density, the derivative of a * tail.
  FL_HD T moment_derivative() const { return decay.times(multiply_add(magnitude, T(-0.3989422804f), factor)); }
};

template <class T> struct NormalTail<T, true> {
  const T magnitude;  // at most 39, where the tail is 0
  const T tail;

  FL_HD explicit NormalTail(T x)
      : magnitude(minimum(T(39.0), absolute(x))),
        tail(lane_by_lane(magnitude, [](double v) { return 0.5 * ::erfc(v * 0.70710678118654752440); })) {}
  FL_HD T moment() const { return magnitude * tail; }
  FL_HD T moment_derivative() const {
    return tail - magnitude * (T(0.398942280401432678) * Decay<T>(T(-0.5) * magnitude * magnitude).value());
  }
};

}  // namespace math
}  // namespace fastlayers::FL_NAMESPACE
