// Short ways for what nearly every call is given: ordinary tensors, with which only autograd has to do.
//
// They do in one call what checks/ and autograd/ do in Python, which takes longer than a small kernel, and four times as long where a
// tensor of some size has driven it from the caches. What they cannot take they answer with None, changing nothing: Python goes on then.
#pragma once

#include <torch/csrc/autograd/python_variable.h>
#include <torch/csrc/utils/pybind.h>

#include <optional>

#include "bindings_memory.h"
#include "device.h"
#include "types.h"

namespace fastlayers {

// The tensor that an object is, if it is one as at::empty makes them: a torch.Tensor or Parameter, dense, in memory as it is, and no dual
// number of torch.autograd.forward_ad; else null. One of inference mode, which lacks autograd's keys alone, is ordinary, too.
inline const at::Tensor* ordinary(pybind11::handle object) {
  constexpr c10::DispatchKey key = device_type == at::kCUDA ? c10::DispatchKey::CUDA : c10::DispatchKey::CPU;
  constexpr c10::BackendComponent backend = c10::toBackendComponent(key);
  const c10::DispatchKeySet autograd = c10::getAutogradRelatedKeySetFromBackend(backend);
  const c10::DispatchKeySet keys = c10::DispatchKeySet(key) | autograd | c10::getAutocastRelatedKeySetFromBackend(backend);
  if (!THPVariable_CheckExact(object.ptr())) return nullptr;
  const at::Tensor& tensor = THPVariable_Unpack(object.ptr());
  return (tensor.key_set() | autograd) == keys && !tensor._fw_grad(0).defined() ? &tensor : nullptr;
}

// Whether nobody but autograd has a say in this thread: no transform of torch.func, no tracing, no autocast, no dispatch mode. All of them
// change the dispatch keys that a thread begins with; inference mode changes autograd's.
inline bool only_autograd() {
  const c10::impl::LocalDispatchKeySet local = c10::impl::tls_local_dispatch_key_set();
  return local.included_.add(c10::DispatchKey::ADInplaceOrView) == c10::default_included_set &&
         local.excluded_ - c10::autograd_dispatch_keyset == c10::default_excluded_set;
}

// The x of a short way, if the object is one: an ordinary tensor, dense, of a type that kernels take, while nobody but autograd has a say.
inline const at::Tensor* ordinary_input(pybind11::handle object) {
  const at::Tensor* const x = ordinary(object);
  if (!x || !only_autograd() || x->dim() == 0) return nullptr;
  return x->is_non_overlapping_and_dense() && find_data_type(x->scalar_type()) ? x : nullptr;
}

// What compute gives, in Python; computed without the GIL unless x is so small that other threads wait for it meanwhile.
template <class Compute> pybind11::object with_gil_for_little(const at::Tensor& x, Compute compute) {
  at::Tensor y;
  {
    std::optional<pybind11::gil_scoped_release> released;
    if (x.numel() >= elements_worth_releasing) released.emplace();
    y = compute();
  }
  return pybind11::reinterpret_steal<pybind11::object>(THPVariable_Wrap(std::move(y)));
}

}  // namespace fastlayers
