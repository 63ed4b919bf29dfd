// The epilogue kernels' arguments: y = dropout(activation((x - mean) * scale + shift + residual)) + residual_after and its gradients.
//
// Tensors are dense and seen in memory order as (n, c, s); `dtype` is that of x, y, dy, dx, residual, dresidual. Everything else is
// in the accumulation type, float (double for float64): one value per channel, or null for the default. All pointers but `constants`
// are to memory of the device that computes.
#pragma once

#include "platform.h"

namespace fastlayers {

struct Epilogue {
  DataType dtype;
  int64_t n, c, s;
  int activation;  // position in FL_ACTIVATIONS
  const void* x;
  const void *mean, *scale, *weight, *shift;  // [c], or null for 0, 1, 1, 0; x - mean is multiplied by scale * weight
  const void* residual;              // like x, or null
  const void* parameters;            // learnable ones, [K, parameter_count], K = repeats times what the activation has
  int repeats;
  int64_t parameter_count;           // 1 or c
  const double* constants;
  bool dropout;
  const uint64_t* seed;  // of dropout and of a random activation; on a GPU in its memory
  int32_t threshold;  // an element is kept when its number is at least this
  double keep_scale, keep_shift, drop_value;  // a kept value becomes keep_scale * value + keep_shift, a dropped one drop_value
  int64_t sample;              // elements of a sample, whose channels are dropped whole; 0: every element by itself
  const void* residual_after;  // forward only: like x, or null
};

// Outputs are null where nobody asks. With dz = dy * mask * activation'(z):
struct EpilogueGradients {
  const void* dy;
  void* dx;         // (dz - mean_dz - (x - mean) * slope) * scale * weight
  void* dresidual;  // dz
  void* dscale;     // [c]: sum of dz (x - mean)
  void* dshift;     // [c]: sum of dz
  void* dparameters;           // [K, parameter_count]
  const void *mean_dz, *slope;  // [c] each, or both null for 0; with them dx alone is asked for
  const void* factor;           // [c]: what dscale is multiplied by, or null for 1
  bool from_output;            // x holds y: nothing before the activation is looked at but the scale of dx
};

// Backward's sums over a channel, in the order they are kept: dz, dz (x - mean), then those of the learnable parameters.
enum Sum { sum_dz, sum_dz_centred, sum_first_parameter };

}  // namespace fastlayers
