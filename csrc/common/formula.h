// The epilogue around the activation, y = dropout(activation((x - mean) * scale + shift + residual)), and its gradients, for any number type
// of elementary.h; and what an activation's functor is for the kernels.
#pragma once

#include "activations.h"

namespace fastlayers::FL_NAMESPACE {

// z without the residual; centred is x - mean.
template <class T> FL_HD T affine_of(T centred, T scale, T shift) { return multiply_add(centred, scale, shift); }

// From z without the residual back to x; inverse_scale is 1 / scale.
template <class T> FL_HD T inverse_affine_of(T z, T inverse_scale, T mean, T shift) { return multiply_add(z - shift, inverse_scale, mean); }

// The gradient of scale * x, over scale, where the mean and the scale are those of the batch: what dz does to them is taken off.
template <class T> FL_HD T through_statistics(T dz, T centred, T mean_dz, T slope) {
  return multiply_add(centred, -slope, dz - mean_dz);
}
// The same with dz = gradient * derivative, which is not rounded.
template <class T> FL_HD T through_statistics(T gradient, T derivative, T centred, T mean_dz, T slope) {
  return multiply_add(gradient, derivative, multiply_add(centred, -slope, -mean_dz));
}

// The gradient of an activation's output as it is multiplied by the slope.
template <class Activation, class T> FL_HD T reaching(T gradient, T slope) {
  if constexpr (Activation::masks) return select(slope == T(0), T(0), gradient);
  else return gradient;
}

// An activation whose derivative is taken from y, which stands in x's place.
template <class Activation> struct FromOutputOf : Activation {
  static constexpr bool reads_output = true;
  template <class T> FL_HD static T derivative(T y, const T* p, T*) { return Activation::derivative_from_output(y, p); }
};

// The functor of a row for results of full or of half width.
template <class Row, bool half> struct Chosen {
  using type = Row;
};
template <class Row> struct Chosen<Row, true> {
  using type = typename activations::ForHalfTypes<Row>::type;
};

}  // namespace fastlayers::FL_NAMESPACE
