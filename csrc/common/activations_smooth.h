// Smooth activations: those made of exp, sin, atan or a square root.
#pragma once

#include "activations_base.h"

namespace fastlayers::FL_NAMESPACE {
namespace activations {

struct sigmoid : FromOutput<0, 0> {
  template <class T> FL_HD static T forward(T x, const T*) { return math::sigmoid(x); }
  template <class T> FL_HD static T derivative(T x, const T*, T*) { return math::logistic_density(x); }
  template <class T> FL_HD static T derivative_from_output(T y, const T*) { return y * (T(1) - y); }
};

// f' = 4 s(2x) s(-2x), s the logistic sigmoid: no cancellation where f nears 1.
struct tanh : FromOutput<0, 0> {
  template <class T> FL_HD static T forward(T x, const T*) { return math::tanh(x); }
  template <class T> FL_HD static T derivative(T x, const T*, T*) { return T(4) * math::logistic_density(x + x); }
  template <class T> FL_HD static T derivative_from_output(T y, const T*) { return T(1) - y * y; }
};

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

// p: alpha
struct elu : Invertible<FromOutput<0, 1>> {
  template <class T> FL_HD static T inverse(T y, const T* p) { return select(y > T(0), y, math::bounded_log1p(minimum(T(0), y) / p[0])); }
  template <class T> FL_HD static T forward(T x, const T* p) { return select(x > T(0), x, p[0] * math::expm1(minimum(T(0), x))); }
  template <class T> FL_HD static T derivative(T x, const T* p, T*) {
    return select(x > T(0), T(1), math::Decay<T>(-math::bounded_magnitude(x)).times(p[0]));
  }
  template <class T> FL_HD static T derivative_from_output(T y, const T* p) { return select(y > T(0), T(1), y + p[0]); }
};

struct selu : Invertible<FromOutput<0, 0>> {
  template <class T> FL_HD static T inverse(T y, const T*) {
    const T left = math::bounded_log1p(minimum(T(0), y) / T(Constant<T>(scale_alpha)));
    return select(y > T(0), y / T(Constant<T>(scale)), left);
  }
  template <class T> FL_HD static T forward(T x, const T*) {
    return select(x > T(0), T(Constant<T>(scale)) * x, T(Constant<T>(scale_alpha)) * math::expm1(minimum(T(0), x)));
  }
  template <class T> FL_HD static T derivative(T x, const T*, T*) {
    const T left = math::Decay<T>(-math::bounded_magnitude(x)).times(T(Constant<T>(scale_alpha)));
    return select(x > T(0), T(Constant<T>(scale)), left);
  }
  template <class T> FL_HD static T derivative_from_output(T y, const T*) {
    constexpr Constant<T> high = static_cast<Constant<T>>(scale_alpha), low = static_cast<Constant<T>>(scale_alpha - high);
    return select(y > T(0), T(Constant<T>(scale)), (y + T(high)) + T(low));
  }

 protected:
  static constexpr double scale = 1.0507009873554804934193349852946;
  static constexpr double scale_alpha = 1.7580993408473768599402175208123;
};

// p: alpha
struct celu : Invertible<FromOutput<0, 1>> {
  template <class T> FL_HD static T inverse(T y, const T* p) {
    return select(y > T(0), y, p[0] * math::bounded_log1p(minimum(T(0), y) / p[0]));
  }
  template <class T> FL_HD static T forward(T x, const T* p) {
    return select(x > T(0), x, p[0] * math::expm1(math::exact_quotient(minimum(T(0), x), p[0])));
  }
  template <class T> FL_HD static T derivative(T x, const T* p, T*) {
    return select(x > T(0), T(1), math::times_exp(T(1), math::exact_quotient(minimum(T(0), x), p[0])));
  }
  template <class T> FL_HD static T derivative_from_output(T y, const T* p) { return select(y > T(0), T(1), y / p[0] + T(1)); }
};

// p: beta, threshold
struct softplus : Invertible<FromInput<0, 2>> {
  template <class T> FL_HD static T inverse(T y, const T* p) {
    const T scaled = p[0] * y;
    const T share = maximum(T(0x1p-100f), -math::expm1(-maximum(T(0), scaled)));  // of exp(beta x) in 1 + exp(beta x)
    return select(scaled > p[1], y, y + math::log(share) / p[0]);
  }
  template <class T> FL_HD static T forward(T x, const T* p) {
    const math::Pair<T> scaled = math::exact_product(p[0], x);
    return select(scaled.value > p[1], x, math::softplus(scaled) * (T(1) / p[0]));
  }
  template <class T> FL_HD static T derivative(T x, const T* p, T*) {
    const math::Pair<T> scaled = math::exact_product(p[0], x);
    const math::Logistic<T> parts(scaled);
    return select(scaled.value > p[1], T(1), select(scaled.value < T(0), parts.smaller, parts.larger));
  }
};

struct log_sigmoid : FromOutput<0, 0> {
  template <class T> FL_HD static T forward(T x, const T*) { return -math::softplus(math::Pair<T>{-x, T(0)}); }
  template <class T> FL_HD static T derivative(T x, const T*, T*) { return math::sigmoid(-x); }
  template <class T> FL_HD static T derivative_from_output(T y, const T*) { return -math::expm1(y); }
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
template <class T> class Gated {
 public:
  FL_HD Gated(T x, math::Pair<T> v)
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
  template <class T> FL_HD static T forward(T x, const T* p) { return Gated<T>(x, math::exact_product(p[0], x)).value(); }
  template <class T> FL_HD static T derivative(T x, const T* p, T* dp) {
    const Gated<T> gated(x, math::exact_product(p[0], x));
    dp[0] = gated.factor_slope();
    return gated.slope();
  }
};

struct quick_gelu : FromInput<0, 0> {
  template <class T> FL_HD static T forward(T x, const T*) { return Gated<T>(x, scaled(x)).value(); }
  template <class T> FL_HD static T derivative(T x, const T*, T*) { return Gated<T>(x, scaled(x)).slope(); }

 protected:
  static constexpr double factor = 1.702;

 private:
  template <class T> FL_HD static math::Pair<T> scaled(T x) {
    constexpr Constant<T> high = static_cast<Constant<T>>(factor), low = static_cast<Constant<T>>(factor - high);
    const math::Pair<T> product = math::exact_product(T(high), x);
    return {product.value, multiply_add(T(low), select(absolute(product.value) < T(infinity<T>), x, T(0)), product.low)};
  }
};

struct tanhshrink : FromInput<0, 0> {
  template <class T> FL_HD static T forward(T x, const T*) { return math::tanhshrink(x); }
  template <class T> FL_HD static T derivative(T x, const T*, T*) {
    const T y = math::tanh(x);
    return y * y;
  }
};

struct arctan : FromInput<0, 0> {
  template <class T> FL_HD static T forward(T x, const T*) { return math::atan(x); }
  // 1 / (1 + x^2); far out x^2 would overflow, and the 1 does not count.
  template <class T> FL_HD static T derivative(T x, const T*, T*) {
    constexpr Constant<T> step = static_cast<Constant<T>>(is_double<T> ? 0x1p512 : 0x1p64);
    const auto far = absolute(x) > T(0x1p60f);
    const T scale = select(far, T(1 / step), T(1)), scaled = x * scale;
    return T(1) / multiply_add(scaled, scaled, select(far, T(0), T(1))) * scale * scale;
  }
};

struct softsign : FromInput<0, 0> {
  template <class T> FL_HD static T forward(T x, const T*) {
    const T bounded = math::finite(x);
    return bounded / (T(1) + absolute(bounded));
  }
  template <class T> FL_HD static T derivative(T x, const T*, T*) {
    const T inverse = T(1) / (T(1) + absolute(x));
    return inverse * inverse;
  }
};

// p: alpha
struct isru : FromInput<0, 1> {
  // Where |x| > 1, numerator and denominator are divided by |x|: nothing overflows.
  template <class T> FL_HD static T forward(T x, const T* p) {
    const T magnitude = absolute(x), inverse = T(1) / magnitude;
    const auto far = magnitude > T(1);
    const T square = multiply_add(select(far, inverse, p[0] * magnitude), select(far, inverse, magnitude), select(far, p[0], T(1)));
    return with_sign_of(select(far, T(1), magnitude) / square_root(square), x);
  }
  // Where |x| > 2^30, x is scaled down by 2^40, and the 1 with it.
  template <class T> FL_HD static T derivative(T x, const T* p, T*) {
    const auto far = absolute(x) > T(0x1p30f);
    const T scale = select(far, T(0x1p-40f), T(1)), scaled = x * scale;
    const T square = multiply_add(p[0] * scaled, scaled, scale * scale);
    return T(1) / (square * square_root(square)) * select(far, T(0x1p-120f), T(1));
  }
};

// p: alpha
struct isrlu : Invertible<FromInput<0, 1>> {
  template <class T> FL_HD static T inverse(T y, const T* p) {
    const T reached = square_root(p[0]) * absolute(y);
    const T left = maximum(T(math::half_unit<T>), (T(1) - reached) * (T(1) + reached));
    return select(y >= T(0), y, y / square_root(left));
  }
  template <class T> FL_HD static T forward(T x, const T* p) { return select(x >= T(0), x, isru::forward(x, p)); }
  template <class T> FL_HD static T derivative(T x, const T* p, T* dp) {
    return select(x >= T(0), T(1), isru::derivative(x, p, dp));
  }
};

// With r = sqrt(x^2 + 1), (r - 1) / 2 + x is x (1 + t), t = |x| / (2 (r + 1)) with x's sign, and, far out, x + |x| / 2 - 1/2 and a little.
struct bent_identity : Invertible<FromInput<0, 0>> {
  // With w = y + 1/2, x = (4 w - sqrt(4 w^2 + 3)) / 3.
  template <class T> FL_HD static T inverse(T y, const T*) {
    const T w = y + T(0.5f), near = maximum(T(-0x1p30f), minimum(T(0x1p30f), w));
    const T length = square_root(multiply_add(T(4) * near, near, T(3)));
    const T small = T(4) * y * (y + T(1)) / (T(4) * near + length), middle = (T(4) * near - length) / T(3);
    return select(absolute(y) < T(0.5f), small, select(near == w, middle, select(y > T(0), y / T(1.5f), y + y)));
  }
  template <class T> FL_HD static T forward(T x, const T*) {
    const T magnitude = bounded(x);
    const T length = root(magnitude), near = x * (T(1) + with_sign_of(T(0.5f) * magnitude / (length + T(1)), x));
    const T away = absolute(x);
    const math::Pair<T> line = math::exact_sum(select(x > T(0), T(1.5f), T(-0.5f)) * away, T(-0.5f));
    const T far = line.value + (line.low + T(0.5f) / (length + magnitude));
    return select(magnitude < T(1), near, select(absolute(line.value) < T(infinity<T>), far, line.value));
  }
  template <class T> FL_HD static T derivative(T x, const T*, T*) {
    const T magnitude = bounded(x);
    return T(1) + with_sign_of(T(0.5f) * magnitude / root(magnitude), x);
  }

 private:
  template <class T> FL_HD static T bounded(T x) { return minimum(T(0x1p60f), absolute(x)); }
  template <class T> FL_HD static T root(T magnitude) { return square_root(multiply_add(magnitude, magnitude, T(1))); }
};

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
