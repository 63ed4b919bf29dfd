// The table of the epilogue kernels.
#pragma once

#include "../common/epilogue.h"

namespace fastlayers {

// One function per DataType.
struct EpilogueKernels {
  void (*forward[data_type_count])(const Epilogue&, void* y);
  void (*backward[data_type_count])(const Epilogue&, const EpilogueGradients&);
  // x from y, which stands in x's place. Without dropout and weight.
  void (*inverse[data_type_count])(const Epilogue&, void* x);
};

}  // namespace fastlayers
