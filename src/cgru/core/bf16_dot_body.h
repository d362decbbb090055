/* Kernels for bf16 weights where the processor multiplies pairs of bf16: the activations are rounded to bf16 as well. */
#define PRECISION bf16
#define TILE_ROWS DOT_ROWS
#define ACCUMULATORS DOT_SUMS
#ifdef DOT_SUMS_OF_FOUR
#define ACCUMULATORS_OF_FOUR DOT_SUMS_OF_FOUR
#endif
#include "vec_math.h"
#include "tiles.h"
#include "product_out.h"

#define GROUP 2
#define ELEMENT 2
#define PREPARES 1
#define PREPARED prepared_bytes
#define planes_of(m) 1

static size_t prepared_bytes(const cgru_matrix *m)
{
    return ((size_t)m->in_features + VL) / VL * VL * sizeof(uint16_t);
}

static void prepare_row(const cgru_matrix *m, const float *v, float range, char *to)
{
    (void)range;
    for (int k = 0; k < m->in_features; k += VL) {
        int left = m->in_features - k;
        v_put_bf16((uint16_t *)to + k, left >= VL ? v_load(v + k) : v_load_part(v + k, left));
    }
}

INLINE void multiply(const int R, const int P, const int G, vec *acc, const cgru_matrix *m, int p0,
                     const void *const *v)
{
    const int groups = (m->in_features + 1) / 2;
    const ptrdiff_t panel = (ptrdiff_t)groups * 2 * G * VL;
    const uint16_t *row[TILE_ROWS], *weight[MAX_PANELS];
    UNROLL for (int r = 0; r < R; r++) row[r] = v[r];
    UNROLL for (int p = 0; p < P; p++) weight[p] = (const uint16_t *)m->weight + (p0 + p) * panel;
    UNROLL for (int j = 0; j < R * P * G; j++) acc[j] = v_set(0.0f);
    for (int k = 0; k < groups; k++) {
        if (R < P * G) {
            hvec in[TILE_ROWS];
            UNROLL for (int r = 0; r < R; r++) in[r] = h_two(row[r] + 2 * k);
            UNROLL for (int j = 0; j < P * G; j++)
            {
                hvec a = h_load(weight[j / G] + j % G * VL * 2);
                UNROLL for (int r = 0; r < R; r++) acc[r * P * G + j] = dot(acc[r * P * G + j], a, in[r]);
            }
        } else {
            hvec a[MAX_PANELS * 4];
            UNROLL for (int j = 0; j < P * G; j++) a[j] = h_load(weight[j / G] + j % G * VL * 2);
            UNROLL for (int r = 0; r < R; r++)
            {
                hvec in = h_two(row[r] + 2 * k);
                UNROLL for (int j = 0; j < P * G; j++) acc[r * P * G + j] = dot(acc[r * P * G + j], a[j], in);
            }
        }
        UNROLL for (int p = 0; p < P; p++) weight[p] += G * VL * 2;
    }
}

#include "float_product.h"
#include "reduced_body.h"
