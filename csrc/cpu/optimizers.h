// optimizer_step and gradient_norm on raw pointers: what updates_cpu.cpp hands to the kernels of each CPU capability.
#pragma once

#include "../capability.h"
#include "../common/optimizers.h"

namespace fastlayers {

struct UpdateList {
  int rule;  // position in FL_UPDATE_RULES
  DataType param_type, state_type;
  const double* hyperparameters;  // [lr, weight_decay, ...]
  const bool* flags;              // [maximize, ...]
  double gradient_factor;         // sign, scale and clipping: what gradients are multiplied by
  double average_weight;          // 1 - ema_decay
  const uint64_t* seed;           // of stochastic rounding, or nullptr
  bool plain;                     // no masters, averages or seed
  const UpdateTensor* tensors;
  int64_t count;
  int64_t numel;  // of all tensors together
};

// A part of one gradient; where parts begin depends on sizes alone, so that sums do not depend on the number of threads.
struct NormPart {
  const void* grad;
  int64_t begin, end;
};

constexpr int64_t norm_part_size = 16384;

struct OptimizerKernels {
  void (*step)(const UpdateList& list);
  // sums[i]: sum of squares of part i; finite[i]: whether all its elements are.
  void (*norm)(DataType type, const NormPart* parts, int64_t count, double* sums, bool* finite);
};

}  // namespace fastlayers

FL_DECLARE_KERNELS(OptimizerKernels, optimizer_kernels)
