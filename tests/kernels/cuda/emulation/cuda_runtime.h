// CUDA's runtime for tests: kernels compiled as C++ run on the CPU, block by block, with every thread of a block,
// real barriers and warp operations. Stands in the include path where nvcc would find its own cuda_runtime.h.
//
// What the hardware leaves undefined is reported and ends the process: a barrier or warp operation that not all
// threads reach, a lane outside its mask, masks that differ, more shared memory than asked for.
#pragma once

#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>

#define __global__
#define __device__
#define __host__
#define __shared__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __align__(bytes) __attribute__((aligned(bytes)))

struct uint2 { unsigned x, y; };
struct uint3 { unsigned x, y, z; };
struct __align__(16) uint4 { unsigned x, y, z, w; };
struct dim3 {
    unsigned x, y, z;
    constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};
extern thread_local uint3 threadIdx;
extern uint3 blockIdx;
extern dim3 blockDim, gridDim;

using cudaStream_t = void*;
enum cudaError_t { cudaSuccess = 0, cudaErrorInvalidValue = 1 };
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize = 8 };
struct cudaLaunchAttribute;
struct cudaLaunchConfig_t {
    dim3 gridDim, blockDim;
    size_t dynamicSmemBytes;
    cudaStream_t stream;
    cudaLaunchAttribute* attrs;
    unsigned numAttrs;
};

namespace emulation {

cudaError_t allow_shared(const void* kernel, int num_bytes);
cudaError_t run_grid(const cudaLaunchConfig_t& launch, const void* kernel, const std::function<void()>& thread);

// All threads of the block meet; `line` names the barrier in reports.
void barrier(const char* file, int line);
// The lanes of `mask` meet, and what they wrote before is visible to all of them.
void sync_warp(unsigned mask);
// The lanes of `mask` give `count` words each and read every lane's with `word`. Orders no other memory access.
constexpr int kMaxWords = 8;
struct Exchange {
    const std::atomic<uint32_t> (*words)[kMaxWords];
    unsigned mask;
    uint32_t word(int lane, int index) const;
};
Exchange exchange(unsigned mask, const uint32_t* words, int count);
int lane();

template <typename T>
T shuffle(unsigned mask, T value, int source) {
    static_assert(sizeof(T) == 4);
    uint32_t bits;
    std::memcpy(&bits, &value, 4);
    bits = exchange(mask, &bits, 1).word(source, 0);
    std::memcpy(&value, &bits, 4);
    return value;
}

}  // namespace emulation

#define __syncthreads() emulation::barrier(__FILE__, __LINE__)

inline void __syncwarp(unsigned mask = 0xffffffffu) { emulation::sync_warp(mask); }

template <typename T>
T __shfl_xor_sync(unsigned mask, T value, int lanes) {
    return emulation::shuffle(mask, value, emulation::lane() ^ lanes);
}

template <typename T>
T __shfl_sync(unsigned mask, T value, int source) {
    return emulation::shuffle(mask, value, source % 32);
}

template <typename Parameters>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* launch, void (*kernel)(Parameters),
                               const Parameters& parameters) {
    return emulation::run_grid(*launch, reinterpret_cast<const void*>(kernel), [=] { kernel(parameters); });
}

template <typename Kernel>
cudaError_t cudaFuncSetAttribute(Kernel* kernel, cudaFuncAttribute, int value) {
    return emulation::allow_shared(reinterpret_cast<const void*>(kernel), value);
}

inline cudaError_t cudaGetLastError() { return cudaSuccess; }
inline float __expf(float x) { return expf(x); }
inline float rsqrtf(float x) { return 1.0f / sqrtf(x); }
