// sum = alpha x + dropout(y + bias), normed = LayerNorm or RMSNorm of it, or either alone: bound by memory, so each
// element is read and written once, with the row kept on the chip in between.
#include "cuda.h"

#include "../common/column_sums.cuh"
#include "../common/dropout.cuh"

namespace fpm {
namespace {

constexpr int64_t kMaxWidth = 8192;  // three floats for each column of a row fit into 99 KiB of shared memory
constexpr int kGroup = 4;            // columns that a thread takes at a time: one call of Philox
constexpr int64_t kBackwardBlocks = 256;

// kThreads threads take a row; a block has at least 128.
template <int kThreads>
struct Shape {
    static constexpr int kRows = kThreads < 128 ? 128 / kThreads : 1;
    static constexpr int kBlock = kThreads * kRows;
    static constexpr int kScratch = kBlock / kWarpSize;  // floats for block_sum

    __device__ static int row_in_block() { return static_cast<int>(threadIdx.x) / kThreads; }
    __device__ static int thread_in_row() { return static_cast<int>(threadIdx.x) % kThreads; }
    // The first float of shared memory of this thread's row, where a row has `count` floats.
    __device__ static float* row_memory(int64_t count) {
        return reinterpret_cast<float*>(shared_memory) + kScratch + row_in_block() * count;
    }
    static size_t shared_bytes(int64_t floats_per_row) { return (kScratch + kRows * floats_per_row) * sizeof(float); }
};

struct Forward {
    ResidualNormArguments tensors;
    Dropout dropout;
    bool vector;
};

struct Backward {
    ResidualNormBackwardArguments tensors;
    Dropout dropout;
    bool vector;
};

template <typename T, int kThreads>
__global__ __launch_bounds__(Shape<kThreads>::kBlock, 1) void residual_norm_kernel(Forward arguments) {
    using S = Shape<kThreads>;
    const ResidualNormArguments& tensors = arguments.tensors;
    const int width = static_cast<int>(tensors.width);
    const int64_t row = int64_t{blockIdx.x} * S::kRows + S::row_in_block();
    if (row >= tensors.rows) return;  // a whole warp, and only where a row takes one warp
    float* scratch = reinterpret_cast<float*>(shared_memory);
    float* values = S::row_memory(width);  // the row of the sum; each thread reads back what it wrote itself
    const int64_t start = row * width;
    const auto* bias = static_cast<const T*>(tensors.bias);
    const auto* norm_bias = static_cast<const T*>(tensors.norm_bias);
    const auto alpha = static_cast<float>(tensors.alpha);

    float total = 0.0f;
    for (int column = S::thread_in_row() * kGroup; column < width; column += kThreads * kGroup) {
        const int count = width - column;
        float x[kGroup], y[kGroup] = {}, added[kGroup] = {};
        load_group(x, static_cast<const T*>(tensors.x) + start + column, count, arguments.vector);
        if (tensors.y) load_group(y, static_cast<const T*>(tensors.y) + start + column, count, arguments.vector);
        if (bias) load_group(added, bias + column, count, arguments.vector);
        for (int i = 0; i < kGroup; ++i) y[i] += added[i];
        apply_dropout(y, arguments.dropout, static_cast<uint64_t>(start + column));
        for (int i = 0; i < kGroup; ++i) {
            x[i] = rounded<T>(alpha * x[i] + y[i]);  // the backward pass sees the sum as it is stored
            if (i < count) total += values[column + i] = x[i];
        }
        if (tensors.sum) store_group(static_cast<T*>(tensors.sum) + start + column, x, count, arguments.vector);
    }
    if (!tensors.normed) return;
    const float mean = tensors.rms ? 0.0f : block_sum<kThreads>(total, scratch) / width;

    float squares = 0.0f;
    for (int column = S::thread_in_row() * kGroup; column < width; column += kThreads * kGroup)
        for (int i = 0; i < kGroup && column + i < width; ++i)
            squares += (values[column + i] - mean) * (values[column + i] - mean);
    const float variance = block_sum<kThreads>(squares, scratch) / width;
    const float inverse = 1.0f / sqrtf(variance + static_cast<float>(tensors.eps));
    if (S::thread_in_row() == 0) {
        tensors.stats[2 * row] = mean;
        tensors.stats[2 * row + 1] = inverse;
    }

    for (int column = S::thread_in_row() * kGroup; column < width; column += kThreads * kGroup) {
        const int count = width - column;
        float x[kGroup], weight[kGroup], added[kGroup] = {};
        load_group(weight, static_cast<const T*>(tensors.weight) + column, count, arguments.vector);
        if (norm_bias) load_group(added, norm_bias + column, count, arguments.vector);
        for (int i = 0; i < kGroup; ++i)
            x[i] = i < count ? (values[column + i] - mean) * inverse * weight[i] + added[i] : 0.0f;
        store_group(static_cast<T*>(tensors.normed) + start + column, x, count, arguments.vector);
    }
}

// The blocks walk over the rows, and each keeps its rows' share of the parameters' gradients, which it leaves in
// workspace[block] as (3, width): bias, weight, norm_bias.
template <typename T, int kThreads>
__global__ __launch_bounds__(Shape<kThreads>::kBlock, 1) void residual_norm_backward_kernel(Backward arguments) {
    using S = Shape<kThreads>;
    const ResidualNormBackwardArguments& tensors = arguments.tensors;
    const int width = static_cast<int>(tensors.width);
    const bool vector = arguments.vector;
    float* scratch = reinterpret_cast<float*>(shared_memory);
    float* shares = S::row_memory(3 * width);  // a thread touches its own columns only, until the end
    for (int column = S::thread_in_row() * kGroup; column < width; column += kThreads * kGroup)
        for (int part = 0; part < 3; ++part)
            for (int i = 0; i < kGroup && column + i < width; ++i) shares[part * width + column + i] = 0.0f;

    for (int64_t row = int64_t{blockIdx.x} * S::kRows + S::row_in_block(); row < tensors.rows;
         row += int64_t{gridDim.x} * S::kRows) {
        const int64_t start = row * width;
        const bool has_norm = tensors.grad_normed != nullptr;
        const float mean = has_norm ? tensors.stats[2 * row] : 0.0f;
        const float inverse = has_norm ? tensors.stats[2 * row + 1] : 0.0f;
        const auto* sum = static_cast<const T*>(tensors.sum) + start;
        const auto* grad_normed = static_cast<const T*>(tensors.grad_normed) + start;
        const auto* norm_weight = static_cast<const T*>(tensors.weight);

        float total = 0.0f, projection = 0.0f;  // of the normalised row's gradient: its sum, its part along the row
        for (int column = S::thread_in_row() * kGroup; has_norm && column < width; column += kThreads * kGroup) {
            const int count = width - column;
            float s[kGroup], gradient[kGroup], weight[kGroup];
            load_group(s, sum + column, count, vector);
            load_group(gradient, grad_normed + column, count, vector);
            load_group(weight, norm_weight + column, count, vector);
            for (int i = 0; i < kGroup && i < count; ++i) {
                const float normalised = (s[i] - mean) * inverse;
                shares[width + column + i] += gradient[i] * normalised;
                shares[2 * width + column + i] += gradient[i];
                total += gradient[i] * weight[i];
                projection += gradient[i] * weight[i] * normalised;
            }
        }
        total = tensors.rms ? 0.0f : block_sum<kThreads>(total, scratch) / width;
        projection = block_sum<kThreads>(projection, scratch) / width;

        for (int column = S::thread_in_row() * kGroup; column < width; column += kThreads * kGroup) {
            const int count = width - column;
            float s[kGroup] = {}, gradient[kGroup] = {}, weight[kGroup] = {}, of_sum[kGroup] = {};
            if (has_norm) {
                load_group(s, sum + column, count, vector);
                load_group(gradient, grad_normed + column, count, vector);
                load_group(weight, norm_weight + column, count, vector);
            }
            if (tensors.grad_sum)
                load_group(of_sum, static_cast<const T*>(tensors.grad_sum) + start + column, count, vector);
            float of_residual[kGroup];
            for (int i = 0; i < kGroup; ++i) {
                const float normalised = (s[i] - mean) * inverse;
                of_sum[i] += inverse * (gradient[i] * weight[i] - total - normalised * projection);
                of_residual[i] = static_cast<float>(tensors.alpha) * of_sum[i];
            }
            if (tensors.grad_x)
                store_group(static_cast<T*>(tensors.grad_x) + start + column, of_residual, count, vector);
            if (!tensors.grad_y) continue;
            apply_dropout(of_sum, arguments.dropout, static_cast<uint64_t>(start + column));
            store_group(static_cast<T*>(tensors.grad_y) + start + column, of_sum, count, vector);
            for (int i = 0; i < kGroup && i < count; ++i) shares[column + i] += of_sum[i];
        }
    }

    __syncthreads();
    const float* all = reinterpret_cast<const float*>(shared_memory) + S::kScratch;  // (kRows, 3 * width)
    for (int column = threadIdx.x; column < 3 * width; column += S::kBlock) {
        float share = all[column];
        for (int row = 1; row < S::kRows; ++row) share += all[row * 3 * width + column];
        tensors.workspace[int64_t{blockIdx.x} * 3 * width + column] = share;
    }
}

int64_t backward_blocks(int64_t rows, int64_t width) {
    const int64_t rows_per_block = width <= 512 ? Shape<32>::kRows : 1;
    const int64_t blocks = ceil_divide(rows, rows_per_block);
    return blocks < kBackwardBlocks ? blocks : kBackwardBlocks;
}

template <typename T, int kThreads>
cudaError_t launch_forward(const Forward& forward, cudaStream_t stream) {
    using S = Shape<kThreads>;
    return launch(residual_norm_kernel<T, kThreads>, ceil_divide(forward.tensors.rows, S::kRows), S::kBlock,
                  S::shared_bytes(forward.tensors.width), stream, forward);
}

template <typename T, int kThreads>
cudaError_t launch_backward(const Backward& backward, cudaStream_t stream) {
    using S = Shape<kThreads>;
    return launch(residual_norm_backward_kernel<T, kThreads>,
                  backward_blocks(backward.tensors.rows, backward.tensors.width), S::kBlock,
                  S::shared_bytes(3 * backward.tensors.width), stream, backward);
}

bool is_supported(int64_t rows, int64_t width) { return rows >= 0 && width >= 1 && width <= kMaxWidth; }

}  // namespace
}  // namespace fpm

using namespace fpm;

extern "C" int64_t fpm_cuda_residual_norm_max_width() { return kMaxWidth; }

extern "C" int64_t fpm_cuda_residual_norm_workspace(int64_t rows, int64_t width) {
    return backward_blocks(rows, width) * 3 * width;
}

extern "C" int fpm_cuda_residual_norm(const ResidualNormArguments* arguments, void* stream) {
    const ResidualNormArguments& a = *arguments;
    if (!is_supported(a.rows, a.width)) return cudaErrorInvalidValue;
    return with_type(a.type, [&](auto type) {
        using T = typename decltype(type)::type;
        const bool vector = a.width % kGroup == 0 && are_aligned(kGroup * sizeof(T), a.x, a.y, a.bias, a.weight,
                                                                 a.norm_bias, a.sum, a.normed);
        const Forward forward{a, make_dropout(a.dropout, a.seed, a.stream), vector};
        const auto on = static_cast<cudaStream_t>(stream);
        if (a.width <= 512) return launch_forward<T, 32>(forward, on);
        if (a.width <= 4096) return launch_forward<T, 128>(forward, on);
        return launch_forward<T, 512>(forward, on);
    });
}

extern "C" int fpm_cuda_residual_norm_backward(const ResidualNormBackwardArguments* arguments, void* stream) {
    const ResidualNormBackwardArguments& a = *arguments;
    if (!is_supported(a.rows, a.width)) return cudaErrorInvalidValue;
    return with_type(a.type, [&](auto type) {
        using T = typename decltype(type)::type;
        const bool vector =
            a.width % kGroup == 0 && are_aligned(kGroup * sizeof(T), a.grad_sum, a.grad_normed, a.sum, a.weight,
                                                 a.grad_x, a.grad_y);
        const Backward backward{a, make_dropout(a.dropout, a.seed, a.stream), vector};
        const auto on = static_cast<cudaStream_t>(stream);
        const auto launched = a.width <= 512    ? launch_backward<T, 32>(backward, on)
                              : a.width <= 4096 ? launch_backward<T, 128>(backward, on)
                                                : launch_backward<T, 512>(backward, on);
        if (launched != cudaSuccess) return launched;
        const int64_t num_partial = backward_blocks(a.rows, a.width);
        void* const gradients[] = {a.grad_bias, a.grad_weight, a.grad_norm_bias};
        for (int part = 0; part < 3; ++part) {
            const ColumnSums sums{a.workspace + part * a.width, gradients[part], num_partial, 3 * a.width, a.width};
            const auto error = launch_column_sums<T>(sums, on);
            if (error != cudaSuccess) return error;
        }
        return cudaSuccess;
    });
}
