// The table of the batch norm kernels.
#pragma once

#include "../common/batch_norm.h"

namespace fastlayers {

// One function per DataType.
struct BatchNormKernels {
  void (*statistics[data_type_count])(const Epilogue&, void* mean, void* m2);  // of x
  void (*forward[data_type_count])(const BatchNorm&, void* y);
  // The gradient of the weight goes to dscale. mean_dz and slope are not read.
  void (*backward[data_type_count])(const BatchNorm&, const EpilogueGradients&);
  // What evaluation normalises with: the running mean, and 1 / sqrt(running variance + eps).
  void (*running_statistics[data_type_count])(const void* running_mean, const void* running_var, double eps, void* mean, void* rstd, int64_t c);
  // The slope of EpilogueGradients from the mean of dz (x - mean).
  void (*slopes[data_type_count])(const void* mean_dz_centred, const void* rstd, void* slope, int64_t c);
};

}  // namespace fastlayers
