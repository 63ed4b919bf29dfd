// Batch norm in training: statistics, and forward and backward as those and the epilogue. Three launches each way.
#include "arguments.cuh"

namespace fastlayers::cuda {
namespace {

// What a chunk leaves behind of each channel, [name, chunk, Walk::sums]: how many it counts, the pivot, and the sums of deviations from
// the pivot and of their squares.
enum PartialName { partial_count, partial_pivot, partial_sum, partial_squares, partial_names };

// Deviations are from the mean of what the block's threads see first, or 0 where that is not finite. Counts the batch.
template <class Storage, int width, bool along>
__global__ void __launch_bounds__(most_threads)
statistics_kernel(const void* x, typename Compute<Storage>::type* partials, int64_t* batches, const __grid_constant__ Walk walk) {
  using T = typename Compute<Storage>::type;
  constexpr int columns = along ? width : 1, per_row = along ? 1 : width;
  __shared__ alignas(16) T shared[most_threads * width];
  if (batches && blockIdx.x == 0 && threadIdx.x == 0) ++*batches;
  Cursor<width, along> cursor(walk);
  Sum<T, width, along> counts, pivot, sums, squares;
  T values[width] = {};
  Place place = {};
  const auto count = [&] {
    if (walk.whole) return;
    T ones[width];
#pragma unroll
    for (int j = 0; j < width; ++j) ones[j] = place.has(j) ? T(1) : T(0);
    counts.add(ones);
  };
  // Over the block: of so many whole rows, or as they were counted.
  const auto counted = [&](int rows) {
    Sum<T, width, along> all = counts;
    if (!walk.whole) all.over_block(shared, walk);
#pragma unroll
    for (int j = 0; walk.whole && j < columns; ++j) all[j] = static_cast<T>(rows * per_row);
    return all;
  };
  if (cursor.more()) {
    place = cursor.place();
    load<width, Storage>(x, place, values);
    count();
  }
  pivot.add(values);
  pivot.over_block(shared, walk);
  Sum<T, width, along> seen = counted(cursor.rows_at_once());
#pragma unroll
  for (int j = 0; j < columns; ++j) {
    const T mean = pivot[j] / seen[j];
    pivot[j] = absolute(mean) < infinity<T> ? mean : T(0);
  }
  for (bool first = true; cursor.more(); cursor.advance(), first = false) {
    if (!first) {
      place = cursor.place();
      load<width, Storage>(x, place, values);
      count();
    }
#pragma unroll
    for (int j = 0; j < width; ++j) values[j] -= pivot[j];
    if (!place.whole()) {
#pragma unroll
      for (int j = 0; j < width; ++j) values[j] = place.has(j) ? values[j] : T(0);
    }
    sums.add(values);
    squares.add_products(values, values);
  }
  sums.over_block(shared, walk);
  squares.over_block(shared, walk);
  const int64_t step = static_cast<int64_t>(walk.chunks) * walk.sums;
  T* const chunk = partials + static_cast<int64_t>(cursor.chunk()) * walk.sums;
  store_sum(cursor, walk, chunk + partial_count * step, counted(cursor.rows()));
  store_sum(cursor, walk, chunk + partial_pivot * step, pivot);
  store_sum(cursor, walk, chunk + partial_sum * step, sums);
  store_sum(cursor, walk, chunk + partial_squares * step, squares);
}

// What the second stage writes: mean, and m2 or rstd and the running statistics.
template <class T> struct StatisticsTargets {
  T *mean, *m2, *rstd, *running_mean, *running_var;
  const int64_t* batches;
  bool cumulative;
  double rate, eps;
};

// A count, and the moments of as many elements.
struct Counted {
  double count;
  Moments moments;

  __device__ __forceinline__ void add(const Counted& other) {
    if (other.count == 0) return;
    merge(moments, count, other.moments, other.count);
    count += other.count;
  }
};

template <class T>
__global__ void __launch_bounds__(finish_lanes* finish_rows)
finish_statistics_kernel(const T* partials, int64_t rows, int channels, const __grid_constant__ StatisticsTargets<T> targets) {
  __shared__ Counted shared[finish_rows][finish_lanes];
  const int lane = threadIdx.x % finish_lanes, row = threadIdx.x / finish_lanes, channel = blockIdx.x * finish_lanes + lane;
  const int64_t step = rows * channels;
  Counted total = {};
  for (int64_t r = row; channel < channels && r < rows; r += finish_rows) {
    const T* const part = partials + r * channels + channel;
    const double count = part[partial_count * step];
    if (count == 0) continue;
    total.add({count, moments_about(part[partial_pivot * step], part[partial_sum * step], part[partial_squares * step], count)});
  }
  shared[row][lane] = total;
  __syncthreads();
  if (row || channel >= channels) return;
  for (int other = 1; other < finish_rows; ++other) total.add(shared[other][lane]);
  const auto& [count, moments] = total;
  targets.mean[channel] = static_cast<T>(count ? moments.mean : __builtin_nan(""));  // of nothing
  if (targets.m2) targets.m2[channel] = static_cast<T>(moments.m2);
  if (targets.rstd) targets.rstd[channel] = static_cast<T>(inverse_deviation(moments.m2 / count, targets.eps));
  if (!targets.running_mean) return;
  const double rate = targets.cumulative ? 1.0 / static_cast<double>(*targets.batches) : targets.rate;
  targets.running_mean[channel] = static_cast<T>(moved(targets.running_mean[channel], moments.mean, rate));
  targets.running_var[channel] = static_cast<T>(moved(targets.running_var[channel], moments.m2 / (count - 1), rate));
}

template <class Storage> Plan statistics_plan(const Epilogue& e) {
  return plan({e.n, e.c, e.s, 0}, full_width<Storage>, aligned(16, e.x), true, full_width<Storage>);
}

int64_t statistics_of(const Plan& p) { return int64_t(p.walk.chunks) * p.walk.sums; }

template <class Storage, class T>
void launch_statistics(const Epilogue& e, int64_t* batches, const StatisticsTargets<T>& targets, void* workspace, Stream stream) {
  constexpr int width = full_width<Storage>;
  const Plan p = statistics_plan<Storage>(e);
  T* const partials = static_cast<T*>(workspace);
  const auto kernel = p.walk.along ? statistics_kernel<Storage, width, true> : statistics_kernel<Storage, width, false>;
  kernel<<<p.launch.blocks, p.launch.threads, p.launch.shared_bytes, stream>>>(e.x, partials, batches, p.walk);
  const Launch launch = finish_launch(p.walk.channels, 1);
  finish_statistics_kernel<T><<<launch.blocks, launch.threads, launch.shared_bytes, stream>>>(
      partials, statistics_of(p) / p.walk.channels, p.walk.channels, targets);
}

template <class T>
__global__ void running_kernel(const T* running_mean, const T* running_var, double eps, T* mean, T* rstd, int64_t channels) {
  const int64_t channel = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (channel >= channels) return;
  mean[channel] = running_mean[channel];
  rstd[channel] = static_cast<T>(inverse_deviation(running_var[channel], eps));
}

template <class T> __global__ void slopes_kernel(const T* mean_dz_centred, const T* rstd, T* slope, int64_t channels) {
  const int64_t channel = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (channel < channels) slope[channel] = slope_of(mean_dz_centred[channel], rstd[channel]);
}

// An epilogue that normalises with the batch's statistics.
Epilogue normalising(const BatchNorm& b) {
  Epilogue e = b.epilogue;
  e.mean = b.mean;
  e.scale = b.rstd;
  return e;
}

// Backward's first sweep: everything but dx, which needs its sums.
EpilogueGradients first_sweep(EpilogueGradients g, const BatchNorm& b) {
  g.dx = nullptr;
  g.mean_dz = g.slope = nullptr;
  g.factor = b.rstd;
  return g;
}

}  // namespace

int64_t batch_norm_statistics_workspace(const Epilogue& e) {
  return with_storage(e.dtype, [&](auto storage) -> int64_t {
    using Storage = decltype(storage);
    return statistics_of(statistics_plan<Storage>(e)) * partial_names * sizeof(typename Compute<Storage>::type);
  });
}

void batch_norm_statistics(const Epilogue& e, void* mean, void* m2, void* workspace, Stream stream) {
  if (!e.c) return;
  with_storage(e.dtype, [&](auto storage) {
    using Storage = decltype(storage);
    using T = typename Compute<Storage>::type;
    StatisticsTargets<T> targets = {};
    targets.mean = static_cast<T*>(mean);
    targets.m2 = static_cast<T*>(m2);
    launch_statistics<Storage>(e, nullptr, targets, workspace, stream);
  });
}

void batch_norm_forward(const BatchNorm& b, void* y, void* workspace, Stream stream) {
  if (!b.epilogue.c) return;
  with_storage(b.epilogue.dtype, [&](auto storage) {
    using Storage = decltype(storage);
    using T = typename Compute<Storage>::type;
    const StatisticsTargets<T> targets = {static_cast<T*>(b.mean), nullptr, static_cast<T*>(b.rstd), static_cast<T*>(b.running_mean),
                                          static_cast<T*>(b.running_var), b.batches, b.cumulative, b.rate, b.eps};
    launch_statistics<Storage>(b.epilogue, b.batches, targets, workspace, stream);
  });
  epilogue_forward(normalising(b), y, stream);
}

int64_t batch_norm_backward_workspace(const BatchNorm& b, const EpilogueGradients& g) {
  return with_storage(b.epilogue.dtype, [&](auto storage) -> int64_t {
    using Storage = decltype(storage);
    const Epilogue e = normalising(b);
    const BackwardPlan p = backward_plan<Storage>(e, first_sweep(g, b), true);
    return (partials_of(p) + 2 * divide_up(e.c, 4) * 4) * sizeof(typename Compute<Storage>::type);
  });
}

void batch_norm_backward(const BatchNorm& b, const EpilogueGradients& g, void* workspace, Stream stream) {
  if (!b.epilogue.c) return;
  with_storage(b.epilogue.dtype, [&](auto storage) {
    using Storage = decltype(storage);
    using T = typename Compute<Storage>::type;
    const Epilogue e = normalising(b);
    const int64_t channels = divide_up(e.c, 4) * 4;
    T *const mean_dz = static_cast<T*>(workspace), *const slope = mean_dz + channels, *const partials = slope + channels;
    EpilogueGradients sweep = first_sweep(g, b);
    const BackwardPlan first = backward_plan<Storage>(e, sweep, true);
    launch_backward_walk<Storage>(first, e, sweep, partials, stream);
    SumTargets<T> targets = targets_of<T>(e, sweep, first);
    targets.mean_dz = mean_dz;
    targets.slope = slope;
    targets.rstd = static_cast<const T*>(b.rstd);
    launch_finish<Storage>(first, e, partials, targets, stream);
    if (!g.dx) return;
    sweep = {};
    sweep.dy = g.dy;
    sweep.dx = g.dx;
    sweep.mean_dz = mean_dz;
    sweep.slope = slope;
    launch_backward_walk<Storage>(backward_plan<Storage>(e, sweep, false), e, sweep, nullptr, stream);
  });
}

void running_statistics(const Epilogue& e, const void* running_mean, const void* running_var, double eps, void* mean, void* rstd, Stream stream) {
  if (!e.c) return;
  const Launch launch = plain_launch(e.c);
  with_storage(e.dtype, [&](auto storage) {
    using T = typename Compute<decltype(storage)>::type;
    running_kernel<T><<<launch.blocks, launch.threads, launch.shared_bytes, stream>>>(
        static_cast<const T*>(running_mean), static_cast<const T*>(running_var), eps, static_cast<T*>(mean), static_cast<T*>(rstd), e.c);
  });
}

void slopes(const Epilogue& e, const void* mean_dz_centred, const void* rstd, void* slope, Stream stream) {
  if (!e.c) return;
  const Launch launch = plain_launch(e.c);
  with_storage(e.dtype, [&](auto storage) {
    using T = typename Compute<decltype(storage)>::type;
    slopes_kernel<T><<<launch.blocks, launch.threads, launch.shared_bytes, stream>>>(
        static_cast<const T*>(mean_dz_centred), static_cast<const T*>(rstd), static_cast<T*>(slope), e.c);
  });
}

}  // namespace fastlayers::cuda
