// Vectors of floats for the CPU operators, written once with the compiler's vector extensions and compiled for
// AVX-512, AVX2 and the machine's baseline. Everything has internal linkage: the same code compiled for
// another instruction set must never be merged with it by the linker.
#pragma once

#include <cstdint>
#include <cstring>

#ifdef __x86_64__
#include <immintrin.h>
#endif

#include "philox.h"

#define FPM_INLINE static inline __attribute__((always_inline))

namespace {

#if defined(__AVX512F__)
constexpr int kLanes = 16;
#elif defined(__AVX2__)
constexpr int kLanes = 8;
#else
constexpr int kLanes = 4;
#endif
constexpr int kPair = 2 * kLanes;  // two vectors: what one vectorised Philox call has words for

typedef float f32 __attribute__((vector_size(kLanes * 4)));
typedef int32_t i32 __attribute__((vector_size(kLanes * 4)));
typedef uint32_t u32 __attribute__((vector_size(kLanes * 4)));
typedef uint64_t u64 __attribute__((vector_size(kLanes * 4)));  // kLanes / 2 numbers
typedef float f32_unaligned __attribute__((vector_size(kLanes * 4), aligned(4), may_alias));
typedef uint16_t u16_unaligned __attribute__((vector_size(kLanes * 2), aligned(2), may_alias));
typedef uint16_t u16 __attribute__((vector_size(kLanes * 2)));

// The element types of tensors: float itself, and two 16-bit ones that are converted on load and store.
struct bfloat16 {
    uint16_t bits;
};
struct float16 {
    uint16_t bits;
};

FPM_INLINE f32 splat(float x) {
    return f32{} + x;
}

FPM_INLINE f32 load(const float* p) {
    return *reinterpret_cast<const f32_unaligned*>(p);
}

FPM_INLINE void store(float* p, f32 x) {
    *reinterpret_cast<f32_unaligned*>(p) = x;
}

FPM_INLINE f32 load(const bfloat16* p) {
    const u16 bits = *reinterpret_cast<const u16_unaligned*>(p);
    return reinterpret_cast<f32>(__builtin_convertvector(bits, u32) << 16);
}

// Rounds to the nearest, ties to even; NaN stays NaN.
FPM_INLINE void store(bfloat16* p, f32 x) {
    const u32 bits = reinterpret_cast<u32>(x);
    const u32 rounded = (bits + 0x7FFFu + ((bits >> 16) & 1u)) >> 16;
    const u32 result = x == x ? rounded : (bits >> 16) | 0x40u;
    *reinterpret_cast<u16_unaligned*>(p) = __builtin_convertvector(result, u16);
}

FPM_INLINE float to_float(float16 x) {
    const uint32_t sign = (x.bits & 0x8000u) << 16, exponent = (x.bits >> 10) & 31u, fraction = x.bits & 0x3FFu;
    float value;
    if (exponent == 0) {  // zero and the subnormal numbers
        value = static_cast<float>(fraction) * 0x1p-24f;
        uint32_t bits;
        std::memcpy(&bits, &value, 4);
        bits |= sign;
        std::memcpy(&value, &bits, 4);
        return value;
    }
    const uint32_t widened = exponent == 31 ? 255u : exponent + 112u;
    const uint32_t bits = sign | widened << 23 | fraction << 13;
    std::memcpy(&value, &bits, 4);
    return value;
}

FPM_INLINE float16 to_float16(float x) {
    uint32_t bits;
    std::memcpy(&bits, &x, 4);
    const uint16_t sign = (bits >> 16) & 0x8000u;
    const uint32_t magnitude = bits & 0x7FFFFFFFu;
    if (magnitude > 0x7F800000u) return {static_cast<uint16_t>(sign | 0x7E00u)};
    if (magnitude >= 0x477FF000u) return {static_cast<uint16_t>(sign | 0x7C00u)};  // 65,520 and more round to inf
    if (magnitude < 0x38800000u) {  // below 2^-14: adding 0.5 leaves the multiple of 2^-24 in the low bits
        float absolute;
        std::memcpy(&absolute, &magnitude, 4);
        absolute += 0.5f;
        std::memcpy(&bits, &absolute, 4);
        return {static_cast<uint16_t>(sign | (bits - 0x3F000000u))};
    }
    const uint32_t rounded = magnitude + 0xFFFu + ((magnitude >> 13) & 1u);
    return {static_cast<uint16_t>(sign | ((rounded - 0x38000000u) >> 13))};
}

FPM_INLINE f32 load(const float16* p) {
#if defined(__AVX512F__)
    return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
#elif defined(__F16C__)
    return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
#else
    f32 x;
    for (int i = 0; i < kLanes; ++i) x[i] = to_float(p[i]);
    return x;
#endif
}

FPM_INLINE void store(float16* p, f32 x) {
#if defined(__AVX512F__)
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT));
#elif defined(__F16C__)
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT));
#else
    for (int i = 0; i < kLanes; ++i) p[i] = to_float16(x[i]);
#endif
}

// The first `count` < kLanes elements; the others are `rest`.
template <typename T>
__attribute__((noinline)) f32 load_part(const T* p, int64_t count, float rest = 0.0f) {
    T buffer[kLanes] = {};
    for (int i = 0; i < kLanes && i < count; ++i) buffer[i] = p[i];
    f32 x = load(buffer);
    for (int i = 0; i < kLanes; ++i) {
        if (i >= count) x[i] = rest;
    }
    return x;
}

template <typename T>
__attribute__((noinline)) void store_part(T* p, f32 x, int64_t count) {
    T buffer[kLanes];
    store(buffer, x);
    for (int i = 0; i < kLanes && i < count; ++i) p[i] = buffer[i];
}

template <typename T>
FPM_INLINE f32 load_up_to(const T* p, int64_t count) {
    return count >= kLanes ? load(p) : load_part(p, count);
}

template <typename T>
FPM_INLINE void store_up_to(T* p, f32 x, int64_t count) {
    if (count >= kLanes) {
        store(p, x);
    } else {
        store_part(p, x, count);
    }
}

FPM_INLINE f32 maximum(f32 a, f32 b) {
    return a > b ? a : b;
}

// Lanes kWidth to 2 kWidth - 1 in the place of the first kWidth.
template <int kWidth>
FPM_INLINE f32 upper_lanes(f32 x) {
    i32 index;
    for (int i = 0; i < kLanes; ++i) index[i] = i < kWidth ? i + kWidth : i;
    return __builtin_shuffle(x, index);
}

FPM_INLINE float sum(f32 x) {
    if constexpr (kLanes >= 16) x += upper_lanes<8>(x);
    if constexpr (kLanes >= 8) x += upper_lanes<4>(x);
    x += upper_lanes<2>(x);
    x += upper_lanes<1>(x);
    return x[0];
}

FPM_INLINE float largest(f32 x) {
    if constexpr (kLanes >= 16) x = maximum(upper_lanes<8>(x), x);
    if constexpr (kLanes >= 8) x = maximum(upper_lanes<4>(x), x);
    x = maximum(upper_lanes<2>(x), x);
    x = maximum(upper_lanes<1>(x), x);
    return x[0];
}

FPM_INLINE f32 square_root(f32 x) {
    for (int i = 0; i < kLanes; ++i) x[i] = __builtin_sqrtf(x[i]);
    return x;
}

// e^x of x from -87.3 to 88; of NaN it is NaN, and any number elsewhere. x = n ln 2 + r, and e^r = 1 + r + r^2 q(r)
// with a minimax q of degree 4 (relative error 3e-9, so that rounding dominates: at most 1.1 ulp).
FPM_INLINE f32 exponential_in_range(f32 x) {
    const f32 shifted = x * 1.44269504f + 12582912.0f;  // 1.5 * 2^23: the low bits hold n
    const f32 n = shifted - 12582912.0f;
#ifdef __FMA__
    const f32 r = x - n * 0.693147182f;  // one rounding; what ln 2 itself lacks, 1.9e-9, counts n times at most
#else
    const f32 r = (x - n * 0.693145752f) - n * 1.42860677e-6f;  // ln 2 in two parts, the first of few bits
#endif
    f32 q = splat(0.0013814539415761828f);
    q = q * r + 0.00836874544620514f;
    q = q * r + 0.04166838899254799f;
    q = q * r + 0.1666652113199234f;
    q = q * r + 0.4999999403953552f;
    const f32 fraction = q * (r * r) + (r + 1.0f);
    const f32 power = reinterpret_cast<f32>((reinterpret_cast<i32>(shifted) << 23) + 0x3F800000);
    return fraction * power;
}

// e^x of x at most 88, -inf or NaN; below -87.3 zero.
FPM_INLINE f32 exponential_up_to_88(f32 x) {
    return x < -87.3f ? f32{} : exponential_in_range(x);
}

// 1 / x of x from 1 to 2^126, to the last bit but one; of NaN it is NaN.
FPM_INLINE f32 reciprocal(f32 x) {
#if defined(__AVX512F__)
    const f32 estimate = _mm512_rcp14_ps(x);
    return estimate * (2.0f - x * estimate);  // one step of Newton's method: a division takes three times as long
#else
    return 1.0f / x;
#endif
}

// The round keys of one dropout, computed once.
struct DropoutKeys {
    u64 key0[fpm::kPhiloxRounds], key1[fpm::kPhiloxRounds];
    uint64_t seed;
    uint32_t stream, threshold;
    float scale;  // of what is kept
    bool active;
};

FPM_INLINE DropoutKeys dropout_keys(double probability, uint64_t seed, uint32_t stream) {
    DropoutKeys keys;
    uint32_t key0 = static_cast<uint32_t>(seed), key1 = static_cast<uint32_t>(seed >> 32);
    for (int round = 0; round < fpm::kPhiloxRounds; ++round) {
        keys.key0[round] = u64{} + key0;
        keys.key1[round] = u64{} + key1;
        key0 += fpm::kPhiloxWeyl0;
        key1 += fpm::kPhiloxWeyl1;
    }
    keys.seed = seed;
    keys.stream = stream;
    keys.threshold = fpm::dropout_threshold(probability);
    keys.scale = fpm::dropout_scale(probability);
    keys.active = probability > 0;
    return keys;
}

// The products of the lower halves of the 64-bit lanes.
FPM_INLINE u64 multiply_low_halves(u64 a, uint32_t b) {
#if defined(__AVX512F__)
    return reinterpret_cast<u64>(
        _mm512_mul_epu32(reinterpret_cast<__m512i>(a), _mm512_set1_epi64(static_cast<long long>(b))));
#elif defined(__AVX2__)
    return reinterpret_cast<u64>(
        _mm256_mul_epu32(reinterpret_cast<__m256i>(a), _mm256_set1_epi64x(static_cast<long long>(b))));
#elif defined(__SSE2__)
    return reinterpret_cast<u64>(
        _mm_mul_epu32(reinterpret_cast<__m128i>(a), _mm_set1_epi64x(static_cast<long long>(b))));
#else
    return (a & 0xFFFFFFFFu) * static_cast<uint64_t>(b);
#endif
}

// Which of the kPair elements from 4 * group on are kept: -1 or 0 in each lane of `first` and `second`.
// Each 64-bit lane computes one counter; only its lower half matters, so nothing is masked between rounds.
FPM_INLINE void kept_elements(const DropoutKeys& keys, uint64_t group, i32& first, i32& second) {
    constexpr int kGroups = kLanes / 2;
    u64 offsets;
    for (int i = 0; i < kGroups; ++i) offsets[i] = (i % 2) * (kGroups / 2) + i / 2;
    u64 c0 = offsets + group, c1 = c0 >> 32, c2 = u64{} + static_cast<uint64_t>(keys.stream), c3 = u64{};
#pragma GCC unroll 10
    for (int round = 0; round < fpm::kPhiloxRounds; ++round) {
        const u64 product0 = multiply_low_halves(c0, fpm::kPhiloxMultiplier0);
        const u64 product1 = multiply_low_halves(c2, fpm::kPhiloxMultiplier1);
        c0 = (product1 >> 32) ^ c1 ^ keys.key0[round];
        c1 = product1;
        c2 = (product0 >> 32) ^ c3 ^ keys.key1[round];
        c3 = product0;
    }
    // Words 0, 1 and 2, 3 of each group as 64-bit numbers; the order of `offsets` then lets one interleaving
    // of neighbours put all groups in order.
    const u64 low = (c0 & 0xFFFFFFFFu) | (c1 << 32), high = (c2 & 0xFFFFFFFFu) | (c3 << 32);
    u64 even, odd;
    for (int i = 0; i < kGroups; ++i) {
        even[i] = i % 2 ? kGroups + i - 1 : i;
        odd[i] = i % 2 ? kGroups + i : i + 1;
    }
    const u32 threshold = u32{} + keys.threshold;
    first = reinterpret_cast<u32>(__builtin_shuffle(low, high, even)) >= threshold;
    second = reinterpret_cast<u32>(__builtin_shuffle(low, high, odd)) >= threshold;
}

}  // namespace
