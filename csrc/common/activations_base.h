// What a functor of an activation says about itself.
#pragma once

#include "exponentials.h"
#include "trigonometry.h"

namespace fastlayers::FL_NAMESPACE {
namespace activations {

template <int learnable_count, int constant_count> struct FromInput {
  static constexpr int learnables = learnable_count;
  static constexpr int constants = constant_count;
  static constexpr int most_repeats = 1;     // more: it has 1 to so many of each learnable, all of the first, then all of the next
  static constexpr bool everywhere = true;   // whether there is a value for every x and every parameter
  static constexpr bool random = false;      // whether it takes, after the constants, a number that is uniform in (0, 1)
  static constexpr bool masks = false;       // whether nothing passes where the slope is 0: not an infinite gradient either
  static constexpr bool from_output = false;
  static constexpr bool invertible = false;
  static constexpr bool reads_output = false;
  static constexpr bool constant_derivative = false;  // the same for every x
  // Whether forward() and derivative() have branches that a GPU's thread better takes once for a vector.
  static constexpr bool side_by_side = false, derives_side_by_side = false;
  static constexpr bool quick = false;  // whether loops without branches are worth having, it being so few instructions

  // What stands in p for constant k of those given.
  static double constant(const double* given, int k) { return given[k]; }
};
template <int learnable_count, int constant_count> struct FromOutput : FromInput<learnable_count, constant_count> {
  static constexpr bool from_output = true;
};

template <class Base> struct Invertible : Base {
  static constexpr bool invertible = true;
};

// The functor whose result is rounded to 16 bits: one that is less exact and faster, where activations_half.h has one.
template <class Activation> struct ForHalfTypes {
  using type = Activation;
};

}  // namespace activations
}  // namespace fastlayers::FL_NAMESPACE
