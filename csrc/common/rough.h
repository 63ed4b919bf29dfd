// Elementary functions for floats that will be rounded to 16 bits: relative error 5e-7, beside what the rounding of arguments makes of it.
//
// T is float or a vector of floats. The ten functions that stand first are made of a GPU's own approximations there, and elsewhere of
// arithmetic that is the same bits on every processor with fused multiply-add; all that follows is made of them, the same for both.
#pragma once

#include "exponentials.h"
#include "trigonometry.h"

namespace fastlayers::FL_NAMESPACE {
namespace math {

#if defined(__CUDA_ARCH__)

// The larger and the smaller of two numbers; NaN where x is.
__device__ __forceinline__ float at_least(float x, float bound) {
  float larger;
  asm("max.NaN.f32 %0, %1, %2;" : "=f"(larger) : "f"(x), "f"(bound));
  return larger;
}
__device__ __forceinline__ float at_most(float x, float bound) {
  float smaller;
  asm("min.NaN.f32 %0, %1, %2;" : "=f"(smaller) : "f"(x), "f"(bound));
  return smaller;
}

// x between -most and most; NaN where x is.
__device__ __forceinline__ float within(float x, float most) { return at_least(at_most(x, most), -most); }

// 2^(factor x), |factor x| <= 126.
__device__ __forceinline__ float rough_power(float x, float factor) {
  float power;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(power) : "f"(x * factor));
  return power;
}

// exp(factor x), |factor x| <= 150, from 0 to infinity.
__device__ __forceinline__ float rough_exponential(float x, float factor = 1.0f) {
  float power;
  asm("ex2.approx.f32 %0, %1;" : "=f"(power) : "f"(x * (factor * 1.44269504f)));
  return power;
}

// a / b; 0 where 1 / b is below the normal numbers.
__device__ __forceinline__ float rough_quotient(float a, float b) {
  float inverse;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(inverse) : "f"(b));
  return a * inverse;
}

// cos(r) for |r| <= pi / 2, with an absolute error of 7e-7.
__device__ __forceinline__ float rough_cosine_near(float r) {
  float cosine;
  asm("cos.approx.ftz.f32 %0, %1;" : "=f"(cosine) : "f"(r));
  return cosine;
}

__device__ __forceinline__ float rough_square_root(float x) {
  float root;
  asm("sqrt.approx.ftz.f32 %0, %1;" : "=f"(root) : "f"(x));
  return root;
}

// Of numbers side by side.
template <class T> __device__ __forceinline__ T at_least(const T& x, float bound) {
  return x.each([=](float lane) { return at_least(lane, bound); });
}
template <class T> __device__ __forceinline__ T within(const T& x, const T& most) {
  T result;
#pragma unroll
  for (int i = 0; i < T::size; ++i) result.lanes[i] = within(x[i], most[i]);
  return result;
}
template <class T> __device__ __forceinline__ T rough_exponential(const T& x) {
  return x.each([](float lane) { return rough_exponential(lane); });
}
template <class T> __device__ __forceinline__ T rough_cosine_near(const T& r) {
  return r.each([](float lane) { return rough_cosine_near(lane); });
}
template <class T> __device__ __forceinline__ T rough_quotient(const T& a, const T& b) {
  return a * b.each([](float lane) { return rough_quotient(1.0f, lane); });
}

// exp(x) - 1 for any x.
__device__ __forceinline__ float rough_expm1(float x) {
  const float near = multiply_add(x * x, polynomial(x, 0.499999821f, 0.166661352f, 0.0416689701f, 0.0084023932f, 0.00138757459f), x);
  return select(absolute(x) < 0.5f, near, rough_power(x, 1.44269504f) - 1.0f);
}

__device__ __forceinline__ float rough_tanh(float x) {
  const float square = x * x, power = rough_power(absolute(x), 2.88539008f);
  const float near = multiply_add(x * square, polynomial(square, -0.333325982f, 0.133131161f, -0.0522117913f, 0.0156126115f), x);
  return select(absolute(x) < 0.6f, near, with_sign_of(1.0f - rough_quotient(2.0f, power + 1.0f), x));
}

#else

template <class T> FL_HD T at_least(T x, float bound) { return maximum(T(bound), x); }
template <class T> FL_HD T at_most(T x, float bound) { return minimum(T(bound), x); }
template <class T> FL_HD T within(T x, T most) { return maximum(-most, minimum(most, x)); }
template <class T> FL_HD T rough_power(T x, float factor) {
  const T shifter = exponent_shifter<T>(0), shifted = multiply_add(x, T(factor), shifter);
  const T rest = multiply_add(x, T(factor), shifter - shifted);
  return power_from_shifted(shifted) *
         polynomial(rest, 1.0f, 0.693147004f, 0.240222424f, 0.0555073358f, 0.00967151299f, 0.00132647273f);
}
template <class T> FL_HD T rough_exponential(T x, float factor = 1.0f) {
  const T root = rough_power(x, factor * 0.721347520f);
  return root * root;
}
template <class T> FL_HD T rough_quotient(T a, T b) { return a / b; }
template <class T> FL_HD T rough_cosine_near(T r) {
  const T square = r * r;
  return multiply_add(square, multiply_add(square, polynomial(square, 0.0416654311f, -0.00138651382f, 2.33766132e-05f), T(-0.5f)), T(1.0f));
}
template <class T> FL_HD T rough_square_root(T x) { return square_root(x); }
template <class T> FL_HD T rough_expm1(T x) { return expm1(x); }
template <class T> FL_HD T rough_tanh(T x) { return tanh(x); }

#endif

// Where the logistic sigmoid s(x), times x, is 0 in all 16-bit types, and where s(x) is 1 in float.
constexpr float logistic_closed = -104.0f, logistic_open = 45.0f;
template <class T> FL_HD T logistic_bounded(T x) { return at_most(at_least(x, logistic_closed), logistic_open); }

// s(x) = 1 / (1 + exp(-x)) for logistic_closed <= x <= logistic_open.
template <class T> FL_HD T rough_sigmoid(T x) {
  const T e = rough_exponential(x);
  return rough_quotient(e, e + T(1.0f));
}

// s(x) and s(-x), likewise.
template <class T> struct RoughLogistic {
  T value, rest;

  FL_HD explicit RoughLogistic(T x) {
    const T e = rough_exponential(x);
    rest = rough_quotient(T(1.0f), e + T(1.0f));
    value = e * rest;
  }
};

// log(1 + e) for 0 <= e <= 1.
template <class T> FL_HD T rough_log1p(T e) {
  const T tail = polynomial(e, -0.499981791f, 0.332840621f, -0.24536851f, 0.17847164f, -0.109022252f, 0.0449861586f, -0.00877881702f);
  return multiply_add(e * e, tail, e);
}

// log(1 + exp(x)).
template <class T> FL_HD T rough_softplus(T x) {
  return at_least(x, 0.0f) + rough_log1p(rough_exponential(at_most(absolute(x), 150.0f), -1.0f));
}

// x - tanh(x).
template <class T> FL_HD T rough_tanhshrink(T x) {
  const T magnitude = absolute(x), square = x * x, bounded = at_most(magnitude, 15.0f);
  const T power = rough_power(bounded, 2.88539008f), far = (magnitude - T(1.0f)) + rough_quotient(T(2.0f), power + T(1.0f));
  const T tail = polynomial(square, 0.333333313f, -0.133331284f, 0.0539348274f, -0.0216602758f, 0.00821922719f, -0.00251072831f,
                            0.000420784432f);
  return select(magnitude < T(1.0f), x * square * tail, with_sign_of(far, x));
}

// NormalTail, with an error of 1e-6, but none at 0 and where moment_derivative() is 0. The tail is exp(-a^2 / 2) times a polynomial in
// 1 / (a + 2.75).
template <class T> struct RoughNormalTail {
  const T magnitude, decay;
  T factor;

  FL_HD explicit RoughNormalTail(T x) : magnitude(at_most(absolute(x), 15.0f)), decay(rough_exponential(magnitude * magnitude, -0.5f)) {
    const T inverse = rough_quotient(T(1.0f), magnitude + T(2.75f));
    factor = inverse * polynomial(inverse, 0.399132699f, 1.08607221f, 2.87419844f, 1.91577613f, 26.5502167f, -76.5367508f, 56.7273369f);
  }
  FL_HD T moment_less(T number) const { return number - magnitude * factor * decay; }
  FL_HD T moment_derivative() const { return multiply_add(magnitude, T(-0.3989422804f), factor) * decay; }
};

// x = turns pi + rest, where turns is a whole number, odd as `parity` is, or with `shifted` one and a half; |x| <= largest_reduced.
template <class T, bool shifted> struct HalfTurns {
  decltype(float_as_int(T())) parity;
  T rest;

  FL_HD explicit HalfTurns(T x) {
    const T shifter(12582912.0f);  // 1.5 * 2^23: adding it rounds to a whole number
    const T number = shifted ? multiply_add(x, T(0.318309886f), T(0.5f)) + shifter : multiply_add(x, T(0.318309886f), shifter);
    const T turns = shifted ? (number - shifter) - T(0.5f) : number - shifter;
    parity = float_as_int(number);
    // pi in two floats, of which the first difference is exact
    rest = multiply_subtract_once(turns, T(8.74227766e-8f), -multiply_subtract_once(turns, T(-3.14159274f), -x));
  }
};

// sin(r) for |r| <= pi / 2.
template <class T> FL_HD T rough_sine_near(T r) {
  const T square = r * r;
  return multiply_add(r * square, polynomial(square, -0.166666597f, 0.00833306462f, -0.000198094742f, 2.60548131e-06f), r);
}

// In place of `value` where |x| > largest_reduced: the sine or cosine of x, and at infinity `limit`.
template <bool cosine> FL_HD void replace_far(float x, float limit, float& value) {
  if (!(absolute(x) > largest_reduced)) return;
  const SineCosine far = far_sine_cosine(x);
  value = absolute(x) < infinity<float> ? cosine ? far.cosine : far.sine : limit;
}
template <bool cosine, class T> FL_APART_FOR_VECTORS void replace_far(T x, float limit, T& value) {
  for (int i = 0; i < T::size; ++i) {
    float lane = value[i];
    replace_far<cosine>(x[i], limit, lane);
    value.set(i, lane);
  }
}

// sin(x) or cos(x) for any x.
template <bool cosine, class T> FL_HD T rough_sine_or_cosine(T x, float limit) {
  const HalfTurns<T, cosine> angle(x);
  T value = negated_if_odd(rough_sine_near(angle.rest), angle.parity);
  if (any(absolute(x) > T(largest_reduced))) replace_far<cosine>(x, limit, value);
  return value;
}
template <class T> FL_HD T rough_sine(T x, float limit) { return rough_sine_or_cosine<false>(x, limit); }
template <class T> FL_HD T rough_cosine(T x, float limit) { return rough_sine_or_cosine<true>(x, limit); }

// sin(a x) and cos(a x), the product not rounded; both with the other sign where parity is odd. NaN at infinity.
template <class T> struct RoughAngle {
  T sine, cosine;
  decltype(float_as_int(T())) parity;

  FL_HD explicit RoughAngle(T x) : RoughAngle(T(1.0f), x) {}
  FL_HD RoughAngle(T a, T x) {
    const T shifter(12582912.0f), number = multiply_add(x, a * T(0.318309886f), shifter), turns = number - shifter;
    parity = float_as_int(number);
    // pi in two floats, the first so short that times it whole numbers up to 2^16 are exact
    const T rest = multiply_add(turns, T(-9.67653590e-4f), multiply_subtract_once(a, x, turns * T(3.140625f)));
    sine = rough_sine_near(rest);
    cosine = rough_cosine_near(rest);
    if (any_beyond(turns, most_turns)) replace_far(a, x, parity, sine, cosine);
  }

 private:
  static constexpr float most_turns = 41720.0f;  // largest_reduced is pi times one and a half more
};

}  // namespace math
}  // namespace fastlayers::FL_NAMESPACE
