// The launcher of dropout/cuda.cu and its arguments, for C++ that knows nothing of CUDA.
#pragma once

#include <cstdint>

// Tensors are contiguous and of one element type (common/launch.cuh).
struct DropoutArguments {
    int64_t type, count;
    const void* x;
    void* out;
    double dropout;
    uint64_t seed;
    int64_t stream;
};

extern "C" {
// Returns a cudaError_t.
int fpm_cuda_dropout(const DropoutArguments* arguments, void* stream);
}
