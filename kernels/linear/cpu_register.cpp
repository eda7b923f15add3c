// Registers `fpm::linear` and the operators of its gradients for the CPU: checks, outputs, threads.
#include "cpu.h"
#include "tensors.h"

namespace fpm {
namespace {

constexpr int64_t kMultiple = 16;          // of both sizes of the weight
constexpr int64_t kRowsPerTask = 128;      // of y and grad_x; a multiple of every tile's height
constexpr int64_t kOutputsPerTask = 16;    // rows of grad_weight
constexpr int64_t kProductsPerThread = 1 << 20;  // fewer are worked on by one thread

void check_matrix(const Tensor& x, const char* name) {
    check_contiguous(x, name);
    STD_TORCH_CHECK(
        x.dim() == 2 && x.scalar_type() == ScalarType::Float && x.size(1) % kMultiple == 0, "fpm: ", name,
        " must be a float32 matrix whose rows are a multiple of 16 long");
}

// f(begin, end, memory) over `count` rows of the output in parts of `size`, whose bits do not depend on the threads.
template <typename F>
void run(const LinearArguments& a, const LinearKernels& kernels, int64_t count, int64_t size, const F& f) {
    const int64_t parts = (count + size - 1) / size, products = a.rows * a.inputs * a.outputs;
    const int64_t memory = kernels.memory(a);
    const auto range = [&](int64_t first, int64_t last) {
        const uintptr_t address = reinterpret_cast<uintptr_t>(scratch(memory + 16));
        float* aligned = reinterpret_cast<float*>((address + 63) / 64 * 64);
        const int64_t end = last * size;
        f(first * size, end < count ? end : count, aligned);
    };
    const int64_t grain = products ? parts * kProductsPerThread / products + 1 : 1;
    if (parts <= grain) {
        range(0, parts);
    } else {
        torch::stable::parallel_for(0, parts, grain, range);
    }
}

Tensor linear(const Tensor& x, const Tensor& weight, const OptionalTensor& bias) {
    check_matrix(x, "x");
    check_matrix(weight, "weight");
    check_vector(bias, weight.size(0), x, "bias");
    STD_TORCH_CHECK(
        weight.size(0) % kMultiple == 0 && weight.size(1) == x.size(1), "fpm: weight must be (outputs, inputs)");
    LinearArguments a{};
    a.rows = x.size(0);
    a.inputs = x.size(1);
    a.outputs = weight.size(0);
    Tensor out = output({a.rows, a.outputs}, dtype_of(x));
    a.x = static_cast<const float*>(x.data_ptr());
    a.weight = static_cast<const float*>(weight.data_ptr());
    a.bias = static_cast<const float*>(data_or_null(bias));
    a.out = static_cast<float*>(out.data_ptr());
    const LinearKernels& kernels = FPM_PICK(linear);
    run(a, kernels, a.rows, kRowsPerTask, [&](int64_t begin, int64_t end, float* memory) {
        kernels.forward(a, begin, end, memory);
    });
    return out;
}

// grad weight, or `added` + grad weight.
Tensor linear_input_grad(const Tensor& grad, const Tensor& weight, const OptionalTensor& added) {
    check_matrix(grad, "grad");
    check_matrix(weight, "weight");
    STD_TORCH_CHECK(grad.size(1) == weight.size(0), "fpm: weight must be (outputs, inputs)");
    LinearArguments a{};
    a.rows = grad.size(0);
    a.inputs = weight.size(1);
    a.outputs = weight.size(0);
    if (added.has_value()) {
        check_matrix(*added, "added");
        STD_TORCH_CHECK(
            added->size(0) == a.rows && added->size(1) == a.inputs, "fpm: added must be (rows, inputs)");
        a.added = static_cast<const float*>(added->data_ptr());
    }
    Tensor out = output({a.rows, a.inputs}, dtype_of(grad));
    a.grad = static_cast<const float*>(grad.data_ptr());
    a.weight = static_cast<const float*>(weight.data_ptr());
    a.out = static_cast<float*>(out.data_ptr());
    const LinearKernels& kernels = FPM_PICK(linear);
    run(a, kernels, a.rows, kRowsPerTask, [&](int64_t begin, int64_t end, float* memory) {
        kernels.input_grad(a, begin, end, memory);
    });
    return out;
}

Tensor linear_weight_grad(const Tensor& grad, const Tensor& x) {
    check_matrix(grad, "grad");
    check_matrix(x, "x");
    STD_TORCH_CHECK(grad.size(0) == x.size(0), "fpm: grad and x must have as many rows");
    LinearArguments a{};
    a.rows = x.size(0);
    a.inputs = x.size(1);
    a.outputs = grad.size(1);
    Tensor out = output({a.outputs, a.inputs}, dtype_of(grad));
    a.x = static_cast<const float*>(x.data_ptr());
    a.grad = static_cast<const float*>(grad.data_ptr());
    a.out = static_cast<float*>(out.data_ptr());
    if (!a.rows) std::memset(a.out, 0, a.outputs * a.inputs * sizeof(float));
    const LinearKernels& kernels = FPM_PICK(linear);
    run(a, kernels, a.outputs, kOutputsPerTask, [&](int64_t begin, int64_t end, float* memory) {
        kernels.weight_grad(a, begin, end, memory);
    });
    return out;
}

}  // namespace
}  // namespace fpm

STABLE_TORCH_LIBRARY_IMPL(fpm, CPU, m) {
    m.impl("linear", TORCH_BOX(&fpm::linear));
    m.impl("linear_input_grad", TORCH_BOX(&fpm::linear_input_grad));
    m.impl("linear_weight_grad", TORCH_BOX(&fpm::linear_weight_grad));
}
