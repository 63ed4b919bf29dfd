// optimizer_step and gradient_norm for Python: checks, and tensors turned into the pointers that csrc/cpu/optimizers.cpp takes.
//
// Lists are read in place, tensor by tensor: with hundreds of small parameters a conversion to std::vector<at::Tensor> would take
// longer than the update. Everything is checked before anything is changed.
#include <ATen/ATen.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>
#include <torch/csrc/autograd/python_variable.h>
#include <torch/csrc/utils/pybind.h>

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

// Sign, 1 / grad_scale and clipping in one number.
double gradient_factor(
    bool maximize, const std::optional<at::Tensor>& grad_scale, const std::optional<at::Tensor>& norm, double max_grad_norm) {
  double factor = grad_scale ? 1 / grad_scale->item<double>() : 1;
  if (norm) {
    const double ratio = max_grad_norm / (std::sqrt(norm->select(0, 0).item<double>()) * factor + 1e-6);
    factor *= ratio > 1 ? 1 : ratio;  // in this order a NaN norm gives NaN, as torch's clamp does
  }
  return maximize ? -factor : factor;
}

// What a step works on, checked: the kernels' view of the tensors, and the step counts to advance.
struct Work {
  std::vector<UpdateTensor> tensors;
  std::vector<float*> steps;
  int64_t numel = 0;
};

// present: which of the rule's states the list of states holds.
Work gather(const Tensors& params, const Tensors& grads, const Tensors& states, const Tensors& steps, const std::vector<int>& present) {
  const int64_t count = params.size();
  const at::ScalarType type = params[0].scalar_type(), state_type = present.empty() ? type : states[0].scalar_type();
  Work work;
  work.tensors.reserve(count);
  work.steps.reserve(steps.size());
  for (int64_t i = 0; i < count; ++i) {
    const at::Tensor& param = dense(params, i, type);
    const at::Tensor& grad = dense_like(grads, i, type, param);
    UpdateTensor tensor{param.mutable_data_ptr(), grad.const_data_ptr(), {}, 0, param.numel(), work.numel};
    for (size_t k = 0; k < present.size(); ++k) {
      tensor.states[present[k]] = dense_like(states, static_cast<int64_t>(k) * count + i, state_type, param).mutable_data_ptr();
    }
    if (steps.size()) {
      const at::Tensor& step = dense(steps, i, at::kFloat);
      if (step.numel() != 1) steps.refuse(i, "have one element", step.sizes());
      work.steps.push_back(step.mutable_data_ptr<float>());
      tensor.step = *work.steps.back();
    }
    work.numel += tensor.numel;
    work.tensors.push_back(tensor);
  }
  return work;
}

// Autograd must see that the tensors were written to.
void mark_written(const Tensors& list) {
  for (int64_t i = 0; i < list.size(); ++i) list[i].unsafeGetTensorImpl()->bump_version();
}

using Optional = std::optional<at::Tensor>;

void optimizer_step(
    const std::string& rule, const py::object& param_list, const py::object& grad_list, const py::object& state_list,
    const py::object& step_list, std::vector<double> hyperparameters, const std::vector<int>& flag_list, const Optional& lr,
    const Optional& grad_scale, const Optional& found_inf, const Optional& norm, double max_grad_norm) {
  const int index = find_rule(rule);
  const RuleFacts& facts = FL_KERNELS(optimizer_kernels).rules[index];
  const Tensors params("optimizer_step", "params", param_list), grads("optimizer_step", "grads", grad_list);
  const Tensors states("optimizer_step", "states", state_list), steps("optimizer_step", "steps", step_list);
  check_count("hyperparameters", hyperparameters.size(), facts.hyperparameters + 2);
  check_count("flags", flag_list.size(), facts.flags + 1);
  bool flags[8] = {};
  for (size_t i = 0; i < flag_list.size(); ++i) flags[i] = flag_list[i] != 0;
  if (lr) hyperparameters[0] = lr->item<double>();

  std::vector<int> present;
  for (int k = 0; k < facts.states; ++k) {
    if (facts.has_state(k, hyperparameters.data(), flags)) present.push_back(k);
  }
  check_count("grads", grads.size(), params.size());
  check_count("states", states.size(), present.size() * params.size());
  if (steps.size() || facts.counts_steps) check_count("steps", steps.size(), params.size());
  if (params.size() == 0) return;
  const NumberType type = number_type(params, 0), state_type = present.empty() ? type : number_type(states, 0);
  if (state_type != type && (state_type != NumberType::float32 || type == NumberType::float64)) {
    states.refuse(0, text("be ", params[0].scalar_type(), " like their parameter, or Float"), states[0].scalar_type());
  }
  const Work work = gather(params, grads, states, steps, present);
  if (found_inf && found_inf->item<double>() != 0) return;

  for (const Tensors* list : {&params, &states, &steps}) mark_written(*list);
  const double factor = gradient_factor(flags[0], grad_scale, norm, max_grad_norm);
  const int64_t count = params.size();
  {
    py::gil_scoped_release released;
    FL_KERNELS(optimizer_kernels).step(
        {index, type, state_type, hyperparameters.data(), flags, factor, work.tensors.data(), count, work.numel});
  }
  for (float* step : work.steps) *step += 1;
}

at::Tensor gradient_norm(const py::object& grad_list) {
  const Tensors grads("gradient_norm", "grads", grad_list);
  at::Tensor result = at::zeros({2}, at::kDouble);
  std::vector<NormPart> parts;
  for (int64_t i = 0; i < grads.size(); ++i) {
    const at::Tensor& grad = dense(grads, i, grads[0].scalar_type());
    const void* data = grad.const_data_ptr();
    const int64_t numel = grad.numel();
    for (int64_t begin = 0; begin < numel; begin += norm_part_size) {
      parts.push_back({data, begin, std::min(begin + norm_part_size, numel)});
    }
  }
  if (parts.empty()) return result;
  const NumberType type = number_type(grads, 0);
  std::vector<double> sums(parts.size());
  const std::unique_ptr<bool[]> finite(new bool[parts.size()]);
  py::gil_scoped_release released;
  FL_KERNELS(optimizer_kernels).norm(type, parts.data(), parts.size(), sums.data(), finite.get());
  double* totals = result.mutable_data_ptr<double>();
  for (size_t i = 0; i < parts.size(); ++i) {
    totals[0] += sums[i];
    if (!finite[i]) totals[1] = 1;
  }
  return result;
}

// Whether x is of this kind, and laid out like its parameter.
bool fits(const at::Tensor& x, at::ScalarType type, const at::Tensor& param) {
  return x.defined() && x.layout() == at::kStrided && x.scalar_type() == type && x.device() == param.device() &&
         x.sizes() == param.sizes() && same_order(x, param);
}

// The gradients of params, or None where a gradient is missing or anything does not fit its parameter: what an optimizer asks at
// every step, in a tenth of the time that Python needs.
py::object gradients_if_ready(const py::object& param_list, const py::object& state_list, const py::object& step_list) {
  const char* name = "gradients_if_ready";
  const Tensors params(name, "params", param_list), states(name, "states", state_list), steps(name, "steps", step_list);
  const int64_t count = params.size();
  py::list result(count);
  for (int64_t i = 0; i < count; ++i) {
    const at::Tensor& param = params[i];
    if (!fits(param, params[0].scalar_type(), param) || !fits(param.grad(), params[0].scalar_type(), param)) return py::none();
    for (int64_t k = i; k < states.size(); k += count) {
      if (!fits(states[k], states[0].scalar_type(), param)) return py::none();
    }
    if (steps.size() && (steps[i].scalar_type() != at::kFloat || steps[i].device() != param.device())) return py::none();
    PyList_SET_ITEM(result.ptr(), i, THPVariable_Wrap(param.grad()));
  }
  return result;
}

}  // namespace

void bind_optimizers(py::module_& module) {
  using namespace py::literals;
  module.def("optimizer_step", &optimizer_step, "rule"_a, "params"_a, "grads"_a, "states"_a, "steps"_a, "hyperparameters"_a, "flags"_a,
             "lr"_a, "grad_scale"_a, "found_inf"_a, "norm"_a, "max_grad_norm"_a,
             "fastlayers.reference.optimizers.optimizer_step for CPU tensors");
  module.def("gradients_if_ready", &gradients_if_ready, "params"_a, "states"_a, "steps"_a,
             "fastlayers.optim.layout.gradients_if_ready, faster");
  module.def("gradient_norm", &gradient_norm, "grads"_a, "fastlayers.reference.optimizers.gradient_norm for CPU tensors");
}

}  // namespace fastlayers
