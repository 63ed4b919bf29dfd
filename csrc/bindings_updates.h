// What the two files that bind optimizers share: lists of tensors read in place, a step's work, sums of squares.
//
// Lists are read tensor by tensor: with hundreds of small parameters a conversion to std::vector<at::Tensor> would take longer than
// the update. Everything is checked before anything is changed.
#pragma once

#include <ATen/ATen.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>
#include <torch/csrc/autograd/python_variable.h>
#include <torch/csrc/utils/pybind.h>

#include <algorithm>
#include <cmath>
#include <optional>
#include <sstream>
#include <string>
#include <vector>

#include "cpu/optimizers.h"

namespace py = pybind11;

namespace fastlayers {
namespace {

template <class... Parts> std::string text(const Parts&... parts) {
  std::ostringstream stream;
  (stream << ... << parts);
  return stream.str();
}

// A Python list or tuple of tensors.
class Tensors {
 public:
  Tensors(const char* operation, const char* name, const py::object& given)
      : operation_(operation), name_(name), items_(py::reinterpret_steal<py::object>(PySequence_Fast(given.ptr(), ""))) {
    if (!items_) {
      PyErr_Clear();
      throw py::type_error(text(operation, ": ", name, " must be a list of tensors, got ", Py_TYPE(given.ptr())->tp_name));
    }
  }

  int64_t size() const { return PySequence_Fast_GET_SIZE(items_.ptr()); }

  const at::Tensor& operator[](int64_t i) const {
    PyObject* item = PySequence_Fast_GET_ITEM(items_.ptr(), i);
    if (!THPVariable_Check(item)) {
      throw py::type_error(text(operation_, ": ", name_, " must hold tensors, got ", Py_TYPE(item)->tp_name, " at position ", i));
    }
    return THPVariable_Unpack(item);
  }

  template <class Rule, class Value> [[noreturn]] void refuse(int64_t i, const Rule& rule, const Value& value) const {
    throw std::runtime_error(text(operation_, ": ", name_, " must ", rule, ", got ", value, " at position ", i));
  }

 private:
  const char* operation_;
  const char* name_;
  py::object items_;
};

NumberType number_type(const Tensors& list, int64_t i) {
  switch (list[i].scalar_type()) {
    case at::kFloat: return NumberType::float32;
    case at::kDouble: return NumberType::float64;
    case at::kHalf: return NumberType::float16;
    case at::kBFloat16: return NumberType::bfloat16;
    default: list.refuse(i, "be float32, float64, float16 or bfloat16", list[i].scalar_type());
  }
}

// Element i of a list, checked to be a CPU tensor of this type whose elements fill its memory.
const at::Tensor& dense(const Tensors& list, int64_t i, at::ScalarType type) {
  const at::Tensor& x = list[i];
  if (!x.device().is_cpu()) list.refuse(i, "be on cpu", x.device());
  if (x.layout() != at::kStrided) list.refuse(i, "be dense", x.layout());
  if (x.scalar_type() != type) list.refuse(i, text("all be ", type), x.scalar_type());
  if (!x.is_non_overlapping_and_dense()) list.refuse(i, "fill their memory without gaps", text("strides ", x.strides()));
  return x;
}

// Whether two tensors of one shape lie in memory alike; strides of dimensions of size 1 mean nothing.
bool same_order(const at::Tensor& x, const at::Tensor& model) {
  if (x.strides() == model.strides() || x.numel() == 0) return true;
  for (int64_t d = 0; d < x.dim(); ++d) {
    if (x.size(d) != 1 && x.stride(d) != model.stride(d)) return false;
  }
  return true;
}

// The same, and of the parameter's shape and memory order.
const at::Tensor& dense_like(const Tensors& list, int64_t i, at::ScalarType type, const at::Tensor& param) {
  const at::Tensor& x = dense(list, i, type);
  if (x.sizes() != param.sizes()) list.refuse(i, text("have their parameter's shape ", param.sizes()), x.sizes());
  if (!same_order(x, param)) list.refuse(i, text("have their parameter's strides ", param.strides()), x.strides());
  return x;
}

// States are of the parameters' type, or float32 or bfloat16 for any but float64.
bool supported(NumberType type, NumberType state_type) {
  return state_type == type ||
         (type != NumberType::float64 && (state_type == NumberType::float32 || state_type == NumberType::bfloat16));
}

bool is_half(NumberType type) { return type == NumberType::float16 || type == NumberType::bfloat16; }

// What averages of parameters are kept in.
at::ScalarType average_type(at::ScalarType type) { return type == at::kDouble ? at::kDouble : at::kFloat; }

int find_rule(const std::string& name) {
  const OptimizerKernels& kernels = FL_KERNELS(optimizer_kernels);
  std::string names;
  for (int i = 0; i < kernels.rule_count; ++i) {
    if (name == kernels.rules[i].name) return i;
    names += text(i ? ", " : "", kernels.rules[i].name);
  }
  throw py::value_error(text("optimizer_step: rule must be one of ", names, ", got '", name, "'"));
}

void check_count(const char* name, size_t given, size_t wanted) {
  if (given == wanted) return;
  throw py::value_error(text("optimizer_step: ", name, " must have ", wanted, " elements, got ", given));
}

using Optional = std::optional<at::Tensor>;

// Sign, 1 / grad_scale and clipping in one number. squares: sum of squares of all gradients, if they are to be clipped.
double gradient_factor(bool maximize, const Optional& grad_scale, std::optional<double> squares, double max_grad_norm) {
  double factor = grad_scale ? 1 / grad_scale->item<double>() : 1;
  if (squares) {
    const double ratio = max_grad_norm / (std::sqrt(*squares) * factor + 1e-6);
    factor *= ratio > 1 ? 1 : ratio;  // in this order a NaN norm gives NaN, as torch's clamp does
  }
  return maximize ? -factor : factor;
}

bool skips(const Optional& found_inf) { return found_inf && found_inf->item<double>() != 0; }

// A step of one list, checked: the kernels' view of the tensors, and the scalars to advance.
struct Work {
  int rule;
  NumberType type, state_type;
  std::vector<double> hyperparameters;
  bool flags[max_flags] = {};
  std::vector<int> present;  // which of the rule's states there are
  bool has_masters = false;
  std::optional<double> ema_decay;
  std::optional<uint64_t> seed;
  std::vector<UpdateTensor> tensors;
  std::vector<float*> scalars;
  int64_t numel = 0, numbers = 0;
  float before[max_scalars], advanced[max_scalars];  // of the tensor added last

  const RuleFacts& facts() const { return FL_KERNELS(optimizer_kernels).rules[rule]; }

  Work(const std::string& name, std::vector<double> numbers, const std::vector<int>& given_flags)
      : rule(find_rule(name)), hyperparameters(std::move(numbers)) {
    check_count("hyperparameters", hyperparameters.size(), facts().hyperparameters + 2);
    check_count("flags", given_flags.size(), facts().flags + 1);
    for (size_t i = 0; i < given_flags.size(); ++i) flags[i] = given_flags[i] != 0;
    for (int k = 0; k < facts().states; ++k) {
      if (facts().has_state(k, hyperparameters.data(), flags)) present.push_back(k);
    }
  }

  // own_scalars: those of the tensor, facts().scalars of them.
  void add(UpdateTensor tensor, float* const* own_scalars) {
    const int count = facts().scalars;
    bool same = count && !tensors.empty();  // as the tensor's before: advancing may take two powers, felt where tensors are small
    for (int k = 0; k < count; ++k) {
      same = same && *own_scalars[k] == before[k];
      before[k] = *own_scalars[k];
      scalars.push_back(own_scalars[k]);
    }
    if (!same && count) {
      std::copy_n(before, count, advanced);
      facts().advance(hyperparameters.data(), advanced);
    }
    std::copy_n(advanced, count, tensor.scalars);
    tensor.offset = numel;
    tensor.first_number = numbers;
    numel += tensor.numel;
    numbers += (tensor.numel + 7) / 8 * 8;
    tensors.push_back(tensor);
  }

  void run(double gradient_factor) const {
    const bool plain = !has_masters && !ema_decay && !seed;
    FL_KERNELS(optimizer_kernels).step({rule, type, state_type, hyperparameters.data(), flags, gradient_factor,
                                        1 - ema_decay.value_or(0), seed ? &*seed : nullptr, plain, tensors.data(),
                                        static_cast<int64_t>(tensors.size()), numel});
    auto scalar = scalars.begin();
    for (const UpdateTensor& tensor : tensors) {
      for (int k = 0; k < facts().scalars; ++k) **scalar++ = static_cast<float>(tensor.scalars[k]);
    }
  }
};

UpdateTensor new_tensor(const at::Tensor& param, const at::Tensor& grad) {
  return {param.mutable_data_ptr(), grad.const_data_ptr(), {}, nullptr, nullptr, {}, param.numel(), 0, 0};
}

// Autograd must see that parameters were written to. (No graph holds states and scalars.)
void mark_written(const Tensors& list) {
  for (int64_t i = 0; i < list.size(); ++i) list[i].unsafeGetTensorImpl()->bump_version();
}

std::optional<uint64_t> seed_value(const Optional& seed) {
  return seed ? std::optional<uint64_t>(static_cast<uint64_t>(seed->item<int64_t>())) : std::nullopt;
}

// The sum of squares of some gradients of one type, and whether all their elements are finite.
struct Squares {
  double sum = 0;
  bool finite = true;

  void add(NumberType type, const std::vector<UpdateTensor>& tensors) {
    std::vector<NormPart> parts;
    for (const UpdateTensor& tensor : tensors) {
      for (int64_t begin = 0; begin < tensor.numel; begin += norm_part_size) {
        parts.push_back({tensor.grad, begin, std::min(begin + norm_part_size, tensor.numel)});
      }
    }
    std::vector<double> sums(parts.size());
    const std::unique_ptr<bool[]> all_finite(new bool[parts.size()]);
    FL_KERNELS(optimizer_kernels).norm(type, parts.data(), parts.size(), sums.data(), all_finite.get());
    for (size_t i = 0; i < parts.size(); ++i) {
      sum += sums[i];
      finite = finite && all_finite[i];
    }
  }
};

}  // namespace
}  // namespace fastlayers
