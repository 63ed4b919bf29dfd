// The table of a list of tensors, which kernel takes it, and the norm of gradients in two stages.
#include "optimizers.h"

#include <cstring>

#include "lists.cuh"

namespace fastlayers::cuda {

ListTable fill_table(void* host, const UpdateTensor* tensors, int64_t count) {
  int64_t numel = 0;
  for (int64_t i = 0; i < count; ++i) numel += tensors[i].numel;
  ListTable table = {nullptr, count, chunk_size(numel), 0};
  int64_t* const first_chunks = static_cast<int64_t*>(host);
  for (int64_t i = 0; i < count; ++i) {
    first_chunks[i] = table.chunks;
    table.chunks += chunk_count(tensors[i].numel, table.chunk);
  }
  first_chunks[count] = table.chunks;
  std::memcpy(static_cast<char*>(host) + table.tensors_offset(), tensors, count * sizeof(UpdateTensor));
  return table;
}

template <class Param, class State> void update_list(const Update& u, Stream stream);

// States are of the parameters' type, float or BFloat16.
void optimizer_step(const Update& u, Stream stream) {
  using Launch = void (*)(const Update&, Stream);
  static constexpr Launch launches[4][4] = {  // [param_type][state_type]
      {update_list<float, float>, nullptr, nullptr, update_list<float, BFloat16>},
      {nullptr, update_list<double, double>, nullptr, nullptr},
      {update_list<Half, float>, nullptr, update_list<Half, Half>, update_list<Half, BFloat16>},
      {update_list<BFloat16, float>, nullptr, nullptr, update_list<BFloat16, BFloat16>},
  };
  launches[static_cast<int>(u.param_type)][static_cast<int>(u.state_type)](u, stream);
}

// In double: exact products, no overflow for anything that fits in a float.
template <class Storage> __device__ __forceinline__ void add_squares(const Storage* grad, int count, double& sum, double& invalid) {
  const auto add = [&](double value) {
    sum = fma(value, value, sum);
    if (sizeof(Storage) == 8) invalid += value - value;  // whose squares may overflow although all elements are finite
  };
  constexpr int size = 16 / sizeof(Storage);
  const int together = reinterpret_cast<uint64_t>(grad) % 16 == 0 ? count / size * size : 0;
  for (int i = threadIdx.x * size; i < together; i += list_threads * size) {
    typename Compute<Storage>::type values[size];
    load_vector(grad + i, values);
#pragma unroll
    for (int k = 0; k < size; ++k) add(values[k]);
  }
  for (int i = together + threadIdx.x; i < count; i += list_threads) add(load(grad + i));
}

template <class Storage>
__global__ void __launch_bounds__(list_threads) squares_kernel(const __grid_constant__ ListTable list, double* partials, int64_t stride) {
  __shared__ BlockPart part;
  if (threadIdx.x < 32) find_part(list, part);
  __syncthreads();
  const int64_t begin = first_element(list, part);
  double sum = 0, invalid = 0;
  add_squares(static_cast<const Storage*>(part.tensor.grad) + begin, elements_from(list, begin, part.tensor.numel), sum, invalid);
  sum = block_sum(sum);
  invalid = sizeof(Storage) == 8 ? block_sum(invalid) : sum - sum;
  if (threadIdx.x == 0) {
    partials[blockIdx.x] = sum;
    partials[stride + blockIdx.x] = invalid;
  }
}

template <class Storage> void launch_squares(const ListTable& list, double* partials, int64_t stride, Stream stream) {
  squares_kernel<Storage><<<static_cast<unsigned>(list.chunks), list_threads, 0, stream>>>(list, partials, stride);
}

void sum_squares(DataType type, const ListTable& list, double* partials, int64_t stride, Stream stream) {
  using Launch = void (*)(const ListTable&, double*, int64_t, Stream);
  static constexpr Launch launches[] = {launch_squares<float>, launch_squares<double>, launch_squares<Half>, launch_squares<BFloat16>};
  launches[static_cast<int>(type)](list, partials, stride, stream);
}

__global__ void __launch_bounds__(finish_threads) finish_squares_kernel(const double* partials, int64_t count, double* result) {
  double sum = 0, invalid = 0;
  for (int64_t i = threadIdx.x; i < count; i += finish_threads) {
    sum += partials[i];
    invalid += partials[count + i];
  }
  sum = block_sum(sum);
  invalid = block_sum(invalid);
  if (threadIdx.x == 0) {
    result[0] = sum;
    result[1] = invalid != 0 ? 1 : 0;
  }
}

void finish_squares(const double* partials, int64_t count, double* result, Stream stream) {
  finish_squares_kernel<<<1, finish_threads, 0, stream>>>(partials, count, result);
}

}  // namespace fastlayers::cuda
