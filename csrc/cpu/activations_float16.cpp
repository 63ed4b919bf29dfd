// The loops of every activation for float16 tensors.
#include "pass.h"

namespace fastlayers::FL_CPU_CAPABILITY {

template <> const ActivationLoops<Half>* activation_loops<Half>() {
#define FL_LOOPS(name) loops_of<activations::name, Half>(),
  static constexpr ActivationLoops<Half> loops[] = {FL_ACTIVATIONS(FL_LOOPS)};
#undef FL_LOOPS
  return loops;
}

}  // namespace fastlayers::FL_CPU_CAPABILITY
