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

// exp(x) = mantissa * 2^exponent, kept apart so that a product with exp(x) underflows only if the product itself does.
template <class T, bool = is_double<T>> struct Exponential;

template <class T> struct Exponential<T, true> {
  T mantissa;

  FL_HD T value() const { return mantissa; }
  FL_HD T times(T factor) const { return factor * mantissa; }
};

template <class T> struct Exponential<T, false> {
  using Integer = decltype(float_as_int(T()));
  T mantissa;
  Integer exponent;

  FL_HD T value() const { return times(T(1.0f)); }
  // factor * exp(x), rounded in the subnormal range only at the very end: 2^exponent is applied in two halves.
  FL_HD T times(T factor) const {
    const Integer half = exponent >> 1;
    return factor * mantissa * power_of_two(half) * power_of_two(exponent - half);
  }
  FL_HD static T power_of_two(Integer n) { return int_as_float((n + Integer(127)) << 23); }
};

// The n and r of x = n ln 2 + r with |r| <= ln(2) / 2, n as an integer and as a number. |x| <= 1000.
template <class T> struct Reduced {
  decltype(float_as_int(T())) n;
  T n_value, r;
};

template <class T> FL_HD Reduced<T> reduce_by_ln2(T x) {
  using Integer = decltype(float_as_int(T()));
  const T shifter(12582912.0f);  // 1.5 * 2^23: adding it rounds to an integer, which its low bits then hold
  const T shifted = multiply_add(x, T(1.44269504f), shifter);
  const T n = shifted - shifter;
  T r = multiply_add(n, T(-0.693359375f), x);  // ten bits of ln 2, so that n times it is exact
  r = multiply_add(n, T(2.12194440e-4f), r);
  return {float_as_int(shifted) - Integer(0x4b400000), n, r};
}

// exp(r) - 1 for |r| <= ln(2) / 2. Error of the polynomial: 3e-9.
template <class T> FL_HD T expm1_reduced(T r) {
  return multiply_add(r * r, polynomial(r, 0.5f, 0.16666518f, 0.041666206f, 0.008368953f, 0.0013950587f), r);
}

// exp(x) in two parts. Arguments are clamped to [-150, 100], beyond which the result is 0 or infinite.
template <class T> FL_HD Exponential<T> exp_parts(T x) {
  if constexpr (is_double<T>) {
    return {lane_by_lane(x, [](double v) { return ::exp(v); })};
  } else {
    const Reduced<T> reduced = reduce_by_ln2(minimum(T(100.0f), maximum(T(-150.0f), x)));
    return {T(1.0f) + expm1_reduced(reduced.r), reduced.n};
  }
}

// 1 ULP.
template <class T> FL_HD T exp(T x) { return exp_parts(x).value(); }

// exp(x) - 1 without cancellation near 0. 2 ULP.
template <class T> FL_HD T expm1(T x) {
  if constexpr (is_double<T>) {
    return lane_by_lane(x, [](double v) { return ::expm1(v); });
  } else {
    // 2^n (q + 1) - 1 = 2^n q + (2^n - 1), in halves so that 2^128 is never formed; below -20 the result is -1.
    const Reduced<T> reduced = reduce_by_ln2(minimum(T(100.0f), maximum(T(-20.0f), x)));
    const T q = expm1_reduced(reduced.r);
    const auto half = reduced.n >> 1;
    const T low = Exponential<T>::power_of_two(half), high = Exponential<T>::power_of_two(reduced.n - half);
    const T result = multiply_add(low, q, low - Exponential<T>::power_of_two(half - reduced.n)) * high;
    return select(x == T(0), x, result);  // keeps -0
  }
}

// exp(-|x|) and 1 / (1 + exp(-|x|)): what the logistic sigmoid and everything built on it are made of.
template <class T> struct Logistic {
  Exponential<T> decay;
  T larger;   // sigmoid(|x|)
  T smaller;  // sigmoid(-|x|)
};

// sigmoid(x) sigmoid(-x), the logistic density, with one rounding less than the product. 3 ULP.
template <class T> FL_HD T logistic_density(T x) {
  const T e = exp_parts(-absolute(x)).value();
  return e / multiply_add(e, e + T(2), T(1));
}

template <class T> FL_HD Logistic<T> logistic(T x) {
  const Exponential<T> decay = exp_parts(-absolute(x));
  const T e = decay.value();
  const T larger = T(1) / (T(1) + e);
  return {decay, larger, e * larger};
}

// 1 / (1 + exp(-x)). 2 ULP.
template <class T> FL_HD T sigmoid(T x) {
  const Logistic<T> parts = logistic(x);
  return select(x < T(0), parts.smaller, parts.larger);
}

// 3 ULP.
template <class T> FL_HD T tanh(T x) {
  if constexpr (is_double<T>) {
    return lane_by_lane(x, [](double v) { return ::tanh(v); });
  } else {
    const T magnitude = minimum(T(10.0f), absolute(x));
    const T e = expm1(magnitude + magnitude);
    const T y = e / (e + T(2.0f));
    return select(x < T(0), -y, select(x == T(0), x, y));
  }
}

// The standard normal distribution at a = |x|: its upper tail is factor * e and its density e / sqrt(2 pi), e = exp(-a^2 / 2).
template <class T> struct NormalTail {
  Exponential<T> decay;
  T magnitude;   // a, at most 15 (float) or 39 (double), where the tail is 0
  T factor;      // falls smoothly from 0.5 at a = 0 to 0.027 at a = 15; 3 ULP
  T correction;  // e = decay * correction

  // value * tail, 4 ULP, without underflow of the tail alone.
  FL_HD T tail_times(T value) const { return decay.times(value * (factor * correction)); }
  // tail - a * density, which is the derivative of -a * tail.
  FL_HD T tail_less_moment() const {
    return decay.times(correction * multiply_add(magnitude, T(static_cast<Constant<T>>(-0.398942280401432678)), factor));
  }
};

template <class T> FL_HD NormalTail<T> normal_tail(T x) {
  if constexpr (is_double<T>) {
    const T a = minimum(T(39.0), absolute(x));
    const T tail = lane_by_lane(a, [](double v) { return 0.5 * ::erfc(v * 0.70710678118654752440); });
    const Exponential<T> decay = exp_parts(T(-0.5) * a * a);
    const T e = decay.value();
    return {decay, a, select(e == T(0), T(0), tail / e), T(1)};  // both are 0 from a = 38.6 on
  } else {
    const T a = minimum(T(15.0f), absolute(x));
    // a^2 = square + error exactly; exp takes the first, 1 - error / 2 is exp of the second.
    const T square = a * a;
    const T correction = multiply_add(T(-0.5f), multiply_subtract_once(a, a, square), T(1.0f));
    // (a + 1.5) * tail / exp(-a^2 / 2) is smooth in (a - 1.5) / (a + 1.5): minimax polynomial of relative error 8e-9 for a <= 14.7.
    const T denominator = a + T(1.5f);
    const T inverse = T(1.0f) / denominator;
    const T q = (a - T(1.5f)) * inverse;
    const T scaled = polynomial(q, 0.617341995f, -0.195099458f, -0.0574957132f, 0.0178960562f, 0.01764304f, 0.0039915829f,
                                -0.00244428939f, -0.00272119697f, -0.00102588604f, 0.000265584473f, 0.000456779147f, 0.000143360652f);
    const T quotient = scaled * inverse;
    const T factor = multiply_add(inverse, -multiply_subtract_once(quotient, denominator, scaled), quotient);
    return {exp_parts(T(-0.5f) * square), a, factor, correction};
  }
}

}  // namespace math
}  // namespace fastlayers::FL_NAMESPACE
