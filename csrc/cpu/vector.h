// Vector<Scalar>: as many float, double, int32_t or uint64_t as one register holds, with the operators of a number.
//
// Built on the vector extension of GCC and Clang: the same source serves SSE2, AVX2, AVX-512 and any other architecture. Only what
// the extension cannot say (fused multiply-add, square root) is an intrinsic. Comparisons give a Mask; select(mask, a, b) uses it.
#pragma once

#include "../common/platform.h"

#if defined(__x86_64__)
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wuninitialized"  // GCC 12 warns of its own _mm512_undefined_ps
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#include <immintrin.h>
#pragma GCC diagnostic pop
#endif

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512VL__) && defined(__AVX512DQ__)
#define FL_AVX512 1
#define FL_VECTOR_BYTES 64
#elif defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)
#define FL_AVX2 1
#define FL_VECTOR_BYTES 32
#else
#define FL_VECTOR_BYTES 16
#endif

namespace fastlayers::FL_CPU_CAPABILITY {

template <class Scalar> struct Native;
template <> struct Native<float> {
  typedef float Lanes __attribute__((vector_size(FL_VECTOR_BYTES)));
  typedef int32_t Truth __attribute__((vector_size(FL_VECTOR_BYTES)));
};
template <> struct Native<double> {
  typedef double Lanes __attribute__((vector_size(FL_VECTOR_BYTES)));
  typedef int64_t Truth __attribute__((vector_size(FL_VECTOR_BYTES)));
};
template <> struct Native<int32_t> {
  typedef int32_t Lanes __attribute__((vector_size(FL_VECTOR_BYTES)));
  typedef int32_t Truth __attribute__((vector_size(FL_VECTOR_BYTES)));
};
template <> struct Native<uint64_t> {
  typedef uint64_t Lanes __attribute__((vector_size(FL_VECTOR_BYTES)));
  typedef int64_t Truth __attribute__((vector_size(FL_VECTOR_BYTES)));
};

// One truth value per lane, for vectors of Scalar: all bits set or none.
template <class Scalar> struct Mask {
  typename Native<Scalar>::Truth lanes;

  friend FL_HD Mask operator&(Mask a, Mask b) { return {a.lanes & b.lanes}; }
  friend FL_HD Mask operator|(Mask a, Mask b) { return {a.lanes | b.lanes}; }
  friend FL_HD Mask operator!(Mask a) { return {~a.lanes}; }
};

template <class ScalarType> struct Vector {
  using Scalar = ScalarType;
  using Lanes = typename Native<Scalar>::Lanes;
  static constexpr int registers = 1, size = FL_VECTOR_BYTES / sizeof(Scalar);

  Lanes lanes;

  Vector() = default;
  FL_HD Vector(Lanes value) : lanes(value) {}
  FL_HD Vector(Scalar value) : lanes(value - Lanes{}) {}  // value - 0 keeps the sign of -0, value + 0 would not

  FL_HD Scalar operator[](int lane) const { return lanes[lane]; }
  FL_HD void set(int lane, Scalar value) { lanes[lane] = value; }
  FL_HD Vector operator-() const { return {-lanes}; }
  FL_HD Vector& operator+=(Vector other) { return lanes += other.lanes, *this; }
  FL_HD Vector& operator-=(Vector other) { return lanes -= other.lanes, *this; }
  FL_HD Vector& operator*=(Vector other) { return lanes *= other.lanes, *this; }

  friend FL_HD Vector operator+(Vector a, Vector b) { return {a.lanes + b.lanes}; }
  friend FL_HD Vector operator-(Vector a, Vector b) { return {a.lanes - b.lanes}; }
  friend FL_HD Vector operator*(Vector a, Vector b) { return {a.lanes * b.lanes}; }
  friend FL_HD Vector operator/(Vector a, Vector b) { return {a.lanes / b.lanes}; }
  friend FL_HD Vector operator&(Vector a, Vector b) { return {a.lanes & b.lanes}; }
  friend FL_HD Vector operator|(Vector a, Vector b) { return {a.lanes | b.lanes}; }
  friend FL_HD Vector operator^(Vector a, Vector b) { return {a.lanes ^ b.lanes}; }
  friend FL_HD Vector operator<<(Vector a, int bits) { return {a.lanes << bits}; }
  friend FL_HD Vector operator>>(Vector a, int bits) { return {a.lanes >> bits}; }

  friend FL_HD Mask<Scalar> operator<(Vector a, Vector b) { return {a.lanes < b.lanes}; }
  friend FL_HD Mask<Scalar> operator<=(Vector a, Vector b) { return {a.lanes <= b.lanes}; }
  friend FL_HD Mask<Scalar> operator>(Vector a, Vector b) { return {a.lanes > b.lanes}; }
  friend FL_HD Mask<Scalar> operator>=(Vector a, Vector b) { return {a.lanes >= b.lanes}; }
  friend FL_HD Mask<Scalar> operator==(Vector a, Vector b) { return {a.lanes == b.lanes}; }
  friend FL_HD Mask<Scalar> operator!=(Vector a, Vector b) { return {a.lanes != b.lanes}; }
};

// mask ? a : b in each lane.
template <class Scalar> FL_HD Vector<Scalar> select(Mask<Scalar> mask, Vector<Scalar> a, Vector<Scalar> b) {
  return {mask.lanes ? a.lanes : b.lanes};
}

// An int32_t vector can be chosen by the mask of a float vector of the same width.
FL_HD Vector<int32_t> select(Mask<float> mask, Vector<int32_t> a, Vector<int32_t> b) {
  return {mask.lanes ? a.lanes : b.lanes};
}

// And a float vector by that of an int32_t vector.
FL_HD Vector<float> select(Mask<int32_t> mask, Vector<float> a, Vector<float> b) {
  return {mask.lanes ? a.lanes : b.lanes};
}

// Whether the mask holds in any lane.
FL_HD bool any(Mask<float> mask) {
#if defined(FL_AVX512)
  return _mm512_movepi32_mask((__m512i)mask.lanes) != 0;
#elif defined(FL_AVX2)
  return _mm256_movemask_ps((__m256)mask.lanes) != 0;
#elif defined(__SSE2__)
  return _mm_movemask_ps((__m128)mask.lanes) != 0;
#else
  int32_t all = 0;
  for (int i = 0; i < Vector<float>::size; ++i) all |= mask.lanes[i];
  return all != 0;
#endif
}

// The bits of a float as an integer, and back.
FL_HD Vector<int32_t> float_as_int(Vector<float> x) { return {reinterpret_cast<Vector<int32_t>::Lanes>(x.lanes)}; }
FL_HD Vector<float> int_as_float(Vector<int32_t> x) { return {reinterpret_cast<Vector<float>::Lanes>(x.lanes)}; }

// |magnitude| with the sign of `sign`; magnitude >= 0 or NaN.
FL_HD Vector<float> with_sign_of(Vector<float> magnitude, Vector<float> sign) {
  return int_as_float(float_as_int(magnitude) | (float_as_int(sign) & Vector<int32_t>(INT32_MIN)));
}

FL_HD Vector<double> with_sign_of(Vector<double> magnitude, Vector<double> sign) {
  using Bits = Native<double>::Truth;
  const Bits bits = reinterpret_cast<Bits>(magnitude.lanes) | (reinterpret_cast<Bits>(sign.lanes) & (INT64_MIN - Bits{}));
  return {reinterpret_cast<Vector<double>::Lanes>(bits)};
}

FL_HD Vector<float> absolute(Vector<float> x) { return int_as_float(float_as_int(x) & Vector<int32_t>(0x7fffffff)); }
FL_HD Vector<double> absolute(Vector<double> x) {
  using Bits = Native<double>::Truth;
  const Bits magnitude = 0x7fffffffffffffff - Bits{};
  return {reinterpret_cast<Vector<double>::Lanes>(reinterpret_cast<Bits>(x.lanes) & magnitude)};
}

// Whether any number is above or below a bound, or farther than that from 0.
FL_HD bool any_above(Vector<float> x, float bound) { return any(x > Vector<float>(bound)); }
FL_HD bool any_below(Vector<float> x, float bound) { return any(x < Vector<float>(bound)); }
FL_HD bool any_beyond(Vector<float> x, float bound) { return any(absolute(x) > Vector<float>(bound)); }

// The larger and the smaller; b where either is NaN, as x86 has it.
template <class Scalar> FL_HD Vector<Scalar> maximum(Vector<Scalar> a, Vector<Scalar> b) { return select(a > b, a, b); }
template <class Scalar> FL_HD Vector<Scalar> minimum(Vector<Scalar> a, Vector<Scalar> b) { return select(a < b, a, b); }
#if defined(FL_AVX512)
FL_HD Vector<float> maximum(Vector<float> a, Vector<float> b) {
  return {(Vector<float>::Lanes)_mm512_max_ps((__m512)a.lanes, (__m512)b.lanes)};
}
FL_HD Vector<float> minimum(Vector<float> a, Vector<float> b) {
  return {(Vector<float>::Lanes)_mm512_min_ps((__m512)a.lanes, (__m512)b.lanes)};
}
#elif defined(FL_AVX2)
FL_HD Vector<float> maximum(Vector<float> a, Vector<float> b) {
  return {(Vector<float>::Lanes)_mm256_max_ps((__m256)a.lanes, (__m256)b.lanes)};
}
FL_HD Vector<float> minimum(Vector<float> a, Vector<float> b) {
  return {(Vector<float>::Lanes)_mm256_min_ps((__m256)a.lanes, (__m256)b.lanes)};
}
#endif

#if defined(FL_AVX512)
FL_HD Vector<float> square_root(Vector<float> x) { return {(Vector<float>::Lanes)_mm512_sqrt_ps((__m512)x.lanes)}; }
FL_HD Vector<double> square_root(Vector<double> x) { return {(Vector<double>::Lanes)_mm512_sqrt_pd((__m512d)x.lanes)}; }
#elif defined(FL_AVX2)
FL_HD Vector<float> square_root(Vector<float> x) { return {(Vector<float>::Lanes)_mm256_sqrt_ps((__m256)x.lanes)}; }
FL_HD Vector<double> square_root(Vector<double> x) { return {(Vector<double>::Lanes)_mm256_sqrt_pd((__m256d)x.lanes)}; }
#else
template <class Scalar> FL_HD Vector<Scalar> square_root(Vector<Scalar> x) {
  Vector<Scalar> root;
  for (int i = 0; i < Vector<Scalar>::size; ++i) {
    root.lanes[i] = sizeof(Scalar) == 4 ? __builtin_sqrtf(x.lanes[i]) : __builtin_sqrt(x.lanes[i]);
  }
  return root;
}
#endif

// a * b + c. Rounded once where the processor has fused multiply-add (has_fma), twice where it has not.
#if defined(FL_AVX512)
constexpr bool has_fma = true;
FL_HD Vector<float> multiply_add(Vector<float> a, Vector<float> b, Vector<float> c) {
  return {(Vector<float>::Lanes)_mm512_fmadd_ps((__m512)a.lanes, (__m512)b.lanes, (__m512)c.lanes)};
}
FL_HD Vector<double> multiply_add(Vector<double> a, Vector<double> b, Vector<double> c) {
  return {(Vector<double>::Lanes)_mm512_fmadd_pd((__m512d)a.lanes, (__m512d)b.lanes, (__m512d)c.lanes)};
}
#elif defined(FL_AVX2)
constexpr bool has_fma = true;
FL_HD Vector<float> multiply_add(Vector<float> a, Vector<float> b, Vector<float> c) {
  return {(Vector<float>::Lanes)_mm256_fmadd_ps((__m256)a.lanes, (__m256)b.lanes, (__m256)c.lanes)};
}
FL_HD Vector<double> multiply_add(Vector<double> a, Vector<double> b, Vector<double> c) {
  return {(Vector<double>::Lanes)_mm256_fmadd_pd((__m256d)a.lanes, (__m256d)b.lanes, (__m256d)c.lanes)};
}
#else
constexpr bool has_fma = false;
template <class Scalar> FL_HD Vector<Scalar> multiply_add(Vector<Scalar> a, Vector<Scalar> b, Vector<Scalar> c) {
  return a * b + c;
}
#endif

// a * b - c, rounded once whatever the processor: exact where c is a * b rounded.
FL_HD Vector<float> multiply_subtract_once(Vector<float> a, Vector<float> b, Vector<float> c) {
  if constexpr (has_fma) return multiply_add(a, b, -c);
  Vector<float> difference;
  for (int i = 0; i < Vector<float>::size; ++i) {
    difference.lanes[i] = static_cast<float>(static_cast<double>(a.lanes[i]) * b.lanes[i] - c.lanes[i]);
  }
  return difference;
}
FL_HD Vector<double> multiply_subtract_once(Vector<double> a, Vector<double> b, Vector<double> c) {
  if constexpr (has_fma) return multiply_add(a, b, -c);
  Vector<double> difference;
  for (int i = 0; i < Vector<double>::size; ++i) difference.lanes[i] = __builtin_fma(a.lanes[i], b.lanes[i], -c.lanes[i]);
  return difference;
}

// x, or -x where the number is odd.
FL_HD Vector<float> negated_if_odd(Vector<float> x, Vector<int32_t> number) { return int_as_float(float_as_int(x) ^ (number << 31)); }

// 2^k from the float 1.5 * 2^23 + 127 + k, whose low bits are the exponent field of the result. -126 <= k <= 127.
FL_HD Vector<float> power_from_shifted(Vector<float> shifted) { return int_as_float(float_as_int(shifted) << 23); }

#if defined(FL_AVX512)
// In each lane the entry of a table whose number the lowest three bits of the index are.
FL_HD Vector<float> entries(const float (&table)[8], Vector<int32_t> index) {
  return {(Vector<float>::Lanes)_mm512_permutexvar_ps((__m512i)index.lanes, _mm512_broadcast_f32x8(_mm256_loadu_ps(table)))};
}
#elif defined(FL_AVX2)
FL_HD Vector<float> entries(const float (&table)[8], Vector<int32_t> index) {
  return {(Vector<float>::Lanes)_mm256_permutevar8x32_ps(_mm256_loadu_ps(table), (__m256i)index.lanes)};
}
#endif

// Sum of the lanes, one after the other.
template <class Scalar> FL_HD double sum_in_lane_order(Vector<Scalar> x) {
  double sum = 0;
  for (int i = 0; i < Vector<Scalar>::size; ++i) sum += x.lanes[i];
  return sum;
}

// The mask of the first lanes.
template <class Scalar> FL_HD Mask<Scalar> first_lanes(int count) {
  typename Native<Scalar>::Truth numbers;
  for (int i = 0; i < Vector<Scalar>::size; ++i) numbers[i] = i;
  return {numbers < count - typename Native<Scalar>::Truth{}};
}

}  // namespace fastlayers::FL_CPU_CAPABILITY
