// The Python modules fastlayers._C and fastlayers._CUDA: the kernel interface of fastlayers/reference/ on CPU and CUDA tensors.
#include <c10/util/Exception.h>
#include <pybind11/pybind11.h>
#include <torch/version.h>

#include "device.h"
#if !defined(FL_CUDA)
#include "capability.h"
#endif

namespace fastlayers {
namespace {

// TORCH_CHECK's exceptions as Python's own of the same kind, with the message alone: pybind11 would add a C++ backtrace.
void translate(std::exception_ptr thrown) {
  try {
    if (thrown) std::rethrow_exception(thrown);
  } catch (const c10::ValueError& error) {
    pybind11::set_error(PyExc_ValueError, error.what_without_backtrace());
  } catch (const c10::TypeError& error) {
    pybind11::set_error(PyExc_TypeError, error.what_without_backtrace());
  } catch (const c10::Error& error) {
    pybind11::set_error(PyExc_RuntimeError, error.what_without_backtrace());
  }
}

}  // namespace

void bind_activation(pybind11::module_& module);
void bind_batch_norm(pybind11::module_& module);
void bind_epilogue(pybind11::module_& module);
void bind_gated(pybind11::module_& module);
void bind_layers(pybind11::module_& module);
void bind_optimizers(pybind11::module_& module);
void bind_steps(pybind11::module_& module);
}  // namespace fastlayers

PYBIND11_MODULE(TORCH_EXTENSION_NAME, module) {
  pybind11::register_local_exception_translator(fastlayers::translate);
#if !defined(FL_CUDA)
  fastlayers::cpu_capability();  // an unknown FASTLAYERS_CPU_CAPABILITY fails here, at import
  fastlayers::bind_gated(module);
#endif
  fastlayers::bind_activation(module);
  fastlayers::bind_batch_norm(module);
  fastlayers::bind_epilogue(module);
  fastlayers::bind_layers(module);
  fastlayers::bind_optimizers(module);
  fastlayers::bind_steps(module);
  module.attr("device_type") = fastlayers::device_name;
  module.attr("torch_version") = TORCH_VERSION;
}
