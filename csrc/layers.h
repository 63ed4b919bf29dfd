// The layers' kernels of the backend that is compiled, as the bindings call them: on x's device, with memory for what they need besides.
#pragma once

#include "bindings_arguments.h"
#if defined(FL_CUDA)
#include "cuda/launch.h"
#include "cuda/layers.h"
#include "device_cuda.h"
#else
#include "cpu/layers.h"
#endif

namespace fastlayers::layers {

#if defined(FL_CUDA)

// Kernels on x's device, with memory for what they need besides.
template <class Launch>
void launch(const char* op, const Tensor& x, const Epilogue& e, bool per_channel, int64_t workspace_bytes, Launch kernels) {
  TORCH_CHECK_VALUE(cuda::walkable(e, per_channel), op, ": x must have fewer elements than a kernel counts, got shape ", x.sizes());
  const Launching launching(x.device());
  Tensor workspace;
  if (workspace_bytes) workspace = new_memory(launching, divide_up(workspace_bytes, sizeof(float)), at::kFloat);
  kernels(workspace_bytes ? workspace.mutable_data_ptr() : nullptr, launching.stream);
  launching.check(op);
}

inline void forward(const char* op, const Tensor& x, const Epilogue& e, void* y) {
  launch(op, x, e, cuda::per_channel(e), 0, [&](void*, cuda::Stream stream) { cuda::epilogue_forward(e, y, stream); });
}
inline void backward(const char* op, const Tensor& x, const Epilogue& e, const EpilogueGradients& g) {
  launch(op, x, e, cuda::per_channel(e, g), cuda::epilogue_backward_workspace(e, g),
         [&](void* workspace, cuda::Stream stream) { cuda::epilogue_backward(e, g, workspace, stream); });
}
inline void inverse(const char* op, const Tensor& y, const Epilogue& e, void* x) {
  launch(op, y, e, true, 0, [&](void*, cuda::Stream stream) { cuda::epilogue_inverse(e, x, stream); });
}
inline void statistics(const char* op, const Tensor& x, const Epilogue& e, void* mean, void* m2) {
  launch(op, x, e, true, cuda::batch_norm_statistics_workspace(e),
         [&](void* workspace, cuda::Stream stream) { cuda::batch_norm_statistics(e, mean, m2, workspace, stream); });
}
inline void batch_norm_forward(const char* op, const Tensor& x, const BatchNorm& b, void* y) {
  launch(op, x, b.epilogue, true, cuda::batch_norm_statistics_workspace(b.epilogue),
         [&](void* workspace, cuda::Stream stream) { cuda::batch_norm_forward(b, y, workspace, stream); });
}
inline void batch_norm_backward(const char* op, const Tensor& x, const BatchNorm& b, const EpilogueGradients& g) {
  launch(op, x, b.epilogue, true, cuda::batch_norm_backward_workspace(b, g),
         [&](void* workspace, cuda::Stream stream) { cuda::batch_norm_backward(b, g, workspace, stream); });
}
inline void running_statistics(const char* op, const Tensor& x, const Epilogue& e, const void* running_mean, const void* running_var, double eps,
                               void* mean, void* rstd) {
  launch(op, x, e, true, 0, [&](void*, cuda::Stream stream) { cuda::running_statistics(e, running_mean, running_var, eps, mean, rstd, stream); });
}
inline void slopes(const char* op, const Tensor& x, const Epilogue& e, const void* mean_dz_centred, const void* rstd, void* slope) {
  launch(op, x, e, true, 0, [&](void*, cuda::Stream stream) { cuda::slopes(e, mean_dz_centred, rstd, slope, stream); });
}
inline void mask(const char* op, const Tensor& seed, bool* kept, int64_t first, int64_t count, const Epilogue& e) {
  launch(op, seed, e, false, 0, [&](void*, cuda::Stream stream) { cuda::dropout_mask(e, kept, first, count, stream); });
}

#else

inline void forward(const char*, const Tensor&, const Epilogue& e, void* y) { FL_KERNELS(epilogue_kernels).forward[index_of(e.dtype)](e, y); }
inline void backward(const char*, const Tensor&, const Epilogue& e, const EpilogueGradients& g) {
  FL_KERNELS(epilogue_kernels).backward[index_of(e.dtype)](e, g);
}
inline void inverse(const char*, const Tensor&, const Epilogue& e, void* x) { FL_KERNELS(epilogue_kernels).inverse[index_of(e.dtype)](e, x); }
inline void statistics(const char*, const Tensor&, const Epilogue& e, void* mean, void* m2) {
  FL_KERNELS(batch_norm_kernels).statistics[index_of(e.dtype)](e, mean, m2);
}
inline void batch_norm_forward(const char*, const Tensor&, const BatchNorm& b, void* y) {
  FL_KERNELS(batch_norm_kernels).forward[index_of(b.epilogue.dtype)](b, y);
}
inline void batch_norm_backward(const char*, const Tensor&, const BatchNorm& b, const EpilogueGradients& g) {
  FL_KERNELS(batch_norm_kernels).backward[index_of(b.epilogue.dtype)](b, g);
}
inline void running_statistics(const char*, const Tensor&, const Epilogue& e, const void* running_mean, const void* running_var, double eps, void* mean,
                               void* rstd) {
  FL_KERNELS(batch_norm_kernels).running_statistics[index_of(e.dtype)](running_mean, running_var, eps, mean, rstd, e.c);
}
inline void slopes(const char*, const Tensor&, const Epilogue& e, const void* mean_dz_centred, const void* rstd, void* slope) {
  FL_KERNELS(batch_norm_kernels).slopes[index_of(e.dtype)](mean_dz_centred, rstd, slope, e.c);
}
inline void mask(const char*, const Tensor&, bool* kept, int64_t first, int64_t count, const Epilogue& e) {
  FL_KERNELS(dropout_kernels).mask(kept, first, count, *e.seed, e.threshold);
}

#endif

}  // namespace fastlayers::layers
