// The interface between the registration with torch and the code compiled once per instruction set.
#pragma once

#include "cpu_dispatch.h"

namespace fpm {

struct DropoutArguments {
    ElementType type;
    const void* x;
    void* out;
    double dropout;
    uint64_t seed;
    uint32_t stream;
};

struct DropoutKernels {
    // Elements first ... end - 1; `first` is a multiple of 4.
    void (*forward)(const DropoutArguments&, int64_t first, int64_t end);
};

extern const DropoutKernels dropout_avx512, dropout_avx2, dropout_baseline;

}  // namespace fpm
