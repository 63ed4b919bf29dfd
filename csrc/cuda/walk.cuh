// The walk of launch.h as one thread goes it, per-channel values beside it, and the random numbers of its elements.
#pragma once

#include "../common/dropout.h"
#include "launch.h"
#include "vectors.cuh"

namespace fastlayers::cuda {

// A value per channel as a thread needs it: one for all elements of its vectors, or along one for each.
template <class T, int width, bool along> struct PerChannel;
template <class T, int width> struct PerChannel<T, width, false> {
  T value;
  __device__ __forceinline__ T operator[](int) const { return value; }
};
template <class T, int width> struct PerChannel<T, width, true> {
  T values[width];
  __device__ __forceinline__ T operator[](int j) const { return values[j]; }
};

template <class T, int width, bool along>
__device__ __forceinline__ void multiply(PerChannel<T, width, along>& a, const PerChannel<T, width, along>& b) {
  if constexpr (!along) a.value *= b.value;
  else for (int j = 0; j < width; ++j) a.values[j] *= b.values[j];
}
template <class T, int width, bool along> __device__ __forceinline__ void invert(PerChannel<T, width, along>& a) {
  if constexpr (!along) a.value = T(1) / a.value;
  else for (int j = 0; j < width; ++j) a.values[j] = T(1) / a.values[j];
}

// Numbers of 16 bits, two in a word.
template <int width> struct Numbers {
  uint32_t word[width / 2];
  // Number j as what a random activation takes. The bits of the float 2^23 + n are those of 2^23, and n.
  template <class T> __device__ __forceinline__ T uniform(int j) const {
    float number;
    asm("prmt.b32 %0, %1, %2, %3;" : "=f"(number) : "r"(word[j / 2]), "r"(0x4b00), "r"(j % 2 ? 0x5432 : 0x5410));
    return uniform_of(static_cast<T>(number), 8388608.0f);
  }
  // Whether number j is at least a threshold, which stands in the upper half of its word.
  __device__ __forceinline__ bool reaches(int j, uint32_t threshold) const {
    return (j % 2 ? word[j / 2] : word[j / 2] << 16) >= threshold;
  }
  // The same number everywhere.
  __device__ __forceinline__ static Numbers all(uint32_t number) {
    Numbers result;
#pragma unroll
    for (int i = 0; i < width / 2; ++i) result.word[i] = number | number << 16;
    return result;
  }
  // Moves every number to the place before its own; a new one becomes the last.
  __device__ __forceinline__ void push(uint32_t number) {
#pragma unroll
    for (int i = 0; i < width / 2; ++i) word[i] = word[i] >> 16 | (i + 1 < width / 2 ? word[i + 1] : number) << 16;
  }
};

// Of the elements index, index + 1, ...; index is a multiple of width, and below 2^35 as threads count vectors.
template <int width> __device__ __forceinline__ Numbers<width> numbers_at(int64_t index, uint32_t stream, const PhiloxKeys& keys) {
  const PhiloxWords philox_words = philox_of_few(static_cast<uint32_t>(static_cast<uint64_t>(index) / numbers_per_counter), stream, keys);
  const auto& [word] = philox_words;
  const int start = static_cast<int>(index) & (numbers_per_counter - 1);
  if constexpr (width == 8) return {{word[0], word[1], word[2], word[3]}};
  else if constexpr (width == 4) return {{start ? word[2] : word[0], start ? word[3] : word[1]}};
  else return {{start < 4 ? (start ? word[1] : word[0]) : start == 4 ? word[2] : word[3]}};
}

// Of one element, anywhere.
template <class Keys> __device__ __forceinline__ uint32_t number_at(int64_t index, uint32_t stream, const Keys& keys) {
  return number_of(philox(static_cast<uint64_t>(index) / numbers_per_counter, stream, keys), static_cast<int>(index) & (numbers_per_counter - 1));
}

template <int width, bool along> class Cursor {
 public:
  __device__ __forceinline__ explicit Cursor(const Walk& walk) : walk_(walk) {
    const int block = blockIdx.x % walk.column_blocks;
    chunk_ = blockIdx.x / walk.column_blocks;
    int lane = threadIdx.x;
    if constexpr (along) {
      column_ = block * walk.lanes + threadIdx.x % walk.lanes;
      lane = threadIdx.x / walk.lanes;
      first_channel_ = present() ? column_ * width % walk.channels : 0;
    } else {
      column_ = first_channel_ = block;
    }
    end_ = static_cast<int>(smaller(static_cast<int64_t>(chunk_ + 1) * walk.chunk_rows, walk.rows));
    row_ = chunk_ * walk.chunk_rows + lane;
    if constexpr (along) {
      if (!present()) row_ = end_;
      first_ = (static_cast<int64_t>(row_) * walk.columns + column_) * width;
    } else {
      const int image = image_of(row_);
      within_ = row_ - image * walk.row_vectors;
      first_ = planar_first(walk, image, column_, within_);
    }
  }

  __device__ __forceinline__ bool more() const { return row_ < end_; }
  __device__ __forceinline__ void advance() {
    row_ += walk_.row_step;
    const bool wraps = !along && within_ >= walk_.within_limit;
    first_ += wraps ? walk_.first_wrap : walk_.first_step;
    if (!along) within_ += wraps ? walk_.within_wrap : walk_.within_step;
  }
  __device__ __forceinline__ int chunk() const { return chunk_; }
  // Of the chunk; and how many of them the block's threads take at first.
  __device__ __forceinline__ int rows() const { return end_ - chunk_ * walk_.chunk_rows; }
  __device__ __forceinline__ int rows_at_once() const { return static_cast<int>(smaller(walk_.row_step, rows())); }
  __device__ __forceinline__ int column() const { return column_; }
  __device__ __forceinline__ bool present() const { return !along || column_ < walk_.columns; }

  // The vector at which the thread stands.
  __device__ __forceinline__ Place place() {
    Place place;
    place.partial = 0;
    if (!walk_.whole) {
      if constexpr (along) {
        place.low = 0;
        place.high = static_cast<int>(smaller(walk_.numel - first_, width));
      } else {
        const int64_t begin = (static_cast<int64_t>(image_of(row_)) * walk_.channels + column_) * walk_.length;
        const int64_t first = first_ = (begin / width + within_) * width;
        place.low = static_cast<int>(larger(begin - first, 0));
        place.high = static_cast<int>(smaller(begin + walk_.length - first, width));
      }
      place.partial = !walk_.aligned || place.low != 0 || place.high != width;
    }
    place.first = first_;
    return place;
  }

  // values[c] for the channel of each element of the thread's vectors, those of others where the thread has none. wide: whole vectors can
  // be read.
  template <class T> __device__ __forceinline__ PerChannel<T, width, along> per_channel(const void* values, bool wide) const {
    const T* const source = static_cast<const T*>(values);
    PerChannel<T, width, along> result;
    if constexpr (along) {
      if (wide) {
        load_vector(source + first_channel_, result.values);
      } else {
        int channel = first_channel_;
#pragma unroll
        for (int j = 0; j < width; ++j) {
          result.values[j] = source[channel];
          channel = channel + 1 == walk_.channels ? 0 : channel + 1;
        }
      }
    } else {
      result.value = source[first_channel_];
    }
    return result;
  }
  // The same number for all elements.
  template <class T> __device__ __forceinline__ static PerChannel<T, width, along> everywhere(T number) {
    PerChannel<T, width, along> result;
    if constexpr (!along) result.value = number;
    else for (int j = 0; j < width; ++j) result.values[j] = number;
    return result;
  }

  // The dropout numbers of a vector: each element's own, or where channels are dropped whole that of its channel.
  __device__ __forceinline__ Numbers<width> dropout_numbers(const Place& place, const PhiloxKeys& keys) const {
    const bool whole_channels = walk_.sample_rows;
    if (whole_channels && !along) return Numbers<width>::all(number_at(channel_index(image_of(row_), first_channel_), dropout_stream, keys));
    if (whole_channels && walk_.channels % width) return numbers_of_channels(keys);
    return numbers_at<width>(whole_channels ? channel_index(row_, first_channel_) : place.first, dropout_stream, keys);
  }

 private:
  // Element by element; a vector may reach from one sample into the next.
  __device__ __forceinline__ Numbers<width> numbers_of_channels(const PhiloxKeys& keys) const {
    const int images = walk_.columns * width / walk_.channels, offset = column_ * width;
    int image = row_ * images + offset / walk_.channels, channel = first_channel_;
    Numbers<width> numbers = {};
#pragma unroll 1
    for (int j = 0; j < width; ++j) {
      numbers.push(number_at(channel_index(image, channel), dropout_stream, keys));
      channel = channel + 1 == walk_.channels ? 0 : channel + 1;
      image += channel == 0;
    }
    return numbers;
  }
  // The image, counted from 0, of so many planar vectors of a channel.
  __device__ __forceinline__ int image_of(int vectors) const {
    return walk_.row_vectors == 1 ? vectors : __umulhi(vectors, walk_.multiplier) >> walk_.bits;
  }
  // Divided in 32 bits: a division of 64 bits is a call, which costs the kernel a stack.
  __device__ __forceinline__ int64_t channel_index(int image, int channel) const {
    return static_cast<int64_t>(image / walk_.sample_rows) * walk_.channels + channel;
  }

  const Walk& walk_;
  int chunk_, column_, first_channel_, row_, end_;
  int within_;     // planar: which vector of its row
  int64_t first_;  // its first element, where every vector is whole
};

}  // namespace fastlayers::cuda
