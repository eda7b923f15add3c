// Loops over the elements of a row, a vector at a time, and sums over rows.
#pragma once

#include "cpu_dispatch.h"
#include "vector.h"

// f<T>(arguments) for the element type T that `type` names.
#define FPM_FOR_TYPE(type, f, ...)                                        \
    ((type) == ::fpm::ElementType::kFloat32    ? f<float>(__VA_ARGS__)    \
     : (type) == ::fpm::ElementType::kBfloat16 ? f<bfloat16>(__VA_ARGS__) \
                                               : f<float16>(__VA_ARGS__))

namespace {

// f(first element, number of elements left) for each vector of the row.
template <typename F>
FPM_INLINE void for_row(int64_t width, const F& f) {
    int64_t j = 0;
    for (; j + kLanes <= width; j += kLanes) f(j, static_cast<int64_t>(kLanes));
    if (j < width) f(j, width - j);
}

// As `for_row`, with which elements the dropout keeps; the row's first element has the index `element`.
template <typename F>
FPM_INLINE void for_row_with_dropout(const DropoutKeys& keys, uint64_t element, int64_t width, const F& f) {
    if (!keys.active) {
        for_row(width, [&](int64_t j, int64_t count) { f(j, count, ~i32{}); });
        return;
    }
    if (element % 4 == 0) {
        int64_t j = 0;
        i32 first, second;
        for (; j + kPair <= width; j += kPair) {
            kept_elements(keys, (element + j) / 4, first, second);
            f(j, static_cast<int64_t>(kLanes), first);
            f(j + kLanes, static_cast<int64_t>(kLanes), second);
        }
        if (j < width) {
            kept_elements(keys, (element + j) / 4, first, second);
            f(j, width - j < kLanes ? width - j : kLanes, first);
            if (j + kLanes < width) f(j + kLanes, width - j - kLanes, second);
        }
        return;
    }
    for_row(width, [&](int64_t j, int64_t count) {  // rows that begin inside a group of four: rare, so one by one
        i32 kept{};
        for (int i = 0; i < kLanes && i < count; ++i) {
            kept[i] = -fpm::dropout_keeps(keys.seed, keys.stream, element + j + i, keys.threshold);
        }
        f(j, count, kept);
    });
}

// out[j] = the sum over blocks of sums[block * stride + j], in the order of the blocks.
template <typename T>
void add_up_blocks(const float* sums, int64_t blocks, int64_t stride, int64_t width, void* out) {
    for_row(width, [&](int64_t j, int64_t count) {
        f32 total{};
        for (int64_t block = 0; block < blocks; ++block) total += load_up_to(sums + block * stride + j, count);
        store_up_to(static_cast<T*>(out) + j, total, count);
    });
}

}  // namespace
