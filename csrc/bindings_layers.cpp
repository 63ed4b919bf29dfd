// The layers' half of fastlayers._C and fastlayers._CUDA: the functions of fastlayers/reference/{epilogue,batch_norm}.py.
//
// Signatures and conventions are written down there. Kernels run without the GIL.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>
#include <torch/csrc/utils/pybind.h>

#include "bindings_layers.h"
#include "layers.h"

namespace py = pybind11;

namespace fastlayers {

Tensor epilogue_forward(const Tensor& x, const Optional& mean, const Optional& scale, const Optional& shift, const Optional& residual,
                        const Optional& parameters, const Optional& seed, std::string_view activation, const Constants& constants, double p,
                        int64_t channel_dim, const Optional& residual_after, int64_t sample, const Outcome& outcome) {
  const char* op = "epilogue_forward";
  Epilogue e = Arguments{op, x, residual, parameters, seed, activation, constants, p, channel_dim, sample, outcome}.checked();
  set_affine(op, x, mean, scale, shift, e);
  if (residual_after) check_like(op, "residual_after", *residual_after, x);
  e.residual_after = data_of(residual_after);
  Tensor y = new_tensor_like(x);
  void* const out = y.mutable_data_ptr();
  layers::forward(op, x, e, out);
  return y;
}

Gradients epilogue_backward(const Tensor& dy, const Tensor& x, const Optional& mean, const Optional& scale, const Optional& shift,
                            const Optional& residual, const Optional& parameters, const Optional& seed, std::string_view activation,
                            const Constants& constants, double p, int64_t channel_dim, bool from_output, const OutputMask& output_mask,
                            int64_t sample, const Outcome& outcome) {
  const char* op = "epilogue_backward";
  Epilogue e = Arguments{op, x, residual, parameters, seed, activation, constants, p, channel_dim, sample, outcome}.checked();
  set_affine(op, x, mean, scale, shift, e);
  check_like(op, "dy", dy, x);
  TORCH_CHECK_VALUE(!from_output || activation_facts[e.activation].from_output, op,
                    ": from_output must be false for an activation whose derivative needs its input, got true for ",
                    std::string(activation));
  Outputs outputs(x, parameters, e.c, output_mask);
  const EpilogueGradients g = outputs.pointers(dy, from_output);
  layers::backward(op, x, e, g);
  return std::move(outputs).results();
}

namespace {

std::tuple<Tensor, Tensor> batch_norm_statistics(const Tensor& x, int64_t channel_dim) {
  const char* op = "batch_norm_statistics";
  Epilogue e = {};
  check_x(op, x, channel_dim, e);
  Tensor mean = empty_channels(x, e.c), m2 = empty_channels(x, e.c);
  void *const mean_data = mean.mutable_data_ptr(), *const m2_data = m2.mutable_data_ptr();
  layers::statistics(op, x, e, mean_data, m2_data);
  return {mean, m2};
}

Tensor epilogue_inverse(const Tensor& y, const Tensor& mean, const Tensor& scale, const Optional& shift, const Optional& residual,
                        const Optional& parameters, std::string_view activation, const Constants& constants, int64_t channel_dim) {
  const char* op = "epilogue_inverse";
  const Optional none;
  Epilogue e = Arguments{op, y, residual, parameters, none, activation, constants, 0, channel_dim}.checked();
  set_affine(op, y, mean, scale, shift, e);
  TORCH_CHECK_VALUE(activation_facts[e.activation].invertible, op, ": activation must be invertible, got ", std::string(activation));
  Tensor x = new_tensor_like(y);
  void* const out = x.mutable_data_ptr();
  layers::inverse(op, y, e, out);
  return x;
}

void mark_changed(const Optional& tensor) {
  if (tensor && !tensor->is_inference()) tensor->unsafeGetTensorImpl()->bump_version();
}

}  // namespace

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
                    num_batches_tracked->device() == x.device()), op, ": num_batches_tracked must be a 0-d int64 ", device_name, " tensor");
  TORCH_CHECK_VALUE(!training || !running_mean || momentum || num_batches_tracked, op,
                    ": num_batches_tracked must be given where momentum is None, got None");
  Tensor y = new_tensor_like(x), mean = empty_channels(x, e.c), rstd = empty_channels(x, e.c);
  e.shift = data_of(bias);
  void* const out = y.mutable_data_ptr();
  e.weight = data_of(weight);
  if (!training) {
    void *const mean_data = mean.mutable_data_ptr(), *const rstd_data = rstd.mutable_data_ptr();
    e.mean = mean_data;
    e.scale = rstd_data;
    const void *const from_mean = running_mean->const_data_ptr(), *const from_var = running_var->const_data_ptr();
    layers::running_statistics(op, x, e, from_mean, from_var, eps, mean_data, rstd_data);
    layers::forward(op, x, e, out);
    return {y, mean, rstd};
  }
  BatchNorm b = {};
  b.epilogue = e;
  b.mean = mean.mutable_data_ptr();
  b.rstd = rstd.mutable_data_ptr();
  b.batches = num_batches_tracked ? num_batches_tracked->mutable_data_ptr<int64_t>() : nullptr;
  b.cumulative = running_mean && !momentum;
  b.rate = momentum.value_or(0);
  b.eps = eps;
  mark_changed(num_batches_tracked);
  if (running_mean) {
    b.running_mean = running_mean->mutable_data_ptr();
    b.running_var = running_var->mutable_data_ptr();
    mark_changed(running_mean);
    mark_changed(running_var);
  }
  layers::batch_norm_forward(op, x, b, out);
  return {y, mean, rstd};
}

namespace {

void check_backward(const char* op, const Tensor& dy, const Tensor& x, const Tensor& mean, const Tensor& rstd, const Optional& weight,
                    const Optional& bias, int64_t c) {
  check_like(op, "dy", dy, x);
  check_vector(op, "mean", mean, x, c);
  check_vector(op, "rstd", rstd, x, c);
  check_vector(op, "weight", weight, x, c);
  check_vector(op, "bias", bias, x, c);
}

}  // namespace

Gradients batch_norm_backward(const Tensor& dy, const Tensor& x, const Tensor& mean, const Tensor& rstd, const Optional& weight,
                              const Optional& bias, const Optional& residual, const Optional& parameters, const Optional& seed,
                              std::string_view activation, const Constants& constants, double p, bool training, int64_t channel_dim,
                              const OutputMask& output_mask) {
  const char* op = "batch_norm_backward";
  Epilogue e = Arguments{op, x, residual, parameters, seed, activation, constants, p, channel_dim}.checked();
  check_backward(op, dy, x, mean, rstd, weight, bias, e.c);
  e.weight = data_of(weight);
  e.shift = data_of(bias);
  Outputs outputs(x, parameters, e.c, output_mask);
  EpilogueGradients g = outputs.pointers(dy);
  const void *const mean_data = mean.const_data_ptr(), *const rstd_data = rstd.const_data_ptr();
  if (training) {
    BatchNorm b = {};
    b.epilogue = e;
    b.mean = const_cast<void*>(mean_data);
    b.rstd = const_cast<void*>(rstd_data);
    layers::batch_norm_backward(op, x, b, g);
  } else {
    e.mean = mean_data;
    e.scale = g.factor = rstd_data;
    layers::backward(op, x, e, g);
  }
  return std::move(outputs).results();
}

namespace {

Tensor batch_norm_backward_input(const Tensor& dy, const Tensor& x, const Tensor& mean, const Tensor& rstd, const Optional& weight,
                                 const Optional& bias, const Optional& residual, const Optional& parameters, const Optional& seed,
                                 std::string_view activation, const Constants& constants, double p, int64_t channel_dim,
                                 const Tensor& mean_dz, const Tensor& mean_dz_centred) {
  const char* op = "batch_norm_backward_input";
  Epilogue e = Arguments{op, x, residual, parameters, seed, activation, constants, p, channel_dim}.checked();
  check_backward(op, dy, x, mean, rstd, weight, bias, e.c);
  check_vector(op, "mean_dz", mean_dz, x, e.c);
  check_vector(op, "mean_dz_centred", mean_dz_centred, x, e.c);
  const Tensor slope = empty_channels(x, e.c);
  void* const slope_data = slope.mutable_data_ptr();
  const void* const centred_data = mean_dz_centred.const_data_ptr();
  e.mean = mean.const_data_ptr();
  e.scale = rstd.const_data_ptr();
  e.weight = data_of(weight);
  e.shift = data_of(bias);
  Tensor dx = new_tensor_like(x);
  EpilogueGradients g = {};
  g.dy = dy.const_data_ptr();
  g.dx = dx.mutable_data_ptr();
  g.mean_dz = mean_dz.const_data_ptr();
  g.slope = slope_data;
  layers::slopes(op, x, e, centred_data, e.scale, slope_data);
  layers::backward(op, x, e, g);
  return dx;
}

Tensor dropout_mask(int64_t first, int64_t count, const Tensor& seed, double p) {
  const char* op = "dropout_mask";
  TORCH_CHECK_VALUE(first >= 0 && count >= 0, op, ": first and count must be at least 0, got ", first, " and ", count);
  TORCH_CHECK_VALUE(is_here(seed), op, ": seed must be on ", device_name, ", got one on ", seed.device());
  Epilogue e = {};
  check_dropout(op, seed, seed.device(), p, e);
  Tensor kept = new_tensor(seed, {count}, {1}, at::kBool);
  bool* const out = kept.mutable_data_ptr<bool>();
  layers::mask(op, seed, out, first, count, e);
  return kept;
}

}  // namespace

void bind_layers(py::module_& module) {
  const auto sample = py::arg("sample") = 0;
  const auto outcome = py::arg("outcome") = py::none();
  define(module, "epilogue_forward", &epilogue_forward, py::arg("x"), py::arg("mean"), py::arg("scale"), py::arg("shift"),
         py::arg("residual"), py::arg("parameters"), py::arg("seed"), py::arg("activation"), py::arg("constants"), py::arg("p"),
         py::arg("channel_dim"), py::arg("residual_after") = py::none(), sample, outcome);
  define(module, "epilogue_backward", &epilogue_backward, py::arg("dy"), py::arg("x"), py::arg("mean"), py::arg("scale"), py::arg("shift"),
         py::arg("residual"), py::arg("parameters"), py::arg("seed"), py::arg("activation"), py::arg("constants"), py::arg("p"),
         py::arg("channel_dim"), py::arg("from_output"), py::arg("output_mask"), sample, outcome);
  define(module, "epilogue_inverse", &epilogue_inverse);
  define(module, "batch_norm_statistics", &batch_norm_statistics);
  define(module, "batch_norm_forward", &batch_norm_forward);
  define(module, "batch_norm_backward", &batch_norm_backward);
  define(module, "batch_norm_backward_input", &batch_norm_backward_input);
  define(module, "dropout_mask", &dropout_mask, "Whether elements first .. first + count - 1 are kept: bool [count].");
#if !defined(FL_CUDA)
  module.def("cpu_capability", &cpu_capability_name, "The instruction set in use: baseline, avx2 or avx512.");
#endif
}

}  // namespace fastlayers
