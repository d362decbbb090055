/* Products of bf16 for AVX512_BF16: 16 sums of two products each. */
#include <string.h>

#define DOT_ROWS 5
#define DOT_SUMS 15
#define DOT_SUMS_OF_FOUR 16

typedef __m512i hvec;

static inline void v_put_bf16(uint16_t *p, vec a) { _mm256_storeu_si256((__m256i *)p, (__m256i)_mm512_cvtneps_pbh(a)); }
static inline hvec h_load(const uint16_t *p) { return _mm512_loadu_si512(p); }
static inline hvec h_two(const uint16_t *p)
{
    int32_t two;
    memcpy(&two, p, 4);
    return _mm512_set1_epi32(two);
}
static inline vec dot(vec sum, hvec weights, hvec in)
{
    __asm__("vdpbf16ps %2, %1, %0" : "+v"(sum) : "v"(in), "v"(weights));
    return sum;
}
