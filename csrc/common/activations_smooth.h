// Smooth activations that saturate or turn linear.
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

}  // namespace activations
}  // namespace fastlayers::FL_NAMESPACE
