#include "capability.h"

#include <cstdlib>
#include <stdexcept>
#include <string>

namespace fastlayers {
namespace {

constexpr const char* names[] = {"baseline", "avx2", "avx512"};

bool processor_has(Capability capability) {
#if defined(__x86_64__)
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");  // every processor with these has F16C
  if (capability == Capability::avx2) return avx2;
  if (capability == Capability::avx512) {
    return avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
           __builtin_cpu_supports("avx512dq");
  }
#endif
  return capability == Capability::baseline;
}

Capability choose() {
  if (const char* wanted = std::getenv("FASTLAYERS_CPU_CAPABILITY"); wanted && *wanted) {
    for (Capability capability : {Capability::baseline, Capability::avx2, Capability::avx512}) {
      if (names[static_cast<int>(capability)] != std::string(wanted)) continue;
      if (processor_has(capability)) return capability;
      throw std::runtime_error(std::string("FASTLAYERS_CPU_CAPABILITY must be one that this processor has, got ") + wanted);
    }
    throw std::runtime_error(std::string("FASTLAYERS_CPU_CAPABILITY must be baseline, avx2 or avx512, got ") + wanted);
  }
  for (Capability capability : {Capability::avx512, Capability::avx2}) {
    if (processor_has(capability)) return capability;
  }
  return Capability::baseline;
}

}  // namespace

Capability cpu_capability() {
  static const Capability chosen = choose();
  return chosen;
}

const char* cpu_capability_name() { return names[static_cast<int>(cpu_capability())]; }

}  // namespace fastlayers
