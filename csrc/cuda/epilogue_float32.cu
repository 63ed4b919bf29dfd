// The epilogue's kernels for float32 tensors.
#include "epilogue.cuh"

namespace fastlayers::cuda {

#define FL_ROW(name) kernels_of<activations::name, float>(),
FL_ACTIVATION_KERNELS(float)

}  // namespace fastlayers::cuda
