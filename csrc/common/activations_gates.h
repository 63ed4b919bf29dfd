// Activations x g(x) with a smooth gate g.
#pragma once

#include "activations_base.h"

namespace fastlayers::FL_NAMESPACE {
namespace activations {

// x s(x) = max(x, 0) - |x| e / (1 + e) with e = exp(-|x|): the second term is small where x > 0 and all there is where x < 0.
struct silu : FromInput<0, 0> {
  template <class T> FL_HD static T forward(T x, const T*) {
    const T magnitude = math::bounded_magnitude(x);
    const math::Decay<T> e(-magnitude);
    return e.share_less(maximum(T(0), x), magnitude, e.added_to(T(1)));
  }
  template <class T> FL_HD static T derivative(T x, const T*, T*) {
    const T magnitude = math::bounded_magnitude(x);
    const math::Decay<T> e(-magnitude);
    const T sum = e.added_to(T(1)), rest = e.value() * (sum - magnitude) / (sum * sum);  // of the second term
    return select(x < T(0), rest, T(1) - rest);
  }
};

// x Phi(x) = max(x, 0) - |x| (1 - Phi(|x|)), Phi the normal distribution.
template <template <class> class Tail> struct GeluWith : FromInput<0, 0> {
  template <class T> FL_HD static T forward(T x, const T*) { return Tail<T>(x).moment_less(maximum(T(0), x)); }
  template <class T> FL_HD static T derivative(T x, const T*, T*) {
    const T rest = Tail<T>(x).moment_derivative();
    return select(x < T(0), rest, T(1) - rest);
  }
};
struct gelu : GeluWith<math::NormalTail> {};

// x s(v) with v = 2 sqrt(2 / pi) (x + 0.044715 x^3). Far out exp(v) magnifies v's rounding error a hundredfold, so forward corrects
// for it: v is kept as value + error.
struct gelu_tanh : FromInput<0, 0> {
  template <class T> FL_HD static T forward(T x, const T*) {
    const T bounded = bound(x);
    const Argument<T> v(bounded);
    const math::Logistic<T> parts(v.value);
    const T negative = bounded * multiply_add(parts.larger * v.error, parts.larger, parts.larger);
    return select(x < T(0), parts.decay.times(negative), x * parts.larger);
  }
  template <class T> FL_HD static T derivative(T x, const T*, T*) {
    const T bounded = bound(x);
    const math::Logistic<T> parts(Argument<T>(bounded).value);
    const T slope = multiply_add(bounded * bounded, T(3 * Constant<T>(cubic)), T(Constant<T>(linear)));
    return multiply_add(bounded * slope, parts.larger * parts.smaller, select(x < T(0), parts.smaller, parts.larger));
  }

 protected:
  static constexpr double linear = 1.5957691216057307118;  // 2 sqrt(2 / pi)
  static constexpr double cubic = 0.071354816272600248776;  // 0.044715 times that

 private:
  template <class T> static constexpr int outermost = is_double<T> ? 25 : 20;  // from here on the result is 0 or x
  template <class T> FL_HD static T bound(T x) { return minimum(T(outermost<T>), maximum(T(-outermost<T>), x)); }

  template <class T> struct Argument {
    T value, error;

    FL_HD explicit Argument(T x) : error(0) {
      const T a(static_cast<Constant<T>>(linear)), b(static_cast<Constant<T>>(cubic));
      const T square = x * x, term = b * square, factor = a + term;
      value = x * factor;
      if constexpr (!is_double<T>) {
        const T a_low(static_cast<float>(linear - static_cast<float>(linear)));
        const T b_low(static_cast<float>(cubic - static_cast<float>(cubic)));
        const T term_error = multiply_subtract_once(b, square, term) + (b * multiply_subtract_once(x, x, square) + b_low * square);
        const T rounded_term = factor - a;
        const T factor_error = ((a - (factor - rounded_term)) + (term - rounded_term)) + (term_error + a_low);
        error = multiply_add(x, factor_error, multiply_subtract_once(x, factor, value));
      }
    }
  };
};

// With e = exp(x): tanh(log(1 + e)) = e u, u = (e + 2) / d, d = e (e + 2) + 2. It is 1 to all digits from `open` on.
struct mish : FromInput<0, 0> {
  template <class T> FL_HD static T forward(T x, const T*) {
    const Parts<T> parts(x);
    return select(x > T(open<T>), x, parts.power.times(parts.u * parts.bounded));
  }
  template <class T> FL_HD static T derivative(T x, const T*, T*) {
    const Parts<T> parts(x);
    const T bend = T(4) * parts.bounded * (parts.e + T(1)) * parts.inverse;
    return select(x > T(open<T>), T(1), parts.power.times(multiply_add(bend, parts.inverse, parts.u)));
  }

 private:
  template <class T> static constexpr int open = is_double<T> ? 20 : 15;

  template <class T> struct Parts {
    const T bounded;
    const math::Decay<T> power;
    const T e, inverse, u;

    FL_HD explicit Parts(T x)
        : bounded(minimum(T(open<T>), maximum(T(-math::decay_bound<T>), x))), power(bounded), e(power.value()),
          inverse(T(1) / multiply_add(e, e + T(2), T(2))), u((e + T(2)) * inverse) {}
  };
};

// x s(v) and its derivatives, v the product of x and a factor, with more than float's precision since exp magnifies its error.
template <class T> class SigmoidGated {
 public:
  FL_HD SigmoidGated(T x, math::Pair<T> v)
      : x_(x), bounded_(select(absolute(v.value) < T(math::decay_bound<T>), x, T(0))), negative_(v.value < T(0)), parts_(v) {}

  FL_HD T value() const {
    const T left = select(parts_.magnitude < T(64), x_ * parts_.smaller, parts_.decay.times(bounded_ * parts_.larger));
    return select(negative_, left, x_ * parts_.larger);
  }
  // d(x s(v)) / dx = s(v) + v s(v) s(-v)
  FL_HD T slope() const {
    const T rest = multiply_add(-parts_.magnitude * parts_.larger, parts_.smaller, parts_.smaller);
    return select(negative_, rest, T(1) - rest);
  }
  // d(x s(v)) / d(v / x) = x^2 s(v) s(-v)
  FL_HD T factor_slope() const {
    const T near = x_ * (x_ * (parts_.smaller * parts_.larger));
    return select(parts_.magnitude < T(64), near, parts_.decay.times(bounded_ * (bounded_ * parts_.larger)));
  }

 private:
  const T x_, bounded_;
  const decltype(T() < T()) negative_;
  const math::Logistic<T> parts_;
};

// p: beta
struct swish : FromInput<1, 0> {
  template <class T> FL_HD static T forward(T x, const T* p) { return SigmoidGated<T>(x, math::exact_product(p[0], x)).value(); }
  template <class T> FL_HD static T derivative(T x, const T* p, T* dp) {
    const SigmoidGated<T> gated(x, math::exact_product(p[0], x));
    dp[0] = gated.factor_slope();
    return gated.slope();
  }
};

struct quick_gelu : FromInput<0, 0> {
  template <class T> FL_HD static T forward(T x, const T*) { return SigmoidGated<T>(x, scaled(x)).value(); }
  template <class T> FL_HD static T derivative(T x, const T*, T*) { return SigmoidGated<T>(x, scaled(x)).slope(); }

 protected:
  static constexpr double factor = 1.702;

 private:
  template <class T> FL_HD static math::Pair<T> scaled(T x) {
    constexpr Constant<T> high = static_cast<Constant<T>>(factor), low = static_cast<Constant<T>>(factor - high);
    const math::Pair<T> product = math::exact_product(T(high), x);
    return {product.value, multiply_add(T(low), select(absolute(product.value) < T(infinity<T>), x, T(0)), product.low)};
  }
};

}  // namespace activations
}  // namespace fastlayers::FL_NAMESPACE
