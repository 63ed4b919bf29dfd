// The loops of every activation for float16 tensors: a file for each type, for compilers to work side by side.
#include "pass.h"

namespace fastlayers::FL_CPU_CAPABILITY {

template <> const ActivationLoops<Half>* activation_loops<Half>() { return all_loops<Half>(); }

}  // namespace fastlayers::FL_CPU_CAPABILITY
