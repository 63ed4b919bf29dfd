// The loops of every activation for float32 tensors.
#include "pass.h"

namespace fastlayers::FL_CPU_CAPABILITY {

template <> const ActivationLoops<float>* activation_loops<float>() {
#define FL_LOOPS(name) loops_of<activations::name, float>(),
  static constexpr ActivationLoops<float> loops[] = {FL_ACTIVATIONS(FL_LOOPS)};
#undef FL_LOOPS
  return loops;
}

}  // namespace fastlayers::FL_CPU_CAPABILITY
