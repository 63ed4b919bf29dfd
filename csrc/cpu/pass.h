// A pass: one loop of runs.h carried over the groups and steps of a tensor, by any number of threads.
//
// To be read in this order: walk.h has what a run is, runs.h the loops over one, traversal.h how a tensor is cut into runs.
#pragma once

#include "../parallel.h"
#include "epilogue.h"
#include "runs.h"
#include "traversal.h"

namespace fastlayers::FL_CPU_CAPABILITY {

// The loops of every activation for one storage type, in the order of FL_ACTIVATIONS.
template <class Storage> const ActivationLoops<Storage>* activation_loops();

namespace {

template <class Storage> struct Pass {
  using T = typename Compute<Storage>::type;

  Geometry geometry;
  RunFunction<Storage> function;
  Run<Storage> run;  // pointers to element 0 and columns of channel 0
  bool dropout, random;
  uint64_t seed;
  MaskIndex index;
  int sum_count = 0;
  alignas(64) T defaults[3 + max_arguments][sum_lanes];  // sixteen equal values: 0, 1, -0, and the arguments that are the same for all
};

constexpr int64_t large_bytes = 8 << 20;  // a result of this size is gone from most caches when someone reads its beginning

template <class Storage> bool is_large(const Epilogue& e) { return e.n * e.c * e.s * static_cast<int64_t>(sizeof(Storage)) >= large_bytes; }

// A pass for this epilogue, without a loop. -0 is the shift that changes nothing, the sign of zero included.
template <class Storage> void set_up(Pass<Storage>& pass, const Epilogue& e, const Geometry& geometry) {
  using T = typename Compute<Storage>::type;
  const auto fill = [&](int row, T value) {
    for (int i = 0; i < sum_lanes; ++i) pass.defaults[row][i] = value;
    return Column<T>{pass.defaults[row], 0};
  };
  const Column<T> zero = fill(0, 0), one = fill(1, 1), minus_zero = fill(2, static_cast<T>(-0.0));
  const auto column = [](const void* values, Column<T> otherwise) {
    return values ? Column<T>{static_cast<const T*>(values), 1} : otherwise;
  };
  pass.geometry = geometry;
  pass.dropout = e.dropout;
  pass.random = activation_loops<Storage>()[e.activation].random;
  pass.seed = e.seed ? *e.seed : 0;
  pass.index = {e.sample, e.c, e.c == 1 ? e.sample : e.s};
  Run<Storage>& run = pass.run;
  run = {};
  run.x = static_cast<const Storage*>(e.x);
  run.residual = static_cast<const Storage*>(e.residual);
  run.residual_after = static_cast<const Storage*>(e.residual_after);
  run.threshold = e.threshold;
  run.keep_scale = static_cast<T>(e.keep_scale);
  run.keep_shift = static_cast<T>(e.keep_shift);
  run.drop_value = static_cast<T>(e.drop_value);
  run.shifts = e.dropout && (e.keep_shift != 0 || e.drop_value != 0);
  run.affine = e.mean || e.scale || e.shift;
  for (Column<T>& unused : run.columns) unused = zero;
  run.columns[column_mean] = column(e.mean, zero);
  run.columns[column_scale] = column(e.scale, one);
  run.columns[column_shift] = column(e.shift, minus_zero);
  const ActivationLoops<Storage>& loops = activation_loops<Storage>()[e.activation];
  Column<T>* const arguments = run.columns + column_arguments;
  const T* const parameters = static_cast<const T*>(e.parameters);
  run.repeats = e.repeats;
  const int learnables = loops.learnables * e.repeats;
  for (int k = 0; k < learnables; ++k) {
    const T* const row = parameters + k * e.parameter_count;
    arguments[k] = e.parameter_count == 1 ? fill(3 + k, *row) : Column<T>{row, 1};
  }
  for (int k = 0; k < loops.constants; ++k) {
    arguments[learnables + k] = fill(3 + learnables + k, static_cast<T>(loops.constant(e.constants, k)));
  }
}

// to[k, c] += from[k, c] for the sums [sum_count, width] of channels [c0, c1).
FL_HD void add_sums(double* to, const double* from, int sum_count, int64_t width, int64_t c0, int64_t c1) {
  for (int64_t row = 0; row < sum_count * width; row += width) {
    for (int64_t c = c0; c < c1; ++c) to[row + c] += from[row + c];
  }
}

// One thread's share of a pass: where it stands, the columns of its group, its partial sums.
template <class Storage> class Worker {
 public:
  using T = typename Compute<Storage>::type;

  explicit Worker(const Pass<Storage>& pass)
      : pass_(pass), geometry_(pass.geometry), run_(pass.run), numbers_(pass.seed, pass.index),
        uniform_numbers_(pass.seed, activation_stream), copies_columns_(geometry_.along && !in_place()),
        table_(copies_columns_ ? column_count * geometry_.padded_row() : 0),
        lanes_(lanes_size()),
        found_(pass.sum_count * geometry_.c) {
    for (int k = 0; k < column_count; ++k) {
      if (run_.columns[k].step) varying_[varying_count_++] = k;
    }
    clear_lanes();  // sums that the loop does not gather stay 0
    streams_.element_bytes = sizeof(Storage);
    streams_.add(run_.x);
    if (run_.dy != run_.x) streams_.add(run_.dy);
    if (run_.past_caches) return;
    streams_.add(run_.y);
    streams_.add(run_.dx);
  }

  ~Worker() {
    if (run_.past_caches) finish_past_caches();
  }

  // Columns of channels [c0, c1), read anew from the pass, ready to be read beside x.
  void enter_group(int64_t c0, int64_t c1) {
    first_channel_ = c0;
    last_channel_ = c1;
    parked_elements_ = 0;
    if (!geometry_.along) return;
    for (int k = 0; k < column_count; ++k) run_.columns[k] = spread(pass_.run.columns[k], k);
  }

  // Where loops leave dz of the group's elements, or find it: in the order of visits since enter_group.
  void park(T* memory) { parked_ = memory; }

  // Calls the pass's loop on steps [q0, q1) of the group.
  void visit(int64_t q0, int64_t q1) {
    if (geometry_.along) visit_along(q0, q1);
    else visit_planar(q0, q1, false);
  }

  // visit, for read_sums to give the sums over these steps.
  void visit_for_sums(int64_t q0, int64_t q1) {
    if (!geometry_.along) return visit_planar(q0, q1, true);
    clear_lanes();
    visit_along(q0, q1);
  }

  // The sum of channel c and number k over the steps of visit_for_sums to sums[k, c].
  void read_sums(double* sums) {
    const int64_t channels = last_channel_ - first_channel_;
    for (int k = 0; k < pass_.sum_count; ++k) {
      double* const row = sums + k * geometry_.c + first_channel_;
      if (geometry_.along) add_up_along(lanes_.data() + k * geometry_.padded_row(), channels, row);
      else for (int64_t c = 0; c < channels; ++c) row[c] = sum_of_lanes(lanes_.data() + (k * geometry_.group + c) * sum_lanes);
    }
  }

  // sums[k, c] += everything that steps [q0, q1) contribute, in the fixed order of the geometry.
  void accumulate(int64_t q0, int64_t q1, double* sums) {
    for (int64_t q = q0; q < q1; q += geometry_.fold) {
      visit_for_sums(q, smaller(q1, q + geometry_.fold));
      read_sums(found_.data());
      add_sums(sums, found_.data(), pass_.sum_count, geometry_.c, first_channel_, last_channel_);
    }
  }

 private:
  int64_t lanes_size() const { return pass_.sum_count * (geometry_.along ? geometry_.padded_row() : geometry_.group * sum_lanes); }
  void clear_lanes() {
    for (int64_t i = 0; i < lanes_size(); ++i) lanes_[i] = 0;
  }

  int64_t samples_per_row() const { return geometry_.period / (geometry_.group * geometry_.s); }
  bool in_place() const { return geometry_.s == 1 && samples_per_row() == 1; }

  // Of a row's elements, the sum of each channel's.
  void add_up_along(const T* lanes, int64_t channels, double* __restrict sums) const {
    for (int64_t c = 0; c < channels; ++c) sums[c] = 0;
    for (int64_t sample = 0; sample < samples_per_row(); ++sample, lanes += channels * geometry_.s) {
      if (geometry_.s == 1) {
        for (int64_t c = 0; c < channels; ++c) sums[c] += lanes[c];
      } else {
        for (int64_t c = 0; c < channels; ++c) {
          for (int64_t i = 0; i < geometry_.s; ++i) sums[c] += lanes[c * geometry_.s + i];
        }
      }
    }
  }

  // The column's values for every element of a row along the group.
  Column<T> spread(Column<T> column, int row) {
    if (column.step == 0) return column;
    if (!copies_columns_) return column.from(first_channel_);
    T* const values = table_.data() + row * geometry_.padded_row();
    T* next = values;
    for (int64_t sample = 0; sample < samples_per_row(); ++sample) {
      for (int64_t c = first_channel_; c < last_channel_; ++c) {
        for (int64_t i = 0; i < geometry_.s; ++i) *next++ = column.values[c];
      }
    }
    return {values, 1};
  }

  void visit_along(int64_t q0, int64_t q1) {
    const int64_t channels = last_channel_ - first_channel_;
    for (int64_t q = q0; q < q1; ++q) {
      const int64_t sample = q * geometry_.repeat, samples = smaller(geometry_.repeat, geometry_.n - sample);
      const int64_t row = channels * geometry_.s, stride = geometry_.c * geometry_.s;
      const int64_t offset = sample * stride + first_channel_ * geometry_.s;
      if (row == stride) {
        call_along(offset, samples * row, geometry_.numel());
      } else if (has_numbers()) {
        for (int64_t i = 0; i < samples; ++i) call_along(offset + i * stride, row, offset + i * stride + row);
      } else {
        call(offset, row, samples, stride, 0, lanes_.data(), geometry_.padded_row());
      }
    }
  }

  void visit_planar(int64_t q0, int64_t q1, bool begins) {
    for (int64_t q = q0; q < q1; ++q) {
      const int64_t sample = q / geometry_.blocks, start = q % geometry_.blocks * longest_run;
      const int64_t count = smaller(longest_run, geometry_.s - start);
      const int64_t rows = geometry_.blocks > 1 ? 1 : has_numbers() ? larger(1, RandomNumbers::longest / count) : geometry_.group;
      for (int64_t c = first_channel_; c < last_channel_; c += rows) {
        for (int k = 0; k < varying_count_; ++k) run_.columns[varying_[k]] = pass_.run.columns[varying_[k]].from(c);
        call_planar(sample, c, smaller(rows, last_channel_ - c), start, count, begins && q == q0);
      }
    }
  }

  bool has_numbers() const { return pass_.dropout || pass_.random; }

  // The loop on elements [start, start + count) of a sample's channels c .. c + rows - 1, in pieces that have numbers. Their sums begin
  // here, or go on.
  void call_planar(int64_t sample, int64_t c, int64_t rows, int64_t start, int64_t count, bool begins) {
    const int64_t row = sample * geometry_.c + c, last = geometry_.blocks > 1 ? row + 1 : sample * geometry_.c + last_channel_;
    const int64_t piece = has_numbers() ? RandomNumbers::longest : count;
    T* const lanes = lanes_.data() + (c - first_channel_) * sum_lanes;
    run_.sums_begin = begins;
    for (int64_t end = start + count; start < end; start += piece, run_.sums_begin = false) {
      const int64_t elements = smaller(piece, end - start);
      call(row * geometry_.s + start, elements, rows, elements, last * geometry_.s, lanes, geometry_.group * sum_lanes);
    }
  }

  // The loop on elements [offset, offset + count) along channels, from the beginning of a row on: in pieces of whole rows, or parts of one.
  void call_along(int64_t offset, int64_t count, int64_t last) {
    const int64_t row = geometry_.period, most = has_numbers() ? RandomNumbers::longest : count;
    for (int64_t start = 0, piece; start < count; start += piece) {
      const int64_t lane = start % row, left = count - start;
      const int64_t rows = lane ? 0 : smaller(most, left) / row;
      const int64_t width = rows ? row : smaller(smaller(most, left), row - lane);
      piece = width * larger(1, rows);
      move_columns(lane);
      call(offset + start, width, larger(1, rows), width, last, lanes_.data() + lane, geometry_.padded_row());
      move_columns(-lane);
    }
  }

  void move_columns(int64_t elements) {
    if (elements == 0) return;
    for (int k = 0; k < varying_count_; ++k) run_.columns[varying_[k]] = run_.columns[varying_[k]].from(elements);
  }

  // The loop on `rows` rows of `row` elements, `stride` apart, from `offset` on; elements up to `last` are visited next.
  void call(int64_t offset, int64_t row, int64_t rows, int64_t stride, int64_t last, T* lanes, int64_t lanes_step) {
    const Run<Storage>& source = pass_.run;
    const int64_t count = row * rows;
    run_.count = row;
    run_.stride = stride;
    run_.rows = rows;
    run_.x = source.x + offset;
    run_.dy = source.dy ? source.dy + offset : nullptr;
    run_.residual = source.residual ? source.residual + offset : nullptr;
    run_.residual_after = source.residual_after ? source.residual_after + offset : nullptr;
    run_.y = source.y ? source.y + offset : nullptr;
    run_.dx = source.dx ? source.dx + offset : nullptr;
    run_.dresidual = source.dresidual ? source.dresidual + offset : nullptr;
    run_.parked = parked_ ? parked_ + parked_elements_ : nullptr;
    parked_elements_ += count;
    run_.numbers = pass_.dropout ? numbers_.at(offset, count, last, streams_) : nullptr;
    run_.uniform_numbers = pass_.random ? uniform_numbers_.at(offset, count, last, streams_) : nullptr;
    run_.sums = pass_.sum_count ? lanes : nullptr;
    run_.sums_step = lanes_step;
    pass_.function(run_);
  }

  const Pass<Storage>& pass_;
  const Geometry& geometry_;
  Run<Storage> run_;
  MaskNumbers numbers_;
  RandomNumbers uniform_numbers_;
  Streams streams_;
  const bool copies_columns_;
  Buffer<T> table_, lanes_;
  Buffer<double> found_;
  int64_t first_channel_ = 0, last_channel_ = 0;
  T* parked_ = nullptr;
  int64_t parked_elements_ = 0;
  int varying_[column_count], varying_count_ = 0;  // the columns that differ between channels
};

// body(worker, group, chunk) for every group and chunk, in parallel; neighbouring chunks of memory stay together. Backwards for what is
// visited a second time: what was seen last is still in a cache.
template <class Storage, class Body> void for_each_unit(const Pass<Storage>& pass, Body body, bool backwards = false) {
  const Geometry& geometry = pass.geometry;
  const int64_t groups = geometry.groups();
  if (geometry.numel() == 0) return;
  parallel_for(groups * geometry.chunks(), geometry.grain(), [&](int64_t begin, int64_t end) {
    Worker<Storage> worker(pass);
    int64_t entered = -1;
    for (int64_t i = begin; i < end; ++i) {
      const int64_t unit = backwards ? begin + end - 1 - i : i, group = unit % groups;
      if (group != entered) worker.enter_group(geometry.first_channel(group), geometry.last_channel(group));
      entered = group;
      body(worker, group, unit / groups);
    }
  });
}

// The pass over the whole tensor, without sums.
template <class Storage> void run_everywhere(const Pass<Storage>& pass, bool backwards = false) {
  for_each_unit(pass, [&](Worker<Storage>& worker, int64_t, int64_t chunk) {
    worker.visit(chunk * pass.geometry.chunk, pass.geometry.last_step(chunk));
  }, backwards);
}

// The sums of chunk `chunk` of the worker's group, [sum_count, c].
template <class Storage> void sum_chunk(Worker<Storage>& worker, const Pass<Storage>& pass, int64_t group, int64_t chunk, double* sums) {
  const Geometry& geometry = pass.geometry;
  const int64_t first = geometry.first_channel(group), last = geometry.last_channel(group);
  for (int k = 0; k < pass.sum_count; ++k) {
    for (int64_t c = first; c < last; ++c) sums[k * geometry.c + c] = 0;
  }
  worker.accumulate(chunk * geometry.chunk, geometry.last_step(chunk), sums);
}

// The pass over the whole tensor with its sums: totals [sum_count, c].
template <class Storage> void sum_everywhere(const Pass<Storage>& pass, double* totals) {
  const Geometry& geometry = pass.geometry;
  const int64_t width = geometry.c * pass.sum_count;
  Buffer<double> partial(geometry.chunks() * width);
  for_each_unit(pass, [&](Worker<Storage>& worker, int64_t group, int64_t chunk) {
    sum_chunk(worker, pass, group, chunk, partial.data() + chunk * width);
  });
  for (int64_t i = 0; i < width; ++i) totals[i] = 0;
  if (geometry.numel() == 0) return;
  parallel_for(width, elements_per_task / geometry.chunks() + 1, [&](int64_t begin, int64_t end) {
    for (int64_t chunk = 0; chunk < geometry.chunks(); ++chunk) {
      for (int64_t i = begin; i < end; ++i) totals[i] += partial[chunk * width + i];
    }
  });
}

// Writes the sums [sum_count, c] to where they are wanted; those of a parameter that all channels share are added up.
template <class T> void write_sums(const double* totals, int sum_count, int64_t c, int64_t parameter_count, const EpilogueGradients& g) {
  T *const dscale = static_cast<T*>(g.dscale), *const dshift = static_cast<T*>(g.dshift);
  const T* const factor = static_cast<const T*>(g.factor);
  for (int64_t i = 0; dshift && i < c; ++i) dshift[i] = static_cast<T>(totals[sum_dz * c + i]);
  for (int64_t i = 0; dscale && i < c; ++i) dscale[i] = static_cast<T>(totals[sum_dz_centred * c + i] * (factor ? factor[i] : 1));
  if (!g.dparameters) return;
  for (int k = sum_first_parameter; k < sum_count; ++k) {
    T* const row = static_cast<T*>(g.dparameters) + (k - sum_first_parameter) * parameter_count;
    double shared = 0;
    for (int64_t i = 0; i < c; ++i) {
      shared += totals[k * c + i];
      if (parameter_count != 1) row[i] = static_cast<T>(totals[k * c + i]);
    }
    if (parameter_count == 1) row[0] = static_cast<T>(shared);
  }
}

}  // namespace
}  // namespace fastlayers::FL_CPU_CAPABILITY
