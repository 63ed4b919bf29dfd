// What the elementary functions in exponentials.h and trigonometry.h have in common.
//
// T is float or a vector of floats, for which they are branch-free polynomials, or double or a vector of doubles, for which they are the
// system's libm or torch's Sleef. Why not those throughout: a call per vector costs more than the function of floats, and their erfc and
// x * exp(x) lose all accuracy where the result leaves the normal range. Each function states its largest error in
// units in the last place (ULP) of the float result; results below the normal range are correct to the spacing there, and infinities,
// NaN and signed zeros give what the limit says. The same bits on every processor with fused multiply-add.
#pragma once

#include <cfloat>
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
template <class T> constexpr Constant<T> infinity = static_cast<Constant<T>>(HUGE_VAL);
template <class T> constexpr Constant<T> nan = static_cast<Constant<T>>(__builtin_nan(""));
template <class T> constexpr Constant<T> largest = static_cast<Constant<T>>(is_double<T> ? DBL_MAX : FLT_MAX);

namespace math {

// f of each lane of a vector of doubles, or of one double.
template <class Function> FL_HD double lane_by_lane(double x, Function f) { return f(x); }
template <class T, class Function> FL_HD T lane_by_lane(T x, Function f) {
  T y;
  for (int i = 0; i < T::size; ++i) y.lanes[i] = f(x.lanes[i]);
  return y;
}

// f(x, a) of each lane.
template <class Function> FL_HD double lane_by_lane(double x, double a, Function f) { return f(x, a); }
template <class T, class Function> FL_HD T lane_by_lane(T x, T a, Function f) {
  T y;
  for (int i = 0; i < T::size; ++i) y.lanes[i] = f(x.lanes[i], a.lanes[i]);
  return y;
}

// The system's functions of doubles. For whole registers csrc/cpu/sleef.h has them.
#define FL_SYSTEM_FUNCTION(name) \
  template <class T> FL_HD T system_##name(T x) { return lane_by_lane(x, [](double v) { return ::name(v); }); }
FL_SYSTEM_FUNCTION(exp)
FL_SYSTEM_FUNCTION(expm1)
FL_SYSTEM_FUNCTION(log)
FL_SYSTEM_FUNCTION(log1p)
FL_SYSTEM_FUNCTION(sin)
FL_SYSTEM_FUNCTION(cos)
FL_SYSTEM_FUNCTION(atan)
#undef FL_SYSTEM_FUNCTION

// c0 + c1 x + c2 x^2 + ..., by Horner's rule.
template <class T> FL_HD T polynomial(T, Constant<T> c0) { return T(c0); }
template <class T, class... Rest> FL_HD T polynomial(T x, Constant<T> c0, Rest... rest) {
  return multiply_add(x, polynomial(x, static_cast<Constant<T>>(rest)...), T(c0));
}

// value + low, more exact than one number.
template <class T> struct Pair {
  T value, low;
};

// a + b exactly, where it does not overflow.
template <class T> FL_HD Pair<T> exact_sum(T a, T b) {
  const T sum = a + b, part = sum - a;
  return {sum, (a - (sum - part)) + (b - part)};
}

// a * b exactly for float, where it neither overflows nor underflows; rounded for double, and infinite ones.
template <class T> FL_HD Pair<T> exact_product(T a, T b) {
  const T product = a * b;
  if constexpr (is_double<T>) return {product, T(0)};
  else return {product, select(absolute(product) < T(infinity<T>), multiply_subtract_once(a, b, product), T(0))};
}

// a / b with twice float's precision, and 0 for low where it is infinite; rounded for double.
template <class T> FL_HD Pair<T> exact_quotient(Pair<T> a, T b) {
  if constexpr (is_double<T>) return {a.value / b, T(0)};
  else {
    const T inverse = T(1) / b, quotient = a.value * inverse, rest = a.low - multiply_subtract_once(quotient, b, a.value);
    return {quotient, select(absolute(quotient) < T(infinity<T>), rest * inverse, T(0))};
  }
}
template <class T> FL_HD Pair<T> exact_quotient(T a, T b) { return exact_quotient(Pair<T>{a, T(0)}, b); }

// x between two numbers, with nothing added where it was outside.
template <class T> FL_HD Pair<T> bounded(Pair<T> x, T least, T most) {
  const T value = minimum(most, maximum(least, x.value));
  return {value, select(value == x.value, x.low, T(0))};
}

// x, with the largest finite numbers for infinities.
template <class T> FL_HD T finite(T x) { return minimum(T(largest<T>), maximum(T(-largest<T>), x)); }

}  // namespace math
}  // namespace fastlayers::FL_NAMESPACE
