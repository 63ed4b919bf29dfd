// Lanes<Scalar, count>: numbers that one thread computes side by side, with the operators of one number. What is the same for all of them,
// a branch above all, is thus decided once.
#pragma once

#include "../common/scalar.h"

namespace fastlayers::cuda {

#define FL_EACH(Result, expression)                        \
  Result result;                                           \
  _Pragma("unroll") for (int i = 0; i < count; ++i) result.lanes[i] = (expression); \
  return result

template <int count> struct LaneMask {
  bool lanes[count];

  friend __device__ __forceinline__ LaneMask operator&(const LaneMask& a, const LaneMask& b) { FL_EACH(LaneMask, a.lanes[i] & b.lanes[i]); }
  friend __device__ __forceinline__ LaneMask operator|(const LaneMask& a, const LaneMask& b) { FL_EACH(LaneMask, a.lanes[i] | b.lanes[i]); }
  friend __device__ __forceinline__ LaneMask operator!(const LaneMask& mask) { FL_EACH(LaneMask, !mask.lanes[i]); }
};

template <class ScalarType, int count> struct Lanes {
  using Scalar = ScalarType;
  using Mask = LaneMask<count>;
  static constexpr int size = count;
  Scalar lanes[count];

  Lanes() = default;
  __device__ __forceinline__ Lanes(Scalar value) {
#pragma unroll
    for (int i = 0; i < count; ++i) lanes[i] = value;
  }
  __device__ __forceinline__ Scalar operator[](int i) const { return lanes[i]; }
  __device__ __forceinline__ void set(int i, Scalar value) { lanes[i] = value; }
  __device__ __forceinline__ Lanes& operator+=(const Lanes& other) { return *this = *this + other; }

#define FL_BINARY(Result, name, expression) \
  friend __device__ __forceinline__ Result name(const Lanes& a, const Lanes& b) { FL_EACH(Result, expression); }
#define FL_OPERATOR(Result, symbol) FL_BINARY(Result, operator symbol, a.lanes[i] symbol b.lanes[i])
  FL_OPERATOR(Lanes, +)
  FL_OPERATOR(Lanes, -)
  FL_OPERATOR(Lanes, *)
  FL_OPERATOR(Lanes, /)
  FL_OPERATOR(Lanes, &)
  FL_OPERATOR(Mask, <)
  FL_OPERATOR(Mask, >)
  FL_OPERATOR(Mask, >=)
  FL_OPERATOR(Mask, ==)
  FL_OPERATOR(Mask, !=)
  FL_BINARY(Lanes, maximum, cuda::maximum(a.lanes[i], b.lanes[i]))
  FL_BINARY(Lanes, minimum, cuda::minimum(a.lanes[i], b.lanes[i]))
#undef FL_OPERATOR
#undef FL_BINARY
  friend __device__ __forceinline__ Lanes operator-(const Lanes& x) { FL_EACH(Lanes, -x.lanes[i]); }
  friend __device__ __forceinline__ Lanes operator>>(const Lanes& x, int bits) { FL_EACH(Lanes, x.lanes[i] >> bits); }

  friend __device__ __forceinline__ Lanes select(const Mask& mask, const Lanes& a, const Lanes& b) {
    FL_EACH(Lanes, mask.lanes[i] ? a.lanes[i] : b.lanes[i]);
  }
  friend __device__ __forceinline__ Lanes multiply_add(const Lanes& a, const Lanes& b, const Lanes& c) {
    FL_EACH(Lanes, cuda::multiply_add(a.lanes[i], b.lanes[i], c.lanes[i]));
  }
  friend __device__ __forceinline__ Lanes multiply_subtract_once(const Lanes& a, const Lanes& b, const Lanes& c) {
    FL_EACH(Lanes, cuda::multiply_subtract_once(a.lanes[i], b.lanes[i], c.lanes[i]));
  }
  friend __device__ __forceinline__ Lanes square_root(const Lanes& x) { FL_EACH(Lanes, cuda::square_root(x.lanes[i])); }
  friend __device__ __forceinline__ Lanes absolute(const Lanes& x) { FL_EACH(Lanes, cuda::absolute(x.lanes[i])); }

  // function(x) of each.
  template <class Function> __device__ __forceinline__ Lanes each(Function function) const { FL_EACH(Lanes, function(lanes[i])); }
};

template <int count> __device__ __forceinline__ Lanes<int32_t, count> float_as_int(const Lanes<float, count>& x) {
  using Bits = Lanes<int32_t, count>;
  FL_EACH(Bits, float_as_int(x.lanes[i]));
}
template <int count> __device__ __forceinline__ Lanes<float, count> int_as_float(const Lanes<int32_t, count>& x) {
  using Floats = Lanes<float, count>;
  FL_EACH(Floats, int_as_float(x.lanes[i]));
}
template <int count>
__device__ __forceinline__ Lanes<float, count> negated_if_odd(const Lanes<float, count>& x, const Lanes<int32_t, count>& numbers) {
  using Floats = Lanes<float, count>;
  FL_EACH(Floats, negated_if_odd(x.lanes[i], numbers.lanes[i]));
}
#undef FL_EACH

template <class Scalar, int count> constexpr bool one_by_one<Lanes<Scalar, count>> = true;

// Number i of those side by side, or the one there is; and a function of i for each.
template <class T> __device__ __forceinline__ T lane_of(const T& x, int) { return x; }
template <class T, int count> __device__ __forceinline__ T lane_of(const Lanes<T, count>& x, int i) { return x.lanes[i]; }
template <class T, class Function> __device__ __forceinline__ void set_lanes(T& x, Function function) { x = function(0); }
template <class T, int count, class Function> __device__ __forceinline__ void set_lanes(Lanes<T, count>& x, Function function) {
#pragma unroll
  for (int i = 0; i < count; ++i) x.lanes[i] = function(i);
}

template <int count> __device__ __forceinline__ bool any(const LaneMask<count>& mask) {
  bool found = false;
#pragma unroll
  for (int i = 0; i < count; ++i) found |= mask.lanes[i];
  return found;
}
template <int count> __device__ __forceinline__ bool any_above(const Lanes<float, count>& x, float bound) {
  float largest = x.lanes[0];
#pragma unroll
  for (int i = 1; i < count; ++i) largest = ::fmaxf(largest, x.lanes[i]);
  return largest > bound;
}
template <int count> __device__ __forceinline__ bool any_below(const Lanes<float, count>& x, float bound) {
  float smallest = x.lanes[0];
#pragma unroll
  for (int i = 1; i < count; ++i) smallest = ::fminf(smallest, x.lanes[i]);
  return smallest < bound;
}
// The sum of squares is one instruction a lane.
template <int count> __device__ __forceinline__ bool any_beyond(const Lanes<float, count>& x, float bound) {
  float squares = x.lanes[0] * x.lanes[0];
#pragma unroll
  for (int i = 1; i < count; ++i) squares = multiply_add(x.lanes[i], x.lanes[i], squares);
  return !(squares <= bound * bound);
}

}  // namespace fastlayers::cuda
