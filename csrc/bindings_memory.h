// What kernels cannot read in memory the reference computes.
#pragma once

#include <ATen/ATen.h>
#include <pybind11/stl.h>
#include <torch/csrc/utils/pybind.h>

namespace fastlayers {

// Work on fewer elements is done so soon that other threads wait for the GIL meanwhile.
constexpr int64_t elements_worth_releasing = 1 << 17;

// Whether a tensor holds in memory what it stands for: not a lazily negated or zero one, nor one that autograd batches gradients with.
inline bool in_memory(const at::Tensor& x) {
  return !x.is_neg() && !x._is_zerotensor() && (x.layout() != at::kStrided || x.unsafeGetTensorImpl()->has_storage());
}

// Thrown by the checks of a function's arguments.
struct NotInMemory {};

// The function of that name of a module in Python.
template <class Result, class... Values>
Result in_python(const char* module, const char* name, const Values&... values) {
  pybind11::gil_scoped_acquire acquired;
  return pybind11::module_::import(module).attr(name)(values...).template cast<Result>();
}
template <class Result, class... Values> Result by_reference(const char* name, const Values&... values) {
  return in_python<Result>("fastlayers.reference", name, values...);
}

// Binds the function, which runs without the GIL; for arguments that are not in memory, fastlayers.reference's of that name.
template <class Result, class... Values, class... Extra>
void define(pybind11::module_& module, const char* name, Result (*function)(Values...), const Extra&... extra) {
  const auto call = [name, function](Values... values) -> Result {
    try {
      return function(values...);
    } catch (const NotInMemory&) {
      return by_reference<Result>(name, values...);
    }
  };
  module.def(name, call, pybind11::call_guard<pybind11::gil_scoped_release>(), extra...);
}

}  // namespace fastlayers
