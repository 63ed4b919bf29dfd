// The loops of every activation for bfloat16 tensors: a file for each type, for compilers to work side by side.
#include "pass.h"

namespace fastlayers::FL_CPU_CAPABILITY {

template <> const ActivationLoops<BFloat16>* activation_loops<BFloat16>() { return all_loops<BFloat16>(); }

}  // namespace fastlayers::FL_CPU_CAPABILITY
