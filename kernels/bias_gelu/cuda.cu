// gelu(x + bias) and gelu(gate) * up, by erf or tanh: bound by memory, so each element is read and written once. The
// gradient of the bias is summed on the way, in an order that depends on the shape alone.
#include "cuda.h"

#include "../common/column_sums.cuh"

namespace fpm {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / kWarpSize;
constexpr int64_t kMaxChunks = 128;    // of rows, each with partial sums of its own
constexpr int64_t kRowsPerChunk = 32;  // at least; four for each warp

// 16 bytes for each access.
template <typename T>
constexpr int kGroup = 16 / static_cast<int>(sizeof(T));

// Hendrycks and Gimpel, "Gaussian error linear units", 2016: x Phi(x), or its approximation by tanh.
struct Gelu {
    float value, derivative;
};

__device__ inline Gelu gelu(float x, bool tanh_form) {
    if (tanh_form) {
        constexpr float kScale = 0.7978845608028654f, kCubic = 0.044715f;  // sqrt(2 / pi)
        const float t = tanhf(kScale * (x + kCubic * x * x * x));
        const float inner = kScale * (1.0f + 3.0f * kCubic * x * x);
        return {0.5f * x * (1.0f + t), 0.5f * (1.0f + t) + 0.5f * x * (1.0f - t * t) * inner};
    }
    const float normal = 0.5f * (1.0f + erff(x * 0.7071067811865476f));
    return {x * normal, normal + x * 0.3989422804014327f * expf(-0.5f * x * x)};  // 1 / sqrt(2 pi)
}

struct BiasGelu {
    BiasGeluArguments tensors;
    int64_t strips, rows_per_chunk;
    bool vector;
};

struct GatedGelu {
    GatedGeluArguments tensors;
    int64_t strips, rows_per_chunk;
    bool vector;
};

// A block's part of a matrix: a strip of 32 groups of columns, one for each lane, and a chunk of the rows, of which
// each warp takes every eighth.
template <typename T>
struct Part {
    int64_t column, first_row, end_row;
    int chunk, count;  // count: columns from `column` on

    template <typename Arguments>
    __device__ explicit Part(const Arguments& arguments) {
        const int64_t strip = blockIdx.x % arguments.strips;
        chunk = static_cast<int>(blockIdx.x / arguments.strips);
        column = (strip * kWarpSize + lane_index()) * kGroup<T>;
        count = static_cast<int>(arguments.tensors.width - column);
        first_row = chunk * arguments.rows_per_chunk + warp_index();
        const int64_t end = (chunk + 1) * arguments.rows_per_chunk;
        end_row = count <= 0 ? 0 : end < arguments.tensors.rows ? end : arguments.tensors.rows;
    }
};

template <typename T>
__global__ __launch_bounds__(kThreads) void bias_gelu_kernel(BiasGelu arguments) {
    const BiasGeluArguments& tensors = arguments.tensors;
    const Part<T> part(arguments);
    const auto* bias = static_cast<const T*>(tensors.bias);
    float added[kGroup<T>] = {};
    if (bias && part.count > 0) load_group(added, bias + part.column, part.count, arguments.vector);
    for (int64_t row = part.first_row; row < part.end_row; row += kWarps) {
        float x[kGroup<T>];
        load_group(x, static_cast<const T*>(tensors.x) + row * tensors.x_stride + part.column, part.count,
                   arguments.vector);
        for (int i = 0; i < kGroup<T>; ++i) x[i] = gelu(x[i] + added[i], tensors.tanh).value;
        store_group(static_cast<T*>(tensors.out) + row * tensors.width + part.column, x, part.count, arguments.vector);
    }
}

template <typename T>
__global__ __launch_bounds__(kThreads) void bias_gelu_backward_kernel(BiasGelu arguments) {
    const BiasGeluArguments& tensors = arguments.tensors;
    const Part<T> part(arguments);
    const auto* bias = static_cast<const T*>(tensors.bias);
    float added[kGroup<T>] = {}, sums[kGroup<T>] = {};
    if (bias && part.count > 0) load_group(added, bias + part.column, part.count, arguments.vector);
    for (int64_t row = part.first_row; row < part.end_row; row += kWarps) {
        const int64_t start = row * tensors.width + part.column;
        float x[kGroup<T>], gradient[kGroup<T>];
        load_group(x, static_cast<const T*>(tensors.x) + row * tensors.x_stride + part.column, part.count,
                   arguments.vector);
        load_group(gradient, static_cast<const T*>(tensors.grad) + start, part.count, arguments.vector);
        for (int i = 0; i < kGroup<T>; ++i) {
            gradient[i] *= gelu(x[i] + added[i], tensors.tanh).derivative;
            sums[i] += gradient[i];
        }
        store_group(static_cast<T*>(tensors.grad_x) + start, gradient, part.count, arguments.vector);
    }
    if (!tensors.grad_bias) return;
    float* of_warps = reinterpret_cast<float*>(shared_memory);  // (kWarps, 32 * kGroup)
    constexpr int kStrip = kWarpSize * kGroup<T>;
    for (int i = 0; i < kGroup<T>; ++i) of_warps[warp_index() * kStrip + lane_index() * kGroup<T> + i] = sums[i];
    __syncthreads();
    const int64_t first_column = part.column - lane_index() * kGroup<T>;
    for (int column = threadIdx.x; column < kStrip && first_column + column < tensors.width; column += kThreads) {
        float sum = 0.0f;
        for (int warp = 0; warp < kWarps; ++warp) sum += of_warps[warp * kStrip + column];
        tensors.workspace[part.chunk * tensors.width + first_column + column] = sum;
    }
}

template <typename T>
__global__ __launch_bounds__(kThreads) void gated_gelu_kernel(GatedGelu arguments) {
    const GatedGeluArguments& tensors = arguments.tensors;
    const Part<T> part(arguments);
    for (int64_t row = part.first_row; row < part.end_row; row += kWarps) {
        float gate[kGroup<T>], up[kGroup<T>];
        load_group(gate, static_cast<const T*>(tensors.gate) + row * tensors.gate_stride + part.column, part.count,
                   arguments.vector);
        load_group(up, static_cast<const T*>(tensors.up) + row * tensors.up_stride + part.column, part.count,
                   arguments.vector);
        for (int i = 0; i < kGroup<T>; ++i) up[i] *= gelu(gate[i], tensors.tanh).value;
        store_group(static_cast<T*>(tensors.out) + row * tensors.width + part.column, up, part.count, arguments.vector);
    }
}

template <typename T>
__global__ __launch_bounds__(kThreads) void gated_gelu_backward_kernel(GatedGelu arguments) {
    const GatedGeluArguments& tensors = arguments.tensors;
    const Part<T> part(arguments);
    for (int64_t row = part.first_row; row < part.end_row; row += kWarps) {
        float gate[kGroup<T>], up[kGroup<T>], gradient[kGroup<T>];
        load_group(gate, static_cast<const T*>(tensors.gate) + row * tensors.gate_stride + part.column, part.count,
                   arguments.vector);
        load_group(up, static_cast<const T*>(tensors.up) + row * tensors.up_stride + part.column, part.count,
                   arguments.vector);
        load_group(gradient, static_cast<const T*>(tensors.grad) + row * tensors.width + part.column, part.count,
                   arguments.vector);
        for (int i = 0; i < kGroup<T>; ++i) {
            const Gelu activation = gelu(gate[i], tensors.tanh);
            gate[i] = gradient[i] * up[i] * activation.derivative;
            up[i] = gradient[i] * activation.value;
        }
        store_group(static_cast<T*>(tensors.grad_gate) + row * tensors.grad_gate_stride + part.column, gate, part.count,
                    arguments.vector);
        store_group(static_cast<T*>(tensors.grad_up) + row * tensors.grad_up_stride + part.column, up, part.count,
                    arguments.vector);
    }
}

int64_t rows_per_chunk(int64_t rows) {
    const int64_t rows_each = ceil_divide(rows, kMaxChunks);
    return rows_each < kRowsPerChunk ? kRowsPerChunk : rows_each;
}

int64_t num_chunks(int64_t rows) { return ceil_divide(rows, rows_per_chunk(rows)); }

// Launches `kernel` over strips and chunks; `vector` if rows and strides keep groups of 16 bytes together.
template <typename T, typename Arguments, typename Tensors>
cudaError_t launch_parts(void (*kernel)(Arguments), const Tensors& tensors, bool vector, size_t shared_bytes,
                         void* stream) {
    const int64_t strips = ceil_divide(tensors.width, kWarpSize * kGroup<T>);
    const Arguments arguments{tensors, strips, rows_per_chunk(tensors.rows), vector && tensors.width % kGroup<T> == 0};
    return launch(kernel, strips * num_chunks(tensors.rows), kThreads, shared_bytes, static_cast<cudaStream_t>(stream),
                  arguments);
}

}  // namespace
}  // namespace fpm

using namespace fpm;

extern "C" int64_t fpm_cuda_bias_gelu_workspace(int64_t rows, int64_t width) { return num_chunks(rows) * width; }

extern "C" int fpm_cuda_bias_gelu(const BiasGeluArguments* arguments, void* stream) {
    const BiasGeluArguments& a = *arguments;
    return with_type(a.type, [&](auto type) {
        using T = typename decltype(type)::type;
        const bool vector = a.x_stride % kGroup<T> == 0 && are_aligned(16, a.x, a.bias, a.out);
        return launch_parts<T>(bias_gelu_kernel<T>, a, vector, 0, stream);
    });
}

extern "C" int fpm_cuda_bias_gelu_backward(const BiasGeluArguments* arguments, void* stream) {
    const BiasGeluArguments& a = *arguments;
    return with_type(a.type, [&](auto type) {
        using T = typename decltype(type)::type;
        const bool vector =
            a.x_stride % kGroup<T> == 0 && are_aligned(16, a.x, a.bias, a.grad, a.grad_x);
        const auto error = launch_parts<T>(bias_gelu_backward_kernel<T>, a, vector,
                                           kThreads * kGroup<T> * sizeof(float), stream);
        if (error != cudaSuccess) return error;
        const ColumnSums sums{a.workspace, a.grad_bias, num_chunks(a.rows), a.width, a.width};
        return launch_column_sums<T>(sums, static_cast<cudaStream_t>(stream));
    });
}

extern "C" int fpm_cuda_gated_gelu(const GatedGeluArguments* arguments, void* stream) {
    const GatedGeluArguments& a = *arguments;
    return with_type(a.type, [&](auto type) {
        using T = typename decltype(type)::type;
        const bool vector = a.gate_stride % kGroup<T> == 0 && a.up_stride % kGroup<T> == 0 &&
                            are_aligned(16, a.gate, a.up, a.out);
        return launch_parts<T>(gated_gelu_kernel<T>, a, vector, 0, stream);
    });
}

extern "C" int fpm_cuda_gated_gelu_backward(const GatedGeluArguments* arguments, void* stream) {
    const GatedGeluArguments& a = *arguments;
    return with_type(a.type, [&](auto type) {
        using T = typename decltype(type)::type;
        const bool vector = a.gate_stride % kGroup<T> == 0 && a.up_stride % kGroup<T> == 0 &&
                            a.grad_gate_stride % kGroup<T> == 0 && a.grad_up_stride % kGroup<T> == 0 &&
                            are_aligned(16, a.gate, a.up, a.grad, a.grad_gate, a.grad_up);
        return launch_parts<T>(gated_gelu_backward_kernel<T>, a, vector, 0, stream);
    });
}
