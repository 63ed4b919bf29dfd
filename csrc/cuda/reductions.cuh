// Sums over the threads of a block, in a fixed order.
#pragma once

#include "walk.cuh"

namespace fastlayers::cuda {

constexpr int most_threads = 128;  // of a block that walks
constexpr unsigned all_lanes = 0xffffffff;

// The number of the lane whose index differs in these bits.
__device__ __forceinline__ float across(float number, int bits) {
  float other;
  asm volatile("shfl.sync.bfly.b32 %0, %1, %2, 0x1f, 0xffffffff;" : "=f"(other) : "f"(number), "r"(bits));
  return other;
}
__device__ __forceinline__ double across(double number, int bits) { return __shfl_xor_sync(all_lanes, number, bits); }

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
  __device__ __forceinline__ void add_products(const T (&a)[width], const T (&b)[width]) {
    T sum = a[0] * b[0];
#pragma unroll
    for (int j = 1; j < width; ++j) sum = multiply_add(a[j], b[j], sum);
    value += sum;
  }
  __device__ __forceinline__ T& operator[](int) { return value; }

  // Over all threads, in every one of them.
  __device__ __forceinline__ void over_block(T* shared, const Walk&) {
    for (int offset = 16; offset; offset /= 2) value += across(value, offset);
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
  __device__ __forceinline__ void add_products(const T (&a)[width], const T (&b)[width]) {
#pragma unroll
    for (int j = 0; j < width; ++j) values[j] = multiply_add(a[j], b[j], values[j]);
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

// The same for several sums, each `step` behind the one before. Planar: values lie in shared memory as [sum, thread], and the threads are
// shared out among sums, so many neighbours to each.
template <int count, class T, int width>
__device__ __forceinline__ void store_sums(const Cursor<width, false>& cursor, const Walk&, T* sums, int64_t step, Sum<T, width, false> (&totals)[count]) {
  constexpr int groups = static_cast<int>(larger(power_of_two(count), most_threads / 32));  // neighbours are of one warp
  static_assert(groups <= 32, "a block has no fewer threads");
  __shared__ T shared[(count + 1) * most_threads];
  const int neighbours = blockDim.x / groups, stride = blockDim.x + neighbours;  // so that a warp reads from different banks
  const int k = threadIdx.x >> (__ffs(neighbours) - 1), first = threadIdx.x & (neighbours - 1);
#pragma unroll
  for (int i = 0; i < count; ++i) shared[i * stride + threadIdx.x] = totals[i].value;
  __syncthreads();
  T total = 0;
  if (k < count) {
    const T* value = shared + k * stride + first;
#pragma unroll
    for (int i = 0; i < groups; ++i, value += neighbours) total += *value;
  }
#pragma unroll
  for (int offset = 16; offset; offset /= 2) {
    if (offset < neighbours) total += across(total, offset);
  }
  if (k < count && first == 0) sums[k * step + cursor.column()] = total;
}
// Along: values lie there as [sum, row, column].
template <int count, class T, int width>
__device__ __forceinline__ void store_sums(const Cursor<width, true>& cursor, const Walk& walk, T* sums, int64_t step, Sum<T, width, true> (&totals)[count]) {
  __shared__ alignas(16) T shared[count][most_threads * width];
#pragma unroll
  for (int k = 0; k < count; ++k) store_vector(shared[k] + threadIdx.x * width, totals[k].values);
  __syncthreads();
  const int columns = walk.lanes * width, bits = __ffs(columns) - 1, rows = blockDim.x / walk.lanes;
  const int first = (cursor.column() - static_cast<int>(threadIdx.x) % walk.lanes) * width;
  for (int i = threadIdx.x; i < count * columns; i += blockDim.x) {
    const int k = i >> bits, column = i & (columns - 1);
    const T* value = shared[k] + column;
    T total = 0;
#pragma unroll 4
    for (int row = 0; row < rows; ++row, value += columns) total += *value;
    if (first + column < walk.columns * width) sums[k * step + first + column] = total;
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
