// Registers `fpm::residual_norm`, `fpm::norm`, `fpm::residual` and their backward operators for CUDA.
#include "cuda.h"

#include "../common/cuda_tensors.h"

namespace fpm {
namespace {

int64_t rows_of(const Tensor& x, const Tensor& weight) {
    const int64_t width = weight.numel();
    STD_TORCH_CHECK(x.dim() > 0 && x.size(x.dim() - 1) == width, "fpm: weight must have the input's last size");
    STD_TORCH_CHECK(width <= fpm_cuda_residual_norm_max_width(), "fpm: rows of ", width, " elements are too wide");
    return width ? x.numel() / width : 0;
}

std::tuple<Tensor, Tensor, Tensor> residual_norm(
    const Tensor& x, const Tensor& y, const OptionalTensor& bias, const Tensor& weight,
    const OptionalTensor& norm_bias, double alpha, double dropout, int64_t seed, int64_t stream, double eps,
    bool rms) {
    check_contiguous(x, "x");
    check_same_shape(y, x, "y");
    const int64_t rows = rows_of(x, weight), width = weight.numel();
    check_vector(bias, width, x, "bias");
    check_vector(weight, width, x, "weight");
    check_vector(norm_bias, width, x, "norm_bias");

    const OnDevice device(x);
    Tensor sum = output_like(x), normed = output_like(x), stats = float_output({rows, 2}, x);
    ResidualNormArguments a{};
    a.type = element_type(x);
    a.rows = rows;
    a.width = width;
    a.x = x.data_ptr();
    a.y = y.data_ptr();
    a.bias = data_or_null(bias);
    a.weight = weight.data_ptr();
    a.norm_bias = data_or_null(norm_bias);
    a.sum = sum.data_ptr();
    a.normed = normed.data_ptr();
    a.stats = static_cast<float*>(stats.data_ptr());
    a.alpha = alpha;
    a.eps = eps;
    a.dropout = dropout;
    a.seed = static_cast<uint64_t>(seed);
    a.stream = stream;
    a.rms = rms;
    if (rows && width) device.launch(fpm_cuda_residual_norm, a);
    return {sum, normed, stats};
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> residual_norm_backward(
    const OptionalTensor& grad_sum, const Tensor& grad_normed, const Tensor& sum, const Tensor& stats,
    const Tensor& weight, double alpha, double dropout, int64_t seed, int64_t stream, bool rms, bool has_bias,
    bool has_norm_bias) {
    check_contiguous(sum, "sum");
    check_contiguous(stats, "stats");
    check_same_shape(grad_normed, sum, "grad_normed");
    if (grad_sum.has_value()) check_same_shape(*grad_sum, sum, "grad_sum");
    const int64_t rows = rows_of(sum, weight), width = weight.numel();
    check_vector(weight, width, sum, "weight");
    STD_TORCH_CHECK(stats.numel() == 2 * rows, "fpm: stats must be (rows, 2)");

    const OnDevice device(sum);
    const int32_t dtype = dtype_of(sum);
    Tensor grad_x = output_like(sum), grad_y = output_like(sum);
    Tensor grad_bias = output({has_bias ? width : 0}, dtype, sum), grad_weight = output({width}, dtype, sum);
    Tensor grad_norm_bias = output({has_norm_bias ? width : 0}, dtype, sum);
    Tensor workspace = float_output({fpm_cuda_residual_norm_workspace(rows, width)}, sum);
    ResidualNormBackwardArguments a{};
    a.type = element_type(sum);
    a.rows = rows;
    a.width = width;
    a.grad_sum = data_or_null(grad_sum);
    a.grad_normed = grad_normed.data_ptr();
    a.sum = sum.data_ptr();
    a.weight = weight.data_ptr();
    a.stats = static_cast<const float*>(stats.data_ptr());
    a.grad_x = grad_x.data_ptr();
    a.grad_y = grad_y.data_ptr();
    a.grad_bias = has_bias ? grad_bias.data_ptr() : nullptr;
    a.grad_weight = grad_weight.data_ptr();
    a.grad_norm_bias = has_norm_bias ? grad_norm_bias.data_ptr() : nullptr;
    a.workspace = static_cast<float*>(workspace.data_ptr());
    a.alpha = alpha;
    a.dropout = dropout;
    a.seed = static_cast<uint64_t>(seed);
    a.stream = stream;
    a.rms = rms;
    if (width) device.launch(fpm_cuda_residual_norm_backward, a);
    return {grad_x, grad_y, grad_bias, grad_weight, grad_norm_bias};
}

std::tuple<Tensor, Tensor> norm(
    const Tensor& x, const Tensor& weight, const OptionalTensor& norm_bias, double eps, bool rms) {
    check_contiguous(x, "x");
    const int64_t rows = rows_of(x, weight), width = weight.numel();
    check_vector(weight, width, x, "weight");
    check_vector(norm_bias, width, x, "norm_bias");

    const OnDevice device(x);
    Tensor normed = output_like(x), stats = float_output({rows, 2}, x);
    ResidualNormArguments a{};
    a.type = element_type(x);
    a.rows = rows;
    a.width = width;
    a.x = x.data_ptr();
    a.weight = weight.data_ptr();
    a.norm_bias = data_or_null(norm_bias);
    a.normed = normed.data_ptr();
    a.stats = static_cast<float*>(stats.data_ptr());
    a.alpha = 1.0;
    a.eps = eps;
    a.rms = rms;
    if (rows && width) device.launch(fpm_cuda_residual_norm, a);
    return {normed, stats};
}

std::tuple<Tensor, Tensor, Tensor> norm_backward(
    const OptionalTensor& grad_sum, const Tensor& grad_normed, const Tensor& x, const Tensor& stats,
    const Tensor& weight, bool rms, bool has_norm_bias) {
    check_contiguous(x, "x");
    check_contiguous(stats, "stats");
    check_same_shape(grad_normed, x, "grad_normed");
    if (grad_sum.has_value()) check_same_shape(*grad_sum, x, "grad_sum");
    const int64_t rows = rows_of(x, weight), width = weight.numel();
    check_vector(weight, width, x, "weight");
    STD_TORCH_CHECK(stats.numel() == 2 * rows, "fpm: stats must be (rows, 2)");

    const OnDevice device(x);
    Tensor grad_x = output_like(x), grad_weight = output({width}, dtype_of(x), x);
    Tensor grad_norm_bias = output({has_norm_bias ? width : 0}, dtype_of(x), x);
    Tensor workspace = float_output({fpm_cuda_residual_norm_workspace(rows, width)}, x);
    ResidualNormBackwardArguments a{};
    a.type = element_type(x);
    a.rows = rows;
    a.width = width;
    a.grad_sum = data_or_null(grad_sum);
    a.grad_normed = grad_normed.data_ptr();
    a.sum = x.data_ptr();
    a.weight = weight.data_ptr();
    a.stats = static_cast<const float*>(stats.data_ptr());
    a.grad_x = grad_x.data_ptr();
    a.grad_weight = grad_weight.data_ptr();
    a.grad_norm_bias = has_norm_bias ? grad_norm_bias.data_ptr() : nullptr;
    a.workspace = static_cast<float*>(workspace.data_ptr());
    a.alpha = 1.0;
    a.rms = rms;
    if (width) device.launch(fpm_cuda_residual_norm_backward, a);
    return {grad_x, grad_weight, grad_norm_bias};
}

int64_t width_of(const Tensor& x) {
    const int64_t width = x.dim() ? x.size(x.dim() - 1) : 1;
    STD_TORCH_CHECK(width <= fpm_cuda_residual_norm_max_width(), "fpm: rows of ", width, " elements are too wide");
    return width;
}

Tensor residual(
    const Tensor& x, const Tensor& y, const OptionalTensor& bias, double dropout, int64_t seed, int64_t stream) {
    check_contiguous(x, "x");
    check_same_shape(y, x, "y");
    const int64_t width = width_of(x);
    check_vector(bias, width, x, "bias");

    const OnDevice device(x);
    Tensor sum = output_like(x);
    ResidualNormArguments a{};
    a.type = element_type(x);
    a.rows = width ? x.numel() / width : 0;
    a.width = width;
    a.x = x.data_ptr();
    a.y = y.data_ptr();
    a.bias = data_or_null(bias);
    a.sum = sum.data_ptr();
    a.alpha = 1.0;
    a.dropout = dropout;
    a.seed = static_cast<uint64_t>(seed);
    a.stream = stream;
    if (a.rows) device.launch(fpm_cuda_residual_norm, a);
    return sum;
}

std::tuple<Tensor, Tensor> residual_backward(
    const Tensor& grad_sum, double dropout, int64_t seed, int64_t stream, bool has_bias) {
    check_contiguous(grad_sum, "grad_sum");
    const int64_t width = width_of(grad_sum), rows = width ? grad_sum.numel() / width : 0;

    const OnDevice device(grad_sum);
    Tensor grad_y = output_like(grad_sum);
    Tensor grad_bias = output({has_bias ? width : 0}, dtype_of(grad_sum), grad_sum);
    Tensor workspace = float_output({fpm_cuda_residual_norm_workspace(rows, width)}, grad_sum);
    ResidualNormBackwardArguments a{};
    a.type = element_type(grad_sum);
    a.rows = rows;
    a.width = width;
    a.grad_sum = grad_sum.data_ptr();
    a.grad_y = grad_y.data_ptr();
    a.grad_bias = has_bias ? grad_bias.data_ptr() : nullptr;
    a.workspace = static_cast<float*>(workspace.data_ptr());
    a.alpha = 1.0;
    a.dropout = dropout;
    a.seed = static_cast<uint64_t>(seed);
    a.stream = stream;
    if (width) device.launch(fpm_cuda_residual_norm_backward, a);
    return {grad_y, grad_bias};
}

}  // namespace
}  // namespace fpm

STABLE_TORCH_LIBRARY_IMPL(fpm, CUDA, m) {
    m.impl("residual_norm", TORCH_BOX(&fpm::residual_norm));
    m.impl("residual_norm_backward", TORCH_BOX(&fpm::residual_norm_backward));
    m.impl("norm", TORCH_BOX(&fpm::norm));
    m.impl("norm_backward", TORCH_BOX(&fpm::norm_backward));
    m.impl("residual", TORCH_BOX(&fpm::residual));
    m.impl("residual_backward", TORCH_BOX(&fpm::residual_backward));
}
