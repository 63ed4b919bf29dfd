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

// n and r of x = n ln 2 + r with whole n and |r| <= ln(2) / 2. |x| <= 1000.
template <class T> struct ReducedByLn2 {
  T n, r;

  FL_HD explicit ReducedByLn2(T x) {
    const T shifter(12582912.0f);  // 1.5 * 2^23: adding it rounds to a whole number
    n = multiply_add(x, T(1.44269504f), shifter) - shifter;
    r = multiply_add(n, T(-0.693359375f), x);  // ten bits of ln 2, so that n times it is exact
    r = multiply_add(n, T(2.12194440e-4f), r);
  }

  // exp(r) - 1. Error of the polynomial: 3e-9.
  FL_HD T expm1() const {
    return multiply_add(r * r, polynomial(r, 0.5f, 0.16666518f, 0.041666206f, 0.008368953f, 0.0013950587f), r);
  }
};

// exp(x) as mantissa * 2^exponent, so that a product with exp(x) underflows only if the product itself does. Arguments below -150
// and above 100 count as these: 0 and infinity.
template <class T, bool = is_double<T>> struct Exponential {
  T mantissa, exponent;

  FL_HD explicit Exponential(T x) {
    const ReducedByLn2<T> reduced(minimum(T(100.0f), maximum(T(-150.0f), x)));
    mantissa = T(1.0f) + reduced.expm1();
    exponent = reduced.n;
  }
  FL_HD T value() const { return times_power_of_two(mantissa, exponent); }
  FL_HD T times(T factor) const { return times_power_of_two(factor * mantissa, exponent); }
};

template <class T> struct Exponential<T, true> {
  T mantissa;

  FL_HD explicit Exponential(T x) : mantissa(lane_by_lane(x, [](double v) { return ::exp(v); })) {}
  FL_HD T value() const { return mantissa; }
  FL_HD T times(T factor) const { return factor * mantissa; }
};

// 1 ULP.
template <class T> FL_HD T exp(T x) { return Exponential<T>(x).value(); }

// exp(x) - 1 for 0 <= x <= 80, without cancellation near 0. 2 ULP.
template <class T> FL_HD T expm1_positive(T x) {
  const ReducedByLn2<T> reduced(x);
  const T power = power_of_two(reduced.n);
  return multiply_add(power, reduced.expm1(), power - T(1.0f));
}

// 1 / (1 + exp(-x)) and what is built on it: e = exp(-|x|) as `decay`, sigmoid(|x|) and sigmoid(-|x|).
template <class T> struct Logistic {
  const Exponential<T> decay;
  T larger, smaller;

  FL_HD explicit Logistic(T x) : decay(-absolute(x)) {
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

// sigmoid(x) sigmoid(-x) with one rounding less than the product. 3 ULP.
template <class T> FL_HD T logistic_density(T x) {
  const T e = exp(-absolute(x));
  return e / multiply_add(e, e + T(2), T(1));
}

// 3 ULP.
template <class T> FL_HD T tanh(T x) {
  if constexpr (is_double<T>) {
    return lane_by_lane(x, [](double v) { return ::tanh(v); });
  } else {
    const T magnitude = minimum(T(10.0f), absolute(x));
    const T e = expm1_positive(magnitude + magnitude);
    return with_sign_of(e / (e + T(2.0f)), x);
  }
}

// The standard normal distribution at a = |x|: its upper tail is factor * e and its density e / sqrt(2 pi), e = exp(-a^2 / 2).
template <class T, bool = is_double<T>> struct NormalTail;

template <class T> struct NormalTail<T, false> {
  const T magnitude;  // a, at most 15, where the tail is 0
  const T square;     // of a, rounded
  const Exponential<T> decay;
  T factor;      // falls smoothly from 0.5 at a = 0 to 0.027 at a = 15; 3 ULP
  T correction;  // e = decay * correction

  FL_HD explicit NormalTail(T x) : magnitude(minimum(T(15.0f), absolute(x))), square(magnitude * magnitude), decay(T(-0.5f) * square) {
    correction = multiply_add(T(-0.5f), multiply_subtract_once(magnitude, magnitude, square), T(1.0f));
    // (a + 1.5) * factor is smooth in (a - 1.5) / (a + 1.5): minimax polynomial of relative error 8e-9 for a <= 14.7.
    const T denominator = magnitude + T(1.5f);
    const T inverse = T(1.0f) / denominator;
    const T q = (magnitude - T(1.5f)) * inverse;
    const T scaled = polynomial(q, 0.617341995f, -0.195099458f, -0.0574957132f, 0.0178960562f, 0.01764304f, 0.0039915829f,
                                -0.00244428939f, -0.00272119697f, -0.00102588604f, 0.000265584473f, 0.000456779147f, 0.000143360652f);
    const T quotient = scaled * inverse;
    factor = multiply_add(inverse, -multiply_subtract_once(quotient, denominator, scaled), quotient);
  }
  // value * tail, 4 ULP, without underflow of the tail alone.
  FL_HD T tail_times(T value) const { return decay.times(value * (factor * correction)); }
  // tail - a * density, which is the derivative of -a * tail.
  FL_HD T tail_less_moment() const { return decay.times(correction * multiply_add(magnitude, T(-0.3989422804f), factor)); }
};

template <class T> struct NormalTail<T, true> {
  const T magnitude;  // at most 39, where the tail is 0
  const T tail;

  FL_HD explicit NormalTail(T x)
      : magnitude(minimum(T(39.0), absolute(x))),
        tail(lane_by_lane(magnitude, [](double v) { return 0.5 * ::erfc(v * 0.70710678118654752440); })) {}
  FL_HD T tail_times(T value) const { return value * tail; }
  FL_HD T tail_less_moment() const { return tail - magnitude * (T(0.398942280401432678) * exp(T(-0.5) * magnitude * magnitude)); }
};

}  // namespace math
}  // namespace fastlayers::FL_NAMESPACE
