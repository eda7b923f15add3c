// The launchers of attention/cuda.cu and their arguments, for C++ that knows nothing of CUDA.
#pragma once

#include <cstdint>

// Tensors have one element type (common/launch.cuh) and are (batch, positions, heads, head_size) with any strides but
// a contiguous last dimension; strides are in elements: of the batch, of the position, of the head. Packed tensors are
// (tokens, heads, head_size); their stride of the batch is not read. Those marked optional may be null.
struct AttentionArguments {
    int64_t type, batch, heads, queries, keys, head_size;
    int64_t tokens;  // packed: the length of the stream; `queries` and `keys` are not read
    const void* query;
    const void* key;
    const void* value;
    int64_t query_strides[3];
    int64_t key_strides[3];
    int64_t value_strides[3];
    const void* bias;          // optional: (1 or batch, heads, queries, keys), contiguous in the keys
    int64_t bias_strides[3];   // of the batch (0 where shared), of the head, of the query
    const uint8_t* key_mask;   // optional: (batch, keys), contiguous; 0 masks a key
    const int64_t* documents;  // optional: (batch, queries), contiguous, rising: attend within a document
    const int32_t* cu_seqlens;    // optional, makes the tensors packed: (batch + 1,), where sequences begin and end
    double scale, dropout;
    uint64_t seed;
    int64_t stream, causal;  // causal: the last query attends up to the last key
    void* out;
    int64_t out_strides[3];
    float* log_sum_exp;  // (batch, heads, queries), packed: (heads, tokens)

    // What follows is the backward pass's.
    const void* grad_out;
    int64_t grad_out_strides[3];
    void* grad_query;
    void* grad_key;
    void* grad_value;
    int64_t grad_query_strides[3];
    int64_t grad_key_strides[3];
    int64_t grad_value_strides[3];
    void* grad_bias;       // optional: (bias_batches, heads, queries, keys), contiguous; is added to
    int64_t bias_batches;  // 1 or batch
    float* delta;          // workspace of log_sum_exp's shape
};

extern "C" {
// The largest head for which there are kernels.
int64_t fpm_cuda_attention_max_head_size();
// Both return a cudaError_t.
int fpm_cuda_attention(const AttentionArguments* arguments, void* stream);
int fpm_cuda_attention_backward(const AttentionArguments* arguments, void* stream);
}
