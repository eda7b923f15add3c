// Registers `fpm::residual_norm` and its backward operator for the CPU: checks, outputs, threads.
#include "cpu.h"
#include "tensors.h"

namespace fpm {
namespace {

std::tuple<Tensor, Tensor, Tensor> residual_norm(
    const Tensor& x, const Tensor& y, const OptionalTensor& bias, const Tensor& weight,
    const OptionalTensor& norm_bias, double alpha, double dropout, int64_t seed, int64_t stream, double eps,
    bool rms) {
    check_contiguous(x, "x");
    check_same_shape(y, x, "y");
    const int64_t width = weight.numel(), rows = width ? x.numel() / width : 0;
    STD_TORCH_CHECK(x.dim() > 0 && x.size(x.dim() - 1) == width, "fpm: weight must have x's last size");
    check_vector(bias, width, x, "bias");
    check_vector(weight, width, x, "weight");
    check_vector(norm_bias, width, x, "norm_bias");

    Tensor sum = output_like(x), normed = output_like(x), stats = float_output({rows, 2});
    ResidualNormArguments a{};
    a.type = element_type(x);
    a.width = width;
    a.x = x.data_ptr();
    a.y = y.data_ptr();
    a.bias = data_or_null(bias);
    a.weight = weight.data_ptr();
    a.norm_bias = data_or_null(norm_bias);
    a.sum = sum.data_ptr();
    a.normed = normed.data_ptr();
    a.stats = static_cast<float*>(stats.data_ptr());
    a.alpha = static_cast<float>(alpha);
    a.eps = static_cast<float>(eps);
    a.dropout = dropout;
    a.seed = static_cast<uint64_t>(seed);
    a.stream = static_cast<uint32_t>(stream);
    a.rms = rms;
    const ResidualNormKernels& kernels = FPM_PICK(residual_norm);
    RowBlocks(rows).run(width, [&](int64_t, int64_t first, int64_t end) { kernels.forward(a, first, end); });
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
    const int64_t width = weight.numel(), rows = width ? sum.numel() / width : 0;
    check_vector(weight, width, sum, "weight");
    STD_TORCH_CHECK(stats.numel() == 2 * rows, "fpm: stats must be (rows, 2)");

    const int32_t dtype = dtype_of(sum);
    Tensor grad_x = output_like(sum), grad_y = output_like(sum);
    Tensor grad_bias = output({has_bias ? width : 0}, dtype), grad_weight = output({width}, dtype);
    Tensor grad_norm_bias = output({has_norm_bias ? width : 0}, dtype);
    ResidualNormArguments a{};
    a.type = element_type(sum);
    a.width = width;
    a.weight = weight.data_ptr();
    a.sum = sum.data_ptr();
    a.stats = static_cast<float*>(stats.data_ptr());
    a.grad_sum = data_or_null(grad_sum);
    a.grad_normed = grad_normed.data_ptr();
    a.grad_x = grad_x.data_ptr();
    a.grad_y = grad_y.data_ptr();
    a.alpha = static_cast<float>(alpha);
    a.dropout = dropout;
    a.seed = static_cast<uint64_t>(seed);
    a.stream = static_cast<uint32_t>(stream);
    a.rms = rms;
    const ResidualNormKernels& kernels = FPM_PICK(residual_norm);
    const RowBlocks blocks(rows);
    float* sums = scratch(blocks.count * 3 * width);
    blocks.run(width, [&](int64_t block, int64_t first, int64_t end) {
        kernels.backward(a, first, end, sums + block * 3 * width);
    });
    void* out[3] = {
        has_bias ? grad_bias.data_ptr() : nullptr, grad_weight.data_ptr(),
        has_norm_bias ? grad_norm_bias.data_ptr() : nullptr};
    kernels.add_up(a, sums, blocks.count, out);
    return {grad_x, grad_y, grad_bias, grad_weight, grad_norm_bias};
}

std::tuple<Tensor, Tensor> norm(
    const Tensor& x, const Tensor& weight, const OptionalTensor& norm_bias, double eps, bool rms) {
    check_contiguous(x, "x");
    const int64_t width = weight.numel(), rows = width ? x.numel() / width : 0;
    STD_TORCH_CHECK(x.dim() > 0 && x.size(x.dim() - 1) == width, "fpm: weight must have x's last size");
    check_vector(weight, width, x, "weight");
    check_vector(norm_bias, width, x, "norm_bias");

    Tensor normed = output_like(x), stats = float_output({rows, 2});
    ResidualNormArguments a{};
    a.type = element_type(x);
    a.width = width;
    a.x = x.data_ptr();
    a.weight = weight.data_ptr();
    a.norm_bias = data_or_null(norm_bias);
    a.normed = normed.data_ptr();
    a.stats = static_cast<float*>(stats.data_ptr());
    a.eps = static_cast<float>(eps);
    a.rms = rms;
    const ResidualNormKernels& kernels = FPM_PICK(residual_norm);
    RowBlocks(rows).run(width, [&](int64_t, int64_t first, int64_t end) { kernels.forward(a, first, end); });
    return {normed, stats};
}

std::tuple<Tensor, Tensor, Tensor> norm_backward(
    const OptionalTensor& grad_sum, const Tensor& grad_normed, const Tensor& x, const Tensor& stats,
    const Tensor& weight, bool rms, bool has_norm_bias) {
    check_contiguous(x, "x");
    check_contiguous(stats, "stats");
    check_same_shape(grad_normed, x, "grad_normed");
    if (grad_sum.has_value()) check_same_shape(*grad_sum, x, "grad_sum");
    const int64_t width = weight.numel(), rows = width ? x.numel() / width : 0;
    check_vector(weight, width, x, "weight");
    STD_TORCH_CHECK(stats.numel() == 2 * rows, "fpm: stats must be (rows, 2)");

    const int32_t dtype = dtype_of(x);
    Tensor grad_x = output_like(x), grad_weight = output({width}, dtype);
    Tensor grad_norm_bias = output({has_norm_bias ? width : 0}, dtype);
    ResidualNormArguments a{};
    a.type = element_type(x);
    a.width = width;
    a.weight = weight.data_ptr();
    a.sum = const_cast<void*>(x.data_ptr());
    a.stats = static_cast<float*>(stats.data_ptr());
    a.grad_sum = data_or_null(grad_sum);
    a.grad_normed = grad_normed.data_ptr();
    a.grad_x = grad_x.data_ptr();
    a.alpha = 1.0f;
    a.rms = rms;
    const ResidualNormKernels& kernels = FPM_PICK(residual_norm);
    const RowBlocks blocks(rows);
    float* sums = scratch(blocks.count * 3 * width);
    blocks.run(width, [&](int64_t block, int64_t first, int64_t end) {
        kernels.backward(a, first, end, sums + block * 3 * width);
    });
    void* out[3] = {nullptr, grad_weight.data_ptr(), has_norm_bias ? grad_norm_bias.data_ptr() : nullptr};
    kernels.add_up(a, sums, blocks.count, out);
    return {grad_x, grad_weight, grad_norm_bias};
}

Tensor residual(
    const Tensor& x, const Tensor& y, const OptionalTensor& bias, double dropout, int64_t seed, int64_t stream) {
    check_contiguous(x, "x");
    check_same_shape(y, x, "y");
    const int64_t width = x.dim() ? x.size(x.dim() - 1) : 1;
    check_vector(bias, width, x, "bias");

    Tensor sum = output_like(x);
    ResidualNormArguments a{};
    a.type = element_type(x);
    a.width = width;
    a.x = x.data_ptr();
    a.y = y.data_ptr();
    a.bias = data_or_null(bias);
    a.sum = sum.data_ptr();
    a.alpha = 1.0f;
    a.dropout = dropout;
    a.seed = static_cast<uint64_t>(seed);
    a.stream = static_cast<uint32_t>(stream);
    const ResidualNormKernels& kernels = FPM_PICK(residual_norm);
    RowBlocks(width ? x.numel() / width : 0).run(width, [&](int64_t, int64_t first, int64_t end) {
        kernels.forward(a, first, end);
    });
    return sum;
}

std::tuple<Tensor, Tensor> residual_backward(
    const Tensor& grad_sum, double dropout, int64_t seed, int64_t stream, bool has_bias) {
    check_contiguous(grad_sum, "grad_sum");
    const int64_t width = grad_sum.dim() ? grad_sum.size(grad_sum.dim() - 1) : 1;
    Tensor grad_y = output_like(grad_sum), grad_bias = output({has_bias ? width : 0}, dtype_of(grad_sum));
    ResidualNormArguments a{};
    a.type = element_type(grad_sum);
    a.width = width;
    a.grad_sum = grad_sum.data_ptr();
    a.grad_y = grad_y.data_ptr();
    a.dropout = dropout;
    a.seed = static_cast<uint64_t>(seed);
    a.stream = static_cast<uint32_t>(stream);
    const ResidualNormKernels& kernels = FPM_PICK(residual_norm);
    const RowBlocks blocks(width ? grad_sum.numel() / width : 0);
    float* sums = scratch(blocks.count * 3 * width);
    blocks.run(width, [&](int64_t block, int64_t first, int64_t end) {
        kernels.backward(a, first, end, sums + block * 3 * width);
    });
    void* out[3] = {has_bias ? grad_bias.data_ptr() : nullptr, nullptr, nullptr};
    kernels.add_up(a, sums, blocks.count, out);
    return {grad_y, grad_bias};
}

}  // namespace
}  // namespace fpm

STABLE_TORCH_LIBRARY_IMPL(fpm, CPU, m) {
    m.impl("residual_norm", TORCH_BOX(&fpm::residual_norm));
    m.impl("residual_norm_backward", TORCH_BOX(&fpm::residual_norm_backward));
    m.impl("norm", TORCH_BOX(&fpm::norm));
    m.impl("norm_backward", TORCH_BOX(&fpm::norm_backward));
    m.impl("residual", TORCH_BOX(&fpm::residual));
    m.impl("residual_backward", TORCH_BOX(&fpm::residual_backward));
}
