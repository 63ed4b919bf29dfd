// The dropout mask by itself, for tests and for users who want to see it.
#include "dropout.h"

#include "../parallel.h"
#include "dropout_kernels.h"

namespace fastlayers::FL_CPU_CAPABILITY {
namespace {

void mask(bool* kept, int64_t first, int64_t count, uint64_t seed, int32_t threshold) {
  constexpr int64_t grain = 1 << 16;  // of one byte each
  parallel_for(count, grain, [=](int64_t begin, int64_t end) {
    RandomNumbers numbers(seed, dropout_stream);
    for (int64_t i = begin; i < end; i += RandomNumbers::longest) {
      const int64_t length = smaller(end - i, RandomNumbers::longest);
      const uint16_t* number = numbers.at(first + i, length, first + i + length);
      for (int64_t j = 0; j < length; ++j) kept[i + j] = number[j] >= threshold;
    }
  });
}

}  // namespace

extern const DropoutKernels dropout_kernels;
const DropoutKernels dropout_kernels = {mask};

}  // namespace fastlayers::FL_CPU_CAPABILITY
