// The launchers of bias_gelu/cuda.cu and their arguments, for C++ that knows nothing of CUDA.
#pragma once

#include <cstdint>

// Tensors have one element type (common/launch.cuh) and are (rows, width), contiguous within a row; strides are the
// distances of rows in elements. Those marked optional may be null.
struct BiasGeluArguments {
    int64_t type, rows, width, tanh;  // tanh: the approximation by tanh in place of erf
    const void* x;
    int64_t x_stride;
    const void* bias;  // (width,), optional
    void* out;         // contiguous
    const void* grad;  // from here on of the backward pass, and contiguous
    void* grad_x;
    void* grad_bias;   // (width,), optional
    float* workspace;  // fpm_cuda_bias_gelu_workspace floats
};

struct GatedGeluArguments {
    int64_t type, rows, width, tanh;
    const void* gate;
    const void* up;
    int64_t gate_stride, up_stride;
    void* out;  // contiguous
    const void* grad;  // from here on of the backward pass; contiguous
    void* grad_gate;
    void* grad_up;
    int64_t grad_gate_stride, grad_up_stride;
};

extern "C" {
int64_t fpm_cuda_bias_gelu_workspace(int64_t rows, int64_t width);
// All return a cudaError_t.
int fpm_cuda_bias_gelu(const BiasGeluArguments* arguments, void* stream);
int fpm_cuda_bias_gelu_backward(const BiasGeluArguments* arguments, void* stream);
int fpm_cuda_gated_gelu(const GatedGeluArguments* arguments, void* stream);
int fpm_cuda_gated_gelu_backward(const GatedGeluArguments* arguments, void* stream);
}
