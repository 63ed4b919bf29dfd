// How the blocks of a launch find their part of a list of tensors, and add up what their threads have.
#pragma once

#include "optimizers.h"
#include "vectors.cuh"

namespace fastlayers::cuda {

// A vector of elements, or one.
template <class Storage, class T, int size> __device__ __forceinline__ void load_elements(const Storage* address, T (&values)[size]) {
  if constexpr (size == 1) values[0] = load(address);
  else load_vector(address, values);
}
template <class Storage, class T, int size> __device__ __forceinline__ void store_elements(Storage* address, const T (&values)[size]) {
  if constexpr (size == 1) store(address, values[0]);
  else store_vector(address, values);
}

__device__ __forceinline__ const int64_t* first_chunks(const ListTable& list) { return static_cast<const int64_t*>(list.memory); }
__device__ __forceinline__ const UpdateTensor* tensors(const ListTable& list) {
  return reinterpret_cast<const UpdateTensor*>(static_cast<const char*>(list.memory) + list.tensors_offset());
}
__device__ __forceinline__ unsigned* tickets(const ListTable& list) {
  return reinterpret_cast<unsigned*>(static_cast<char*>(list.memory) + list.tickets_offset());
}

// The tensor that a chunk belongs to. All lanes of a warp look together: each step leaves one part of 32.
__device__ __forceinline__ int64_t find_tensor(const ListTable& list, int64_t chunk) {
  const int lane = threadIdx.x % 32;
  int64_t low = 0, high = list.count;
  while (high - low > 1) {
    const int64_t step = (high - low + 31) / 32, probe = low + lane * step;
    const unsigned before = __ballot_sync(0xffffffff, probe < high && first_chunks(list)[probe] <= chunk);
    low += (__popc(before) - 1) * step;
    high = high < low + step ? high : low + step;
  }
  return low;
}

// The part of a list that a block takes.
struct BlockPart {
  UpdateTensor tensor;
  int64_t position, first_chunk, past_chunk;  // of the tensor in the list, and of its chunks
};

// Looks it up, by the lanes of one warp.
__device__ __forceinline__ void find_part(const ListTable& list, BlockPart& part) {
  constexpr int words = sizeof(UpdateTensor) / sizeof(int64_t);
  static_assert(words <= 32 && sizeof(UpdateTensor) % sizeof(int64_t) == 0);
  const int lane = threadIdx.x % 32;
  const int64_t position = find_tensor(list, blockIdx.x);
  if (lane < words) reinterpret_cast<int64_t*>(&part.tensor)[lane] = reinterpret_cast<const int64_t*>(tensors(list) + position)[lane];
  if (lane == 0) {
    part.position = position;
    part.first_chunk = first_chunks(list)[position];
    part.past_chunk = first_chunks(list)[position + 1];
  }
  __syncwarp();
}

// Where the block begins in its tensor, and how many elements it takes.
__device__ __forceinline__ int64_t first_element(const ListTable& list, const BlockPart& part) {
  return (blockIdx.x - part.first_chunk) * list.chunk;
}
__device__ __forceinline__ int elements_from(const ListTable& list, int64_t begin, int64_t numel) {
  return static_cast<int>(numel - begin < list.chunk ? numel - begin : list.chunk);
}

// The sum over all threads of the block, in a fixed order; valid in thread 0.
__device__ __forceinline__ double block_sum(double value) {
  __shared__ double sums[32];
  for (int distance = 16; distance; distance /= 2) value += __shfl_down_sync(0xffffffff, value, distance);
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = blockDim.x / 32;
  __syncthreads();  // whoever reads the sums of a call before
  if (lane == 0) sums[warp] = value;
  __syncthreads();
  value = 0;
  if (threadIdx.x == 0) {
    for (int i = 0; i < warps; ++i) value += sums[i];
  }
  return value;
}

}  // namespace fastlayers::cuda
