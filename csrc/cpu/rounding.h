// Stochastic rounding to bfloat16: up with the probability of the part that is lost, so that the mean is exact.
//
// To the bits of the float a number from 0 to 65535 is added, and the lower 16 are cut off. The numbers are dropout's (dropout.h), of
// another stream of the seed. fastlayers/reference/optimizers.py says the same in PyTorch; results are equal bit for bit.
#pragma once

#include "dropout.h"
#include "memory.h"

namespace fastlayers::FL_CPU_CAPABILITY {


namespace {

FL_HD HalfWords stochastically_rounded(Vector<float> value, const uint16_t* numbers) {
  const Words bits = reinterpret_cast<Words>(value.lanes) + widen(copy_in<HalfWords>(numbers));
  const Words not_a_number = reinterpret_cast<Words>(value.lanes != value.lanes);  // all ones: a NaN when cut to 16 bits
  return narrow((bits | not_a_number) >> 16);
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
