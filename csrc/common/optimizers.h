// What the optimizer kernels of every backend work on: a list of parameters with what belongs to each, as raw pointers.
#pragma once

#include "platform.h"

namespace fastlayers {

constexpr int max_states = 3, max_scalars = 2;
constexpr int max_flags = 4, max_hyperparameters = 6;  // with those that every rule has: maximize; lr and weight_decay

// One parameter: its gradient and states lie in the same memory order.
struct UpdateTensor {
  void* param;
  const void* grad;
  void* states[max_states];  // nullptr where the rule keeps no such state
  void* master;              // float for a half-precision parameter, or nullptr
  void* average;             // float for a half-precision parameter, else of its type; or nullptr
  float* scalars[max_scalars];
  double advanced[max_scalars];  // what the scalars become with this update, where they are advanced before it (CPU)
  int64_t numel;
  int64_t offset;        // elements in the tensors before this one
  int64_t first_number;  // the same, each rounded up to a multiple of 8: where its numbers for stochastic rounding begin
};

}  // namespace fastlayers
