// The interface between the registration with torch and the code compiled once per instruction set.
#pragma once

#include "cpu_dispatch.h"

namespace fpm {

struct ResidualNormArguments {
    ElementType type;
    int64_t width;
    const void *x, *y, *bias;          // bias: null for none
    const void *weight, *norm_bias;    // norm_bias: null for none
    void *sum, *normed;                // outputs of the forward pass, the first an input of the backward pass
    float* stats;                      // (rows, 2): mean (0 for RMSNorm), 1 / standard deviation
    const void *grad_sum, *grad_normed;  // grad_sum: null for zero
    void *grad_x, *grad_y;
    float alpha, eps;
    double dropout;
    uint64_t seed;
    uint32_t stream;
    bool rms;
};

struct ResidualNormKernels {
    void (*forward)(const ResidualNormArguments&, int64_t first_row, int64_t end_row);
    // `sums` (3, width): of grad_bias, grad_weight and grad_norm_bias over these rows.
    void (*backward)(const ResidualNormArguments&, int64_t first_row, int64_t end_row, float* sums);
    // (blocks, 3, width) -> three vectors of the tensors' type; null for those not wanted.
    void (*add_up)(const ResidualNormArguments&, const float* sums, int64_t blocks, void* const* out);
};

extern const ResidualNormKernels residual_norm_avx512, residual_norm_avx2, residual_norm_baseline;

}  // namespace fpm
