/* Numbers and matrices at random, for the programs of this folder. */
#ifndef CGRU_DRAWN_H
#define CGRU_DRAWN_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "pack.h"

static uint32_t seed;
static inline float draw(void) /* in [-1, 1) */
{
    seed = seed * 1664525u + 1013904223u;
    return (float)(seed >> 8) / (float)(1 << 23) - 1.0f;
}

static inline void *must(void *memory)
{
    if (memory == NULL) {
        fprintf(stderr, "out of memory\n");
        exit(2);
    }
    return memory;
}

static inline float *drawn(size_t n, float scale)
{
    float *values = must(malloc(n * sizeof(float) + (n == 0)));
    for (size_t i = 0; i < n; i++) values[i] = draw() * scale;
    return values;
}

static inline size_t bytes_of(int kind)
{
    return kind == CGRU_FLOAT32 ? 4 : kind == CGRU_BF16 || kind == CGRU_FP16 ? 2 : 1;
}

/* A matrix as files hold it, no number above 1/8, some rows all zero. */
static inline cgru_stored stored(int kind, size_t rows, size_t inner)
{
    const size_t n = rows * inner;
    cgru_stored made = {must(malloc(n * bytes_of(kind) + (n == 0))), NULL};
    if (bytes_of(kind) == 1) made.scale = must(malloc(rows * sizeof(float) + (rows == 0)));
    for (size_t r = 0; r < rows; r++) {
        const float size = draw() < -0.9f ? 0.0f : 0.1f;
        if (made.scale) made.scale[r] = size * (1.0f + 0.2f * draw()) / 127.0f;
        for (size_t i = r * inner; i < (r + 1) * inner; i++) {
            const float value = draw() * size;
            uint32_t bits;
            memcpy(&bits, &value, 4);
            if (kind == CGRU_FLOAT32) ((float *)made.values)[i] = value;
            else if (kind == CGRU_BF16) ((uint16_t *)made.values)[i] = (uint16_t)(bits >> 16);
            /* Any half below 1/8, subnormal ones too: their bits are in order, and 1/8 has 0x3000. */
            else if (kind == CGRU_FP16) ((uint16_t *)made.values)[i] = (uint16_t)(bits % 0x3000 | (bits >> 31) << 15);
            else ((int8_t *)made.values)[i] = (int8_t)(value * 1270.0f);
        }
    }
    return made;
}

static inline void discard(cgru_stored matrix)
{
    free(matrix.values);
    free(matrix.scale);
}

#endif
