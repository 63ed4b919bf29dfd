// The innermost loops: one run of consecutive elements, forward, backward or back from y to x. Those of statistics are in moments.h.
//
// A run is either of one channel (`uniform`: a channel's values are held in registers) or crosses channels (`along`: they are read
// beside x, one value per element). Loops take 16 elements at a time, whatever the register width, and keep 16 partial sums, so
// that sums have the same bits on AVX2 and AVX-512.
#pragma once

#include "../common/activations.h"
#include "../common/formula.h"
#include "dropout.h"
#include "memory.h"

namespace fastlayers::FL_CPU_CAPABILITY {

constexpr int sum_lanes = 16;
constexpr int64_t prefetch_bytes = 2048;  // tensors are fetched this far ahead: the loops keep the processor too busy to see as far itself

FL_HD int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
FL_HD int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }

// Values of a parameter: those of channel or element i are at values + i * step, step 0 or 1. Sixteen may be read where step is 0.
template <class T> struct Column {
  const T* values;
  int64_t step;

  FL_HD Column from(int64_t i) const { return {values + i * step, step}; }
};

// The columns of a run, and the sums that backward gathers, in the order they are kept.
enum ColumnName { column_mean, column_scale, column_shift, column_mean_dz, column_slope, column_arguments };
constexpr int column_count = column_arguments + max_arguments;
enum Sum { sum_dz, sum_dz_centred, sum_first_parameter };

template <class Storage> struct Run {
  using T = typename Compute<Storage>::type;

  int64_t count;
  const Storage *x, *dy, *residual, *residual_after;  // the residuals may be null
  Storage *y, *dx, *dresidual;       // dx and dresidual may be null
  T* parked;                         // dz for a second visit of the same elements, or null
  const uint16_t* numbers;           // of the run's elements, or null for no dropout
  const uint16_t* uniform_numbers;   // for a random activation
  int32_t threshold;
  T keep_scale, keep_shift, drop_value;
  bool past_caches;  // whether results are so large that they leave the caches before anyone reads them
  bool shifts;  // whether keep_shift or drop_value is anything but 0
  bool affine, corrected;  // whether mean, scale, shift are anything but 0, 1, 0; whether mean_dz and slope are anything but 0
  int repeats;             // how many of each learnable parameter there are
  Column<T> columns[column_count];
  T* sums;  // sum k is at sums + k * sums_step: 16 partial ones (uniform) or one per element (along). Null: none wanted
  int64_t sums_step;
};

namespace {

// A column as the loops read it.
template <class V, bool along> class ColumnReader;

template <class V> class ColumnReader<V, false> {
 public:
  FL_HD explicit ColumnReader(const Column<typename V::Scalar>& column) : value_(*column.values) {}
  FL_HD V at(int64_t) const { return value_; }
  FL_HD V at(int64_t, int) const { return value_; }

 private:
  V value_;
};

template <class V> class ColumnReader<V, true> {
 public:
  FL_HD explicit ColumnReader(const Column<typename V::Scalar>& column) : values_(column.values), mask_(-column.step) {}
  FL_HD V at(int64_t i) const { return load<V>(values_ + (i & mask_)); }
  FL_HD V at(int64_t i, int count) const { return load<V>(values_ + (i & mask_), count); }

 private:
  const typename V::Scalar* values_;
  int64_t mask_;
};

// Loads and stores of V::size elements, or of the first `count` where the run ends inside the vector.
template <bool whole> struct Access {
  int count;

  template <class V, class Storage> FL_HD V read(const Storage* address) const {
    if constexpr (whole) return load<V>(address);
    else return load<V>(address, count);
  }
  // read from a tensor that the loop walks through.
  template <class V, class Storage> FL_HD V stream(const Storage* address) const {
    if constexpr (whole) __builtin_prefetch(reinterpret_cast<const char*>(address) + prefetch_bytes);
    return read<V>(address);
  }
  template <class V, class Storage> FL_HD void write(Storage* address, V value) const {
    if constexpr (whole) store(address, value);
    else store(address, value, count);
  }
  // write of a result. past_caches asks for an address that is a multiple of what is written.
  template <class V, class Storage> FL_HD void write(Storage* address, V value, bool past_caches) const {
    if constexpr (whole) {
      if (past_caches) return store_past_caches(address, value);
    }
    write(address, value);
  }
  template <class V, bool along> FL_HD V read(const ColumnReader<V, along>& column, int64_t i) const {
    if constexpr (whole) return column.at(i);
    else return column.at(i, count);
  }
  // What may be added to a sum: nothing for lanes past the end.
  template <class V> FL_HD V counted(V value) const {
    if constexpr (whole) return value;
    else return select(first_lanes<typename V::Scalar>(count), value, V(static_cast<typename V::Scalar>(0)));
  }
};

// Whether vectors from this address on can be written past the caches.
template <class V, class Storage> FL_HD bool aligned(const Storage* address) {
  return reinterpret_cast<uintptr_t>(address) % (V::size * sizeof(Storage)) == 0;
}

// What both directions do first: z = (x - mean) * scale + shift + residual, and the activation's arguments.
template <class Activation, class Storage, bool along> struct Inputs {
  using V = Vector<typename Compute<Storage>::type>;
  using Reader = ColumnReader<V, along>;
  const Run<Storage>& run;
  const Storage* const x;
  const Storage* const residual;
  const bool affine;
  const Reader mean, scale, shift;

  FL_HD explicit Inputs(const Run<Storage>& r)
      : run(r), x(r.x), residual(r.residual), affine(r.affine), mean(r.columns[column_mean]),
        scale(r.columns[column_scale]), shift(r.columns[column_shift]) {}

  template <bool whole> FL_HD V pre_activation(int64_t i, Access<whole> access, V& centred) const {
    centred = access.template stream<V>(x + i);
    V z = centred;
    if constexpr (Activation::reads_output) return z;
    if (affine) {
      centred -= access.read(mean, i);
      z = affine_of(centred, access.read(scale, i), access.read(shift, i));
    }
    if (residual) z += access.template stream<V>(residual + i);
    return z;
  }
  template <bool whole> FL_HD void read_arguments(int64_t i, Access<whole> access, V* arguments) const {
    const int count = learnables() + Activation::constants;
    for (int k = 0; k < count; ++k) arguments[k] = access.read(Reader(run.columns[column_arguments + k]), i);
    if constexpr (Activation::random) arguments[count] = uniform(run.uniform_numbers + i, V());
  }

  // Of the activation, which may have a number of each of them that is known only now.
  FL_HD int learnables() const {
    if constexpr (Activation::most_repeats > 1) return Activation::learnables * run.repeats;
    else return Activation::learnables;
  }
  FL_HD V value(V z, const V* arguments) const {
    if constexpr (Activation::most_repeats > 1) return Activation::forward(z, arguments, run.repeats);
    else return Activation::forward(z, arguments);
  }
  FL_HD V derivative(V z, const V* arguments, V* slopes) const {
    if constexpr (Activation::most_repeats > 1) return Activation::derivative(z, arguments, slopes, run.repeats);
    else return Activation::derivative(z, arguments, slopes);
  }
};

template <class Activation, class Storage, bool along> struct ForwardLoop {
  using V = Vector<typename Compute<Storage>::type>;
  const Inputs<Activation, Storage, along> inputs;
  Storage* const y;
  const uint16_t* const numbers;
  const int32_t threshold;
  const V keep, nothing;
  const bool past_caches;

  FL_HD explicit ForwardLoop(const Run<Storage>& r)
      : inputs(r), y(r.y), numbers(r.numbers), threshold(r.threshold), keep(r.keep_scale),
        nothing(static_cast<typename V::Scalar>(0)), past_caches(r.past_caches && aligned<V>(r.y)) {}

  // more: whether anything but a scale comes after the activation.
  template <bool more, bool whole> FL_HD void step(int64_t i, Access<whole> access) const {
    const Run<Storage>& run = inputs.run;
    V arguments[max_arguments], centred;
    inputs.read_arguments(i, access, arguments);
    V value = inputs.value(inputs.pre_activation(i, access, centred), arguments);
    if (numbers) value *= kept_or_dropped(numbers + i, threshold, keep, nothing);
    if constexpr (more) {
      if (run.shifts) value += kept_or_dropped(numbers + i, threshold, V(run.keep_shift), V(run.drop_value));
      if (run.residual_after) value += access.template stream<V>(run.residual_after + i);
    }
    access.write(y + i, value, past_caches);
  }

  template <bool more> FL_HD void go(int64_t count) const {
    int64_t i = 0;
    for (; i + V::size <= count; i += V::size) step<more>(i, Access<true>{});
    if (i < count) step<more>(i, Access<false>{static_cast<int>(count - i)});
  }

  static void run(const Run<Storage>& r) {
    const ForwardLoop loop(r);
    if (r.shifts || r.residual_after) loop.template go<true>(r.count);
    else loop.template go<false>(r.count);
  }
};

template <class Activation, class Storage, bool along> struct BackwardLoop {
  using T = typename Compute<Storage>::type;
  using V = Vector<T>;
  static constexpr int most_sums = sum_first_parameter + Activation::learnables * Activation::most_repeats;
  static constexpr int group = sum_lanes / V::size;  // vectors that make up the 16 partial sums

  const Inputs<Activation, Storage, along> inputs;
  const Storage* const dy;
  Storage *const dx, *const dresidual;
  T* const parked;
  const uint16_t* const numbers;
  const int32_t threshold;
  const V keep, nothing;
  const bool past_caches, corrected;
  const ColumnReader<V, along> mean_dz, slope;
  T* const sums_memory;
  const int64_t sums_step;
  V sums[most_sums][group];  // of a uniform run

  FL_HD explicit BackwardLoop(const Run<Storage>& r)
      : inputs(r), dy(r.dy), dx(r.dx), dresidual(r.dresidual), parked(r.parked), numbers(r.numbers), threshold(r.threshold),
        keep(r.keep_scale), nothing(static_cast<T>(0)), past_caches(r.past_caches && aligned<V>(r.dx) && aligned<V>(r.dresidual)), corrected(r.corrected),
        mean_dz(r.columns[column_mean_dz]), slope(r.columns[column_slope]), sums_memory(r.sums), sums_step(r.sums_step) {}

  // Adds to sum k: along channels in memory beside the elements; in a uniform run in registers, at its ragged end in memory.
  template <bool whole> FL_HD void add(int k, int j, int64_t i, Access<whole> access, V value) {
    if constexpr (along) {
      T* const address = sums_memory + k * sums_step + i;
      access.write(address, access.template read<V>(address) + value);
    } else if constexpr (whole) {
      sums[k][j] += value;
    } else {
      T* const address = sums_memory + k * sums_step + j * V::size;
      store(address, load<V>(address) + access.counted(value));
    }
  }

  template <bool whole> FL_HD void step(int j, int64_t i, Access<whole> access) {
    V arguments[max_arguments], slopes[max_learnables], centred;
    inputs.read_arguments(i, access, arguments);
    const V z = inputs.pre_activation(i, access, centred);
    V gradient = access.template stream<V>(dy + i);
    if (numbers) gradient *= kept_or_dropped(numbers + i, threshold, keep, nothing);
    const V dz = gradient * inputs.derivative(z, arguments, slopes);
    if (dresidual) access.write(dresidual + i, dz, past_caches);
    if (parked) access.write(parked + i, dz);
    if (dx) {
      V result = dz;
      if (corrected) result = through_statistics(dz, centred, access.read(mean_dz, i), access.read(slope, i));
      if (inputs.affine) result *= access.read(inputs.scale, i);
      access.write(dx + i, result, past_caches);
    }
    if (!sums_memory) return;
    add(sum_dz, j, i, access, dz);
    add(sum_dz_centred, j, i, access, dz * centred);
    for (int k = 0; k < inputs.learnables(); ++k) add(sum_first_parameter + k, j, i, access, gradient * slopes[k]);
  }

  // Moves the partial sums of a uniform run between memory and registers.
  template <bool in> FL_HD void exchange_sums() {
    for (int k = 0; k < sum_first_parameter + inputs.learnables(); ++k) {
      for (int j = 0; j < group; ++j) {
        T* const address = sums_memory + k * sums_step + j * V::size;
        if constexpr (in) sums[k][j] = along || !sums_memory ? V(static_cast<T>(0)) : load<V>(address);
        else if (!along && sums_memory) store(address, sums[k][j]);
      }
    }
  }

  // dx = dy f'(x), where that is all: a plain activation of a small tensor is as fast as its loop is short.
  FL_HD bool is_plain() const {
    return !along && dx && !sums_memory && !numbers && !dresidual && !parked && !corrected && !inputs.affine && !inputs.residual;
  }
  template <bool whole> FL_HD void plain_step(int64_t i, const V* arguments, Access<whole> access) const {
    V slopes[max_learnables];
    const V gradient = access.template stream<V>(dy + i);
    access.write(dx + i, gradient * inputs.derivative(access.template stream<V>(inputs.x + i), arguments, slopes), past_caches);
  }
  FL_HD void go_plain(int64_t count) const {
    V arguments[max_arguments];
    inputs.read_arguments(0, Access<true>{}, arguments);
    int64_t i = 0;
    for (; i + V::size <= count; i += V::size) plain_step(i, arguments, Access<true>{});
    if (i < count) plain_step(i, arguments, Access<false>{static_cast<int>(count - i)});
  }

  static void run(const Run<Storage>& r) {
    BackwardLoop loop(r);
    if constexpr (!Activation::random) {
      if (loop.is_plain()) return loop.go_plain(r.count);
    }
    loop.template exchange_sums<true>();
    const int64_t count = r.count;
    int64_t i = 0;
    for (; i + sum_lanes <= count; i += sum_lanes) {
#pragma GCC unroll 8
      for (int j = 0; j < group; ++j) loop.step(j, i + j * V::size, Access<true>{});
    }
    loop.template exchange_sums<false>();
#pragma GCC unroll 1
    for (int j = 0; i < count; ++j, i += V::size) loop.step(j, i, Access<false>{static_cast<int>(smaller(count - i, V::size))});
  }
};

// dx from the dz that BackwardLoop has parked.
template <class Storage, bool along> struct ParkedLoop {
  using T = typename Compute<Storage>::type;
  using V = Vector<T>;
  using Reader = ColumnReader<V, along>;

  const Storage* const x;
  const T* const parked;
  Storage* const dx;
  const bool past_caches;
  const Reader mean, scale, mean_dz, slope;

  FL_HD explicit ParkedLoop(const Run<Storage>& r)
      : x(r.x), parked(r.parked), dx(r.dx), past_caches(r.past_caches && aligned<V>(r.dx)), mean(r.columns[column_mean]),
        scale(r.columns[column_scale]), mean_dz(r.columns[column_mean_dz]), slope(r.columns[column_slope]) {}

  template <bool whole> FL_HD void step(int64_t i, Access<whole> access) const {
    const V centred = access.template read<V>(x + i) - access.read(mean, i), dz = access.template read<V>(parked + i);
    const V result = through_statistics(dz, centred, access.read(mean_dz, i), access.read(slope, i));
    access.write(dx + i, result * access.read(scale, i), past_caches);
  }

  static void run(const Run<Storage>& r) {
    const ParkedLoop loop(r);
    int64_t i = 0;
    for (; i + V::size <= r.count; i += V::size) loop.step(i, Access<true>{});
    if (i < r.count) loop.step(i, Access<false>{static_cast<int>(r.count - i)});
  }
};

// x from y, which stands in x's place; the column of the scale holds its reciprocal.
template <class Activation, class Storage, bool along> struct InverseLoop {
  using V = Vector<typename Compute<Storage>::type>;

  template <bool whole> FL_HD static void step(const Inputs<Activation, Storage, along>& inputs, int64_t i, Access<whole> access) {
    V arguments[max_arguments];
    inputs.read_arguments(i, access, arguments);
    V z = Activation::inverse(access.template stream<V>(inputs.x + i), arguments);
    if (inputs.residual) z -= access.template stream<V>(inputs.residual + i);
    access.write(inputs.run.y + i,
                 inverse_affine_of(z, access.read(inputs.scale, i), access.read(inputs.mean, i), access.read(inputs.shift, i)));
  }

  static void run(const Run<Storage>& r) {
    const Inputs<Activation, Storage, along> inputs(r);
    int64_t i = 0;
    for (; i + V::size <= r.count; i += V::size) step(inputs, i, Access<true>{});
    if (i < r.count) step(inputs, i, Access<false>{static_cast<int>(r.count - i)});
  }
};

}  // namespace

template <class Storage> using RunFunction = void (*)(const Run<Storage>&);

// The loops of one activation; [0] for uniform runs, [1] for runs along channels.
template <class Storage> struct ActivationLoops {
  RunFunction<Storage> forward[2], backward[2], backward_from_output[2];  // the last null for activations that need x
  RunFunction<Storage> inverse[2];  // null for activations that have none
  int learnables, constants;        // learnables of one repeat
  bool random;
  double (*constant)(const double* given, int k);
};

namespace {

template <class Row, class Storage> constexpr ActivationLoops<Storage> loops_of() {
  using Activation = typename Chosen<Row, sizeof(Storage) == 2>::type;
  ActivationLoops<Storage> loops = {
      {ForwardLoop<Activation, Storage, false>::run, ForwardLoop<Activation, Storage, true>::run},
      {BackwardLoop<Activation, Storage, false>::run, BackwardLoop<Activation, Storage, true>::run},
      {nullptr, nullptr},
      {nullptr, nullptr},
      Activation::learnables,
      Activation::constants,
      Activation::random,
      Activation::constant,
  };
  if constexpr (Activation::from_output) {
    loops.backward_from_output[0] = BackwardLoop<FromOutputOf<Activation>, Storage, false>::run;
    loops.backward_from_output[1] = BackwardLoop<FromOutputOf<Activation>, Storage, true>::run;
  }
  if constexpr (Activation::invertible) {
    loops.inverse[0] = InverseLoop<Activation, Storage, false>::run;
    loops.inverse[1] = InverseLoop<Activation, Storage, true>::run;
  }
  return loops;
}

}  // namespace
}  // namespace fastlayers::FL_CPU_CAPABILITY
