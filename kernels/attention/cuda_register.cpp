// Registers `fpm::attention` and its backward operator for CUDA: checks, outputs, strides.
#include <limits>

#include "cuda.h"

#include "../common/cuda_tensors.h"

namespace fpm {
namespace {

// (batch, positions, heads, head_size), packed (tokens, heads, head_size), with a contiguous last dimension.
void check_matrices(const Tensor& x, const Tensor& query, bool packed, const char* name) {
    STD_TORCH_CHECK(x.is_cuda() && x.dim() == (packed ? 3 : 4), "fpm: ", name, " has a wrong rank or device");
    STD_TORCH_CHECK(x.scalar_type() == query.scalar_type(), "fpm: ", name, " must have the query's dtype");
    const int64_t rank = x.dim();
    STD_TORCH_CHECK(
        x.size(rank - 1) == query.size(rank - 1) && x.size(rank - 2) == query.size(rank - 2), "fpm: ", name,
        " must have the query's heads and head size");
    STD_TORCH_CHECK(
        x.stride(rank - 1) == 1 || x.size(rank - 1) == 1, "fpm: ", name, "'s last dimension must be contiguous");
}

void set_strides(int64_t (&strides)[3], const Tensor& x) {
    const int64_t rank = x.dim();
    strides[0] = rank == 4 ? x.stride(0) : 0;
    strides[1] = x.stride(rank - 3);
    strides[2] = x.stride(rank - 2);
}

void set_bias(AttentionArguments& a, const Tensor& bias, const Tensor& query) {
    STD_TORCH_CHECK(
        bias.is_cuda() && bias.dim() == 4 && (bias.size(0) == 1 || bias.size(0) == a.batch) &&
            bias.size(1) == a.heads && bias.size(2) == a.queries && bias.size(3) == a.keys &&
            (a.keys == 1 || bias.stride(3) == 1),
        "fpm: bias must be (1 or batch, heads, queries, keys) with a contiguous last dimension");
    STD_TORCH_CHECK(bias.scalar_type() == query.scalar_type(), "fpm: bias must have the query's dtype");
    a.bias = bias.data_ptr();
    a.bias_batches = bias.size(0);
    a.bias_strides[0] = bias.size(0) > 1 ? bias.stride(0) : 0;
    a.bias_strides[1] = bias.stride(1);
    a.bias_strides[2] = bias.stride(2);
}

void set_masks(
    AttentionArguments& a, const OptionalTensor& key_mask, const OptionalTensor& documents) {
    if (key_mask.has_value()) {
        check_contiguous(*key_mask, "key_mask");
        STD_TORCH_CHECK(
            key_mask->scalar_type() == ScalarType::Bool && key_mask->numel() == a.batch * a.keys,
            "fpm: key_mask must be bool, (batch, keys)");
        a.key_mask = static_cast<const uint8_t*>(key_mask->data_ptr());
    }
    if (documents.has_value()) {
        check_contiguous(*documents, "documents");
        STD_TORCH_CHECK(
            documents->scalar_type() == ScalarType::Long && documents->numel() == a.batch * a.keys &&
                a.queries == a.keys,
            "fpm: documents must be int64, (batch, keys), for as many queries as keys");
        a.documents = static_cast<const int64_t*>(documents->data_ptr());
    }
}

AttentionArguments arguments(
    const Tensor& query, const Tensor& key, const Tensor& value, const OptionalTensor& bias,
    const OptionalTensor& key_mask, const OptionalTensor& documents, const OptionalTensor& cu_seqlens, bool causal,
    double scale, double dropout, int64_t seed, int64_t stream) {
    const bool packed = cu_seqlens.has_value();
    check_matrices(query, query, packed, "query");
    check_matrices(key, query, packed, "key");
    check_matrices(value, query, packed, "value");
    AttentionArguments a{};
    a.type = element_type(query);
    a.heads = query.size(query.dim() - 2);
    a.head_size = query.size(query.dim() - 1);
    STD_TORCH_CHECK(
        a.head_size <= fpm_cuda_attention_max_head_size(), "fpm: heads of ", a.head_size, " elements are too large");
    STD_TORCH_CHECK(
        key.size(0) == query.size(0) && value.size(0) == key.size(0), "fpm: query, key and value differ in length");
    if (packed) {
        STD_TORCH_CHECK(
            !bias.has_value() && !key_mask.has_value() && !documents.has_value(),
            "fpm: a packed stream takes no bias, mask or documents");
        check_contiguous(*cu_seqlens, "cu_seqlens");
        STD_TORCH_CHECK(
            cu_seqlens->scalar_type() == ScalarType::Int && cu_seqlens->numel() >= 1, "fpm: cu_seqlens must be int32");
        a.cu_seqlens = static_cast<const int32_t*>(cu_seqlens->data_ptr());
        a.batch = cu_seqlens->numel() - 1;
        a.tokens = query.size(0);
    } else {
        a.batch = query.size(0);
        a.queries = query.size(1);
        a.keys = key.size(1);
        STD_TORCH_CHECK(value.size(1) == a.keys, "fpm: key and value must have the same lengths");
        STD_TORCH_CHECK(a.keys < std::numeric_limits<int32_t>::max() / 2, "fpm: too many keys");
        if (bias.has_value()) set_bias(a, *bias, query);
        set_masks(a, key_mask, documents);
    }
    a.query = query.data_ptr();
    a.key = key.data_ptr();
    a.value = value.data_ptr();
    set_strides(a.query_strides, query);
    set_strides(a.key_strides, key);
    set_strides(a.value_strides, value);
    a.scale = scale;
    a.dropout = dropout;
    a.seed = static_cast<uint64_t>(seed);
    a.stream = stream;
    a.causal = causal;
    return a;
}

std::vector<int64_t> row_sizes(const AttentionArguments& a) {
    return a.cu_seqlens ? std::vector<int64_t>{a.heads, a.tokens} : std::vector<int64_t>{a.batch, a.heads, a.queries};
}

std::tuple<Tensor, Tensor> attention(
    const Tensor& query, const Tensor& key, const Tensor& value, const OptionalTensor& bias,
    const OptionalTensor& key_mask, const OptionalTensor& documents, const OptionalTensor& cu_seqlens, bool causal,
    double scale, double dropout, int64_t seed, int64_t stream) {
    AttentionArguments a =
        arguments(query, key, value, bias, key_mask, documents, cu_seqlens, causal, scale, dropout, seed, stream);
    const OnDevice device(query);
    Tensor out = output_like(query), log_sum_exp = float_output(row_sizes(a), query);
    a.out = out.data_ptr();
    set_strides(a.out_strides, out);
    a.log_sum_exp = static_cast<float*>(log_sum_exp.data_ptr());
    if (query.numel()) device.launch(fpm_cuda_attention, a);
    return {out, log_sum_exp};
}

void attention_backward(
    const Tensor& grad_out, const Tensor& query, const Tensor& key, const Tensor& value, const OptionalTensor& bias,
    const OptionalTensor& key_mask, const OptionalTensor& documents, const OptionalTensor& cu_seqlens,
    const Tensor& out, const Tensor& log_sum_exp, bool causal, double scale, double dropout, int64_t seed,
    int64_t stream, Tensor grad_query, Tensor grad_key, Tensor grad_value, OptionalTensor grad_bias) {
    AttentionArguments a =
        arguments(query, key, value, bias, key_mask, documents, cu_seqlens, causal, scale, dropout, seed, stream);
    const bool packed = cu_seqlens.has_value();
    check_matrices(grad_out, query, packed, "grad_out");
    check_matrices(out, query, packed, "out");
    check_matrices(grad_query, query, packed, "grad_query");
    check_matrices(grad_key, query, packed, "grad_key");
    check_matrices(grad_value, query, packed, "grad_value");
    check_contiguous(log_sum_exp, "log_sum_exp");
    const OnDevice device(query);
    Tensor delta = float_output(row_sizes(a), query);
    a.out = out.data_ptr();
    a.log_sum_exp = static_cast<float*>(log_sum_exp.data_ptr());
    a.delta = static_cast<float*>(delta.data_ptr());
    a.grad_out = grad_out.data_ptr();
    a.grad_query = grad_query.data_ptr();
    a.grad_key = grad_key.data_ptr();
    a.grad_value = grad_value.data_ptr();
    set_strides(a.out_strides, out);
    set_strides(a.grad_out_strides, grad_out);
    set_strides(a.grad_query_strides, grad_query);
    set_strides(a.grad_key_strides, grad_key);
    set_strides(a.grad_value_strides, grad_value);
    if (grad_bias.has_value()) {
        STD_TORCH_CHECK(bias.has_value(), "fpm: there is no bias for grad_bias");
        check_same_shape(*grad_bias, *grad_bias, "grad_bias");
        STD_TORCH_CHECK(
            grad_bias->scalar_type() == query.scalar_type() && grad_bias->numel() == bias->numel(),
            "fpm: grad_bias must be contiguous and of the bias's shape and dtype");
        a.grad_bias = grad_bias->data_ptr();
    }
    if (query.numel() || key.numel()) device.launch(fpm_cuda_attention_backward, a);
}

}  // namespace
}  // namespace fpm

STABLE_TORCH_LIBRARY_IMPL(fpm, CUDA, m) {
    m.impl("attention", TORCH_BOX(&fpm::attention));
    m.impl("attention_backward", TORCH_BOX(&fpm::attention_backward));
}
