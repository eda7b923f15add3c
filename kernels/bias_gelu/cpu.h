// The interface between the registration with torch and the code compiled once per instruction set.
#pragma once

#include "cpu_dispatch.h"

namespace fpm {

struct GeluArguments {
    ElementType type;
    int64_t width;
    const void *x, *bias;  // `bias_gelu`: bias is null for none; `gated_gelu`: x is the gate
    const void *up;        // `gated_gelu`
    const void* grad;
    void *out, *grad_x, *grad_up;
    bool tanh;
};

struct GeluKernels {
    void (*bias_gelu)(const GeluArguments&, int64_t first_row, int64_t end_row);
    // `sums` (width): of grad_bias over these rows; null if there is no bias.
    void (*bias_gelu_backward)(const GeluArguments&, int64_t first_row, int64_t end_row, float* sums);
    void (*add_up)(const GeluArguments&, const float* sums, int64_t blocks, void* out);
    // Over elements, not rows.
    void (*gated_gelu)(const GeluArguments&, int64_t first, int64_t end);
    void (*gated_gelu_backward)(const GeluArguments&, int64_t first, int64_t end);
};

extern const GeluKernels gelu_avx512, gelu_avx2, gelu_baseline;

}  // namespace fpm
