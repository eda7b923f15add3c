// Counter-based random numbers for dropout: Philox 4x32-10 (Salmon et al., "Parallel random numbers: as easy
// as 1, 2, 3", SC 2011), for gcc and nvcc alike and free of torch.
//
// The words of an element depend on (seed, stream, element index) alone, so that forward and backward, CPU
// and CUDA, any tiling and any number of threads drop the same elements.
#pragma once

#include <cstdint>

#ifndef FPM_HOST_DEVICE  // an emulation of CUDA on the host defines its own
#ifdef __CUDACC__
#define FPM_HOST_DEVICE __host__ __device__ inline
#else
#define FPM_HOST_DEVICE inline
#endif
#endif

namespace fpm {

// Where dropout occurs; stream = layer * kDropoutSites + site. Decoder layers count on after the encoder's.
constexpr uint32_t kDropoutSites = 8;
enum DropoutSite : uint32_t {
    kEmbedding = 0,
    kAttentionProbabilities = 1,
    kAttentionResidual = 2,
    kCrossAttentionProbabilities = 3,
    kCrossAttentionResidual = 4,
    kMlpResidual = 5,
};

constexpr uint32_t kPhiloxMultiplier0 = 0xD2511F53u;
constexpr uint32_t kPhiloxMultiplier1 = 0xCD9E8D57u;
constexpr uint32_t kPhiloxWeyl0 = 0x9E3779B9u;  // the golden ratio
constexpr uint32_t kPhiloxWeyl1 = 0xBB67AE85u;  // sqrt(3) - 1
constexpr int kPhiloxRounds = 10;

struct PhiloxWords {
    uint32_t word[4];
};

// The four words of one counter under one key.
FPM_HOST_DEVICE PhiloxWords philox4x32_10(PhiloxWords counter, uint32_t key0, uint32_t key1) {
    uint32_t c0 = counter.word[0], c1 = counter.word[1], c2 = counter.word[2], c3 = counter.word[3];
    for (int round = 0; round < kPhiloxRounds; ++round) {
        const uint64_t product0 = static_cast<uint64_t>(kPhiloxMultiplier0) * c0;
        const uint64_t product1 = static_cast<uint64_t>(kPhiloxMultiplier1) * c2;
        c0 = static_cast<uint32_t>(product1 >> 32) ^ c1 ^ key0;
        c1 = static_cast<uint32_t>(product1);
        c2 = static_cast<uint32_t>(product0 >> 32) ^ c3 ^ key1;
        c3 = static_cast<uint32_t>(product0);
        key0 += kPhiloxWeyl0;
        key1 += kPhiloxWeyl1;
    }
    return PhiloxWords{{c0, c1, c2, c3}};
}

// The words of elements 4 * group ... 4 * group + 3 of one dropout.
FPM_HOST_DEVICE PhiloxWords dropout_words(uint64_t seed, uint32_t stream, uint64_t group) {
    const PhiloxWords counter{
        {static_cast<uint32_t>(group), static_cast<uint32_t>(group >> 32), stream, 0u}};
    return philox4x32_10(counter, static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32));
}

// An element is kept if its word is at least this; 0 <= probability < 1.
FPM_HOST_DEVICE uint32_t dropout_threshold(double probability) {
    return static_cast<uint32_t>(probability * 4294967296.0);
}

// What the kept elements are multiplied by.
FPM_HOST_DEVICE float dropout_scale(double probability) {
    return static_cast<float>(1.0 / (1.0 - probability));
}

// Whether one element is kept. Vectorised code takes four elements from one call of `dropout_words` instead.
FPM_HOST_DEVICE bool dropout_keeps(uint64_t seed, uint32_t stream, uint64_t element, uint32_t threshold) {
    return dropout_words(seed, stream, element / 4).word[element % 4] >= threshold;
}

// The number of words a row of attention probabilities takes: groups of four never cross rows.
FPM_HOST_DEVICE uint64_t padded_row(uint64_t num_keys) {
    return (num_keys + 3) / 4 * 4;
}

}  // namespace fpm
