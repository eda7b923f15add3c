// The interface between the registration with torch and the code compiled once per instruction set.
#pragma once

#include "cpu_dispatch.h"

namespace fpm {

// y (rows, outputs) = x (rows, inputs) weight^T + bias; `inputs` and `outputs` are multiples of 16.
struct LinearArguments {
    const float *x, *weight, *bias, *grad;  // bias: null for none
    const float* added;                     // to grad_x, of its shape; null for none
    float* out;                             // y, grad_x or grad_weight
    int64_t rows, inputs, outputs;
};

struct LinearKernels {
    // Floats that one thread needs.
    int64_t (*memory)(const LinearArguments&);
    // out rows [begin, end) of y.
    void (*forward)(const LinearArguments&, int64_t begin, int64_t end, float* memory);
    // out rows [begin, end) of added + grad weight.
    void (*input_grad)(const LinearArguments&, int64_t begin, int64_t end, float* memory);
    // out rows [begin, end), multiples of 16, of grad^T x.
    void (*weight_grad)(const LinearArguments&, int64_t begin, int64_t end, float* memory);
};

extern const LinearKernels linear_avx512, linear_avx2, linear_baseline;

}  // namespace fpm
