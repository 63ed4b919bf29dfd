// The activations: one functor each, under the name of its row in fastlayers/specs.py, for any number type T of math.h.
//
// forward(x, p) is f(x). derivative(x, p, dp) returns df/dx and writes df/d(parameter k) to dp[k]. Functors that derive
// FromOutput also have derivative_from_output(y, p), df/dx from y = f(x), and those that are Invertible inverse(y, p), an x with
// f(x) = y, finite where y is. p holds the learnable parameters, then the constants.
// A new activation is one functor and one word in FL_ACTIVATIONS; every loop, on CPU and GPU, picks it up from there.
#pragma once

#include "math.h"

#define FL_ACTIVATIONS(X) X(identity) X(relu) X(leaky_relu) X(sigmoid) X(tanh) X(silu) X(gelu) X(gelu_tanh) X(prelu)

namespace fastlayers::FL_NAMESPACE {
namespace activations {

template <int learnable_count, int constant_count> struct FromInput {
  static constexpr int learnables = learnable_count;
  static constexpr int constants = constant_count;
  static constexpr bool from_output = false;
  static constexpr bool invertible = false;
  static constexpr bool reads_output = false;
};
template <int learnable_count, int constant_count> struct FromOutput : FromInput<learnable_count, constant_count> {
  static constexpr bool from_output = true;
};

template <class Base> struct Invertible : Base {
  static constexpr bool invertible = true;
};

struct identity : Invertible<FromOutput<0, 0>> {
  template <class T> FL_HD static T forward(T x, const T*) { return x; }
  template <class T> FL_HD static T derivative(T, const T*, T*) { return T(1); }
  template <class T> FL_HD static T derivative_from_output(T, const T*) { return T(1); }
  template <class T> FL_HD static T inverse(T y, const T*) { return y; }
};

struct relu : FromOutput<0, 0> {
  template <class T> FL_HD static T forward(T x, const T*) { return select(x <= T(0), T(0), x); }
  template <class T> FL_HD static T derivative(T x, const T*, T*) { return select(x <= T(0), T(0), T(1)); }  // 1 at NaN, as torch
  template <class T> FL_HD static T derivative_from_output(T y, const T*) { return select(y <= T(0), T(0), T(1)); }
};

// p: negative_slope
struct leaky_relu : Invertible<FromOutput<0, 1>> {
  template <class T> FL_HD static T forward(T x, const T* p) { return select(x > T(0), x, x * p[0]); }
  template <class T> FL_HD static T derivative(T x, const T* p, T*) { return select(x > T(0), T(1), p[0]); }
  template <class T> FL_HD static T derivative_from_output(T y, const T* p) { return select(y > T(0), T(1), p[0]); }
  template <class T> FL_HD static T inverse(T y, const T* p) { return select(y > T(0), y, y / p[0]); }
};

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

// x s(x) = max(x, 0) - |x| s(-|x|): the second term is small where x > 0 and all there is where x < 0.
struct silu : FromInput<0, 0> {
  template <class T> FL_HD static T forward(T x, const T*) {
    const math::Logistic<T> parts(x);
    return maximum(T(0), x) - parts.decay.times(parts.magnitude * parts.larger);
  }
  template <class T> FL_HD static T derivative(T x, const T*, T*) {
    const math::Logistic<T> parts(x);
    const T rest = multiply_add(-parts.magnitude * parts.larger, parts.smaller, parts.smaller);  // of the second term
    return select(x < T(0), rest, T(1) - rest);
  }
};

// x Phi(x) = max(x, 0) - |x| (1 - Phi(|x|)), Phi the normal distribution.
struct gelu : FromInput<0, 0> {
  template <class T> FL_HD static T forward(T x, const T*) { return maximum(T(0), x) - math::NormalTail<T>(x).moment(); }
  template <class T> FL_HD static T derivative(T x, const T*, T*) {
    const T rest = math::NormalTail<T>(x).moment_derivative();
    return select(x < T(0), rest, T(1) - rest);
  }
};

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

 private:
  static constexpr double linear = 1.5957691216057307118;  // 2 sqrt(2 / pi)
  static constexpr double cubic = 0.071354816272600248776;  // 0.044715 times that

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

// p: weight
struct prelu : Invertible<FromInput<1, 0>> {
  template <class T> FL_HD static T forward(T x, const T* p) { return select(x > T(0), x, x * p[0]); }
  template <class T> FL_HD static T inverse(T y, const T* p) { return select(y > T(0), y, y / p[0]); }
  template <class T> FL_HD static T derivative(T x, const T* p, T* dp) {
    dp[0] = select(x > T(0), T(0), x);
    return select(x > T(0), T(1), p[0]);
  }
};

}  // namespace activations

// The position of each name in FL_ACTIVATIONS: activation_identity, activation_relu, ...
enum ActivationPosition {
#define FL_POSITION(name) activation_##name,
  FL_ACTIVATIONS(FL_POSITION)
#undef FL_POSITION
};

// What the loops need room for.
constexpr int max_learnables = 4;
constexpr int max_arguments = 8;

}  // namespace fastlayers::FL_NAMESPACE
