// The activations: one functor each, under the name of its row in fastlayers/specs.py, for any number type T of elementary.h.
//
// forward(x, p) is f(x). derivative(x, p, dp) returns df/dx and writes df/d(parameter k) to dp[k]. Functors that derive
// FromOutput also have derivative_from_output(y, p), df/dx from y = f(x), and those that are Invertible inverse(y, p), an x with
// f(x) = y, finite where y is. p holds the learnable parameters, then the constants, then the uniform number of a random activation.
// At +-inf all are their limit, where there is one. Functors with most_repeats > 1 take the number of repeats as their last argument.
// A new activation is one functor and one word in FL_ACTIVATIONS; every loop, on CPU and GPU, picks it up from there.
#pragma once

#include "activations_gates.h"
#include "activations_half.h"
#include "activations_periodic.h"
#include "activations_piecewise.h"
#include "activations_smooth.h"
#include "activations_soft_exponential.h"

#define FL_ACTIVATIONS(X)                                                                                                               \
  X(identity) X(binary_step) X(sigmoid) X(tanh) X(arctan) X(softsign) X(isru) X(relu) X(leaky_relu) X(prelu) X(rrelu) X(elu) X(selu)  \
  X(srelu) X(isrlu) X(apl) X(softplus) X(bent_identity) X(silu) X(soft_exponential) X(sinusoid) X(sinc) X(gelu) X(gelu_tanh) X(mish)  \
  X(swish) X(hardswish) X(hardsigmoid) X(hardtanh) X(relu6) X(celu) X(log_sigmoid) X(tanhshrink) X(softshrink) X(hardshrink)          \
  X(threshold) X(squared_relu) X(quick_gelu) X(snake)

namespace fastlayers::FL_NAMESPACE {

// The position of each name in FL_ACTIVATIONS: activation_identity, activation_relu, ...
enum ActivationPosition {
#define FL_POSITION(name) activation_##name,
  FL_ACTIVATIONS(FL_POSITION)
#undef FL_POSITION
};

// What the loops need room for: apl has 8 of each of its 2 parameters.
constexpr int max_learnables = 16;
constexpr int max_arguments = 16;

#define FL_FITS(name)                                                                                                                   \
  static_assert(activations::name::learnables * activations::name::most_repeats <= max_learnables &&                                   \
                activations::name::learnables * activations::name::most_repeats + activations::name::constants +                       \
                        activations::name::random <= max_arguments, #name);
FL_ACTIVATIONS(FL_FITS)
#undef FL_FITS

}  // namespace fastlayers::FL_NAMESPACE
