/* Integer primitives for NEON: 4 sums of four products each. With DOTPROD one instruction; without, four. */
#include <string.h>

#define DOT_ROWS 4
#define DOT_SUMS 16
#define DOT_OFFSET 0

typedef int32x4_t ivec;
typedef int8x16_t bvec;

static inline ivec i_set(int32_t a) { return vdupq_n_s32(a); }
static inline ivec i_load(const int32_t *p) { return vld1q_s32(p); }
static inline ivec i_add(ivec a, ivec b) { return vaddq_s32(a, b); }
static inline ivec i_negative(ivec a) { return vnegq_s32(a); }
static inline ivec i_shift_right_8(ivec a) { return vshrq_n_s32(a, 8); }
static inline ivec i_round(vec a) { return vcvtnq_s32_f32(a); }
static inline vec i_float(ivec a) { return vcvtq_f32_s32(a); }
static inline void i_put_bytes(uint8_t *p, ivec a)
{
    uint16x4_t words = vmovn_u32(vreinterpretq_u32_s32(a));
    uint32_t four = vget_lane_u32(vreinterpret_u32_u8(vmovn_u16(vcombine_u16(words, words))), 0);
    memcpy(p, &four, 4);
}
static inline float v_largest(vec a) { return vmaxvq_f32(a); }
static inline int v_has_nan(vec a) { return vminvq_u32(vceqq_f32(a, a)) == 0; }
static inline bvec b_load(const int8_t *p) { return vld1q_s8(p); }
static inline bvec b_four(const uint8_t *p)
{
    return vreinterpretq_s8_s32(vld1q_dup_s32((const int32_t *)(const void *)p)); /* rows are aligned */
}
static inline ivec dot(ivec sum, bvec weights, bvec in)
{
#ifdef DOTPROD
    return vdotq_s32(sum, weights, in);
#else
    /* Two neighbours of at most 128 · 127 each still fit in 16 bits. */
    int16x8_t low = vmull_s8(vget_low_s8(weights), vget_low_s8(in)), high = vmull_high_s8(weights, in);
    return vpadalq_s16(sum, vpaddq_s16(low, high));
#endif
}
#ifdef DOTPROD
/* One load brings the activations of this many groups: 1.5 instructions an SDOT instead of 2.2 with four rows. Without
 * SDOT gcc would keep more products in flight than there are registers. */
#define DOT_AT_ONCE 4
/* dot with group `lane` of `in`. A switch, since the index must be a constant even where nothing is unrolled. */
static inline ivec dot_lane(ivec sum, bvec weights, bvec in, int lane)
{
    switch (lane) {
    case 0:
        return vdotq_laneq_s32(sum, weights, in, 0);
    case 1:
        return vdotq_laneq_s32(sum, weights, in, 1);
    case 2:
        return vdotq_laneq_s32(sum, weights, in, 2);
    default:
        return vdotq_laneq_s32(sum, weights, in, 3);
    }
}
#endif
