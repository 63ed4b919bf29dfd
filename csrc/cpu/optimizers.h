// optimizer_step and gradient_norm on raw pointers: what bindings_optimizers.cpp hands to the kernels of each CPU capability.
#pragma once

#include <cstdint>

#include "capability.h"

namespace fastlayers {

enum class NumberType { float32, float64, float16, bfloat16 };

constexpr int max_states = 3, max_flags = 4, max_scalars = 2;

// One parameter: its gradient and states lie in the same memory order.
struct UpdateTensor {
  void* param;
  const void* grad;
  void* states[max_states];  // nullptr where the rule keeps no such state
  void* master;              // float for a half-precision parameter, or nullptr
  void* average;             // float for a half-precision parameter, else of its type; or nullptr
  double scalars[max_scalars];  // what they become with this update
  int64_t numel;
  int64_t offset;        // elements in the tensors before this one
  int64_t first_number;  // the same, each rounded up to a multiple of 8: where its numbers for stochastic rounding begin
};

struct UpdateList {
  int rule;  // position in FL_UPDATE_RULES
  NumberType param_type, state_type;
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

// A rule as bindings need to know it.
struct RuleFacts {
  const char* name;
  int states, hyperparameters, flags, scalars;
  bool (*has_state)(int state, const double* hyperparameters, const bool* flags);
  void (*advance)(const double* hyperparameters, float* scalars);
};

// A part of one gradient; where parts begin depends on sizes alone, so that sums do not depend on the number of threads.
struct NormPart {
  const void* grad;
  int64_t begin, end;
};

constexpr int64_t norm_part_size = 16384;

struct OptimizerKernels {
  const RuleFacts* rules;
  int rule_count;
  void (*step)(const UpdateList& list);
  // sums[i]: sum of squares of part i; finite[i]: whether all its elements are.
  void (*norm)(NumberType type, const NormPart* parts, int64_t count, double* sums, bool* finite);
};

}  // namespace fastlayers

FL_DECLARE_KERNELS(OptimizerKernels, optimizer_kernels)
