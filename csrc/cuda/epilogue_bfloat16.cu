// The epilogue's kernels for bfloat16 tensors.
#include "epilogue.cuh"

namespace fastlayers::cuda {

#define FL_ROW(name) kernels_of<activations::name, BFloat16>(),
FL_ACTIVATION_KERNELS(BFloat16)

}  // namespace fastlayers::cuda
