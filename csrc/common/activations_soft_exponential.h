// SoftExponential, whose formula depends on the sign of its parameter.
#pragma once

#include "activations_base.h"

namespace fastlayers::FL_NAMESPACE {
namespace activations {

// p: alpha. Where alpha < 0, f = log(u) / -alpha with u = 1 - alpha (x + alpha); where alpha > 0, f = (exp(v) - 1) / alpha + alpha with
// v = alpha x. The side that no lane is on is left out.
struct soft_exponential : FromInput<1, 0> {
  static constexpr bool everywhere = false;

  template <class T> FL_HD static T forward(T x, const T* p) {
    const T alpha = p[0];
    if constexpr (is_double<T>) {
      return math::lane_by_lane(x, alpha, [](double v, double a) {
        return a < 0 ? -::log1p(-a * (v + a)) / a : a > 0 ? ::expm1(a * v) / a + a : v;
      });
    } else {
      T y = x;
      if (any(alpha < T(0))) y = select(alpha < T(0), Logarithm<T>(x, alpha).value(), y);
      if (any(alpha > T(0))) y = select(alpha > T(0), Exponential<T>(x, alpha).value(), y);
      return y;
    }
  }

  template <class T> FL_HD static T derivative(T x, const T* p, T* dp) {
    const T alpha = p[0];
    if constexpr (is_double<T>) {
      dp[0] = math::lane_by_lane(x, alpha, [](double v, double a) { return a < 0 ? left_parameter(v, a) : right_parameter(v, a); });
      return math::lane_by_lane(x, alpha, [](double v, double a) { return a < 0 ? 1 / (1 - a * (v + a)) : ::exp(times(a, v)); });
    } else {
      T slope(0.0f), to_alpha(0.0f);
      if (any(alpha < T(0))) {
        const Logarithm<T> left(x, alpha);
        slope = left.slope();
        to_alpha = left.parameter_slope();
      }
      if (any(!(alpha < T(0)))) {
        const Exponential<T> right(x, alpha);
        slope = select(alpha < T(0), slope, right.slope());
        to_alpha = select(alpha < T(0), to_alpha, right.parameter_slope());
      }
      dp[0] = to_alpha;
      return slope;
    }
  }

 protected:
  // The formulas in double. Series near 0, where they cancel.
  FL_HD static double times(double a, double x) { return a == 0 && x == x ? 0 : a * x; }
  FL_HD static double left_parameter(double x, double a) {
    const double w = -a * (x + a), d = x + a;
    double h = 0;
    if (::fabs(w) < 0.1) {
      for (int k = 15; k >= 0; --k) h = (k + 1.0) / (k + 2.0) - w * h;
      h *= d * d;
    } else {
      h = (::log1p(w) - 1 + 1 / (1 + w)) / a / a;
    }
    return h + 1 / (1 + w);
  }
  FL_HD static double right_parameter(double x, double a) {
    const double v = times(a, x);
    if (::fabs(v) < 0.5) {
      double g = 0, coefficient = 1.0 / 355687428096000.0;  // 1 / 17!
      for (int k = 15; k >= 0; --k) {
        g = g * v + coefficient * (k + 1);
        coefficient *= k + 2;
      }
      return 1 + x * x * g;
    }
    const double outside = v < -1000 ? -1000 : v;
    return 1 + ((outside - 1) * ::exp(outside) + 1) / a / a;
  }

  // alpha < 0, in float. u is kept as u.value + u.low, and times 2^-64 where x is so large that it might overflow.
  template <class T> class Logarithm {
   public:
    FL_HD Logarithm(T x, T alpha) : x_(x), alpha_(alpha) {
      const auto big = absolute(x) > T(0x1p60f);
      scale_ = select(big, T(0x1p-64f), T(1));
      extra_exponent_ = select(big, T(64), T(0));
      const math::Pair<T> shifted = math::exact_sum(math::finite(x) * scale_, alpha * scale_);
      const math::Pair<T> w = math::exact_product(-alpha, shifted.value);
      const math::Pair<T> sum = math::exact_sum(scale_, w.value);
      u_ = math::exact_sum(sum.value, multiply_add(-alpha, shifted.low, sum.low + w.low));
      w_ = w.value;
      distance_ = shifted.value;
    }

    FL_HD T value() const { return logarithm() / -alpha_; }
    FL_HD T slope() const { return select(absolute(x_) == T(infinity<T>), T(0), scale_ / u_.value); }
    // 1 / u + (x + alpha)^2 h, h = (log(1 + w) - w / (1 + w)) / w^2. With s = w / (2 + w), h = (1 - s)^2 (1 / (1 + s) + s tail(s^2)) / 2.
    FL_HD T parameter_slope() const {
      const T s = w_ / (T(2) + w_), rest = T(1) - s;
      const T h = T(0.5f) * rest * rest * multiply_add(s, math::logarithm_tail(s * s), T(1) / (T(1) + s));
      const T outside = (logarithm() - w_ / u_.value) / alpha_ / alpha_;
      const auto near = (w_ > T(-0.6f)) & (w_ < T(1)) & (scale_ == T(1));
      return slope() + select(near, distance_ * (distance_ * h), outside);
    }

   private:
    FL_HD T logarithm() const { return select(x_ == T(infinity<T>), T(infinity<T>), math::log(u_, extra_exponent_)); }

    const T x_, alpha_;
    T scale_, extra_exponent_, w_, distance_;
    math::Pair<T> u_;
  };

  // alpha >= 0, in float.
  template <class T> class Exponential {
   public:
    FL_HD Exponential(T x, T alpha) : x_(x), alpha_(alpha), v_(math::exact_product(alpha, select(alpha == T(0), math::finite(x), x))) {}

    FL_HD T value() const {
      const math::ExactExpm1<T> growth(v_);
      const math::Pair<T> square = math::exact_product(alpha_ * growth.unit, alpha_);
      const math::Pair<T> sum = math::exact_sum(growth.scaled.value, square.value);
      return (sum.value + (sum.low + (growth.scaled.low + square.low))) / alpha_ / growth.unit;
    }
    FL_HD T slope() const { return math::times_exp(T(1), v_); }
    // 1 + x^2 g, g = ((v - 1) exp(v) + 1) / v^2. Divided by alpha^2 last where exp(v) < 1, and first where it may overflow.
    FL_HD T parameter_slope() const {
      const T g = math::polynomial(v_.value, 0.49999997f, 0.333333403f, 0.125000566f, 0.0333327986f, 0.0069414773f, 0.00119137927f,
                                   0.000178510774f, 2.18465739e-05f);
      const math::Pair<T> bounded = math::bounded(v_, T(-150), T(infinity<T>));
      const auto falls = v_.value < T(0);
      const T first = select(falls, T(1), alpha_), last = select(falls, alpha_, T(1));
      const T outside = (math::times_exp((bounded.value - T(1)) / first / first, bounded) + T(1) / first / first) / last / last;
      return T(1) + select(absolute(v_.value) < T(1), x_ * (x_ * g), outside);
    }

   private:
    const T x_, alpha_;
    const math::Pair<T> v_;
  };
};

}  // namespace activations
}  // namespace fastlayers::FL_NAMESPACE
