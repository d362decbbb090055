/* Vector primitives in plain C (with the vector types of GCC and Clang, which every target has): correct on any
 * machine, and the meaning of the others.
 *
 * A multiply-add rounds twice here and once on instruction sets with FMA; everything else agrees to the bit. */
#include <math.h>
#include <stdint.h>
#include <string.h>

#define VL 4
#define TILE_ROWS 4     /* rows of a tile at most */
#define ACCUMULATORS 12 /* of a tile: what the registers hold beside weights and one input */

typedef float vec __attribute__((vector_size(4 * VL)));

#define EACH(expression)                                                                                               \
    vec out;                                                                                                           \
    for (int i = 0; i < VL; i++) out[i] = (expression);                                                                \
    return out

static inline vec v_set(float a) { EACH(a); }
static inline vec v_load(const float *p)
{
    vec out;
    memcpy(&out, p, sizeof out);
    return out;
}
static inline vec v_load_part(const float *p, int n) { EACH(i < n ? p[i] : 0.0f); }
static inline void v_store(float *p, vec a) { memcpy(p, &a, sizeof a); }
static inline void v_store_part(float *p, vec a, int n)
{
    for (int i = 0; i < n; i++) p[i] = a[i];
}
static inline vec v_add(vec a, vec b) { return a + b; }
static inline vec v_sub(vec a, vec b) { return a - b; }
static inline vec v_mul(vec a, vec b) { return a * b; }
static inline vec v_div(vec a, vec b) { return a / b; }
static inline vec v_fma(vec a, vec b, vec c) { return a * b + c; }
/* The smaller or larger of the two; b where either is NaN, so that a NaN in b passes through. */
static inline vec v_min(vec a, vec b) { EACH(a[i] < b[i] ? a[i] : b[i]); }
static inline vec v_max(vec a, vec b) { EACH(a[i] > b[i] ? a[i] : b[i]); }
static inline vec v_abs(vec a) { EACH(fabsf(a[i])); }
static inline vec v_copysign(vec a, vec sign) { EACH(copysignf(a[i], sign[i])); }
static inline vec v_round(vec a) { EACH(nearbyintf(a[i])); }

/* 2^k for whole k in [-126, 127]; anything for a NaN. */
static inline vec v_exp2i(vec k)
{
    vec out;
    for (int i = 0; i < VL; i++) {
        int32_t exponent = k[i] >= -126.0f && k[i] <= 127.0f ? (int32_t)k[i] : 0;
        int32_t bits = (exponent + 127) << 23;
        float power;
        memcpy(&power, &bits, sizeof power);
        out[i] = power;
    }
    return out;
}
#undef EACH
