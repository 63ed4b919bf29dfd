// A CUDA runtime for host code that nvcc compiled with -cudart none: what its launches call. Kernels run where Python says, see cuda.py.
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <map>
#include <vector>

namespace {

constexpr int success = 0, no_device = 100, launch_failure = 719;

struct Dim3 {
  unsigned x, y, z;
};

struct Configuration {
  Dim3 grid, block;
  size_t shared;
  void* stream;
};

using Launch = int (*)(const char* kernel, const unsigned* grid_and_block, size_t shared, void** arguments);
using Allocate = int (*)(uint64_t address, uint64_t bytes, int item, int written);

Launch launch = nullptr;
Allocate allocate = nullptr;
thread_local int last_error = success;
thread_local std::vector<Configuration> configurations;

// The device name of each kernel by its host function; filled before main.
std::map<const void*, const char*>& kernels() {
  static std::map<const void*, const char*> names;
  return names;
}

int fail(int error) { return last_error = error; }

int run(const char* kernel, Dim3 grid, Dim3 block, void** arguments, size_t shared) {
  if (!launch) return fail(no_device);
  const unsigned sizes[] = {grid.x, grid.y, grid.z, block.x, block.y, block.z};
  return launch(kernel, sizes, shared, arguments) ? fail(launch_failure) : success;
}

}  // namespace

extern "C" {

// For Python.
__attribute__((visibility("default"))) void ptxsim_connect(Launch on_launch, Allocate on_allocate) {
  launch = on_launch;
  allocate = on_allocate;
}

// For host code: new device memory, of numbers of so many bytes, which nobody has written yet.
void ptxsim_allocated(const void* address, size_t bytes, int item) {
  if (allocate && bytes) allocate(reinterpret_cast<uint64_t>(address), bytes, item, 0);
}

// For host code: device memory that the host has filled in.
void ptxsim_copied(const void* address, size_t bytes) {
  if (allocate && bytes) allocate(reinterpret_cast<uint64_t>(address), bytes, 1, 1);
}

void** __cudaRegisterFatBinary(void*) {
  static void* handle = nullptr;
  return &handle;
}
void __cudaRegisterFatBinaryEnd(void**) {}
void __cudaUnregisterFatBinary(void**) {}
char __cudaInitModule(void**) { return 1; }

void __cudaRegisterFunction(void**, const char* host, char*, const char* name, int, void*, void*, void*, void*, int*) {
  kernels()[host] = name;
}
void __cudaRegisterVar(void**, char*, char*, const char*, int, size_t, int, int) {}

unsigned __cudaPushCallConfiguration(Dim3 grid, Dim3 block, size_t shared, void* stream) {
  configurations.push_back({grid, block, shared, stream});
  return 0;
}
int __cudaPopCallConfiguration(Dim3* grid, Dim3* block, size_t* shared, void* stream) {
  if (configurations.empty()) return fail(launch_failure);
  const Configuration top = configurations.back();
  configurations.pop_back();
  *grid = top.grid;
  *block = top.block;
  *shared = top.shared;
  memcpy(stream, &top.stream, sizeof top.stream);
  return success;
}

int __cudaGetKernel(const void** kernel, const void* host) {
  *kernel = kernels().count(host) ? kernels()[host] : nullptr;
  return *kernel ? success : fail(no_device);
}
int __cudaLaunchKernel(const void* kernel, Dim3 grid, Dim3 block, void** arguments, size_t shared, void*) {
  return run(static_cast<const char*>(kernel), grid, block, arguments, shared);
}
int cudaLaunchKernel(const void* host, Dim3 grid, Dim3 block, void** arguments, size_t shared, void*) {  // before CUDA 13
  return run(kernels()[host], grid, block, arguments, shared);
}

int cudaStreamIsCapturing(void*, int* status) {
  *status = 0;
  return success;
}

int cudaGetLastError() {
  const int error = last_error;
  last_error = success;
  return error;
}
int cudaPeekAtLastError() { return last_error; }
const char* cudaGetErrorString(int error) {
  return error == success ? "no error" : error == no_device ? "no emulator is connected" : "a kernel failed in the emulator";
}

}  // extern "C"
