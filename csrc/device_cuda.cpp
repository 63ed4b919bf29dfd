#include "device_cuda.h"

#include <c10/core/impl/VirtualGuardImpl.h>

#include <algorithm>
#include <cstring>
#include <list>

namespace fastlayers {
namespace {

cuda::Stream current_stream([[maybe_unused]] at::Device device) {
#if defined(FL_EMULATED)
  return nullptr;
#else
  return static_cast<cuda::Stream>(c10::impl::VirtualGuardImpl(device.type()).getStream(device).native_handle());
#endif
}

#if !defined(FL_EMULATED)

struct Copied {
  at::Device device;
  cuda::Stream stream;
  std::vector<int64_t> host;
  at::Tensor copy;
};

constexpr size_t most_copies = 64;

at::Tensor pinned_copy(const std::vector<int64_t>& host) {
  at::Tensor pinned = at::empty({static_cast<int64_t>(host.size())}, at::TensorOptions(at::kLong).pinned_memory(true));
  std::memcpy(pinned.mutable_data_ptr(), host.data(), host.size() * sizeof(int64_t));
  return pinned;
}

#endif

}  // namespace

Launching::Launching(at::Device on) : device(on), stream(current_stream(on)), guard_(on) {}

void Launching::check(const char* operation) const {
  if (const char* error = cuda::launch_error()) TORCH_CHECK(false, operation, ": CUDA must be able to launch the kernel, got: ", error);
}

at::Tensor new_memory(const Launching& launching, int64_t count, at::ScalarType type) {
  const at::Tensor memory = at::empty({count}, at::TensorOptions(launching.device).dtype(type));
  note_new_memory(memory);
  return memory;
}

#if defined(FL_EMULATED)

at::Tensor copy_to_device(const Launching& launching, const std::vector<int64_t>& host) {
  const at::Tensor copy = at::empty({static_cast<int64_t>(host.size())}, at::kLong);
  std::memcpy(copy.mutable_data_ptr(), host.data(), copy.nbytes());
  note_written_memory(copy);
  return copy;
}

#else

at::Tensor copy_to_device(const Launching& launching, const std::vector<int64_t>& host) {
  static auto* const captured = new std::vector<at::Tensor>;  // graphs may be replayed until the end
  static auto* const copies = new std::list<Copied>;          // the one used last comes first
  if (cuda::is_capturing(launching.stream)) {
    captured->push_back(pinned_copy(host));
    return captured->back().to(launching.device, /*non_blocking=*/true);
  }
  const auto found = std::find_if(copies->begin(), copies->end(), [&](const Copied& kept) {
    return kept.stream == launching.stream && kept.device == launching.device && kept.host == host;
  });
  if (found != copies->end()) {
    copies->splice(copies->begin(), *copies, found);
  } else {
    copies->push_front({launching.device, launching.stream, host, pinned_copy(host).to(launching.device, /*non_blocking=*/true)});
    if (copies->size() > most_copies) copies->pop_back();
  }
  return copies->front().copy;
}

#endif

}  // namespace fastlayers
