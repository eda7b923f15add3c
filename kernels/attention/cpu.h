// The interface between the registration with torch and the code compiled once per instruction set.
#pragma once

#include "cpu_dispatch.h"

namespace fpm {

// What all heads of one call share.
struct AttentionShape {
    ElementType type;
    int64_t head_size;
    int64_t longest_keys;  // of any sequence
    float scale;
    double dropout;
    uint64_t seed;
    uint32_t stream;
};

// One head of one sequence: matrices of (tokens, head size) whose rows lie `*_stride` elements apart.
struct AttentionHead {
    int64_t num_queries, num_keys;
    const void *query, *key, *value;
    int64_t query_stride, key_stride, value_stride;
    const int32_t *first_key, *end_key;  // per query: it sees the keys first ... end - 1
    const float* key_bias;               // per key, padded to a whole number of vectors: 0 or -inf; null for none
    const void* bias;                    // added to the scores; null for none
    int64_t bias_stride;
    uint64_t dropout_element, dropout_stride;  // index of the first query's first key, and from row to row
    void* out;                                 // an input of the backward pass
    int64_t out_stride;
    float* log_sum_exp;  // per query; an input of the backward pass

    const void* grad_out;
    int64_t grad_out_stride;
    void *grad_query, *grad_key, *grad_value;
    int64_t grad_query_stride, grad_key_stride, grad_value_stride;
    void* grad_bias;  // of the tensors' type, or float32 if `grad_bias_is_float`; added to; null for none
    int64_t grad_bias_stride;
    bool grad_bias_is_float;
};

struct AttentionKernels {
    // Floats of memory that one thread needs.
    int64_t (*forward_memory)(const AttentionShape&);
    int64_t (*backward_memory)(const AttentionShape&);
    void (*forward)(const AttentionShape&, const AttentionHead&, float* memory);
    void (*backward)(const AttentionShape&, const AttentionHead&, float* memory);
    // out[i] += the sum over groups of sums[group * count + i]; `out` has the tensors' type.
    void (*add_groups)(const AttentionShape&, const float* sums, int64_t groups, int64_t count, void* out);
};

extern const AttentionKernels attention_avx512, attention_avx2, attention_baseline;

}  // namespace fpm
