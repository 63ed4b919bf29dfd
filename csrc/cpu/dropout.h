// The 16-bit numbers of dropout and of random activations on vectors: as many Philox counters at a time as 64-bit lanes fit in a register.
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

// a ^ b ^ c, one instruction where the processor has it.
FL_HD Counters exclusive_or(Counters a, Counters b, Counters c) {
#if defined(FL_AVX512)
  return {(Counters::Lanes)_mm512_ternarylogic_epi64((__m512i)a.lanes, (__m512i)b.lanes, (__m512i)c.lanes, 0x96)};
#else
  return a ^ b ^ c;
#endif
}

// The lower words of low, and above them the lower words of high.
FL_HD Counters join_words(Counters low, Counters high) {
#if defined(FL_AVX512)
  return {(Counters::Lanes)_mm512_mask_shuffle_epi32((__m512i)low.lanes, 0xaaaa, (__m512i)high.lanes, _MM_PERM_CCAA)};
#else
  return (low & Counters(static_cast<uint64_t>(0xffffffff))) | (high << 32);
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

// The keys of the rounds, as wide as counters.
struct WideKeys {
  uint64_t low[philox_rounds], high[philox_rounds];

  explicit WideKeys(uint64_t seed) {
    const PhiloxKeys keys(seed);
    for (int round = 0; round < philox_rounds; ++round) {
      low[round] = keys.low[round];
      high[round] = keys.high[round];
    }
  }
};

constexpr int counter_vectors = FL_VECTOR_BYTES == 64 ? 4 : 2;  // worked on side by side: one alone would wait for its products
constexpr int numbers_per_store = counter_vectors * Counters::size * numbers_per_counter;

// The numbers of elements first .. first + numbers_per_store - 1; first is a multiple of numbers_per_store, so that all counters have
// one high word. In the first two rounds what is the same for all counters is worked out once.
FL_HD void store_numbers(uint16_t* numbers, uint64_t first, uint32_t stream, const WideKeys& keys) {
  const uint64_t group = first / numbers_per_counter;
  const uint64_t product_of_stream = static_cast<uint64_t>(philox_multiplier1) * stream;
  const uint32_t word0 = static_cast<uint32_t>((product_of_stream >> 32) ^ (group >> 32) ^ keys.low[0]);
  const uint64_t product_of_word0 = static_cast<uint64_t>(philox_multiplier0) * word0;
  const Counters multiplier0(static_cast<uint64_t>(philox_multiplier0)), multiplier1(static_cast<uint64_t>(philox_multiplier1));
  const Counters first_high_key(keys.high[0]), low_key_and_stream(keys.low[1] ^ product_of_stream);
  const Counters high_key_and_word0(keys.high[1] ^ (product_of_word0 >> 32));
  Counters::Lanes lanes;
  for (int i = 0; i < Counters::size; ++i) lanes[i] = i;
  Counters c0[counter_vectors], c1[counter_vectors], c2[counter_vectors], c3[counter_vectors];
#pragma GCC unroll 4
  for (int j = 0; j < counter_vectors; ++j) {
    const Counters product0 = multiply_words(Counters{lanes} + Counters(group + j * Counters::size), multiplier0);
    const Counters product1 = multiply_words((product0 >> 32) ^ first_high_key, multiplier1);
    c0[j] = (product1 >> 32) ^ low_key_and_stream;
    c1[j] = product1;
    c2[j] = product0 ^ high_key_and_word0;
    c3[j] = Counters(product_of_word0);
  }
#pragma GCC unroll 10
  for (int round = 2; round < philox_rounds; ++round) {
    const Counters low_key(keys.low[round]), high_key(keys.high[round]);
#pragma GCC unroll 4
    for (int j = 0; j < counter_vectors; ++j) {
      const Counters product0 = multiply_words(c0[j], multiplier0), product1 = multiply_words(c2[j], multiplier1);
      c0[j] = exclusive_or(product1 >> 32, c1[j], low_key);
      c2[j] = exclusive_or(product0 >> 32, c3[j], high_key);
      c1[j] = product1;
      c3[j] = product0;
    }
  }
#pragma GCC unroll 4
  for (int j = 0; j < counter_vectors; ++j) {
    store_interleaved(numbers + j * Counters::size * numbers_per_counter, join_words(c0[j], c1[j]), join_words(c2[j], c3[j]));
  }
}

// What the loops will read and write beside the numbers: memory at element 0, and bytes per element. Fetching it while the processor
// is busy with numbers hides the one behind the other.
struct Streams {
  static constexpr int most = 4;
  const char* at[most];
  int count = 0, element_bytes = 1;

  FL_HD void add(const void* tensor) {
    if (tensor) at[count++] = static_cast<const char*>(tensor);
  }
  FL_HD void fetch(int64_t first, int64_t elements) const {
    for (int k = 0; k < count; ++k) {
      const char* const begin = at[k] + first * element_bytes;
      for (int64_t byte = 0; byte < elements * element_bytes; byte += 64) __builtin_prefetch(begin + byte);
    }
  }
};

// The numbers of a stretch of elements, kept in L1 until a run outside it is asked for.
class RandomNumbers {
 public:
  // Elements that one call may ask for: few enough that the processor overlaps making numbers with waiting for memory.
  static constexpr int64_t longest = 512;

  explicit RandomNumbers(uint64_t seed, uint32_t stream = dropout_stream) : keys_(seed), stream_(stream) {}

  // Numbers of elements first .. first + count - 1, in memory order, followed by at least 16 readable ones. Elements up to
  // last - 1 will be asked for next.
  const uint16_t* at(int64_t first, int64_t count, int64_t last, const Streams& streams = {}) {
    if (first < begin_ || first + count > end_) fill(first, larger(count, last - first), streams);
    return numbers_ + (first - begin_);
  }

 private:
  __attribute__((noinline)) void fill(int64_t first, int64_t wanted, const Streams& streams) {
    begin_ = first / numbers_per_store * numbers_per_store;
    const int64_t end = first + (wanted < longest ? wanted : longest);
    uint16_t* next = numbers_;
    int64_t i = begin_;
    for (; i < end; i += numbers_per_store, next += numbers_per_store) {
      streams.fetch(i, numbers_per_store);
      store_numbers(next, i, stream_, keys_);
    }
    end_ = i;
  }

  const WideKeys keys_;
  const uint32_t stream_;
  int64_t begin_ = 0, end_ = 0;
  alignas(64) uint16_t numbers_[longest + 2 * numbers_per_store + 16];
};

// How elements are counted: one by one, or (sample > 0) all elements of a channel of a sample as one, number n * channels + c. Memory
// is samples of `sample` elements, each any number of times `channels` rows of `length`.
struct MaskIndex {
  int64_t sample, channels, length;
};

// The numbers of a run of elements, each by its own index or by its channel's.
class MaskNumbers {
  static constexpr int64_t channels_ahead = 256;  // whose numbers are drawn with one's, as those visited next

 public:
  MaskNumbers(uint64_t seed, const MaskIndex& index) : numbers_(seed), index_(index) {}

  // As RandomNumbers::at.
  const uint16_t* at(int64_t first, int64_t count, int64_t last, const Streams& streams) {
    if (!index_.sample) return numbers_.at(first, count, last, streams);
    spread(first, first + count);
    return spread_;
  }

 private:
  __attribute__((noinline)) void spread(int64_t first, int64_t end) {
    uint16_t* next = spread_;
    for (int64_t i = first; i < end;) {
      const int64_t row = i / index_.sample * index_.channels, channel = i / index_.length % index_.channels;
      const bool one_channel = index_.length > 1;
      const int64_t count = smaller(end - i, one_channel ? index_.length - i % index_.length : index_.channels - channel);
      const int64_t distinct = one_channel ? 1 : count, next_row = one_channel ? row + channel + channels_ahead : row + index_.channels;
      const uint16_t* const numbers = numbers_.at(row + channel, distinct, next_row);
      for (int64_t j = 0; j < count; ++j) next[j] = numbers[one_channel ? 0 : j];
      next += count;
      i += count;
    }
  }

  RandomNumbers numbers_;
  const MaskIndex index_;
  alignas(64) uint16_t spread_[RandomNumbers::longest + 16];
};

typedef uint16_t QuarterWords __attribute__((vector_size(FL_VECTOR_BYTES / 4)));

// kept where the element's number reaches the threshold, else dropped.
FL_HD Vector<float> kept_or_dropped(const uint16_t* numbers, int32_t threshold, Vector<float> kept, Vector<float> dropped) {
  using Truth = Native<float>::Truth;
  const Truth wide = reinterpret_cast<Truth>(widen(copy_in<HalfWords>(numbers)));
  return select(Mask<float>{wide >= threshold - Truth{}}, kept, dropped);
}
FL_HD Vector<double> kept_or_dropped(const uint16_t* numbers, int32_t threshold, Vector<double> kept, Vector<double> dropped) {
  using Truth = Native<double>::Truth;
  const Truth wide = __builtin_convertvector(copy_in<QuarterWords>(numbers), Truth);
  return select(Mask<double>{wide >= threshold - Truth{}}, kept, dropped);
}

template <class Scalar>
FL_HD Interleaved<Scalar> kept_or_dropped(
    const uint16_t* numbers, int32_t threshold, Interleaved<Scalar> kept, Interleaved<Scalar> dropped) {
  return {kept_or_dropped(numbers, threshold, kept.first, dropped.first),
          kept_or_dropped(numbers + Vector<Scalar>::size, threshold, kept.second, dropped.second)};
}

// (number + 1/2) / 65536 of each element; the last argument says of which type.
FL_HD Vector<float> uniform(const uint16_t* numbers, Vector<float>) {
  const Native<float>::Truth wide = reinterpret_cast<Native<float>::Truth>(widen(copy_in<HalfWords>(numbers)));
  return uniform_of(Vector<float>(__builtin_convertvector(wide, Vector<float>::Lanes)));
}
FL_HD Vector<double> uniform(const uint16_t* numbers, Vector<double>) {
  const Native<double>::Truth wide = __builtin_convertvector(copy_in<QuarterWords>(numbers), Native<double>::Truth);
  return uniform_of(Vector<double>(__builtin_convertvector(wide, Vector<double>::Lanes)));
}
template <class Scalar> FL_HD Interleaved<Scalar> uniform(const uint16_t* numbers, Interleaved<Scalar>) {
  return {uniform(numbers, Vector<Scalar>()), uniform(numbers + Vector<Scalar>::size, Vector<Scalar>())};
}

}  // namespace
}  // namespace fastlayers::FL_CPU_CAPABILITY
