// The device that the cuda backend runs on: its streams, and host memory brought to it.
#pragma once

#include <c10/core/DeviceGuard.h>

#include <vector>

#include "cuda/runtime.h"
#include "device.h"

namespace fastlayers {

// Makes a device the current one while this lives; kernels go to its current stream. check() throws where one could not be launched.
class Launching {
 public:
  explicit Launching(at::Device device);

  void check(const char* operation) const;

  const at::Device device;
  const cuda::Stream stream;

 private:
  c10::DeviceGuard guard_;
};

// New memory on the device.
at::Tensor new_memory(const Launching& launching, int64_t count, at::ScalarType type);

// A copy on the device of host memory, for kernels on this stream. It is kept for later calls with the same bytes, of which kernels
// therefore leave what they find; a CUDA graph under capture gets one of its own, which it copies anew at each replay.
at::Tensor copy_to_device(const Launching& launching, const std::vector<int64_t>& host);

}  // namespace fastlayers
