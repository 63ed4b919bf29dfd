// Optimizer updates and gradient norms: one parallel sweep over all elements of a list of tensors.
//
// A step reads and writes each byte once (Adam: 28 bytes a float32 parameter), so it runs at the speed of memory; work is divided by
// elements, whatever tensors they belong to. Results do not depend on the division: updates are elementwise, sums have fixed parts.
#include "optimizers.h"

#include "../common/update_rules.h"
#include "../parallel.h"
#include "memory.h"
#include "rounding.h"

namespace fastlayers::FL_CPU_CAPABILITY {
namespace {

constexpr int64_t boundary = 64;     // threads meet at multiples of this many elements of a tensor: a cache line or more
constexpr int64_t lookahead = 1024;  // bytes: four to seven streams are more than hardware prefetchers follow well (4 - 8 % faster)

// The tensor that element `position` of the list belongs to; of empty ones the last.
FL_HD int64_t find_tensor(const UpdateList& list, int64_t position) {
  int64_t low = 0, high = list.count - 1;
  while (low < high) {
    const int64_t middle = (low + high + 1) / 2;
    if (list.tensors[middle].offset <= position) {
      low = middle;
    } else {
      high = middle - 1;
    }
  }
  return low;
}

// `count` elements from `at` on; full vectors leave count out and so need no masks. Not plain: there may be masters, averages and
// numbers of stochastic rounding.
template <class Param, class State, bool plain, class Rule, class Scalar, class... Count>
FL_HD void update_vector(
    const UpdateList& list, const UpdateTensor& tensor, const Rule& rule, Scalar factor, const uint16_t* numbers, int64_t at, Count... count) {
  using Values = Vector<Scalar>;
  Param* param = static_cast<Param*>(tensor.param) + at;
  Scalar* master = plain || sizeof(Param) != 2 || !tensor.master ? nullptr : static_cast<Scalar*>(tensor.master) + at;
  Values state[Rule::state_count] = {};
  for (int k = 0; k < Rule::state_count; ++k) {
    if (tensor.states[k]) state[k] = load<Values>(static_cast<const State*>(tensor.states[k]) + at, count...);
  }
  Values p = load<Values>(static_cast<const Param*>(param), count...);
  if (master) {
    const Values exact = load<Values>(static_cast<const Scalar*>(master), count...);
    p = select(kept_by<Param>(exact) == p, exact, p);  // somebody may have changed the parameter
  }
  const Values g = load<Values>(static_cast<const Param*>(tensor.grad) + at, count...) * Values(factor);
  rule.update(p, g, state);
  if (master) store(master, p, count...);
  store_rounded(param, p, plain || master ? nullptr : numbers, count...);
  for (int k = 0; k < Rule::state_count; ++k) {
    if (tensor.states[k]) store_rounded(static_cast<State*>(tensor.states[k]) + at, state[k], plain ? nullptr : numbers, count...);
  }
  if (!plain && tensor.average) {
    Scalar* average = static_cast<Scalar*>(tensor.average) + at;
    const Values stored = load<Values>(static_cast<const Param*>(param), count...);
    Values mean = load<Values>(static_cast<const Scalar*>(average), count...);
    move_towards(mean, stored, static_cast<Scalar>(list.average_weight));
    store(average, mean, count...);
  }
}

template <class Param, class State, class Rule> FL_HD void prefetch(const UpdateTensor& tensor, int64_t at) {
  __builtin_prefetch(static_cast<const Param*>(tensor.param) + at, 1);
  __builtin_prefetch(static_cast<const Param*>(tensor.grad) + at);
  for (int k = 0; k < Rule::state_count; ++k) {
    if (tensor.states[k]) __builtin_prefetch(static_cast<const State*>(tensor.states[k]) + at, 1);
  }
}

// Elements [begin, end) of one tensor.
template <class Param, class State, bool plain, class Rule>
FL_HD void update_tensor(
    const UpdateList& list, const UpdateTensor& tensor, const Rule& rule, RandomNumbers* draws, int64_t begin, int64_t end) {
  using Scalar = typename Compute<Param>::type;
  constexpr int64_t size = Vector<Scalar>::size;
  const Scalar factor = static_cast<Scalar>(list.gradient_factor);
  const auto numbers_at = [&](int64_t at, int64_t count) {
    return plain || !draws ? nullptr : draws->at(tensor.first_number + at, count, tensor.first_number + end);
  };
  int64_t at = begin;
  for (; at + size <= end; at += size) {
    prefetch<Param, State, Rule>(tensor, at + lookahead / static_cast<int64_t>(sizeof(Param)));
    update_vector<Param, State, plain>(list, tensor, rule, factor, numbers_at(at, size), at);
  }
  if (at < end) update_vector<Param, State, plain>(list, tensor, rule, factor, numbers_at(at, end - at), at, static_cast<int>(end - at));
}

FL_HD bool same_scalars(const double* one, const double* other) {
  for (int k = 0; k < max_scalars; ++k) {
    if (one[k] != other[k]) return false;
  }
  return true;
}

// Elements [begin, end) of the list. A boundary inside a tensor is moved down to a multiple of `boundary`.
template <template <class> class Rule, class Param, class State, bool plain>
void update_range(const UpdateList& list, RandomNumbers* draws, int64_t begin, int64_t end) {
  using Scalar = typename Compute<Param>::type;
  const UpdateTensor* current = &list.tensors[find_tensor(list, begin)];
  Rule<Scalar> rule(list.hyperparameters, list.flags, current->advanced);
  for (const UpdateTensor* tensor = current; tensor < list.tensors + list.count && tensor->offset < end; ++tensor) {
    if (!same_scalars(tensor->advanced, current->advanced)) {  // the powers in a rule would be felt where tensors are small
      current = tensor;
      rule = Rule<Scalar>(list.hyperparameters, list.flags, current->advanced);
    }
    const int64_t first = begin > tensor->offset ? (begin - tensor->offset) / boundary * boundary : 0;
    const int64_t past = end - tensor->offset;
    const int64_t last = past < tensor->numel ? past / boundary * boundary : tensor->numel;
    update_tensor<Param, State, plain>(list, *tensor, rule, draws, first, last);
  }
}

template <template <class> class Rule, class Param, class State> void update_list(const UpdateList& list) {
  parallel_for(list.numel, elements_per_task, [&](int64_t begin, int64_t end) {
    if (list.plain) return update_range<Rule, Param, State, true>(list, nullptr, begin, end);
    if (!list.seed) return update_range<Rule, Param, State, false>(list, nullptr, begin, end);
    RandomNumbers draws(*list.seed, rounding_stream);
    update_range<Rule, Param, State, false>(list, &draws, begin, end);
  });
}

// States are of the parameters' type, float or BFloat16.
template <template <class> class Rule, class Param> FL_HD void update_with_states(const UpdateList& list) {
  switch (list.state_type) {
    case DataType::float32: return update_list<Rule, Param, float>(list);
    case DataType::bfloat16: return update_list<Rule, Param, BFloat16>(list);
    default: return update_list<Rule, Param, Param>(list);
  }
}

template <template <class> class Rule> FL_HD void update_any(const UpdateList& list) {
  switch (list.param_type) {
    case DataType::float32: return update_with_states<Rule, float>(list);
    case DataType::float64: return update_list<Rule, double, double>(list);
    case DataType::float16: return update_with_states<Rule, Half>(list);
    case DataType::bfloat16: return update_with_states<Rule, BFloat16>(list);
  }
}

void step(const UpdateList& list) {
  using Update = void (*)(const UpdateList&);
#define FL_UPDATE(name, Rule) [](const UpdateList& rule_list) { update_any<Rule>(rule_list); },
  static constexpr Update updates[] = {FL_UPDATE_RULES(FL_UPDATE)};
#undef FL_UPDATE
  updates[list.rule](list);
}

// The sum of squares, in double: exact products, no overflow for anything that fits in a float.
typedef float FloatHalves __attribute__((vector_size(FL_VECTOR_BYTES / 2)));

FL_HD void add_squares(Vector<double> values, Vector<double>& sum) { sum = multiply_add(values, values, sum); }

template <class Storage, class... Count> FL_HD void add_squares_at(const Storage* address, Vector<double>* sums, Count... count) {
  if constexpr (sizeof(Storage) == 8) {
    add_squares(load<Vector<double>>(address, count...), sums[0]);
  } else {
    const Vector<float> values = load<Vector<float>>(address, count...);
    FloatHalves halves[2];
    __builtin_memcpy(halves, &values, sizeof halves);
    add_squares({__builtin_convertvector(halves[0], Vector<double>::Lanes)}, sums[0]);
    add_squares({__builtin_convertvector(halves[1], Vector<double>::Lanes)}, sums[1]);
  }
}

template <class Storage> FL_HD double sum_of_squares(const Storage* grad, int64_t begin, int64_t end) {
  constexpr int64_t size = Vector<typename Compute<Storage>::type>::size;
  Vector<double> sums[4] = {0.0, 0.0, 0.0, 0.0};  // several, so that additions need not wait for one another
  int64_t at = begin;
  for (; at + 2 * size <= end; at += 2 * size) {
    add_squares_at(grad + at, sums);
    add_squares_at(grad + at + size, sums + 2);
  }
  for (; at + size <= end; at += size) add_squares_at(grad + at, sums);
  if (at < end) add_squares_at(grad + at, sums, static_cast<int>(end - at));
  return sum_in_lane_order((sums[0] + sums[1]) + (sums[2] + sums[3]));
}

FL_HD bool is_finite(double value) { return value - value == 0; }

// A float64 sum may overflow although every element is finite; elements of the other types are too small for that.
template <class Storage> FL_HD bool all_finite(const Storage* grad, int64_t begin, int64_t end) {
  if constexpr (sizeof(Storage) == 8) {
    for (int64_t i = begin; i < end; ++i) {
      if (!is_finite(grad[i])) return false;
    }
    return true;
  }
  return false;
}

template <class Storage> void norm_parts(const NormPart* parts, int64_t count, double* sums, bool* finite) {
  const int64_t parts_per_thread = 2 * elements_per_task / norm_part_size;
  parallel_for(count, parts_per_thread, [=](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const Storage* grad = static_cast<const Storage*>(parts[i].grad);
      sums[i] = sum_of_squares(grad, parts[i].begin, parts[i].end);
      finite[i] = is_finite(sums[i]) || all_finite(grad, parts[i].begin, parts[i].end);
    }
  });
}

void norm(DataType type, const NormPart* parts, int64_t count, double* sums, bool* finite) {
  switch (type) {
    case DataType::float32: return norm_parts<float>(parts, count, sums, finite);
    case DataType::float64: return norm_parts<double>(parts, count, sums, finite);
    case DataType::float16: return norm_parts<Half>(parts, count, sums, finite);
    case DataType::bfloat16: return norm_parts<BFloat16>(parts, count, sums, finite);
  }
}

#define FL_FITS(name, Rule) \
  static_assert(Rule<double>::state_count <= max_states && Rule<double>::flag_count < max_flags && Rule<double>::scalar_count <= max_scalars && \
                    Rule<double>::hyperparameter_count + 2 <= max_hyperparameters, #name);
FL_UPDATE_RULES(FL_FITS)
#undef FL_FITS

}  // namespace

extern const OptimizerKernels optimizer_kernels{step, norm};

}  // namespace fastlayers::FL_CPU_CAPABILITY
