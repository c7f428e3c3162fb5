// Kernels for AVX-512 F, DQ, BW and VL.
#include "system.h"

#if defined(__x86_64__)
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma,avx512f,avx512dq,avx512bw,avx512vl"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma,avx512f,avx512dq,avx512bw,avx512vl")
#endif

#define RECDROP_VECTOR_BYTES 64
#define RECDROP_ISA_NAME "avx512"
namespace recdrop::avx512 {
#include "kernels.inc"
}  // namespace recdrop::avx512

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

const recdrop::Kernels& recdrop::avx512_kernels() { return recdrop::avx512::kernels(); }
#endif
