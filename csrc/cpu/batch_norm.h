// The batch norm kernels' arguments. In training; with given statistics batch norm is the epilogue.
#pragma once

#include "epilogue.h"

namespace fastlayers {

struct BatchNorm {
  Epilogue epilogue;   // shift is the bias; mean and scale are left null, the kernel fills them in
  const void* weight;  // [c], or null for 1
  void *mean, *rstd;   // [c]: forward writes them, backward reads them
  void *running_mean, *running_var;  // [c], moved by forward: new = (1 - rate) old + rate batch; or both null
  double rate, eps;
};

// One function per DataType.
struct BatchNormKernels {
  void (*statistics[data_type_count])(const Epilogue&, void* mean, void* m2);  // of x
  void (*forward[data_type_count])(const BatchNorm&, void* y);
  // The gradient of the weight goes to dscale. mean_dz and slope are not read.
  void (*backward[data_type_count])(const BatchNorm&, const EpilogueGradients&);
};

}  // namespace fastlayers
