// Which of the compiled copies of the CPU kernels this process uses.
//
// A kernel file ends in a table of function pointers, `const SomeKernels some_kernels` in namespace fastlayers::FL_CPU_CAPABILITY,
// declared by FL_DECLARE_KERNELS(SomeKernels, some_kernels). FL_KERNELS(some_kernels) is the chosen copy.
#pragma once

namespace fastlayers {

enum class Capability { baseline, avx2, avx512 };

// The best that the processor has, or what the environment variable FASTLAYERS_CPU_CAPABILITY names. Throws std::runtime_error
// when that is unknown or the processor lacks it. Decided at the first call.
Capability cpu_capability();
const char* cpu_capability_name();

}  // namespace fastlayers

#if defined(__x86_64__)
#define FL_DECLARE_KERNELS(Table, table)                   \
  namespace fastlayers::baseline { extern const Table table; } \
  namespace fastlayers::avx2 { extern const Table table; }     \
  namespace fastlayers::avx512 { extern const Table table; }
#define FL_KERNELS(table)                                                                                  \
  (::fastlayers::cpu_capability() == ::fastlayers::Capability::avx512 ? ::fastlayers::avx512::table        \
   : ::fastlayers::cpu_capability() == ::fastlayers::Capability::avx2 ? ::fastlayers::avx2::table          \
                                                                      : ::fastlayers::baseline::table)
#else
#define FL_DECLARE_KERNELS(Table, table) \
  namespace fastlayers::baseline { extern const Table table; }
#define FL_KERNELS(table) ::fastlayers::baseline::table
#endif
