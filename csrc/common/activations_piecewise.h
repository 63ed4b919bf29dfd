// Activations made of straight lines and parabolas.
#pragma once

#include "activations_base.h"

namespace fastlayers::FL_NAMESPACE {
namespace activations {

struct identity : Invertible<FromOutput<0, 0>> {
  static constexpr bool quick = true;
  static constexpr bool constant_derivative = true;

  template <class T> FL_HD static T inverse(T y, const T*) { return y; }
  template <class T> FL_HD static T forward(T x, const T*) { return x; }
  template <class T> FL_HD static T derivative(T, const T*, T*) { return T(1); }
  template <class T> FL_HD static T derivative_from_output(T, const T*) { return T(1); }
};

struct relu : FromOutput<0, 0> {
  static constexpr bool masks = true;
  static constexpr bool quick = true;

  template <class T> FL_HD static T forward(T x, const T*) { return select(x <= T(0), T(0), x); }
  template <class T> FL_HD static T derivative(T x, const T*, T*) { return select(x <= T(0), T(0), T(1)); }  // 1 at NaN, as torch
  template <class T> FL_HD static T derivative_from_output(T y, const T*) { return select(y <= T(0), T(0), T(1)); }
};

// p: negative_slope
struct leaky_relu : Invertible<FromOutput<0, 1>> {
  static constexpr bool quick = true;

  template <class T> FL_HD static T inverse(T y, const T* p) { return select(y > T(0), y, y / p[0]); }
  template <class T> FL_HD static T forward(T x, const T* p) { return select(x > T(0), x, x * p[0]); }
  template <class T> FL_HD static T derivative(T x, const T* p, T*) { return select(x > T(0), T(1), p[0]); }
  template <class T> FL_HD static T derivative_from_output(T y, const T* p) { return select(y > T(0), T(1), p[0]); }
};

// p: straight_through
struct binary_step : FromInput<0, 1> {
  static constexpr bool constant_derivative = true;

  template <class T> FL_HD static T forward(T x, const T*) { return select(x >= T(0), T(1), select(x < T(0), T(0), x)); }
  template <class T> FL_HD static T derivative(T, const T* p, T*) { return p[0]; }
};

// p: lower, upper - lower, the element's uniform number
struct rrelu : FromInput<0, 2> {
  static constexpr bool random = true;
  static double constant(const double* given, int k) { return k == 0 ? given[0] : given[1] - given[0]; }

  template <class T> FL_HD static T forward(T x, const T* p) { return select(x > T(0), x, slope(p) * x); }
  template <class T> FL_HD static T derivative(T x, const T* p, T*) { return select(x > T(0), T(1), slope(p)); }

 private:
  template <class T> FL_HD static T slope(const T* p) { return p[0] + p[1] * p[2]; }
};

// x min(max(x + 3, 0), 6) / 6
struct hardswish : FromInput<0, 0> {
  static constexpr bool masks = true;
  template <class T> FL_HD static T forward(T x, const T*) {
    const T gate = minimum(T(6), maximum(T(0), x + T(3)));
    return maximum(T(-3), x) * (gate * T(static_cast<Constant<T>>(1) / 6));
  }
  template <class T> FL_HD static T derivative(T x, const T*, T*) {
    const T inside = (x + T(1.5)) * T(static_cast<Constant<T>>(1) / 3);
    return select(x <= T(-3), T(0), select(x < T(3), inside, T(1)));  // 1 at NaN, as torch
  }
};

struct hardsigmoid : FromInput<0, 0> {
  static constexpr bool masks = true;
  template <class T> FL_HD static T forward(T x, const T*) {
    return minimum(T(6), maximum(T(0), x + T(3))) * T(static_cast<Constant<T>>(1) / 6);
  }
  template <class T> FL_HD static T derivative(T x, const T*, T*) {
    return select((x > T(-3)) & (x < T(3)), T(static_cast<Constant<T>>(1) / 6), T(0));
  }
};

// p: min_val, max_val
struct hardtanh : FromOutput<0, 2> {
  static constexpr bool masks = true;
  template <class T> FL_HD static T forward(T x, const T* p) { return minimum(p[1], maximum(p[0], x)); }
  template <class T> FL_HD static T derivative(T x, const T* p, T*) { return derivative_from_output(x, p); }
  template <class T> FL_HD static T derivative_from_output(T y, const T* p) {
    return select((y <= p[0]) | (y >= p[1]), T(0), T(1));  // 1 at NaN, as torch
  }
};

struct relu6 : FromOutput<0, 0> {
  static constexpr bool masks = true;
  static constexpr bool quick = true;

  template <class T> FL_HD static T forward(T x, const T*) { return minimum(T(6), maximum(T(0), x)); }
  template <class T> FL_HD static T derivative(T x, const T* p, T*) { return derivative_from_output(x, p); }
  template <class T> FL_HD static T derivative_from_output(T y, const T*) { return select((y <= T(0)) | (y >= T(6)), T(0), T(1)); }
};

// p: lambd
struct softshrink : FromOutput<0, 1> {
  static constexpr bool masks = true;
  template <class T> FL_HD static T forward(T x, const T* p) {
    return select(x > p[0], x - p[0], select(x < -p[0], x + p[0], T(0) * x));
  }
  template <class T> FL_HD static T derivative(T x, const T* p, T*) {
    return select((x >= -p[0]) & (x <= p[0]), T(0), T(1));  // 1 at NaN, as torch
  }
  template <class T> FL_HD static T derivative_from_output(T y, const T*) { return select(y != T(0), T(1), T(0)); }
};

// p: lambd
struct hardshrink : FromOutput<0, 1> {
  static constexpr bool masks = true;
  template <class T> FL_HD static T forward(T x, const T* p) { return select((x >= -p[0]) & (x <= p[0]), T(0), x); }
  template <class T> FL_HD static T derivative(T x, const T* p, T* dp) { return softshrink::derivative(x, p, dp); }
  template <class T> FL_HD static T derivative_from_output(T y, const T* p) { return softshrink::derivative_from_output(y, p); }
};

// p: threshold, value
struct threshold : FromInput<0, 2> {
  static constexpr bool masks = true;
  template <class T> FL_HD static T forward(T x, const T* p) { return select(x <= p[0], p[1], x); }
  template <class T> FL_HD static T derivative(T x, const T* p, T*) { return select(x <= p[0], T(0), T(1)); }  // 1 at NaN, as torch
};

struct squared_relu : FromInput<0, 0> {
  template <class T> FL_HD static T forward(T x, const T*) {
    const T positive = maximum(T(0), x);
    return positive * positive;
  }
  template <class T> FL_HD static T derivative(T x, const T*, T*) { return T(2) * maximum(T(0), x); }
};

// p: weight
struct prelu : Invertible<FromInput<1, 0>> {
  static constexpr bool quick = true;

  template <class T> FL_HD static T inverse(T y, const T* p) { return select(y > T(0), y, y / p[0]); }
  template <class T> FL_HD static T forward(T x, const T* p) { return select(x > T(0), x, x * p[0]); }
  template <class T> FL_HD static T derivative(T x, const T* p, T* dp) {
    dp[0] = select(x > T(0), T(0), x);
    return select(x > T(0), T(1), p[0]);
  }
};

// A sum of slopes times differences, exact to a rounding or two however much cancels.
template <class T> class SumOfLines {
 public:
  FL_HD explicit SumOfLines(T start) : sum_{start, T(0)} {}

  // += slope * (a - b), where a slope of 0 makes 0 even of an infinite difference.
  FL_HD void add(T slope, T a, T b) {
    const math::Pair<T> difference = math::exact_sum(a, -b);
    const T low = select(absolute(difference.value) < T(infinity<T>), difference.low, T(0));
    const math::Pair<T> product = math::exact_product(slope, select(slope == T(0), math::finite(difference.value), difference.value));
    add(product.value, multiply_add(slope, low, product.low));
  }
  // += term + low
  FL_HD void add(T term, T low) {
    const math::Pair<T> sum = math::exact_sum(sum_.value, term);
    sum_ = {sum.value, sum_.low + (sum.low + low)};
  }
  FL_HD T value() const { return select(absolute(sum_.value) < T(infinity<T>), sum_.value + sum_.low, sum_.value); }

 private:
  math::Pair<T> sum_;
};

// p: t_l, a_l, t_r, a_r
struct srelu : FromInput<4, 0> {
  template <class T> FL_HD static T forward(T x, const T* p) {
    const auto right = x >= p[2];
    const T edge = select(right, p[2], p[0]);
    SumOfLines<T> line(edge);
    line.add(select(right, p[3], p[1]), x, edge);
    return select(right, line.value(), select(x <= p[0], line.value(), x));
  }
  template <class T> FL_HD static T derivative(T x, const T* p, T* dp) {
    const auto right = x >= p[2];
    const auto left = (!right) & (x < p[0]);
    dp[0] = select(left, T(1) - p[1], T(0));
    dp[1] = select(left, x - p[0], T(0));
    dp[2] = select(right, T(1) - p[3], T(0));
    dp[3] = select(right, x - p[2], T(0));
    return select(right, p[3], select(left, p[1], T(1)));
  }
};

// p: a_1 .. a_S, b_1 .. b_S
struct apl : FromInput<2, 0> {
  static constexpr int most_repeats = 8;

  template <class T> FL_HD static T forward(T x, const T* p, int hinges) {
    const auto huge = absolute(x) > T(0x1p100f);  // then partial sums might overflow
    const T scale = select(huge, T(0x1p-20f), T(1)), scaled = x * scale;
    SumOfLines<T> sum(maximum(T(0), scaled));
    for (int s = 0; s < hinges; ++s) sum.add(select(x < p[hinges + s], p[s], T(0)), p[hinges + s] * scale, scaled);
    return sum.value() * select(huge, T(0x1p20f), T(1));
  }
  template <class T> FL_HD static T derivative(T x, const T* p, T* dp, int hinges) {
    SumOfLines<T> sum(select(x < T(0), T(0), T(1)));
    for (int s = 0; s < hinges; ++s) {
      const T b = p[hinges + s], bent = select(x < b, p[s], T(0));
      sum.add(-bent, T(0));
      dp[s] = maximum(T(0), b - x);
      dp[hinges + s] = bent;
    }
    return sum.value();
  }
};

}  // namespace activations
}  // namespace fastlayers::FL_NAMESPACE
