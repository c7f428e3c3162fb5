// What the kernels need of the system, included before any instruction set is chosen: code of these
// headers may be shared between files, so it must run on every machine.
#pragma once

#include <sched.h>
#include <stdint.h>
#include <stdlib.h>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "kernels.h"

namespace recdrop {
struct OutOfMemory {
  int64_t bytes;
};
}  // namespace recdrop
