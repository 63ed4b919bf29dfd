// The dropout mask: Philox4x32-10 (Salmon et al., SC 2011) over the element index, sixteen bits per element.
//
// Key = the seed's two words; counter = (g low, g high, stream, 0) with g = index / 8. The eight 16-bit halves of the four output
// words, low half first, are the numbers of elements 8 g .. 8 g + 7; an element is kept when its number is at least the threshold.
// fastlayers/reference/dropout.py is the same in PyTorch; masks are equal bit for bit.
#pragma once

#include <cmath>

#include "scalar.h"

namespace fastlayers {

constexpr uint32_t philox_multiplier0 = 0xD2511F53, philox_multiplier1 = 0xCD9E8D57;
constexpr uint32_t philox_weyl0 = 0x9E3779B9, philox_weyl1 = 0xBB67AE85;
constexpr int philox_rounds = 10;
constexpr int numbers_per_counter = 8;
constexpr uint32_t dropout_stream = 0, activation_stream = 1, rounding_stream = 2;  // counter word 2: each use of a seed takes another

namespace FL_NAMESPACE {

struct PhiloxWords {
  uint32_t word[4];
};

// Of the product of two words, b a constant.
FL_HD uint32_t high_word(uint32_t a, uint32_t b) {
#if defined(__CUDA_ARCH__)
  return __umulhi(a, b);
#else
  return static_cast<uint32_t>(static_cast<uint64_t>(a) * b >> 32);
#endif
}

FL_HD uint32_t exclusive_or(uint32_t a, uint32_t b, uint32_t c) {
#if defined(__CUDA_ARCH__)
  uint32_t result;
  asm("lop3.b32 %0, %1, %2, %3, 0x96;" : "=r"(result) : "r"(a), "r"(b), "r"(c));
  return result;
#else
  return a ^ b ^ c;
#endif
}

// The keys of the rounds.
struct PhiloxKeys {
  uint32_t low[philox_rounds], high[philox_rounds];

  PhiloxKeys() = default;
  FL_HD explicit PhiloxKeys(uint64_t seed) {
    for (int round = 0; round < philox_rounds; ++round) {
      low[round] = static_cast<uint32_t>(seed) + static_cast<uint32_t>(round) * philox_weyl0;
      high[round] = static_cast<uint32_t>(seed >> 32) + static_cast<uint32_t>(round) * philox_weyl1;
    }
  }
};

// From round `first` on.
FL_HD PhiloxWords philox_from(int first, uint32_t c0, uint32_t c1, uint32_t c2, uint32_t c3, const PhiloxKeys& keys) {
  for (int round = first; round < philox_rounds; ++round) {
    const uint32_t high0 = high_word(c0, philox_multiplier0), high1 = high_word(c2, philox_multiplier1);
    const uint32_t low0 = philox_multiplier0 * c0, low1 = philox_multiplier1 * c2;
    c0 = exclusive_or(high1, c1, keys.low[round]);
    c2 = exclusive_or(high0, c3, keys.high[round]);
    c1 = low1;
    c3 = low0;
  }
  return {{c0, c1, c2, c3}};
}

FL_HD PhiloxWords philox(uint64_t group, uint32_t stream, const PhiloxKeys& keys) {
  // The first round, of constants in part.
  const uint32_t c0 = static_cast<uint32_t>(static_cast<uint64_t>(philox_multiplier1) * stream >> 32) ^ static_cast<uint32_t>(group >> 32) ^ keys.low[0];
  const uint32_t c1 = philox_multiplier1 * stream, c2 = high_word(static_cast<uint32_t>(group), philox_multiplier0) ^ keys.high[0];
  return philox_from(1, c0, c1, c2, philox_multiplier0 * static_cast<uint32_t>(group), keys);
}
// The same for groups below 2^32 and the first two streams: half of the first two rounds is then one for all of them.
FL_HD PhiloxWords philox_of_few(uint32_t group, uint32_t stream, const PhiloxKeys& keys) {
  const uint32_t c2 = high_word(group, philox_multiplier0) ^ keys.high[0];
  const uint32_t low_key = philox_multiplier1 * stream ^ keys.low[1], high_key = high_word(keys.low[0], philox_multiplier0) ^ keys.high[1];
  return philox_from(2, high_word(c2, philox_multiplier1) ^ low_key, philox_multiplier1 * c2, philox_multiplier0 * group ^ high_key,
                     philox_multiplier0 * keys.low[0], keys);
}
FL_HD PhiloxWords philox(uint64_t group, uint32_t stream, uint64_t seed) { return philox(group, stream, PhiloxKeys(seed)); }

// Number k of a counter's eight.
FL_HD uint32_t number_of(const PhiloxWords& words, int k) {
  const uint32_t* w = words.word;
  const uint32_t word = k < 4 ? (k < 2 ? w[0] : w[1]) : (k < 6 ? w[2] : w[3]);  // an index would put the words into memory
  return k % 2 == 0 ? word & 0xffff : word >> 16;
}

// What a random activation takes: the number of a 16-bit half word, moved to the middle of its interval of (0, 1).
// beyond: what has been added to it.
template <class T> FL_HD T uniform_of(T number, float beyond = 0.0f) {
  return multiply_add(number, T(0x1p-16f), T(0x1p-17f - beyond * 0x1p-16f));
}

// round(65536 p), where 0 < p < 1 becomes neither 0 nor 65536.
FL_HD int32_t dropout_threshold(double p) {
  if (p <= 0) return 0;
  if (p >= 1) return 65536;
  const double rounded = ::nearbyint(p * 65536);
  return static_cast<int32_t>(rounded < 1 ? 1 : rounded > 65535 ? 65535 : rounded);
}

// What kept values are multiplied by, so that the mean is exact.
FL_HD double dropout_keep_scale(double p) { return p < 1 ? 65536.0 / (65536 - dropout_threshold(p)) : 0.0; }

}  // namespace FL_NAMESPACE
}  // namespace fastlayers
