// The optimizer updates: one functor for each row of specs.UPDATE_RULES, named in FL_UPDATE_RULES below.
//
// A functor is made once per tensor, from the numbers that a step takes, and then applied to each element:
//   Adam<float> rule(hyperparameters, flags, t);   // [lr, weight_decay, ...], [maximize, ...] as in specs.py, t = updates so far + 1
//   rule.update(p, g, state);                      // p and state[k] in place; state[k] only where it exists
// Scalar, float or double, is what it computes in; T is Scalar itself (a GPU thread) or a vector of it (a CPU register). The
// gradient g has its sign, scale and clipping already. Needs multiply_add, square_root and select for T.
#pragma once

#include <math.h>

#include "platform.h"

namespace fastlayers::FL_NAMESPACE {

// g += weight_decay p;  b = g at the first step, else momentum b + (1 - dampening) g;  p -= lr (g + momentum b if nesterov else b)
template <class Scalar> struct Sgd {
  static constexpr int states = 1, hyperparameters = 2, flags = 2;
  static constexpr bool counts_steps = false;
  Scalar lr, weight_decay, momentum, undamped;
  bool has_buffer, nesterov, first;

  FL_HD Sgd(const double* numbers, const bool* switches, double)
      : lr(numbers[0]), weight_decay(numbers[1]), momentum(numbers[2]), undamped(1 - numbers[3]), has_buffer(numbers[2] != 0),
        nesterov(switches[1]), first(switches[2]) {}

  static FL_HD bool has_state(int, const double* numbers, const bool*) { return numbers[2] != 0; }

  template <class T> FL_HD void update(T& p, T g, T* state) const {
    if (weight_decay != 0) g = multiply_add(T(weight_decay), p, g);  // 0 times an infinite p would be NaN
    if (has_buffer) {
      state[0] = first ? g : multiply_add(T(momentum), state[0], T(undamped) * g);
      g = nesterov ? multiply_add(T(momentum), state[0], g) : state[0];
    }
    p = multiply_add(T(-lr), g, p);
  }
};

// m += (1 - beta1) (g - m);  v = beta2 v + (1 - beta2) g^2;  p -= lr / (1 - beta1^t) m / (sqrt(v / (1 - beta2^t)) + eps),
// where with amsgrad the largest v so far stands for v. Weight decay: g += weight_decay p, or p *= 1 - lr weight_decay if decoupled.
template <class Scalar, bool decoupled> struct AdamFamily {
  static constexpr int states = 3, hyperparameters = 3, flags = 1;
  static constexpr bool counts_steps = true;
  Scalar decay, first_weight, beta2, second_weight, root_scale, eps, negative_step;
  bool amsgrad;

  FL_HD AdamFamily(const double* numbers, const bool* switches, double t)
      : decay(decoupled ? 1 - numbers[0] * numbers[1] : numbers[1]), first_weight(1 - numbers[2]), beta2(numbers[3]),
        second_weight(1 - numbers[3]), root_scale(1 / sqrt(1 - pow(numbers[3], t))), eps(numbers[4]),
        negative_step(-numbers[0] / (1 - pow(numbers[2], t))), amsgrad(switches[1]) {}

  static FL_HD bool has_state(int k, const double*, const bool* switches) { return k < 2 || switches[1]; }

  template <class T> FL_HD void update(T& p, T g, T* state) const {
    if (decoupled) {
      p = p * T(decay);
    } else if (decay != 0) {
      g = multiply_add(T(decay), p, g);
    }
    state[0] = multiply_add(T(first_weight), g - state[0], state[0]);
    state[1] = multiply_add(T(second_weight) * g, g, T(beta2) * state[1]);
    T largest = state[1];
    if (amsgrad) largest = state[2] = select(state[2] >= state[1], state[2], state[1]);  // in this order a NaN is kept
    const T denominator = multiply_add(square_root(largest), T(root_scale), T(eps));
    p = multiply_add(T(negative_step), state[0] / denominator, p);
  }
};
template <class Scalar> using Adam = AdamFamily<Scalar, false>;
template <class Scalar> using AdamW = AdamFamily<Scalar, true>;

// (the row's name, its functor): all that dispatch needs to know.
#define FL_UPDATE_RULES(RULE) \
  RULE(sgd, Sgd)              \
  RULE(adam, Adam)            \
  RULE(adamw, AdamW)

}  // namespace fastlayers::FL_NAMESPACE
