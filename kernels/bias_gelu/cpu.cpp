// GELU of x + bias, and GELU of a gate times another branch: one pass over memory each way. See README.md.
#include "cpu.h"

#include "gelu.h"
#include "rows.h"

namespace fpm {
namespace {

template <typename T, bool kTanh>
void bias_gelu(const GeluArguments& a, int64_t first_row, int64_t end_row) {
    const T* bias = static_cast<const T*>(a.bias);
    for (int64_t row = first_row; row < end_row; ++row) {
        const T* x = static_cast<const T*>(a.x) + row * a.width;
        T* out = static_cast<T*>(a.out) + row * a.width;
        for_row(a.width, [&](int64_t j, int64_t count) {
            f32 input = load_up_to(x + j, count);
            if (bias) input += load_up_to(bias + j, count);
            store_up_to(out + j, gelu_value<kTanh>(input), count);
        });
    }
}

template <typename T, bool kTanh>
void bias_gelu_backward(const GeluArguments& a, int64_t first_row, int64_t end_row, float* sums) {
    const T* bias = static_cast<const T*>(a.bias);
    if (sums) std::memset(sums, 0, a.width * sizeof(float));
    for (int64_t row = first_row; row < end_row; ++row) {
        const T* x = static_cast<const T*>(a.x) + row * a.width;
        const T* grad = static_cast<const T*>(a.grad) + row * a.width;
        T* grad_x = static_cast<T*>(a.grad_x) + row * a.width;
        for_row(a.width, [&](int64_t j, int64_t count) {
            f32 input = load_up_to(x + j, count);
            if (bias) input += load_up_to(bias + j, count);
            const f32 result = load_up_to(grad + j, count) * gelu_slope<kTanh>(input);
            store_up_to(grad_x + j, result, count);
            if (sums) store_up_to(sums + j, load_up_to(sums + j, count) + result, count);
        });
    }
}

template <typename T, bool kTanh>
void gated_gelu(const GeluArguments& a, int64_t first, int64_t end) {
    const T *gate = static_cast<const T*>(a.x), *up = static_cast<const T*>(a.up);
    T* out = static_cast<T*>(a.out);
    for_row(end - first, [&](int64_t j, int64_t count) {
        const f32 value = gelu_value<kTanh>(load_up_to(gate + first + j, count));
        store_up_to(out + first + j, value * load_up_to(up + first + j, count), count);
    });
}

template <typename T, bool kTanh>
void gated_gelu_backward(const GeluArguments& a, int64_t first, int64_t end) {
    const T *gate = static_cast<const T*>(a.x), *up = static_cast<const T*>(a.up);
    const T* grad = static_cast<const T*>(a.grad);
    T *grad_gate = static_cast<T*>(a.grad_x), *grad_up = static_cast<T*>(a.grad_up);
    for_row(end - first, [&](int64_t j, int64_t count) {
        const GeluValues values = gelu<kTanh>(load_up_to(gate + first + j, count));
        const f32 outer = load_up_to(grad + first + j, count);
        store_up_to(grad_gate + first + j, outer * load_up_to(up + first + j, count) * values.slope, count);
        store_up_to(grad_up + first + j, outer * values.value, count);
    });
}

// The functions of one form, for any element type.
#define FPM_FOR_FORM(f, ...)            \
    if (a.tanh) {                       \
        FPM_FOR_TYPE_AND_FORM(f, true, __VA_ARGS__);  \
    } else {                            \
        FPM_FOR_TYPE_AND_FORM(f, false, __VA_ARGS__); \
    }
#define FPM_FOR_TYPE_AND_FORM(f, form, ...)                                        \
    switch (a.type) {                                                             \
        case ElementType::kFloat32: f<float, form>(__VA_ARGS__); break;           \
        case ElementType::kBfloat16: f<bfloat16, form>(__VA_ARGS__); break;       \
        case ElementType::kFloat16: f<float16, form>(__VA_ARGS__); break;         \
    }

void bias_gelu_any(const GeluArguments& a, int64_t first_row, int64_t end_row) {
    FPM_FOR_FORM(bias_gelu, a, first_row, end_row);
}

void bias_gelu_backward_any(const GeluArguments& a, int64_t first_row, int64_t end_row, float* sums) {
    FPM_FOR_FORM(bias_gelu_backward, a, first_row, end_row, sums);
}

void add_up_any(const GeluArguments& a, const float* sums, int64_t blocks, void* out) {
    FPM_FOR_TYPE(a.type, add_up_blocks, sums, blocks, a.width, a.width, out);
}

void gated_gelu_any(const GeluArguments& a, int64_t first, int64_t end) {
    FPM_FOR_FORM(gated_gelu, a, first, end);
}

void gated_gelu_backward_any(const GeluArguments& a, int64_t first, int64_t end) {
    FPM_FOR_FORM(gated_gelu_backward, a, first, end);
}

}  // namespace

const GeluKernels FPM_ISA_NAME(gelu) = {
    bias_gelu_any, bias_gelu_backward_any, add_up_any, gated_gelu_any, gated_gelu_backward_any};

}  // namespace fpm
