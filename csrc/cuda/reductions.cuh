// Sums over the threads of a block, in a fixed order.
#pragma once

#include "walk.cuh"

namespace fastlayers::cuda {

constexpr int most_threads = 128;  // of a block that walks
constexpr unsigned all_lanes = 0xffffffff;

// What a thread adds up of one sum: over all elements of its channel, or along of each column's by itself.
template <class T, int width, bool along> struct Sum;
template <class T, int width> struct Sum<T, width, false> {
  T value = 0;

  __device__ __forceinline__ void add(const T (&terms)[width]) {
    T halves[width];
#pragma unroll
    for (int j = 0; j < width; ++j) halves[j] = terms[j];
#pragma unroll
    for (int half = width / 2; half; half /= 2) {
#pragma unroll
      for (int j = 0; j < half; ++j) halves[j] += halves[j + half];
    }
    value += halves[0];
  }
  __device__ __forceinline__ void add_squares(const T (&terms)[width]) {
    T squares[width];
#pragma unroll
    for (int j = 0; j < width; ++j) squares[j] = terms[j] * terms[j];
    add(squares);
  }
  __device__ __forceinline__ T& operator[](int) { return value; }

  // Over all threads, in every one of them.
  __device__ __forceinline__ void over_block(T* shared, const Walk&) {
    for (int offset = 16; offset; offset /= 2) value += __shfl_xor_sync(all_lanes, value, offset);
    if (threadIdx.x % 32 == 0) shared[threadIdx.x / 32] = value;
    __syncthreads();
    value = shared[0];
    for (int warp = 1; warp < blockDim.x / 32; ++warp) value += shared[warp];
    __syncthreads();
  }
};
template <class T, int width> struct Sum<T, width, true> {
  T values[width] = {};

  __device__ __forceinline__ void add(const T (&terms)[width]) {
#pragma unroll
    for (int j = 0; j < width; ++j) values[j] += terms[j];
  }
  __device__ __forceinline__ void add_squares(const T (&terms)[width]) {
#pragma unroll
    for (int j = 0; j < width; ++j) values[j] = multiply_add(terms[j], terms[j], values[j]);
  }
  __device__ __forceinline__ T& operator[](int j) { return values[j]; }

  // Over the threads that walk down the same column, in every one of them. Values lie in shared memory as [row, column]; a thread adds up
  // every so many-th of them, which are of one column, and the first threads what is left of theirs.
  __device__ __forceinline__ void over_block(T* shared, const Walk& walk) {
    const int columns = walk.lanes * width, threads = blockDim.x, thread = threadIdx.x, first = thread % walk.lanes * width;
    if (columns > threads) return over_few_rows(shared, walk);
    store_vector(shared + thread * width, values);
    __syncthreads();
    T total = shared[thread];
#pragma unroll
    for (int k = 1; k < width; ++k) total += shared[thread + k * threads];
    __syncthreads();
    shared[thread] = total;
    __syncthreads();
    if (thread < columns) {
      for (int other = thread + columns; other < threads; other += columns) total += shared[other];
      shared[thread] = total;
    }
    __syncthreads();
    load_vector(shared + first, values);
    __syncthreads();
  }

 private:
  __device__ __forceinline__ void over_few_rows(T* shared, const Walk& walk) {
    store_vector(shared + threadIdx.x * width, values);
    __syncthreads();
    for (int row = 0, rows = blockDim.x / walk.lanes; row < rows; ++row) {
      T others[width];
      load_vector(shared + (row * walk.lanes + threadIdx.x % walk.lanes) * width, others);
#pragma unroll
      for (int j = 0; j < width; ++j) values[j] = row ? values[j] + others[j] : others[j];
    }
    __syncthreads();
  }
};

// Writes the block's sums to those of its chunk.
template <class T, int width, bool along>
__device__ __forceinline__ void store_sum(const Cursor<width, along>& cursor, const Walk& walk, T* sums, const Sum<T, width, along>& sum) {
  if constexpr (!along) {
    if (threadIdx.x == 0) sums[cursor.column()] = sum.value;
  } else if (static_cast<int>(threadIdx.x) < walk.lanes && cursor.present()) {
    store_vector(sums + cursor.column() * width, sum.values);
  }
}

// Second stage: sum over r < rows of value(r, channel) for the block's channels, in the threads of row 0.
template <class Value> __device__ __forceinline__ double sum_over_rows(int64_t rows, bool present, Value value) {
  __shared__ double shared[finish_rows][finish_lanes];
  const int lane = threadIdx.x % finish_lanes, row = threadIdx.x / finish_lanes;
  double total = 0;
  if (present) {
    for (int64_t r = row; r < rows; r += finish_rows) total += value(r);
  }
  shared[row][lane] = total;
  __syncthreads();
  for (int other = 1; other < finish_rows; ++other) total += shared[other][lane];
  return total;
}

}  // namespace fastlayers::cuda
