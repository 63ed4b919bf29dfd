// The gated units of fastlayers._C: the functions of fastlayers/reference/gated.py on CPU tensors. Kernels run without the GIL.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>
#include <torch/csrc/utils/pybind.h>

#include "bindings_arguments.h"
#include "cpu/layers.h"

namespace py = pybind11;

namespace fastlayers {
namespace {

using Sizes = c10::SmallVector<int64_t, 6>;

// The arguments of both functions, checked, and the shape of y: half of x along dim, its dimensions in the same order in memory.
struct GatedArguments {
  Epilogue e;
  Sizes sizes, strides;

  GatedArguments(const char* op, const Tensor& x, const Optional& parameters, const Optional& seed, std::string_view activation,
                 const Constants& constants, double p, int64_t dim)
      : e(Arguments{op, x, std::nullopt, parameters, seed, activation, constants, p, dim}.checked()), sizes(x.sizes()),
        strides(x.strides()) {
    TORCH_CHECK_VALUE(x.dim() > 0 && x.size(dim) % 2 == 0, op, ": x must have an even size along dim ", dim, ", got shape ", x.sizes());
    TORCH_CHECK_VALUE(!activation_facts[e.activation].random, op, ": activation must not draw random numbers, got ",
                      std::string(activation));
    TORCH_CHECK_VALUE(e.parameter_count == 1, op, ": parameters must be one value each, got ", e.parameter_count);
    sizes[dim] /= 2;
    for (int64_t& stride : strides) stride = stride <= x.stride(dim) ? stride : stride / 2;
  }
};

Tensor gated_forward(const Tensor& x, const Optional& parameters, const Optional& seed, std::string_view activation,
                     const Constants& constants, double p, int64_t dim, bool gate_first) {
  const GatedArguments a("gated_forward", x, parameters, seed, activation, constants, p, dim);
  Tensor y = new_tensor(x, a.sizes, a.strides, x.scalar_type());
  void* const out = y.mutable_data_ptr();
  FL_KERNELS(gated_kernels).forward[index_of(a.e.dtype)](a.e, gate_first, out);
  return y;
}

std::tuple<Optional, Optional> gated_backward(const Tensor& dy, const Tensor& x, const Optional& parameters, const Optional& seed,
                                              std::string_view activation, const Constants& constants, double p, int64_t dim,
                                              bool gate_first, const std::array<bool, 2>& output_mask) {
  const char* op = "gated_backward";
  const GatedArguments a(op, x, parameters, seed, activation, constants, p, dim);
  check_like(op, "dy", dy, new_tensor(x, a.sizes, a.strides, x.scalar_type()));
  Optional dx, dparameters;
  GatedGradients g = {dy.const_data_ptr(), nullptr, nullptr};
  if (output_mask[0]) {
    dx = new_tensor_like(x);
    g.dx = dx->mutable_data_ptr();
  }
  if (output_mask[1] && parameters) {
    dparameters = new_tensor(x, parameters->sizes(), parameters->strides(), parameters->scalar_type());
    g.dparameters = dparameters->mutable_data_ptr();
  }
  FL_KERNELS(gated_kernels).backward[index_of(a.e.dtype)](a.e, gate_first, g);
  return {std::move(dx), std::move(dparameters)};
}

}  // namespace

void bind_gated(py::module_& module) {
  define(module, "gated_forward", &gated_forward);
  define(module, "gated_backward", &gated_backward);
}

}  // namespace fastlayers
