// Vectors of neighbouring elements between memory and registers, converted to the type they are computed in; 16-bit results are rounded once.
#pragma once

#include "../common/scalar.h"

namespace fastlayers::cuda {

template <int bytes> struct alignas(bytes) Words {
  uint32_t word[bytes / 4];
};

template <class Number, int count> struct alignas(count * sizeof(Number)) Row {
  Number number[count];
};

__device__ __forceinline__ float2 unpacked(uint32_t word, BFloat16) {
  float2 pair;
  asm("shl.b32 %0, %2, 16; and.b32 %1, %2, 0xffff0000;" : "=f"(pair.x), "=f"(pair.y) : "r"(word));
  return pair;
}
__device__ __forceinline__ float2 unpacked(uint32_t word, Half) {
  float2 pair;
  asm("{.reg .b16 low, high; mov.b32 {low, high}, %2; cvt.f32.f16 %0, low; cvt.f32.f16 %1, high;}" : "=f"(pair.x), "=f"(pair.y) : "r"(word));
  return pair;
}
__device__ __forceinline__ uint32_t packed(float low, float high, BFloat16) {
  uint32_t word;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(high), "f"(low));
  return word;
}
__device__ __forceinline__ uint32_t packed(float low, float high, Half) {
  uint32_t word;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(high), "f"(low));
  return word;
}

// One element.
__device__ __forceinline__ float load(const float* address) { return *address; }
__device__ __forceinline__ double load(const double* address) { return *address; }
template <class Storage> __device__ __forceinline__ float load(const Storage* address) { return unpacked(address->bits, Storage{}).x; }
__device__ __forceinline__ void store(float* address, float value) { *address = value; }
__device__ __forceinline__ void store(double* address, double value) { *address = value; }
template <class Storage> __device__ __forceinline__ void store(Storage* address, float value) {
  address->bits = static_cast<uint16_t>(packed(value, 0.0f, Storage{}));
}

// `width` elements, in accesses as wide as may be; the address is a multiple of their size.
template <int width, class Storage, class T> __device__ __forceinline__ void load_vector(const Storage* address, T (&values)[width]) {
  constexpr int bytes = width * sizeof(Storage) < 16 ? width * sizeof(Storage) : 16, count = bytes / sizeof(Storage);
#pragma unroll
  for (int i = 0; i < width; i += count) {
    if constexpr (sizeof(Storage) == 2) {
      const Words<bytes> words = *reinterpret_cast<const Words<bytes>*>(address + i);
#pragma unroll
      for (int j = 0; j < count; j += 2) {
        const float2 pair = unpacked(words.word[j / 2], Storage{});
        values[i + j] = pair.x;
        values[i + j + 1] = pair.y;
      }
    } else {
      const Row<Storage, count> numbers = *reinterpret_cast<const Row<Storage, count>*>(address + i);
#pragma unroll
      for (int j = 0; j < count; ++j) values[i + j] = numbers.number[j];
    }
  }
}

template <int width, class Storage, class T> __device__ __forceinline__ void store_vector(Storage* address, const T (&values)[width]) {
  constexpr int bytes = width * sizeof(Storage) < 16 ? width * sizeof(Storage) : 16, count = bytes / sizeof(Storage);
#pragma unroll
  for (int i = 0; i < width; i += count) {
    if constexpr (sizeof(Storage) == 2) {
      Words<bytes> words;
#pragma unroll
      for (int j = 0; j < count; j += 2) words.word[j / 2] = packed(values[i + j], values[i + j + 1], Storage{});
      *reinterpret_cast<Words<bytes>*>(address + i) = words;
    } else {
      Row<Storage, count> numbers;
#pragma unroll
      for (int j = 0; j < count; ++j) numbers.number[j] = values[i + j];
      *reinterpret_cast<Row<Storage, count>*>(address + i) = numbers;
    }
  }
}

// A thread's vector: elements first + j of the tensor for low <= j < high. Where it is whole, which is all of them and aligned in memory,
// low and high may be missing.
struct Place {
  int64_t first;
  int low, high, partial;

  __device__ __forceinline__ bool whole() const { return !partial; }
  __device__ __forceinline__ bool has(int j) const { return whole() || (j >= low && j < high); }
};

// What a vector does not have is 0.
template <int width, class Storage, class T> __device__ __forceinline__ void load(const void* tensor, const Place& place, T (&values)[width]) {
  const Storage* const address = static_cast<const Storage*>(tensor) + place.first;
  if (__builtin_expect(place.whole(), true)) return load_vector(address, values);
#pragma unroll
  for (int j = 0; j < width; ++j) values[j] = place.has(j) ? load(address + j) : T(0);
}
template <class Storage, int width, class T> __device__ __forceinline__ void store(void* tensor, const Place& place, const T (&values)[width]) {
  Storage* const address = static_cast<Storage*>(tensor) + place.first;
  if (__builtin_expect(place.whole(), true)) return store_vector(address, values);
#pragma unroll
  for (int j = 0; j < width; ++j) {
    if (place.has(j)) store(address + j, values[j]);
  }
}

}  // namespace fastlayers::cuda
