// A warp's product of two tiles in shared memory, into accumulators in registers: by tensor cores for bfloat16 and
// half, by fused multiply-adds in fp32. Both lay the accumulators out as mma.cuh says.
#pragma once

#include "mma.cuh"

namespace fpm {

// Elements between the starts of two rows of a tile: 16 bytes more than a row, so that eight rows' accesses of
// 16 bytes fall into different banks.
template <typename T, int kWidth>
constexpr int kPitch = kWidth + 16 / static_cast<int>(sizeof(T));

// A 16 x kColumns tile of sums over a warp: sum[j] is columns 8 j ... 8 j + 7.
template <int kColumns>
struct Accumulator {
    float sum[kColumns / 8][4];

    __device__ void clear() {
        for (auto& block : sum)
            for (float& x : block) x = 0.0f;
    }
};

// Row and column of element `e` of block `j` in its tile.
__device__ inline int row_of(int e) { return lane_index() / 4 + e / 2 * 8; }
__device__ inline int column_of(int j, int e) { return j * 8 + lane_index() % 4 * 2 + e % 2; }

// Writes the tile, rounded, to `to` with kPitch<T, kColumns>.
template <int kColumns, typename T>
__device__ void store_accumulator(T* to, const Accumulator<kColumns>& from) {
#pragma unroll
    for (int j = 0; j < kColumns / 8; ++j)
#pragma unroll
        for (int e = 0; e < 4; e += 2) {
            const Vector<T, 2> pair{{from_float<T>(from.sum[j][e]), from_float<T>(from.sum[j][e + 1])}};
            *reinterpret_cast<Vector<T, 2>*>(to + row_of(e) * kPitch<T, kColumns> + column_of(j, e)) = pair;
        }
}

// sum += a b^T: a is (16, kDepth) with kPitch<T, kDepth>, b is (kColumns, kDepth) likewise.
template <int kColumns, int kDepth, typename T>
__device__ void multiply_transposed(Accumulator<kColumns>& to, const T* a, const T* b) {
    constexpr int kRow = kPitch<T, kDepth>;
    const int lane = lane_index();
    if constexpr (sizeof(T) == 2) {
        const T* a_row = a + lane % 16 * kRow + lane / 16 * 8;
        const T* b_row = b + (lane / 16 * 8 + lane % 8) * kRow + lane / 8 % 2 * 8;
#pragma unroll
        for (int k = 0; k < kDepth; k += 16) {
            uint32_t a_part[4];
            load_matrices(a_part, a_row + k);
#pragma unroll
            for (int j = 0; j < kColumns / 8; j += 2) {
                uint32_t b_part[4];
                load_matrices(b_part, b_row + j * 8 * kRow + k);
                multiply_add(to.sum[j], a_part, b_part[0], b_part[1], a);
                multiply_add(to.sum[j + 1], a_part, b_part[2], b_part[3], a);
            }
        }
    } else {
        for (int k = 0; k < kDepth; k += 4) {
            Vector<float, 4> x[2];
            for (int half = 0; half < 2; ++half)
                x[half] = *reinterpret_cast<const Vector<float, 4>*>(a + row_of(2 * half) * kRow + k);
#pragma unroll
            for (int j = 0; j < kColumns / 8; ++j)
#pragma unroll
                for (int e = 0; e < 2; ++e) {
                    const auto y = *reinterpret_cast<const Vector<float, 4>*>(b + column_of(j, e) * kRow + k);
                    for (int i = 0; i < 4; ++i) {
                        to.sum[j][e] += x[0].element[i] * y.element[i];
                        to.sum[j][e + 2] += x[1].element[i] * y.element[i];
                    }
                }
        }
    }
}

// sum += a b: a is (16, kDepth) with kPitch<T, kDepth>, b is (kDepth, kColumns) with kPitch<T, kColumns>.
template <int kColumns, int kDepth, typename T>
__device__ void multiply(Accumulator<kColumns>& to, const T* a, const T* b) {
    constexpr int kRowA = kPitch<T, kDepth>, kRowB = kPitch<T, kColumns>;
    const int lane = lane_index();
    if constexpr (sizeof(T) == 2) {
        const T* a_row = a + lane % 16 * kRowA + lane / 16 * 8;
        const T* b_row = b + lane % 16 * kRowB + lane / 16 * 8;
#pragma unroll
        for (int k = 0; k < kDepth; k += 16) {
            uint32_t a_part[4];
            load_matrices(a_part, a_row + k);
#pragma unroll
            for (int j = 0; j < kColumns / 8; j += 2) {
                uint32_t b_part[4];
                load_matrices_transposed(b_part, b_row + k * kRowB + j * 8);
                multiply_add(to.sum[j], a_part, b_part[0], b_part[1], a);
                multiply_add(to.sum[j + 1], a_part, b_part[2], b_part[3], a);
            }
        }
    } else {
        for (int k = 0; k < kDepth; ++k) {
            const float x[2] = {a[row_of(0) * kRowA + k], a[row_of(2) * kRowA + k]};
#pragma unroll
            for (int j = 0; j < kColumns / 8; ++j) {
                const auto y = *reinterpret_cast<const Vector<float, 2>*>(b + k * kRowB + column_of(j, 0));
                for (int e = 0; e < 4; ++e) to.sum[j][e] += x[e / 2] * y.element[e % 2];
            }
        }
    }
}

}  // namespace fpm
