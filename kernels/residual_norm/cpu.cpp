// alpha x + dropout(y + bias), then LayerNorm or RMSNorm: one pass over memory each way. See README.md.
#include "cpu.h"

#include "rows.h"

namespace fpm {
namespace {

template <typename T>
void forward(const ResidualNormArguments& a, int64_t first_row, int64_t end_row) {
    const int64_t width = a.width;
    const DropoutKeys keys = dropout_keys(a.dropout, a.seed, a.stream);
    const T *bias = static_cast<const T*>(a.bias), *weight = static_cast<const T*>(a.weight);
    const T* norm_bias = static_cast<const T*>(a.norm_bias);
    for (int64_t row = first_row; row < end_row; ++row) {
        const T* sums = static_cast<const T*>(a.x) + row * width;
        if (a.y) {
            const T *x = sums, *y = static_cast<const T*>(a.y) + row * width;
            T* out = static_cast<T*>(a.sum) + row * width;
            for_row_with_dropout(keys, row * width, width, [&](int64_t j, int64_t count, i32 kept) {
                f32 branch = load_up_to(y + j, count);
                if (bias) branch += load_up_to(bias + j, count);
                branch = kept ? branch * keys.scale : splat(0.0f);
                const f32 value = load_up_to(x + j, count) * a.alpha + branch;
                store_up_to(out + j, value, count);
            });
            sums = out;
        }
        if (!weight) continue;
        T* normed = static_cast<T*>(a.normed) + row * width;
        f32 total{};
        float mean = 0.0f;
        if (!a.rms) {
            for_row(width, [&](int64_t j, int64_t count) { total += load_up_to(sums + j, count); });
            mean = sum(total) / static_cast<float>(width);
        }
        f32 squares{};
        for_row(width, [&](int64_t j, int64_t count) {
            const f32 distance = count < kLanes ? load_part(sums + j, count, mean) - mean : load(sums + j) - mean;
            squares += distance * distance;
        });
        const float inverse = 1.0f / __builtin_sqrtf(sum(squares) / static_cast<float>(width) + a.eps);
        a.stats[2 * row] = mean;
        a.stats[2 * row + 1] = inverse;
        for_row(width, [&](int64_t j, int64_t count) {
            f32 value = (load_up_to(sums + j, count) - mean) * inverse * load_up_to(weight + j, count);
            if (norm_bias) value += load_up_to(norm_bias + j, count);
            store_up_to(normed + j, value, count);
        });
    }
}

template <typename T>
void backward(const ResidualNormArguments& a, int64_t first_row, int64_t end_row, float* column_sums) {
    const int64_t width = a.width;
    const float share = 1.0f / static_cast<float>(width);
    const DropoutKeys keys = dropout_keys(a.dropout, a.seed, a.stream);
    const T* weight = static_cast<const T*>(a.weight);
    float *bias_sums = column_sums, *weight_sums = column_sums + width, *norm_bias_sums = column_sums + 2 * width;
    std::memset(column_sums, 0, 3 * width * sizeof(float));
    for (int64_t row = first_row; row < end_row; ++row) {
        const T* grad_sum = a.grad_sum ? static_cast<const T*>(a.grad_sum) + row * width : nullptr;
        T* grad_x = static_cast<T*>(a.grad_x) + row * width;
        T* grad_y = a.grad_y ? static_cast<T*>(a.grad_y) + row * width : nullptr;
        if (!weight) {
            for_row_with_dropout(keys, row * width, width, [&](int64_t j, int64_t count, i32 kept) {
                const f32 grad = load_up_to(grad_sum + j, count);
                const f32 branch = kept ? grad * keys.scale : splat(0.0f);
                store_up_to(grad_y + j, branch, count);
                store_up_to(bias_sums + j, load_up_to(bias_sums + j, count) + branch, count);
            });
            continue;
        }
        const T* sums = static_cast<const T*>(a.sum) + row * width;
        const T* grad_normed = static_cast<const T*>(a.grad_normed) + row * width;
        const float mean = a.stats[2 * row], inverse = a.stats[2 * row + 1];

        f32 total{}, product{};  // of the gradient of the normalised value, and of that with the value
        for_row(width, [&](int64_t j, int64_t count) {
            const f32 outer = load_up_to(grad_normed + j, count);
            const f32 value = (load_up_to(sums + j, count) - mean) * inverse;
            const f32 inner = outer * load_up_to(weight + j, count);
            total += inner;
            product += inner * value;
            store_up_to(weight_sums + j, load_up_to(weight_sums + j, count) + outer * value, count);
            store_up_to(norm_bias_sums + j, load_up_to(norm_bias_sums + j, count) + outer, count);
        });
        const float mean_total = a.rms ? 0.0f : sum(total) * share, mean_product = sum(product) * share;
        for_row_with_dropout(keys, row * width, width, [&](int64_t j, int64_t count, i32 kept) {
            const f32 inner = load_up_to(grad_normed + j, count) * load_up_to(weight + j, count);
            const f32 value = (load_up_to(sums + j, count) - mean) * inverse;
            f32 grad = (inner - mean_total - value * mean_product) * inverse;
            if (grad_sum) grad += load_up_to(grad_sum + j, count);
            store_up_to(grad_x + j, grad * a.alpha, count);
            if (!grad_y) return;
            const f32 branch = kept ? grad * keys.scale : splat(0.0f);
            store_up_to(grad_y + j, branch, count);
            store_up_to(bias_sums + j, load_up_to(bias_sums + j, count) + branch, count);
        });
    }
}

void forward_any(const ResidualNormArguments& a, int64_t first_row, int64_t end_row) {
    FPM_FOR_TYPE(a.type, forward, a, first_row, end_row);
}

void backward_any(const ResidualNormArguments& a, int64_t first_row, int64_t end_row, float* column_sums) {
    FPM_FOR_TYPE(a.type, backward, a, first_row, end_row, column_sums);
}

void add_up_any(const ResidualNormArguments& a, const float* sums, int64_t blocks, void* const* out) {
    for (int i = 0; i < 3; ++i) {
        if (out[i]) FPM_FOR_TYPE(a.type, add_up_blocks, sums + i * a.width, blocks, 3 * a.width, a.width, out[i]);
    }
}

}  // namespace

const ResidualNormKernels FPM_ISA_NAME(residual_norm) = {forward_any, backward_any, add_up_any};

}  // namespace fpm
