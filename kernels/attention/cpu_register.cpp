// Registers `fpm::attention` and its backward operator for the CPU: checks, which keys each query sees, threads.
#include <atomic>
#include <limits>

#include "cpu.h"
#include "philox.h"
#include "tensors.h"

namespace fpm {
namespace {

// Which tensors one call is given, and what they have in common.
struct Call {
    const Tensor &query, &key, &value;
    const OptionalTensor &bias, &key_mask, &documents, &cu_seqlens;
    bool causal;

    bool packed() const { return cu_seqlens.has_value(); }
    int64_t heads() const { return query.size(query.dim() - 2); }
    int64_t head_size() const { return query.size(query.dim() - 1); }
};

// One sequence: where its rows begin in the packed stream, or its number in the batch.
struct Sequence {
    int64_t batch, first_query, num_queries, first_key, num_keys;
};

// Which keys each query sees: the range [first, end), without those whose bias is -inf.
struct Visible {
    std::vector<int32_t> first, end;
    std::vector<float> key_bias;  // empty for none
};

void check_matrices(const Tensor& x, const Call& call, const char* name) {
    STD_TORCH_CHECK(x.is_cpu() && x.dim() == (call.packed() ? 3 : 4), "fpm: ", name, " has a wrong rank or device");
    STD_TORCH_CHECK(x.scalar_type() == call.query.scalar_type(), "fpm: ", name, " must have the query's dtype");
    STD_TORCH_CHECK(
        x.size(x.dim() - 1) == call.head_size() && x.size(x.dim() - 2) == call.heads(), "fpm: ", name,
        " must have the query's heads and head size");
    STD_TORCH_CHECK(
        x.stride(x.dim() - 1) == 1 || call.head_size() == 1 || x.numel() == 0, "fpm: ", name, "'s last dimension must be contiguous");
}

void check(const Call& call) {
    check_matrices(call.query, call, "query");
    check_matrices(call.key, call, "key");
    check_matrices(call.value, call, "value");
    const int64_t key_dim = call.packed() ? 0 : 1;
    STD_TORCH_CHECK(
        call.key.size(0) == call.value.size(0) && call.key.size(key_dim) == call.value.size(key_dim),
        "fpm: key and value must have the same lengths");
    STD_TORCH_CHECK(call.key.size(key_dim) < std::numeric_limits<int32_t>::max() / 2, "fpm: too many keys");
    if (call.packed()) {
        STD_TORCH_CHECK(
            !call.bias.has_value() && !call.key_mask.has_value() && !call.documents.has_value(),
            "fpm: a packed stream takes no bias, mask or documents");
        check_contiguous(*call.cu_seqlens, "cu_seqlens");
        STD_TORCH_CHECK(call.cu_seqlens->scalar_type() == ScalarType::Int, "fpm: cu_seqlens must be int32");
        STD_TORCH_CHECK(call.query.size(0) == call.key.size(0), "fpm: a packed stream attends to itself");
        return;
    }
    STD_TORCH_CHECK(call.query.size(0) == call.key.size(0), "fpm: query and key must have the same batch");
    const int64_t batch = call.query.size(0), queries = call.query.size(1), keys = call.key.size(1);
    if (call.bias.has_value()) {
        const Tensor& bias = *call.bias;
        STD_TORCH_CHECK(
            bias.dim() == 4 && (bias.size(0) == 1 || bias.size(0) == batch) && bias.size(1) == call.heads() &&
                bias.size(2) == queries && bias.size(3) == keys && (keys == 1 || bias.stride(3) == 1),
            "fpm: bias must be (1 or batch, heads, queries, keys) with a contiguous last dimension");
        STD_TORCH_CHECK(bias.scalar_type() == call.query.scalar_type(), "fpm: bias must have the query's dtype");
    }
    if (call.key_mask.has_value()) {
        check_contiguous(*call.key_mask, "key_mask");
        STD_TORCH_CHECK(
            call.key_mask->scalar_type() == ScalarType::Bool && call.key_mask->numel() == batch * keys,
            "fpm: key_mask must be bool, (batch, keys)");
    }
    if (call.documents.has_value()) {
        check_contiguous(*call.documents, "documents");
        STD_TORCH_CHECK(
            call.documents->scalar_type() == ScalarType::Long && call.documents->numel() == batch * keys &&
                queries == keys,
            "fpm: documents must be int64, (batch, keys), for as many queries as keys");
    }
}

std::vector<Sequence> sequences(const Call& call) {
    std::vector<Sequence> all;
    if (!call.packed()) {
        for (int64_t b = 0; b < call.query.size(0); ++b) {
            all.push_back({b, 0, call.query.size(1), 0, call.key.size(1)});
        }
        return all;
    }
    const int32_t* ends = static_cast<const int32_t*>(call.cu_seqlens->data_ptr());
    const int64_t count = call.cu_seqlens->numel() - 1;
    STD_TORCH_CHECK(
        count >= 0 && ends[0] == 0 && ends[count] == call.query.size(0), "fpm: cu_seqlens must cover the stream");
    for (int64_t i = 0; i < count; ++i) {
        STD_TORCH_CHECK(ends[i] <= ends[i + 1], "fpm: cu_seqlens must not fall");
        all.push_back({0, ends[i], ends[i + 1] - ends[i], ends[i], ends[i + 1] - ends[i]});
    }
    return all;
}

Visible visible(const Call& call, const Sequence& sequence) {
    const int64_t queries = sequence.num_queries, keys = sequence.num_keys;
    Visible result;
    result.first.assign(queries, 0);
    result.end.assign(queries, static_cast<int32_t>(keys));
    if (call.documents.has_value()) {
        const int64_t* documents = static_cast<const int64_t*>(call.documents->data_ptr()) + sequence.batch * keys;
        for (int64_t i = 1; i < keys; ++i) {
            STD_TORCH_CHECK(documents[i - 1] <= documents[i], "fpm: documents must not fall");
            result.first[i] = documents[i] == documents[i - 1] ? result.first[i - 1] : static_cast<int32_t>(i);
        }
        for (int64_t i = keys - 1; i-- > 0;) {
            if (documents[i] != documents[i + 1]) result.end[i] = static_cast<int32_t>(i + 1);
            else result.end[i] = result.end[i + 1];
        }
    }
    if (call.causal) {  // the last query sees the last key
        for (int64_t i = 0; i < queries; ++i) {
            const int64_t end = i + 1 + keys - queries;
            if (end < result.end[i]) result.end[i] = static_cast<int32_t>(end > 0 ? end : 0);
        }
    }
    if (call.key_mask.has_value()) {
        const bool* mask = static_cast<const bool*>(call.key_mask->data_ptr()) + sequence.batch * keys;
        int64_t end = keys;
        while (end > 0 && !mask[end - 1]) --end;
        bool holes = false;
        for (int64_t k = 0; k < end; ++k) holes |= !mask[k];
        for (int32_t& each : result.end) each = each > end ? static_cast<int32_t>(end) : each;
        if (holes) {
            result.key_bias.assign(keys + 64, 0.0f);  // whole vectors are read
            for (int64_t k = 0; k < end; ++k) {
                if (!mask[k]) result.key_bias[k] = -std::numeric_limits<float>::infinity();
            }
        }
    }
    return result;
}

// A tensor's rows for one head of one sequence: address and distance between rows.
struct Rows {
    char* data;
    int64_t stride;

    Rows(const Tensor& x, bool packed, int64_t batch, int64_t first, int64_t head) {
        const int64_t rank = x.dim();
        stride = x.stride(rank - 3);
        const int64_t offset = (packed ? 0 : batch * x.stride(0)) + first * stride + head * x.stride(rank - 2);
        data = static_cast<char*>(x.data_ptr()) + offset * x.element_size();
    }
};

AttentionShape shape_of(
    const Call& call, const std::vector<Sequence>& all, double scale, double dropout, int64_t seed, int64_t stream) {
    int64_t longest = 0;
    for (const Sequence& sequence : all) longest = sequence.num_keys > longest ? sequence.num_keys : longest;
    return {
        element_type(call.query), call.head_size(), longest, static_cast<float>(scale), dropout,
        static_cast<uint64_t>(seed), static_cast<uint32_t>(stream)};
}

AttentionHead head_of(
    const Call& call, const AttentionShape& shape, const Sequence& sequence, const Visible& seen, int64_t n,
    const Tensor& out, const Tensor& log_sum_exp) {
    const bool packed = call.packed();
    const int64_t tokens = call.query.size(packed ? 0 : 1), heads = call.heads();
    AttentionHead head{};
    head.num_queries = sequence.num_queries;
    head.num_keys = sequence.num_keys;
    const Rows query(call.query, packed, sequence.batch, sequence.first_query, n);
    const Rows key(call.key, packed, sequence.batch, sequence.first_key, n);
    const Rows value(call.value, packed, sequence.batch, sequence.first_key, n);
    const Rows result(out, packed, sequence.batch, sequence.first_query, n);
    head.query = query.data;
    head.query_stride = query.stride;
    head.key = key.data;
    head.key_stride = key.stride;
    head.value = value.data;
    head.value_stride = value.stride;
    head.out = result.data;
    head.out_stride = result.stride;
    head.first_key = seen.first.data();
    head.end_key = seen.end.data();
    head.key_bias = seen.key_bias.empty() ? nullptr : seen.key_bias.data();
    if (call.bias.has_value()) {
        const Tensor& bias = *call.bias;
        const int64_t offset = (bias.size(0) > 1 ? sequence.batch * bias.stride(0) : 0) + n * bias.stride(1);
        head.bias = static_cast<const char*>(bias.data_ptr()) + offset * bias.element_size();
        head.bias_stride = bias.stride(2);
    }
    const int64_t row = (sequence.batch * heads + n) * tokens + sequence.first_query;
    head.log_sum_exp = static_cast<float*>(log_sum_exp.data_ptr()) + row;
    head.dropout_stride = padded_row(shape.longest_keys);
    head.dropout_element = row * head.dropout_stride;
    return head;
}

// task(i) for each i, on torch's threads, each taking the next one as it becomes free.
template <typename F>
void run_tasks(int64_t count, int64_t operations, const F& task) {
    const int64_t threads = torch::stable::get_num_threads();
    if (threads == 1 || count == 1 || operations < 1000000) {
        for (int64_t i = 0; i < count; ++i) task(i);
        return;
    }
    std::atomic<int64_t> next{0};
    torch::stable::parallel_for(0, threads < count ? threads : count, 1, [&](int64_t, int64_t) {
        for (int64_t i = next++; i < count; i = next++) task(i);
    });
}

float* aligned_scratch(int64_t num_floats) {
    const uintptr_t address = reinterpret_cast<uintptr_t>(scratch(num_floats + 16));
    return reinterpret_cast<float*>((address + 63) / 64 * 64);
}

int64_t operations(const std::vector<Sequence>& all, int64_t heads, int64_t head_size) {
    int64_t products = 0;
    for (const Sequence& sequence : all) products += sequence.num_queries * sequence.num_keys;
    return products * heads * head_size;
}

std::vector<Visible> visible_of_all(const Call& call, const std::vector<Sequence>& all) {
    std::vector<Visible> result;
    result.reserve(all.size());
    for (const Sequence& sequence : all) result.push_back(visible(call, sequence));
    return result;
}

std::tuple<Tensor, Tensor> attention(
    const Tensor& query, const Tensor& key, const Tensor& value, const OptionalTensor& bias,
    const OptionalTensor& key_mask, const OptionalTensor& documents, const OptionalTensor& cu_seqlens, bool causal,
    double scale, double dropout, int64_t seed, int64_t stream) {
    const Call call{query, key, value, bias, key_mask, documents, cu_seqlens, causal};
    check(call);
    const std::vector<Sequence> all = sequences(call);
    const std::vector<Visible> seen = visible_of_all(call, all);
    const AttentionShape shape = shape_of(call, all, scale, dropout, seed, stream);
    const int64_t heads = call.heads();
    Tensor out = output_like(query);
    Tensor log_sum_exp = call.packed() ? float_output({heads, query.size(0)})
                                       : float_output({query.size(0), heads, query.size(1)});
    const AttentionKernels& kernels = FPM_PICK(attention);
    const int64_t memory = kernels.forward_memory(shape);
    run_tasks(all.size() * heads, operations(all, heads, shape.head_size), [&](int64_t task) {
        const int64_t i = task / heads;
        const AttentionHead head = head_of(call, shape, all[i], seen[i], task % heads, out, log_sum_exp);
        kernels.forward(shape, head, aligned_scratch(memory));
    });
    return {out, log_sum_exp};
}

void attention_backward(
    const Tensor& grad_out, const Tensor& query, const Tensor& key, const Tensor& value, const OptionalTensor& bias,
    const OptionalTensor& key_mask, const OptionalTensor& documents, const OptionalTensor& cu_seqlens,
    const Tensor& out, const Tensor& log_sum_exp, bool causal, double scale, double dropout, int64_t seed,
    int64_t stream, Tensor grad_query, Tensor grad_key, Tensor grad_value, OptionalTensor grad_bias) {
    const Call call{query, key, value, bias, key_mask, documents, cu_seqlens, causal};
    check(call);
    for (const Tensor* x : {&grad_out, &out, static_cast<const Tensor*>(&grad_query)}) check_matrices(*x, call, "a gradient or output");
    for (const Tensor* x : {static_cast<const Tensor*>(&grad_key), static_cast<const Tensor*>(&grad_value)}) check_matrices(*x, call, "a gradient");
    check_contiguous(log_sum_exp, "log_sum_exp");
    const std::vector<Sequence> all = sequences(call);
    const std::vector<Visible> seen = visible_of_all(call, all);
    const AttentionShape shape = shape_of(call, all, scale, dropout, seed, stream);
    const int64_t heads = call.heads(), count = all.size();
    const bool packed = call.packed();
    const AttentionKernels& kernels = FPM_PICK(attention);
    const int64_t memory = kernels.backward_memory(shape);

    // The gradient of a bias that sequences share is added up by groups of sequences, whose number depends on the
    // shape alone, so that it has the same bits for any number of threads.
    const bool shared = grad_bias.has_value() && grad_bias->size(0) == 1 && count > 1;
    const int64_t groups = !shared ? count : heads >= 8 ? 1 : (8 / heads < count ? 8 / heads : count);
    const int64_t square = shared ? query.size(1) * key.size(1) : 0;
    std::vector<float> partial(shared ? groups * heads * square : 0, 0.0f);
    if (grad_bias.has_value()) {
        check_same_shape(*grad_bias, *grad_bias, "grad_bias");
        STD_TORCH_CHECK(
            bias.has_value() && grad_bias->scalar_type() == query.scalar_type() && grad_bias->numel() ==
                bias->numel(), "fpm: grad_bias must be contiguous and of the bias's shape and dtype");
    }
    run_tasks(groups * heads, operations(all, heads, shape.head_size), [&](int64_t task) {
        const int64_t group = task / heads, n = task % heads;
        for (int64_t i = group; i < count; i += groups) {
            const Sequence& sequence = all[i];
            AttentionHead head = head_of(call, shape, sequence, seen[i], n, out, log_sum_exp);
            const Rows outer(grad_out, packed, sequence.batch, sequence.first_query, n);
            const Rows for_query(grad_query, packed, sequence.batch, sequence.first_query, n);
            const Rows for_key(grad_key, packed, sequence.batch, sequence.first_key, n);
            const Rows for_value(grad_value, packed, sequence.batch, sequence.first_key, n);
            head.grad_out = outer.data;
            head.grad_out_stride = outer.stride;
            head.grad_query = for_query.data;
            head.grad_query_stride = for_query.stride;
            head.grad_key = for_key.data;
            head.grad_key_stride = for_key.stride;
            head.grad_value = for_value.data;
            head.grad_value_stride = for_value.stride;
            if (grad_bias.has_value()) {
                head.grad_bias_stride = key.size(1);
                head.grad_bias_is_float = shared;
                const int64_t first = ((shared ? group : sequence.batch) * heads + n) * query.size(1) * key.size(1);
                head.grad_bias = shared ? static_cast<void*>(partial.data() + first)
                                        : static_cast<char*>(grad_bias->data_ptr()) +
                                              first * static_cast<int64_t>(grad_bias->element_size());
            }
            kernels.backward(shape, head, aligned_scratch(memory));
        }
    });
    if (shared) kernels.add_groups(shape, partial.data(), groups, heads * square, grad_bias->data_ptr());
}

}  // namespace
}  // namespace fpm

STABLE_TORCH_LIBRARY_IMPL(fpm, CPU, m) {
    m.impl("attention", TORCH_BOX(&fpm::attention));
    m.impl("attention_backward", TORCH_BOX(&fpm::attention_backward));
}
