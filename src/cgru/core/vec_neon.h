/* Vector primitives for NEON on AArch64: 4 floats, 32 registers. */
#include <arm_neon.h>
#include <stdint.h>
#include <string.h>

#define VL 4
#define F32_ROWS 4  /* rows of a tile at most */
#define F32_SUMS 16 /* of a tile. With 24 gcc spills some at every step: 2 instructions an FMLA instead of 1.3 */

typedef float32x4_t vec;

static inline vec v_set(float a) { return vdupq_n_f32(a); }
static inline vec v_load(const float *p) { return vld1q_f32(p); }
static inline vec v_load_part(const float *p, int n)
{
    float lanes[VL] = {0};
    memcpy(lanes, p, (size_t)n * sizeof(float));
    return vld1q_f32(lanes);
}
static inline void v_store(float *p, vec a) { vst1q_f32(p, a); }
static inline void v_store_part(float *p, vec a, int n)
{
    float lanes[VL];
    vst1q_f32(lanes, a);
    memcpy(p, lanes, (size_t)n * sizeof(float));
}
static inline vec v_add(vec a, vec b) { return vaddq_f32(a, b); }
static inline vec v_sub(vec a, vec b) { return vsubq_f32(a, b); }
static inline vec v_mul(vec a, vec b) { return vmulq_f32(a, b); }
static inline vec v_div(vec a, vec b) { return vdivq_f32(a, b); }
static inline vec v_fma(vec a, vec b, vec c) { return vfmaq_f32(c, a, b); }
/* One load brings the next numbers of a row, and a multiply-add takes one of them: 1.3 instructions an FMLA instead of
 * 1.8. A switch, since the index must be a constant even where nothing is unrolled. */
#define F32_AT_ONCE 4
static inline vec v_fma_lane(vec a, vec in, int lane, vec c)
{
    switch (lane) {
    case 0:
        return vfmaq_laneq_f32(c, a, in, 0);
    case 1:
        return vfmaq_laneq_f32(c, a, in, 1);
    case 2:
        return vfmaq_laneq_f32(c, a, in, 2);
    default:
        return vfmaq_laneq_f32(c, a, in, 3);
    }
}
/* FMIN and FMAX give NaN where either is NaN, which is what a NaN in b must do. */
static inline vec v_min(vec a, vec b) { return vminq_f32(a, b); }
static inline vec v_max(vec a, vec b) { return vmaxq_f32(a, b); }
static inline vec v_abs(vec a) { return vabsq_f32(a); }
static inline float v_sum(vec a) /* by halves, as everywhere */
{
    const float32x2_t two = vadd_f32(vget_low_f32(a), vget_high_f32(a));
    return vget_lane_f32(two, 0) + vget_lane_f32(two, 1);
}
static inline vec v_copysign(vec a, vec sign) { return vbslq_f32(vdupq_n_u32(0x80000000u), sign, a); }
static inline vec v_round(vec a) { return vrndnq_f32(a); }
static inline vec v_exp2i(vec k)
{
    return vreinterpretq_f32_s32(vshlq_n_s32(vaddq_s32(vcvtq_s32_f32(k), vdupq_n_s32(127)), 23));
}
