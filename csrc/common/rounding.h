// Stochastic rounding to bfloat16: up with the probability of the part that is lost, so that the mean is exact.
//
// To the bits of the float a number from 0 to 65535 is added, and the lower 16 are cut off. The numbers are dropout's (dropout.h), of
// another stream of the seed. fastlayers/reference/optimizers.py says the same in PyTorch; results are equal bit for bit.
#pragma once

#include "platform.h"

namespace fastlayers::FL_NAMESPACE {

// The bits of the bfloat16, from those of the float. Words is uint32_t or a vector of them; not_a_number: all bits set where the float is
// a NaN, else none.
template <class Words> FL_HD Words rounded_by(Words bits, Words number, Words not_a_number) {
  return ((bits + number) | not_a_number) >> 16;
}

}  // namespace fastlayers::FL_NAMESPACE
