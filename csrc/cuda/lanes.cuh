// Lanes<Scalar, count>: numbers that one thread computes side by side, with the operators of one number. What is the same for all of them,
// a branch above all, is thus decided once.
#pragma once

#include "../common/scalar.h"

namespace fastlayers::cuda {

template <int count> struct LaneMask {
  bool lane[count];
};

template <class ScalarType, int count> struct Lanes {
  using Scalar = ScalarType;
  Scalar lane[count];

  Lanes() = default;
  __device__ __forceinline__ Lanes(Scalar value) {
#pragma unroll
    for (int i = 0; i < count; ++i) lane[i] = value;
  }

#define FL_EACH(Result, expression)                        \
  Result result;                                           \
  _Pragma("unroll") for (int i = 0; i < count; ++i) result.lane[i] = (expression); \
  return result
#define FL_OPERATOR(Result, symbol) \
  friend __device__ __forceinline__ Result operator symbol(const Lanes& a, const Lanes& b) { FL_EACH(Result, a.lane[i] symbol b.lane[i]); }
  FL_OPERATOR(Lanes, +)
  FL_OPERATOR(Lanes, -)
  FL_OPERATOR(Lanes, *)
  FL_OPERATOR(Lanes, /)
  FL_OPERATOR(LaneMask<count>, <)
  FL_OPERATOR(LaneMask<count>, >)
  FL_OPERATOR(LaneMask<count>, >=)
  FL_OPERATOR(LaneMask<count>, ==)
#undef FL_OPERATOR

  friend __device__ __forceinline__ Lanes select(const LaneMask<count>& mask, const Lanes& a, const Lanes& b) {
    FL_EACH(Lanes, mask.lane[i] ? a.lane[i] : b.lane[i]);
  }
  friend __device__ __forceinline__ Lanes multiply_add(const Lanes& a, const Lanes& b, const Lanes& c) {
    FL_EACH(Lanes, cuda::multiply_add(a.lane[i], b.lane[i], c.lane[i]));
  }
  friend __device__ __forceinline__ Lanes square_root(const Lanes& x) { FL_EACH(Lanes, cuda::square_root(x.lane[i])); }
  friend __device__ __forceinline__ Lanes absolute(const Lanes& x) { FL_EACH(Lanes, cuda::absolute(x.lane[i])); }
#undef FL_EACH
};

}  // namespace fastlayers::cuda
