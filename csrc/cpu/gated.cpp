// gated_forward and gated_backward for one processor: every half, y, dy and dx are walked once, in y's memory order.
#include "gated.h"

#include "dropout.h"
#include "plain.h"
#include "traversal.h"

namespace fastlayers::FL_CPU_CAPABILITY {
namespace {

constexpr int64_t elements_per_unit = elements_per_task / 2;  // of y: what a thread takes at a time, and one partial sum covers

// Elements [first, first + count) of y, which may cross rows of `inner` elements. Row r of a half is at half + 2 r inner.
template <class Storage> struct GatedRun {
  using T = typename Compute<Storage>::type;

  int64_t first, count, inner;
  const Storage *value, *gate, *dy;  // a, b
  Storage *y, *dvalue, *dgate;       // the last two both null where nobody asks
  const uint16_t* numbers;           // of the run's elements, or null for no dropout
  int32_t threshold;
  T keep_scale;
  int repeats;  // how many of each learnable parameter there are
  T arguments[max_arguments];
  T* sums;  // 16 partial sums of each learnable parameter's gradient, or null
};

// body(where in the halves, where in y and dy, where in the numbers, elements) for each piece of a row in the run.
template <class Storage, class Body> FL_HD void for_each_row(const GatedRun<Storage>& r, Body body) {
  int64_t row = r.first / r.inner, column = r.first % r.inner;
  for (int64_t done = 0, count; done < r.count; done += count, column = 0, ++row) {
    count = smaller(r.inner - column, r.count - done);
    body(2 * row * r.inner + column, r.first + done, done, count);
  }
}

// The activation with its arguments, the same for all elements.
template <class Activation, class Storage> struct Gate {
  using V = Block<typename Compute<Storage>::type>;
  const int repeats;
  V arguments[max_arguments];

  FL_HD explicit Gate(const GatedRun<Storage>& r) : repeats(r.repeats) {
    for (int k = 0; k < learnables() + Activation::constants; ++k) arguments[k] = V(r.arguments[k]);
  }
  FL_HD int learnables() const { return learnables_of<Activation>(repeats); }
  FL_HD V forward(V b) const { return value_of<Activation>(b, arguments, repeats); }
  FL_HD V derivative(V b, V* slopes) const { return derivative_of<Activation>(b, arguments, slopes, repeats); }
};

template <class Activation, class Storage> struct GatedForward {
  using V = Block<typename Compute<Storage>::type>;

  static void run(const GatedRun<Storage>& r) {
    const Gate<Activation, Storage> gate(r);
    const V keep(r.keep_scale), nothing(static_cast<typename V::Scalar>(0));
    for_each_row(r, [&](int64_t in, int64_t out, int64_t number, int64_t count) {
      const auto step = [&](int64_t i, auto access) __attribute__((always_inline)) {
        V result = access.template stream<V>(r.value + in + i) *
                   gate.forward(access.template stream<V>(r.gate + in + i));
        if (r.numbers) result *= kept_or_dropped(r.numbers + number + i, r.threshold, keep, nothing);
        access.write(r.y + out + i, result);
      };
      int64_t i = 0;
      for (; i + V::size <= count; i += V::size) step(i, Access<true>{});
      if (i < count) step(i, Access<false>{static_cast<int>(count - i)});
    });
  }
};

template <class Activation, class Storage> struct GatedBackward {
  using T = typename Compute<Storage>::type;
  using V = Block<T>;
  static constexpr int group = sum_lanes / V::size;  // vectors that make up the 16 partial sums

  static void run(const GatedRun<Storage>& r) {
    const Gate<Activation, Storage> gate(r);
    const V keep(r.keep_scale), nothing(static_cast<typename V::Scalar>(0));
    V sums[Activation::learnables * Activation::most_repeats + 1][group];
    for (int k = 0; k < gate.learnables(); ++k) {
      for (int j = 0; j < group; ++j) sums[k][j] = V(static_cast<T>(0));
    }
    for_each_row(r, [&](int64_t in, int64_t out, int64_t number, int64_t count) {
      const auto step = [&](int j, int64_t i, auto access) __attribute__((always_inline)) {
        V slopes[max_learnables];
        const V b = access.template stream<V>(r.gate + in + i);
        V gradient = access.template stream<V>(r.dy + out + i);
        if (r.numbers) gradient *= kept_or_dropped(r.numbers + number + i, r.threshold, keep, nothing);
        const V outer = gradient * access.template stream<V>(r.value + in + i);
        const V slope = gate.derivative(b, slopes);
        if (r.dvalue) {
          access.write(r.dvalue + in + i, gradient * gate.forward(b));
          access.write(r.dgate + in + i, reaching<Activation>(outer, slope) * slope);
        }
        for (int k = 0; k < gate.learnables(); ++k) sums[k][j] += access.counted(outer * slopes[k]);
      };
      int64_t i = 0;
      for (; i + sum_lanes <= count; i += sum_lanes) {
#pragma GCC unroll 8
        for (int j = 0; j < group; ++j) step(j, i + j * V::size, Access<true>{});
      }
#pragma GCC unroll 1
      for (int j = 0; i < count; ++j, i += V::size) step(j, i, Access<false>{static_cast<int>(smaller(count - i, V::size))});
    });
    if (!r.sums) return;
    for (int k = 0; k < gate.learnables(); ++k) {
      for (int j = 0; j < group; ++j) store(r.sums + k * sum_lanes + j * V::size, sums[k][j]);
    }
  }
};

template <class Storage> struct GatedLoops {
  void (*forward)(const GatedRun<Storage>&);
  void (*backward)(const GatedRun<Storage>&);
  int learnables, constants;  // learnables of one repeat
  double (*constant)(const double* given, int k);
};

template <class Activation, class Storage> constexpr GatedLoops<Storage> gated_loops_of() {
  if constexpr (Activation::random) return {};  // the bindings refuse it
  else return {GatedForward<Activation, Storage>::run, GatedBackward<Activation, Storage>::run, Activation::learnables,
               Activation::constants, Activation::constant};
}

// Those of every activation, in the order of FL_ACTIVATIONS.
template <class Storage> const GatedLoops<Storage>& gated_loops(int activation) {
#define FL_LOOPS(name) gated_loops_of<activations::name, Storage>(),
  static constexpr GatedLoops<Storage> loops[] = {FL_ACTIVATIONS(FL_LOOPS)};
#undef FL_LOOPS
  return loops[activation];
}

template <class Storage> GatedRun<Storage> run_of(const Epilogue& e, bool gate_first, const GatedLoops<Storage>& loops) {
  using T = typename Compute<Storage>::type;
  GatedRun<Storage> run = {};
  run.inner = e.c / 2 * e.s;
  run.value = static_cast<const Storage*>(e.x) + (gate_first ? run.inner : 0);
  run.gate = static_cast<const Storage*>(e.x) + (gate_first ? 0 : run.inner);
  run.threshold = e.threshold;
  run.keep_scale = static_cast<T>(e.keep_scale);
  run.repeats = e.repeats;
  set_shared_arguments(e, loops, run.arguments);
  return run;
}

// function(run, unit) for every stretch of y that is one run, with dropout one that has numbers, in parallel by units of elements_per_unit.
template <class Storage, class Function>
void for_each_run(const Epilogue& e, const GatedRun<Storage>& whole, Function function) {
  const int64_t numel = e.n * whole.inner, longest = e.dropout ? RandomNumbers::longest : longest_run;
  parallel_for(divide_up(numel, elements_per_unit), elements_per_task / elements_per_unit, [&](int64_t begin, int64_t end) {
    GatedRun<Storage> run = whole;
    RandomNumbers numbers(e.seed ? *e.seed : 0, dropout_stream);
    for (int64_t unit = begin; unit < end; ++unit) {
      const int64_t last = smaller(numel, (unit + 1) * elements_per_unit);
      for (run.first = unit * elements_per_unit; run.first < last; run.first += longest) {
        run.count = smaller(longest, last - run.first);
        run.numbers = e.dropout ? numbers.at(run.first, run.count, last) : nullptr;
        function(run, unit);
      }
    }
  });
}

template <class Storage> void forward(const Epilogue& e, bool gate_first, void* y) {
  const GatedLoops<Storage>& loops = gated_loops<Storage>(e.activation);
  GatedRun<Storage> run = run_of(e, gate_first, loops);
  run.y = static_cast<Storage*>(y);
  for_each_run(e, run, [&](const GatedRun<Storage>& part, int64_t) { loops.forward(part); });
}

template <class Storage> void backward(const Epilogue& e, bool gate_first, const GatedGradients& g) {
  using T = typename Compute<Storage>::type;
  const GatedLoops<Storage>& loops = gated_loops<Storage>(e.activation);
  GatedRun<Storage> run = run_of(e, gate_first, loops);
  run.dy = static_cast<const Storage*>(g.dy);
  if (g.dx) {
    run.dvalue = static_cast<Storage*>(g.dx) + (gate_first ? run.inner : 0);
    run.dgate = static_cast<Storage*>(g.dx) + (gate_first ? 0 : run.inner);
  }
  if (!g.dparameters) return for_each_run(e, run, [&](const GatedRun<Storage>& part, int64_t) { loops.backward(part); });
  const int64_t units = divide_up(e.n * run.inner, elements_per_unit), learnables = loops.learnables * e.repeats;
  Buffer<double> partial(units * learnables);
  for (int64_t i = 0; i < units * learnables; ++i) partial[i] = 0;
  for_each_run(e, run, [&](GatedRun<Storage>& part, int64_t unit) {
    T lanes[max_learnables * sum_lanes];
    part.sums = lanes;
    loops.backward(part);
    for (int64_t k = 0; k < learnables; ++k) partial[unit * learnables + k] += sum_of_lanes(lanes + k * sum_lanes);
  });
  for (int64_t k = 0; k < learnables; ++k) {
    double total = 0;
    for (int64_t unit = 0; unit < units; ++unit) total += partial[unit * learnables + k];
    static_cast<T*>(g.dparameters)[k] = static_cast<T>(total);
  }
}

}  // namespace

extern const GatedKernels gated_kernels;
const GatedKernels gated_kernels = {
    {forward<float>, forward<double>, forward<Half>, forward<BFloat16>},
    {backward<float>, backward<double>, backward<Half>, backward<BFloat16>},
};

}  // namespace fastlayers::FL_CPU_CAPABILITY
