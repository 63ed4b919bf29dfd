// Loads and stores of a thread: some neighbouring elements at once, with conversion to and from the 16-bit types.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "../common/platform.h"

namespace fastlayers::cuda {

// What a storage type is computed in.
template <class Storage> struct Compute {
  using type = float;
};
template <> struct Compute<double> {
  using type = double;
};

// Neighbouring elements, moved by one instruction where they are 16 bytes or less.
template <class Storage, int size> struct alignas(size * sizeof(Storage) < 16 ? size * sizeof(Storage) : 16) Pack {
  Storage element[size];
};

__device__ __forceinline__ float to_compute(float x) { return x; }
__device__ __forceinline__ double to_compute(double x) { return x; }
__device__ __forceinline__ float to_compute(Half x) { return __half2float(__ushort_as_half(x.bits)); }
__device__ __forceinline__ float to_compute(BFloat16 x) { return __uint_as_float(static_cast<uint32_t>(x.bits) << 16); }

// Rounded to nearest even; NaN stays NaN.
__device__ __forceinline__ float to_storage(float x, float) { return x; }
__device__ __forceinline__ double to_storage(double x, double) { return x; }
__device__ __forceinline__ Half to_storage(float x, Half) { return {__half_as_ushort(__float2half_rn(x))}; }
__device__ __forceinline__ BFloat16 to_storage(float x, BFloat16) { return {__bfloat16_as_ushort(__float2bfloat16_rn(x))}; }

template <int size, class Storage> __device__ __forceinline__ void load(const Storage* address, typename Compute<Storage>::type* values) {
  const auto pack = *reinterpret_cast<const Pack<Storage, size>*>(address);
#pragma unroll
  for (int i = 0; i < size; ++i) values[i] = to_compute(pack.element[i]);
}

template <int size, class Storage> __device__ __forceinline__ void store(Storage* address, const Pack<Storage, size>& pack) {
  *reinterpret_cast<Pack<Storage, size>*>(address) = pack;
}

template <int size, class Storage, class Scalar> __device__ __forceinline__ void store(Storage* address, const Scalar* values) {
  Pack<Storage, size> pack;
#pragma unroll
  for (int i = 0; i < size; ++i) pack.element[i] = to_storage(values[i], Storage{});
  store(address, pack);
}

}  // namespace fastlayers::cuda
