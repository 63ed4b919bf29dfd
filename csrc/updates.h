// A step of optimizers, checked, on its way from Python to the kernels of the backend.
#pragma once

#include <ATen/ATen.h>
#include <pybind11/pybind11.h>

#include <optional>
#include <sstream>
#include <string>
#include <vector>

#include "common/optimizers.h"
#include "common/update_rules.h"
#include "device.h"
#include "types.h"

namespace py = pybind11;

namespace fastlayers {

using Optional = std::optional<at::Tensor>;

template <class... Parts> std::string text(const Parts&... parts) {
  std::ostringstream stream;
  (stream << ... << parts);
  return stream.str();
}

// A rule as bindings need to know it.
struct RuleFacts {
  const char* name;
  int states, hyperparameters, flags, scalars;
  bool (*has_state)(int state, const double* hyperparameters, const bool* flags);
  void (*advance)(const double* hyperparameters, float* scalars);
};

constexpr RuleFacts rules[] = {
#define FL_FACTS(name, Rule) \
  {#name, host::Rule<double>::state_count, host::Rule<double>::hyperparameter_count, host::Rule<double>::flag_count, host::Rule<double>::scalar_count, \
   host::Rule<double>::has_state, host::Rule<double>::advance},
    FL_UPDATE_RULES(FL_FACTS)
#undef FL_FACTS
};

inline int find_rule(const std::string& name) {
  std::string names;
  for (size_t i = 0; i < std::size(rules); ++i) {
    if (name == rules[i].name) return static_cast<int>(i);
    names += text(i ? ", " : "", rules[i].name);
  }
  throw py::value_error(text("optimizer_step: rule must be one of ", names, ", got '", name, "'"));
}

inline void check_count(const char* name, size_t given, size_t wanted) {
  if (given == wanted) return;
  throw py::value_error(text("optimizer_step: ", name, " must have ", wanted, " elements, got ", given));
}

// Gradients of one type.
struct GradientList {
  DataType type;
  std::vector<UpdateTensor> tensors;
  bool releases = true;           // whether other threads of Python may run while kernels do; one may set a gradient to None:
  std::vector<at::Storage> held;  // what tensors point into, unless the caller's lists hold that

  void hold(const at::Tensor& tensor) {
    if (releases) held.push_back(tensor.storage());
  }
};

// A step of one list, checked.
struct Work : GradientList {
  int rule;
  DataType state_type;
  at::Device device{device_type};
  std::vector<double> hyperparameters;
  std::vector<Optional> hyperparameter_tensors;  // [] or, where one is not nothing, it stands for the number
  bool flags[max_flags] = {};
  std::vector<int> present;  // which of the rule's states there are
  bool has_masters = false;
  std::optional<double> ema_decay;
  Optional seed;
  int64_t numel = 0, numbers = 0;

  const RuleFacts& facts() const { return rules[rule]; }
  bool plain() const { return !has_masters && !ema_decay && !seed; }

  Work(const std::string& name, std::vector<double> given_numbers, std::vector<Optional> given_tensors, const std::vector<int>& given_flags)
      : rule(find_rule(name)), hyperparameters(std::move(given_numbers)), hyperparameter_tensors(std::move(given_tensors)) {
    check_count("hyperparameters", hyperparameters.size(), facts().hyperparameters + 2);
    check_count("flags", given_flags.size(), facts().flags + 1);
    if (!hyperparameter_tensors.empty()) check_count("tensors", hyperparameter_tensors.size(), hyperparameters.size());
    for (size_t i = 0; i < given_flags.size(); ++i) flags[i] = given_flags[i] != 0;
    for (int k = 0; k < facts().states; ++k) {
      if (facts().has_state(k, hyperparameters.data(), flags)) present.push_back(k);
    }
  }

  void add(UpdateTensor tensor) {
    tensor.offset = numel;
    tensor.first_number = numbers;
    numel += tensor.numel;
    numbers += (tensor.numel + 7) / 8 * 8;
    tensors.push_back(tensor);
  }
};

// What becomes of all gradients before an update: each a tensor of one element, or nothing.
struct Scaling {
  Optional grad_scale, found_inf;
  Optional norm;  // of gradient_norm, whose first element is the sum of squares
  double max_grad_norm;
};

// The kernels of the backend, in updates_cpu.cpp or updates_cuda.cpp.

// Whether it is known already that the step is to be left out: that found_inf is not 0.
bool is_skipped(const Optional& found_inf);

// The update; a step that is left out changes nothing.
void update(Work& work, const Scaling& scaling);

// float64 [2]: the sum of squares of gradients on this device, and 1 if any of them is not finite, else 0.
at::Tensor squares_of(const std::vector<const GradientList*>& lists, at::Device device);

}  // namespace fastlayers
