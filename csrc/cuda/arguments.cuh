// Kernels' arguments from those of the calls, on the host.
#pragma once

#include "epilogue.cuh"

namespace fastlayers::cuda {

// Calls function(Storage{}).
template <class Function> auto with_storage(DataType dtype, Function function) {
  switch (dtype) {
    case DataType::float64: return function(double{});
    case DataType::float16: return function(Half{});
    case DataType::bfloat16: return function(BFloat16{});
    default: return function(float{});
  }
}

// Whether all of these addresses or sizes are multiples of so many bytes; null is.
inline bool aligned(size_t) { return true; }
template <class... Rest> bool aligned(size_t bytes, const void* first, Rest... rest) {
  return reinterpret_cast<uintptr_t>(first) % bytes == 0 && aligned(bytes, rest...);
}

inline Sizes sizes_of(const Epilogue& e) { return {e.n, e.c, e.s, e.dropout ? e.sample : 0}; }

inline bool is_empty(const Epilogue& e) { return e.n * e.c * e.s == 0; }

template <class Storage> const ActivationKernels<Storage>& kernels_for(const Epilogue& e) { return activation_kernels<Storage>()[e.activation]; }

template <class Storage> Arguments<typename Compute<Storage>::type> arguments_of(const Epilogue& e, const EpilogueGradients& g, const Walk& walk) {
  using T = typename Compute<Storage>::type;
  const ActivationKernels<Storage>& kernels = kernels_for<Storage>(e);
  Arguments<T> a = {};
  a.e = e;
  a.g = g;
  a.walk = walk;
  a.affine = e.mean || e.scale || e.weight || e.shift || g.dscale || g.dshift || g.mean_dz;
  a.shifts = e.keep_shift != 0 || e.drop_value != 0;
  a.wide = e.c % kernels.widths[walk.along] == 0 && aligned(16, e.mean, e.scale, e.weight, e.shift, e.parameters, g.mean_dz, g.slope) &&
           (e.parameter_count == 1 || e.parameter_count * sizeof(T) % 16 == 0);
  const bool keeps = e.threshold < 65536;
  a.threshold = keeps ? static_cast<uint32_t>(e.threshold) << 16 : 0;
  a.keep_scale = static_cast<T>(keeps ? e.keep_scale : 0);
  a.keep_shift = static_cast<T>(keeps ? e.keep_shift : e.drop_value);
  a.drop_value = static_cast<T>(e.drop_value);
  for (int k = 0; k < kernels.constants; ++k) a.constants[k] = static_cast<T>(kernels.constant(e.constants, k));
  return a;
}

// How the kernels of an activation walk through tensors at these addresses.
template <class Storage, class... Pointers> Plan plan_of(const Epilogue& e, bool per_channel, bool sums, Pointers... tensors) {
  const Sizes sizes = walked(sizes_of(e), per_channel);
  const int width = kernels_for<Storage>(e).widths[walks_along(sizes)];
  return plan(sizes, width, aligned(width * sizeof(Storage), e.x, e.residual, tensors...), sums, full_width<Storage>);
}

// How backward walks, and the sums it leaves behind.
struct BackwardPlan {
  Plan plan;
  int sum_count, repeats;  // as compiled
};

template <class Storage> BackwardPlan backward_plan(const Epilogue& e, const EpilogueGradients& g, bool sums) {
  const ActivationKernels<Storage>& kernels = kernels_for<Storage>(e);
  const int repeats = compiled_repeats(e.repeats, kernels.most_repeats);
  return {plan_of<Storage>(e, per_channel(e, g), sums, g.dy, g.dx, g.dresidual),
          sums ? sum_first_parameter + kernels.learnables * repeats : 0, repeats};
}

inline int64_t partials_of(const BackwardPlan& p) { return int64_t(p.sum_count) * p.plan.walk.chunks * p.plan.walk.sums; }

// The kernel that walks; nothing to do for an empty tensor.
template <class Storage> void launch_backward_walk(const BackwardPlan& p, const Epilogue& e, const EpilogueGradients& g, void* partials, Stream stream) {
  using T = typename Compute<Storage>::type;
  if (is_empty(e)) return;
  const ActivationKernels<Storage>& kernels = kernels_for<Storage>(e);
  Arguments<T> a = arguments_of<Storage>(e, g, p.plan.walk);
  a.partials = p.sum_count ? static_cast<T*>(partials) : nullptr;
  (g.from_output ? kernels.backward_from_output : kernels.backward)(a, p.plan.launch, stream);
}

// Where the second stage of backward writes: what is asked for, and batch norm's mean_dz and slope.
template <class T> struct SumTargets {
  T *dshift, *dscale, *dparameters, *mean_dz, *slope;
  const T *factor, *rstd;
  double count;  // elements of a channel
  int repeats, compiled_repeats;
  bool shared;  // a parameter is one value for all channels
};

template <class T>
__global__ void __launch_bounds__(finish_lanes* finish_rows)
finish_kernel(const T* partials, int chunks, int sums, int channels, const __grid_constant__ SumTargets<T> targets) {
  const int k = blockIdx.y, parameter = k - sum_first_parameter;
  const bool shared = parameter >= 0 && targets.shared;
  const int channel = blockIdx.x * finish_lanes + threadIdx.x % finish_lanes;
  const T* const source = partials + static_cast<int64_t>(k) * chunks * sums;
  const int repeats = channels ? sums / channels : 0;  // along: a channel comes several times in a row
  double total;
  if (shared) {
    const int64_t all = static_cast<int64_t>(chunks) * sums, rows = blockIdx.x ? 0 : (all + finish_lanes - 1) / finish_lanes;
    total = sum_over_rows(rows, true, [&](int64_t r) {
      const int64_t i = r * finish_lanes + threadIdx.x % finish_lanes;
      return i < all ? source[i] : T(0);
    });
    for (int offset = 16; offset; offset /= 2) total += __shfl_xor_sync(all_lanes, total, offset);
  } else {
    total = sum_over_rows(static_cast<int64_t>(chunks) * repeats, channel < channels,
                          [&](int64_t r) { return source[r * channels + channel]; });
  }
  if (threadIdx.x >= finish_lanes || (shared ? channel > 0 : channel >= channels)) return;
  if (k == sum_dz) {
    if (targets.dshift) targets.dshift[channel] = static_cast<T>(total);
    if (targets.mean_dz) targets.mean_dz[channel] = static_cast<T>(total / targets.count);
  } else if (k == sum_dz_centred) {
    if (targets.dscale) targets.dscale[channel] = static_cast<T>(targets.factor ? total * targets.factor[channel] : total);
    if (targets.slope) targets.slope[channel] = static_cast<T>(slope_of<double>(total / targets.count, targets.rstd[channel]));
  } else if (targets.dparameters && parameter % targets.compiled_repeats < targets.repeats) {
    const int row = parameter / targets.compiled_repeats * targets.repeats + parameter % targets.compiled_repeats;
    targets.dparameters[static_cast<int64_t>(row) * (targets.shared ? 1 : channels) + channel] = static_cast<T>(total);
  }
}

template <class T> SumTargets<T> targets_of(const Epilogue& e, const EpilogueGradients& g, const BackwardPlan& p) {
  SumTargets<T> targets = {};
  targets.dshift = static_cast<T*>(g.dshift);
  targets.dscale = static_cast<T*>(g.dscale);
  targets.dparameters = static_cast<T*>(g.dparameters);
  targets.factor = static_cast<const T*>(g.factor);
  targets.count = static_cast<double>(e.n * e.s);
  targets.repeats = e.repeats;
  targets.compiled_repeats = p.repeats;
  targets.shared = e.parameter_count == 1;
  return targets;
}

template <class Storage, class T>
void launch_finish(const BackwardPlan& p, const Epilogue& e, const void* partials, const SumTargets<T>& targets, Stream stream) {
  const Walk& walk = p.plan.walk;
  const int chunks = is_empty(e) ? 0 : walk.chunks;
  const Launch launch = finish_launch(walk.channels, p.sum_count);
  finish_kernel<T><<<dim3(launch.blocks, launch.second_blocks), launch.threads, launch.shared_bytes, stream>>>(
      static_cast<const T*>(partials), chunks, walk.sums, walk.channels, targets);
}

}  // namespace fastlayers::cuda
