// The operations that elementary.h needs, for plain float and double: what one GPU thread computes with. cpu/vector.h has them for vectors.
#pragma once

#include <cmath>
#include <cstring>

#include "platform.h"

namespace fastlayers::FL_NAMESPACE {

// What a storage type is computed in.
template <class Storage> struct Compute {
  using type = float;
};
template <> struct Compute<double> {
  using type = double;
};

FL_HD float select(bool mask, float a, float b) { return mask ? a : b; }
FL_HD double select(bool mask, double a, double b) { return mask ? a : b; }
FL_HD int32_t select(bool mask, int32_t a, int32_t b) { return mask ? a : b; }

FL_HD bool any(bool mask) { return mask; }

// Whether a branch that is rarely taken takes the numbers of T one by one, lest all of them at once fill a GPU thread's registers.
template <class T> constexpr bool one_by_one = false;

// Whether any number is above or below a bound; and whether any is farther than that from 0, or may be, as where several are nearly so far.
FL_HD bool any_above(float x, float bound) { return x > bound; }
FL_HD bool any_below(float x, float bound) { return x < bound; }
FL_HD bool any_beyond(float x, float bound) { return ::fabsf(x) > bound; }

FL_HD float absolute(float x) { return ::fabsf(x); }
FL_HD double absolute(double x) { return ::fabs(x); }

// The larger and the smaller; b where either is NaN.
FL_HD float maximum(float a, float b) { return a > b ? a : b; }
FL_HD double maximum(double a, double b) { return a > b ? a : b; }
FL_HD float minimum(float a, float b) { return a < b ? a : b; }
FL_HD double minimum(double a, double b) { return a < b ? a : b; }

FL_HD float square_root(float x) { return ::sqrtf(x); }
FL_HD double square_root(double x) { return ::sqrt(x); }

// a * b + c, rounded once.
FL_HD float multiply_add(float a, float b, float c) { return ::fmaf(a, b, c); }
FL_HD double multiply_add(double a, double b, double c) { return ::fma(a, b, c); }

// a * b - c, rounded once: exact where c is a * b rounded.
FL_HD float multiply_subtract_once(float a, float b, float c) { return ::fmaf(a, b, -c); }
FL_HD double multiply_subtract_once(double a, double b, double c) { return ::fma(a, b, -c); }

FL_HD int32_t float_as_int(float x) {
  int32_t bits;
  memcpy(&bits, &x, sizeof bits);
  return bits;
}
FL_HD float int_as_float(int32_t bits) {
  float x;
  memcpy(&x, &bits, sizeof x);
  return x;
}

// |magnitude| with the sign of `sign`.
FL_HD float with_sign_of(float magnitude, float sign) { return ::copysignf(magnitude, sign); }
FL_HD double with_sign_of(double magnitude, double sign) { return ::copysign(magnitude, sign); }

// x, or -x where the number is odd.
FL_HD float negated_if_odd(float x, int32_t number) {
#if defined(__CUDA_ARCH__)
  float result;
  asm("{.reg .b32 sign; shl.b32 sign, %2, 31; xor.b32 %0, %1, sign;}" : "=f"(result) : "f"(x), "r"(number));
  return result;
#else
  return int_as_float(float_as_int(x) ^ static_cast<int32_t>(static_cast<uint32_t>(number) << 31));
#endif
}

// 2^k from the float 1.5 * 2^23 + 127 + k, whose low bits are the exponent field of the result. -126 <= k <= 127.
FL_HD float power_from_shifted(float shifted) {
  return int_as_float(static_cast<int32_t>(static_cast<uint32_t>(float_as_int(shifted)) << 23));
}

}  // namespace fastlayers::FL_NAMESPACE
