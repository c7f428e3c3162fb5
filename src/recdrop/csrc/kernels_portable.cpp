// Kernels for every machine: 16-byte vectors, which are SSE2 on x86-64 and NEON on AArch64.
#include "system.h"

#define RECDROP_VECTOR_BYTES 16
#define RECDROP_ISA_NAME "portable"
namespace recdrop::portable {
#include "kernels.inc"
}  // namespace recdrop::portable

const recdrop::Kernels& recdrop::portable_kernels() { return recdrop::portable::kernels(); }
