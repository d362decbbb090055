/* e^x as searches take it of scores: in arithmetic alone, so that the bits are the same on every machine, and a loop of it
 * is vectorised. */
#ifndef CGRU_EXP_OF_H
#define CGRU_EXP_OF_H

#include <stdint.h>
#include <string.h>

/* For x ≤ 0, within 2 ulp of float32; below −87 as good as 0. */
static inline float exp_of(float x)
{
    x = x > -87.0f ? x : -87.0f;
    const float k = (x * 1.44269504f + 12582912.0f) - 12582912.0f; /* to the nearest whole number: 1.5 · 2²³ has no room for more */
    float r = x - k * 0.693359375f;
    r = r + k * 2.12194440e-4f; /* ln 2 in two parts (Cody and Waite 1980) */
    float p = 1.0f / 720.0f;
    p = p * r + 1.0f / 120.0f;
    p = p * r + 1.0f / 24.0f;
    p = p * r + 1.0f / 6.0f;
    p = p * r + 0.5f;
    p = p * r + 1.0f;
    p = p * r + 1.0f;
    const int32_t bits = ((int32_t)k + 127) * (1 << 23);
    float scale;
    memcpy(&scale, &bits, sizeof scale);
    return p * scale;
}

#endif
