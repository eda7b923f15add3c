// Forward pass: a block takes a tile of queries and walks over the keys with an online softmax, so that no matrix of
// scores is written (Dao, "FlashAttention-2", 2023, algorithm 1).
#pragma once

#include "problem.cuh"

namespace fpm {

template <typename T, int kHeadSize>
struct ForwardTile {
    static constexpr int kHead = kHeadSize;
    static constexpr int kRows = 64;                               // queries of a block, 16 for each warp
    static constexpr int kColumns = sizeof(T) == 2 ? 64 : 32;      // keys at a time
    static constexpr int kThreads = kRows / 16 * kWarpSize;
    static constexpr int kWide = kPitch<T, kHead>, kNarrow = kPitch<T, kColumns>;
    static constexpr size_t kShared = (kRows * kWide + 2 * kColumns * kWide + kRows * kNarrow) * sizeof(T);
};

// One step of the online softmax for a tile's two rows of this lane: `scores` become probabilities relative to the new
// maxima, which the sums so far are rescaled to. A row without a visible key keeps the maximum -infinity.
template <typename T, int kColumns, int kHead>
__device__ void online_softmax(Accumulator<kColumns>& scores, float (&maximum)[2], float (&sum)[2],
                               Accumulator<kHead>& out) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        float highest = maximum[half];
        for (auto& block : scores.sum) highest = fmaxf(highest, fmaxf(block[2 * half], block[2 * half + 1]));
        highest = fmaxf(highest, __shfl_xor_sync(kAllLanes, highest, 1));
        highest = fmaxf(highest, __shfl_xor_sync(kAllLanes, highest, 2));
        const float origin = highest == -INFINITY ? 0.0f : highest;
        const float rescale = exponential<T>(maximum[half] - origin);
        maximum[half] = highest;
        sum[half] *= rescale;
        for (auto& block : out.sum) {
            block[2 * half] *= rescale;
            block[2 * half + 1] *= rescale;
        }
        for (auto& block : scores.sum)
            for (int e = 2 * half; e < 2 * half + 2; ++e) {
                block[e] = exponential<T>(block[e] - origin);
                sum[half] += block[e];
            }
    }
}

template <typename T, typename Tile>
__global__ __launch_bounds__(Tile::kThreads, 1) void attention_kernel(Attention attention) {
    constexpr int kHead = Tile::kHead, kColumns = Tile::kColumns;
    const AttentionArguments& tensors = attention.tensors;
    const Place place = find_place<Tile::kRows>(tensors, tensors.queries);
    if (place.sequence < 0) return;
    const Head<T> head(attention, place);
    const int first_query = place.tile * Tile::kRows;

    T* query_tile = reinterpret_cast<T*>(shared_memory);
    T* key_tile = query_tile + Tile::kRows * Tile::kWide;
    T* value_tile = key_tile + kColumns * Tile::kWide;
    T* probabilities = value_tile + kColumns * Tile::kWide + warp_index() * 16 * Tile::kNarrow;  // of this warp
    const T* own_queries = query_tile + warp_index() * 16 * Tile::kWide;
    const int query = first_query + warp_index() * 16 + row_of(0);  // of this lane; the other is query + 8

    load_tile<Tile::kRows, kHead, Tile::kThreads>(query_tile, head, tensors.query, tensors.query_strides, first_query,
                                                  head.queries);
    Accumulator<kHead> out;
    out.clear();
    float maximum[2] = {-INFINITY, -INFINITY}, sum[2] = {};

    const int end = head.key_end(first_query + Tile::kRows);
    for (int first_key = 0; first_key < end; first_key += kColumns) {
        if (head.are_apart(first_query, first_query + Tile::kRows, first_key, first_key + kColumns)) continue;
        __syncthreads();  // all warps have used the tiles of the keys before
        load_tile<kColumns, kHead, Tile::kThreads>(key_tile, head, tensors.key, tensors.key_strides, first_key,
                                                   head.keys);
        load_tile<kColumns, kHead, Tile::kThreads>(value_tile, head, tensors.value, tensors.value_strides, first_key,
                                                   head.keys);
        __syncthreads();

        Accumulator<kColumns> scores;
        scores.clear();
        multiply_transposed<kColumns, kHead>(scores, own_queries, key_tile);
#pragma unroll
        for (int j = 0; j < kColumns / 8; ++j)
#pragma unroll
            for (int e = 0; e < 4; ++e)
                scores.sum[j][e] = head.score(scores.sum[j][e], query + e / 2 * 8, first_key + column_of(j, e));
        online_softmax<T>(scores, maximum, sum, out);
        if (attention.dropout.active) {
#pragma unroll
            for (int j = 0; j < kColumns / 8; ++j) {
                float factor[4];
                dropout_of_rows(factor, head, query, first_key + column_of(j, 0));
                for (int e = 0; e < 4; ++e) scores.sum[j][e] *= factor[e];
            }
        }
        store_accumulator(probabilities, scores);
        __syncwarp();
        multiply<kHead, kColumns>(out, probabilities, value_tile);
    }

#pragma unroll
    for (int half = 0; half < 2; ++half) {
        sum[half] += __shfl_xor_sync(kAllLanes, sum[half], 1);
        sum[half] += __shfl_xor_sync(kAllLanes, sum[half], 2);
        const bool empty = maximum[half] == -INFINITY && sum[half] == 0.0f;
        const float inverse = empty ? 0.0f : 1.0f / sum[half];
        for (auto& block : out.sum) {
            block[2 * half] *= inverse;
            block[2 * half + 1] *= inverse;
        }
        const int row = query + half * 8;
        if (lane_index() % 4 == 0 && row < head.queries)
            tensors.log_sum_exp[head.first_row + row] = empty ? -INFINITY : maximum[half] + logf(sum[half]);
    }
    __syncthreads();  // the tile of queries may be overwritten
    const int own_first = first_query + warp_index() * 16;
    store_sums(head, tensors.out, tensors.out_strides, own_first, head.queries,
               query_tile + warp_index() * 16 * Tile::kWide, out, 1.0f);
}

}  // namespace fpm
