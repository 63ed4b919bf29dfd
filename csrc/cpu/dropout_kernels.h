// The dropout mask kernel's table.
#pragma once

#include <cstdint>

namespace fastlayers {

struct DropoutKernels {
  // kept[i] = whether element first + i is kept, for 0 <= i < count.
  void (*mask)(bool* kept, int64_t first, int64_t count, uint64_t seed, int32_t threshold);
};

}  // namespace fastlayers
