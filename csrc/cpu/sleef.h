// The system's functions of doubles, a register at a time: those of Sleef, which PyTorch's library for CPUs has in it.
//
// 1 ULP of double. Where torch comes without them they are libm's, lane by lane, ten times slower.
#pragma once

#include "../common/elementary.h"
#include "vector.h"

#if defined(__linux__) && defined(FL_AVX512)
#define FL_SLEEF(name) Sleef_##name##d8_u10
#define FL_SLEEF_REGISTER __m512d
#elif defined(__linux__) && defined(FL_AVX2)
#define FL_SLEEF(name) Sleef_##name##d4_u10avx2
#define FL_SLEEF_REGISTER __m256d
#endif

#if defined(FL_SLEEF)
#define FL_REGISTER_FUNCTION(name)                                                                  \
  extern "C" __attribute__((weak)) FL_SLEEF_REGISTER FL_SLEEF(name)(FL_SLEEF_REGISTER);             \
  namespace fastlayers::FL_CPU_CAPABILITY {                                                         \
  FL_HD Vector<double> system_##name(Vector<double> x) {                                            \
    if (!FL_SLEEF(name)) return math::system_##name<>(x);                                           \
    return {(Vector<double>::Lanes)FL_SLEEF(name)((FL_SLEEF_REGISTER)x.lanes)};                     \
  }                                                                                                 \
  }
FL_REGISTER_FUNCTION(exp)
FL_REGISTER_FUNCTION(expm1)
FL_REGISTER_FUNCTION(log)
FL_REGISTER_FUNCTION(log1p)
FL_REGISTER_FUNCTION(sin)
FL_REGISTER_FUNCTION(cos)
FL_REGISTER_FUNCTION(atan)
#undef FL_REGISTER_FUNCTION
#undef FL_SLEEF
#undef FL_SLEEF_REGISTER
#endif
