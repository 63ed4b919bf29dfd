// The loops of every activation for bfloat16 tensors.
#include "pass.h"

namespace fastlayers::FL_CPU_CAPABILITY {

template <> const ActivationLoops<BFloat16>* activation_loops<BFloat16>() {
#define FL_LOOPS(name) loops_of<activations::name, BFloat16>(),
  static constexpr ActivationLoops<BFloat16> loops[] = {FL_ACTIVATIONS(FL_LOOPS)};
#undef FL_LOOPS
  return loops;
}

}  // namespace fastlayers::FL_CPU_CAPABILITY
