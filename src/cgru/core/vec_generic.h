/* Vector primitives in plain C (with the vector types of GCC and Clang, which every target has): correct on any
 * machine, and the meaning of the others.
 *
 * A multiply-add rounds twice here and once on instruction sets with FMA; everything else agrees to the bit. */
#include <stdint.h>
#include <string.h>

#define VL 4
#define F32_ROWS 4     /* rows of a tile at most */
#define F32_SUMS 12 /* of a tile: what the registers hold beside weights and one input */

typedef float vec __attribute__((vector_size(4 * VL)));
typedef int32_t ivec __attribute__((vector_size(4 * VL)));

static inline vec v_set(float a) { return (vec){a, a, a, a}; }
static inline vec v_load(const float *p)
{
    vec out;
    memcpy(&out, p, sizeof out);
    return out;
}
static inline vec v_load_part(const float *p, int n)
{
    float lanes[VL] = {0};
    memcpy(lanes, p, (size_t)n * sizeof(float));
    return v_load(lanes);
}
static inline void v_store(float *p, vec a) { memcpy(p, &a, sizeof a); }
static inline void v_store_part(float *p, vec a, int n) { memcpy(p, &a, (size_t)n * sizeof(float)); }
static inline vec v_add(vec a, vec b) { return a + b; }
static inline vec v_sub(vec a, vec b) { return a - b; }
static inline vec v_mul(vec a, vec b) { return a * b; }
static inline vec v_div(vec a, vec b) { return a / b; }
static inline vec v_fma(vec a, vec b, vec c) { return a * b + c; }
static inline vec v_select(ivec where, vec a, vec b) { return (vec)((where & (ivec)a) | (~where & (ivec)b)); }
/* The smaller or larger of the two; b where either is NaN, so that a NaN in b passes through. */
static inline vec v_min(vec a, vec b) { return v_select(a < b, a, b); }
static inline vec v_max(vec a, vec b) { return v_select(a > b, a, b); }
static inline vec v_abs(vec a) { return (vec)((ivec)a & 0x7fffffff); }
static inline float v_sum(vec a) { return (a[0] + a[2]) + (a[1] + a[3]); } /* by halves, as everywhere */
static inline vec v_copysign(vec a, vec sign)
{
    const ivec bit = (ivec)v_set(-0.0f);
    return (vec)(((ivec)a & ~bit) | ((ivec)sign & bit));
}
/* To the nearest whole number, ties to even, for |a| < 2^22: adding 1.5·2^23 leaves no room for a fraction. */
static inline vec v_round(vec a) { return (a + v_set(12582912.0f)) - v_set(12582912.0f); }
/* 2^k for whole k in [-126, 127]; anything for a NaN. */
static inline vec v_exp2i(vec k)
{
    ivec within = (k >= v_set(-126.0f)) & (k <= v_set(127.0f));
    ivec exponent = __builtin_convertvector(v_select(within, k, v_set(0.0f)), ivec);
    return (vec)((exponent + 127) << 23);
}
