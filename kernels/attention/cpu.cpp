// Attention of one head, a block of queries at a time; the scores of a block stay in the cache. See README.md.
#include "cpu.h"

#include <cmath>

#include "rows.h"
#include "tiles.h"

namespace fpm {
namespace {

constexpr int64_t kBlock = 32;  // queries
constexpr float kInfinity = __builtin_inff();

// Memory of one thread, in floats. Strides of scores avoid powers of two, which would compete for cache lines.
struct Sizes {
    int64_t width, keys, score_stride;  // padded

    explicit Sizes(const AttentionShape& shape)
        : width(round_up(shape.head_size, kLanes)),
          keys(round_up(shape.longest_keys, kPair)),
          score_stride(keys + kLanes) {}
    int64_t block_rows() const { return kBlock * width; }
    int64_t key_rows() const { return keys * width; }
    int64_t scores() const { return kBlock * score_stride; }
};

int64_t forward_memory(const AttentionShape& shape) {
    const Sizes sizes(shape);
    return 2 * sizes.key_rows() + 2 * sizes.block_rows() + sizes.scores();
}

int64_t backward_memory(const AttentionShape& shape) {
    const Sizes sizes(shape);
    return 5 * sizes.key_rows() + 3 * sizes.block_rows() + 2 * sizes.scores();
}

// The queries of one block, and the panels of keys that any of them sees.
struct Block {
    int64_t first_query, count, first_key, end_key;

    Block(const AttentionHead& head, int64_t first) : first_query(first) {
        count = head.num_queries - first < kBlock ? head.num_queries - first : kBlock;
        first_key = head.num_keys;
        end_key = 0;
        for (int64_t i = first; i < first + count; ++i) {
            if (head.end_key[i] <= head.first_key[i]) continue;
            first_key = head.first_key[i] < first_key ? head.first_key[i] : first_key;
            end_key = head.end_key[i] > end_key ? head.end_key[i] : end_key;
        }
        first_key = first_key / kPair * kPair;
        end_key = end_key > first_key ? round_up(end_key, kPair) : first_key;
    }
    int64_t keys() const { return end_key - first_key; }
};

// scores (block, keys) = rows (block, width) times the panels of keys that the block sees.
FPM_INLINE void multiply_panels(
    const float* rows, const float* panels, const Block& block, const Sizes& sizes, int64_t head_size,
    float* scores) {
    for (int64_t key = block.first_key; key < block.end_key; key += kPair) {
        multiply<true, false>(
            rows, sizes.width, panels + key * sizes.width, kPair, scores + key - block.first_key,
            sizes.score_stride, block.count, kPair, head_size);
    }
}

// The scores of one vector of keys with all that is added to them; what the query does not see is -inf.
template <typename T>
FPM_INLINE f32 masked_scores(
    const AttentionHead& head, const T* bias, int64_t key, int64_t first, int64_t end, f32 scores) {
    if (bias) {
        scores += key + kLanes <= head.num_keys ? load(bias + key)
                  : key < head.num_keys         ? load_part(bias + key, head.num_keys - key)
                                                : f32{};
    }
    if (head.key_bias) scores += load(head.key_bias + key);
    if (key >= first && key + kLanes <= end) return scores;
    i32 index;
    for (int i = 0; i < kLanes; ++i) index[i] = i;
    index += static_cast<int32_t>(key);
    const i32 seen = (index >= static_cast<int32_t>(first)) & (index < static_cast<int32_t>(end));
    return seen ? scores : splat(-kInfinity);
}

// Scores of one query -> exp(score - maximum), zero where dropped; gives back the sum before dropout.
template <typename T>
FPM_INLINE float exponentiate_row(
    const AttentionHead& head, const DropoutKeys& dropout, const Block& block, int64_t query, float* scores,
    float& maximum_score) {
    const T* bias = head.bias ? static_cast<const T*>(head.bias) + query * head.bias_stride : nullptr;
    const int64_t first = head.first_key[query], end = head.end_key[query];
    const int64_t first_pair = first < end ? first / kPair * kPair : block.first_key;
    const int64_t end_pair = first < end ? round_up(end, kPair) : block.first_key;
    float* row = scores - block.first_key;  // by the key's index

    for (int64_t key = block.first_key; key < first_pair; key += kLanes) store(row + key, f32{});
    for (int64_t key = end_pair; key < block.end_key; key += kLanes) store(row + key, f32{});
    f32 best = splat(-kInfinity);
    for (int64_t key = first_pair; key < end_pair; key += kLanes) {
        const f32 masked = masked_scores(head, bias, key, first, end, load(row + key));
        store(row + key, masked);
        best = maximum(masked, best);
    }
    maximum_score = largest(best);
    const float shift = maximum_score == -kInfinity ? 0.0f : maximum_score;
    f32 total{};
    if (!dropout.active) {
        for (int64_t key = first_pair; key < end_pair; key += kLanes) {
            const f32 p = exponential_up_to_88(load(row + key) - shift);
            total += p;
            store(row + key, p);
        }
        return sum(total);
    }
    const uint64_t group = (head.dropout_element + query * head.dropout_stride) / 4;
    for (int64_t key = first_pair; key < end_pair; key += kPair) {
        i32 kept_first, kept_second;
        kept_elements(dropout, group + key / 4, kept_first, kept_second);
        const f32 p = exponential_up_to_88(load(row + key) - shift);
        const f32 q = exponential_up_to_88(load(row + key + kLanes) - shift);
        total += p + q;
        store(row + key, kept_first ? p : f32{});
        store(row + key + kLanes, kept_second ? q : f32{});
    }
    return sum(total);
}

template <typename T>
void forward(const AttentionShape& shape, const AttentionHead& head, float* memory) {
    const Sizes sizes(shape);
    const int64_t width = shape.head_size;
    const DropoutKeys dropout = dropout_keys(shape.dropout, shape.seed, shape.stream);
    float* keys = memory;                               // (panels, width, kPair)
    float* values = keys + sizes.key_rows();            // (keys, width)
    float* queries = values + sizes.key_rows();         // (block, width), scaled
    float* mixed = queries + sizes.block_rows();        // (block, width)
    float* scores = mixed + sizes.block_rows();         // (block, keys)
    const int64_t padded_keys = round_up(head.num_keys, kPair);
    pack_transposed(static_cast<const T*>(head.key), head.key_stride, head.num_keys, width, keys);
    pack_rows(static_cast<const T*>(head.value), head.value_stride, head.num_keys, width, 1.0f, padded_keys, values);

    for (int64_t query = 0; query < head.num_queries; query += kBlock) {
        const Block block(head, query);
        pack_rows(
            static_cast<const T*>(head.query) + query * head.query_stride, head.query_stride, block.count, width,
            shape.scale, round_up(block.count, kTileRows), queries);
        multiply_panels(queries, keys, block, sizes, width, scores);
        float factors[kBlock];
        for (int64_t i = 0; i < block.count; ++i) {
            float best;
            const float total =
                exponentiate_row<T>(head, dropout, block, query + i, scores + i * sizes.score_stride, best);
            factors[i] = total == 0.0f ? 0.0f : dropout.scale / total;
            head.log_sum_exp[query + i] = total == 0.0f ? -kInfinity : best + logf(total);
        }
        multiply<true, false>(
            scores, sizes.score_stride, values + block.first_key * sizes.width, sizes.width, mixed, sizes.width,
            block.count, sizes.width, block.keys());
        for (int64_t i = 0; i < block.count; ++i) {
            unpack_rows(
                mixed + i * sizes.width, 1, width, factors[i],
                static_cast<T*>(head.out) + (query + i) * head.out_stride, head.out_stride);
        }
    }
}

template <typename T>
FPM_INLINE void add_to(T* p, f32 x, int64_t count) {
    if (count > 0) store_up_to(p, load_up_to(p, count) + x, count);
}

// One query's scores and gradients of dropped probabilities -> its dropped probabilities and gradients of scores.
// What the softmax subtracts is summed up from the same rounded numbers that it is subtracted from, and the
// probabilities are made to sum to one, which the rounding of the saved logarithm of their sum forbids.
template <typename T>
FPM_INLINE void differentiate_row(
    const AttentionHead& head, const DropoutKeys& dropout, const Block& block, int64_t query, float* scores,
    float* grads) {
    const T* bias = head.bias ? static_cast<const T*>(head.bias) + query * head.bias_stride : nullptr;
    const int64_t first = head.first_key[query], end = head.end_key[query];
    const int64_t first_pair = first < end ? first / kPair * kPair : block.first_key;
    const int64_t end_pair = first < end ? round_up(end, kPair) : block.first_key;
    float *row = scores - block.first_key, *grad_row = grads - block.first_key;  // by the key's index
    const float saved = head.log_sum_exp[query], shift = saved == -kInfinity ? kInfinity : saved;
    const uint64_t group = (head.dropout_element + query * head.dropout_stride) / 4;
    const int64_t grad_bias_row = query * head.grad_bias_stride;

    for (int64_t key = block.first_key; key < first_pair; key += kLanes) {
        store(row + key, f32{});
        store(grad_row + key, f32{});
    }
    for (int64_t key = end_pair; key < block.end_key; key += kLanes) {
        store(row + key, f32{});
        store(grad_row + key, f32{});
    }
    f32 total{}, products{};
    for (int64_t pair = first_pair; pair < end_pair; pair += kPair) {
        i32 kept[2] = {~i32{}, ~i32{}};
        if (dropout.active) kept_elements(dropout, group + pair / 4, kept[0], kept[1]);
#pragma GCC unroll 2
        for (int half = 0; half < 2; ++half) {
            const int64_t key = pair + half * kLanes;
            const f32 masked = masked_scores(head, bias, key, first, end, load(row + key));
            const f32 p = exponential_up_to_88(masked - shift);
            const f32 grad = kept[half] ? load(grad_row + key) * dropout.scale : f32{};
            total += p;
            products += p * grad;
            store(row + key, kept[half] ? p : -p);  // the sign tells the second pass what is dropped
            store(grad_row + key, grad);
        }
    }
    const float all = sum(total), share = all == 0.0f ? 0.0f : 1.0f / all, delta = sum(products) * share;
    for (int64_t key = first_pair; key < end_pair; key += kLanes) {
        const f32 marked = load(row + key);
        const f32 p = marked < 0.0f ? -marked : marked;
        const f32 grad_score = p * share * (load(grad_row + key) - delta);
        store(row + key, marked < 0.0f ? f32{} : marked * (dropout.scale * share));
        store(grad_row + key, grad_score);
        if (head.grad_bias && head.grad_bias_is_float) {
            add_to(static_cast<float*>(head.grad_bias) + grad_bias_row + key, grad_score, head.num_keys - key);
        } else if (head.grad_bias) {
            add_to(static_cast<T*>(head.grad_bias) + grad_bias_row + key, grad_score, head.num_keys - key);
        }
    }
}

template <typename T>
void backward(const AttentionShape& shape, const AttentionHead& head, float* memory) {
    const Sizes sizes(shape);
    const int64_t width = shape.head_size;
    const DropoutKeys dropout = dropout_keys(shape.dropout, shape.seed, shape.stream);
    float* keys = memory;                                 // (panels, width, kPair)
    float* values = keys + sizes.key_rows();              // (panels, width, kPair)
    float* key_rows = values + sizes.key_rows();          // (keys, width)
    float* grad_keys = key_rows + sizes.key_rows();       // (keys, width)
    float* grad_values = grad_keys + sizes.key_rows();    // (keys, width)
    float* queries = grad_values + sizes.key_rows();      // (block, width), scaled
    float* grad_outs = queries + sizes.block_rows();      // (block, width)
    float* grad_queries = grad_outs + sizes.block_rows();  // (block, width)
    float* scores = grad_queries + sizes.block_rows();    // (block, keys)
    float* grads = scores + sizes.scores();               // (block, keys)
    const int64_t padded_keys = round_up(head.num_keys, kPair);
    const T *key = static_cast<const T*>(head.key), *value = static_cast<const T*>(head.value);
    pack_transposed(key, head.key_stride, head.num_keys, width, keys);
    pack_transposed(value, head.value_stride, head.num_keys, width, values);
    pack_rows(key, head.key_stride, head.num_keys, width, 1.0f, padded_keys, key_rows);
    std::memset(grad_keys, 0, padded_keys * sizes.width * sizeof(float));
    std::memset(grad_values, 0, padded_keys * sizes.width * sizeof(float));

    for (int64_t query = 0; query < head.num_queries; query += kBlock) {
        const Block block(head, query);
        const int64_t rows = round_up(block.count, kTileRows);
        const T* grad_out = static_cast<const T*>(head.grad_out) + query * head.grad_out_stride;
        pack_rows(
            static_cast<const T*>(head.query) + query * head.query_stride, head.query_stride, block.count, width,
            shape.scale, rows, queries);
        pack_rows(grad_out, head.grad_out_stride, block.count, width, 1.0f, rows, grad_outs);
        multiply_panels(queries, keys, block, sizes, width, scores);
        multiply_panels(grad_outs, values, block, sizes, width, grads);
        for (int64_t i = 0; i < block.count; ++i) {
            differentiate_row<T>(
                head, dropout, block, query + i, scores + i * sizes.score_stride, grads + i * sizes.score_stride);
        }
        float* block_grad_values = grad_values + block.first_key * sizes.width;
        float* block_grad_keys = grad_keys + block.first_key * sizes.width;
        multiply<false, true>(
            scores, sizes.score_stride, grad_outs, sizes.width, block_grad_values, sizes.width, block.keys(),
            sizes.width, block.count);
        multiply<false, true>(
            grads, sizes.score_stride, queries, sizes.width, block_grad_keys, sizes.width, block.keys(), sizes.width,
            block.count);
        multiply<true, false>(
            grads, sizes.score_stride, key_rows + block.first_key * sizes.width, sizes.width, grad_queries,
            sizes.width, block.count, sizes.width, block.keys());
        unpack_rows(
            grad_queries, block.count, width, shape.scale,
            static_cast<T*>(head.grad_query) + query * head.grad_query_stride, head.grad_query_stride);
    }
    unpack_rows(grad_keys, head.num_keys, width, 1.0f, static_cast<T*>(head.grad_key), head.grad_key_stride);
    unpack_rows(grad_values, head.num_keys, width, 1.0f, static_cast<T*>(head.grad_value), head.grad_value_stride);
}

template <typename T>
void add_groups(const float* sums, int64_t groups, int64_t count, void* out) {
    for_row(count, [&](int64_t j, int64_t left) {
        f32 total = load_up_to(static_cast<T*>(out) + j, left);
        for (int64_t group = 0; group < groups; ++group) total += load_up_to(sums + group * count + j, left);
        store_up_to(static_cast<T*>(out) + j, total, left);
    });
}

void forward_any(const AttentionShape& shape, const AttentionHead& head, float* memory) {
    FPM_FOR_TYPE(shape.type, forward, shape, head, memory);
}

void backward_any(const AttentionShape& shape, const AttentionHead& head, float* memory) {
    FPM_FOR_TYPE(shape.type, backward, shape, head, memory);
}

void add_groups_any(const AttentionShape& shape, const float* sums, int64_t groups, int64_t count, void* out) {
    FPM_FOR_TYPE(shape.type, add_groups, sums, groups, count, out);
}

}  // namespace

const AttentionKernels FPM_ISA_NAME(attention) = {
    forward_memory, backward_memory, forward_any, backward_any, add_groups_any};

}  // namespace fpm
