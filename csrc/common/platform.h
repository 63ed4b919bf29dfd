// What differs between compilers: function qualifiers, the namespace, and the two 16-bit number types as plain bits.
//
// CPU kernel files are compiled once per instruction set with -DFL_CPU_CAPABILITY=baseline|avx2|avx512. All that they compile
// lives in namespace fastlayers::FL_CPU_CAPABILITY and is inline without exception, and they call no std:: template: a function
// shared between the three copies could be kept by the linker in its AVX-512 form and crash on an older processor.
#pragma once

#include <cstdint>

#if defined(__CUDACC__)
#define FL_HD __host__ __device__ __forceinline__
#define FL_APART __host__ __device__ __noinline__
#define FL_APART_FOR_VECTORS FL_HD  // whose lanes are registers
#define FL_NAMESPACE cuda
#else
#define FL_HD inline __attribute__((always_inline))
#define FL_APART __attribute__((noinline, cold))
#define FL_APART_FOR_VECTORS FL_APART
#ifndef FL_CPU_CAPABILITY
#define FL_CPU_CAPABILITY host
#endif
#define FL_NAMESPACE FL_CPU_CAPABILITY
#endif

namespace fastlayers {

// The types of tensors, in the order of every table that has an entry for each.
enum class DataType : int { float32, float64, float16, bfloat16 };
constexpr int data_type_count = 4;

struct Half {
  uint16_t bits;
};

struct BFloat16 {
  uint16_t bits;
};

FL_HD constexpr int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
FL_HD constexpr int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }
FL_HD constexpr int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

}  // namespace fastlayers
