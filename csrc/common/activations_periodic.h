// Activations made of sines.
#pragma once

#include "activations_base.h"

namespace fastlayers::FL_NAMESPACE {
namespace activations {

struct sinusoid : FromInput<0, 0> {
  template <class T> FL_HD static T forward(T x, const T*) { return math::Angle<T>(x).sin(); }
  template <class T> FL_HD static T derivative(T x, const T*, T*) { return math::Angle<T>(x).cos(); }
};

struct sinc : FromInput<0, 0> {
  template <class T> FL_HD static T forward(T x, const T*) {
    return select(x == T(0), T(1), at_infinity(x, math::Angle<T>(x).sin() / x));
  }
  template <class T> FL_HD static T derivative(T x, const T*, T*) {
    const math::Angle<T> angle(x);
    const T outside = at_infinity(x, (angle.cos() - angle.sin() / x) / x);
    return select(absolute(x) < T(is_double<T> ? 1 : 2), x * series(x * x), outside);
  }

 private:
  template <class T> FL_HD static T at_infinity(T x, T otherwise) { return select(absolute(x) == T(infinity<T>), T(0), otherwise); }
  // f'(x) / x in powers of x^2: 2 k / (2 k + 1)! with changing signs; for float a minimax polynomial for |x| <= 2.
  template <class T> FL_HD static T series(T square) {
    if constexpr (is_double<T>) {
      return math::polynomial(square, -1.0 / 3, 1.0 / 30, -1.0 / 840, 1.0 / 45360, -1.0 / 3991680, 1.0 / 518918400,
                              -1.0 / 93405312000, 1.0 / 22230464256000, -1.0 / 6758061133824000);
    } else {
      return math::polynomial(square, -0.333333343f, 0.0333333313f, -0.00119047496f, 2.20446364e-05f, -2.49945742e-07f, 1.80051951e-09f);
    }
  }
};

// p: alpha
struct snake : FromInput<1, 0> {
  template <class T> FL_HD static T forward(T x, const T* p) {
    const math::Pair<T> added = math::exact_quotient(math::Angle<T>(p[0], x).squared_sin(), p[0]);
    const T y = (x + added.value) + added.low;
    return select(vanishes(p[0]) | (absolute(x) == T(infinity<T>)), x, y);
  }
  // f' = (sin(u) + cos(u))^2 and df/dalpha = q (2 x cos(u) - q), u = alpha x and q = sin(u) / alpha.
  template <class T> FL_HD static T derivative(T x, const T* p, T* dp) {
    const math::Angle<T> angle(p[0], x);
    const T sine = angle.sin(), cosine = angle.cos(), sum = sine + cosine;
    const T q = select(vanishes(p[0]), x, sine * (T(1) / p[0])), turned = x * cosine;
    dp[0] = multiply_add(q, turned, q * (turned - q));
    return sum * sum;
  }

 protected:
  // alpha is nearly 0, and its reciprocal may be infinite.
  template <class T> FL_HD static auto vanishes(T alpha) { return absolute(alpha) < T(FLT_MIN); }
};

}  // namespace activations
}  // namespace fastlayers::FL_NAMESPACE
