/* 16-bit weights widened for NEON. */
static inline uint32x4_t words(const uint16_t *p) { return vreinterpretq_u32_u16(vld1q_u16(p)); }
static inline vec v_lower(const uint16_t *p) { return vreinterpretq_f32_u32(vshlq_n_u32(words(p), 16)); }
static inline vec v_upper(const uint16_t *p) { return vreinterpretq_f32_u32(vandq_u32(words(p), vdupq_n_u32(0xffff0000u))); }
static inline vec v_half(const uint16_t *p) { return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p))); }
