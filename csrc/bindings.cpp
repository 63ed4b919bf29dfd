// The Python module fastlayers._C: the kernel interface of fastlayers/reference/ on CPU tensors.
#include <pybind11/pybind11.h>

#include "capability.h"

namespace fastlayers {
void bind_layers(pybind11::module_& module);
void bind_optimizers(pybind11::module_& module);
}  // namespace fastlayers

PYBIND11_MODULE(_C, module) {
  fastlayers::cpu_capability();  // an unknown FASTLAYERS_CPU_CAPABILITY fails here, at import
  fastlayers::bind_layers(module);
  fastlayers::bind_optimizers(module);
}
