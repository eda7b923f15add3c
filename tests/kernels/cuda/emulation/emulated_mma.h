// Tensor cores for the emulation: a warp's ldmatrix and mma.m16n8k16 from the fragment layouts of the PTX ISA.
#pragma once

#include "cuda_bf16.h"
#include "cuda_fp16.h"
#include "cuda_runtime.h"

#include <cstdlib>

namespace fpm {

inline void load_matrices_as(uint32_t (&to)[4], const void* row, bool transposed) {
    const auto address = reinterpret_cast<uintptr_t>(row);
    if (address % 16 != 0) std::abort();
    const uint32_t words[2] = {static_cast<uint32_t>(address), static_cast<uint32_t>(address >> 32)};
    const auto rows = emulation::exchange(0xffffffffu, words, 2);
    const int lane = emulation::lane();
    for (int matrix = 0; matrix < 4; ++matrix) {
        uint32_t pair = 0;
        for (int half = 0; half < 2; ++half) {
            const int r = transposed ? lane % 4 * 2 + half : lane / 4, c = transposed ? lane / 4 : lane % 4 * 2 + half;
            const uint64_t low = rows.word(matrix * 8 + r, 0), high = rows.word(matrix * 8 + r, 1);
            pair |= uint32_t{reinterpret_cast<const uint16_t*>(low | high << 32)[c]} << (16 * half);
        }
        to[matrix] = pair;
    }
}

inline void load_matrices(uint32_t (&to)[4], const void* row) { load_matrices_as(to, row, false); }
inline void load_matrices_transposed(uint32_t (&to)[4], const void* row) { load_matrices_as(to, row, true); }

inline float half_word(uint32_t pair, int half, const __nv_bfloat16*) {
    return __bfloat162float({static_cast<uint16_t>(pair >> (16 * half))});
}
inline float half_word(uint32_t pair, int half, const __half*) {
    const auto bits = static_cast<uint16_t>(pair >> (16 * half));
    __half x;
    std::memcpy(&x, &bits, 2);
    return __half2float(x);
}

template <typename T>
void multiply_add(float (&sum)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1, const T* type) {
    const uint32_t words[6] = {a[0], a[1], a[2], a[3], b0, b1};
    const auto given = emulation::exchange(0xffffffffu, words, 6);
    const int lane = emulation::lane();
    for (int e = 0; e < 4; ++e) {
        const int row = lane / 4 + e / 2 * 8, column = lane % 4 * 2 + e % 2;
        for (int k = 0; k < 16; ++k) {
            const uint32_t x = given.word(row % 8 * 4 + k % 8 / 2, row / 8 + 2 * (k / 8));
            const uint32_t y = given.word(column * 4 + k % 8 / 2, 4 + k / 8);
            sum[e] += half_word(x, k % 2, type) * half_word(y, k % 2, type);
        }
    }
}

}  // namespace fpm
