// epilogue_forward, epilogue_backward and epilogue_inverse for one processor.
#include "epilogue.h"

#include "pass.h"

namespace fastlayers::FL_CPU_CAPABILITY {
namespace {

// Whether anything differs between channels; if not, x is one long run.
bool per_channel(const Epilogue& e) { return e.mean || e.scale || e.shift || e.parameter_count != 1; }

// Whether x goes through the activation and nothing else is done to it.
bool is_plain(const Epilogue& e) { return !per_channel(e) && !e.weight && !e.residual && !e.residual_after && !e.dropout; }

// y = f(x), or dx = dy f'(x).
template <class Storage> void run_plain(const Epilogue& e, PlainFunction<Storage> function, const void* dy, void* result) {
  constexpr int64_t unit = 2048;  // elements that one thread works on
  const ActivationLoops<Storage>& loops = activation_loops<Storage>()[e.activation];
  Plain<Storage> plain = {};
  plain.x = static_cast<const Storage*>(e.x);
  plain.dy = static_cast<const Storage*>(dy);
  plain.result = static_cast<Storage*>(result);
  plain.count = e.n * e.c * e.s;
  plain.past_caches = is_large<Storage>(e) && reinterpret_cast<uintptr_t>(result) % 64 == 0;
  plain.repeats = e.repeats;
  set_shared_arguments(e, loops, plain.arguments);
  parallel_for(divide_up(plain.count, unit), elements_per_task / unit, [&](int64_t begin, int64_t end) {
    function(plain, begin * unit, smaller(plain.count, end * unit));
  });
}

// An epilogue whose weight is part of its scale.
template <class T> class Weighted {
 public:
  explicit Weighted(const Epilogue& given) : e(given), scale_(given.weight ? given.c : 0) {
    if (!given.weight) return;
    const T *const weight = static_cast<const T*>(e.weight), *const scale = static_cast<const T*>(e.scale);
    for (int64_t c = 0; c < e.c; ++c) scale_[c] = scale ? weight[c] * scale[c] : weight[c];
    e.scale = scale_.data();
  }

  Epilogue e;

 private:
  Buffer<T> scale_;
};

template <class Storage> void forward(const Epilogue& given, void* y) {
  const PlainFunction<Storage> plain = activation_loops<Storage>()[given.activation].plain_forward;
  if (plain && is_plain(given)) return run_plain<Storage>(given, plain, nullptr, y);
  const Weighted<typename Compute<Storage>::type> weighted(given);
  const Epilogue& e = weighted.e;
  Pass<Storage> pass;
  set_up(pass, e, per_channel(e) ? plain_geometry(e.n, e.c, e.s) : plain_geometry(1, 1, e.n * e.c * e.s));
  pass.run.y = static_cast<Storage*>(y);
  pass.run.past_caches = is_large<Storage>(e);
  pass.function = activation_loops<Storage>()[e.activation].forward[pass.geometry.along];
  run_everywhere(pass);
}

template <class Storage> void backward(const Epilogue& given, const EpilogueGradients& g) {
  using T = typename Compute<Storage>::type;
  const bool sums = g.dscale || g.dshift || g.dparameters;
  const ActivationLoops<Storage>& loops = activation_loops<Storage>()[given.activation];
  const PlainFunction<Storage> plain = g.from_output ? loops.plain_backward_from_output : loops.plain_backward;
  if (plain && is_plain(given) && g.dx && !g.dresidual && !g.mean_dz && !sums) return run_plain<Storage>(given, plain, g.dy, g.dx);
  const Weighted<T> weighted(given);
  const Epilogue& e = weighted.e;
  const bool channels = per_channel(e) || g.dscale || g.dshift;
  const int64_t n = channels ? e.n : 1, c = channels ? e.c : 1, s = channels ? e.s : e.n * e.c * e.s;
  Pass<Storage> pass;
  set_up(pass, e, sums ? reduction_geometry(n, c, s, sizeof(Storage)) : plain_geometry(n, c, s));
  pass.function = (g.from_output ? loops.backward_from_output : loops.backward)[pass.geometry.along];
  pass.run.dy = static_cast<const Storage*>(g.dy);
  pass.run.dx = static_cast<Storage*>(g.dx);
  pass.run.dresidual = static_cast<Storage*>(g.dresidual);
  pass.run.past_caches = is_large<Storage>(e);
  pass.run.sums_dz = g.dscale || g.dshift;
  if (g.mean_dz) {
    pass.run.corrected = true;
    pass.run.columns[column_mean_dz] = {static_cast<const T*>(g.mean_dz), 1};
    pass.run.columns[column_slope] = {static_cast<const T*>(g.slope), 1};
  }
  if (!sums) return run_everywhere(pass);
  pass.sum_count = sum_first_parameter + loops.learnables * e.repeats;
  Buffer<double> totals(c * pass.sum_count);
  sum_everywhere(pass, totals.data());
  write_sums<T>(totals.data(), pass.sum_count, c, e.parameter_count, g);
}

template <class Storage> void inverse(const Epilogue& given, void* x) {
  using T = typename Compute<Storage>::type;
  Epilogue e = given;
  Buffer<T> reciprocal(e.c);
  for (int64_t c = 0; c < e.c; ++c) reciprocal[c] = static_cast<T>(1) / static_cast<const T*>(e.scale)[c];
  e.scale = reciprocal.data();
  Pass<Storage> pass;
  set_up(pass, e, plain_geometry(e.n, e.c, e.s));
  pass.run.y = static_cast<Storage*>(x);
  pass.function = activation_loops<Storage>()[e.activation].inverse[pass.geometry.along];
  run_everywhere(pass);
}

}  // namespace

extern const EpilogueKernels epilogue_kernels;
const EpilogueKernels epilogue_kernels = {
    {forward<float>, forward<double>, forward<Half>, forward<BFloat16>},
    {backward<float>, backward<double>, backward<Half>, backward<BFloat16>},
    {inverse<float>, inverse<double>, inverse<Half>, inverse<BFloat16>},
};

}  // namespace fastlayers::FL_CPU_CAPABILITY
