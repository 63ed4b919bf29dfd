// The innermost loops: one run of consecutive elements, forward, backward or back from y to x. Those of statistics are in moments.h.
//
// Loops take 16 elements at a time, whatever the register width, and keep 16 partial sums, so that sums have the same bits on AVX2 and
// AVX-512.
#pragma once

#include "../common/activations.h"
#include "../common/formula.h"
#include "dropout.h"
#include "plain.h"

namespace fastlayers::FL_CPU_CAPABILITY {

namespace {

// What a loop does: anything that its run asks for; or, of batch norm alone, nothing but write y, nothing but gather sums, or nothing but
// write dx through the statistics; or write dx of a plain activation and gather the sums of its parameters. A loop without branches takes
// three quarters of the time where memory is not waited for, as in half types and in caches, and half of it over short rows.
enum class Sweep { any, output, sums, input, parameters };

// A vector's share of the columns: held in registers for all that a planar run's row or a strip visits.
template <class Activation, class V, bool along> struct Columns {
  using T = typename V::Scalar;
  V mean, scale, shift, mean_dz, slope, arguments[max_arguments];

  // For the vector at `lane`; the activation has `count` arguments beside random ones.
  template <class Storage, bool whole> FL_HD void load(const Run<Storage>& r, int count, int64_t lane, Access<whole> access) {
    const auto column = [&](int k) __attribute__((always_inline)) { return access.template column<V, along>(r.columns[k], lane); };
    mean = column(column_mean);
    scale = column(column_scale);
    shift = column(column_shift);
    mean_dz = column(column_mean_dz);
    slope = column(column_slope);
    for (int k = 0; k < count; ++k) arguments[k] = column(column_arguments + k);
  }
};

// What both directions do first: z = (x - mean) * scale + shift + residual, and the activation's arguments.
template <class Activation, class Storage, bool along> struct Inputs {
  using V = Block<typename Compute<Storage>::type>;
  using StripColumns = Columns<Activation, V, along>;
  const Run<Storage>& run;
  const Storage* const x;
  const Storage* const residual;
  const bool affine;
  StripColumns columns[along ? strip_vectors<Storage> : 1];

  FL_HD explicit Inputs(const Run<Storage>& r) : run(r), x(r.x), residual(r.residual), affine(r.affine) {}

  template <bool whole> FL_HD void enter(int j, int64_t lane, Access<whole> access) {
    columns[j].load(run, learnables() + Activation::constants, lane, access);
  }
  FL_HD StripColumns& columns_of(int j) { return columns[along ? j : 0]; }

  template <Sweep sweep, bool whole> FL_HD V pre_activation(int j, int64_t i, Access<whole> access, V& centred) {
    centred = access.template stream<V>(x + i);
    V z = centred;
    if constexpr (Activation::reads_output || sweep == Sweep::parameters) return z;
    if (sweep != Sweep::any || affine) {
      centred -= columns_of(j).mean;
      z = affine_of(centred, columns_of(j).scale, columns_of(j).shift);
    }
    if (sweep == Sweep::any && residual) z += access.template stream<V>(residual + i);
    return z;
  }
  // Of vector j, at element i.
  FL_HD const V* arguments(int j, int64_t i) {
    if constexpr (Activation::random) columns_of(j).arguments[learnables() + Activation::constants] = uniform(run.uniform_numbers + i, V());
    return columns_of(j).arguments;
  }

  FL_HD int learnables() const { return learnables_of<Activation>(run.repeats); }
  FL_HD V value(V z, const V* arguments) const { return value_of<Activation>(z, arguments, run.repeats); }
  FL_HD V derivative(V z, const V* arguments, V* slopes) const { return derivative_of<Activation>(z, arguments, slopes, run.repeats); }
};

template <class Activation, class Storage, bool along, Sweep sweep, bool more> struct ForwardLoop {
  using V = Block<typename Compute<Storage>::type>;
  Inputs<Activation, Storage, along> inputs;
  Storage* const y;
  const uint16_t* const numbers;
  const int32_t threshold;
  const V keep, nothing;
  const bool past_caches;

  FL_HD explicit ForwardLoop(const Run<Storage>& r)
      : inputs(r), y(r.y), numbers(r.numbers), threshold(r.threshold), keep(r.keep_scale),
        nothing(static_cast<typename V::Scalar>(0)), past_caches(can_pass_caches<along>(r, r.y)) {}

  template <bool whole> FL_HD void enter(int j, int64_t lane, Access<whole> access) { inputs.enter(j, lane, access); }
  template <bool whole> FL_HD void leave(int, int64_t, Access<whole>) {}
  // more: whether anything but a scale comes after the activation.
  template <bool whole> FL_HD void step(int j, int64_t i, Access<whole> access) {
    const Run<Storage>& run = inputs.run;
    V centred;
    V value = inputs.value(inputs.template pre_activation<sweep>(j, i, access, centred), inputs.arguments(j, i));
    if (sweep == Sweep::any && numbers) value *= kept_or_dropped(numbers + i, threshold, keep, nothing);
    if constexpr (more) {
      if (run.shifts) value += kept_or_dropped(numbers + i, threshold, V(run.keep_shift), V(run.drop_value));
      if (run.residual_after) value += access.template stream<V>(run.residual_after + i);
    }
    access.write(y + i, value, past_caches);
  }

  static void run(const Run<Storage>& r) {
    ForwardLoop loop(r);
    walk<along>(r, loop);
  }
};

template <class Activation, class Storage, bool along> void run_forward(const Run<Storage>& r) {
  if constexpr (Activation::quick) {
    const bool alone = r.affine && !r.numbers && !r.residual && !r.residual_after;
    if (alone) return ForwardLoop<Activation, Storage, along, Sweep::output, false>::run(r);
    if (!r.shifts && !r.residual_after) return ForwardLoop<Activation, Storage, along, Sweep::any, false>::run(r);
  }
  ForwardLoop<Activation, Storage, along, Sweep::any, true>::run(r);
}

template <class Activation, class Storage, bool along, Sweep sweep> struct BackwardLoop {
  using T = typename Compute<Storage>::type;
  using V = Block<T>;
  static constexpr int most_sums = sum_first_parameter + Activation::learnables * Activation::most_repeats;
  static constexpr int first_sum = sweep == Sweep::parameters ? sum_first_parameter : 0;
  static constexpr int group = sum_lanes / V::size;  // vectors that make up the 16 partial sums

  Inputs<Activation, Storage, along> inputs;
  const Storage* const dy;
  Storage *const dx, *const dresidual;
  T* const parked;
  const uint16_t* const numbers;
  const int32_t threshold;
  const V keep, nothing;
  const bool past_caches, corrected, continues;  // continues: sums are added to those in memory
  T* const sums_memory;
  T* row_sums;  // planar: those of the row
  const int64_t sums_step;
  V sums[most_sums][along ? strip_vectors<Storage> : group];

  FL_HD explicit BackwardLoop(const Run<Storage>& r)
      : inputs(r), dy(r.dy), dx(r.dx), dresidual(r.dresidual), parked(r.parked), numbers(r.numbers), threshold(r.threshold),
        keep(r.keep_scale), nothing(static_cast<T>(0)),
        past_caches(can_pass_caches<along>(r, r.dx) && can_pass_caches<along>(r, r.dresidual)), corrected(r.corrected),
        continues(r.sums && !r.sums_begin), sums_memory(r.sums), row_sums(r.sums), sums_step(r.sums_step) {}

  FL_HD int sum_count() const { return sum_first_parameter + inputs.learnables(); }

  // Adds to sum k in registers; at the ragged end of a row of one channel in memory, where the vector is not always the same.
  template <bool whole> FL_HD void add(int k, int j, Access<whole> access, V value) {
    if constexpr (along || whole) {
      sums[k][j] += value;
    } else if constexpr (group == 1) {
      sums[k][0] += access.counted(value);
    } else {
      T* const address = row_sums + k * sums_step + j * V::size;
      store(address, load<V>(address) + access.counted(value));
    }
  }

  template <bool whole> FL_HD void step(int j, int64_t i, Access<whole> access) {
    V slopes[max_learnables], centred;
    const V z = inputs.template pre_activation<sweep>(j, i, access, centred);
    V gradient = access.template stream<V>(dy + i);
    if (sweep == Sweep::any && numbers) gradient *= kept_or_dropped(numbers + i, threshold, keep, nothing);
    const V slope = inputs.derivative(z, inputs.arguments(j, i), slopes), dz = reaching<Activation>(gradient, slope) * slope;
    if (sweep == Sweep::any && dresidual) access.write(dresidual + i, dz, past_caches);
    if (sweep == Sweep::any && parked) access.write(parked + i - access.skipped, dz);
    if (sweep == Sweep::input || sweep == Sweep::parameters || (sweep == Sweep::any && dx)) {
      V result = dz;
      const auto& columns = inputs.columns_of(j);
      if (sweep == Sweep::input || (sweep == Sweep::any && corrected)) {
        result = through_statistics(dz, centred, columns.mean_dz, columns.slope);
      }
      if (sweep == Sweep::input || (sweep == Sweep::any && inputs.affine)) result *= columns.scale;
      access.write(dx + i, result, past_caches);
    }
    if (sweep == Sweep::input || (sweep == Sweep::any && !sums_memory)) return;
    if (sweep != Sweep::parameters) {
      add(sum_dz, j, access, dz);
      add(sum_dz_centred, j, access, dz * centred);
    }
    for (int k = 0; k < inputs.learnables(); ++k) add(sum_first_parameter + k, j, access, gradient * slopes[k]);
  }

  // Of a strip: its sums begin at 0 and join those in memory.
  template <bool whole> FL_HD void enter(int j, int64_t lane, Access<whole> access) {
    inputs.enter(j, lane, access);
    for (int k = first_sum; k < sum_count(); ++k) sums[k][j] = V(static_cast<T>(0));
  }
  template <bool whole> FL_HD void leave(int j, int64_t lane, Access<whole> access) {
    if (!sums_memory) return;
    for (int k = first_sum; k < sum_count(); ++k) {
      T* const address = sums_memory + k * sums_step + lane;
      access.write(address, access.template read<V>(address) + sums[k][j]);
    }
  }

  // Moves the partial sums of a row of one channel between memory and registers.
  template <bool in> FL_HD void exchange_sums() {
    for (int k = first_sum; k < sum_count(); ++k) {
      for (int j = 0; j < group; ++j) {
        T* const address = row_sums + k * sums_step + j * V::size;
        if constexpr (in) sums[k][j] = continues ? load<V>(address) : V(static_cast<T>(0));
        else if (sums_memory) store(address, sums[k][j]);
      }
    }
  }

  FL_HD void go_planar(int64_t row, int64_t i, int64_t end) {
    inputs.enter(0, row, Access<true>{});
    exchange_sums<true>();
    for (; i + sum_lanes <= end; i += sum_lanes) {
#pragma GCC unroll 8
      for (int j = 0; j < group; ++j) step(j, i + j * V::size, Access<true>{});
    }
    if constexpr (group == 1) {
      if (i < end) step(0, i, Access<false>{static_cast<int>(end - i)});
      exchange_sums<false>();
    } else {
      exchange_sums<false>();
#pragma GCC unroll 1
      for (int j = 0; i < end; ++j, i += V::size) step(j, i, Access<false>{static_cast<int>(smaller(end - i, V::size))});
    }
  }

  static void run(const Run<Storage>& r) {
    BackwardLoop loop(r);
    if constexpr (along) {
      walk_rows(r, loop);
    } else {
      for (int64_t row = 0; row < r.rows; ++row) {
        loop.go_planar(row, row * r.stride, row * r.stride + r.count);
        if (loop.sums_memory) loop.row_sums += sum_lanes;
      }
    }
  }
};

template <class Activation, class Storage, bool along> void run_backward(const Run<Storage>& r) {
  const bool alone = !r.numbers && !r.residual && !r.dresidual && !r.parked;
  if constexpr (Activation::quick && !Activation::reads_output && sizeof(Storage) <= 4) {
    if (alone && r.affine && r.sums && !r.dx) return BackwardLoop<Activation, Storage, along, Sweep::sums>::run(r);
    if (alone && r.affine && r.dx && r.corrected && !r.sums) return BackwardLoop<Activation, Storage, along, Sweep::input>::run(r);
  }
  if constexpr (Activation::learnables > 0) {
    if (alone && !r.affine && r.dx && r.sums && !r.sums_dz) return BackwardLoop<Activation, Storage, along, Sweep::parameters>::run(r);
  }
  BackwardLoop<Activation, Storage, along, Sweep::any>::run(r);
}

// dx from the dz that BackwardLoop has parked.
template <class Storage, bool along> struct ParkedLoop {
  using T = typename Compute<Storage>::type;
  using V = Block<T>;

  Inputs<activations::identity, Storage, along> inputs;
  const T* const parked;
  Storage* const dx;
  const bool past_caches;

  FL_HD explicit ParkedLoop(const Run<Storage>& r) : inputs(r), parked(r.parked), dx(r.dx), past_caches(can_pass_caches<along>(r, r.dx)) {}

  template <bool whole> FL_HD void enter(int j, int64_t lane, Access<whole> access) { inputs.enter(j, lane, access); }
  template <bool whole> FL_HD void leave(int, int64_t, Access<whole>) {}
  template <bool whole> FL_HD void step(int j, int64_t i, Access<whole> access) {
    const auto& columns = inputs.columns_of(j);
    const V centred = access.template read<V>(inputs.x + i) - columns.mean, dz = access.template read<V>(parked + i - access.skipped);
    access.write(dx + i, through_statistics(dz, centred, columns.mean_dz, columns.slope) * columns.scale, past_caches);
  }

  static void run(const Run<Storage>& r) {
    ParkedLoop loop(r);
    walk<along>(r, loop);
  }
};

// x from y, which stands in x's place; the column of the scale holds its reciprocal.
template <class Activation, class Storage, bool along> struct InverseLoop {
  using V = Block<typename Compute<Storage>::type>;
  Inputs<Activation, Storage, along> inputs;

  template <bool whole> FL_HD void enter(int j, int64_t lane, Access<whole> access) { inputs.enter(j, lane, access); }
  template <bool whole> FL_HD void leave(int, int64_t, Access<whole>) {}
  template <bool whole> FL_HD void step(int j, int64_t i, Access<whole> access) {
    const auto& columns = inputs.columns_of(j);
    V z = Activation::inverse(access.template stream<V>(inputs.x + i), inputs.arguments(j, i));
    if (inputs.residual) z -= access.template stream<V>(inputs.residual + i);
    access.write(inputs.run.y + i, inverse_affine_of(z, columns.scale, columns.mean, columns.shift));
  }

  static void run(const Run<Storage>& r) {
    InverseLoop loop{Inputs<Activation, Storage, along>(r)};
    walk<along>(r, loop);
  }
};

}  // namespace

template <class Storage> using RunFunction = void (*)(const Run<Storage>&);

// The loops of one activation; [0] for planar runs, [1] for runs along channels.
template <class Storage> struct ActivationLoops {
  RunFunction<Storage> forward[2], backward[2], backward_from_output[2];  // the last null for activations that need x
  RunFunction<Storage> inverse[2];  // null for activations that have none
  PlainFunction<Storage> plain_forward, plain_backward, plain_backward_from_output;  // null for random ones; the last as above
  int learnables, constants;        // learnables of one repeat
  bool random, quick;
  double (*constant)(const double* given, int k);
};

namespace {

template <class Row, class Storage> constexpr ActivationLoops<Storage> loops_of() {
  using Activation = typename Chosen<Row, sizeof(Storage) == 2>::type;
  ActivationLoops<Storage> loops = {
      {run_forward<Activation, Storage, false>, run_forward<Activation, Storage, true>},
      {run_backward<Activation, Storage, false>, run_backward<Activation, Storage, true>},
      {nullptr, nullptr},
      {nullptr, nullptr},
      nullptr,
      nullptr,
      nullptr,
      Activation::learnables,
      Activation::constants,
      Activation::random,
      Activation::quick,
      Activation::constant,
  };
  if constexpr (!Activation::random) {
    loops.plain_forward = PlainLoop<Activation, Storage>::forward;
    loops.plain_backward = PlainLoop<Activation, Storage>::backward;
  }
  if constexpr (Activation::from_output) {
    loops.plain_backward_from_output = PlainLoop<FromOutputOf<Activation>, Storage>::backward;
    loops.backward_from_output[0] = run_backward<FromOutputOf<Activation>, Storage, false>;
    loops.backward_from_output[1] = run_backward<FromOutputOf<Activation>, Storage, true>;
  }
  if constexpr (Activation::invertible) {
    loops.inverse[0] = InverseLoop<Activation, Storage, false>::run;
    loops.inverse[1] = InverseLoop<Activation, Storage, true>::run;
  }
  return loops;
}

// Those of every activation, in the order of FL_ACTIVATIONS.
template <class Storage> const ActivationLoops<Storage>* all_loops() {
#define FL_LOOPS(name) loops_of<activations::name, Storage>(),
  static constexpr ActivationLoops<Storage> loops[] = {FL_ACTIVATIONS(FL_LOOPS)};
#undef FL_LOOPS
  return loops;
}

}  // namespace
}  // namespace fastlayers::FL_CPU_CAPABILITY
