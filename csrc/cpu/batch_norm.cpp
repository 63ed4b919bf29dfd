// batch_norm_statistics, and batch norm forward and backward in training, for one processor.
//
// Where one group of channels fits in cache, a thread gathers its statistics and normalises it before going on, so that memory sees
// x once and y once; backward likewise, leaving dz in a buffer in between. Else two sweeps over the tensor, the second from its end.
// Either way the sums are cut by the shape alone: the same bits.
#include "batch_norm.h"

#include "moments.h"

namespace fastlayers::FL_CPU_CAPABILITY {
namespace {

template <class Storage> Geometry reduction_of(const Epilogue& e) { return reduction_geometry(e.n, e.c, e.s, sizeof(Storage)); }

bool fits_in_cache(const Geometry& g, int64_t element_bytes) {
  return g.n * g.group * g.s * element_bytes <= cached_bytes && (g.groups() >= thread_count() || g.numel() <= elements_per_task);
}

// Groups that make a task worth a thread.
int64_t group_grain(const Geometry& g) { return larger(1, elements_per_task / larger(1, g.n * g.group * g.s)); }

template <class Storage> void statistics(const Epilogue& e, void* mean, void* m2) {
  using T = typename Compute<Storage>::type;
  Buffer<Moments> moments(e.c);
  gather_everywhere<Storage>(e, reduction_of<Storage>(e), moments.data());
  for (int64_t c = 0; c < e.c; ++c) {
    static_cast<T*>(mean)[c] = static_cast<T>(moments[c].mean);
    static_cast<T*>(m2)[c] = static_cast<T>(moments[c].m2);
  }
}

// scale = weight * rstd of channels [c0, c1).
template <class T> void multiply_weight(const BatchNorm& b, int64_t c0, int64_t c1, T* scale) {
  const T *const weight = static_cast<const T*>(b.epilogue.weight), *const rstd = static_cast<const T*>(b.rstd);
  for (int64_t c = c0; c < c1; ++c) scale[c] = weight ? weight[c] * rstd[c] : rstd[c];
}

// From the moments of channels [c0, c1): mean, rstd, running statistics, and scale = weight * rstd.
template <class T> void finish_channels(const BatchNorm& b, int64_t c0, int64_t c1, const Moments* moments, T* scale) {
  const double count = static_cast<double>(b.epilogue.n * b.epilogue.s);
  T *const mean = static_cast<T*>(b.mean), *const rstd = static_cast<T*>(b.rstd);
  T *const running_mean = static_cast<T*>(b.running_mean), *const running_var = static_cast<T*>(b.running_var);
#pragma GCC ivdep  // here and below: no two of these arrays share memory
  for (int64_t c = c0; c < c1; ++c) {
    mean[c] = static_cast<T>(moments[c].mean);
    rstd[c] = static_cast<T>(inverse_deviation(moments[c].m2 / count, b.eps));
  }
  multiply_weight(b, c0, c1, scale);
  if (!running_mean) return;
#pragma GCC ivdep
  for (int64_t c = c0; c < c1; ++c) {
    running_mean[c] = static_cast<T>(moved(running_mean[c], moments[c].mean, b.rate));
    running_var[c] = static_cast<T>(moved(running_var[c], moments[c].m2 / (count - 1), b.rate));
  }
}

// Counts the batch, which a cumulative average moves by.
BatchNorm counted(BatchNorm b) {
  if (b.batches) ++*b.batches;
  if (b.cumulative) b.rate = 1.0 / static_cast<double>(*b.batches);
  return b;
}

template <class Storage> void forward(const BatchNorm& given, void* y) {
  using T = typename Compute<Storage>::type;
  const BatchNorm b = counted(given);
  Epilogue e = b.epilogue;
  Buffer<T> scale(e.c);
  Buffer<Moments> moments(e.c);
  e.mean = b.mean;
  e.scale = scale.data();
  const Geometry geometry = reduction_of<Storage>(e);
  const bool cached = fits_in_cache(geometry, sizeof(Storage));
  Pass<Storage> pass;
  set_up(pass, e, cached ? geometry : plain_geometry(e.n, e.c, e.s));
  pass.run.y = static_cast<Storage*>(y);
  pass.run.past_caches = is_large<Storage>(e);
  pass.function = activation_loops<Storage>()[e.activation].forward[geometry.along];
  if (!cached) {
    gather_everywhere<Storage>(e, geometry, moments.data());
    finish_channels(b, 0, e.c, moments.data(), scale.data());
    return run_everywhere(pass, true);
  }
  clear_moments(moments.data(), e.c);
  parallel_for(geometry.groups(), group_grain(geometry), [&](int64_t begin, int64_t end) {
    MomentsWorker<Storage> gatherer(e, geometry);
    Worker<Storage> worker(pass);
    Buffer<Moments> chunk_moments(e.c);
    for (int64_t group = begin; group < end; ++group) {
      const int64_t c0 = geometry.first_channel(group), c1 = geometry.last_channel(group);
      for (int64_t chunk = 0; chunk < geometry.chunks(); ++chunk) {
        gatherer.gather(group, chunk, chunk_moments.data());
        const double before = geometry.count(0, chunk * geometry.chunk);
        const double count = geometry.count(chunk * geometry.chunk, geometry.last_step(chunk));
        for (int64_t c = c0; c < c1; ++c) merge(moments[c], before, chunk_moments[c], count);
      }
      finish_channels(b, c0, c1, moments.data(), scale.data());
      worker.enter_group(c0, c1);
      worker.visit(0, geometry.steps);
    }
  });
}

// What backward needs per channel: scale = weight * rstd, and mean_dz and slope of dx = (dz - mean_dz - (x - mean) * slope) * scale.
template <class T> struct Correction {
  Buffer<T> scale, mean_dz, slope;

  explicit Correction(const BatchNorm& b) : scale(b.epilogue.c), mean_dz(b.epilogue.c), slope(b.epilogue.c) {
    multiply_weight(b, 0, b.epilogue.c, scale.data());
  }

  // From the sums [sum_count, c] of channels [c0, c1), of which that of dz (x - mean) becomes the gradient of the weight.
  void prepare(const BatchNorm& b, int64_t c0, int64_t c1, double* totals) {
    const double count = static_cast<double>(b.epilogue.n * b.epilogue.s);
    const T* const rstd = static_cast<const T*>(b.rstd);
    double *const dz = totals + sum_dz * b.epilogue.c, *const dz_centred = totals + sum_dz_centred * b.epilogue.c;
    T *const means = mean_dz.data(), *const slopes = slope.data();
#pragma GCC ivdep
    for (int64_t c = c0; c < c1; ++c) {
      means[c] = static_cast<T>(dz[c] / count);
      slopes[c] = static_cast<T>(slope_of<double>(dz_centred[c] / count, rstd[c]));
      dz_centred[c] *= rstd[c];
    }
  }
};

// The first sweep of backward: sums and dresidual.
template <class Storage> void set_up_sums(Pass<Storage>& pass, const Epilogue& e, const EpilogueGradients& g, const Geometry& geometry) {
  const ActivationLoops<Storage>& loops = activation_loops<Storage>()[e.activation];
  set_up(pass, e, geometry);
  pass.function = loops.backward[geometry.along];
  pass.sum_count = sum_first_parameter + loops.learnables * e.repeats;
  pass.run.dy = static_cast<const Storage*>(g.dy);
  pass.run.dresidual = static_cast<Storage*>(g.dresidual);
  pass.run.sums_dz = true;
}

// The second sweep, which writes dx: from dz where the first has left it, which is the backward of the identity, or from dy anew.
template <class Storage, class T>
void set_up_input(Pass<Storage>& pass, Epilogue e, const EpilogueGradients& g, const void* dz, const Geometry& geometry,
                  Correction<T>& correction) {
  if (dz) {
    e.residual = nullptr;
    e.dropout = false;
    e.activation = activation_identity;
  }
  set_up(pass, e, geometry);
  pass.function = activation_loops<Storage>()[e.activation].backward[geometry.along];
  pass.run.dy = static_cast<const Storage*>(dz ? dz : g.dy);
  pass.run.dx = static_cast<Storage*>(g.dx);
  pass.run.past_caches = is_large<Storage>(e);
  pass.run.corrected = true;
  pass.run.columns[column_mean_dz] = {correction.mean_dz.data(), 1};
  pass.run.columns[column_slope] = {correction.slope.data(), 1};
}

// Both sweeps group by group, dx second; dz waits in a buffer that stays in cache, as exact as it was computed, unless to
// compute it again takes less.
template <class Storage, class T>
void backward_cached(const BatchNorm& b, const Pass<Storage>& first, Pass<Storage>& second, Correction<T>& correction, double* totals) {
  const Geometry& geometry = first.geometry;
  const Epilogue& e = b.epilogue;
  const bool parks = second.run.dx && (!activation_loops<Storage>()[e.activation].quick || e.residual || e.dropout);
  if (parks) {
    second.function = geometry.along ? ParkedLoop<Storage, true>::run : ParkedLoop<Storage, false>::run;
    second.dropout = second.random = false;
  }
  parallel_for(geometry.groups(), group_grain(geometry), [&](int64_t begin, int64_t end) {
    Worker<Storage> summing(first), finishing(second);
    Buffer<T> parked(parks ? geometry.n * geometry.group * geometry.s : 0);
    summing.park(parked.data());
    finishing.park(parked.data());
    Buffer<double> chunk_sums(geometry.c * first.sum_count);
    for (int64_t group = begin; group < end; ++group) {
      const int64_t c0 = geometry.first_channel(group), c1 = geometry.last_channel(group);
      summing.enter_group(c0, c1);
      for (int64_t chunk = 0; chunk < geometry.chunks(); ++chunk) {
        sum_chunk(summing, first, group, chunk, chunk_sums.data());
        add_sums(totals, chunk_sums.data(), first.sum_count, geometry.c, c0, c1);
      }
      correction.prepare(b, c0, c1, totals);
      if (!second.run.dx) continue;
      finishing.enter_group(c0, c1);
      finishing.visit(0, geometry.steps);
    }
  });
}

template <class Storage> void backward(const BatchNorm& b, const EpilogueGradients& g) {
  using T = typename Compute<Storage>::type;
  Correction<T> correction(b);
  Epilogue e = b.epilogue;
  e.mean = b.mean;
  e.scale = correction.scale.data();
  const Geometry geometry = reduction_geometry(e.n, e.c, e.s, sizeof(T));
  const bool cached = fits_in_cache(geometry, sizeof(T));
  const void* const dz = sizeof(Storage) == sizeof(T) && !cached ? g.dresidual : nullptr;  // 16-bit dz would be rounded twice
  Pass<Storage> first, second;
  set_up_sums(first, e, g, geometry);
  first.run.past_caches = is_large<Storage>(e) && !dz;  // dz is read again soon
  if (g.dx) {
    set_up_input(second, e, g, dz, cached ? geometry : plain_geometry(e.n, e.c, e.s), correction);
  } else {
    set_up(second, e, geometry);  // nothing to write: workers are made of it, but it does not run
  }
  Buffer<double> totals(e.c * first.sum_count);
  if (cached) {
    for (int64_t i = 0; i < e.c * first.sum_count; ++i) totals[i] = 0;
    backward_cached(b, first, second, correction, totals.data());
  } else {
    sum_everywhere(first, totals.data());
    correction.prepare(b, 0, e.c, totals.data());
    if (g.dx) run_everywhere(second, true);
  }
  write_sums<T>(totals.data(), first.sum_count, e.c, e.parameter_count, g);
}

template <class T> void running_statistics(const void* running_mean, const void* running_var, double eps, void* mean, void* rstd, int64_t c) {
  for (int64_t i = 0; i < c; ++i) {
    static_cast<T*>(mean)[i] = static_cast<const T*>(running_mean)[i];
    static_cast<T*>(rstd)[i] = static_cast<T>(inverse_deviation(static_cast<const T*>(running_var)[i], eps));
  }
}

template <class T> void slopes(const void* mean_dz_centred, const void* rstd, void* slope, int64_t c) {
  for (int64_t i = 0; i < c; ++i) {
    static_cast<T*>(slope)[i] = slope_of(static_cast<const T*>(mean_dz_centred)[i], static_cast<const T*>(rstd)[i]);
  }
}

}  // namespace

extern const BatchNormKernels batch_norm_kernels;
const BatchNormKernels batch_norm_kernels = {
    {statistics<float>, statistics<double>, statistics<Half>, statistics<BFloat16>},
    {forward<float>, forward<double>, forward<Half>, forward<BFloat16>},
    {backward<float>, backward<double>, backward<Half>, backward<BFloat16>},
    {running_statistics<float>, running_statistics<double>, running_statistics<float>, running_statistics<float>},
    {slopes<float>, slopes<double>, slopes<float>, slopes<float>},
};

}  // namespace fastlayers::FL_CPU_CAPABILITY
