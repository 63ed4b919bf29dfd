// The batch norm kernels' arguments, in training; with given statistics batch norm is the epilogue.
#pragma once

#include "epilogue.h"

namespace fastlayers {

struct BatchNorm {
  Epilogue epilogue;   // weight and shift are batch norm's own; mean and scale are left null, the kernel fills them in
  void *mean, *rstd;   // [c]: forward writes them, backward reads them
  void *running_mean, *running_var;  // [c], moved by forward: new = (1 - rate) old + rate batch; or both null
  int64_t* batches;                  // counted by forward, or null
  bool cumulative;                   // rate is 1 / batches
  double rate, eps;
};

}  // namespace fastlayers
