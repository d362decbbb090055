/* Vector primitives for AVX-512: 16 floats, 32 registers, masks for the last panel. */
#include <immintrin.h>
#include <stdint.h>

#include "seen.h"

#define VL 16
#define F32_ROWS 5     /* rows of a tile at most; 8 would fit, and runs 6 % slower on Zen 4 */
#define F32_SUMS 15 /* of a tile */
#define F32_BESIDE 1 /* a step of one row takes a tile of a projection along */
#define F32_SUMS_OF_FOUR 16 /* where a unit has four sums; 20 runs 8 % slower on Zen 4, 12 17 % */

typedef __m512 vec;

static inline vec v_set(float a) { return _mm512_set1_ps(a); }
static inline vec v_load(const float *p) { return _mm512_loadu_ps(p); }
static inline vec v_load_part(const float *p, int n)
{
    seen_load(p, n);
    return _mm512_maskz_loadu_ps((__mmask16)((1u << n) - 1), p);
}
static inline void v_store(float *p, vec a) { _mm512_storeu_ps(p, a); }
static inline void v_store_part(float *p, vec a, int n)
{
    seen_store(p, n);
    _mm512_mask_storeu_ps(p, (__mmask16)((1u << n) - 1), a);
}
static inline vec v_add(vec a, vec b) { return _mm512_add_ps(a, b); }
static inline vec v_sub(vec a, vec b) { return _mm512_sub_ps(a, b); }
static inline vec v_mul(vec a, vec b) { return _mm512_mul_ps(a, b); }
static inline vec v_div(vec a, vec b) { return _mm512_div_ps(a, b); }
static inline vec v_fma(vec a, vec b, vec c) { return _mm512_fmadd_ps(a, b, c); }
static inline vec v_min(vec a, vec b) { return _mm512_min_ps(a, b); }
static inline vec v_max(vec a, vec b) { return _mm512_max_ps(a, b); }
static inline vec v_abs(vec a) { return _mm512_abs_ps(a); }
static inline float v_sum(vec a) /* by halves, as everywhere */
{
    const __m256 eight = _mm256_add_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps(a, 1));
    const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}
static inline vec v_copysign(vec a, vec sign)
{
    /* 0xd8 picks, bit by bit, b where c is set and a elsewhere. */
    return _mm512_castsi512_ps(_mm512_ternarylogic_epi32(_mm512_castps_si512(a), _mm512_castps_si512(sign),
                                                         _mm512_set1_epi32((int)0x80000000u), 0xd8));
}
static inline vec v_round(vec a) { return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
static inline vec v_exp2i(vec k) { return _mm512_scalef_ps(_mm512_set1_ps(1.0f), k); }
#define V_SCALES
static inline vec v_scale(vec a, vec k) { return _mm512_scalef_ps(a, k); } /* a · 2^k, k whole */
