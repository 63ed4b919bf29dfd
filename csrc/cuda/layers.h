// The layers' kernels as host code launches them; what they mean is written in common/epilogue.h and common/batch_norm.h. No CUDA headers.
//
// Launches go to `stream`, nothing waits for them. A launch that fails leaves its error to launch_error(). `workspace` is device memory
// of as many bytes as the function of that name beside says.
#pragma once

#include "../common/batch_norm.h"
#include "runtime.h"

namespace fastlayers::cuda {

// Whether anything differs between channels; if not, x is walked as one long row.
inline bool per_channel(const Epilogue& e, const EpilogueGradients& g = {}) {
  return e.mean || e.scale || e.weight || e.shift || e.parameter_count > 1 || g.dscale || g.dshift;
}

// Whether the kernels can count the elements of such a tensor.
bool walkable(const Epilogue&, bool per_channel);

void epilogue_forward(const Epilogue&, void* y, Stream);

int64_t epilogue_backward_workspace(const Epilogue&, const EpilogueGradients&);
void epilogue_backward(const Epilogue&, const EpilogueGradients&, void* workspace, Stream);

// x from y, which stands in x's place. Without dropout and weight.
void epilogue_inverse(const Epilogue&, void* x, Stream);

int64_t batch_norm_statistics_workspace(const Epilogue&);
void batch_norm_statistics(const Epilogue&, void* mean, void* m2, void* workspace, Stream);

// In training. The workspace is that of the statistics.
void batch_norm_forward(const BatchNorm&, void* y, void* workspace, Stream);

// In training. The gradient of the weight goes to dscale; mean_dz and slope are not read.
int64_t batch_norm_backward_workspace(const BatchNorm&, const EpilogueGradients&);
void batch_norm_backward(const BatchNorm&, const EpilogueGradients&, void* workspace, Stream);

// What evaluation normalises with: the running mean, and 1 / sqrt(running variance + eps).
void running_statistics(const Epilogue&, const void* running_mean, const void* running_var, double eps, void* mean, void* rstd, Stream);

// The slope of EpilogueGradients from the mean of dz (x - mean).
void slopes(const Epilogue&, const void* mean_dz_centred, const void* rstd, void* slope, Stream);

// kept[i]: whether element first + i is kept, by the seed and threshold.
void dropout_mask(const Epilogue&, bool* kept, int64_t first, int64_t count, Stream);

}  // namespace fastlayers::cuda
