// Dropout on the device: which elements are kept, from philox.h's counter-based random numbers.
#pragma once

#include "device.cuh"
#include "philox.h"

namespace fpm {

// A dropout as kernels take it; `scale` multiplies what is kept.
struct Dropout {
    uint64_t seed;
    uint32_t stream;
    uint32_t threshold;
    float scale;
    bool active;
};

inline Dropout make_dropout(double probability, uint64_t seed, int64_t stream) {
    return {seed, static_cast<uint32_t>(stream), dropout_threshold(probability), dropout_scale(probability),
            probability > 0.0};
}

// Multiplies four neighbouring elements, the first of which has the index `element`, by 0 or the scale.
__device__ inline void apply_dropout(float (&x)[4], const Dropout& dropout, uint64_t element) {
    if (!dropout.active) return;
    if (element % 4 == 0) {
        const PhiloxWords words = dropout_words(dropout.seed, dropout.stream, element / 4);
        for (int i = 0; i < 4; ++i) x[i] = words.word[i] >= dropout.threshold ? x[i] * dropout.scale : 0.0f;
    } else {
        for (int i = 0; i < 4; ++i) {
            const bool keeps = dropout_keeps(dropout.seed, dropout.stream, element + i, dropout.threshold);
            x[i] = keeps ? x[i] * dropout.scale : 0.0f;
        }
    }
}

}  // namespace fpm
