// Which backend the bindings are compiled for, and where its tensors are.
//
// fastlayers._C: the cpp backend, on CPUs. fastlayers._CUDA (-DFL_CUDA): the cuda backend, on NVIDIA GPUs. With -DFL_EMULATED as well
// the cuda backend is on CPU tensors, for tests in which an emulator takes the place of the CUDA runtime library.
#pragma once

#include <ATen/ATen.h>

namespace fastlayers {

#if defined(FL_CUDA)
constexpr const char* backend_name = "cuda";
#else
constexpr const char* backend_name = "cpp";
#endif

#if defined(FL_CUDA) && !defined(FL_EMULATED)
constexpr at::DeviceType device_type = at::kCUDA;
constexpr const char* device_name = "cuda";
#else
constexpr at::DeviceType device_type = at::kCPU;
constexpr const char* device_name = "cpu";
#endif

inline bool is_here(const at::Tensor& x) { return x.device().type() == device_type; }

}  // namespace fastlayers

#if defined(FL_EMULATED)
extern "C" void ptxsim_allocated(const void* address, size_t bytes, int item);
extern "C" void ptxsim_copied(const void* address, size_t bytes);
#endif

namespace fastlayers {

// Tells an emulator of memory that kernels may reach from now on and that nobody has written.
inline void note_new_memory([[maybe_unused]] const at::Tensor& x) {
#if defined(FL_EMULATED)
  ptxsim_allocated(x.const_data_ptr(), x.nbytes(), static_cast<int>(x.element_size()));
#endif
}

// The same of memory that the host has filled in.
inline void note_written_memory([[maybe_unused]] const at::Tensor& x) {
#if defined(FL_EMULATED)
  ptxsim_copied(x.const_data_ptr(), x.nbytes());
#endif
}

}  // namespace fastlayers
