// The epilogue's kernels for float16 tensors.
#include "epilogue.cuh"

namespace fastlayers::cuda {

#define FL_ROW(name) kernels_of<activations::name, Half>(),
FL_ACTIVATION_KERNELS(Half)

}  // namespace fastlayers::cuda
