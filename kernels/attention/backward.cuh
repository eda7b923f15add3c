// Backward pass: probabilities are recomputed from the saved log-sum-exp. One kernel has a tile of keys for each block
// (gradients of keys and values), one a tile of queries (gradient of queries), one a tile of scores (gradient of the
// bias), so that each gradient is summed by one block in a fixed order and has the same bits in every run; sums by
// atomics would save recomputing the scores and give that up.
#pragma once

#include "problem.cuh"

namespace fpm {

template <typename T, int kHeadSize>
struct BackwardTile {
    static constexpr int kHead = kHeadSize;
    static constexpr int kRows = sizeof(T) == 4 && kHead > 64 ? 32 : 64;  // of a block, 16 for each warp
    static constexpr int kColumns = sizeof(T) == 4 || kHead > 64 ? 32 : 64;  // at a time
    static constexpr int kThreads = kRows / 16 * kWarpSize;
    static constexpr int kWide = kPitch<T, kHead>, kNarrow = kPitch<T, kColumns>;
    static constexpr size_t kShared = (2 * kRows * kWide + 2 * kColumns * kWide + kRows * kNarrow) * sizeof(T);
};

// The tiles in shared memory: two tensors of the block's rows, two of the columns, and products of a warp's own.
template <typename T, typename Tile>
struct BackwardMemory {
    T* rows[2];
    T* columns[2];
    T* own;

    __device__ BackwardMemory() {
        rows[0] = reinterpret_cast<T*>(shared_memory);
        rows[1] = rows[0] + Tile::kRows * Tile::kWide;
        columns[0] = rows[1] + Tile::kRows * Tile::kWide;
        columns[1] = columns[0] + Tile::kColumns * Tile::kWide;
        own = columns[1] + Tile::kColumns * Tile::kWide + warp_index() * 16 * Tile::kNarrow;
    }
    __device__ T* own_rows(int which) const { return rows[which] + warp_index() * 16 * Tile::kWide; }
};

// delta = sum over the head of out * grad_out, for which a warp takes a row. A packed stream comes as one sequence.
template <typename T>
__global__ __launch_bounds__(128) void attention_delta_kernel(Attention attention) {
    const AttentionArguments& tensors = attention.tensors;
    const int64_t warp = int64_t{blockIdx.x} * 4 + warp_index();
    const int64_t query = warp % tensors.queries, sequence = warp / tensors.queries;
    if (sequence >= tensors.batch * tensors.heads) return;
    const int batch = static_cast<int>(sequence / tensors.heads);
    const Head<T> head(attention, {batch, static_cast<int>(sequence % tensors.heads), 0, 0});
    const T* out = head.rows(tensors.out, tensors.out_strides) + query * tensors.out_strides[1];
    const T* grad_out = head.rows(tensors.grad_out, tensors.grad_out_strides) + query * tensors.grad_out_strides[1];
    float delta = 0.0f;
    for (int column = lane_index(); column < tensors.head_size; column += kWarpSize)
        delta += to_float(out[column]) * to_float(grad_out[column]);
    delta = warp_sum(delta);
    if (lane_index() == 0) tensors.delta[head.first_row + query] = delta;
}

// From the products query * key (in `scores`) and grad_out * value (in `gradients`) of a tile at (row, column) of this
// lane's first element: the probabilities as they multiplied the values, and the gradients of the scores.
template <bool kRowsAreKeys, typename T, int kColumns>
__device__ void score_gradients(Accumulator<kColumns>& scores, Accumulator<kColumns>& gradients, const Head<T>& head,
                                int row, int first_column) {
#pragma unroll
    for (int j = 0; j < kColumns / 8; ++j) {
        float factor[4] = {1.0f, 1.0f, 1.0f, 1.0f};
        if (head.attention.dropout.active) {
            const int column = first_column + column_of(j, 0);
            if constexpr (kRowsAreKeys) dropout_of_columns(factor, head, column, row);
            else dropout_of_rows(factor, head, row, column);
        }
#pragma unroll
        for (int e = 0; e < 4; ++e) {
            const int this_row = row + e / 2 * 8, column = first_column + column_of(j, e);
            const int query = kRowsAreKeys ? column : this_row, key = kRowsAreKeys ? this_row : column;
            const float score = head.score(scores.sum[j][e], query, key);
            float probability = 0.0f, gradient = 0.0f;
            if (score != -INFINITY) {  // a masked key takes no part, whatever its value holds
                const int64_t index = head.first_row + query;
                probability = exponential<T>(score - head.tensors.log_sum_exp[index]);
                gradient = probability * (gradients.sum[j][e] * factor[e] - head.tensors.delta[index]);
            }
            scores.sum[j][e] = probability * factor[e];
            gradients.sum[j][e] = gradient;
        }
    }
}

// Loads kRows queries and the gradients of their outputs into two tiles.
template <int kRows, typename Tile, typename T>
__device__ void load_queries(T* const (&tiles)[2], const Head<T>& head, int first) {
    const AttentionArguments& tensors = head.tensors;
    load_tile<kRows, Tile::kHead, Tile::kThreads>(tiles[0], head, tensors.query, tensors.query_strides, first,
                                                  head.queries);
    load_tile<kRows, Tile::kHead, Tile::kThreads>(tiles[1], head, tensors.grad_out, tensors.grad_out_strides, first,
                                                  head.queries);
}

// Loads kRows keys and their values into two tiles.
template <int kRows, typename Tile, typename T>
__device__ void load_keys(T* const (&tiles)[2], const Head<T>& head, int first) {
    const AttentionArguments& tensors = head.tensors;
    load_tile<kRows, Tile::kHead, Tile::kThreads>(tiles[0], head, tensors.key, tensors.key_strides, first, head.keys);
    load_tile<kRows, Tile::kHead, Tile::kThreads>(tiles[1], head, tensors.value, tensors.value_strides, first,
                                                  head.keys);
}

template <typename T, typename Tile>
__global__ __launch_bounds__(Tile::kThreads, 1) void attention_key_value_kernel(Attention attention) {
    constexpr int kHead = Tile::kHead, kColumns = Tile::kColumns;
    const AttentionArguments& tensors = attention.tensors;
    const Place place = find_place<Tile::kRows>(tensors, tensors.keys);
    if (place.sequence < 0) return;
    const Head<T> head(attention, place);
    const int first_key = place.tile * Tile::kRows;

    const BackwardMemory<T, Tile> memory;
    load_keys<Tile::kRows, Tile>(memory.rows, head, first_key);
    Accumulator<kHead> grad_key, grad_value;
    grad_key.clear();
    grad_value.clear();

    const int key = first_key + warp_index() * 16 + row_of(0);
    const int begin = head.query_begin(first_key) / kColumns * kColumns;
    for (int first_query = begin; first_query < head.queries; first_query += kColumns) {
        if (head.are_apart(first_query, first_query + kColumns, first_key, first_key + Tile::kRows)) continue;
        __syncthreads();  // all warps have used the tiles of the queries before
        load_queries<kColumns, Tile>(memory.columns, head, first_query);
        __syncthreads();

        Accumulator<kColumns> scores, gradients;
        scores.clear();
        gradients.clear();
        multiply_transposed<kColumns, kHead>(scores, memory.own_rows(0), memory.columns[0]);
        multiply_transposed<kColumns, kHead>(gradients, memory.own_rows(1), memory.columns[1]);
        score_gradients<true>(scores, gradients, head, key, first_query);
        store_accumulator(memory.own, scores);
        __syncwarp();
        multiply<kHead, kColumns>(grad_value, memory.own, memory.columns[1]);
        __syncwarp();  // before the probabilities give way
        store_accumulator(memory.own, gradients);
        __syncwarp();
        multiply<kHead, kColumns>(grad_key, memory.own, memory.columns[0]);
    }

    __syncthreads();  // where no query came, the tiles of keys and values are still being written
    const int own_first = first_key + warp_index() * 16;
    store_sums(head, tensors.grad_key, tensors.grad_key_strides, own_first, head.keys, memory.own_rows(0), grad_key,
               static_cast<float>(tensors.scale));
    store_sums(head, tensors.grad_value, tensors.grad_value_strides, own_first, head.keys, memory.own_rows(1),
               grad_value, 1.0f);
}

template <typename T, typename Tile>
__global__ __launch_bounds__(Tile::kThreads, 1) void attention_query_kernel(Attention attention) {
    constexpr int kHead = Tile::kHead, kColumns = Tile::kColumns;
    const AttentionArguments& tensors = attention.tensors;
    const Place place = find_place<Tile::kRows>(tensors, tensors.queries);
    if (place.sequence < 0) return;
    const Head<T> head(attention, place);
    const int first_query = place.tile * Tile::kRows;

    const BackwardMemory<T, Tile> memory;
    load_queries<Tile::kRows, Tile>(memory.rows, head, first_query);
    Accumulator<kHead> grad_query;
    grad_query.clear();
    const int query = first_query + warp_index() * 16 + row_of(0);
    const int end = head.key_end(first_query + Tile::kRows);
    for (int first_key = 0; first_key < end; first_key += kColumns) {
        if (head.are_apart(first_query, first_query + Tile::kRows, first_key, first_key + kColumns)) continue;
        __syncthreads();  // all warps have used the tiles of the keys before
        load_keys<kColumns, Tile>(memory.columns, head, first_key);
        __syncthreads();
        Accumulator<kColumns> scores, gradients;
        scores.clear();
        gradients.clear();
        multiply_transposed<kColumns, kHead>(scores, memory.own_rows(0), memory.columns[0]);
        multiply_transposed<kColumns, kHead>(gradients, memory.own_rows(1), memory.columns[1]);
        score_gradients<false>(scores, gradients, head, query, first_key);
        store_accumulator(memory.own, gradients);
        __syncwarp();
        multiply<kHead, kColumns>(grad_query, memory.own, memory.columns[0]);
    }

    __syncthreads();  // where no key came, the tile of queries is still being written
    const int own_first = first_query + warp_index() * 16;
    store_sums(head, tensors.grad_query, tensors.grad_query_strides, own_first, head.queries, memory.own_rows(0),
               grad_query, static_cast<float>(tensors.scale));
}

// A block takes a tile of the bias and adds the gradients of all batch entries that share it, one after the other.
template <typename T, typename Tile>
__global__ __launch_bounds__(Tile::kThreads, 1) void attention_bias_kernel(Attention attention) {
    constexpr int kHead = Tile::kHead, kColumns = Tile::kColumns;
    const AttentionArguments& tensors = attention.tensors;
    const int64_t row_tiles = (tensors.queries + Tile::kRows - 1) / Tile::kRows;
    const int64_t column_tiles = (tensors.keys + kColumns - 1) / kColumns;
    const int64_t tile = blockIdx.x % (row_tiles * column_tiles), owner = blockIdx.x / (row_tiles * column_tiles);
    const int first_query = static_cast<int>(tile / column_tiles) * Tile::kRows;
    const int first_key = static_cast<int>(tile % column_tiles) * kColumns;
    const int number = static_cast<int>(owner % tensors.heads);
    const int bias_batch = static_cast<int>(owner / tensors.heads);
    const int last_batch = static_cast<int>(tensors.bias_batches == 1 ? tensors.batch : bias_batch + 1);

    const BackwardMemory<T, Tile> memory;
    Accumulator<kColumns> sums;
    sums.clear();
    const int query = first_query + warp_index() * 16 + row_of(0);
    for (int batch = bias_batch; batch < last_batch; ++batch) {
        const Head<T> head(attention, {batch, number, 0, static_cast<int>(tensors.keys)});
        if (first_key >= head.key_end(first_query + Tile::kRows) ||
            head.are_apart(first_query, first_query + Tile::kRows, first_key, first_key + kColumns))
            continue;
        __syncthreads();  // all warps have used the tiles of the batch entry before
        load_queries<Tile::kRows, Tile>(memory.rows, head, first_query);
        load_keys<kColumns, Tile>(memory.columns, head, first_key);
        __syncthreads();
        Accumulator<kColumns> scores, gradients;
        scores.clear();
        gradients.clear();
        multiply_transposed<kColumns, kHead>(scores, memory.own_rows(0), memory.columns[0]);
        multiply_transposed<kColumns, kHead>(gradients, memory.own_rows(1), memory.columns[1]);
        score_gradients<false>(scores, gradients, head, query, first_key);
#pragma unroll
        for (int j = 0; j < kColumns / 8; ++j)
            for (int e = 0; e < 4; ++e) sums.sum[j][e] += gradients.sum[j][e];
    }
    T* grad_bias = static_cast<T*>(tensors.grad_bias) + owner * tensors.queries * tensors.keys;
#pragma unroll
    for (int j = 0; j < kColumns / 8; ++j)
        for (int e = 0; e < 4; ++e) {
            const int row = query + e / 2 * 8, column = first_key + column_of(j, e);
            if (row < tensors.queries && column < tensors.keys) {
                T& sum = grad_bias[row * tensors.keys + column];
                sum = from_float<T>(to_float(sum) + sums.sum[j][e]);
            }
        }
}

}  // namespace fpm
