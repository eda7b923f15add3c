// The three matrix products of a linear layer, blocked for the caches of one core. See README.md.
#include "cpu.h"

#include "rows.h"
#include "tiles.h"

namespace fpm {
namespace {

constexpr int64_t kRowBlock = 128;           // rows of `a` that stay in the second-level cache
constexpr int64_t kRowChunk = 1024;          // rows of `c` that stay in the caches between the parts of their sums
constexpr int64_t kDepthBlock = kTileDepth;  // of the sums: a panel of `b` stays in the first-level cache
constexpr int64_t kPage = 1024;              // floats: rows a multiple of this apart compete for the same cache lines
constexpr int64_t kTilePadding = 16;         // floats between packed tiles, for the same reason

// c (rows, columns) = initial + a (rows, depth) b (depth, columns); `columns` is a multiple of 16.
struct Product {
    int64_t rows, columns, depth;
    const float* a;
    int64_t a_stride;
    const float* b;
    int64_t b_stride;
    float* c;
    const float* initial;  // null for zero
    int64_t initial_stride;
};

int64_t memory(const LinearArguments& a) {
    const int64_t widest = round_up(a.inputs > a.outputs ? a.inputs : a.outputs, kPair);
    return kDepthBlock * (widest + kRowBlock) + kRowBlock / kTileRows * kTilePadding + kTileRows * kPair;
}

// (rows, columns), of which `columns` is a multiple of 16
FPM_INLINE void copy(const float* from, int64_t stride, int64_t rows, int64_t columns, float* to, int64_t to_stride) {
    for (int64_t row = 0; row < rows; ++row) {
        for (int64_t j = 0; j < columns; j += kLanes) store(to + row * to_stride + j, load(from + row * stride + j));
    }
}

// A part of b (depth, columns <= kPair), or with kTransposed of b (columns, depth), -> (depth, kPair).
template <bool kTransposed>
FPM_INLINE void pack_panel(const float* b, int64_t stride, int64_t depth, int64_t columns, float* panel) {
    if (kTransposed) {
        pack_transposed(b, stride, columns, depth, panel);
        return;
    }
    for (int64_t i = 0; i < depth; ++i) {
        for (int64_t j = 0; j < columns; j += kLanes) {
            __builtin_prefetch(b + i * stride + kPair + j, 0, 2);  // of the next panel
            store(panel + i * kPair + j, load(b + i * stride + j));
        }
    }
}

// The tiles of a block of rows of `a`.
struct Tiles {
    const float* first;
    int64_t tile_stride, row_stride;
};

// A block of rows, in place if nothing speaks against it; a (depth, rows) with kTransposed.
template <bool kTransposed>
FPM_INLINE Tiles pack_tiles(const float* a, int64_t stride, int64_t rows, int64_t depth, float* packed) {
    if (!kTransposed) {
        if (stride % kPage && rows % kTileRows == 0) return {a, kTileRows * stride, stride};
        for (int64_t row = 0; row < rows; ++row) {
            std::memcpy(packed + row * depth, a + row * stride, depth * sizeof(float));
        }
        const int64_t missing = round_up(rows, kTileRows) - rows;
        std::memset(packed + rows * depth, 0, missing * depth * sizeof(float));
        return {packed, kTileRows * depth, depth};
    }
    const int64_t tile_stride = kTileRows * depth + kTilePadding;
    for (int64_t i = 0; i < depth; ++i) {
        for (int64_t row = 0; row < rows; row += kLanes) __builtin_prefetch(a + (i + 8) * stride + row);
        for (int64_t row = 0; row < rows; row += kTileRows) {
            std::memcpy(
                packed + row / kTileRows * tile_stride + i * kTileRows, a + i * stride + row,
                kTileRows * sizeof(float));
        }
    }
    return {packed, tile_stride, 1};
}

// c (rows, columns <= kPair) (+)= tiles times a panel; an incomplete tile is computed in `spare` (kTileRows, kPair).
template <bool kATransposed, bool kAdd>
FPM_INLINE void multiply_panel(
    const Tiles& tiles, const float* panel, int64_t rows, int64_t columns, int64_t depth, float* c,
    int64_t c_stride, float* spare) {
    const int64_t row_stride = kATransposed ? 1 : tiles.row_stride, step = kATransposed ? kTileRows : 1;
    for (int64_t row = 0; row < rows; row += kTileRows) {
        const float* tile = tiles.first + row / kTileRows * tiles.tile_stride;
        float* out = c + row * c_stride;
        const int64_t left = rows - row;
        if (left >= kTileRows) {
            if (columns == kPair) {
                multiply_tile<2, kAdd>(tile, row_stride, step, panel, kPair, depth, out, c_stride);
            } else {
                multiply_tile<1, kAdd>(tile, row_stride, step, panel, kPair, depth, out, c_stride);
            }
            continue;
        }
        multiply_tile<2, false>(tile, row_stride, step, panel, kPair, depth, spare, kPair);
        for (int64_t r = 0; r < left; ++r) {
            for (int64_t j = 0; j < columns; j += kLanes) {
                const f32 part = load(spare + r * kPair + j);
                store(out + r * c_stride + j, kAdd ? load(out + r * c_stride + j) + part : part);
            }
        }
    }
}

template <bool kATransposed, bool kBTransposed>
void multiply_blocks(const Product& p, float* memory) {
    float* panels = memory;  // (columns / kPair, depth, kPair)
    float* packed = panels + kDepthBlock * round_up(p.columns, kPair);
    float* spare = packed + kRowBlock * kDepthBlock + kRowBlock / kTileRows * kTilePadding;
    for (int64_t first = 0; first < p.depth; first += kDepthBlock) {
        const int64_t depth = p.depth - first < kDepthBlock ? p.depth - first : kDepthBlock;
        const float* a = p.a + first * (kATransposed ? p.a_stride : 1);
        const float* b = p.b + first * (kBTransposed ? 1 : p.b_stride);
        for (int64_t row = 0; row < p.rows; row += kRowBlock) {
            const int64_t rows = p.rows - row < kRowBlock ? p.rows - row : kRowBlock;
            const Tiles tiles = pack_tiles<kATransposed>(
                a + row * (kATransposed ? 1 : p.a_stride), p.a_stride, rows, depth, packed);
            for (int64_t column = 0; column < p.columns; column += kPair) {
                const int64_t columns = p.columns - column < kPair ? p.columns - column : kPair;
                float *panel = panels + column * depth, *c = p.c + row * p.columns + column;
                if (row == 0) {
                    pack_panel<kBTransposed>(
                        b + column * (kBTransposed ? p.b_stride : 1), p.b_stride, depth, columns, panel);
                }
                if (first == 0 && p.initial) {
                    copy(p.initial + row * p.initial_stride + column, p.initial_stride, rows, columns, c, p.columns);
                }
                if (first || p.initial) {
                    multiply_panel<kATransposed, true>(tiles, panel, rows, columns, depth, c, p.columns, spare);
                } else {
                    multiply_panel<kATransposed, false>(tiles, panel, rows, columns, depth, c, p.columns, spare);
                }
            }
        }
    }
}

void forward(const LinearArguments& a, int64_t begin, int64_t end, float* memory) {
    for (int64_t row = begin; row < end; row += kRowChunk) {
        const int64_t rows = end - row < kRowChunk ? end - row : kRowChunk;
        const float* x = a.x + row * a.inputs;
        float* out = a.out + row * a.outputs;
        multiply_blocks<false, true>(
            {rows, a.outputs, a.inputs, x, a.inputs, a.weight, a.inputs, out, a.bias, 0}, memory);
    }
}

void input_grad(const LinearArguments& a, int64_t begin, int64_t end, float* memory) {
    for (int64_t row = begin; row < end; row += kRowChunk) {
        const int64_t rows = end - row < kRowChunk ? end - row : kRowChunk;
        const float *grad = a.grad + row * a.outputs, *added = a.added ? a.added + row * a.inputs : nullptr;
        float* out = a.out + row * a.inputs;
        multiply_blocks<false, false>(
            {rows, a.inputs, a.outputs, grad, a.outputs, a.weight, a.inputs, out, added, a.inputs}, memory);
    }
}

void weight_grad(const LinearArguments& a, int64_t begin, int64_t end, float* memory) {
    float* out = a.out + begin * a.inputs;
    multiply_blocks<true, false>(
        {end - begin, a.inputs, a.rows, a.grad + begin, a.outputs, a.x, a.inputs, out, nullptr, 0}, memory);
}

}  // namespace

const LinearKernels FPM_ISA_NAME(linear) = {memory, forward, input_grad, weight_grad};

}  // namespace fpm
