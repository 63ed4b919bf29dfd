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
#include <map>
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
    float advanced[max_scalars];
    const int count = facts().scalars;
    for (int k = 0; k < count; ++k) advanced[k] = *own_scalars[k];
    if (count) facts().advance(hyperparameters.data(), advanced);
    for (int k = 0; k < count; ++k) {
      tensor.scalars[k] = advanced[k];
      scalars.push_back(own_scalars[k]);
    }
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

// The lists of one call.
struct Lists {
  Tensors params, grads, states, scalars, masters, averages;
};

void gather(Work& work, const Lists& lists) {
  const int64_t count = lists.params.size();
  const at::ScalarType type = lists.params[0].scalar_type(), state_type = work.present.empty() ? type : lists.states[0].scalar_type();
  work.tensors.reserve(count);
  for (int64_t i = 0; i < count; ++i) {
    const at::Tensor& param = dense(lists.params, i, type);
    UpdateTensor tensor = new_tensor(param, dense_like(lists.grads, i, type, param));
    for (size_t k = 0; k < work.present.size(); ++k) {
      const int64_t at = static_cast<int64_t>(k) * count + i;
      tensor.states[work.present[k]] = dense_like(lists.states, at, state_type, param).mutable_data_ptr();
    }
    float* own_scalars[max_scalars];
    for (int k = 0; k < work.facts().scalars; ++k) {
      const at::Tensor& scalar = dense(lists.scalars, k * count + i, at::kFloat);
      if (scalar.numel() != 1) lists.scalars.refuse(k * count + i, "have one element", scalar.sizes());
      own_scalars[k] = scalar.mutable_data_ptr<float>();
    }
    if (work.has_masters) tensor.master = dense_like(lists.masters, i, at::kFloat, param).mutable_data_ptr();
    if (work.ema_decay) tensor.average = dense_like(lists.averages, i, average_type(type), param).mutable_data_ptr();
    work.add(tensor, own_scalars);
  }
}

// Autograd must see that parameters were written to. (No graph holds states and scalars.)
void mark_written(const Tensors& list) {
  for (int64_t i = 0; i < list.size(); ++i) list[i].unsafeGetTensorImpl()->bump_version();
}

std::optional<uint64_t> seed_value(const Optional& seed) {
  return seed ? std::optional<uint64_t>(static_cast<uint64_t>(seed->item<int64_t>())) : std::nullopt;
}

void optimizer_step(
    const std::string& rule, const py::object& params, const py::object& grads, const py::object& states, const py::object& scalars,
    const py::object& masters, const py::object& averages, std::vector<double> hyperparameters, const std::vector<int>& flags,
    const std::vector<Optional>& tensors, const Optional& grad_scale, const Optional& found_inf, const Optional& norm,
    const Optional& seed, double max_grad_norm, double ema_decay) {
  const char* name = "optimizer_step";
  const Lists lists{{name, "params", params},   {name, "grads", grads},     {name, "states", states},
                    {name, "scalars", scalars}, {name, "masters", masters}, {name, "averages", averages}};
  if (!tensors.empty()) check_count("tensors", tensors.size(), hyperparameters.size());
  for (size_t i = 0; i < tensors.size(); ++i) {
    if (tensors[i]) hyperparameters[i] = tensors[i]->item<double>();
  }
  Work work(rule, std::move(hyperparameters), flags);
  const size_t count = lists.params.size();
  check_count("grads", lists.grads.size(), count);
  check_count("states", lists.states.size(), work.present.size() * count);
  check_count("scalars", lists.scalars.size(), work.facts().scalars * count);
  if (lists.masters.size()) check_count("masters", lists.masters.size(), count);
  if (lists.averages.size()) check_count("averages", lists.averages.size(), count);
  if (count == 0) return;
  work.type = number_type(lists.params, 0);
  work.state_type = work.present.empty() ? work.type : number_type(lists.states, 0);
  if (!supported(work.type, work.state_type)) {
    lists.states.refuse(0, text("be ", lists.params[0].scalar_type(), " like their parameter, Float or BFloat16"),
                        lists.states[0].scalar_type());
  }
  work.has_masters = lists.masters.size() > 0;
  if (work.has_masters && !is_half(work.type)) {
    lists.params.refuse(0, "be Half or BFloat16 to have masters", lists.params[0].scalar_type());
  }
  if (lists.averages.size()) work.ema_decay = ema_decay;
  work.seed = seed_value(seed);
  gather(work, lists);
  if (skips(found_inf)) return;
  mark_written(lists.params);
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
    tensors.push_back({nullptr, grad.const_data_ptr(), {}, nullptr, nullptr, {}, grad.numel(), 0, 0});
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
py::object gradients_if_ready(
    const py::object& param_list, const py::object& state_list, const py::object& scalar_list, const py::object& master_list,
    const py::object& average_list) {
  const char* name = "gradients_if_ready";
  const Tensors params(name, "params", param_list), states(name, "states", state_list), scalars(name, "scalars", scalar_list);
  const Tensors masters(name, "masters", master_list), averages(name, "averages", average_list);
  const int64_t count = params.size();
  py::list result(count);
  for (int64_t i = 0; i < count; ++i) {
    const at::Tensor& param = params[i];
    if (!fits(param, params[0].scalar_type(), param) || !fits(param.grad(), params[0].scalar_type(), param)) return py::none();
    for (int64_t k = i; k < states.size(); k += count) {
      if (!fits(states[k], states[0].scalar_type(), param)) return py::none();
    }
    for (int64_t k = i; k < scalars.size(); k += count) {
      if (scalars[k].scalar_type() != at::kFloat || scalars[k].device() != param.device()) return py::none();
    }
    if (masters.size() && !fits(masters[i], at::kFloat, param)) return py::none();
    if (averages.size() && !fits(averages[i], average_type(param.scalar_type()), param)) return py::none();
    PyList_SET_ITEM(result.ptr(), i, THPVariable_Wrap(param.grad()));
  }
  return result;
}

// The tensor under a name in the dictionary of a parameter's states, or nullptr.
const at::Tensor* lookup(PyObject* dictionary, PyObject* name) {
  PyObject* item = PyDict_Check(dictionary) ? PyDict_GetItem(dictionary, name) : nullptr;
  return item && THPVariable_Check(item) ? &THPVariable_Unpack(item) : nullptr;
}

// The memory of the state under that name if it is like the parameter, or nullptr.
void* memory_if_ready(PyObject* dictionary, PyObject* name, at::ScalarType type, const at::Tensor& param) {
  const at::Tensor* state = lookup(dictionary, name);
  return state && fits(*state, type, param) ? state->mutable_data_ptr() : nullptr;
}

at::ScalarType scalar_type(NumberType type) {
  switch (type) {
    case NumberType::float32: return at::kFloat;
    case NumberType::float64: return at::kDouble;
    case NumberType::float16: return at::kHalf;
    default: return at::kBFloat16;
  }
}

// Adds a parameter with its gradient and states; false if one is missing or does not fit.
bool add_if_ready(Work& work, const at::Tensor& param, PyObject* dictionary, const py::tuple& names, const py::tuple& scalar_names) {
  static PyObject* const master = PyUnicode_InternFromString("master");
  static PyObject* const average = PyUnicode_InternFromString("average");
  const at::ScalarType type = scalar_type(work.type), state_type = scalar_type(work.state_type);
  if (!param.device().is_cpu() || !fits(param, type, param) || !param.is_non_overlapping_and_dense()) return false;
  if (!fits(param.grad(), type, param)) return false;
  const bool empty = param.numel() == 0;  // whose memory may be nullptr
  UpdateTensor tensor = new_tensor(param, param.grad());
  for (size_t k = 0; k < work.present.size(); ++k) {
    void* memory = memory_if_ready(dictionary, PyTuple_GET_ITEM(names.ptr(), k), state_type, param);
    if (!memory && !empty) return false;
    tensor.states[work.present[k]] = memory;
  }
  float* scalars[max_scalars];
  for (int k = 0; k < work.facts().scalars; ++k) {
    const at::Tensor* scalar = lookup(dictionary, PyTuple_GET_ITEM(scalar_names.ptr(), k));
    if (!scalar || scalar->numel() != 1 || !fits(*scalar, at::kFloat, *scalar) || !scalar->device().is_cpu()) return false;
    scalars[k] = scalar->mutable_data_ptr<float>();
  }
  if (work.has_masters && !(tensor.master = memory_if_ready(dictionary, master, at::kFloat, param)) && !empty) return false;
  if (work.ema_decay && !(tensor.average = memory_if_ready(dictionary, average, average_type(type), param)) && !empty) return false;
  work.add(tensor, scalars);
  return true;
}

// A launch of fastlayers.optim as Launch.native of plan.py makes it.
struct NativeLaunch {
  explicit NativeLaunch(const py::handle& handle) : items(py::reinterpret_borrow<py::tuple>(handle)) {}

  py::object operator[](int i) const { return items[i]; }
  Tensors params() const { return {"step_launches", "params", items[1]}; }
  // (which launches share a norm, the largest it may be), or nothing.
  std::optional<std::pair<int, double>> clipping() const { return items[10].cast<std::optional<std::pair<int, double>>>(); }

  py::tuple items;
};

// The work of a launch; false if anything is missing or does not fit.
bool prepare(std::vector<Work>& works, const NativeLaunch& launch) {
  const Tensors params = launch.params();
  const py::list dictionaries = launch[2];
  const py::tuple names = launch[3], scalar_names = launch[4];
  works.emplace_back(launch[0].cast<std::string>(), launch[5].cast<std::vector<double>>(), launch[6].cast<std::vector<int>>());
  Work& work = works.back();
  if (names.size() != work.present.size() || dictionaries.size() != static_cast<size_t>(params.size())) return false;
  if (scalar_names.size() != static_cast<size_t>(work.facts().scalars)) return false;
  work.type = work.state_type = number_type(params, 0);
  work.has_masters = launch[7].cast<bool>();
  work.ema_decay = launch[8].cast<std::optional<double>>();
  work.seed = seed_value(launch[9].cast<Optional>());
  if (!names.empty()) {
    const at::Tensor* state = lookup(dictionaries[0].ptr(), names[0].ptr());
    if (!state) return false;
    switch (state->scalar_type()) {
      case at::kFloat: work.state_type = NumberType::float32; break;
      case at::kBFloat16: work.state_type = NumberType::bfloat16; break;
      default: if (state->scalar_type() != params[0].scalar_type()) return false;
    }
  }
  if (!supported(work.type, work.state_type) || (work.has_masters && !is_half(work.type))) return false;
  work.tensors.reserve(params.size());
  for (int64_t i = 0; i < params.size(); ++i) {
    if (!add_if_ready(work, params[i], PyList_GET_ITEM(dictionaries.ptr(), i), names, scalar_names)) return false;
  }
  return true;
}

// optimizer_step for all launches of a step of fastlayers.optim, read straight from params and their state dictionaries: with
// hundreds of small parameters, building lists in Python takes longer than the update. Returns False, and has changed nothing, where
// anything is missing or does not fit.
bool step_launches(const py::list& handles, const Optional& grad_scale, const Optional& found_inf) {
  const std::vector<NativeLaunch> launches(handles.begin(), handles.end());
  std::vector<Work> works;
  works.reserve(launches.size());
  std::vector<std::optional<std::pair<int, double>>> clippings;
  for (const NativeLaunch& launch : launches) {
    if (!prepare(works, launch)) return false;
    clippings.push_back(launch.clipping());
  }
  if (skips(found_inf)) return true;
  for (const NativeLaunch& launch : launches) mark_written(launch.params());

  py::gil_scoped_release released;
  std::map<int, Squares> norms;
  for (size_t i = 0; i < works.size(); ++i) {
    if (clippings[i]) norms[clippings[i]->first].add(works[i].type, works[i].tensors);
  }
  for (size_t i = 0; i < works.size(); ++i) {
    const auto squares = clippings[i] ? std::optional<double>(norms[clippings[i]->first].sum) : std::nullopt;
    works[i].run(gradient_factor(works[i].flags[0], grad_scale, squares, clippings[i] ? clippings[i]->second : 0));
  }
  return true;
}

}  // namespace

void bind_optimizers(py::module_& module) {
  using namespace py::literals;
  module.def("optimizer_step", &optimizer_step, "rule"_a, "params"_a, "grads"_a, "states"_a, "scalars"_a, "masters"_a, "averages"_a,
             "hyperparameters"_a, "flags"_a, "tensors"_a, "grad_scale"_a, "found_inf"_a, "norm"_a, "seed"_a, "max_grad_norm"_a,
             "ema_decay"_a, "fastlayers.reference.optimizers.optimizer_step for CPU tensors");
  module.def("gradients_if_ready", &gradients_if_ready, "params"_a, "states"_a, "scalars"_a, "masters"_a, "averages"_a,
             "fastlayers.optim.layout.gradients_if_ready, faster");
  module.def("step_launches", &step_launches, "launches"_a, "grad_scale"_a, "found_inf"_a,
             "A whole step of fastlayers.optim, or False where it needs preparation");
  module.def("gradient_norm", &gradient_norm, "grads"_a, "fastlayers.reference.optimizers.gradient_norm for CPU tensors");
}

}  // namespace fastlayers
