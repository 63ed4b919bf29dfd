// parallel_for on at::parallel_for. Compiled with -fopenmp, which ATen/Parallel.h needs to use more than one thread.
#include "parallel.h"

#include <ATen/Parallel.h>

namespace fastlayers {

void run_ranges(int64_t count, int64_t grain, RangeFunction function, void* context) {
  at::parallel_for(0, count, grain, [&](int64_t begin, int64_t end) { function(context, begin, end); });
}

int thread_count() { return at::get_num_threads(); }

}  // namespace fastlayers
