// Dropout's 16-bit numbers on vectors: as many Philox counters at a time as 64-bit lanes fit in a register.
#pragma once

#include "../common/dropout.h"
#include "memory.h"

namespace fastlayers::FL_CPU_CAPABILITY {
namespace {

using Counters = Vector<uint64_t>;  // one 32-bit word in each 64-bit lane; the upper halves may hold anything

// Products of the lower words of the lanes, 64 bits each.
FL_HD Counters multiply_words(Counters a, Counters b) {
#if defined(FL_AVX512)
  return {(Counters::Lanes)_mm512_mul_epu32((__m512i)a.lanes, (__m512i)b.lanes)};
#elif defined(FL_AVX2)
  return {(Counters::Lanes)_mm256_mul_epu32((__m256i)a.lanes, (__m256i)b.lanes)};
#elif defined(__SSE2__)
  return {(Counters::Lanes)_mm_mul_epu32((__m128i)a.lanes, (__m128i)b.lanes)};
#else
  return (a & Counters(0xffffffff)) * (b & Counters(0xffffffff));
#endif
}

// a0 b0 a1 b1 ... to memory.
FL_HD void store_interleaved(uint16_t* address, Counters a, Counters b) {
#if defined(FL_AVX512)
  const __m512i low = _mm512_setr_epi64(0, 8, 1, 9, 2, 10, 3, 11), high = _mm512_setr_epi64(4, 12, 5, 13, 6, 14, 7, 15);
  _mm512_storeu_si512(address, _mm512_permutex2var_epi64((__m512i)a.lanes, low, (__m512i)b.lanes));
  _mm512_storeu_si512(address + 32, _mm512_permutex2var_epi64((__m512i)a.lanes, high, (__m512i)b.lanes));
#elif defined(FL_AVX2)
  const __m256i even = _mm256_unpacklo_epi64((__m256i)a.lanes, (__m256i)b.lanes);
  const __m256i odd = _mm256_unpackhi_epi64((__m256i)a.lanes, (__m256i)b.lanes);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(address), _mm256_permute2x128_si256(even, odd, 0x20));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(address + 16), _mm256_permute2x128_si256(even, odd, 0x31));
#else
  for (int i = 0; i < Counters::size; ++i) {
    const uint64_t pair[2] = {a.lanes[i], b.lanes[i]};
    __builtin_memcpy(address + 8 * i, pair, sizeof pair);
  }
#endif
}

// The key of each round, from the seed.
struct PhiloxKeys {
  uint64_t key0[philox_rounds], key1[philox_rounds];

  explicit PhiloxKeys(uint64_t seed) {
    uint32_t k0 = static_cast<uint32_t>(seed), k1 = static_cast<uint32_t>(seed >> 32);
    for (int round = 0; round < philox_rounds; ++round, k0 += philox_weyl0, k1 += philox_weyl1) {
      key0[round] = k0;
      key1[round] = k1;
    }
  }
};

// The numbers of counters group .. group + Counters::size - 1.
FL_HD void store_numbers(uint16_t* numbers, uint64_t group, uint32_t stream, const PhiloxKeys& keys) {
  Counters::Lanes groups;
  for (int i = 0; i < Counters::size; ++i) groups[i] = i;
  const Counters low_word(static_cast<uint64_t>(0xffffffff));
  Counters c0 = Counters{groups} + Counters(group), c1 = c0 >> 32, c2(static_cast<uint64_t>(stream)), c3(static_cast<uint64_t>(0));
#pragma GCC unroll 10
  for (int round = 0; round < philox_rounds; ++round) {
    const Counters product0 = multiply_words(c0, Counters(static_cast<uint64_t>(philox_multiplier0)));
    const Counters product1 = multiply_words(c2, Counters(static_cast<uint64_t>(philox_multiplier1)));
    c0 = (product1 >> 32) ^ c1 ^ Counters(keys.key0[round]);
    c2 = (product0 >> 32) ^ c3 ^ Counters(keys.key1[round]);
    c1 = product1;
    c3 = product0;
  }
  store_interleaved(numbers, (c0 & low_word) | (c1 << 32), (c2 & low_word) | (c3 << 32));
}

// The numbers of a stretch of elements, kept in L1 until a run outside it is asked for.
class DropoutNumbers {
 public:
  static constexpr int64_t longest = 2048;  // elements that one call may ask for

  explicit DropoutNumbers(uint64_t seed, uint32_t stream = dropout_stream) : keys_(seed), stream_(stream) {}

  // Numbers of elements first .. first + count - 1, in memory order, followed by at least 16 readable ones. Elements up to
  // last - 1 will be asked for next.
  const uint16_t* at(int64_t first, int64_t count, int64_t last) {
    if (first < begin_ || first + count > end_) fill(first, count > last - first ? count : last - first);
    return numbers_ + (first - begin_);
  }

 private:
  static constexpr int per_store = Counters::size * numbers_per_counter;

  __attribute__((noinline)) void fill(int64_t first, int64_t wanted) {
    begin_ = first / numbers_per_counter * numbers_per_counter;
    const int64_t end = first + (wanted < longest ? wanted : longest);
    uint16_t* next = numbers_;
    for (end_ = begin_; end_ < end; end_ += per_store, next += per_store) store_numbers(next, end_ / numbers_per_counter, stream_, keys_);
  }

  const PhiloxKeys keys_;
  const uint32_t stream_;
  int64_t begin_ = 0, end_ = 0;
  alignas(64) uint16_t numbers_[longest + 2 * per_store + 16];
};

typedef uint16_t QuarterWords __attribute__((vector_size(FL_VECTOR_BYTES / 4)));

// keep where the element's number reaches the threshold, else 0.
FL_HD Vector<float> dropout_multiplier(const uint16_t* numbers, int32_t threshold, Vector<float> keep) {
  using Truth = Native<float>::Truth;
  const Truth wide = reinterpret_cast<Truth>(widen(copy_in<HalfWords>(numbers)));
  return select(Mask<float>{wide >= threshold - Truth{}}, keep, Vector<float>(0.0f));
}
FL_HD Vector<double> dropout_multiplier(const uint16_t* numbers, int32_t threshold, Vector<double> keep) {
  using Truth = Native<double>::Truth;
  const Truth wide = __builtin_convertvector(copy_in<QuarterWords>(numbers), Truth);
  return select(Mask<double>{wide >= threshold - Truth{}}, keep, Vector<double>(0.0));
}

}  // namespace
}  // namespace fastlayers::FL_CPU_CAPABILITY
