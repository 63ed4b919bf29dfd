// The gated kernels' table: y = dropout(a * activation(b)), a and b the halves of x along a dimension.
//
// Of the epilogue's arguments they take x as (n, c, s), c the dimension that is cut: in memory [n, 2, c / 2 * s], y [n, c / 2 * s];
// the activation with its arguments, one value each, and dropout. dtype is that of x, y, dy and dx.
#pragma once

#include "epilogue.h"

namespace fastlayers {

struct GatedGradients {
  const void* dy;
  void* dx;           // null where nobody asks
  void* dparameters;  // [K], or null
};

// One function per DataType. gate_first: b is the first half.
struct GatedKernels {
  void (*forward[data_type_count])(const Epilogue&, bool gate_first, void* y);
  void (*backward[data_type_count])(const Epilogue&, bool gate_first, const GatedGradients&);
};

}  // namespace fastlayers
