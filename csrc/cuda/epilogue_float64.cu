// The epilogue's kernels for float64 tensors.
#include "epilogue.cuh"

namespace fastlayers::cuda {

#define FL_ROW(name) kernels_of<activations::name, double>(),
FL_ACTIVATION_KERNELS(double)

}  // namespace fastlayers::cuda
