// The epilogue: arguments worked out, and the kernels of the tensor's type launched.
#include "arguments.cuh"

namespace fastlayers::cuda {
namespace {

bool wants_sums(const EpilogueGradients& g) { return g.dscale || g.dshift || g.dparameters; }

__global__ void mask_kernel(bool* kept, int64_t first, int64_t count, const uint64_t* seed, int32_t threshold) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i < count) kept[i] = static_cast<int32_t>(number_at(first + i, dropout_stream, *seed)) >= threshold;
}

}  // namespace

bool walkable(const Epilogue& e, bool per_channel) {
  return with_storage(e.dtype, [&](auto storage) {
    const Sizes sizes = walked(sizes_of(e), per_channel);
    return walkable(sizes, kernels_for<decltype(storage)>(e).widths[walks_along(sizes)]);
  });
}

void epilogue_forward(const Epilogue& e, void* y, Stream stream) {
  if (is_empty(e)) return;
  with_storage(e.dtype, [&](auto storage) {
    using Storage = decltype(storage);
    const Plan p = plan_of<Storage>(e, per_channel(e), false, e.residual_after, y);
    auto a = arguments_of<Storage>(e, {}, p.walk);
    a.y = y;
    kernels_for<Storage>(e).forward(a, p.launch, stream);
  });
}

int64_t epilogue_backward_workspace(const Epilogue& e, const EpilogueGradients& g) {
  return with_storage(e.dtype, [&](auto storage) -> int64_t {
    using Storage = decltype(storage);
    const BackwardPlan p = backward_plan<Storage>(e, g, wants_sums(g));
    return partials_of(p) * sizeof(typename Compute<Storage>::type);
  });
}

void epilogue_backward(const Epilogue& e, const EpilogueGradients& g, void* workspace, Stream stream) {
  with_storage(e.dtype, [&](auto storage) {
    using Storage = decltype(storage);
    const BackwardPlan p = backward_plan<Storage>(e, g, wants_sums(g));
    launch_backward_walk<Storage>(p, e, g, workspace, stream);
    if (!p.sum_count) return;
    const auto targets = targets_of<typename Compute<Storage>::type>(e, g, p);
    launch_finish<Storage>(p, e, workspace, targets, stream);
  });
}

void epilogue_inverse(const Epilogue& e, void* x, Stream stream) {
  if (is_empty(e)) return;
  with_storage(e.dtype, [&](auto storage) {
    using Storage = decltype(storage);
    const Plan p = plan_of<Storage>(e, true, false, x);
    auto a = arguments_of<Storage>(e, {}, p.walk);
    a.y = x;
    kernels_for<Storage>(e).inverse(a, p.launch, stream);
  });
}

void dropout_mask(const Epilogue& e, bool* kept, int64_t first, int64_t count, Stream stream) {
  if (!count) return;
  const Launch launch = plain_launch(count);
  mask_kernel<<<launch.blocks, launch.threads, launch.shared_bytes, stream>>>(kept, first, count, e.seed, e.threshold);
}

}  // namespace fastlayers::cuda
