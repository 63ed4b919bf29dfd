// The loops of every activation for float64 tensors: a file for each type, for compilers to work side by side.
#include "pass.h"

namespace fastlayers::FL_CPU_CAPABILITY {

template <> const ActivationLoops<double>* activation_loops<double>() { return all_loops<double>(); }

}  // namespace fastlayers::FL_CPU_CAPABILITY
