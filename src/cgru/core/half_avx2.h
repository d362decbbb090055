/* 16-bit weights widened for AVX2 with F16C. */
static inline __m256i words(const uint16_t *p) { return _mm256_loadu_si256((const __m256i *)p); }
static inline vec v_lower(const uint16_t *p) { return _mm256_castsi256_ps(_mm256_slli_epi32(words(p), 16)); }
static inline vec v_upper(const uint16_t *p)
{
    return _mm256_castsi256_ps(_mm256_and_si256(words(p), _mm256_set1_epi32((int)0xffff0000u)));
}
static inline vec v_half(const uint16_t *p) { return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)p)); }
