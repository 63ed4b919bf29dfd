// parallel_for: PyTorch's thread pool behind a plain function pointer, so that kernel files need no torch headers.
#pragma once

#include <cstdint>

#include "common/platform.h"

namespace fastlayers {

using RangeFunction = void (*)(void* context, int64_t begin, int64_t end);

// Calls function on disjoint ranges that cover [0, count), on as many threads as torch.get_num_threads() allows and with at least
// `grain` items in each; on the calling thread alone when count <= grain.
void run_ranges(int64_t count, int64_t grain, RangeFunction function, void* context);

// torch.get_num_threads().
int thread_count();

namespace FL_NAMESPACE {

constexpr int64_t elements_per_task = 1 << 15;  // below this, another thread costs more than it brings

// body(begin, end) for disjoint ranges covering [0, count).
template <class Body> inline __attribute__((always_inline)) void parallel_for(int64_t count, int64_t grain, Body body) {
  if (count <= 0) return;
  if (count <= grain) return body(static_cast<int64_t>(0), count);
  run_ranges(count, grain, [](void* context, int64_t begin, int64_t end) { (*static_cast<Body*>(context))(begin, end); }, &body);
}

}  // namespace FL_NAMESPACE
}  // namespace fastlayers
