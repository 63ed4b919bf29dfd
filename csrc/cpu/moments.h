// Mean and M2 (sum of squared deviations) of every channel, gathered in blocks around a pilot value near the mean and merged in
// double (Chan, Golub & LeVeque 1979): never E[x^2] - E[x]^2.
#pragma once

#include "../common/moments.h"
#include "pass.h"

namespace fastlayers::FL_CPU_CAPABILITY {
namespace {

// Sums of x - pilot and of its square, pilot being the column of the mean.
template <class Storage, bool along> struct StatisticsLoop {
  using T = typename Compute<Storage>::type;
  using V = Block<T>;
  static constexpr int group = sum_lanes / V::size;
  static constexpr int64_t short_sum = 16 * sum_lanes;  // a lane adds this many sixteenths before what it has joins the others: a
                                                        // square that dwarfs the rest makes every addition after it round alike

  const Run<Storage>& r;
  V pilot[strip_vectors<Storage>], sums[strip_vectors<Storage>], squares[strip_vectors<Storage>];  // of a strip

  template <bool whole> FL_HD void enter(int j, int64_t lane, Access<whole> access) {
    pilot[j] = access.template column<V, true>(r.columns[column_mean], lane);
    sums[j] = squares[j] = V(static_cast<T>(0));
  }
  template <bool whole> FL_HD void step(int j, int64_t i, Access<whole> access) {
    const V d = access.template stream<V>(r.x + i) - pilot[j];
    sums[j] += d;
    squares[j] = multiply_add(d, d, squares[j]);
  }
  template <bool whole> FL_HD void leave(int j, int64_t lane, Access<whole> access) {
    T *const first = r.sums + lane, *const second = first + r.sums_step;
    access.write(first, access.template read<V>(first) + sums[j]);
    access.write(second, access.template read<V>(second) + squares[j]);
  }

  template <bool whole> FL_HD static V deviation(const Run<Storage>& r, V pilot, int64_t i, Access<whole> access) {
    return access.counted(access.template stream<V>(r.x + i) - pilot);
  }

  static void run_planar(const Run<Storage>& r, int64_t row) {
    const V pilot = Access<true>{}.template column<V, false>(r.columns[column_mean], row);
    T *const first = r.sums + row * sum_lanes, *const second = first + r.sums_step;
    int64_t i = row * r.stride;
    const int64_t last = i + r.count;
    if (r.sums_begin) {
      for (int j = 0; j < sum_lanes; j += V::size) {
        store(first + j, V(static_cast<T>(0)));
        store(second + j, V(static_cast<T>(0)));
      }
    }
    while (i + sum_lanes <= last) {
      const int64_t end = smaller(last, i + short_sum);
      V sums[group], squares[group];
      for (int j = 0; j < group; ++j) sums[j] = squares[j] = V(static_cast<T>(0));
      for (; i + sum_lanes <= end; i += sum_lanes) {
#pragma GCC unroll 8
        for (int j = 0; j < group; ++j) {
          const V d = deviation(r, pilot, i + j * V::size, Access<true>{});
          sums[j] += d;
          squares[j] = multiply_add(d, d, squares[j]);
        }
      }
      for (int j = 0; j < group; ++j) {
        store(first + j * V::size, load<V>(first + j * V::size) + sums[j]);
        store(second + j * V::size, load<V>(second + j * V::size) + squares[j]);
      }
    }
#pragma GCC unroll 1
    for (int j = 0; i < last; j += V::size, i += V::size) {
      const V d = deviation(r, pilot, i, Access<false>{static_cast<int>(smaller(last - i, V::size))});
      store(first + j, load<V>(first + j) + d);
      store(second + j, multiply_add(d, d, load<V>(second + j)));
    }
  }

  static void run(const Run<Storage>& r) {
    if constexpr (along) {
      StatisticsLoop loop{r};
      walk_rows(r, loop);
    } else {
      for (int64_t row = 0; row < r.rows; ++row) run_planar(r, row);
    }
  }
};

// One thread's gathering of moments.
template <class Storage> class MomentsWorker {
 public:
  using T = typename Compute<Storage>::type;

  MomentsWorker(const Epilogue& x, const Geometry& geometry)
      : pilot_(geometry.c), sums_(2 * geometry.c), found_(geometry.c), worker_(prepared(x, geometry)) {}

  // moments[c] of chunk `chunk` of group `group`.
  void gather(int64_t group, int64_t chunk, Moments* moments) {
    const Geometry& geometry = pass_.geometry;
    const int64_t c0 = geometry.first_channel(group), c1 = geometry.last_channel(group);
    const int64_t first = chunk * geometry.chunk, last = geometry.last_step(chunk);
    if (geometry.along && geometry.s == 1) first_pilots_of_rows(c0, c1, first * geometry.repeat);
    else for (int64_t c = c0; c < c1; ++c) pilot_[c] = pilot_near(first_pilot(c, first));
    for (int64_t q = first; q < last; q += geometry.fold) {
      const int64_t next = smaller(last, q + geometry.fold);
      const double before = geometry.count(first, q), count = geometry.count(q, next);
      sum_deviations(c0, c1, q, next, count);
      if (move_far_pilots(c0, c1, count)) sum_deviations(c0, c1, q, next, count);
      merge_found(c0, c1, before, count, moments);
    }
  }

 private:
  // found_[c] of steps [q0, q1): the mean deviation from the pilot, and the squares of deviations from the mean.
  void sum_deviations(int64_t c0, int64_t c1, int64_t q0, int64_t q1, double count) {
    worker_.enter_group(c0, c1);
    worker_.visit_for_sums(q0, q1);
    worker_.read_sums(sums_.data());
    const double *const sums = sums_.data(), *const squares = sums + pass_.geometry.c;
    Moments* const found = found_.data();
#pragma GCC ivdep
    for (int64_t c = c0; c < c1; ++c) found[c] = moments_about(0, sums[c], squares[c], count);
  }

  // Adds what was found to the moments of `before` elements, which are the next pilots.
  void merge_found(int64_t c0, int64_t c1, double before, double count, Moments* moments) {
    const Moments* const found = found_.data();
    T* const pilots = pilot_.data();
#pragma GCC ivdep
    for (int64_t c = c0; c < c1; ++c) {
      merge(moments[c], before, {pilots[c] + found[c].mean, found[c].m2}, count);
      pilots[c] = pilot_near(moments[c].mean);
    }
  }

  // Whether a pilot was more than two standard deviations off, which costs digits of m2: then all become the means just found.
  bool move_far_pilots(int64_t c0, int64_t c1, double count) {
    bool far = false;
    for (int64_t c = c0; c < c1; ++c) far |= count * found_[c].mean * found_[c].mean > 4 * found_[c].m2;
    for (int64_t c = c0; far && c < c1; ++c) pilot_[c] = pilot_near(pilot_[c] + found_[c].mean);
    return far;
  }

  const Pass<Storage>& prepared(const Epilogue& x, const Geometry& geometry) {
    Epilogue plain = {};
    plain.x = x.x;
    plain.parameter_count = plain.repeats = 1;
    set_up(pass_, plain, geometry);
    pass_.run.columns[column_mean] = {pilot_.data(), 1};
    pass_.function = geometry.along ? StatisticsLoop<Storage, true>::run : StatisticsLoop<Storage, false>::run;
    pass_.sum_count = 2;
    return pass_;
  }

  static T pilot_near(double value) { return __builtin_isfinite(value) ? static_cast<T>(value) : 0; }

  // The mean of the channel's first few elements at step q.
  double first_pilot(int64_t c, int64_t q) const {
    const Geometry& g = pass_.geometry;
    const int64_t sample = g.along ? q * g.repeat : q / g.blocks, start = g.along ? 0 : q % g.blocks * longest_run;
    constexpr int64_t most = 4;
    const int64_t count = smaller(most, g.along ? (g.n - sample) * g.s : g.s - start);
    const Storage* row = pass_.run.x + (sample * g.c + c) * g.s + start;
    if (!g.along && count == most) return ((number(row) + number(row + 1)) + (number(row + 2) + number(row + 3))) * 0.25;
    double sum = 0;
    for (int64_t left = count; left > 0; row += (g.c - 1) * g.s) {
      for (int64_t s = start; s < g.s && left > 0; ++s, --left) sum += number(row++);
    }
    return sum / static_cast<double>(count);
  }
  static double number(const Storage* address) {
    if constexpr (sizeof(Storage) == sizeof(T)) return *address;
    else return load<Vector<T>>(address, 1)[0];
  }

  // The mean of each channel's first elements, sixteen at most, for all channels of a group at once: they lie side by side.
  void first_pilots_of_rows(int64_t c0, int64_t c1, int64_t sample) {
    using V = Block<T>;
    const Geometry& g = pass_.geometry;
    const int64_t count = smaller(sum_lanes, g.n - sample);
    const V share(static_cast<T>(1) / static_cast<T>(count)), most(largest<T>), zero(static_cast<T>(0));
    for (int64_t c = c0; c < c1; c += V::size) {
      const int width = static_cast<int>(smaller(V::size, c1 - c));
      V mean = zero;
      for (int64_t i = 0; i < count; ++i) mean += load<V>(pass_.run.x + (sample + i) * g.c + c, width) * share;
      store(pilot_.data() + c, select(absolute(mean) <= most, mean, zero), width);
    }
  }

  Buffer<T> pilot_;
  Buffer<double> sums_;
  Buffer<Moments> found_;
  Pass<Storage> pass_;
  Worker<Storage> worker_;
};

// What no element gives: no mean, no deviation.
FL_HD void clear_moments(Moments* moments, int64_t c) {
  for (int64_t i = 0; i < c; ++i) moments[i] = {__builtin_nan(""), 0};
}

// Moments of the whole tensor, in parallel: moments[c].
template <class Storage> void gather_everywhere(const Epilogue& x, const Geometry& geometry, Moments* moments) {
  const int64_t groups = geometry.groups(), chunks = geometry.chunks(), c = geometry.c;
  clear_moments(moments, c);
  Buffer<Moments> partial(chunks * c);
  parallel_for(groups * chunks, geometry.grain(), [&](int64_t begin, int64_t end) {
    MomentsWorker<Storage> worker(x, geometry);
    for (int64_t unit = begin; unit < end; ++unit) worker.gather(unit % groups, unit / groups, partial.data() + unit / groups * c);
  });
  parallel_for(c, elements_per_task / larger(1, chunks), [&](int64_t begin, int64_t end) {
    for (int64_t chunk = 0; chunk < chunks; ++chunk) {
      const double before = geometry.count(0, chunk * geometry.chunk);
      const double count = geometry.count(chunk * geometry.chunk, geometry.last_step(chunk));
      for (int64_t i = begin; i < end; ++i) merge(moments[i], before, partial[chunk * c + i], count);
    }
  });
}

}  // namespace
}  // namespace fastlayers::FL_CPU_CAPABILITY
