// The loops of every activation for float32 tensors: a file for each type, for compilers to work side by side.
#include "pass.h"

namespace fastlayers::FL_CPU_CAPABILITY {

template <> const ActivationLoops<float>* activation_loops<float>() { return all_loops<float>(); }

}  // namespace fastlayers::FL_CPU_CAPABILITY
