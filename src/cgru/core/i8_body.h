/* The int8 kernels, compiled once for each instruction set: a file isa/i8_*.c defines ISA and includes its vector and
 * integer primitives, then this. int8x16 is the same with two rows of bytes for one of activations.
 *
 * Sums are exact 32-bit integers, and everything else here is one IEEE float32 operation after the other: a multiply-add
 * rounds twice. All instruction sets therefore give equal bits (docs/format.md writes the arithmetic out). */
#define PRECISION i8
#define TILE_ROWS DOT_ROWS
#define ACCUMULATORS DOT_SUMS
#ifdef DOT_SUMS_OF_FOUR
#define ACCUMULATORS_OF_FOUR DOT_SUMS_OF_FOUR
#endif
#define v_fma(a, b, c) v_add(v_mul(a, b), c)
#include "vec_math.h"
#include "tiles.h"
#include "product_out.h"

#include <math.h>

#define GROUP 4
#define ELEMENT 1
#define PREPARES 1
#define PREPARED prepared_bytes
#define planes_of(m) ((m)->planes)

/* A prepared row: what an integer is worth, then the planes, each padded to whole vectors. */
#define HEADER 64
#define PLANE(inner) (((ptrdiff_t)(inner) + 63) / 64 * 64)

static size_t prepared_bytes(const cgru_matrix *m)
{
    return (size_t)(HEADER + m->planes * PLANE(m->in_features));
}

/* Activations below this are nothing: their scale could not be divided by. */
#define NOTHING_BELOW 1e-30f

/* v as integers of 8 or 16 bits in units of range / the largest integer, ties to even. A row with a NaN or an infinity
 * gets NaN for its unit, and so gives NaN. */
static void prepare_row(const cgru_matrix *m, const float *v, float range, char *to)
{
    const int inner = m->in_features, whole = inner / VL * VL, left = inner - whole;
    const float top = m->planes == 2 ? 32639.0f : 127.0f;
    uint8_t *plane = (uint8_t *)to + HEADER, *second = plane + PLANE(inner);
    if (range == 0.0f) {
        vec most = v_set(0.0f);
        for (int k = 0; k < whole; k += VL) most = v_max(most, v_abs(v_load(v + k)));
        if (left) most = v_max(most, v_abs(v_load_part(v + whole, left)));
        range = v_largest(most);
    }
    const int some = range >= NOTHING_BELOW;
    const vec scale = v_set(some ? top / range : 0.0f), high = v_set(top), low = v_set(-top), zero = v_set(0.0f);
    vec bad = zero;
    for (int k = 0; k < inner; k += VL) {
        vec x = k < whole ? v_load(v + k) : v_load_part(v + k, left);
        bad = v_add(bad, v_mul(x, zero));
        ivec q = i_round(v_min(v_max(v_mul(x, scale), low), high));
        if (m->planes == 2) {
            ivec upper = i_shift_right_8(i_add(q, i_set(128)));
            i_put_bytes(plane + k, i_add(upper, i_set(DOT_OFFSET)));
            i_put_bytes(second + k, i_add(q, i_set(DOT_OFFSET)));
        } else {
            i_put_bytes(plane + k, i_add(q, i_set(DOT_OFFSET)));
        }
    }
    *(float *)to = v_has_nan(bad) ? NAN : some ? range / top : 0.0f;
}

/* acc[r][p][g] = Σ over k of row r's bytes times the weights of panel p and gate g. */
INLINE void multiply(const int R, const int P, const int G, ivec *acc, const cgru_matrix *m, int p0,
                     const uint8_t *const *bytes)
{
    const int groups = (m->in_features + 3) / 4;
    const ptrdiff_t panel = (ptrdiff_t)groups * G * VL * 4;
    const uint8_t *row[TILE_ROWS];
    const int8_t *weight[MAX_PANELS];
    UNROLL for (int r = 0; r < R; r++) row[r] = bytes[r];
    UNROLL for (int p = 0; p < P; p++) weight[p] = (const int8_t *)m->weight + (p0 + p) * panel;
    UNROLL for (int r = 0; r < R; r++)
    {
        UNROLL for (int j = 0; j < P * G; j++)
            acc[r * P * G + j] = DOT_OFFSET ? i_negative(i_load(m->compensation + (p0 * G + j) * VL)) : i_set(0);
    }
    int k = 0;
#ifdef DOT_AT_ONCE
    for (; k + DOT_AT_ONCE <= groups; k += DOT_AT_ONCE) {
        bvec in[TILE_ROWS];
        UNROLL for (int r = 0; r < R; r++) in[r] = b_load((const int8_t *)row[r] + 4 * k);
        UNROLL for (int lane = 0; lane < DOT_AT_ONCE; lane++)
        {
            UNROLL for (int p = 0; p < P; p++)
            {
                UNROLL for (int g = 0; g < G; g++)
                {
                    bvec a = b_load(weight[p] + (lane * G + g) * VL * 4);
                    UNROLL for (int r = 0; r < R; r++)
                    {
                        ivec *sum = &acc[(r * P + p) * G + g];
                        *sum = dot_lane(*sum, a, in[r], lane);
                    }
                }
            }
        }
        UNROLL for (int p = 0; p < P; p++) weight[p] += DOT_AT_ONCE * G * VL * 4;
    }
#endif
    for (; k < groups; k++) {
        /* Inputs are held while the weights go by: the other way round gcc 12 copies sums to and fro (four rows by three
         * sums with VNNI: 37 instructions instead of 23). Beside 24 sums eight inputs would not fit. */
        if (R < 8) {
            bvec in[TILE_ROWS];
            UNROLL for (int r = 0; r < R; r++) in[r] = b_four(row[r] + 4 * k);
            UNROLL for (int j = 0; j < P * G; j++)
            {
                bvec a = b_load(weight[j / G] + j % G * VL * 4);
                UNROLL for (int r = 0; r < R; r++) acc[r * P * G + j] = dot(acc[r * P * G + j], a, in[r]);
            }
        } else {
            bvec a[MAX_PANELS * 4];
            UNROLL for (int j = 0; j < P * G; j++) a[j] = b_load(weight[j / G] + j % G * VL * 4);
            UNROLL for (int r = 0; r < R; r++)
            {
                bvec in = b_four(row[r] + 4 * k);
                UNROLL for (int j = 0; j < P * G; j++) acc[r * P * G + j] = dot(acc[r * P * G + j], a[j], in);
            }
        }
        UNROLL for (int p = 0; p < P; p++) weight[p] += G * VL * 4;
    }
}

/* A sum as a float is the integer, times its row's scale, times the activations' unit. */
INLINE void store_tile(const int R, const int P, const int G, const ivec *acc, const cgru_matrix *m, int p0,
                     const void *const *v, const tile_out *out)
{
    const vec plane = v_set(256.0f);
    COMPLETED(ivec, sums, acc, R * P * G)
    UNROLL for (int p = 0; p < P; p++)
    {
        UNROLL for (int g = 0; g < G; g++)
        {
            const vec scale = v_load(m->scale + ((p0 + p) * G + g) * VL);
            if (m->planes == 2) {
                UNROLL for (int r = 0; r < R / 2; r++)
                {
                    const ivec *sum = sums + (2 * r * P + p) * G + g;
                    vec f = v_add(v_mul(i_float(sum[0]), plane), i_float(sum[P * G]));
                    put_sum(out, r, p, g, G, v_mul(v_mul(f, scale), v_set(*(const float *)v[r])));
                }
            } else {
                UNROLL for (int r = 0; r < R; r++)
                {
                    vec f = i_float(sums[(r * P + p) * G + g]);
                    put_sum(out, r, p, g, G, v_mul(v_mul(f, scale), v_set(*(const float *)v[r])));
                }
            }
        }
    }
}

#define PRODUCT_TILE(R, P)                                                                                             \
    {                                                                                                                  \
        ivec acc[MOST_SUMS];                                                                                           \
        multiply(R, P, GATES, acc, m, p0, bytes);                                                                      \
        store_tile(R, P, GATES, acc, m, p0, v, out);                                                                   \
    }
#define PRODUCT(G)                                                                                                     \
    static __attribute__((noinline)) void product##G(const cgru_matrix *m, const void *const *v, int n, int p0,        \
                                                     int panels, const tile_out *out)                                  \
    {                                                                                                                  \
        enum { GATES = G };                                                                                            \
        const uint8_t *bytes[TILE_ROWS] = {NULL};                                                                      \
        const int planes = m->planes;                                                                                  \
        for (int r = 0; r < n; r++) {                                                                                  \
            bytes[r * planes] = (const uint8_t *)v[r] + HEADER;                                                        \
            if (planes == 2) bytes[r * 2 + 1] = (const uint8_t *)v[r] + HEADER + PLANE(m->in_features);                \
        }                                                                                                              \
        WITH_CONSTANTS(n * planes, panels, G, PRODUCT_TILE)                                                            \
    }
PRODUCT(1)
PRODUCT(2)
PRODUCT(3)
PRODUCT(4)

#include "reduced_body.h"
