// optimizer_step and gradient_norm for Python: checks, and tensors turned into pointers.
#include "bindings_updates.h"

namespace fastlayers {
namespace {

// The lists of one call.
struct Lists {
  Tensors params, grads, states, scalars, masters, averages;
};

void gather(Work& work, const Lists& lists) {
  const int64_t count = lists.params.size();
  if (is_here(lists.params[0])) work.device = lists.params[0].device();
  const at::ScalarType type = lists.params[0].scalar_type(), state_type = work.present.empty() ? type : lists.states[0].scalar_type();
  work.tensors.reserve(count);
  for (int64_t i = 0; i < count; ++i) {
    const at::Tensor& param = dense(lists.params, i, type, work.device);
    UpdateTensor tensor = new_tensor(param, dense_like(lists.grads, i, type, param));
    for (size_t k = 0; k < work.present.size(); ++k) {
      const int64_t at = static_cast<int64_t>(k) * count + i;
      tensor.states[work.present[k]] = dense_like(lists.states, at, state_type, param).mutable_data_ptr();
    }
    for (int k = 0; k < work.facts().scalars; ++k) {
      const at::Tensor& scalar = dense(lists.scalars, k * count + i, at::kFloat, work.device);
      if (scalar.numel() != 1) lists.scalars.refuse(k * count + i, "have one element", scalar.sizes());
      tensor.scalars[k] = scalar.mutable_data_ptr<float>();
    }
    if (work.has_masters) tensor.master = dense_like(lists.masters, i, at::kFloat, param).mutable_data_ptr();
    if (work.ema_decay) tensor.average = dense_like(lists.averages, i, accumulate_type(type), param).mutable_data_ptr();
    work.add(tensor);
  }
}

void optimizer_step(
    const std::string& rule, const py::object& params, const py::object& grads, const py::object& states, const py::object& scalars,
    const py::object& masters, const py::object& averages, std::vector<double> hyperparameters, const std::vector<int>& flags,
    std::vector<Optional> tensors, const Optional& grad_scale, const Optional& found_inf, const Optional& norm,
    const Optional& seed, double max_grad_norm, double ema_decay) {
  const char* name = "optimizer_step";
  const Lists lists{{name, "params", params},   {name, "grads", grads},     {name, "states", states},
                    {name, "scalars", scalars}, {name, "masters", masters}, {name, "averages", averages}};
  Work work(rule, std::move(hyperparameters), std::move(tensors), flags);
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
  work.seed = seed;
  gather(work, lists);
  if (is_skipped(found_inf)) return;
  mark_written(lists.params);
  update(work, {grad_scale, found_inf, norm, max_grad_norm});
}

at::Tensor gradient_norm(const py::object& grad_list) {
  const Tensors grads("gradient_norm", "grads", grad_list);
  if (grads.size() == 0) return at::zeros({2}, at::kDouble);
  const at::Device device = is_here(grads[0]) ? grads[0].device() : at::Device(device_type);
  GradientList list{number_type(grads, 0), {}};
  for (int64_t i = 0; i < grads.size(); ++i) {
    const at::Tensor& grad = dense(grads, i, grads[0].scalar_type(), device);
    UpdateTensor tensor = {};
    tensor.grad = grad.const_data_ptr();
    tensor.numel = grad.numel();
    list.tensors.push_back(tensor);
  }
  return squares_of({&list}, device);
}

// What update rules say about themselves, which the rows of specs.py say as well.
py::dict facts_of_rules() {
  using namespace py::literals;
  py::dict all;
  for (const RuleFacts& facts : rules) {
    all[facts.name] = py::dict("states"_a = facts.states, "hyperparameters"_a = facts.hyperparameters, "flags"_a = facts.flags,
                               "scalars"_a = facts.scalars);
  }
  return all;
}

}  // namespace

void bind_optimizers(py::module_& module) {
  using namespace py::literals;
  module.def("update_rule_facts", &facts_of_rules, "For each update rule a dict: how many it has of what not every rule has.");
  module.def("optimizer_step", &optimizer_step, "rule"_a, "params"_a, "grads"_a, "states"_a, "scalars"_a, "masters"_a, "averages"_a,
             "hyperparameters"_a, "flags"_a, "tensors"_a, "grad_scale"_a, "found_inf"_a, "norm"_a, "seed"_a, "max_grad_norm"_a,
             "ema_decay"_a, "fastlayers.reference.optimizers.optimizer_step");
  module.def("gradient_norm", &gradient_norm, "grads"_a, "fastlayers.reference.optimizers.gradient_norm");
}

}  // namespace fastlayers
