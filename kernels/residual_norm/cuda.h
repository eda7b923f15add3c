// The launchers of residual_norm/cuda.cu and their arguments, for C++ that knows nothing of CUDA.
#pragma once

#include <cstdint>

// Tensors are (rows, width) and contiguous unless said otherwise, of one element type (common/launch.cuh); those
// marked optional may be null.
struct ResidualNormArguments {
    int64_t type, rows, width;
    const void* x;
    const void* y;          // optional: the norm of x alone
    const void* bias;       // (width,), optional
    const void* weight;     // (width,), only with normed
    const void* norm_bias;  // (width,), optional
    void* sum;              // optional
    void* normed;           // optional: the sum alone
    float* stats;           // (rows, 2), only with normed: mean (0 for RMSNorm) and 1 / standard deviation
    double alpha, eps, dropout;
    uint64_t seed;
    int64_t stream, rms;
};

struct ResidualNormBackwardArguments {
    int64_t type, rows, width;
    const void* grad_sum;  // optional
    const void* grad_normed;  // optional, one of both gradients is there
    const void* sum;          // this and the next two only with grad_normed
    const void* weight;
    const float* stats;
    void* grad_x;          // optional
    void* grad_y;          // optional
    void* grad_bias;       // (width,), optional
    void* grad_weight;     // (width,), optional
    void* grad_norm_bias;  // (width,), optional
    float* workspace;      // fpm_cuda_residual_norm_workspace floats
    double alpha, dropout;
    uint64_t seed;
    int64_t stream, rms;
};

extern "C" {
// The widest row for which there are kernels.
int64_t fpm_cuda_residual_norm_max_width();
int64_t fpm_cuda_residual_norm_workspace(int64_t rows, int64_t width);
// Both return a cudaError_t.
int fpm_cuda_residual_norm(const ResidualNormArguments* arguments, void* stream);
int fpm_cuda_residual_norm_backward(const ResidualNormBackwardArguments* arguments, void* stream);
}
