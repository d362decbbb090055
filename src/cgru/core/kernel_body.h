/* The kernels, written once on the vector primitives and compiled once for each instruction set: a file isa_*.c
 * defines ISA and includes its primitives, then this.
 *
 * A tile is R rows by P panels; its R·P·G sums stay in registers over the whole inner dimension. When they are
 * complete they are put down once, and a cell's epilogue turns them into gates and the new state. */
#include "vec_math.h"

#define JOIN_(a, b) a##_##b
#define JOIN(a, b) JOIN_(a, b)
#define NAME(stem) JOIN(stem, ISA)
#define INLINE static inline __attribute__((always_inline))
#define UNROLL _Pragma("GCC unroll 32")
#define MAX_PANELS 4 /* of a tile: more streams of weights than this do not run faster */

/* acc[r][p][g] += sum over k of w[p][k][g] · v[r][k], g counted from `first` in groups of `stride`, in order of k. */
INLINE void multiply(const int R, const int P, const int G, vec *acc, const float *w, ptrdiff_t panel, const int stride,
                     const int first, const float *const *v, int inner)
{
    const float *row[TILE_ROWS], *weight[MAX_PANELS];
    UNROLL for (int r = 0; r < R; r++) row[r] = v[r];
    UNROLL for (int p = 0; p < P; p++) weight[p] = w + p * panel + first * VL;
    for (int k = 0; k < inner; k++) {
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

INLINE void put_down(const int count, const vec *acc, float *sums)
{
    UNROLL for (int i = 0; i < count; i++) v_store(sums + i * VL, acc[i]);
}

/* ---- cutting rows and panels into tiles ------------------------------------------------------------------------ */

#define ROWS_OF(G) ((TILE_ROWS) * (G) <= ACCUMULATORS ? (TILE_ROWS) : ACCUMULATORS / (G))
#define PANELS_OF(R, G) ((R) * (G) * MAX_PANELS <= ACCUMULATORS ? MAX_PANELS : ACCUMULATORS / ((R) * (G)))

#define TILE_CASE(R, P, G, CALL)                                                                                       \
    case ((R) * 8 + (P)):                                                                                              \
        if ((R) * (P) * (G) <= ACCUMULATORS && (R) <= TILE_ROWS) { CALL(R, P); }                                       \
        break;
#define TILE_CASES(R, G, CALL)                                                                                         \
    TILE_CASE(R, 1, G, CALL)                                                                                           \
    TILE_CASE(R, 2, G, CALL) TILE_CASE(R, 3, G, CALL) TILE_CASE(R, 4, G, CALL)
/* CALL(R, P) with constants equal to the variables rows and panels. */
#if TILE_ROWS > 4
#define WIDE_CASES(G, CALL)                                                                                            \
    TILE_CASES(5, G, CALL) TILE_CASES(6, G, CALL) TILE_CASES(7, G, CALL) TILE_CASES(8, G, CALL)
#else
#define WIDE_CASES(G, CALL)
#endif
#define WITH_CONSTANTS(rows, panels, G, CALL)                                                                          \
    switch ((rows) * 8 + (panels)) {                                                                                   \
        TILE_CASES(1, G, CALL)                                                                                         \
        TILE_CASES(2, G, CALL) TILE_CASES(3, G, CALL) TILE_CASES(4, G, CALL) WIDE_CASES(G, CALL)                       \
    }

/* For a single row, weights a little larger than the first-level cache are walked two panels at a time: turning round at
 * every step then finds the last ones still there (H = 64: 0.46 µs a step, against 0.55 with four). */
#define NARROW_LOW (32 << 10)
#define NARROW_HIGH (96 << 10)

typedef void tile_function(const void *what, const void *rows, int r0, int n, int p0, int panels);

/* Groups of `width` panels of [p0, p1), and for each all rows in `tiles` tiles as even as they go: a panel's weights are
 * used for every row before the next. */
INLINE void walk(tile_function *tile, const void *what, const void *rows, int n, const int tiles, const int width, int p0,
                 int p1, int backwards)
{
    const int groups = (p1 - p0 + width - 1) / width;
    for (int i = 0; i < groups; i++) {
        int p = p0 + (backwards ? groups - 1 - i : i) * width, panels = p1 - p < width ? p1 - p : width;
        for (int t = 0, r = 0; t < tiles; t++) {
            int count = tiles == 1 ? n : (n - r + tiles - t - 1) / (tiles - t);
            tile(what, rows, r, count, p, panels);
            r += count;
        }
    }
}

/* n rows by panels [p0, p1); bytes is the size of a panel's weights. One row goes with constant widths, since the
 * divisions would be felt in a step of a small network. */
INLINE void each_tile(tile_function *tile, const void *what, const void *rows, const int gates, int n, int p0, int p1,
                      int backwards, ptrdiff_t bytes)
{
    if (n == 1) {
        int narrow = (p1 - p0) * bytes > NARROW_LOW && (p1 - p0) * bytes <= NARROW_HIGH;
        if (narrow) walk(tile, what, rows, 1, 1, 2, p0, p1, backwards);
        else walk(tile, what, rows, 1, 1, PANELS_OF(1, gates), p0, p1, backwards);
    } else if (n > 1) {
        int tiles = (n + ROWS_OF(gates) - 1) / ROWS_OF(gates), largest = (n + tiles - 1) / tiles;
        walk(tile, what, rows, n, tiles, PANELS_OF(largest, gates), p0, p1, backwards);
    }
}

/* ---- dense layers and input projections -------------------------------------------------------------------------- */

typedef struct {
    int activation;
    const float *const *v;
    float *const *out;
} linear_rows;

static void linear_tile(const void *what, const void *given, int r0, int n, int p0, int panels)
{
    const cgru_matrix *m = what;
    const linear_rows *rows = given;
    const ptrdiff_t panel = (ptrdiff_t)m->inner * VL;
    float sums[ACCUMULATORS * VL];
#define LINEAR(R, P)                                                                                                   \
    {                                                                                                                  \
        vec acc[(R) * (P)];                                                                                            \
        start(R, P, 1, acc, m->bias + p0 * VL, 1, 0);                                                                  \
        multiply(R, P, 1, acc, m->weight + p0 * panel, panel, 1, 0, rows->v + r0, m->inner);                           \
        put_down((R) * (P), acc, sums);                                                                                \
    }
    WITH_CONSTANTS(n, panels, 1, LINEAR)
#undef LINEAR
    for (int r = 0; r < n; r++) {
        for (int p = 0; p < panels; p++) {
            int unit = (p0 + p) * VL, left = m->units - unit;
            vec y = v_activate(rows->activation, v_load(sums + (r * panels + p) * VL));
            if (left >= VL) v_store(rows->out[r0 + r] + unit, y);
            else v_store_part(rows->out[r0 + r] + unit, y, left);
        }
    }
}

static void NAME(cgru_linear_f32)(const cgru_matrix *m, int activation, int n, const float *const *v, float *const *out,
                                  int p0, int p1)
{
    linear_rows rows = {activation, v, out};
    each_tile(linear_tile, m, &rows, 1, n, p0, p1, 0, 0);
}

static void project3_tile(const void *what, const void *given, int r0, int n, int p0, int panels)
{
    const cgru_matrix *m = what;
    const linear_rows *rows = given;
    const ptrdiff_t panel = (ptrdiff_t)m->inner * 3 * VL;
#define PROJECT(R, P)                                                                                                  \
    {                                                                                                                  \
        vec acc[(R) * (P) * 3];                                                                                        \
        start(R, P, 3, acc, m->bias + p0 * 3 * VL, 3, 0);                                                              \
        multiply(R, P, 3, acc, m->weight + p0 * panel, panel, 3, 0, rows->v + r0, m->inner);                           \
        UNROLL for (int r = 0; r < (R); r++)                                                                           \
        {                                                                                                              \
            float *out = rows->out[r0 + r] + p0 * 3 * VL;                                                              \
            UNROLL for (int j = 0; j < (P) * 3; j++) v_store(out + j * VL, acc[r * (P) * 3 + j]);                      \
        }                                                                                                              \
    }
    WITH_CONSTANTS(n, panels, 3, PROJECT)
#undef PROJECT
}

static void NAME(cgru_project_f32)(const cgru_matrix *m, int n, const float *const *v, float *const *out, int p0, int p1)
{
    linear_rows rows = {CGRU_LINEAR, v, out};
    each_tile(project3_tile, m, &rows, 3, n, p0, p1, 0, 0);
}

/* ---- one step of a cell -------------------------------------------------------------------------------------------- */

/* A row's sums from the input side, gates [first, first + G) of 3: loaded if projected before, else made now. */
INLINE void input_side(const int R, const int P, const int G, const int first, vec *acc, const cgru_matrix *m,
                       const cgru_rows *rows, int r0, int p0)
{
    if (rows->proj) {
        UNROLL for (int r = 0; r < R; r++)
        {
            const float *from = rows->proj[r0 + r] + p0 * 3 * VL;
            UNROLL for (int p = 0; p < P; p++)
            {
                UNROLL for (int g = 0; g < G; g++)
                    acc[(r * P + p) * G + g] = v_load(from + (p * 3 + first + g) * VL);
            }
        }
    } else {
        const ptrdiff_t panel = (ptrdiff_t)m->inner * 3 * VL;
        start(R, P, G, acc, m->bias + p0 * 3 * VL, 3, first);
        multiply(R, P, G, acc, m->weight + p0 * panel, panel, 3, first, rows->x + r0, m->inner);
    }
}

INLINE vec load_units(const float *from, int unit, int units)
{
    return units - unit >= VL ? v_load(from + unit) : v_load_part(from + unit, units - unit);
}

INLINE void store_units(float *to, int unit, int units, vec value)
{
    if (units - unit >= VL) v_store(to + unit, value);
    else v_store_part(to + unit, value, units - unit);
}

/* z ⊙ h + (1 − z) ⊙ n, which keeps h exactly where z is 1. */
INLINE vec interpolate(vec z, vec h, vec n)
{
    return v_fma(z, h, v_mul(v_sub(v_set(1.0f), z), n));
}

/* r, z = σ(sums); n = φ(input side + r ⊙ recurrent side) */
static void gru_after_tile(const void *what, const void *given, int r0, int n, int p0, int panels)
{
    const cgru_scan *scan = what;
    const cgru_rows *rows = given;
    const ptrdiff_t panel = (ptrdiff_t)scan->hidden * 3 * VL;
    float sums[ACCUMULATORS * VL], candidate[ACCUMULATORS / 3 * VL];
#define STEP(R, P)                                                                                                     \
    {                                                                                                                  \
        vec acc[(R) * (P) * 3];                                                                                        \
        input_side(R, P, 3, 0, acc, &scan->x, rows, r0, p0);                                                           \
        UNROLL for (int r = 0; r < (R); r++)                                                                           \
        {                                                                                                              \
            UNROLL for (int p = 0; p < (P); p++)                                                                       \
            {                                                                                                          \
                v_store(candidate + (r * (P) + p) * VL, acc[(r * (P) + p) * 3 + 2]);                                   \
                acc[(r * (P) + p) * 3 + 2] = v_load(scan->h.bias + (p0 + p) * VL);                                     \
            }                                                                                                          \
        }                                                                                                              \
        multiply(R, P, 3, acc, scan->h.weight + p0 * panel, panel, 3, 0, rows->h + r0, scan->hidden);                  \
        put_down((R) * (P) * 3, acc, sums);                                                                            \
    }
    WITH_CONSTANTS(n, panels, 3, STEP)
#undef STEP
    const int gate = scan->recurrent_activation, act = scan->activation;
    for (int i = 0; i < n * panels; i++) {
        int row = r0 + i / panels, unit = (p0 + i % panels) * VL;
        const float *sum = sums + i * 3 * VL;
        vec r = v_activate(gate, v_load(sum)), z = v_activate(gate, v_load(sum + VL));
        vec c = v_activate(act, v_fma(r, v_load(sum + 2 * VL), v_load(candidate + i * VL)));
        vec h = load_units(rows->h[row], unit, scan->hidden);
        store_units(rows->out[row], unit, scan->hidden, interpolate(z, h, c));
    }
}

/* First phase of reset-before: r, z = σ(sums); puts down z and r ⊙ h. */
static void gru_before_gates_tile(const void *what, const void *given, int r0, int n, int p0, int panels)
{
    const cgru_scan *scan = what;
    const cgru_rows *rows = given;
    const ptrdiff_t panel = (ptrdiff_t)scan->hidden * 2 * VL;
    float sums[ACCUMULATORS * VL];
#define STEP(R, P)                                                                                                     \
    {                                                                                                                  \
        vec acc[(R) * (P) * 2];                                                                                        \
        input_side(R, P, 2, 0, acc, &scan->x, rows, r0, p0);                                                           \
        multiply(R, P, 2, acc, scan->h.weight + p0 * panel, panel, 2, 0, rows->h + r0, scan->hidden);                  \
        put_down((R) * (P) * 2, acc, sums);                                                                            \
    }
    WITH_CONSTANTS(n, panels, 2, STEP)
#undef STEP
    const int gate = scan->recurrent_activation;
    for (int i = 0; i < n * panels; i++) {
        int row = r0 + i / panels, unit = (p0 + i % panels) * VL;
        vec r = v_activate(gate, v_load(sums + i * 2 * VL)), z = v_activate(gate, v_load(sums + (i * 2 + 1) * VL));
        v_store(rows->scratch[row] + unit, z);
        v_store(rows->scratch[row] + scan->panels * VL + unit, v_mul(r, load_units(rows->h[row], unit, scan->hidden)));
    }
}

/* Second phase: n = φ(W x + R (r ⊙ h)). */
static void gru_before_candidate_tile(const void *what, const void *given, int r0, int n, int p0, int panels)
{
    const cgru_scan *scan = what;
    const cgru_rows *rows = given;
    const ptrdiff_t panel = (ptrdiff_t)scan->hidden * VL;
    const float *reset[TILE_ROWS];
    float sums[ACCUMULATORS * VL];
    for (int r = 0; r < n; r++) reset[r] = rows->scratch[r0 + r] + scan->panels * VL;
#define STEP(R, P)                                                                                                     \
    {                                                                                                                  \
        vec acc[(R) * (P)];                                                                                            \
        input_side(R, P, 1, 2, acc, &scan->x, rows, r0, p0);                                                           \
        multiply(R, P, 1, acc, scan->reset.weight + p0 * panel, panel, 1, 0, reset, scan->hidden);                     \
        put_down((R) * (P), acc, sums);                                                                                \
    }
    WITH_CONSTANTS(n, panels, 1, STEP)
#undef STEP
    for (int i = 0; i < n * panels; i++) {
        int row = r0 + i / panels, unit = (p0 + i % panels) * VL;
        vec c = v_activate(scan->activation, v_load(sums + i * VL));
        vec z = v_load(rows->scratch[row] + unit), h = load_units(rows->h[row], unit, scan->hidden);
        store_units(rows->out[row], unit, scan->hidden, interpolate(z, h, c));
    }
}

static ptrdiff_t panel_bytes(const cgru_matrix *m)
{
    return (ptrdiff_t)m->inner * m->gates * VL * (ptrdiff_t)sizeof(float);
}

static void NAME(cgru_gru_after_f32)(const cgru_scan *scan, const cgru_rows *rows, int phase, int p0, int p1)
{
    (void)phase;
    each_tile(gru_after_tile, scan, rows, 3, rows->n, p0, p1, rows->backwards, panel_bytes(&scan->h));
}

static void NAME(cgru_gru_before_f32)(const cgru_scan *scan, const cgru_rows *rows, int phase, int p0, int p1)
{
    if (phase == 0) each_tile(gru_before_gates_tile, scan, rows, 2, rows->n, p0, p1, rows->backwards, panel_bytes(&scan->h));
    else each_tile(gru_before_candidate_tile, scan, rows, 1, rows->n, p0, p1, rows->backwards, 0);
}

static void NAME(cgru_activate_f32)(int activation, float *values, ptrdiff_t n)
{
    ptrdiff_t i = 0;
    for (; i + VL <= n; i += VL) v_store(values + i, v_activate(activation, v_load(values + i)));
    if (i < n) v_store_part(values + i, v_activate(activation, v_load_part(values + i, (int)(n - i))), (int)(n - i));
}

#define STRING_(x) #x
#define STRING(x) STRING_(x)

const cgru_kernels NAME(cgru_kernels) = {
    STRING(ISA),
    VL,
    NAME(cgru_linear_f32),
    NAME(cgru_project_f32),
    {NAME(cgru_gru_after_f32), NAME(cgru_gru_before_f32)},
    NAME(cgru_activate_f32),
};
