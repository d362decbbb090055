/* Integer primitives in plain C: 4 sums of four products each. */
#include <string.h>

#define DOT_ROWS 4
#define DOT_SUMS 12
#define DOT_OFFSET 0

typedef int8_t bvec __attribute__((vector_size(4 * VL)));
typedef int16_t wide __attribute__((vector_size(8 * VL)));
typedef int32_t pairs __attribute__((vector_size(8 * VL)));

static inline ivec i_set(int32_t a) { return (ivec){a, a, a, a}; }
static inline ivec i_load(const int32_t *p)
{
    ivec out;
    memcpy(&out, p, sizeof out);
    return out;
}
static inline ivec i_add(ivec a, ivec b) { return a + b; }
static inline ivec i_negative(ivec a) { return -a; }
static inline ivec i_shift_right_8(ivec a) { return a >> 8; }
/* To the nearest, ties to even, for |a| < 2^22; zero for a NaN, which has no integer. */
static inline ivec i_round(vec a)
{
    vec whole = v_round(a);
    return __builtin_convertvector(v_select(whole == whole, whole, v_set(0.0f)), ivec);
}
static inline vec i_float(ivec a) { return __builtin_convertvector(a, vec); }
static inline void i_put_bytes(uint8_t *p, ivec a)
{
    for (int i = 0; i < VL; i++) p[i] = (uint8_t)a[i];
}
static inline float v_largest(vec a)
{
    float most = a[0];
    for (int i = 1; i < VL; i++) most = a[i] > most ? a[i] : most;
    return most;
}
static inline int v_has_nan(vec a)
{
    ivec differs = a != a;
    return (differs[0] | differs[1] | differs[2] | differs[3]) != 0;
}
static inline bvec b_load(const int8_t *p)
{
    bvec out;
    memcpy(&out, p, sizeof out);
    return out;
}
static inline bvec b_four(const uint8_t *p)
{
    int32_t four;
    memcpy(&four, p, 4);
    return (bvec)i_set(four);
}
static inline ivec dot(ivec sum, bvec weights, bvec in)
{
    /* Each product fits in 16 bits, and the two of a 32-bit word are taken out of it by shifts. */
    pairs both = (pairs)(__builtin_convertvector(weights, wide) * __builtin_convertvector(in, wide));
    pairs two = (both >> 16) + ((both << 16) >> 16);
    return sum + (ivec){two[0] + two[1], two[2] + two[3], two[4] + two[5], two[6] + two[7]};
}
