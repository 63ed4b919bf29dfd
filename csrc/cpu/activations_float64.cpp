// The loops of every activation for float64 tensors.
#include "pass.h"

namespace fastlayers::FL_CPU_CAPABILITY {

template <> const ActivationLoops<double>* activation_loops<double>() {
#define FL_LOOPS(name) loops_of<activations::name, double>(),
  static constexpr ActivationLoops<double> loops[] = {FL_ACTIVATIONS(FL_LOOPS)};
#undef FL_LOOPS
  return loops;
}

}  // namespace fastlayers::FL_CPU_CAPABILITY
