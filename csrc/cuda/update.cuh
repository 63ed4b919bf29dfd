// The kernel of optimizer_step: loads, stores and rounding, whatever the update rule.
//
// A step reads and writes each byte once (Adam: 28 bytes a float32 parameter), so it runs at the speed of memory. What a block needs
// beside its elements (the numbers of the rule with their powers, the tensor's row) one warp gets ready for all.
#pragma once

#include <type_traits>

#include "../common/dropout.h"
#include "../common/rounding.h"
#include "../common/update_rules.h"
#include "lanes.cuh"
#include "lists.cuh"

namespace fastlayers::cuda {

__device__ __forceinline__ double read(StoredNumber number) {
  switch (number.type) {
    case DataType::float32: return *static_cast<const float*>(number.address);
    case DataType::float64: return *static_cast<const double*>(number.address);
    case DataType::float16: return load(static_cast<const Half*>(number.address));
    default: return load(static_cast<const BFloat16*>(number.address));
  }
}

// What one warp works out for the block.
template <class Rule, class Scalar> struct Prepared {
  BlockPart part;
  alignas(16) unsigned char rule[sizeof(Rule)];  // which has no default constructor
  Scalar factor;
};

// The tensor's scalars as this step takes them. The last of its blocks writes them, when all have read.
template <class Rule>
__device__ __forceinline__ void advance(const ListTable& list, const BlockPart& part, const double* numbers, double* advanced) {
  float scalars[max_scalars];
#pragma unroll
  for (int k = 0; k < Rule::scalar_count; ++k) scalars[k] = *const_cast<const volatile float*>(part.tensor.scalars[k]);
  Rule::advance(numbers, scalars);
  __threadfence();
  const bool last = atomicAdd(&tickets(list)[part.position], 1u) == part.past_chunk - part.first_chunk - 1;
  if (last) atomicExch(&tickets(list)[part.position], 0u);
#pragma unroll
  for (int k = 0; k < Rule::scalar_count; ++k) {
    advanced[k] = scalars[k];
    if (last) *part.tensor.scalars[k] = scalars[k];
  }
}

template <class Rule, class Scalar> __device__ __forceinline__ void prepare(const Update& u, Prepared<Rule, Scalar>& prepared) {
  const double grad_scale = u.grad_scale.address ? read(u.grad_scale) : 1;
  prepared.factor = static_cast<Scalar>(gradient_factor(u.flags[0], grad_scale, u.squares, u.max_norm));
  double numbers[max_hyperparameters] = {}, advanced[max_scalars] = {};
#pragma unroll
  for (int k = 0; k < Rule::hyperparameter_count + 2; ++k) numbers[k] = u.tensors[k].address ? read(u.tensors[k]) : u.hyperparameters[k];
  if constexpr (Rule::scalar_count > 0) advance<Rule>(u.list, prepared.part, numbers, advanced);
  *reinterpret_cast<Rule*>(prepared.rule) = Rule(numbers, u.flags, advanced);
}

// Whether all memory of the tensor can be taken 16 bytes at a time.
__device__ __forceinline__ bool is_aligned(const UpdateTensor& tensor) {
  uint64_t addresses = reinterpret_cast<uint64_t>(tensor.param) | reinterpret_cast<uint64_t>(tensor.grad) |
                       reinterpret_cast<uint64_t>(tensor.master) | reinterpret_cast<uint64_t>(tensor.average);
#pragma unroll
  for (int k = 0; k < max_states; ++k) addresses |= reinterpret_cast<uint64_t>(tensor.states[k]);
  return addresses % 16 == 0;
}

// What memory of this type keeps of numbers that are rounded to nearest.
template <class Storage, class Scalar, int size> __device__ __forceinline__ Lanes<Scalar, size> kept_by(Lanes<Scalar, size> values) {
  if constexpr (sizeof(Storage) != sizeof(Scalar)) {
#pragma unroll
    for (int i = 0; i < size; ++i) values.lanes[i] = unpacked(packed(values.lanes[i], 0.0f, Storage{}), Storage{}).x;
  }
  return values;
}

// What a bfloat16 keeps of a number that is rounded by one drawn for it.
template <class Storage, class Scalar> __device__ __forceinline__ Scalar kept_by_number(Scalar value, uint32_t number) {
  if constexpr (std::is_same_v<Storage, BFloat16>) {
    return __uint_as_float(rounded_by(__float_as_uint(value), number, value != value ? 0xffffffff : 0) << 16);
  } else {
    return value;
  }
}

// `size` elements from `at` on. Not plain: there may be masters, averages and numbers of stochastic rounding.
template <int size, class Param, class State, bool plain, class Rule, class Scalar>
__device__ __forceinline__ void update_elements(
    const UpdateTensor& tensor, const Rule& rule, Scalar factor, Scalar average_weight, const uint64_t* seed, int64_t at) {
  Param* const param = static_cast<Param*>(tensor.param) + at;
  Scalar* const master = plain || sizeof(Param) != 2 || !tensor.master ? nullptr : static_cast<Scalar*>(tensor.master) + at;
  using Values = Lanes<Scalar, size>;
  Values p, g, state[Rule::state_count];  // of states that are not there nothing is read
  load_elements(param, p.lanes);
  load_elements(static_cast<const Param*>(tensor.grad) + at, g.lanes);
#pragma unroll
  for (int k = 0; k < Rule::state_count; ++k) {
    if (tensor.states[k]) load_elements(static_cast<const State*>(tensor.states[k]) + at, state[k].lanes);
  }
  if (master) {
    Values exact;
    load_elements(master, exact.lanes);
    p = select(kept_by<Param>(exact) == p, exact, p);  // somebody may have changed the parameter
  }
  rule.update(p, g * Values(factor), state);
  if constexpr (!plain) {
    if (master) store_elements(master, p.lanes);
    if (seed) {
      const PhiloxWords words = philox((tensor.first_number + at) / numbers_per_counter, rounding_stream, *seed);
#pragma unroll
      for (int i = 0; i < size; ++i) {
        const uint32_t number = number_of(words, at % numbers_per_counter + i);
        if (!master) p.lanes[i] = kept_by_number<Param>(p.lanes[i], number);
#pragma unroll
        for (int k = 0; k < Rule::state_count; ++k) state[k].lanes[i] = kept_by_number<State>(state[k].lanes[i], number);
      }
    }
  }
  store_elements(param, p.lanes);
#pragma unroll
  for (int k = 0; k < Rule::state_count; ++k) {
    if (tensor.states[k]) store_elements(static_cast<State*>(tensor.states[k]) + at, state[k].lanes);
  }
  if constexpr (!plain) {
    if (!tensor.average) return;
    Scalar* const average = static_cast<Scalar*>(tensor.average) + at;
    Values mean;
    load_elements(average, mean.lanes);
    move_towards(mean, kept_by<Param>(p), average_weight);
    store_elements(average, mean.lanes);
  }
}

// What a thread takes at once: as many elements as of the widest of their numbers fit in 16 bytes.
template <class Param, class State, bool plain> constexpr int elements_at_once =
    16 / (sizeof(Param) == 8 ? 8 : sizeof(Param) == 4 || sizeof(State) == 4 || !plain ? 4 : 2);

template <template <class> class RuleOf, class Param, class State, bool plain>
__global__ void __launch_bounds__(list_threads) update_kernel(const __grid_constant__ Update u) {
  using Scalar = typename Compute<Param>::type;
  using Rule = RuleOf<Scalar>;
  constexpr int size = elements_at_once<Param, State, plain>;
  __shared__ Prepared<Rule, Scalar> prepared;
  if (u.found_inf.address && read(u.found_inf) != 0) return;
  if (threadIdx.x < 32) {
    find_part(u.list, prepared.part);
    if (threadIdx.x == 0) prepare<Rule, Scalar>(u, prepared);
  }
  __syncthreads();
  const UpdateTensor tensor = prepared.part.tensor;
  const Rule rule = *reinterpret_cast<const Rule*>(prepared.rule);
  const Scalar factor = prepared.factor, average_weight = static_cast<Scalar>(u.average_weight);
  const int64_t begin = first_element(u.list, prepared.part);
  const int count = elements_from(u.list, begin, tensor.numel), together = is_aligned(tensor) ? count / size * size : 0;
  for (int i = threadIdx.x * size; i < together; i += list_threads * size) {
    update_elements<size, Param, State, plain>(tensor, rule, factor, average_weight, u.seed, begin + i);
  }
  for (int i = together + threadIdx.x; i < count; i += list_threads) {
    update_elements<1, Param, State, plain>(tensor, rule, factor, average_weight, u.seed, begin + i);
  }
}

template <template <class> class Rule, class Param, class State> void launch_update(const Update& u, Stream stream) {
  (u.plain ? update_kernel<Rule, Param, State, true> : update_kernel<Rule, Param, State, false>)
      <<<static_cast<unsigned>(u.list.chunks), list_threads, 0, stream>>>(u);
}

// The launch for every rule, made for each pair of types in update_*.cu.
template <class Param, class State> void update_list(const Update& u, Stream stream) {
  using Launch = void (*)(const Update&, Stream);
#define FL_LAUNCH(name, Rule) launch_update<Rule, Param, State>,
  static constexpr Launch launches[] = {FL_UPDATE_RULES(FL_LAUNCH)};
#undef FL_LAUNCH
  launches[u.rule](u, stream);
}

}  // namespace fastlayers::cuda
