// Adds the partial sums that blocks left for the columns of a matrix, in an order that depends on nothing else, so
// that gradients of biases and norms have the same bits in every run.
#pragma once

#include "device.cuh"
#include "launch.cuh"

namespace fpm {

struct ColumnSums {
    const float* partial;  // (num_partial, num_columns)
    void* sums;            // (num_columns,)
    int64_t num_partial, row_stride, num_columns;
};

// A block of 256 threads takes 32 columns; its warps take every eighth partial sum each.
constexpr int kColumnSumThreads = 256;

template <typename T>
__global__ __launch_bounds__(kColumnSumThreads) void column_sums_kernel(ColumnSums arguments) {
    constexpr int kWarps = kColumnSumThreads / kWarpSize;
    float* of_warps = reinterpret_cast<float*>(shared_memory);  // (kWarps, 32)
    const int64_t column = int64_t{blockIdx.x} * kWarpSize + lane_index();
    float sum = 0.0f;
    if (column < arguments.num_columns)
        for (int64_t row = warp_index(); row < arguments.num_partial; row += kWarps)
            sum += arguments.partial[row * arguments.row_stride + column];
    of_warps[threadIdx.x] = sum;
    __syncthreads();
    if (warp_index() == 0 && column < arguments.num_columns) {
        for (int warp = 1; warp < kWarps; ++warp) sum += of_warps[warp * kWarpSize + lane_index()];
        static_cast<T*>(arguments.sums)[column] = from_float<T>(sum);
    }
}

// sums[c] = sum of partial[r * row_stride + c] over r; nothing where `sums` is null.
template <typename T>
cudaError_t launch_column_sums(const ColumnSums& arguments, cudaStream_t stream) {
    if (arguments.sums == nullptr) return cudaSuccess;
    return launch(column_sums_kernel<T>, ceil_divide(arguments.num_columns, kWarpSize), kColumnSumThreads,
                  kColumnSumThreads * sizeof(float), stream, arguments);
}

}  // namespace fpm
