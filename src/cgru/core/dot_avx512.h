/* Integer primitives for AVX-512: 16 sums of four products each. With VNNI one instruction; without, three and a sign. */
#include <string.h>

#ifdef VNNI
#define DOT_ROWS 8 /* 2 to 4 % faster than 5, unlike float32's */
#define DOT_SUMS 24
#define DOT_SUMS_OF_FOUR 24
#else
#define DOT_ROWS 5
#define DOT_SUMS 15
#define DOT_SUMS_OF_FOUR 16
#endif

typedef __m512i ivec, bvec;

static inline ivec i_set(int32_t a) { return _mm512_set1_epi32(a); }
static inline ivec i_load(const int32_t *p) { return _mm512_loadu_si512(p); }
static inline ivec i_add(ivec a, ivec b) { return _mm512_add_epi32(a, b); }
static inline ivec i_negative(ivec a) { return _mm512_sub_epi32(_mm512_setzero_si512(), a); }
static inline ivec i_shift_right_8(ivec a) { return _mm512_srai_epi32(a, 8); }
static inline ivec i_round(vec a) { return _mm512_cvtps_epi32(a); }
static inline vec i_float(ivec a) { return _mm512_cvtepi32_ps(a); }
static inline void i_put_bytes(uint8_t *p, ivec a) { _mm_storeu_si128((__m128i *)p, _mm512_cvtepi32_epi8(a)); }
static inline float v_largest(vec a) { return _mm512_reduce_max_ps(a); }
static inline int v_has_nan(vec a) { return _mm512_cmp_ps_mask(a, a, _CMP_UNORD_Q) != 0; }
static inline bvec b_load(const int8_t *p) { return _mm512_loadu_si512(p); }
static inline bvec b_four(const uint8_t *p)
{
    int32_t four;
    memcpy(&four, p, 4);
    return _mm512_set1_epi32(four);
}
#ifdef VNNI
#define DOT_OFFSET 128 /* activations are unsigned here */
static inline ivec dot(ivec sum, bvec weights, bvec in)
{
    /* As an intrinsic gcc 12 copies a register for each: 350 instead of 470 GOP/s on Zen 4. */
    __asm__("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(in), "v"(weights));
    return sum;
}
#else
#define DOT_OFFSET 0
/* |in| · (±weights) is at most 2 · 128 · 127 = 32512 in 16 bits, so that nothing saturates. */
static inline ivec dot(ivec sum, bvec weights, bvec in)
{
    bvec signed_ = _mm512_mask_sub_epi8(weights, _mm512_movepi8_mask(in), _mm512_setzero_si512(), weights);
    bvec pairs = _mm512_maddubs_epi16(_mm512_abs_epi8(in), signed_);
    return _mm512_add_epi32(sum, _mm512_madd_epi16(pairs, _mm512_set1_epi16(1)));
}
#endif
