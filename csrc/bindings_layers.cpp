// The layers' half of fastlayers._C: the functions of fastlayers/reference/{epilogue,batch_norm}.py on CPU tensors.
//
// Signatures and conventions are written down there. Everything is checked before anything is changed; kernels run without the GIL.
#include <ATen/ATen.h>
#include <ATen/EmptyTensor.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>
#include <torch/csrc/utils/pybind.h>

#include <array>
#include <optional>
#include <string_view>
#include <tuple>
#include <vector>

#include "common/activations.h"
#include "common/dropout.h"
#include "cpu/layers.h"

namespace py = pybind11;

namespace fastlayers {
namespace {

using at::Tensor;
using Optional = std::optional<Tensor>;
using Constants = std::vector<double>;
using OutputMask = std::array<bool, 5>;
using Gradients = std::tuple<Optional, Optional, Optional, Optional, Optional>;

// What the bindings know of an activation.
struct ActivationFacts {
  std::string_view name;
  int learnables, constants;
  bool from_output;
};

constexpr ActivationFacts activation_facts[] = {
#define FL_FACTS(name) \
  {#name, host::activations::name::learnables, host::activations::name::constants, host::activations::name::from_output},
    FL_ACTIVATIONS(FL_FACTS)
#undef FL_FACTS
};

int activation_position(const char* op, std::string_view name) {
  for (size_t i = 0; i < std::size(activation_facts); ++i) {
    if (activation_facts[i].name == name) return static_cast<int>(i);
  }
  TORCH_CHECK_VALUE(false, op, ": activation must be one that the cpp backend has, got '", std::string(name), "'");
}

DataType data_type_of(const char* op, const Tensor& x) {
  switch (x.scalar_type()) {
    case at::kFloat: return DataType::float32;
    case at::kDouble: return DataType::float64;
    case at::kHalf: return DataType::float16;
    case at::kBFloat16: return DataType::bfloat16;
    default: TORCH_CHECK_TYPE(false, op, ": x must be float32, float64, float16 or bfloat16, got ", x.scalar_type());
  }
}

at::ScalarType accumulate_type(const Tensor& x) { return x.scalar_type() == at::kDouble ? at::kDouble : at::kFloat; }

// torch.utils.deterministic.fill_uninitialized_memory: outputs start as NaN, so that an element nobody writes is seen.
bool fills_new_memory() {
  const at::Context& context = at::globalContext();
  return context.deterministicAlgorithms() && context.deterministicFillUninitializedMemory();
}

// New memory without the dispatcher, which would cost more than a small kernel.
Tensor new_tensor(at::IntArrayRef sizes, at::IntArrayRef strides, at::ScalarType type) {
  if (fills_new_memory()) return at::empty_strided(sizes, strides, type);
  return at::detail::empty_strided_cpu(sizes, strides, type);
}

Tensor new_tensor_like(const Tensor& x) { return new_tensor(x.sizes(), x.strides(), x.scalar_type()); }

Tensor empty_channels(const Tensor& x, int64_t c) { return new_tensor({c}, {1}, accumulate_type(x)); }

const void* data_of(const Optional& tensor) { return tensor ? tensor->const_data_ptr() : nullptr; }

// x as (n, c, s) in memory order. A tensor of too few dimensions to have channels is one channel.
void check_x(const char* op, const Tensor& x, int64_t channel_dim, Epilogue& e) {
  TORCH_CHECK_VALUE(x.is_cpu(), op, ": x must be a CPU tensor, got one on ", x.device());
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
void check_like(const char* op, const char* name, const Tensor& tensor, const Tensor& x) {
  TORCH_CHECK_TYPE(tensor.scalar_type() == x.scalar_type(), op, ": ", name, " must have x's dtype ", x.scalar_type(), ", got ",
                   tensor.scalar_type());
  TORCH_CHECK_VALUE(tensor.is_cpu(), op, ": ", name, " must be on x's device cpu, got one on ", tensor.device());
  TORCH_CHECK_VALUE(tensor.sizes() == x.sizes(), op, ": ", name, " must have x's shape ", x.sizes(), ", got ", tensor.sizes());
  if (tensor.strides() == x.strides()) return;
  for (int64_t d = 0; d < x.dim(); ++d) {
    TORCH_CHECK_VALUE(x.numel() == 0 || x.size(d) == 1 || tensor.stride(d) == x.stride(d), op, ": ", name, " must have x's strides ",
                      x.strides(), ", got ", tensor.strides());
  }
}

// mean, scale, weight, ...: one value per channel.
void check_vector(const char* op, const char* name, const Optional& vector, const Tensor& x, int64_t c) {
  if (!vector) return;
  TORCH_CHECK_TYPE(vector->scalar_type() == accumulate_type(x), op, ": ", name, " must be ", accumulate_type(x), ", got ",
                   vector->scalar_type());
  TORCH_CHECK_VALUE(vector->is_cpu(), op, ": ", name, " must be on x's device cpu, got one on ", vector->device());
  TORCH_CHECK_VALUE(vector->dim() == 1 && vector->size(0) == c && vector->is_contiguous(), op, ": ", name,
                    " must be contiguous with shape [", c, "], got shape ", vector->sizes(), " and strides ", vector->strides());
}

void check_activation(const char* op, const Tensor& x, const Optional& parameters, std::string_view activation, const Constants& constants,
                      Epilogue& e) {
  e.activation = activation_position(op, activation);
  const ActivationFacts& facts = activation_facts[e.activation];
  TORCH_CHECK_VALUE(static_cast<int>(constants.size()) == facts.constants, op, ": constants must be the ", facts.constants, " of ",
                    std::string(activation), ", got ", constants.size());
  e.constants = constants.data();
  TORCH_CHECK_VALUE(parameters.has_value() == (facts.learnables > 0), op, ": parameters must ",
                    facts.learnables > 0 ? "be given for " : "be None for ", std::string(activation), ", got ",
                    parameters ? "a tensor" : "None");
  e.parameter_count = 1;
  if (!parameters) return;
  TORCH_CHECK_TYPE(parameters->scalar_type() == accumulate_type(x), op, ": parameters must be ", accumulate_type(x), ", got ",
                   parameters->scalar_type());
  const bool shaped = parameters->dim() == 2 && parameters->size(0) == facts.learnables &&
                      (parameters->size(1) == 1 || parameters->size(1) == e.c) && parameters->is_contiguous() && parameters->is_cpu();
  TORCH_CHECK_VALUE(shaped, op, ": parameters must be a contiguous CPU tensor of shape [", facts.learnables, ", 1 or ", e.c,
                    "], got shape ", parameters->sizes(), " and strides ", parameters->strides());
  e.parameters = parameters->const_data_ptr();
  e.parameter_count = parameters->size(1);
}

void check_dropout(const char* op, const Optional& seed, double p, Epilogue& e) {
  e.dropout = seed.has_value();
  if (!seed) return;
  TORCH_CHECK_VALUE(p >= 0 && p <= 1, op, ": p must be in [0, 1], got ", p);
  TORCH_CHECK_TYPE(seed->scalar_type() == at::kLong && seed->dim() == 0 && seed->is_cpu(), op,
                   ": seed must be a 0-d int64 CPU tensor, got ", seed->scalar_type(), " of shape ", seed->sizes(), " on ", seed->device());
  e.seed = static_cast<uint64_t>(*seed->const_data_ptr<int64_t>());
  e.threshold = host::dropout_threshold(p);
  e.keep_scale = host::dropout_keep_scale(p);
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

  Epilogue checked() const {
    Epilogue e = {};
    check_x(op, x, channel_dim, e);
    if (residual) check_like(op, "residual", *residual, x);
    e.residual = data_of(residual);
    check_activation(op, x, parameters, activation, constants, e);
    check_dropout(op, seed, p, e);
    return e;
  }
};

int index_of(DataType dtype) { return static_cast<int>(dtype); }

void set_affine(const char* op, const Tensor& x, const Optional& mean, const Optional& scale, const Optional& shift, Epilogue& e) {
  check_vector(op, "mean", mean, x, e.c);
  check_vector(op, "scale", scale, x, e.c);
  check_vector(op, "shift", shift, x, e.c);
  e.mean = data_of(mean);
  e.scale = data_of(scale);
  e.shift = data_of(shift);
}

Tensor epilogue_forward(const Tensor& x, const Optional& mean, const Optional& scale, const Optional& shift, const Optional& residual,
                        const Optional& parameters, const Optional& seed, std::string_view activation, const Constants& constants, double p,
                        int64_t channel_dim) {
  const char* op = "epilogue_forward";
  Epilogue e = Arguments{op, x, residual, parameters, seed, activation, constants, p, channel_dim}.checked();
  set_affine(op, x, mean, scale, shift, e);
  Tensor y = new_tensor_like(x);
  void* const out = y.mutable_data_ptr();
  py::gil_scoped_release released;
  FL_KERNELS(epilogue_kernels).forward[index_of(e.dtype)](e, out);
  return y;
}

// Gradients with memory for those that are wanted.
struct Outputs {
  Optional dx, dresidual, dscale, dshift, dparameters;

  Outputs(const Tensor& x, const Optional& parameters, int64_t c, const OutputMask& mask) {
    if (mask[0]) dx = new_tensor_like(x);
    if (mask[1]) dresidual = new_tensor_like(x);
    if (mask[2]) dscale = empty_channels(x, c);
    if (mask[3]) dshift = empty_channels(x, c);
    if (mask[4] && parameters) dparameters = new_tensor(parameters->sizes(), parameters->strides(), parameters->scalar_type());
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

Gradients epilogue_backward(const Tensor& dy, const Tensor& x, const Optional& mean, const Optional& scale, const Optional& shift,
                            const Optional& residual, const Optional& parameters, const Optional& seed, std::string_view activation,
                            const Constants& constants, double p, int64_t channel_dim, bool from_output, const OutputMask& output_mask) {
  const char* op = "epilogue_backward";
  Epilogue e = Arguments{op, x, residual, parameters, seed, activation, constants, p, channel_dim}.checked();
  set_affine(op, x, mean, scale, shift, e);
  check_like(op, "dy", dy, x);
  TORCH_CHECK_VALUE(!from_output || activation_facts[e.activation].from_output, op,
                    ": from_output must be false for an activation whose derivative needs its input, got true for ", std::string(activation));
  Outputs outputs(x, parameters, e.c, output_mask);
  const EpilogueGradients g = outputs.pointers(dy, from_output);
  {
    py::gil_scoped_release released;
    FL_KERNELS(epilogue_kernels).backward[index_of(e.dtype)](e, g);
  }
  return std::move(outputs).results();
}

std::tuple<Tensor, Tensor> batch_norm_statistics(const Tensor& x, int64_t channel_dim) {
  Epilogue e = {};
  check_x("batch_norm_statistics", x, channel_dim, e);
  Tensor mean = empty_channels(x, e.c), m2 = empty_channels(x, e.c);
  void *const mean_data = mean.mutable_data_ptr(), *const m2_data = m2.mutable_data_ptr();
  py::gil_scoped_release released;
  FL_KERNELS(batch_norm_kernels).statistics[index_of(e.dtype)](e, mean_data, m2_data);
  return {mean, m2};
}

// mean and rstd of evaluation: the running statistics.
template <class T> void copy_running(const Tensor& running_mean, const Tensor& running_var, double eps, Tensor& mean, Tensor& rstd) {
  const T *const from_mean = running_mean.const_data_ptr<T>(), *const from_var = running_var.const_data_ptr<T>();
  T *const to_mean = mean.mutable_data_ptr<T>(), *const to_rstd = rstd.mutable_data_ptr<T>();
  for (int64_t c = 0; c < mean.numel(); ++c) {
    to_mean[c] = from_mean[c];
    to_rstd[c] = static_cast<T>(1) / std::sqrt(from_var[c] + static_cast<T>(eps));
  }
}

// weight * rstd, or weight * rstd of the gradient: a product of vectors per channel; a null factor is 1.
template <class T> void multiply_channels(const void* a, const void* b, void* product, int64_t c) {
  for (int64_t i = 0; i < c; ++i) {
    static_cast<T*>(product)[i] = (a ? static_cast<const T*>(a)[i] : static_cast<T>(1)) * static_cast<const T*>(b)[i];
  }
}

void multiply_channels(DataType dtype, const void* a, const void* b, void* product, int64_t c) {
  (dtype == DataType::float64 ? multiply_channels<double> : multiply_channels<float>)(a, b, product, c);
}

void mark_changed(const Optional& tensor) {
  if (tensor && !tensor->is_inference()) tensor->unsafeGetTensorImpl()->bump_version();
}

// The rate at which the running statistics move; counts the batch.
double count_batch(const Optional& num_batches_tracked, std::optional<double> momentum) {
  if (!num_batches_tracked) return momentum.value_or(0);
  const int64_t batches = ++*num_batches_tracked->mutable_data_ptr<int64_t>();
  mark_changed(num_batches_tracked);
  return momentum ? *momentum : 1.0 / static_cast<double>(batches);
}

std::tuple<Tensor, Tensor, Tensor> batch_norm_forward(
    const Tensor& x, const Optional& weight, const Optional& bias, const Optional& running_mean, const Optional& running_var,
    const Optional& num_batches_tracked, const Optional& residual, const Optional& parameters, const Optional& seed,
    std::string_view activation, const Constants& constants, double p, bool training, std::optional<double> momentum, double eps,
    int64_t channel_dim) {
  const char* op = "batch_norm_forward";
  Epilogue e = Arguments{op, x, residual, parameters, seed, activation, constants, p, channel_dim}.checked();
  check_vector(op, "weight", weight, x, e.c);
  check_vector(op, "bias", bias, x, e.c);
  check_vector(op, "running_mean", running_mean, x, e.c);
  check_vector(op, "running_var", running_var, x, e.c);
  TORCH_CHECK_VALUE(running_mean.has_value() == running_var.has_value() && (training || running_mean), op,
                    ": running_mean and running_var must both be given, in training or both be None, got ",
                    running_mean ? "running_mean" : running_var ? "running_var" : "neither");
  TORCH_CHECK_VALUE(!num_batches_tracked || (num_batches_tracked->scalar_type() == at::kLong && num_batches_tracked->numel() == 1 &&
                    num_batches_tracked->is_cpu()), op, ": num_batches_tracked must be a 0-d int64 CPU tensor");
  TORCH_CHECK_VALUE(!training || !running_mean || momentum || num_batches_tracked, op,
                    ": num_batches_tracked must be given where momentum is None, got None");
  Tensor y = new_tensor_like(x), mean = empty_channels(x, e.c), rstd = empty_channels(x, e.c);
  e.shift = data_of(bias);
  void* const out = y.mutable_data_ptr();
  if (!training) {
    if (e.dtype == DataType::float64) copy_running<double>(*running_mean, *running_var, eps, mean, rstd);
    else copy_running<float>(*running_mean, *running_var, eps, mean, rstd);
    const Tensor scale = empty_channels(x, e.c);
    multiply_channels(e.dtype, data_of(weight), rstd.const_data_ptr(), scale.mutable_data_ptr(), e.c);
    e.mean = mean.const_data_ptr();
    e.scale = scale.const_data_ptr();
    py::gil_scoped_release released;
    FL_KERNELS(epilogue_kernels).forward[index_of(e.dtype)](e, out);
    return {y, mean, rstd};
  }
  BatchNorm b = {e, data_of(weight), mean.mutable_data_ptr(), rstd.mutable_data_ptr(), nullptr, nullptr, 0, eps};
  b.rate = count_batch(num_batches_tracked, momentum);
  if (running_mean) {
    b.running_mean = running_mean->mutable_data_ptr();
    b.running_var = running_var->mutable_data_ptr();
    mark_changed(running_mean);
    mark_changed(running_var);
  }
  py::gil_scoped_release released;
  FL_KERNELS(batch_norm_kernels).forward[index_of(e.dtype)](b, out);
  return {y, mean, rstd};
}

Gradients batch_norm_backward(const Tensor& dy, const Tensor& x, const Tensor& mean, const Tensor& rstd, const Optional& weight,
                              const Optional& bias, const Optional& residual, const Optional& parameters, const Optional& seed,
                              std::string_view activation, const Constants& constants, double p, bool training, int64_t channel_dim,
                              const OutputMask& output_mask) {
  const char* op = "batch_norm_backward";
  Epilogue e = Arguments{op, x, residual, parameters, seed, activation, constants, p, channel_dim}.checked();
  check_like(op, "dy", dy, x);
  check_vector(op, "mean", mean, x, e.c);
  check_vector(op, "rstd", rstd, x, e.c);
  check_vector(op, "weight", weight, x, e.c);
  check_vector(op, "bias", bias, x, e.c);
  e.shift = data_of(bias);
  Outputs outputs(x, parameters, e.c, output_mask);
  const EpilogueGradients g = outputs.pointers(dy);
  if (training) {
    const BatchNorm b = {e, data_of(weight), const_cast<void*>(mean.const_data_ptr()), const_cast<void*>(rstd.const_data_ptr()),
                         nullptr, nullptr, 0, 0};
    py::gil_scoped_release released;
    FL_KERNELS(batch_norm_kernels).backward[index_of(e.dtype)](b, g);
  } else {
    const Tensor scale = empty_channels(x, e.c);
    multiply_channels(e.dtype, data_of(weight), rstd.const_data_ptr(), scale.mutable_data_ptr(), e.c);
    e.mean = mean.const_data_ptr();
    e.scale = scale.const_data_ptr();
    py::gil_scoped_release released;
    FL_KERNELS(epilogue_kernels).backward[index_of(e.dtype)](e, g);
    if (g.dscale) multiply_channels(e.dtype, g.dscale, rstd.const_data_ptr(), g.dscale, e.c);
  }
  return std::move(outputs).results();
}

Tensor batch_norm_backward_input(const Tensor& dy, const Tensor& x, const Tensor& mean, const Tensor& rstd, const Optional& weight,
                                 const Optional& bias, const Optional& residual, const Optional& parameters, const Optional& seed,
                                 std::string_view activation, const Constants& constants, double p, int64_t channel_dim,
                                 const Tensor& mean_dz, const Tensor& mean_dz_centred) {
  const char* op = "batch_norm_backward_input";
  Epilogue e = Arguments{op, x, residual, parameters, seed, activation, constants, p, channel_dim}.checked();
  check_like(op, "dy", dy, x);
  check_vector(op, "mean", mean, x, e.c);
  check_vector(op, "rstd", rstd, x, e.c);
  check_vector(op, "weight", weight, x, e.c);
  check_vector(op, "bias", bias, x, e.c);
  check_vector(op, "mean_dz", mean_dz, x, e.c);
  check_vector(op, "mean_dz_centred", mean_dz_centred, x, e.c);
  const Tensor scale = empty_channels(x, e.c), slope = empty_channels(x, e.c);
  void* const slope_data = slope.mutable_data_ptr();
  multiply_channels(e.dtype, data_of(weight), rstd.const_data_ptr(), scale.mutable_data_ptr(), e.c);
  multiply_channels(e.dtype, mean_dz_centred.const_data_ptr(), rstd.const_data_ptr(), slope_data, e.c);
  multiply_channels(e.dtype, slope_data, rstd.const_data_ptr(), slope_data, e.c);
  e.mean = mean.const_data_ptr();
  e.scale = scale.const_data_ptr();
  e.shift = data_of(bias);
  Tensor dx = new_tensor_like(x);
  EpilogueGradients g = {};
  g.dy = dy.const_data_ptr();
  g.dx = dx.mutable_data_ptr();
  g.mean_dz = mean_dz.const_data_ptr();
  g.slope = slope_data;
  py::gil_scoped_release released;
  FL_KERNELS(epilogue_kernels).backward[index_of(e.dtype)](e, g);
  return dx;
}

Tensor dropout_mask(int64_t first, int64_t count, const Tensor& seed, double p) {
  const char* op = "dropout_mask";
  TORCH_CHECK_VALUE(first >= 0 && count >= 0, op, ": first and count must be at least 0, got ", first, " and ", count);
  Epilogue e = {};
  check_dropout(op, seed, p, e);
  Tensor kept = at::detail::empty_cpu({count}, at::kBool);
  FL_KERNELS(dropout_kernels).mask(kept.mutable_data_ptr<bool>(), first, count, e.seed, e.threshold);
  return kept;
}

}  // namespace

void bind_layers(py::module_& module) {
  module.def("epilogue_forward", &epilogue_forward);
  module.def("epilogue_backward", &epilogue_backward);
  module.def("batch_norm_statistics", &batch_norm_statistics);
  module.def("batch_norm_forward", &batch_norm_forward);
  module.def("batch_norm_backward", &batch_norm_backward);
  module.def("batch_norm_backward_input", &batch_norm_backward_input);
  module.def("dropout_mask", &dropout_mask, "Whether elements first .. first + count - 1 are kept: bool [count].");
  module.def("cpu_capability", &cpu_capability_name, "The instruction set in use: baseline, avx2 or avx512.");
}

}  // namespace fastlayers
