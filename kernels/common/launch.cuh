// The host's side of a launch: element types, alignment, shared memory beyond 48 KiB, errors.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>

namespace fpm {

// The numbers by which the argument structures name an element type.
enum ElementType : int64_t { kFloat = 0, kBFloat16 = 1, kHalf = 2 };

template <typename T>
struct TypeName {
    using type = T;
};

// Calls `action` with a TypeName of the element type.
template <typename Action>
cudaError_t with_type(int64_t type, Action action) {
    switch (type) {
        case kFloat: return action(TypeName<float>{});
        case kBFloat16: return action(TypeName<__nv_bfloat16>{});
        case kHalf: return action(TypeName<__half>{});
        default: return cudaErrorInvalidValue;
    }
}

// Launches `kernel` on one-dimensional blocks; an empty grid is no launch.
template <typename Arguments>
cudaError_t launch(void (*kernel)(Arguments), int64_t num_blocks, int num_threads, size_t shared_bytes,
                   cudaStream_t stream, const Arguments& arguments) {
    if (num_blocks == 0) return cudaSuccess;
    if (num_blocks > 0x7fffffff) return cudaErrorInvalidValue;
    if (shared_bytes > 48 * 1024) {
        const cudaError_t error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                                       static_cast<int>(shared_bytes));
        if (error != cudaSuccess) return error;
    }
    cudaLaunchConfig_t config{};
    config.gridDim = dim3(static_cast<unsigned>(num_blocks));
    config.blockDim = dim3(static_cast<unsigned>(num_threads));
    config.dynamicSmemBytes = shared_bytes;
    config.stream = stream;
    const cudaError_t error = cudaLaunchKernelEx(&config, kernel, arguments);
    return error != cudaSuccess ? error : cudaGetLastError();
}

inline int64_t ceil_divide(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Whether every given address is a multiple of `num_bytes`; tensors that are not there count as aligned.
template <typename... Pointers>
bool are_aligned(size_t num_bytes, const Pointers*... pointers) {
    return ((reinterpret_cast<uintptr_t>(pointers) % num_bytes == 0) && ...);
}

}  // namespace fpm
