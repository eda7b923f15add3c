// GELU and its derivative, erf form and tanh form (Hendrycks and Gimpel, arXiv 1606.08415), on vectors.
#pragma once

#include "vector.h"

namespace {

struct GeluValues {
    f32 value, slope;
};

// x Phi(x). Phi(-a) = exp(-a^2 / 2) R(a) for a >= 0, where R, half the scaled complementary error function, is a
// minimax polynomial of degree 10 in t = 1 / (1 + 0.3 a) without a constant term (relative error 3.4e-9). The
// exponential is that of the density, so that the derivative costs no second one.
FPM_INLINE GeluValues gelu_erf(f32 x) {
    const f32 a = x < 0.0f ? -x : x;
    const f32 t = 1.0f / (a * 0.3f + 1.0f);
    const f32 density = exponential_up_to_88(a * a * -0.5f);
    f32 r = splat(-0.020612882939091588f);
    r = r * t + 0.11237607476532216f;
    r = r * t + -0.22806822326348344f;
    r = r * t + 0.19158265662076582f;
    r = r * t + -0.07924815223459641f;
    r = r * t + 0.09605827151207313f;
    r = r * t + 0.07842542495654908f;
    r = r * t + 0.11022735740648165f;
    r = r * t + 0.11957283157151794f;
    r = r * t + 0.1196866343007687f;
    const f32 tail = r * t * density;
    const f32 phi = x < 0.0f ? tail : 1.0f - tail;
    return {x * phi, phi + x * density * 0.398942280f};  // 1 / sqrt(2 pi)
}

// x / (1 + exp(-2u)), u = sqrt(2 / pi) (x + 0.044715 x^3), which is 0.5 x (1 + tanh u).
FPM_INLINE GeluValues gelu_tanh(f32 x) {
    constexpr float kTwice = 1.59576912f;  // 2 sqrt(2 / pi)
    const f32 square = x * x;
    const f32 exponent = x * (square * (-0.044715f * kTwice) - kTwice);
    const f32 bounded = exponent > 88.0f ? splat(88.0f) : exponent;
    const f32 power = exponential_up_to_88(bounded);
    const f32 sigmoid = exponent > 88.0f ? splat(0.0f) : 1.0f / (power + 1.0f);
    const f32 slope = square * (3 * 0.044715f * kTwice) + kTwice;
    return {x * sigmoid, sigmoid + x * sigmoid * (power * sigmoid) * slope};
}

template <bool kTanh>
FPM_INLINE GeluValues gelu(f32 x) {
    return kTanh ? gelu_tanh(x) : gelu_erf(x);
}

}  // namespace
