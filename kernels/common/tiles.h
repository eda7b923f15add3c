// Small matrix products whose result stays in registers, and the packing they read from.
#pragma once

#include "vector.h"

namespace {

constexpr int kTileRows = kLanes == 16 ? 8 : 4;  // with two vectors a row: what fits the registers
constexpr int64_t kTileDepth = 256;

FPM_INLINE int64_t round_up(int64_t x, int64_t multiple) {
    return (x + multiple - 1) / multiple * multiple;
}

// c[r][0 ... kVectors * kLanes) (+)= sum over i < depth of a[r * row_stride + i * step] * b[i * b_stride + ...]
// for r < kTileRows.
template <int kVectors, bool kAdd>
FPM_INLINE void multiply_tile(
    const float* a, int64_t row_stride, int64_t step, const float* b, int64_t b_stride, int64_t depth, float* c,
    int64_t c_stride) {
    f32 sums[kTileRows][kVectors];
#pragma GCC unroll 8
    for (int r = 0; r < kTileRows; ++r) {  // the result's memory is fetched while the sums are computed
#pragma GCC unroll 2
        for (int v = 0; v < kVectors; ++v) __builtin_prefetch(c + r * c_stride + v * kLanes, 1);
    }
#pragma GCC unroll 8
    for (int r = 0; r < kTileRows; ++r) {
#pragma GCC unroll 2
        for (int v = 0; v < kVectors; ++v) sums[r][v] = f32{};
    }
    for (int64_t i = 0; i < depth; ++i) {
        f32 row[kVectors];
#pragma GCC unroll 2
        for (int v = 0; v < kVectors; ++v) row[v] = load(b + v * kLanes);
#pragma GCC unroll 8
        for (int r = 0; r < kTileRows; ++r) {
#pragma GCC unroll 2
            for (int v = 0; v < kVectors; ++v) sums[r][v] += row[v] * a[r * row_stride];
        }
        a += step;
        b += b_stride;
    }
#pragma GCC unroll 8
    for (int r = 0; r < kTileRows; ++r) {
#pragma GCC unroll 2
        for (int v = 0; v < kVectors; ++v) {
            float* out = c + r * c_stride + v * kLanes;
            store(out, kAdd ? load(out) + sums[r][v] : sums[r][v]);
        }
    }
}

// As `multiply`, for a depth that is summed up in one go.
template <bool kRowMajor, bool kAdd>
void multiply_block(
    const float* a, int64_t a_stride, const float* b, int64_t b_stride, float* c, int64_t c_stride, int64_t rows,
    int64_t columns, int64_t depth) {
    int64_t column = 0;
    for (; column + kPair <= columns; column += kPair) {
        for (int64_t row = 0; row < rows; row += kTileRows) {
            const float* rows_of_a = kRowMajor ? a + row * a_stride : a + row;
            multiply_tile<2, kAdd>(
                rows_of_a, kRowMajor ? a_stride : 1, kRowMajor ? 1 : a_stride, b + column, b_stride, depth,
                c + row * c_stride + column, c_stride);
        }
    }
    if (column == columns) return;
    for (int64_t row = 0; row < rows; row += kTileRows) {
        const float* rows_of_a = kRowMajor ? a + row * a_stride : a + row;
        multiply_tile<1, kAdd>(
            rows_of_a, kRowMajor ? a_stride : 1, kRowMajor ? 1 : a_stride, b + column, b_stride, depth,
            c + row * c_stride + column, c_stride);
    }
}

// c (rows, columns) (+)= a b. `rows` is rounded up to whole tiles and `columns` is a multiple of kLanes; both must
// be backed by memory. kRowMajor: a[r * a_stride + i], else a is transposed: a[i * a_stride + r]. Long sums are added
// up from parts, whose rounding errors are those of short ones.
template <bool kRowMajor, bool kAdd>
FPM_INLINE void multiply(
    const float* a, int64_t a_stride, const float* b, int64_t b_stride, float* c, int64_t c_stride, int64_t rows,
    int64_t columns, int64_t depth) {
    int64_t count = depth < kTileDepth ? depth : kTileDepth;
    multiply_block<kRowMajor, kAdd>(a, a_stride, b, b_stride, c, c_stride, rows, columns, count);
    for (int64_t done = count; done < depth; done += count) {
        count = depth - done < kTileDepth ? depth - done : kTileDepth;
        const float* rest = a + done * (kRowMajor ? 1 : a_stride);
        multiply_block<kRowMajor, true>(rest, a_stride, b + done * b_stride, b_stride, c, c_stride, rows, columns, count);
    }
}

template <int kStep>
FPM_INLINE void exchange(f32 (&rows)[kLanes]) {
    i32 upper, lower;
    for (int i = 0; i < kLanes; ++i) {
        upper[i] = i & kStep ? kLanes + (i ^ kStep) : i;
        lower[i] = i & kStep ? kLanes + i : i ^ kStep;
    }
#pragma GCC unroll 16
    for (int i = 0; i < kLanes; ++i) {
        if (i & kStep) continue;
        const f32 a = rows[i], b = rows[i | kStep];
        rows[i] = __builtin_shuffle(a, b, upper);
        rows[i | kStep] = __builtin_shuffle(a, b, lower);
    }
}

FPM_INLINE void transpose(f32 (&rows)[kLanes]) {
    exchange<1>(rows);
    exchange<2>(rows);
    if constexpr (kLanes >= 8) exchange<4>(rows);
    if constexpr (kLanes >= 16) exchange<8>(rows);
}

// (count, width) with rows `stride` apart -> panels of kPair rows, each transposed: (panels, padded width, kPair).
// What lies beyond is zero.
template <typename T>
void pack_transposed(const T* x, int64_t stride, int64_t count, int64_t width, float* packed) {
    const int64_t padded_width = round_up(width, kLanes);
    for (int64_t first = 0; first < count; first += kLanes) {
        float* panel = packed + first / kPair * (padded_width * kPair) + first % kPair;
        for (int64_t d = 0; d < width; d += kLanes) {
            f32 rows[kLanes];
#pragma GCC unroll 16
            for (int i = 0; i < kLanes; ++i) {
                rows[i] = first + i < count ? load_up_to(x + (first + i) * stride + d, width - d) : f32{};
            }
            transpose(rows);
#pragma GCC unroll 16
            for (int i = 0; i < kLanes; ++i) store(panel + (d + i) * kPair, rows[i]);
        }
    }
    if ((count + kLanes - 1) / kLanes % 2) {  // the second half of the last panel
        float* panel = packed + count / kPair * (padded_width * kPair) + kLanes;
        for (int64_t d = 0; d < padded_width; ++d) store(panel + d * kPair, f32{});
    }
}

// (count, width) with rows `stride` apart, times `scale` -> (padded count, padded width); what lies beyond is zero.
template <typename T>
void pack_rows(
    const T* x, int64_t stride, int64_t count, int64_t width, float scale, int64_t padded_count, float* packed) {
    const int64_t padded_width = round_up(width, kLanes);
    for (int64_t row = 0; row < padded_count; ++row) {
        for (int64_t d = 0; d < padded_width; d += kLanes) {
            store(
                packed + row * padded_width + d,
                row < count ? load_up_to(x + row * stride + d, width - d) * scale : f32{});
        }
    }
}

// (count, padded width), times `scale` -> rows `stride` apart.
template <typename T>
void unpack_rows(const float* packed, int64_t count, int64_t width, float scale, T* x, int64_t stride) {
    const int64_t padded_width = round_up(width, kLanes);
    for (int64_t row = 0; row < count; ++row) {
        for (int64_t d = 0; d < width; d += kLanes) {
            store_up_to(x + row * stride + d, load(packed + row * padded_width + d) * scale, width - d);
        }
    }
}

}  // namespace
