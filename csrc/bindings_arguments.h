// What the functions of bindings_layers.cpp have in common: their arguments checked and turned into what kernels take, and memory for
// their results. Everything is checked before anything is changed.
#pragma once

#include <ATen/ATen.h>
#include <ATen/EmptyTensor.h>

#include <array>
#include <optional>
#include <string>
#include <string_view>
#include <tuple>
#include <vector>

#include "bindings_memory.h"
#include "common/activations.h"
#include "common/dropout.h"
#include "common/epilogue.h"
#include "device.h"
#include "types.h"

namespace fastlayers {

using at::Tensor;
using Optional = std::optional<Tensor>;
using Constants = std::vector<double>;
using OutputMask = std::array<bool, 5>;
using Gradients = std::tuple<Optional, Optional, Optional, Optional, Optional>;

// What the bindings know of an activation.
struct ActivationFacts {
  std::string_view name;
  int learnables, most_repeats, constants;
  bool everywhere, masks, from_output, random, invertible;
};

constexpr ActivationFacts activation_facts[] = {
#define FL_FACTS(name) \
  {#name, host::activations::name::learnables, host::activations::name::most_repeats, host::activations::name::constants, \
   host::activations::name::everywhere, host::activations::name::masks, host::activations::name::from_output, \
   host::activations::name::random, host::activations::name::invertible},
    FL_ACTIVATIONS(FL_FACTS)
#undef FL_FACTS
};

inline int activation_position(const char* op, std::string_view name) {
  for (size_t i = 0; i < std::size(activation_facts); ++i) {
    if (activation_facts[i].name == name) return static_cast<int>(i);
  }
  TORCH_CHECK_VALUE(false, op, ": activation must be one that the ", backend_name, " backend has, got '", std::string(name), "'");
}

inline DataType data_type_of(const char* op, const Tensor& x) {
  const std::optional<DataType> type = find_data_type(x.scalar_type());
  TORCH_CHECK_TYPE(type, op, ": x must be float32, float64, float16 or bfloat16, got ", x.scalar_type());
  return *type;
}

inline at::ScalarType accumulate_type(const Tensor& x) { return accumulate_type(x.scalar_type()); }

// New memory beside x. On the CPU without the dispatcher, which would cost more than a small kernel, unless
// torch.utils.deterministic.fill_uninitialized_memory asks for NaN in it, so that an element nobody writes is seen.
inline Tensor new_tensor(const Tensor& x, at::IntArrayRef sizes, at::IntArrayRef strides, at::ScalarType type) {
#if !defined(FL_CUDA)
  const at::Context& context = at::globalContext();
  if (!context.deterministicAlgorithms() || !context.deterministicFillUninitializedMemory()) {
    return at::detail::empty_strided_cpu(sizes, strides, type);
  }
#endif
  const Tensor tensor = at::empty_strided(sizes, strides, x.options().dtype(type));
  note_new_memory(tensor);
  return tensor;
}

inline Tensor new_tensor_like(const Tensor& x) { return new_tensor(x, x.sizes(), x.strides(), x.scalar_type()); }

inline Tensor empty_channels(const Tensor& x, int64_t c) { return new_tensor(x, {c}, {1}, accumulate_type(x)); }

inline const void* data_of(const Optional& tensor) { return tensor ? tensor->const_data_ptr() : nullptr; }

inline void check_in_memory(const Tensor& tensor) {
  if (!in_memory(tensor)) throw NotInMemory();
}

// x as (n, c, s) in memory order. A tensor of too few dimensions to have channels is one channel.
inline void check_x(const char* op, const Tensor& x, int64_t channel_dim, Epilogue& e) {
  TORCH_CHECK_VALUE(is_here(x), op, ": x must be on ", device_name, ", got one on ", x.device());
  check_in_memory(x);
  e.dtype = data_type_of(op, x);
  TORCH_CHECK_VALUE(x.is_non_overlapping_and_dense(), op, ": x must be dense, got sizes ", x.sizes(), " and strides ", x.strides());
  e.x = x.const_data_ptr();
  e.n = e.c = 1;
  e.s = x.numel();
  if (x.dim() == 0) return;
  TORCH_CHECK_VALUE(channel_dim >= 0 && channel_dim < x.dim(), op, ": channel_dim must be in [0, ", x.dim(), "), got ", channel_dim);
  const int64_t c = x.size(channel_dim);
  if (c == 1) return;
  e.c = c;
  e.s = c == 0 ? 0 : x.stride(channel_dim);
  e.n = x.numel() == 0 ? 0 : x.numel() / (c * e.s);
}

// residual, dy: of x's shape, strides, dtype and device.
inline void check_like(const char* op, const char* name, const Tensor& tensor, const Tensor& x) {
  TORCH_CHECK_TYPE(tensor.scalar_type() == x.scalar_type(), op, ": ", name, " must have x's dtype ", x.scalar_type(), ", got ",
                   tensor.scalar_type());
  TORCH_CHECK_VALUE(tensor.device() == x.device(), op, ": ", name, " must be on x's device ", x.device(), ", got one on ",
                    tensor.device());
  check_in_memory(tensor);
  TORCH_CHECK_VALUE(tensor.sizes() == x.sizes(), op, ": ", name, " must have x's shape ", x.sizes(), ", got ", tensor.sizes());
  TORCH_CHECK_VALUE(same_order(tensor, x), op, ": ", name, " must have x's strides ", x.strides(), ", got ", tensor.strides());
}

// mean, scale, weight, ...: one value per channel.
inline void check_vector(const char* op, const char* name, const Optional& vector, const Tensor& x, int64_t c) {
  if (!vector) return;
  TORCH_CHECK_TYPE(vector->scalar_type() == accumulate_type(x), op, ": ", name, " must be ", accumulate_type(x), ", got ",
                   vector->scalar_type());
  TORCH_CHECK_VALUE(vector->device() == x.device(), op, ": ", name, " must be on x's device ", x.device(), ", got one on ",
                    vector->device());
  check_in_memory(*vector);
  TORCH_CHECK_VALUE(vector->dim() == 1 && vector->size(0) == c && vector->is_contiguous(), op, ": ", name,
                    " must be contiguous with shape [", c, "], got shape ", vector->sizes(), " and strides ", vector->strides());
}

inline void check_activation(const char* op, const Tensor& x, const Optional& parameters, std::string_view activation,
                             const Constants& constants, Epilogue& e) {
  e.activation = activation_position(op, activation);
  const ActivationFacts& facts = activation_facts[e.activation];
  TORCH_CHECK_VALUE(static_cast<int>(constants.size()) == facts.constants, op, ": constants must be the ", facts.constants, " of ",
                    std::string(activation), ", got ", constants.size());
  e.constants = constants.data();
  TORCH_CHECK_VALUE(parameters.has_value() == (facts.learnables > 0), op, ": parameters must ",
                    facts.learnables > 0 ? "be given for " : "be None for ", std::string(activation), ", got ",
                    parameters ? "a tensor" : "None");
  e.parameter_count = e.repeats = 1;
  if (!parameters) return;
  check_in_memory(*parameters);
  TORCH_CHECK_TYPE(parameters->scalar_type() == accumulate_type(x), op, ": parameters must be ", accumulate_type(x), ", got ",
                   parameters->scalar_type());
  const int64_t rows = parameters->dim() == 2 ? parameters->size(0) : parameters->dim() == 1 ? 1 : 0;
  const int64_t repeats = rows / facts.learnables;
  const bool shaped = repeats >= 1 && repeats <= facts.most_repeats && rows == repeats * facts.learnables &&
                      (parameters->size(-1) == 1 || parameters->size(-1) == e.c) && parameters->is_contiguous() &&
                        parameters->device() == x.device();
  TORCH_CHECK_VALUE(shaped, op, ": parameters must be a contiguous ", device_name, " tensor of shape [", facts.learnables,
                    facts.most_repeats > 1 ? " times 1 to " + std::to_string(facts.most_repeats) : std::string(), ", 1 or ", e.c,
                    "], got shape ", parameters->sizes(), " and strides ", parameters->strides());
  e.repeats = static_cast<int>(repeats);
  e.parameters = parameters->const_data_ptr();
  e.parameter_count = parameters->size(-1);
}

// What becomes of kept and dropped values, where it is not the default: keep_scale, keep_shift, drop_value.
using Outcome = std::optional<std::array<double, 3>>;

inline void check_dropout(const char* op, const Optional& seed, at::Device device, double p, Epilogue& e, int64_t sample = 0,
                          const Outcome& outcome = {}) {
  e.dropout = seed.has_value() && p != 0;
  if (!seed) return;
  check_in_memory(*seed);
  TORCH_CHECK_VALUE(p >= 0 && p <= 1, op, ": p must be in [0, 1], got ", p);
  TORCH_CHECK_TYPE(seed->scalar_type() == at::kLong && seed->dim() == 0 && seed->device() == device, op,
                   ": seed must be a 0-d int64 tensor on ", device, ", got ", seed->scalar_type(), " of shape ", seed->sizes(), " on ",
                   seed->device());
  e.seed = reinterpret_cast<const uint64_t*>(seed->const_data_ptr<int64_t>());
  e.threshold = host::dropout_threshold(p);
  if (outcome) {
    e.keep_scale = (*outcome)[0];
    e.keep_shift = (*outcome)[1];
    e.drop_value = (*outcome)[2];
  } else {
    e.keep_scale = host::dropout_keep_scale(p);
  }
  TORCH_CHECK_VALUE(sample >= 0, op, ": sample must be at least 0, got ", sample);
  const int64_t numel = e.n * e.c * e.s;
  TORCH_CHECK_VALUE(sample == 0 || numel == 0 || (numel % sample == 0 && (e.c == 1 || sample % (e.c * e.s) == 0)), op,
                    ": sample must be the elements of whole channels of one of equal samples, got ", sample);
  e.sample = sample;
}

// The arguments that every kernel takes, checked.
struct Arguments {
  const char* op;
  const Tensor& x;
  const Optional &residual, &parameters, &seed;
  std::string_view activation;
  const Constants& constants;
  double p;
  int64_t channel_dim;
  int64_t sample = 0;
  Outcome outcome = {};

  Epilogue checked() const {
    Epilogue e = {};
    check_x(op, x, channel_dim, e);
    if (residual) check_like(op, "residual", *residual, x);
    e.residual = data_of(residual);
    check_activation(op, x, parameters, activation, constants, e);
    check_dropout(op, seed, x.device(), p, e, sample, outcome);
    TORCH_CHECK_VALUE(seed || !activation_facts[e.activation].random, op, ": seed must be given for ", std::string(activation),
                      ", got None");
    return e;
  }
};

inline int index_of(DataType dtype) { return static_cast<int>(dtype); }

inline void set_affine(const char* op, const Tensor& x, const Optional& mean, const Optional& scale, const Optional& shift, Epilogue& e) {
  check_vector(op, "mean", mean, x, e.c);
  check_vector(op, "scale", scale, x, e.c);
  check_vector(op, "shift", shift, x, e.c);
  e.mean = data_of(mean);
  e.scale = data_of(scale);
  e.shift = data_of(shift);
}

// Gradients with memory for those that are wanted.
struct Outputs {
  Optional dx, dresidual, dscale, dshift, dparameters;

  Outputs(const Tensor& x, const Optional& parameters, int64_t c, const OutputMask& mask) {
    if (mask[0]) dx = new_tensor_like(x);
    if (mask[1]) dresidual = new_tensor_like(x);
    if (mask[2]) dscale = empty_channels(x, c);
    if (mask[3]) dshift = empty_channels(x, c);
    if (mask[4] && parameters) dparameters = new_tensor(x, parameters->sizes(), parameters->strides(), parameters->scalar_type());
  }

  EpilogueGradients pointers(const Tensor& dy, bool from_output = false) {
    const auto data = [](Optional& tensor) { return tensor ? tensor->mutable_data_ptr() : nullptr; };
    EpilogueGradients g = {};
    g.dy = dy.const_data_ptr();
    g.dx = data(dx);
    g.dresidual = data(dresidual);
    g.dscale = data(dscale);
    g.dshift = data(dshift);
    g.dparameters = data(dparameters);
    g.from_output = from_output;
    return g;
  }

  Gradients results() && {
    return {std::move(dx), std::move(dresidual), std::move(dscale), std::move(dshift), std::move(dparameters)};
  }
};

}  // namespace fastlayers
