/* The float32 kernels, written once on the vector primitives and compiled once for each instruction set: a file
 * isa/f32_*.c defines ISA and includes its primitives, then this. */
#include <math.h>

#define PRECISION f32
#define TILE_ROWS F32_ROWS
#define ACCUMULATORS F32_SUMS
#ifdef F32_SUMS_OF_FOUR
#define ACCUMULATORS_OF_FOUR F32_SUMS_OF_FOUR
#endif
#include "vec_math.h"
#include "tiles.h"

INLINE const float *weights(const cgru_matrix *m)
{
    return m->weight;
}

/* total[r][p][g] += sum over k of w[p][k][g] · v[r][k], g counted from `first` in groups of `stride`, in order of k.
 *
 * One chain of multiply-adds over all k, going on from what total holds, would carry every rounding of a long sum. Each
 * SPAN of k has a chain of its own that begins at zero, and the chains are added in order: on a trained network of 400
 * units the largest error falls from 7.8e-6 to 1.8e-6, and the time does not change. */
#define SPAN 32

INLINE void multiply(const int R, const int P, const int G, vec *total, const float *w, ptrdiff_t panel, const int stride,
                     const int first, const float *const *v, int inner)
{
    const float *row[TILE_ROWS], *weight[MAX_PANELS];
    vec acc[MOST_SUMS];
    UNROLL for (int r = 0; r < R; r++) row[r] = v[r];
    UNROLL for (int p = 0; p < P; p++) weight[p] = w + p * panel + first * VL;
    for (int k = 0; k < inner;) {
#ifdef F32_AT_ONCE
        __asm__("" : "+m"(*(vec(*)[R * P * G])total)); /* no register for a total while a chain runs */
#endif
        const int end = inner - k > SPAN ? k + SPAN : inner;
        UNROLL for (int j = 0; j < R * P * G; j++) acc[j] = v_set(0.0f);
#ifdef F32_AT_ONCE
        for (; k + F32_AT_ONCE <= end; k += F32_AT_ONCE) {
            vec in[TILE_ROWS];
            UNROLL for (int r = 0; r < R; r++) in[r] = v_load(row[r] + k);
            UNROLL for (int lane = 0; lane < F32_AT_ONCE; lane++)
            {
                UNROLL for (int p = 0; p < P; p++)
                {
                    UNROLL for (int g = 0; g < G; g++)
                    {
                        vec a = v_load(weight[p] + g * VL);
                        UNROLL for (int r = 0; r < R; r++)
                        {
                            vec *sum = &acc[(r * P + p) * G + g];
                            *sum = v_fma_lane(a, in[r], lane, *sum);
                        }
                    }
                    weight[p] += stride * VL;
                }
            }
        }
#endif
        for (; k < end; k++) {
            if (R < P * G) { /* hold the inputs, stream the weights */
                vec in[TILE_ROWS];
                UNROLL for (int r = 0; r < R; r++) in[r] = v_set(row[r][k]);
                UNROLL for (int p = 0; p < P; p++)
                {
                    UNROLL for (int g = 0; g < G; g++)
                    {
                        vec a = v_load(weight[p] + g * VL);
                        UNROLL for (int r = 0; r < R; r++)
                        {
                            vec *sum = &acc[(r * P + p) * G + g];
                            *sum = v_fma(a, in[r], *sum);
                        }
                    }
                }
            } else { /* hold the weights, stream the inputs */
                vec a[MAX_PANELS * 4];
                UNROLL for (int p = 0; p < P; p++)
                {
                    UNROLL for (int g = 0; g < G; g++) a[p * G + g] = v_load(weight[p] + g * VL);
                }
                UNROLL for (int r = 0; r < R; r++)
                {
                    vec in = v_set(row[r][k]);
                    UNROLL for (int j = 0; j < P * G; j++)
                    {
                        vec *sum = &acc[r * P * G + j];
                        *sum = v_fma(a[j], in, *sum);
                    }
                }
            }
            UNROLL for (int p = 0; p < P; p++) weight[p] += stride * VL;
        }
        UNROLL for (int j = 0; j < R * P * G; j++) total[j] = v_add(total[j], acc[j]);
    }
}

INLINE void start(const int R, const int P, const int G, vec *acc, const float *bias, const int stride, const int first)
{
    UNROLL for (int r = 0; r < R; r++)
    {
        UNROLL for (int p = 0; p < P; p++)
        {
            UNROLL for (int g = 0; g < G; g++)
                acc[(r * P + p) * G + g] = v_load(bias + (p * stride + first + g) * VL);
        }
    }
}

INLINE void store_tile(const int count, const vec *acc, float *sums)
{
    UNROLL for (int i = 0; i < count; i++) v_store(sums + i * VL, acc[i]);
}

/* ---- dense layers and input projections -------------------------------------------------------------------------- */

INLINE void linear_sums(float *sums, const cgru_matrix *m, const linear_rows *rows, int r0, int n, int p0, int panels)
{
    const ptrdiff_t panel = (ptrdiff_t)m->in_features * VL;
#define LINEAR(R, P)                                                                                                   \
    {                                                                                                                  \
        vec acc[(R) * (P)];                                                                                            \
        start(R, P, 1, acc, m->bias + p0 * VL, 1, 0);                                                                  \
        multiply(R, P, 1, acc, weights(m) + p0 * panel, panel, 1, 0, rows->v + r0, m->in_features);                    \
        store_tile((R) * (P), acc, sums);                                                                              \
    }
    WITH_CONSTANTS(n, panels, 1, LINEAR)
#undef LINEAR
}

/* A tile whose activation is none or relu goes from its registers to the rows: by way of memory, and of a choice at each
 * vector, it takes as long as the products of ten inputs more. Whether it was one. */
#define STORES_TILES
INLINE int store_linear(const cgru_matrix *m, const linear_rows *rows, int r0, int n, int p0, int panels)
{
    const ptrdiff_t panel = (ptrdiff_t)m->in_features * VL;
    const int left = m->out_features - (p0 + panels - 1) * VL; /* of the last panel */
    if (rows->activation != CGRU_LINEAR && rows->activation != CGRU_RELU) return 0;
    const vec least = v_set(rows->activation == CGRU_RELU ? 0.0f : -HUGE_VALF);
#define LINEAR(R, P)                                                                                                   \
    {                                                                                                                  \
        vec acc[(R) * (P)];                                                                                            \
        start(R, P, 1, acc, m->bias + p0 * VL, 1, 0);                                                                  \
        multiply(R, P, 1, acc, weights(m) + p0 * panel, panel, 1, 0, rows->v + r0, m->in_features);                    \
        UNROLL for (int r = 0; r < (R); r++)                                                                           \
        {                                                                                                              \
            float *out = rows->out[r0 + r] + p0 * VL;                                                                  \
            UNROLL for (int p = 0; p < (P) - 1; p++) v_store(out + p * VL, v_max(least, acc[r * (P) + p]));            \
            const vec last = v_max(least, acc[r * (P) + (P) - 1]);                                                     \
            if (left >= VL) v_store(out + ((P) - 1) * VL, last);                                                       \
            else v_store_part(out + ((P) - 1) * VL, last, left);                                                       \
        }                                                                                                              \
    }
    WITH_CONSTANTS(n, panels, 1, LINEAR)
#undef LINEAR
    return 1;
}

INLINE void project_tile(const int G, const cgru_matrix *m, const linear_rows *rows, int r0, int n, int p0, int panels)
{
    const ptrdiff_t panel = (ptrdiff_t)m->in_features * G * VL;
#define PROJECT(R, P)                                                                                                  \
    {                                                                                                                  \
        vec acc[MOST_SUMS];                                                                                            \
        start(R, P, G, acc, m->bias + p0 * G * VL, G, 0);                                                              \
        multiply(R, P, G, acc, weights(m) + p0 * panel, panel, G, 0, rows->v + r0, m->in_features);                    \
        UNROLL for (int r = 0; r < (R); r++)                                                                           \
        {                                                                                                              \
            float *out = rows->out[r0 + r] + p0 * G * VL;                                                              \
            UNROLL for (int j = 0; j < (P) * G; j++) v_store(out + j * VL, acc[r * (P) * G + j]);                      \
        }                                                                                                              \
    }
    WITH_CONSTANTS(n, panels, G, PROJECT)
#undef PROJECT
}

/* ---- one step of a cell -------------------------------------------------------------------------------------------- */

/* A row's sums from the input side, gates [first, first + G) of `gates`: loaded if projected before, else made now. */
INLINE void input_side(const int R, const int P, const int G, const int gates, const int first, vec *acc,
                       const cgru_matrix *m, const cgru_rows *rows, int r0, int p0)
{
    if (rows->proj) {
        UNROLL for (int r = 0; r < R; r++)
        {
            const float *from = rows->proj[r0 + r] + p0 * gates * VL;
            UNROLL for (int p = 0; p < P; p++)
            {
                UNROLL for (int g = 0; g < G; g++)
                    acc[(r * P + p) * G + g] = v_load(from + (p * gates + first + g) * VL);
            }
        }
    } else {
        const ptrdiff_t panel = (ptrdiff_t)m->in_features * gates * VL;
        start(R, P, G, acc, m->bias + p0 * gates * VL, gates, first);
        multiply(R, P, G, acc, weights(m) + p0 * panel, panel, gates, first, rows->x + r0, m->in_features);
    }
}

#define VECTORS(source)                                                                                                \
    const float *left[TILE_ROWS], *const *v = left;                                                                    \
    if ((source) == STATE) v = rows->h + r0;                                                                           \
    else if ((source) == CELL_STATE) v = (const float *const *)rows->cell_state + r0;                                  \
    for (int r = 0; (source) == OPERAND && r < n; r++) left[r] = operand(scan, rows, r0 + r);

INLINE void gate_sums(const int G, const int gates, const int first, float *sums, const cgru_scan *scan,
                     const cgru_matrix *m, const enum source source, const cgru_rows *rows, int r0, int n, int p0,
                     int panels)
{
    VECTORS(source)
#define SUMS(R, P)                                                                                                     \
    {                                                                                                                  \
        vec acc[MOST_SUMS];                                                                                            \
        input_side(R, P, G, gates, first, acc, &scan->x, rows, r0, p0);                                                \
        if (m) {                                                                                                       \
            const ptrdiff_t panel = (ptrdiff_t)m->in_features * G * VL;                                                \
            multiply(R, P, G, acc, weights(m) + p0 * panel, panel, G, 0, v, m->in_features);                           \
        }                                                                                                              \
        store_tile((R) * (P) * G, acc, sums);                                                                          \
    }
    WITH_CONSTANTS(n, panels, G, SUMS)
#undef SUMS
}

INLINE void gru_after_sums(float *sums, float *candidate, const cgru_scan *scan, const cgru_rows *rows, int r0, int n,
                           int p0, int panels)
{
    const ptrdiff_t panel = (ptrdiff_t)scan->hidden * 3 * VL;
#define STEP(R, P)                                                                                                     \
    {                                                                                                                  \
        vec acc[(R) * (P) * 3];                                                                                        \
        input_side(R, P, 3, 3, 0, acc, &scan->x, rows, r0, p0);                                                        \
        UNROLL for (int r = 0; r < (R); r++)                                                                           \
        {                                                                                                              \
            UNROLL for (int p = 0; p < (P); p++)                                                                       \
            {                                                                                                          \
                v_store(candidate + (r * (P) + p) * VL, acc[(r * (P) + p) * 3 + 2]);                                   \
                acc[(r * (P) + p) * 3 + 2] = v_load(scan->h.bias + (p0 + p) * VL);                                     \
            }                                                                                                          \
        }                                                                                                              \
        multiply(R, P, 3, acc, weights(&scan->h) + p0 * panel, panel, 3, 0, rows->h + r0, scan->hidden);               \
        store_tile((R) * (P) * 3, acc, sums);                                                                          \
    }
    WITH_CONSTANTS(n, panels, 3, STEP)
#undef STEP
}

INLINE void projection_sums(float *sums, const cgru_scan *scan, const cgru_rows *rows, int r0, int n, int p0, int panels)
{
    const cgru_matrix *m = &scan->phase1;
    const ptrdiff_t panel = (ptrdiff_t)m->in_features * VL;
    VECTORS(OPERAND)
#define STEP(R, P)                                                                                                     \
    {                                                                                                                  \
        vec acc[(R) * (P)];                                                                                            \
        UNROLL for (int j = 0; j < (R) * (P); j++) acc[j] = v_set(0.0f);                                               \
        multiply(R, P, 1, acc, weights(m) + p0 * panel, panel, 1, 0, v, m->in_features);                               \
        store_tile((R) * (P), acc, sums);                                                                              \
    }
    WITH_CONSTANTS(n, panels, 1, STEP)
#undef STEP
}

#ifdef F32_BESIDE
#define TAKES_AHEAD
#include "beside.h"
#endif

/* Rows are multiplied as they are. */
#define GROUP 1
#define PREPARED NULL
#define planes_of(m) 1

INLINE void prepare(const cgru_scan *scan, const cgru_matrix *m, enum source source, const cgru_rows *rows)
{
    (void)scan, (void)m, (void)source, (void)rows;
}

static ptrdiff_t panel_bytes(const cgru_matrix *m)
{
    return (ptrdiff_t)m->in_features * m->gates * VL * (ptrdiff_t)sizeof(float);
}

INLINE void prepare_rows(const cgru_matrix *m, int n, const float *const *v, cgru_prepared quantized_input)
{
    (void)m, (void)n, (void)v, (void)quantized_input;
}

#include "linear.h"

#include "cell_steps.h"
