// An activation alone, y = f(x) or dx = dy f'(x): nothing is set up for a small tensor, nothing but f is in the loop for a large one.
#pragma once

#include "../common/formula.h"
#include "walk.h"

namespace fastlayers::FL_CPU_CAPABILITY {

// What stands in p of an activation's functor where all channels share it: learnable parameters, then constants.
template <class Loops, class T> FL_HD void set_shared_arguments(const Epilogue& e, const Loops& loops, T* arguments) {
  const int learnables = loops.learnables * e.repeats;
  for (int k = 0; k < learnables; ++k) arguments[k] = static_cast<const T*>(e.parameters)[k];
  for (int k = 0; k < loops.constants; ++k) arguments[learnables + k] = static_cast<T>(loops.constant(e.constants, k));
}

// What a loop is told: little, for every thread has it to fetch from the one that wrote it.
template <class Storage> struct Plain {
  const Storage *x, *dy;  // dy for dx
  Storage* result;
  int64_t count;
  bool past_caches;  // as in Run
  int repeats;
  typename Compute<Storage>::type arguments[max_arguments];
};

template <class Storage> using PlainFunction = void (*)(const Plain<Storage>&, int64_t begin, int64_t end);

namespace {

// Of an activation that may have a number of each learnable parameter that is known only now.
template <class Activation> FL_HD int learnables_of(int repeats) {
  if constexpr (Activation::most_repeats > 1) return Activation::learnables * repeats;
  else return Activation::learnables;
}
template <class Activation, class V> FL_HD V value_of(V z, const V* arguments, int repeats) {
  if constexpr (Activation::most_repeats > 1) return Activation::forward(z, arguments, repeats);
  else return Activation::forward(z, arguments);
}
template <class Activation, class V> FL_HD V derivative_of(V z, const V* arguments, V* slopes, int repeats) {
  if constexpr (Activation::most_repeats > 1) return Activation::derivative(z, arguments, slopes, repeats);
  else return Activation::derivative(z, arguments, slopes);
}

// Whole vectors: no lane has anything of its own beside it.
struct Unordered {
  template <class V, class Storage> FL_HD V read(const Storage* address) const { return InAnyOrder<V, Storage>::read(address); }
};

// Tensors are not fetched ahead: the processor sees to that where so little else is going on.
template <class Activation, class Storage> struct PlainLoop {
  using V = Block<typename Compute<Storage>::type>;
  const Plain<Storage>& plain;
  const int64_t end;
  V arguments[max_arguments];

  FL_HD PlainLoop(const Plain<Storage>& plain, int64_t end) : plain(plain), end(end) {
    for (int k = 0; k < max_arguments; ++k) arguments[k] = V(plain.arguments[k]);
  }

  // result[i] = body(i, access) for begin <= i < end.
  template <class Body> FL_HD void go(int64_t i, Body body) const {
    Storage* const result = plain.result;
    const bool past_caches = plain.past_caches;
    const auto step = [&](int64_t i) __attribute__((always_inline)) {
      InAnyOrder<V, Storage>::write(result + i, body(i, Unordered{}), past_caches);
    };
    if constexpr (Activation::quick) {
      for (; i + 4 * V::size <= end; i += 4 * V::size) step(i), step(i + V::size), step(i + 2 * V::size), step(i + 3 * V::size);
    }
    for (; i + V::size <= end; i += V::size) step(i);
    if (i < end) {
      const Access<false> access{static_cast<int>(end - i)};
      access.write(result + i, body(i, access));
    }
    if (past_caches) finish_past_caches();
  }

  static void forward(const Plain<Storage>& plain, int64_t begin, int64_t end) {
    const PlainLoop loop(plain, end);
    loop.go(begin, [&, x = plain.x](int64_t i, auto access) __attribute__((always_inline)) {
      return value_of<Activation>(access.template read<V>(x + i), loop.arguments, plain.repeats);
    });
  }
  static void backward(const Plain<Storage>& plain, int64_t begin, int64_t end) {
    const PlainLoop loop(plain, end);
    loop.go(begin, [&, x = plain.x, dy = plain.dy](int64_t i, auto access) __attribute__((always_inline)) {
      V slopes[max_learnables];
      const V gradient = access.template read<V>(dy + i);
      const V slope = derivative_of<Activation>(access.template read<V>(x + i), loop.arguments, slopes, plain.repeats);
      return reaching<Activation>(gradient, slope) * slope;
    });
  }
};

}  // namespace
}  // namespace fastlayers::FL_CPU_CAPABILITY
