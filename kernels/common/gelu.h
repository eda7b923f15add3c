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
    const f32 t = reciprocal(a * 0.3f + 1.0f);
    const i32 is_near = a < 13.2f;  // elsewhere the density is below the smallest normal number
    const f32 density = is_near ? exponential_in_range(a * a * -0.5f) : f32{};
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
    const f32 tail = is_near ? r * t * density : f32{};
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
    const f32 sigmoid = exponent > 88.0f ? splat(0.0f) : reciprocal(power + 1.0f);
    const f32 slope = square * (3 * 0.044715f * kTwice) + kTwice;
    return {x * sigmoid, sigmoid + x * sigmoid * (power * sigmoid) * slope};
}

template <bool kTanh>
FPM_INLINE GeluValues gelu(f32 x) {
    return kTanh ? gelu_tanh(x) : gelu_erf(x);
}

// x Phi(x) alone, without the exponential: Phi(x) - 1/2 is x times a rational minimax function of x^2 (absolute error
// 7e-9) up to 5.5, where it is a half to the last bit.
FPM_INLINE f32 gelu_erf_value(f32 x) {
    const f32 bounded = x > 5.5f ? splat(5.5f) : (x < -5.5f ? splat(-5.5f) : x);
    const f32 z = bounded * bounded;
    f32 p = splat(2.2749368611130194e-08f);
    p = p * z + 6.3521165429847315e-06f;
    p = p * z + 0.00016882593627087772f;
    p = p * z + 0.004677262622863054f;
    p = p * z + 0.033852674067020416f;
    p = p * z + 0.398942232131958f;
    f32 q = splat(1.1975039342360105e-06f);
    q = q * z + 7.364756311289966e-05f;
    q = q * z + 0.0018844464793801308f;
    q = q * z + 0.028645887970924377f;
    q = q * z + 0.2515219748020172f;
    q = q * z + 1.0f;
    const f32 phi = bounded * p * reciprocal(q) + 0.5f;
    return x * (x > 5.5f ? splat(1.0f) : (x < -5.5f ? f32{} : phi));
}

// The derivative of x Phi(x) alone, likewise: minus 1/2 it is x times a rational function of x^2 (absolute error 4e-9)
// up to 6, where it is a half within 4e-8.
FPM_INLINE f32 gelu_erf_slope(f32 x) {
    const f32 bounded = x > 6.0f ? splat(6.0f) : (x < -6.0f ? splat(-6.0f) : x);
    const f32 z = bounded * bounded;
    f32 p = splat(1.7046328792957866e-08f);
    p = p * z + 9.225273061019834e-07f;
    p = p * z + 3.4091906854882836e-05f;
    p = p * z + 0.00020273032714612782f;
    p = p * z + 0.013857342302799225f;
    p = p * z + -0.022371305152773857f;
    p = p * z + 0.7978845238685608f;
    f32 q = splat(1.3147676281022314e-09f);
    q = q * z + 3.389777987194975e-07f;
    q = q * z + 1.0307721822755411e-05f;
    q = q * z + 0.0002453238994348794f;
    q = q * z + 0.00397150544449687f;
    q = q * z + 0.04413357377052307f;
    q = q * z + 0.3052946925163269f;
    q = q * z + 1.0f;
    const f32 slope = bounded * p * reciprocal(q) + 0.5f;
    return x > 6.0f ? splat(1.0f) : (x < -6.0f ? f32{} : slope);
}

template <bool kTanh>
FPM_INLINE f32 gelu_slope(f32 x) {
    return kTanh ? gelu_tanh(x).slope : gelu_erf_slope(x);
}

template <bool kTanh>
FPM_INLINE f32 gelu_value(f32 x) {
    return kTanh ? gelu_tanh(x).value : gelu_erf_value(x);
}

}  // namespace
