// Registers `fpm::bias_gelu`, `fpm::gated_gelu` and their backward operators for the CPU.
#include "cpu.h"
#include "tensors.h"

namespace fpm {
namespace {

GeluArguments arguments(const Tensor& x, const OptionalTensor& bias, bool tanh) {
    check_contiguous(x, "x");
    GeluArguments a{};
    a.type = element_type(x);
    a.width = x.dim() ? x.size(x.dim() - 1) : 1;
    check_vector(bias, a.width, x, "bias");
    a.x = x.data_ptr();
    a.bias = data_or_null(bias);
    a.tanh = tanh;
    return a;
}

Tensor bias_gelu(const Tensor& x, const OptionalTensor& bias, bool tanh) {
    GeluArguments a = arguments(x, bias, tanh);
    Tensor out = output_like(x);
    a.out = out.data_ptr();
    const GeluKernels& kernels = FPM_PICK(gelu);
    const RowBlocks blocks(a.width ? x.numel() / a.width : 0);
    blocks.run(a.width, [&](int64_t, int64_t first, int64_t end) { kernels.bias_gelu(a, first, end); });
    return out;
}

std::tuple<Tensor, Tensor> bias_gelu_backward(
    const Tensor& grad, const Tensor& x, const OptionalTensor& bias, bool tanh) {
    GeluArguments a = arguments(x, bias, tanh);
    check_same_shape(grad, x, "grad");
    Tensor grad_x = output_like(x), grad_bias = output({bias.has_value() ? a.width : 0}, dtype_of(x));
    a.grad = grad.data_ptr();
    a.grad_x = grad_x.data_ptr();
    const GeluKernels& kernels = FPM_PICK(gelu);
    const RowBlocks blocks(a.width ? x.numel() / a.width : 0);
    float* sums = a.bias ? scratch(blocks.count * a.width) : nullptr;
    blocks.run(a.width, [&](int64_t block, int64_t first, int64_t end) {
        kernels.bias_gelu_backward(a, first, end, sums ? sums + block * a.width : nullptr);
    });
    if (bias.has_value()) kernels.add_up(a, sums, blocks.count, grad_bias.data_ptr());
    return {grad_x, grad_bias};
}

// f(first, end) over all elements, on torch's threads.
template <typename F>
void over_elements(int64_t count, const F& f) {
    if (count <= kElementsPerThread) {
        f(static_cast<int64_t>(0), count);
    } else {
        torch::stable::parallel_for(0, count, kElementsPerThread, f);
    }
}

Tensor gated_gelu(const Tensor& gate, const Tensor& up, bool tanh) {
    GeluArguments a = arguments(gate, std::nullopt, tanh);
    check_same_shape(up, gate, "up");
    Tensor out = output_like(gate);
    a.up = up.data_ptr();
    a.out = out.data_ptr();
    const GeluKernels& kernels = FPM_PICK(gelu);
    over_elements(gate.numel(), [&](int64_t first, int64_t end) { kernels.gated_gelu(a, first, end); });
    return out;
}

std::tuple<Tensor, Tensor> gated_gelu_backward(
    const Tensor& grad, const Tensor& gate, const Tensor& up, bool tanh) {
    GeluArguments a = arguments(gate, std::nullopt, tanh);
    check_same_shape(up, gate, "up");
    check_same_shape(grad, gate, "grad");
    Tensor grad_gate = output_like(gate), grad_up = output_like(gate);
    a.up = up.data_ptr();
    a.grad = grad.data_ptr();
    a.grad_x = grad_gate.data_ptr();
    a.grad_up = grad_up.data_ptr();
    const GeluKernels& kernels = FPM_PICK(gelu);
    over_elements(gate.numel(), [&](int64_t first, int64_t end) { kernels.gated_gelu_backward(a, first, end); });
    return {grad_gate, grad_up};
}

}  // namespace
}  // namespace fpm

STABLE_TORCH_LIBRARY_IMPL(fpm, CPU, m) {
    m.impl("bias_gelu", TORCH_BOX(&fpm::bias_gelu));
    m.impl("bias_gelu_backward", TORCH_BOX(&fpm::bias_gelu_backward));
    m.impl("gated_gelu", TORCH_BOX(&fpm::gated_gelu));
    m.impl("gated_gelu_backward", TORCH_BOX(&fpm::gated_gelu_backward));
}
