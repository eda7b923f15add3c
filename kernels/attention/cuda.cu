// Launches the attention kernels: which element type, which head size, how many blocks.
#include "cuda.h"

#include "../common/launch.cuh"
#include "backward.cuh"
#include "forward.cuh"

// A build may name fewer (tests compile one at a time). A head takes the first that holds it.
#ifndef FPM_HEAD_SIZES
#define FPM_HEAD_SIZES 32, 64, 80, 128
#endif

namespace fpm {
namespace {

// Calls `action` with the first of the head sizes that holds `head_size`.
template <int kFirst, int... kOthers, typename Action>
cudaError_t with_head_size(int64_t head_size, Action action, std::integer_sequence<int, kFirst, kOthers...>) {
    if (head_size <= kFirst) return action(std::integral_constant<int, kFirst>{});
    if constexpr (sizeof...(kOthers) > 0)
        return with_head_size(head_size, action, std::integer_sequence<int, kOthers...>{});
    return cudaErrorInvalidValue;
}

// Calls `action` with the element type and the compiled head size.
template <typename Action>
cudaError_t with_kernel(const AttentionArguments& arguments, Action action) {
    return with_type(arguments.type, [&](auto type) {
        return with_head_size(arguments.head_size, [&](auto head) { return action(type, head); },
                              std::integer_sequence<int, FPM_HEAD_SIZES>{});
    });
}

// Whether rows of a tensor may be accessed 16 bytes at a time.
template <typename T>
bool is_vectorizable(const void* tensor, const int64_t (&strides)[3]) {
    constexpr int64_t kGroup = 16 / sizeof(T);
    return are_aligned(16, tensor) && strides[0] % kGroup == 0 && strides[1] % kGroup == 0 && strides[2] % kGroup == 0;
}

template <typename T>
Attention make_attention(const AttentionArguments& a, bool backward) {
    bool vector = a.head_size * sizeof(T) % 16 == 0 && is_vectorizable<T>(a.query, a.query_strides) &&
                  is_vectorizable<T>(a.key, a.key_strides) && is_vectorizable<T>(a.value, a.value_strides) &&
                  is_vectorizable<T>(a.out, a.out_strides);
    if (backward)
        vector = vector && is_vectorizable<T>(a.grad_out, a.grad_out_strides) &&
                 is_vectorizable<T>(a.grad_query, a.grad_query_strides) &&
                 is_vectorizable<T>(a.grad_key, a.grad_key_strides) &&
                 is_vectorizable<T>(a.grad_value, a.grad_value_strides);
    return {a, make_dropout(a.dropout, a.seed, a.stream), vector};
}

// Heads that have blocks of their own: a packed stream's blocks of a head are of all its sequences.
int64_t num_heads(const AttentionArguments& a) { return a.cu_seqlens ? a.heads : a.batch * a.heads; }

constexpr size_t kSharedLimit = 99 * 1024;  // of a block on sm_86 and sm_89, the least of all

template <typename Tile>
cudaError_t launch_tiles(void (*kernel)(Attention), int64_t num_blocks, const Attention& attention,
                         cudaStream_t stream) {
    static_assert(Tile::kShared <= kSharedLimit);
    return launch(kernel, num_blocks, Tile::kThreads, Tile::kShared, stream, attention);
}

}  // namespace
}  // namespace fpm

using namespace fpm;

extern "C" int64_t fpm_cuda_attention_max_head_size() {
    int64_t largest = 0;
    for (int64_t size : {FPM_HEAD_SIZES}) largest = size;
    return largest;
}

extern "C" int fpm_cuda_attention(const AttentionArguments* arguments, void* stream) {
    const AttentionArguments& a = *arguments;
    return with_kernel(a, [&](auto type, auto head_size) {
        using T = typename decltype(type)::type;
        using Tile = ForwardTile<T, decltype(head_size)::value>;
        const int64_t num_blocks = num_heads(a) * blocks_of_head(a, a.queries, Tile::kRows);
        return launch_tiles<Tile>(attention_kernel<T, Tile>, num_blocks, make_attention<T>(a, false),
                                  static_cast<cudaStream_t>(stream));
    });
}

extern "C" int fpm_cuda_attention_backward(const AttentionArguments* arguments, void* stream) {
    const AttentionArguments& a = *arguments;
    return with_kernel(a, [&](auto type, auto head_size) {
        using T = typename decltype(type)::type;
        using Tile = BackwardTile<T, decltype(head_size)::value>;
        const auto on = static_cast<cudaStream_t>(stream);
        const Attention attention = make_attention<T>(a, true);
        Attention rows = attention;
        if (a.cu_seqlens) {
            rows.tensors.cu_seqlens = nullptr;
            rows.tensors.batch = 1;
            rows.tensors.queries = a.tokens;
        }
        const int64_t num_rows = rows.tensors.batch * a.heads * rows.tensors.queries;
        cudaError_t error = launch(attention_delta_kernel<T>, ceil_divide(num_rows, 4), 128, 0, on, rows);
        if (error != cudaSuccess) return error;
        const int64_t key_blocks = num_heads(a) * blocks_of_head(a, a.keys, Tile::kRows);
        error = launch_tiles<Tile>(attention_key_value_kernel<T, Tile>, key_blocks, attention, on);
        if (error != cudaSuccess) return error;
        const int64_t query_blocks = num_heads(a) * blocks_of_head(a, a.queries, Tile::kRows);
        error = launch_tiles<Tile>(attention_query_kernel<T, Tile>, query_blocks, attention, on);
        if (error != cudaSuccess || !a.grad_bias) return error;
        const int64_t tiles = ceil_divide(a.queries, Tile::kRows) * ceil_divide(a.keys, Tile::kColumns);
        return launch_tiles<Tile>(attention_bias_kernel<T, Tile>, a.bias_batches * a.heads * tiles, attention, on);
    });
}
