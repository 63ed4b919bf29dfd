// Stores of vectors that round stochastically where there are numbers for it, and to nearest where there are none.
#pragma once

#include "../common/rounding.h"
#include "dropout.h"
#include "memory.h"

namespace fastlayers::FL_CPU_CAPABILITY {
namespace {

FL_HD HalfWords stochastically_rounded(Vector<float> value, const uint16_t* numbers) {
  return narrow(rounded_by(
      reinterpret_cast<Words>(value.lanes), widen(copy_in<HalfWords>(numbers)), reinterpret_cast<Words>(value.lanes != value.lanes)));
}

// store, to bfloat16 by the lanes' numbers where there are any; 16 numbers can be read.
template <class Scalar, class Storage, class... Count>
FL_HD void store_rounded(Storage* address, Vector<Scalar> value, const uint16_t*, Count... count) {
  store(address, value, count...);
}
FL_HD void store_rounded(BFloat16* address, Vector<float> value, const uint16_t* numbers) {
  if (!numbers) return store(address, value);
  copy_out(address, stochastically_rounded(value, numbers));
}
FL_HD void store_rounded(BFloat16* address, Vector<float> value, const uint16_t* numbers, int count) {
  if (!numbers) return store(address, value, count);
  copy_out_partial(address, stochastically_rounded(value, numbers), count);
}

// The value that storage keeps of a number that is rounded to nearest.
template <class Storage, class Scalar> FL_HD Vector<Scalar> kept_by(Vector<Scalar> value) {
  if constexpr (sizeof(Storage) == sizeof(Scalar)) {
    return value;
  } else {
    return to_float(from_float(value, Storage{}), Storage{});
  }
}

}  // namespace
}  // namespace fastlayers::FL_CPU_CAPABILITY
