// What every kernel uses: the three element types, vectors in memory, shared memory, sums over a warp or a block.
// Free of torch. The tests compile the same code as C++ with a cuda_runtime.h of their own.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstdint>

// Every kernel divides this into what it keeps; its size is given at the launch.
extern __shared__ __align__(16) unsigned char shared_memory[];

namespace fpm {

constexpr int kWarpSize = 32;
constexpr unsigned kAllLanes = 0xffffffffu;

__device__ inline float to_float(float x) { return x; }
__device__ inline float to_float(__nv_bfloat16 x) { return __bfloat162float(x); }
__device__ inline float to_float(__half x) { return __half2float(x); }

template <typename T>
__device__ T from_float(float x);
template <>
__device__ inline float from_float<float>(float x) { return x; }
template <>
__device__ inline __nv_bfloat16 from_float<__nv_bfloat16>(float x) { return __float2bfloat16_rn(x); }
template <>
__device__ inline __half from_float<__half>(float x) { return __float2half_rn(x); }

// kCount neighbouring elements, read and written in one access; their address is a multiple of their size.
template <typename T, int kCount>
struct alignas(sizeof(T) * kCount) Vector {
    T element[kCount];
};

// kCount neighbouring elements as floats. One access where `vector`, for which the address is a multiple of the
// vector's size and all elements are there; else one by one, those from `count` on being 0.
template <int kCount, typename T>
__device__ void load_group(float (&to)[kCount], const T* from, int count, bool vector) {
    if (vector) {
        const auto group = *reinterpret_cast<const Vector<T, kCount>*>(from);
        for (int i = 0; i < kCount; ++i) to[i] = to_float(group.element[i]);
    } else {
        for (int i = 0; i < kCount; ++i) to[i] = i < count ? to_float(from[i]) : 0.0f;
    }
}

// The opposite of `load_group`; elements from `count` on are not written.
template <int kCount, typename T>
__device__ void store_group(T* to, const float (&from)[kCount], int count, bool vector) {
    if (vector) {
        Vector<T, kCount> group;
        for (int i = 0; i < kCount; ++i) group.element[i] = from_float<T>(from[i]);
        *reinterpret_cast<Vector<T, kCount>*>(to) = group;
    } else {
        for (int i = 0; i < kCount; ++i)
            if (i < count) to[i] = from_float<T>(from[i]);
    }
}

// The value as it reads after it was written as a T.
template <typename T>
__device__ float rounded(float x) { return to_float(from_float<T>(x)); }

__device__ inline int lane_index() { return static_cast<int>(threadIdx.x) % kWarpSize; }
__device__ inline int warp_index() { return static_cast<int>(threadIdx.x) / kWarpSize; }

// The sum over the lanes of a warp, in every lane; the order of additions is fixed.
__device__ inline float warp_sum(float x) {
    for (int lanes = kWarpSize / 2; lanes > 0; lanes /= 2) x += __shfl_xor_sync(kAllLanes, x, lanes);
    return x;
}

// The largest of a warp's numbers, in every lane.
__device__ inline int warp_max(int x) {
    for (int lanes = kWarpSize / 2; lanes > 0; lanes /= 2) {
        const int other = __shfl_xor_sync(kAllLanes, x, lanes);
        x = other > x ? other : x;
    }
    return x;
}

// The sum of the numbers of this lane and of those before it.
__device__ inline int warp_prefix_sum(int x) {
    for (int distance = 1; distance < kWarpSize; distance *= 2) {
        const int before = lane_index() - distance;
        const int other = __shfl_sync(kAllLanes, x, before < 0 ? 0 : before);
        if (before >= 0) x += other;
    }
    return x;
}

// The sum over a block of kThreads threads, in every thread. `scratch` holds kThreads / 32 floats and may be used
// for the next sum at once. A block of one warp takes no barrier.
template <int kThreads>
__device__ float block_sum(float x, float* scratch) {
    x = warp_sum(x);
    if constexpr (kThreads > kWarpSize) {
        if (lane_index() == 0) scratch[warp_index()] = x;
        __syncthreads();
        x = 0.0f;
        for (int warp = 0; warp < kThreads / kWarpSize; ++warp) x += scratch[warp];
        __syncthreads();
    }
    return x;
}

}  // namespace fpm
