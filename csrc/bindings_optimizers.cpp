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

// States are of the parameters' type, or float32 for half types.
bool supported(NumberType type, NumberType state_type) {
  return state_type == type || (state_type == NumberType::float32 && type != NumberType::float64);
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

// A step of one list, checked: the kernels' view of the tensors, and the step counts to advance.
struct Work {
  int rule;
  NumberType type, state_type;
  std::vector<double> hyperparameters;
  bool flags[max_flags] = {};
  std::vector<int> present;  // which of the rule's states there are
  std::vector<UpdateTensor> tensors;
  std::vector<float*> steps;
  int64_t numel = 0;

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

  void add(UpdateTensor tensor, float* step) {
    if (step) tensor.step = *step, steps.push_back(step);
    tensor.offset = numel;
    numel += tensor.numel;
    tensors.push_back(tensor);
  }

  void run(double gradient_factor) const {
    FL_KERNELS(optimizer_kernels).step({rule, type, state_type, hyperparameters.data(), flags, gradient_factor, tensors.data(),
                                        static_cast<int64_t>(tensors.size()), numel});
    for (float* step : steps) *step += 1;
  }
};

void gather(Work& work, const Tensors& params, const Tensors& grads, const Tensors& states, const Tensors& steps) {
  const int64_t count = params.size();
  const at::ScalarType type = params[0].scalar_type(), state_type = work.present.empty() ? type : states[0].scalar_type();
  work.tensors.reserve(count);
  work.steps.reserve(steps.size());
  for (int64_t i = 0; i < count; ++i) {
    const at::Tensor& param = dense(params, i, type);
    UpdateTensor tensor{param.mutable_data_ptr(), dense_like(grads, i, type, param).const_data_ptr(), {}, 0, param.numel(), 0};
    for (size_t k = 0; k < work.present.size(); ++k) {
      const int64_t at = static_cast<int64_t>(k) * count + i;
      tensor.states[work.present[k]] = dense_like(states, at, state_type, param).mutable_data_ptr();
    }
    if (steps.size() && dense(steps, i, at::kFloat).numel() != 1) steps.refuse(i, "have one element", steps[i].sizes());
    work.add(tensor, steps.size() ? steps[i].mutable_data_ptr<float>() : nullptr);
  }
}

// Autograd must see that parameters were written to. (No graph holds states and steps.)
void mark_written(const Tensors& list) {
  for (int64_t i = 0; i < list.size(); ++i) list[i].unsafeGetTensorImpl()->bump_version();
}

void optimizer_step(
    const std::string& rule, const py::object& param_list, const py::object& grad_list, const py::object& state_list,
    const py::object& step_list, std::vector<double> hyperparameters, const std::vector<int>& flags, const Optional& lr,
    const Optional& grad_scale, const Optional& found_inf, const Optional& norm, double max_grad_norm) {
  const Tensors params("optimizer_step", "params", param_list), grads("optimizer_step", "grads", grad_list);
  const Tensors states("optimizer_step", "states", state_list), steps("optimizer_step", "steps", step_list);
  Work work(rule, std::move(hyperparameters), flags);
  if (lr) work.hyperparameters[0] = lr->item<double>();
  check_count("grads", grads.size(), params.size());
  check_count("states", states.size(), work.present.size() * params.size());
  check_count("steps", steps.size(), work.facts().counts_steps ? params.size() : 0);
  if (params.size() == 0) return;
  work.type = number_type(params, 0);
  work.state_type = work.present.empty() ? work.type : number_type(states, 0);
  if (!supported(work.type, work.state_type)) {
    states.refuse(0, text("be ", params[0].scalar_type(), " like their parameter, or Float"), states[0].scalar_type());
  }
  gather(work, params, grads, states, steps);
  if (skips(found_inf)) return;
  mark_written(params);
  const auto squares = norm ? std::optional<double>(norm->select(0, 0).item<double>()) : std::nullopt;
  const double factor = gradient_factor(work.flags[0], grad_scale, squares, max_grad_norm);
  py::gil_scoped_release released;
  work.run(factor);
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

at::Tensor gradient_norm(const py::object& grad_list) {
  const Tensors grads("gradient_norm", "grads", grad_list);
  std::vector<UpdateTensor> tensors;
  for (int64_t i = 0; i < grads.size(); ++i) {
    const at::Tensor& grad = dense(grads, i, grads[0].scalar_type());
    tensors.push_back({nullptr, grad.const_data_ptr(), {}, 0, grad.numel(), 0});
  }
  at::Tensor result = at::zeros({2}, at::kDouble);
  if (tensors.empty()) return result;
  const NumberType type = number_type(grads, 0);
  py::gil_scoped_release released;
  Squares squares;
  squares.add(type, tensors);
  result.mutable_data_ptr<double>()[0] = squares.sum;
  result.mutable_data_ptr<double>()[1] = squares.finite ? 0 : 1;
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

// The tensor under a name in the dictionary of a parameter's states, or nullptr.
const at::Tensor* lookup(PyObject* dictionary, PyObject* name) {
  PyObject* item = PyDict_Check(dictionary) ? PyDict_GetItem(dictionary, name) : nullptr;
  return item && THPVariable_Check(item) ? &THPVariable_Unpack(item) : nullptr;
}

// Adds parameter i with its gradient and states; false if one is missing or does not fit.
bool add_if_ready(Work& work, const at::Tensor& param, at::ScalarType type, PyObject* dictionary, const py::tuple& names) {
  if (!param.device().is_cpu() || !fits(param, type, param) || !param.is_non_overlapping_and_dense()) return false;
  if (!fits(param.grad(), type, param)) return false;
  UpdateTensor tensor{param.mutable_data_ptr(), param.grad().const_data_ptr(), {}, 0, param.numel(), 0};
  const at::ScalarType state_type = work.state_type == work.type ? type : at::kFloat;
  for (size_t k = 0; k < work.present.size(); ++k) {
    const at::Tensor* state = lookup(dictionary, PyTuple_GET_ITEM(names.ptr(), k));
    if (!state || !fits(*state, state_type, param)) return false;
    tensor.states[work.present[k]] = state->mutable_data_ptr();
  }
  float* step = nullptr;
  if (work.facts().counts_steps) {
    static PyObject* const name = PyUnicode_InternFromString("step");
    const at::Tensor* count = lookup(dictionary, name);
    if (!count || count->numel() != 1 || !fits(*count, at::kFloat, *count) || !count->device().is_cpu()) return false;
    step = count->mutable_data_ptr<float>();
  }
  work.add(tensor, step);
  return true;
}

// optimizer_step for all launches of a step of fastlayers.optim, read straight from params and their state dictionaries: with
// hundreds of small parameters, building lists in Python takes longer than the update. A launch is (rule, params, dictionaries,
// names of the states, hyperparameters, flags). Returns False, and has changed nothing, where anything is missing or does not fit.
bool step_launches(
    const py::list& launches, const Optional& grad_scale, const Optional& found_inf, std::optional<double> max_grad_norm) {
  std::vector<Work> works;
  for (const py::handle& handle : launches) {
    const auto launch = py::reinterpret_borrow<py::tuple>(handle);
    const Tensors params("step_launches", "params", launch[1]);
    const auto dictionaries = py::reinterpret_borrow<py::list>(launch[2]);
    const auto names = py::reinterpret_borrow<py::tuple>(launch[3]);
    works.emplace_back(launch[0].cast<std::string>(), launch[4].cast<std::vector<double>>(), launch[5].cast<std::vector<int>>());
    Work& work = works.back();
    if (names.size() != work.present.size() || dictionaries.size() != static_cast<size_t>(params.size())) return false;
    work.type = work.state_type = number_type(params, 0);
    const at::Tensor* state = names.empty() ? nullptr : lookup(dictionaries[0].ptr(), names[0].ptr());
    if (state && state->scalar_type() != params[0].scalar_type()) work.state_type = NumberType::float32;
    if (!supported(work.type, work.state_type)) return false;
    work.tensors.reserve(params.size());
    for (int64_t i = 0; i < params.size(); ++i) {
      if (!add_if_ready(work, params[i], params[0].scalar_type(), PyList_GET_ITEM(dictionaries.ptr(), i), names)) return false;
    }
  }
  if (skips(found_inf)) return true;
  for (const py::handle& launch : launches) mark_written(Tensors("step_launches", "params", launch[py::int_(1)]));

  std::optional<double> squares;
  py::gil_scoped_release released;
  if (max_grad_norm) {
    Squares all;
    for (const Work& work : works) all.add(work.type, work.tensors);
    squares = all.sum;
  }
  for (const Work& work : works) work.run(gradient_factor(work.flags[0], grad_scale, squares, max_grad_norm.value_or(0)));
  return true;
}

}  // namespace

void bind_optimizers(py::module_& module) {
  using namespace py::literals;
  module.def("optimizer_step", &optimizer_step, "rule"_a, "params"_a, "grads"_a, "states"_a, "steps"_a, "hyperparameters"_a, "flags"_a,
             "lr"_a, "grad_scale"_a, "found_inf"_a, "norm"_a, "max_grad_norm"_a,
             "fastlayers.reference.optimizers.optimizer_step for CPU tensors");
  module.def("gradients_if_ready", &gradients_if_ready, "params"_a, "states"_a, "steps"_a,
             "fastlayers.optim.layout.gradients_if_ready, faster");
  module.def("step_launches", &step_launches, "launches"_a, "grad_scale"_a, "found_inf"_a, "max_grad_norm"_a,
             "A whole step of fastlayers.optim, or False where it needs preparation");
  module.def("gradient_norm", &gradient_norm, "grads"_a, "fastlayers.reference.optimizers.gradient_norm for CPU tensors");
}

}  // namespace fastlayers
