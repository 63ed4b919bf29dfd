// A whole step of fastlayers.optim in one call, read straight from parameters and their state dictionaries.
#include <map>
#include <utility>

#include "bindings_updates.h"

namespace fastlayers {
namespace {

// Whether x is of this kind, in memory, and laid out like its parameter.
bool fits(const at::Tensor& x, at::ScalarType type, const at::Tensor& param) {
  return x.defined() && x.layout() == at::kStrided && in_memory(x) && x.scalar_type() == type && x.device() == param.device() &&
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
    if (!fits(param, params[0].scalar_type(), param) || !param.is_non_overlapping_and_dense()) return py::none();
    if (!fits(param.grad(), params[0].scalar_type(), param)) return py::none();
    for (int64_t k = i; k < states.size(); k += count) {
      if (!fits(states[k], states[0].scalar_type(), param)) return py::none();
    }
    for (int64_t k = i; k < scalars.size(); k += count) {
      if (scalars[k].scalar_type() != at::kFloat || scalars[k].device() != param.device()) return py::none();
    }
    if (masters.size() && !fits(masters[i], at::kFloat, param)) return py::none();
    if (averages.size() && !fits(averages[i], accumulate_type(param.scalar_type()), param)) return py::none();
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
void* memory_if_ready(Work& work, PyObject* dictionary, PyObject* name, at::ScalarType type, const at::Tensor& param) {
  const at::Tensor* state = lookup(dictionary, name);
  if (!state || !fits(*state, type, param)) return nullptr;
  work.hold(*state);
  return state->mutable_data_ptr();
}

// Adds a parameter with its gradient and states; false if one is missing or does not fit.
bool add_if_ready(Work& work, const at::Tensor& param, PyObject* dictionary, const py::tuple& names, const py::tuple& scalar_names) {
  static PyObject* const master = PyUnicode_InternFromString("master");
  static PyObject* const average = PyUnicode_InternFromString("average");
  const at::ScalarType type = scalar_type(work.type), state_type = scalar_type(work.state_type);
  if (!is_here(param) || !fits(param, type, param) || !param.is_non_overlapping_and_dense()) return false;
  if (!fits(param.grad(), type, param)) return false;
  const bool empty = param.numel() == 0;  // whose memory may be nullptr
  UpdateTensor tensor = new_tensor(param, param.grad());
  work.hold(param);
  work.hold(param.grad());
  for (size_t k = 0; k < work.present.size(); ++k) {
    void* memory = memory_if_ready(work, dictionary, PyTuple_GET_ITEM(names.ptr(), k), state_type, param);
    if (!memory && !empty) return false;
    tensor.states[work.present[k]] = memory;
  }
  for (int k = 0; k < work.facts().scalars; ++k) {
    const at::Tensor* scalar = lookup(dictionary, PyTuple_GET_ITEM(scalar_names.ptr(), k));
    if (!scalar || scalar->numel() != 1 || !fits(*scalar, at::kFloat, *scalar) || scalar->device() != param.device()) return false;
    work.hold(*scalar);
    tensor.scalars[k] = scalar->mutable_data_ptr<float>();
  }
  if (work.has_masters && !(tensor.master = memory_if_ready(work, dictionary, master, at::kFloat, param)) && !empty) return false;
  if (work.ema_decay && !(tensor.average = memory_if_ready(work, dictionary, average, accumulate_type(type), param)) && !empty) return false;
  work.add(tensor);
  return true;
}

// What Launch.native of plan.py makes of a launch of fastlayers.optim, in the order of its tuple.
enum LaunchPart {
  launch_rule, launch_params, launch_dictionaries, launch_state_names, launch_scalar_names, launch_hyperparameters, launch_tensors,
  launch_flags, launch_has_masters, launch_ema_decay, launch_seed, launch_clipping
};

struct NativeLaunch {
  explicit NativeLaunch(const py::handle& handle) : items(py::reinterpret_borrow<py::tuple>(handle)) {}

  py::object operator[](LaunchPart part) const { return items[part]; }
  template <class Type> Type get(LaunchPart part) const { return items[part].cast<Type>(); }
  Tensors params() const { return {"step_launches", "params", items[launch_params]}; }
  // (which launches share a norm, the largest it may be), or nothing.
  std::optional<std::pair<int, double>> clipping() const { return get<std::optional<std::pair<int, double>>>(launch_clipping); }

  py::tuple items;
};

// The work of a launch; false if anything is missing or does not fit.
bool prepare(std::vector<Work>& works, const NativeLaunch& launch) {
  const Tensors params = launch.params();
  const py::list dictionaries = launch[launch_dictionaries];
  const py::tuple names = launch[launch_state_names], scalar_names = launch[launch_scalar_names];
  works.emplace_back(launch.get<std::string>(launch_rule), launch.get<std::vector<double>>(launch_hyperparameters),
                     launch.get<std::vector<Optional>>(launch_tensors), launch.get<std::vector<int>>(launch_flags));
  Work& work = works.back();
  work.device = params[0].device();
  if (names.size() != work.present.size() || dictionaries.size() != static_cast<size_t>(params.size())) return false;
  if (scalar_names.size() != static_cast<size_t>(work.facts().scalars)) return false;
  work.type = work.state_type = number_type(params, 0);
  work.has_masters = launch.get<bool>(launch_has_masters);
  work.ema_decay = launch.get<std::optional<double>>(launch_ema_decay);
  work.seed = launch.get<Optional>(launch_seed);
  if (!names.empty()) {
    const at::Tensor* state = lookup(dictionaries[0].ptr(), names[0].ptr());
    if (!state) return false;
    switch (state->scalar_type()) {
      case at::kFloat: work.state_type = DataType::float32; break;
      case at::kBFloat16: work.state_type = DataType::bfloat16; break;
      default: if (state->scalar_type() != params[0].scalar_type()) return false;
    }
  }
  if (!supported(work.type, work.state_type) || (work.has_masters && !is_half(work.type))) return false;
  work.tensors.reserve(params.size());
  int64_t numel = 0;
  for (int64_t i = 0; i < params.size(); ++i) numel += params[i].numel();
  work.releases = numel >= elements_worth_releasing;  // fewer take less time than what it takes to hold hundreds of small tensors
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
  if (launches.empty()) return true;
  const at::Device device = launches[0].params()[0].device();
  for (const NativeLaunch& launch : launches) {
    if (launch.params()[0].device() != device || !prepare(works, launch)) return false;
    clippings.push_back(launch.clipping());
  }
  if (is_skipped(found_inf)) return true;
  for (const NativeLaunch& launch : launches) mark_written(launch.params());

  std::map<int, std::vector<const GradientList*>> clipped;
  for (size_t i = 0; i < works.size(); ++i) {
    if (clippings[i]) clipped[clippings[i]->first].push_back(&works[i]);
  }
  std::map<int, at::Tensor> norms;
  for (const auto& [number, lists] : clipped) norms[number] = squares_of(lists, device);
  for (size_t i = 0; i < works.size(); ++i) {
    if (clippings[i]) {
      update(works[i], {grad_scale, found_inf, norms[clippings[i]->first], clippings[i]->second});
    } else {
      update(works[i], {grad_scale, found_inf, std::nullopt, 0});
    }
  }
  return true;
}

}  // namespace

void bind_steps(py::module_& module) {
  using namespace py::literals;
  module.def("gradients_if_ready", &gradients_if_ready, "params"_a, "states"_a, "scalars"_a, "masters"_a, "averages"_a,
             "fastlayers.optim.layout.gradients_if_ready, faster");
  module.def("step_launches", &step_launches, "launches"_a, "grad_scale"_a, "found_inf"_a,
             "A whole step of fastlayers.optim, or False where it needs preparation");
}

}  // namespace fastlayers
