// Registers `fpm::bias_gelu`, `fpm::gated_gelu` and their backward operators for CUDA.
#include "cuda.h"

#include "../common/cuda_tensors.h"

namespace fpm {
namespace {

int64_t width_of(const Tensor& x) { return x.dim() ? x.size(x.dim() - 1) : 1; }

BiasGeluArguments bias_gelu_arguments(const Tensor& x, const OptionalTensor& bias, bool tanh) {
    check_contiguous(x, "x");
    BiasGeluArguments a{};
    a.type = element_type(x);
    a.width = a.x_stride = width_of(x);
    a.rows = a.width ? x.numel() / a.width : 0;
    check_vector(bias, a.width, x, "bias");
    a.x = x.data_ptr();
    a.bias = data_or_null(bias);
    a.tanh = tanh;
    return a;
}

Tensor bias_gelu(const Tensor& x, const OptionalTensor& bias, bool tanh) {
    BiasGeluArguments a = bias_gelu_arguments(x, bias, tanh);
    const OnDevice device(x);
    Tensor out = output_like(x);
    a.out = out.data_ptr();
    if (a.rows) device.launch(fpm_cuda_bias_gelu, a);
    return out;
}

std::tuple<Tensor, Tensor> bias_gelu_backward(
    const Tensor& grad, const Tensor& x, const OptionalTensor& bias, bool tanh) {
    BiasGeluArguments a = bias_gelu_arguments(x, bias, tanh);
    check_same_shape(grad, x, "grad");
    const OnDevice device(x);
    const int64_t bias_width = bias.has_value() ? a.width : 0;
    Tensor grad_x = output_like(x), grad_bias = output({bias_width}, dtype_of(x), x);
    Tensor workspace = float_output({bias_width ? fpm_cuda_bias_gelu_workspace(a.rows, a.width) : 0}, x);
    a.grad = grad.data_ptr();
    a.grad_x = grad_x.data_ptr();
    a.grad_bias = bias_width ? grad_bias.data_ptr() : nullptr;
    a.workspace = static_cast<float*>(workspace.data_ptr());
    if (a.width) device.launch(fpm_cuda_bias_gelu_backward, a);
    return {grad_x, grad_bias};
}

GatedGeluArguments gated_gelu_arguments(const Tensor& gate, const Tensor& up, bool tanh) {
    check_contiguous(gate, "gate");
    check_same_shape(up, gate, "up");
    GatedGeluArguments a{};
    a.type = element_type(gate);
    a.width = a.gate_stride = a.up_stride = a.grad_gate_stride = a.grad_up_stride = width_of(gate);
    a.rows = a.width ? gate.numel() / a.width : 0;
    a.gate = gate.data_ptr();
    a.up = up.data_ptr();
    a.tanh = tanh;
    return a;
}

Tensor gated_gelu(const Tensor& gate, const Tensor& up, bool tanh) {
    GatedGeluArguments a = gated_gelu_arguments(gate, up, tanh);
    const OnDevice device(gate);
    Tensor out = output_like(gate);
    a.out = out.data_ptr();
    if (a.rows) device.launch(fpm_cuda_gated_gelu, a);
    return out;
}

std::tuple<Tensor, Tensor> gated_gelu_backward(const Tensor& grad, const Tensor& gate, const Tensor& up, bool tanh) {
    GatedGeluArguments a = gated_gelu_arguments(gate, up, tanh);
    check_same_shape(grad, gate, "grad");
    const OnDevice device(gate);
    Tensor grad_gate = output_like(gate), grad_up = output_like(gate);
    a.grad = grad.data_ptr();
    a.grad_gate = grad_gate.data_ptr();
    a.grad_up = grad_up.data_ptr();
    if (a.rows) device.launch(fpm_cuda_gated_gelu_backward, a);
    return {grad_gate, grad_up};
}

}  // namespace
}  // namespace fpm

STABLE_TORCH_LIBRARY_IMPL(fpm, CUDA, m) {
    m.impl("bias_gelu", TORCH_BOX(&fpm::bias_gelu));
    m.impl("bias_gelu_backward", TORCH_BOX(&fpm::bias_gelu_backward));
    m.impl("gated_gelu", TORCH_BOX(&fpm::gated_gelu));
    m.impl("gated_gelu_backward", TORCH_BOX(&fpm::gated_gelu_backward));
}
