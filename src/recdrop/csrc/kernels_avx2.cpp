// Kernels for AVX2 and FMA.
#include "system.h"

#if defined(__x86_64__)
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma")
#endif

#define RECDROP_VECTOR_BYTES 32
#define RECDROP_ISA_NAME "avx2"
namespace recdrop::avx2 {
#include "kernels.inc"
}  // namespace recdrop::avx2

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

const recdrop::Kernels& recdrop::avx2_kernels() { return recdrop::avx2::kernels(); }
#endif
