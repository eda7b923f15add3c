// What the attention kernels share: where a sequence's tensors lie, which keys a query attends to, the bias, and
// which probabilities dropout keeps.
#pragma once

#include "cuda.h"

#include "../common/dropout.cuh"
#include "../common/tile_product.cuh"

namespace fpm {

struct Attention {
    AttentionArguments tensors;
    Dropout dropout;
    bool vector;  // all rows of heads may be accessed 16 bytes at a time
};

// What a block works on: a tile of a head of a sequence.
struct Place {
    int sequence, head, tile;  // sequence -1: a block too many
    int longest;               // the keys of the longest sequence
};

// Blocks of kRows positions for each head: of a packed stream, whose lengths only the device knows, at most so many.
__host__ __device__ inline int64_t blocks_of_head(const AttentionArguments& tensors, int64_t positions, int rows) {
    return tensors.cu_seqlens ? tensors.tokens / rows + tensors.batch : (positions + rows - 1) / rows;
}

// The place of this block, for sequences of `positions` positions each, or in a packed stream, where every warp adds up
// the sequences' tiles, 32 sequences at a time.
template <int kRows>
__device__ Place find_place(const AttentionArguments& tensors, int64_t positions) {
    const int64_t blocks = blocks_of_head(tensors, positions, kRows);
    const int number = static_cast<int>(blockIdx.x % blocks), owner = static_cast<int>(blockIdx.x / blocks);
    const int heads = static_cast<int>(tensors.heads), count = static_cast<int>(tensors.batch);
    if (!tensors.cu_seqlens) return {owner / heads, owner % heads, number, static_cast<int>(tensors.keys)};
    int sequence = -1, tile = 0, longest = 0, tiles_before = 0;
    for (int first = 0; first < count; first += kWarpSize) {
        const int i = first + lane_index();
        const int length = i < count ? tensors.cu_seqlens[i + 1] - tensors.cu_seqlens[i] : 0;
        const int tiles = (length + kRows - 1) / kRows;
        const int begin = tiles_before + warp_prefix_sum(tiles) - tiles;
        if (number >= begin && number < begin + tiles) {
            sequence = i;
            tile = number - begin;
        }
        longest = length > longest ? length : longest;
        tiles_before = __shfl_sync(kAllLanes, begin + tiles, kWarpSize - 1);
    }
    return {warp_max(sequence), owner, warp_max(tile), warp_max(longest)};
}

// One head of one sequence.
template <typename T>
struct Head {
    const Attention& attention;
    const AttentionArguments& tensors;
    int batch, head, queries, keys, longest;
    int64_t first_token;  // packed: where the sequence begins in the stream
    int64_t first_row;    // of log_sum_exp, and of the dropout's element index

    __device__ Head(const Attention& attention, const Place& place)
        : attention(attention), tensors(attention.tensors), batch(place.sequence), head(place.head),
          longest(place.longest) {
        const bool packed = tensors.cu_seqlens != nullptr;
        first_token = packed ? tensors.cu_seqlens[batch] : 0;
        queries = packed ? tensors.cu_seqlens[batch + 1] - tensors.cu_seqlens[batch]
                         : static_cast<int>(tensors.queries);
        keys = packed ? queries : static_cast<int>(tensors.keys);
        first_row =
            packed ? head * tensors.tokens + first_token : (batch * tensors.heads + head) * tensors.queries;
    }

    // This head's first row in a tensor.
    __device__ T* rows(void* tensor, const int64_t (&strides)[3]) const {
        const int64_t sequence = tensors.cu_seqlens ? first_token * strides[1] : batch * strides[0];
        return static_cast<T*>(tensor) + sequence + head * strides[2];
    }
    __device__ const T* rows(const void* tensor, const int64_t (&strides)[3]) const {
        return rows(const_cast<void*>(tensor), strides);
    }

    __device__ bool is_visible(int query, int key) const {
        if (query >= queries || key >= keys || (tensors.causal && key > query + keys - queries)) return false;
        if (tensors.key_mask && !tensors.key_mask[batch * tensors.keys + key]) return false;
        if (!tensors.documents) return true;
        const int64_t* documents = tensors.documents + batch * tensors.queries;
        return documents[query] == documents[key];
    }

    // The score from the product of query and key; -infinity where the key is masked.
    __device__ float score(float product, int query, int key) const {
        if (!is_visible(query, key)) return -INFINITY;
        const float scaled = product * static_cast<float>(tensors.scale);
        if (!tensors.bias) return scaled;
        const int64_t* strides = tensors.bias_strides;
        const auto* bias = static_cast<const T*>(tensors.bias) + batch * strides[0] + head * strides[1];
        return scaled + to_float(bias[query * strides[2] + key]);
    }

    // Where the keys end that any query before `query_end` attends to.
    __device__ int key_end(int query_end) const {
        const int end = query_end + keys - queries;
        return tensors.causal && end < keys ? end : keys;
    }

    // The first query that attends to `key` or to a later key.
    __device__ int query_begin(int key) const {
        const int begin = key - (keys - queries);
        return tensors.causal && begin > 0 ? begin : 0;
    }

    // Whether no query of [query, query_end) and no key of [key, key_end) are of one document.
    __device__ bool are_apart(int query, int query_end, int key, int key_end) const {
        if (!tensors.documents) return false;
        const int64_t* documents = tensors.documents + batch * tensors.queries;
        const int last_query = (query_end < queries ? query_end : queries) - 1;
        const int last_key = (key_end < keys ? key_end : keys) - 1;
        return documents[last_key] < documents[query] || documents[last_query] < documents[key];
    }

    // The group of four dropout words that holds this probability.
    __device__ uint64_t dropout_group(int query, int key) const {
        return static_cast<uint64_t>(first_row + query) * (padded_row(longest) / 4) + key / 4;
    }
};

// What a lane's four probabilities are multiplied by, where rows are queries, columns are keys, and (query, key) is
// the first of them. Four keys share a call of Philox, and two lanes share four keys in two rows: each makes one row's
// words, and they swap.
template <typename T>
__device__ void dropout_of_rows(float (&factor)[4], const Head<T>& head, int query, int key) {
    const Dropout& dropout = head.attention.dropout;
    const bool odd = lane_index() % 2 != 0;
    const PhiloxWords own =
        dropout_words(dropout.seed, dropout.stream, head.dropout_group(query + (odd ? 8 : 0), key));
    const uint32_t swapped[2] = {__shfl_xor_sync(kAllLanes, odd ? own.word[0] : own.word[2], 1),
                                 __shfl_xor_sync(kAllLanes, odd ? own.word[1] : own.word[3], 1)};
    for (int e = 0; e < 4; ++e) {
        const uint32_t word = odd ? (e < 2 ? swapped[e] : own.word[e]) : (e < 2 ? own.word[e] : swapped[e - 2]);
        factor[e] = word >= dropout.threshold ? dropout.scale : 0.0f;
    }
}

// The same where rows are keys and columns are queries: four lanes share four keys in four pairs of row and column;
// each makes the words of one pair, and they transpose them.
template <typename T>
__device__ void dropout_of_columns(float (&factor)[4], const Head<T>& head, int query, int key) {
    const Dropout& dropout = head.attention.dropout;
    const int member = lane_index() / 4 % 4;  // also which of the four words are this lane's: key % 4
    const PhiloxWords own =
        dropout_words(dropout.seed, dropout.stream, head.dropout_group(query + member % 2, key + member / 2 * 8));
#pragma unroll
    for (int distance = 0; distance < 4; ++distance) {
        const int other = member ^ distance;
        uint32_t word = 0;
#pragma unroll
        for (int i = 0; i < 4; ++i) word = i == other ? own.word[i] : word;
        word = __shfl_xor_sync(kAllLanes, word, distance * 4);
#pragma unroll
        for (int e = 0; e < 4; ++e)
            factor[e] = e == other ? (word >= dropout.threshold ? dropout.scale : 0.0f) : factor[e];
    }
}

// The exponential function, by the hardware's approximation where the result is rounded to 16 bits anyway.
template <typename T>
__device__ float exponential(float x) {
    if constexpr (sizeof(T) == 2) return __expf(x);
    else return expf(x);
}

// Copies the positions [first, end) of a head of a tensor into a tile of kRows rows with kPitch<T, kHead>, by the
// kThreads threads of the block; what lies outside of the tensor is zero in the tile.
template <int kRows, int kHead, int kThreads, typename T>
__device__ void load_tile(T* tile, const Head<T>& head, const void* tensor, const int64_t (&strides)[3], int first,
                          int end) {
    constexpr int kGroup = 16 / static_cast<int>(sizeof(T)), kGroups = kHead / kGroup;
    const int head_size = static_cast<int>(head.tensors.head_size);
    const T* rows = head.rows(tensor, strides) + first * strides[1];
    for (int i = threadIdx.x; i < kRows * kGroups; i += kThreads) {
        const int row = i / kGroups, column = i % kGroups * kGroup;
        const bool inside = row < end - first && column < head_size;
        Vector<T, kGroup> group{};
        if (inside && head.attention.vector) {
            group = *reinterpret_cast<const Vector<T, kGroup>*>(rows + row * strides[1] + column);
        } else if (inside) {
            for (int c = 0; c < kGroup && column + c < head_size; ++c)
                group.element[c] = rows[row * strides[1] + column + c];
        }
        *reinterpret_cast<Vector<T, kGroup>*>(tile + row * kPitch<T, kHead> + column) = group;
    }
}

// Writes a warp's 16 rows of sums, times `factor`, to the positions from `first` on and before `end`, by way of rows
// of a tile that this warp alone uses.
template <int kHead, typename T>
__device__ void store_sums(const Head<T>& head, void* tensor, const int64_t (&strides)[3], int first, int end, T* tile,
                           Accumulator<kHead>& sums, float factor) {
    constexpr int kGroup = 16 / static_cast<int>(sizeof(T)), kGroups = kHead / kGroup;
    for (auto& block : sums.sum)
        for (float& x : block) x *= factor;
    __syncwarp();
    store_accumulator(tile, sums);
    __syncwarp();
    const int head_size = static_cast<int>(head.tensors.head_size);
    T* rows = head.rows(tensor, strides) + first * strides[1];
    for (int i = lane_index(); i < 16 * kGroups; i += kWarpSize) {
        const int row = i / kGroups, column = i % kGroups * kGroup;
        if (row >= end - first || column >= head_size) continue;
        const auto group = *reinterpret_cast<const Vector<T, kGroup>*>(tile + row * kPitch<T, kHead> + column);
        if (head.attention.vector) {
            *reinterpret_cast<Vector<T, kGroup>*>(rows + row * strides[1] + column) = group;
        } else {
            for (int c = 0; c < kGroup && column + c < head_size; ++c)
                rows[row * strides[1] + column + c] = group.element[c];
        }
    }
}

}  // namespace fpm
