/* Integer primitives for AVX2: 8 sums of four products each. With AVX-VNNI one instruction; without, three and a sign. */
#include <string.h>

#ifdef VNNI
#define DOT_ROWS 4
#define DOT_SUMS 12
#else
/* 88 % of what these instructions can do on Zen 4; three rows of nine sums: 2 % less, in int8x16 5 to 13 %. */
#define DOT_ROWS 2
#define DOT_SUMS 12
#define DOT_SUMS_OF_FOUR 8
#endif

typedef __m256i ivec, bvec;

static inline ivec i_set(int32_t a) { return _mm256_set1_epi32(a); }
static inline ivec i_load(const int32_t *p) { return _mm256_loadu_si256((const __m256i *)p); }
static inline ivec i_add(ivec a, ivec b) { return _mm256_add_epi32(a, b); }
static inline ivec i_negative(ivec a) { return _mm256_sub_epi32(_mm256_setzero_si256(), a); }
static inline ivec i_shift_right_8(ivec a) { return _mm256_srai_epi32(a, 8); }
static inline ivec i_round(vec a) { return _mm256_cvtps_epi32(a); }
static inline vec i_float(ivec a) { return _mm256_cvtepi32_ps(a); }
/* The lowest byte of each. */
static inline void i_put_bytes(uint8_t *p, ivec a)
{
    const __m256i lowest = _mm256_and_si256(a, _mm256_set1_epi32(255));
    __m128i words = _mm_packs_epi32(_mm256_castsi256_si128(lowest), _mm256_extracti128_si256(lowest, 1));
    _mm_storel_epi64((__m128i *)p, _mm_packus_epi16(words, words));
}
static inline float v_largest(vec a)
{
    __m128 most = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    most = _mm_max_ps(most, _mm_movehl_ps(most, most));
    return _mm_cvtss_f32(_mm_max_ss(most, _mm_movehdup_ps(most)));
}
static inline int v_has_nan(vec a) { return _mm256_movemask_ps(_mm256_cmp_ps(a, a, _CMP_UNORD_Q)) != 0; }
static inline bvec b_load(const int8_t *p) { return _mm256_loadu_si256((const __m256i *)p); }
static inline bvec b_four(const uint8_t *p)
{
    int32_t four;
    memcpy(&four, p, 4);
    return _mm256_set1_epi32(four);
}
#ifdef VNNI
#define DOT_OFFSET 128 /* activations are unsigned here */
static inline ivec dot(ivec sum, bvec weights, bvec in)
{
#ifdef __AVX512VNNI__ /* the same instruction as processors without AVX-VNNI know it; for tests */
    __asm__("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(in), "v"(weights));
#else
    __asm__("%{vex%} vpdpbusd %2, %1, %0" : "+x"(sum) : "x"(in), "x"(weights));
#endif
    return sum;
}
#else
#define DOT_OFFSET 0
/* |in| · (±weights) is at most 2 · 128 · 127 = 32512 in 16 bits, so that nothing saturates. */
static inline ivec dot(ivec sum, bvec weights, bvec in)
{
    bvec pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(in), _mm256_sign_epi8(weights, in));
    return _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}
#endif
