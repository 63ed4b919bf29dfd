// Loads and stores: full vectors and the first `count` lanes of one, with conversion to and from the 16-bit types.
//
// load<Vector<float>>(const Half*) and the like accept any alignment. 16-bit results are rounded to nearest even, once; NaN stays NaN.
#pragma once

#include "../common/elementary.h"
#include "interleaved.h"
#include "normal_tail.h"
#include "sleef.h"

namespace fastlayers::FL_CPU_CAPABILITY {

namespace {

typedef uint16_t HalfWords __attribute__((vector_size(FL_VECTOR_BYTES / 2)));
typedef uint32_t Words __attribute__((vector_size(FL_VECTOR_BYTES)));

#if defined(FL_AVX512)
FL_HD __m512i word_numbers() {
  typedef uint16_t AllWords __attribute__((vector_size(64)));
  AllWords numbers;
  for (int i = 0; i < 32; ++i) numbers[i] = i;
  return (__m512i)numbers;
}
#endif

// Zero-extension of 16-bit lanes to 32 bits, and back for lanes that fit. GCC makes several instructions of __builtin_convertvector.
#if defined(FL_AVX512)
FL_HD Words widen(HalfWords narrow) { return (Words)_mm512_cvtepu16_epi32((__m256i)narrow); }
FL_HD HalfWords narrow(Words wide) { return (HalfWords)_mm512_cvtepi32_epi16((__m512i)wide); }
#elif defined(FL_AVX2)
FL_HD Words widen(HalfWords narrow) { return (Words)_mm256_cvtepu16_epi32((__m128i)narrow); }
FL_HD HalfWords narrow(Words wide) {
  const __m256i packed = _mm256_packus_epi32((__m256i)wide, (__m256i)wide);
  return (HalfWords)_mm256_castsi256_si128(_mm256_permute4x64_epi64(packed, 0x08));
}
#else
FL_HD Words widen(HalfWords narrow) { return __builtin_convertvector(narrow, Words); }
FL_HD HalfWords narrow(Words wide) { return __builtin_convertvector(wide, HalfWords); }
#endif

// Zero-extension into the upper halves of 32-bit lanes, and the upper halves: with AVX-512 a permutation, half of a shift and a conversion.
#if defined(FL_AVX512)
FL_HD Words raise(HalfWords low) {
  const __m512i halves = _mm512_srli_epi16(word_numbers(), 1);
  return (Words)_mm512_maskz_permutexvar_epi16(0xaaaaaaaa, halves, _mm512_castsi256_si512((__m256i)low));
}
FL_HD HalfWords upper_halves(Words wide) {
  const __m512i odd = _mm512_or_si512(_mm512_slli_epi16(word_numbers(), 1), _mm512_set1_epi16(1));
  return (HalfWords)_mm512_castsi512_si256(_mm512_permutexvar_epi16(odd, (__m512i)wide));
}
#else
FL_HD Words raise(HalfWords low) { return widen(low) << 16; }
FL_HD HalfWords upper_halves(Words wide) { return narrow(wide >> 16); }
#endif

FL_HD Vector<float> to_float(HalfWords words, BFloat16) { return {reinterpret_cast<Vector<float>::Lanes>(raise(words))}; }

// Bits whose upper halves are the number in bfloat16. A NaN is cut: its upper half is one, too, after any arithmetic.
FL_HD Words rounded(Vector<float> value) {
  const Words bits = reinterpret_cast<Words>(value.lanes);
  return value.lanes == value.lanes ? bits + 0x7fff + ((bits >> 16) & 1) : bits;
}
FL_HD HalfWords from_float(Vector<float> value, BFloat16) { return upper_halves(rounded(value)); }

#if defined(FL_AVX512)
FL_HD Vector<float> to_float(HalfWords words, Half) { return {(Vector<float>::Lanes)_mm512_cvtph_ps((__m256i)words)}; }
FL_HD HalfWords from_float(Vector<float> value, Half) {
  return (HalfWords)_mm512_cvtps_ph((__m512)value.lanes, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
#elif defined(FL_AVX2)
FL_HD Vector<float> to_float(HalfWords words, Half) { return {(Vector<float>::Lanes)_mm256_cvtph_ps((__m128i)words)}; }
FL_HD HalfWords from_float(Vector<float> value, Half) {
  return (HalfWords)_mm256_cvtps_ph((__m256)value.lanes, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
#else
// Half to float: shift exponent and mantissa into place and multiply by 2^112, which also normalises subnormals.
FL_HD Vector<float> to_float(HalfWords words, Half) {
  const Words wide = widen(words);
  const Words magnitude = (wide & 0x7fff) << 13;
  const Vector<float> scaled = reinterpret_cast<Vector<float>::Lanes>(magnitude) * 0x1p112f;
  const Words special = magnitude + 0x70000000;  // infinities and NaNs keep an exponent of all ones
  const Words bits = magnitude >= 0x0f800000 ? special : reinterpret_cast<Words>(scaled.lanes);
  return {reinterpret_cast<Vector<float>::Lanes>(bits | ((wide & 0x8000) << 16))};
}

// Float to half: for normal results round on the bits; for subnormal ones let a float addition round at 2^-24.
FL_HD HalfWords from_float(Vector<float> value, Half) {
  const Words bits = reinterpret_cast<Words>(value.lanes);
  const Words sign = (bits >> 16) & 0x8000;
  const Words magnitude = bits & 0x7fffffff;
  const Words normal = (magnitude - 0x38000000 + 0xfff + ((magnitude >> 13) & 1)) >> 13;
  const Vector<float> small = reinterpret_cast<Vector<float>::Lanes>(magnitude) + 0.5f;
  const Words subnormal = reinterpret_cast<Words>(small.lanes) - 0x3f000000;
  Words result = magnitude < 0x38800000 ? subnormal : normal;
  result = magnitude >= 0x477ff000 ? 0x7c00 - Words{} : result;  // 65520 and above: infinity
  result = magnitude > 0x7f800000 ? 0x7e00 | ((magnitude >> 13) & 0x3ff) : result;
  return narrow(result | sign);
}
#endif

// Lanes from and to memory as they are.
template <class Lanes, class Element> FL_HD Lanes copy_in(const Element* address) {
  Lanes lanes;
  __builtin_memcpy(&lanes, address, sizeof lanes);
  return lanes;
}

// Four doubles, and four numbers as such.
#if defined(FL_AVX512) || defined(FL_AVX2)
typedef double FourDoubles __attribute__((vector_size(32)));
FL_HD FourDoubles four_doubles(const double* address) { return copy_in<FourDoubles>(address); }
FL_HD FourDoubles four_doubles(const float* address) { return (FourDoubles)_mm256_cvtps_pd(_mm_loadu_ps(address)); }
#else
struct FourDoubles {
  double lanes[4];
  FL_HD double operator[](int lane) const { return lanes[lane]; }
  friend FL_HD FourDoubles operator+(const FourDoubles& a, const FourDoubles& b) {
    return {{a[0] + b[0], a[1] + b[1], a[2] + b[2], a[3] + b[3]}};
  }
};
template <class T> FL_HD FourDoubles four_doubles(const T* address) { return {{address[0], address[1], address[2], address[3]}}; }
#endif

// The sum of 16 numbers, in pairs: short chains of additions, in the same order on every processor.
template <class T> FL_HD double sum_of_lanes(const T* lanes) {
  const FourDoubles sums = (four_doubles(lanes) + four_doubles(lanes + 8)) + (four_doubles(lanes + 4) + four_doubles(lanes + 12));
  return (sums[0] + sums[2]) + (sums[1] + sums[3]);
}

template <class Lanes, class Element> FL_HD Lanes copy_in_partial(const Element* address, int count) {
#if defined(FL_AVX512)
  if constexpr (sizeof(Lanes) == 64 && sizeof(Element) == 4) {
    return (Lanes)_mm512_maskz_loadu_epi32(static_cast<__mmask16>((1u << count) - 1), address);
  } else if constexpr (sizeof(Lanes) == 64) {
    return (Lanes)_mm512_maskz_loadu_epi64(static_cast<__mmask8>((1u << count) - 1), address);
  } else {
    return (Lanes)_mm256_maskz_loadu_epi16(static_cast<__mmask16>((1u << count) - 1), address);
  }
#else
#if defined(FL_AVX2)
  if constexpr (sizeof(Lanes) == 32 && sizeof(Element) == 4) {
    return (Lanes)_mm256_maskload_epi32(reinterpret_cast<const int*>(address), (__m256i)first_lanes<float>(count).lanes);
  } else if constexpr (sizeof(Lanes) == 32) {
    return (Lanes)_mm256_maskload_epi64(reinterpret_cast<const long long*>(address), (__m256i)first_lanes<double>(count).lanes);
  }
#endif
  Lanes lanes{};
  for (int i = 0; i < count; ++i) __builtin_memcpy(reinterpret_cast<Element*>(&lanes) + i, address + i, sizeof(Element));
  return lanes;
#endif
}

template <class Lanes, class Element> FL_HD void copy_out(Element* address, Lanes lanes) {
  __builtin_memcpy(address, &lanes, sizeof lanes);
}

// Lanes to memory past the caches, so that lines which are wholly written are not read first; address is a multiple of their size.
template <class Lanes, class Element> FL_HD void copy_past_caches(Element* address, Lanes lanes) {
#if defined(FL_AVX512)
  if constexpr (sizeof(Lanes) == 64) return _mm512_stream_si512(reinterpret_cast<__m512i*>(address), (__m512i)lanes);
#endif
#if defined(FL_AVX512) || defined(FL_AVX2)
  if constexpr (sizeof(Lanes) == 32) return _mm256_stream_si256(reinterpret_cast<__m256i*>(address), (__m256i)lanes);
#endif
#if defined(__SSE2__)
  if constexpr (sizeof(Lanes) == 16) return _mm_stream_si128(reinterpret_cast<__m128i*>(address), (__m128i)lanes);
#endif
  copy_out(address, lanes);
}

// Makes what copy_past_caches has written visible to other threads before anything that this one writes later.
FL_HD void finish_past_caches() {
#if defined(__SSE2__)
  _mm_sfence();
#endif
}

template <class Lanes, class Element> FL_HD void copy_out_partial(Element* address, Lanes lanes, int count) {
#if defined(FL_AVX512)
  if constexpr (sizeof(Lanes) == 64 && sizeof(Element) == 4) {
    _mm512_mask_storeu_epi32(address, static_cast<__mmask16>((1u << count) - 1), (__m512i)lanes);
  } else if constexpr (sizeof(Lanes) == 64) {
    _mm512_mask_storeu_epi64(address, static_cast<__mmask8>((1u << count) - 1), (__m512i)lanes);
  } else {
    _mm256_mask_storeu_epi16(address, static_cast<__mmask16>((1u << count) - 1), (__m256i)lanes);
  }
#else
#if defined(FL_AVX2)
  if constexpr (sizeof(Lanes) == 32 && sizeof(Element) == 4) {
    return _mm256_maskstore_epi32(reinterpret_cast<int*>(address), (__m256i)first_lanes<float>(count).lanes, (__m256i)lanes);
  } else if constexpr (sizeof(Lanes) == 32) {
    return _mm256_maskstore_epi64(reinterpret_cast<long long*>(address), (__m256i)first_lanes<double>(count).lanes, (__m256i)lanes);
  }
#endif
  for (int i = 0; i < count; ++i) __builtin_memcpy(address + i, reinterpret_cast<const Element*>(&lanes) + i, sizeof(Element));
#endif
}

}  // namespace

// How many of the first `count` lanes are in each of two registers.
template <class V> struct Parts {
  int first, second;
  FL_HD explicit Parts(int count)
      : first(count < V::Part::size ? count : V::Part::size), second(count - first) {}
};

// A vector of To::size elements of any storage type, converted to the vector's scalar type.
template <class To, class Storage> FL_HD To load(const Storage* address) {
  if constexpr (To::registers == 2) {
    return {load<typename To::Part>(address), load<typename To::Part>(address + To::Part::size)};
  } else if constexpr (sizeof(Storage) == sizeof(typename To::Scalar)) {
    return {copy_in<typename To::Lanes>(address)};
  } else {
    return to_float(copy_in<HalfWords>(address), Storage{});
  }
}

// The first `count` lanes (0 <= count <= To::size); the others are zero. Nothing past them is read.
template <class To, class Storage> FL_HD To load(const Storage* address, int count) {
  if constexpr (To::registers == 2) {
    const Parts<To> counts(count);
    return {load<typename To::Part>(address, counts.first), load<typename To::Part>(address + To::Part::size, counts.second)};
  } else if constexpr (sizeof(Storage) == sizeof(typename To::Scalar)) {
    return {copy_in_partial<typename To::Lanes>(address, count)};
  } else {
    return to_float(copy_in_partial<HalfWords>(address, count), Storage{});
  }
}

template <class Scalar, class Storage> FL_HD void store(Storage* address, Vector<Scalar> value) {
  if constexpr (sizeof(Storage) == sizeof(Scalar)) {
    copy_out(address, value.lanes);
  } else {
    copy_out(address, from_float(value, Storage{}));
  }
}

// store past the caches; address is a multiple of what is written.
template <class Scalar, class Storage> FL_HD void store_past_caches(Storage* address, Vector<Scalar> value) {
  if constexpr (sizeof(Storage) == sizeof(Scalar)) {
    copy_past_caches(address, value.lanes);
  } else {
    copy_past_caches(address, from_float(value, Storage{}));
  }
}

template <class Scalar, class Storage> FL_HD void store(Storage* address, Interleaved<Scalar> value) {
  store(address, value.first);
  store(address + Vector<Scalar>::size, value.second);
}

template <class Scalar, class Storage> FL_HD void store_past_caches(Storage* address, Interleaved<Scalar> value) {
  store_past_caches(address, value.first);
  store_past_caches(address + Vector<Scalar>::size, value.second);
}

#if defined(FL_AVX2)
// In bfloat16, the lower halves of both registers before the upper ones.
FL_HD __m256i narrow_halves(Interleaved<float> value) {
  return _mm256_packus_epi32((__m256i)(rounded(value.first) >> 16), (__m256i)(rounded(value.second) >> 16));
}
FL_HD __m256i in_order(__m256i halves) { return _mm256_permute4x64_epi64(halves, 0xd8); }
FL_HD void store(BFloat16* address, Interleaved<float> value) { copy_out(address, in_order(narrow_halves(value))); }
FL_HD void store_past_caches(BFloat16* address, Interleaved<float> value) { copy_past_caches(address, in_order(narrow_halves(value))); }
#endif

// load, store and store_past_caches of vectors whose lanes may be in any order, the same in all three.
template <class V, class Storage> struct InAnyOrder {
  FL_HD static V read(const Storage* address) { return load<V>(address); }
  FL_HD static void write(Storage* address, V value, bool past_caches) {
    if (past_caches) store_past_caches(address, value);
    else store(address, value);
  }
};

#if defined(FL_AVX2)
// What widens and narrows without crossing the middle of a register takes half the instructions.
template <> struct InAnyOrder<Interleaved<float>, BFloat16> {
  FL_HD static Interleaved<float> read(const BFloat16* address) {
    const __m256i words = copy_in<__m256i>(address), zero = _mm256_setzero_si256();
    return {(Vector<float>::Lanes)_mm256_unpacklo_epi16(zero, words), (Vector<float>::Lanes)_mm256_unpackhi_epi16(zero, words)};
  }
  FL_HD static void write(BFloat16* address, Interleaved<float> value, bool past_caches) {
    if (past_caches) copy_past_caches(address, narrow_halves(value));
    else copy_out(address, narrow_halves(value));
  }
};
#endif

// Writes the first `count` lanes and nothing else.
template <class Scalar, class Storage> FL_HD void store(Storage* address, Vector<Scalar> value, int count) {
  if constexpr (sizeof(Storage) == sizeof(Scalar)) {
    copy_out_partial(address, value.lanes, count);
  } else {
    copy_out_partial(address, from_float(value, Storage{}), count);
  }
}

template <class Scalar, class Storage> FL_HD void store(Storage* address, Interleaved<Scalar> value, int count) {
  const Parts<Interleaved<Scalar>> counts(count);
  store(address, value.first, counts.first);
  store(address + Vector<Scalar>::size, value.second, counts.second);
}

// value with 0 past the first `count` lanes.
template <class Scalar> FL_HD Vector<Scalar> first_of(Vector<Scalar> value, int count) {
  return select(first_lanes<Scalar>(count), value, Vector<Scalar>(static_cast<Scalar>(0)));
}
template <class Scalar> FL_HD Interleaved<Scalar> first_of(Interleaved<Scalar> value, int count) {
  return {first_of(value.first, count), first_of(value.second, count - Vector<Scalar>::size)};
}

}  // namespace fastlayers::FL_CPU_CAPABILITY
