/* Kernels for weights in 16 bits, compiled once for each instruction set and form: a file isa/bf16_*.c or isa/fp16_*.c
 * defines ISA and PRECISION, includes its vector primitives and says how weights are widened, then includes this.
 *
 * WEIGHTS_BF16: pairs of k in one 32-bit word; the activations stay float32. WEIGHTS_FP16: the same one k at a time.
 * Neither is rounded further, so the error is that of the weights. */
#define TILE_ROWS F32_ROWS
#define ACCUMULATORS F32_SUMS
#ifdef F32_SUMS_OF_FOUR
#define ACCUMULATORS_OF_FOUR F32_SUMS_OF_FOUR
#endif
#include "vec_math.h"
#include "tiles.h"
#include "product_out.h"

#define ELEMENT 2
#define PREPARES 0
#define PREPARED NULL
#define planes_of(m) 1
#ifdef WEIGHTS_BF16
#define GROUP 2
#else
#define GROUP 1
#endif

INLINE void prepare_row(const cgru_matrix *m, const float *v, float range, char *to)
{
    (void)m, (void)v, (void)range, (void)to;
}

INLINE vec widened(const uint16_t *from, const int half)
{
#ifdef WEIGHTS_BF16
    return half ? v_upper(from) : v_lower(from);
#else
    (void)half;
    return v_half(from);
#endif
}

/* acc += the weights of `half` (0 or 1) of a group times in[r] */
INLINE void multiply_one(const int R, const int P, const int G, vec *acc, const uint16_t *const *weight,
                         const float *const *row, int k, const int half)
{
    vec in[TILE_ROWS];
    UNROLL for (int r = 0; r < R; r++) in[r] = v_set(row[r][k]);
    UNROLL for (int j = 0; j < P * G; j++)
    {
        vec a = widened(weight[j / G] + j % G * VL * GROUP, half);
        UNROLL for (int r = 0; r < R; r++) acc[r * P * G + j] = v_fma(a, in[r], acc[r * P * G + j]);
    }
}

INLINE void multiply(const int R, const int P, const int G, vec *acc, const cgru_matrix *m, int p0,
                     const void *const *v)
{
    const int inner = m->in_features;
    const ptrdiff_t panel = (ptrdiff_t)((inner + GROUP - 1) / GROUP) * GROUP * G * VL;
    const float *row[TILE_ROWS];
    const uint16_t *weight[MAX_PANELS];
    UNROLL for (int r = 0; r < R; r++) row[r] = v[r];
    UNROLL for (int p = 0; p < P; p++) weight[p] = (const uint16_t *)m->weight + (p0 + p) * panel;
    UNROLL for (int j = 0; j < R * P * G; j++) acc[j] = v_set(0.0f);
    int k = 0;
#ifdef F32_AT_ONCE
    for (; k + F32_AT_ONCE <= inner; k += F32_AT_ONCE) {
        vec in[TILE_ROWS];
        UNROLL for (int r = 0; r < R; r++) in[r] = v_load(row[r] + k);
        UNROLL for (int lane = 0; lane < F32_AT_ONCE; lane++)
        {
            UNROLL for (int p = 0; p < P; p++)
            {
                UNROLL for (int g = 0; g < G; g++)
                {
                    vec a = widened(weight[p] + (lane / GROUP * G + g) * VL * GROUP, lane % GROUP);
                    UNROLL for (int r = 0; r < R; r++)
                    {
                        vec *sum = &acc[(r * P + p) * G + g];
                        *sum = v_fma_lane(a, in[r], lane, *sum);
                    }
                }
            }
        }
        UNROLL for (int p = 0; p < P; p++) weight[p] += F32_AT_ONCE * G * VL;
    }
#endif
    for (; k < inner; k += GROUP) {
        multiply_one(R, P, G, acc, weight, row, k, 0);
        if (GROUP == 2 && k + 1 < inner) multiply_one(R, P, G, acc, weight, row, k + 1, 1);
        UNROLL for (int p = 0; p < P; p++) weight[p] += G * VL * GROUP;
    }
}

#include "float_product.h"
#include "reduced_body.h"
