// The optimizer updates: one functor for each row of specs.UPDATE_RULES, named in FL_UPDATE_RULES below.
//
// A functor is made once per tensor and then applied to each element:
//   Adam<float> rule(given, flags, scalars);  // hyperparameters [lr, weight_decay, ...], [maximize, ...], [t, ...], as in specs.py
//   rule.update(p, g, state);                 // p and state[k] in place; state[k] only where it exists
// Scalar, float or double, is what it computes in; T is Scalar itself (a GPU thread) or a vector of it (a CPU register). The
// gradient g has its sign, scale and clipping already. scalars are what Rule::advance has made of them for this update: t is its
// number. Counts of flags and hyperparameters leave out those of every rule: maximize, lr and weight_decay. common/optimizers.h has the
// most there may be of each. Needs multiply_add, square_root, absolute and select for T.
#pragma once

#include <math.h>

#include "platform.h"

namespace fastlayers::FL_NAMESPACE {

// What most rules have in common: all of their states, no flags, and the number of the update as the only scalar.
struct RuleDefaults {
  static constexpr int flag_count = 0, scalar_count = 1;
  static FL_HD bool has_state(int, const double*, const bool*) { return true; }
  static FL_HD void advance(const double*, float* scalars) { scalars[0] += 1; }
};

// What gradients are multiplied by: sign, 1 / grad_scale, and clipping to max_norm, where squares is the sum of the squares of all of
// them; nullptr where they are not clipped.
FL_HD double gradient_factor(bool maximize, double grad_scale, const double* squares, double max_norm) {
  double factor = 1 / grad_scale;
  if (squares) {
    const double ratio = max_norm / (sqrt(*squares) * factor + 1e-6);
    factor *= ratio > 1 ? 1 : ratio;  // in this order a NaN norm gives NaN, as torch's clamp does
  }
  return maximize ? -factor : factor;
}

// g with the gradient of the L2 penalty; 0 times an infinite p would be NaN.
template <class Scalar, class T> FL_HD T penalised(T p, T g, Scalar weight_decay) {
  return weight_decay != 0 ? multiply_add(T(weight_decay), p, g) : g;
}

// Weight decay of either kind: p shrinks by itself if decoupled, else the gradient takes it along.
template <class Scalar> struct WeightDecay {
  bool decoupled;
  Scalar number;

  FL_HD WeightDecay(const double* given, bool decoupled)
      : decoupled(decoupled), number(decoupled ? 1 - given[0] * given[1] : given[1]) {}

  template <class T> FL_HD void apply(T& p, T& g) const {
    if (decoupled) {
      p = p * T(number);
    } else {
      g = penalised(p, g, number);
    }
  }
};

// A running mean: m += (1 - beta) (x - m).
template <class Scalar, class T> FL_HD void move_towards(T& m, T x, Scalar weight) { m = multiply_add(T(weight), x - m, m); }

// Adam's running means of g and g^2, from [lr, weight_decay, beta1, beta2, ...].
template <class Scalar> struct AdamMoments {
  Scalar first_weight, beta2, second_weight;

  FL_HD explicit AdamMoments(const double* given) : first_weight(1 - given[2]), beta2(given[3]), second_weight(1 - given[3]) {}

  template <class T> FL_HD void update(T g, T* state) const {
    move_towards(state[0], g, first_weight);
    state[1] = multiply_add(T(second_weight) * g, g, T(beta2) * state[1]);
  }
};

// g += weight_decay p;  b = g at the first step, else momentum b + (1 - dampening) g;  p -= lr (g + momentum b if nesterov else b)
template <class Scalar> struct Sgd : RuleDefaults {
  static constexpr int state_count = 1, hyperparameter_count = 2, flag_count = 2, scalar_count = 0;
  Scalar lr, weight_decay, momentum, undamped;
  bool has_buffer, nesterov, first;

  FL_HD Sgd(const double* given, const bool* flags, const double*)
      : lr(given[0]), weight_decay(given[1]), momentum(given[2]), undamped(1 - given[3]), has_buffer(given[2] != 0),
        nesterov(flags[1]), first(flags[2]) {}

  static FL_HD bool has_state(int, const double* given, const bool*) { return given[2] != 0; }

  template <class T> FL_HD void update(T& p, T g, T* state) const {
    g = penalised(p, g, weight_decay);
    if (has_buffer) {
      state[0] = first ? g : multiply_add(T(momentum), state[0], T(undamped) * g);
      g = nesterov ? multiply_add(T(momentum), state[0], g) : state[0];
    }
    p = multiply_add(T(-lr), g, p);
  }
};

// g += weight_decay p;  s += g^2;  p -= lr / (1 + (t - 1) lr_decay) g / (sqrt(s) + eps)
template <class Scalar> struct Adagrad : RuleDefaults {
  static constexpr int state_count = 1, hyperparameter_count = 2;
  Scalar negative_step, weight_decay, eps;

  FL_HD Adagrad(const double* given, const bool*, const double* scalars)
      : negative_step(-given[0] / (1 + (scalars[0] - 1) * given[2])), weight_decay(given[1]), eps(given[3]) {}

  template <class T> FL_HD void update(T& p, T g, T* state) const {
    g = penalised(p, g, weight_decay);
    state[0] = multiply_add(g, g, state[0]);
    p = multiply_add(T(negative_step), g / (square_root(state[0]) + T(eps)), p);
  }
};

// g += weight_decay p;  v = alpha v + (1 - alpha) g^2;  if centered: a += (1 - alpha) (g - a), w = max(v - a^2, 0), else w = v;
// u = g / (sqrt(w) + eps);  with momentum: b = momentum b + u, u = b;  p -= lr u
template <class Scalar> struct RmsProp : RuleDefaults {
  static constexpr int state_count = 3, hyperparameter_count = 3, flag_count = 1;
  Scalar negative_lr, weight_decay, alpha, weight, eps, momentum;
  bool has_buffer, centered;

  FL_HD RmsProp(const double* given, const bool* flags, const double*)
      : negative_lr(-given[0]), weight_decay(given[1]), alpha(given[2]), weight(1 - given[2]), eps(given[3]),
        momentum(given[4]), has_buffer(given[4] != 0), centered(flags[1]) {}

  static FL_HD bool has_state(int k, const double* given, const bool* flags) {
    return k == 0 || (k == 1 ? given[4] != 0 : flags[1]);
  }

  template <class T> FL_HD void update(T& p, T g, T* state) const {
    g = penalised(p, g, weight_decay);
    state[0] = multiply_add(T(weight) * g, g, T(alpha) * state[0]);
    T square = state[0];
    if (centered) {
      move_towards(state[2], g, weight);
      square = square - state[2] * state[2];
      square = select(square < T(0), T(0), square);  // in this order a NaN is kept
    }
    g = g / (square_root(square) + T(eps));
    if (has_buffer) g = state[1] = multiply_add(T(momentum), state[1], g);
    p = multiply_add(T(negative_lr), g, p);
  }
};

// m, v: AdamMoments;  p -= lr / (1 - beta1^t) m / (sqrt(v / (1 - beta2^t)) + eps), where with amsgrad the largest v so far stands for v
template <class Scalar, bool decoupled> struct AdamFamily : RuleDefaults {
  static constexpr int state_count = 3, hyperparameter_count = 3, flag_count = 1;
  WeightDecay<Scalar> decay;
  AdamMoments<Scalar> moments;
  Scalar root_scale, eps, negative_step;
  bool amsgrad;

  FL_HD AdamFamily(const double* given, const bool* flags, const double* scalars)
      : decay(given, decoupled), moments(given), root_scale(1 / sqrt(1 - pow(given[3], scalars[0]))), eps(given[4]),
        negative_step(-given[0] / (1 - pow(given[2], scalars[0]))), amsgrad(flags[1]) {}

  static FL_HD bool has_state(int k, const double*, const bool* flags) { return k < 2 || flags[1]; }

  template <class T> FL_HD void update(T& p, T g, T* state) const {
    decay.apply(p, g);
    moments.update(g, state);
    T largest = state[1];
    if (amsgrad) largest = state[2] = select(state[2] >= state[1], state[2], state[1]);  // in this order a NaN is kept
    const T denominator = multiply_add(square_root(largest), T(root_scale), T(eps));
    p = multiply_add(T(negative_step), state[0] / denominator, p);
  }
};
template <class Scalar> using Adam = AdamFamily<Scalar, false>;
template <class Scalar> using AdamW = AdamFamily<Scalar, true>;

// m, v: AdamMoments;  mu(t) = beta1 (1 - 0.96^(t momentum_decay) / 2), M = mu(1) ... mu(t);
// p -= lr ((1 - mu(t)) / (1 - M) g + mu(t+1) / (1 - M mu(t+1)) m) / (sqrt(v / (1 - beta2^t)) + eps)
template <class Scalar> struct NAdam : RuleDefaults {
  static constexpr int state_count = 2, hyperparameter_count = 4, flag_count = 1, scalar_count = 2;
  WeightDecay<Scalar> decay;
  AdamMoments<Scalar> moments;
  Scalar root_scale, eps, gradient_weight, moment_weight, negative_lr;

  static FL_HD double momentum(const double* given, double t) { return given[2] * (1 - 0.5 * pow(0.96, t * given[5])); }

  static FL_HD void advance(const double* given, float* scalars) {
    scalars[0] += 1;
    scalars[1] *= static_cast<float>(momentum(given, scalars[0]));  // M is float32 in torch, too
  }

  FL_HD NAdam(const double* given, const bool* flags, const double* scalars)
      : decay(given, flags[1]), moments(given), root_scale(1 / sqrt(1 - pow(given[3], scalars[0]))), eps(given[4]),
        gradient_weight((1 - momentum(given, scalars[0])) / (1 - scalars[1])),
        moment_weight(momentum(given, scalars[0] + 1) / (1 - scalars[1] * momentum(given, scalars[0] + 1))),
        negative_lr(-given[0]) {}

  template <class T> FL_HD void update(T& p, T g, T* state) const {
    decay.apply(p, g);
    moments.update(g, state);
    const T ahead = multiply_add(T(gradient_weight), g, T(moment_weight) * state[0]);
    p = multiply_add(T(negative_lr), ahead / multiply_add(square_root(state[1]), T(root_scale), T(eps)), p);
  }
};

// m, v: AdamMoments;  R = 2 / (1 - beta2) - 1, r = R - 2 t beta2^t / (1 - beta2^t);  p -= lr / (1 - beta1^t) m u, where
// u = sqrt((r - 4) (r - 2) R / ((R - 4) (R - 2) r)) sqrt(1 - beta2^t) / (sqrt(v) + eps) if r > 5, else 1
template <class Scalar> struct RAdam : RuleDefaults {
  static constexpr int state_count = 2, hyperparameter_count = 3, flag_count = 1;
  WeightDecay<Scalar> decay;
  AdamMoments<Scalar> moments;
  Scalar eps, negative_step;
  bool adaptive;

  FL_HD RAdam(const double* given, const bool* flags, const double* scalars)
      : decay(given, flags[1]), moments(given), eps(given[4]) {
    const double t = scalars[0], power = pow(given[3], t);
    const double longest = 2 / (1 - given[3]) - 1, length = longest - 2 * t * power / (1 - power);
    adaptive = length > 5;
    const double rectification = (length - 4) * (length - 2) * longest / ((longest - 4) * (longest - 2) * length);
    negative_step = -given[0] / (1 - pow(given[2], t)) * (adaptive ? sqrt(rectification * (1 - power)) : 1.0);
  }

  template <class T> FL_HD void update(T& p, T g, T* state) const {
    decay.apply(p, g);
    moments.update(g, state);
    p = multiply_add(T(negative_step), adaptive ? state[0] / (square_root(state[1]) + T(eps)) : state[0], p);
  }
};

// g += weight_decay p;  m += (1 - beta1) (g - m);  u = max(beta2 u, |g| + eps);  p -= lr / (1 - beta1^t) m / u
template <class Scalar> struct Adamax : RuleDefaults {
  static constexpr int state_count = 2, hyperparameter_count = 3;
  Scalar weight_decay, first_weight, beta2, eps, negative_step;

  FL_HD Adamax(const double* given, const bool*, const double* scalars)
      : weight_decay(given[1]), first_weight(1 - given[2]), beta2(given[3]), eps(given[4]),
        negative_step(-given[0] / (1 - pow(given[2], scalars[0]))) {}

  template <class T> FL_HD void update(T& p, T g, T* state) const {
    g = penalised(p, g, weight_decay);
    move_towards(state[0], g, first_weight);
    const T faded = T(beta2) * state[1], current = absolute(g) + T(eps);
    const T largest = select(faded >= current, faded, current);
    state[1] = select(faded == faded, largest, faded);  // a NaN in either is kept
    p = multiply_add(T(negative_step), state[0] / state[1], p);
  }
};

// p *= 1 - lr weight_decay;  p -= lr sign(m + (1 - beta1) (g - m));  m += (1 - beta2) (g - m)
template <class Scalar> struct Lion : RuleDefaults {
  static constexpr int state_count = 1, hyperparameter_count = 2, scalar_count = 0;
  WeightDecay<Scalar> decay;
  Scalar direction_weight, weight, negative_lr;

  FL_HD Lion(const double* given, const bool*, const double*)
      : decay(given, true), direction_weight(1 - given[2]), weight(1 - given[3]), negative_lr(-given[0]) {}

  template <class T> FL_HD void update(T& p, T g, T* state) const {
    decay.apply(p, g);
    T direction = state[0];
    move_towards(direction, g, direction_weight);
    direction = select(direction > T(0), T(1), select(direction < T(0), T(-1), direction));  // a NaN stays one
    move_towards(state[0], g, weight);
    p = multiply_add(T(negative_lr), direction, p);
  }
};

// (the row's name, its functor): all that dispatch needs to know.
#define FL_UPDATE_RULES(RULE) \
  RULE(sgd, Sgd)              \
  RULE(adagrad, Adagrad)      \
  RULE(rmsprop, RmsProp)      \
  RULE(adam, Adam)            \
  RULE(adamw, AdamW)          \
  RULE(nadam, NAdam)          \
  RULE(radam, RAdam)          \
  RULE(adamax, Adamax)        \
  RULE(lion, Lion)

}  // namespace fastlayers::FL_NAMESPACE
