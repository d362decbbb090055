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

/* Sums of a tile at most, for G to a unit. */
#ifdef ACCUMULATORS_OF_FOUR
#define SUMS_OF(G) ((G) == 4 ? ACCUMULATORS_OF_FOUR : ACCUMULATORS)
#define MOST_SUMS ACCUMULATORS_OF_FOUR
#else
#define SUMS_OF(G) ACCUMULATORS
#define MOST_SUMS ACCUMULATORS
#endif

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
        const int end = inner - k > SPAN ? k + SPAN : inner;
        UNROLL for (int j = 0; j < R * P * G; j++) acc[j] = v_set(0.0f);
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

INLINE void put_down(const int count, const vec *acc, float *sums)
{
    UNROLL for (int i = 0; i < count; i++) v_store(sums + i * VL, acc[i]);
}

/* ---- cutting rows and panels into tiles ------------------------------------------------------------------------ */

#define ROWS_OF(G) ((TILE_ROWS) * (G) <= SUMS_OF(G) ? (TILE_ROWS) : SUMS_OF(G) / (G))
#define PANELS_OF(R, G) ((R) * (G) * MAX_PANELS <= SUMS_OF(G) ? MAX_PANELS : SUMS_OF(G) / ((R) * (G)))

#define TILE_CASE(R, P, G, CALL)                                                                                       \
    case ((R) * 8 + (P)):                                                                                              \
        if ((R) * (P) * (G) <= SUMS_OF(G) && (R) <= TILE_ROWS) { CALL(R, P); }                                       \
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
#define NARROW_HIGH (160 << 10)

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

INLINE void project_tile(const int G, const cgru_matrix *m, const linear_rows *rows, int r0, int n, int p0, int panels)
{
    const ptrdiff_t panel = (ptrdiff_t)m->inner * G * VL;
#define PROJECT(R, P)                                                                                                  \
    {                                                                                                                  \
        vec acc[MOST_SUMS];                                                                                         \
        start(R, P, G, acc, m->bias + p0 * G * VL, G, 0);                                                              \
        multiply(R, P, G, acc, m->weight + p0 * panel, panel, G, 0, rows->v + r0, m->inner);                           \
        UNROLL for (int r = 0; r < (R); r++)                                                                           \
        {                                                                                                              \
            float *out = rows->out[r0 + r] + p0 * G * VL;                                                              \
            UNROLL for (int j = 0; j < (P) * G; j++) v_store(out + j * VL, acc[r * (P) * G + j]);                      \
        }                                                                                                              \
    }
    WITH_CONSTANTS(n, panels, G, PROJECT)
#undef PROJECT
}

#define PROJECT_TILE(G)                                                                                                \
    static void project##G##_tile(const void *what, const void *given, int r0, int n, int p0, int panels)              \
    {                                                                                                                  \
        project_tile(G, what, given, r0, n, p0, panels);                                                               \
    }
PROJECT_TILE(1)
PROJECT_TILE(2)
PROJECT_TILE(3)
PROJECT_TILE(4)

static void NAME(cgru_project_f32)(const cgru_matrix *m, int n, const float *const *v, float *const *out, int p0, int p1)
{
    linear_rows rows = {CGRU_LINEAR, v, out};
    switch (m->gates) {
    case 1:
        each_tile(project1_tile, m, &rows, 1, n, p0, p1, 0, 0);
        break;
    case 2:
        each_tile(project2_tile, m, &rows, 2, n, p0, p1, 0, 0);
        break;
    case 3:
        each_tile(project3_tile, m, &rows, 3, n, p0, p1, 0, 0);
        break;
    default:
        each_tile(project4_tile, m, &rows, 4, n, p0, p1, 0, 0);
    }
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
        const ptrdiff_t panel = (ptrdiff_t)m->inner * gates * VL;
        start(R, P, G, acc, m->bias + p0 * gates * VL, gates, first);
        multiply(R, P, G, acc, m->weight + p0 * panel, panel, gates, first, rows->x + r0, m->inner);
    }
}

/* sums[row][panel][g], complete: the input side of gates [first, first + G) of `gates`, and m · v (m NULL: no more). */
INLINE void complete(const int G, const int gates, const int first, float *sums, const cgru_scan *scan,
                     const cgru_matrix *m, const float *const *v, const cgru_rows *rows, int r0, int n, int p0, int panels)
{
#define SUMS(R, P)                                                                                                     \
    {                                                                                                                  \
        vec acc[MOST_SUMS];                                                                                         \
        input_side(R, P, G, gates, first, acc, &scan->x, rows, r0, p0);                                                \
        if (m) {                                                                                                       \
            const ptrdiff_t panel = (ptrdiff_t)m->inner * G * VL;                                                      \
            multiply(R, P, G, acc, m->weight + p0 * panel, panel, G, 0, v, m->inner);                                  \
        }                                                                                                              \
        put_down((R) * (P) * G, acc, sums);                                                                            \
    }
    WITH_CONSTANTS(n, panels, G, SUMS)
#undef SUMS
}

/* Each row and panel of a tile: `row`, the first `unit` of the panel, and where its sums lie. */
#define EACH_PLACE(G)                                                                                                  \
    for (int i = 0, row = r0, unit = p0 * VL; i < n * panels;                                                          \
         i++, row = r0 + i / panels, unit = (p0 + i % panels) * VL)                                                    \
        for (const float *sum = sums + i * (G) * VL; sum; sum = NULL)

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
        input_side(R, P, 3, 3, 0, acc, &scan->x, rows, r0, p0);                                                           \
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

/* What phase 0 leaves for phase 1 to multiply stands in the second half of a row's scratch. */
INLINE float *operand(const cgru_scan *scan, const cgru_rows *rows, int row)
{
    return rows->scratch[row] + scan->panels * VL;
}

/* Phase 0: r, z = σ(sums); puts down z and r ⊙ h. */
static void gru_before_gates_tile(const void *what, const void *given, int r0, int n, int p0, int panels)
{
    const cgru_scan *scan = what;
    const cgru_rows *rows = given;
    float sums[MOST_SUMS * VL];
    complete(2, 3, 0, sums, scan, &scan->h, rows->h + r0, rows, r0, n, p0, panels);
    const int gate = scan->recurrent_activation;
    EACH_PLACE(2)
    {
        vec r = v_activate(gate, v_load(sum)), z = v_activate(gate, v_load(sum + VL));
        v_store(rows->scratch[row] + unit, z);
        v_store(operand(scan, rows, row) + unit, v_mul(r, load_units(rows->h[row], unit, scan->hidden)));
    }
}

/* Phase 1: n = φ(W x + R v) with v and z as phase 0 left them; n is the last of `gates`. */
INLINE void candidate_tile(const int gates, const cgru_scan *scan, const cgru_rows *rows, int r0, int n, int p0, int panels)
{
    const float *v[TILE_ROWS];
    float sums[MOST_SUMS * VL];
    for (int r = 0; r < n; r++) v[r] = operand(scan, rows, r0 + r);
    complete(1, gates, gates - 1, sums, scan, &scan->second, v, rows, r0, n, p0, panels);
    EACH_PLACE(1)
    {
        vec c = v_activate(scan->activation, v_load(sum));
        vec z = v_load(rows->scratch[row] + unit), h = load_units(rows->h[row], unit, scan->hidden);
        store_units(rows->out[row], unit, scan->hidden, interpolate(z, h, c));
    }
}

static void gru_before_candidate_tile(const void *what, const void *given, int r0, int n, int p0, int panels)
{
    candidate_tile(3, what, given, r0, n, p0, panels);
}

/* Phase 0 of the minimal gated unit: z = σ(sum); puts down z and (1 − z) ⊙ h. */
static void mgu_gate_tile(const void *what, const void *given, int r0, int n, int p0, int panels)
{
    const cgru_scan *scan = what;
    const cgru_rows *rows = given;
    float sums[MOST_SUMS * VL];
    complete(1, 2, 0, sums, scan, &scan->h, rows->h + r0, rows, r0, n, p0, panels);
    EACH_PLACE(1)
    {
        vec z = v_activate(scan->recurrent_activation, v_load(sum)), h = load_units(rows->h[row], unit, scan->hidden);
        v_store(rows->scratch[row] + unit, z);
        v_store(operand(scan, rows, row) + unit, v_mul(v_sub(v_set(1.0f), z), h));
    }
}

static void mgu_candidate_tile(const void *what, const void *given, int r0, int n, int p0, int panels)
{
    candidate_tile(2, what, given, r0, n, p0, panels);
}

/* h' = φ(sum) */
static void rnn_tile(const void *what, const void *given, int r0, int n, int p0, int panels)
{
    const cgru_scan *scan = what;
    const cgru_rows *rows = given;
    float sums[MOST_SUMS * VL];
    complete(1, 1, 0, sums, scan, &scan->h, rows->h + r0, rows, r0, n, p0, panels);
    EACH_PLACE(1) store_units(rows->out[row], unit, scan->hidden, v_activate(scan->activation, v_load(sum)));
}

/* i, f, o = σ(sums), the peepholes p added: p_i ⊙ c, p_f ⊙ c, p_o ⊙ c'; g = φ(sum); c' = f ⊙ c + i ⊙ g, in place;
 * the output is o ⊙ φ(c'), h' or what a projection makes h' of. */
INLINE void lstm_epilogue(const int peepholes, const int projects, const cgru_scan *scan, const cgru_rows *rows,
                          const float *sums, int r0, int n, int p0, int panels)
{
    const int gate = scan->recurrent_activation, act = scan->activation, hidden = scan->hidden;
    EACH_PLACE(4)
    {
        const float *peep = scan->h.bias + unit * 3;
        float *own = rows->own[row];
        vec i_ = v_load(sum), f = v_load(sum + VL), o = v_load(sum + 3 * VL), c = load_units(own, unit, hidden);
        if (peepholes) {
            i_ = v_fma(v_load(peep), c, i_);
            f = v_fma(v_load(peep + VL), c, f);
        }
        vec g = v_activate(act, v_load(sum + 2 * VL));
        c = v_fma(v_activate(gate, f), c, v_mul(v_activate(gate, i_), g));
        if (peepholes) o = v_fma(v_load(peep + 2 * VL), c, o);
        vec y = v_mul(v_activate(gate, o), v_activate(act, c));
        store_units(own, unit, hidden, c);
        if (projects) v_store(operand(scan, rows, row) + unit, y);
        else store_units(rows->out[row], unit, hidden, y);
    }
}

#define LSTM_TILE(NAME_, PEEPHOLES, PROJECTS)                                                                          \
    static void NAME_(const void *what, const void *given, int r0, int n, int p0, int panels)                          \
    {                                                                                                                  \
        const cgru_scan *scan = what;                                                                                  \
        const cgru_rows *rows = given;                                                                                 \
        float sums[MOST_SUMS * VL];                                                                                 \
        complete(4, 4, 0, sums, scan, &scan->h, rows->h + r0, rows, r0, n, p0, panels);                                \
        lstm_epilogue(PEEPHOLES, PROJECTS, scan, rows, sums, r0, n, p0, panels);                                       \
    }
LSTM_TILE(lstm_tile, 0, 0)
LSTM_TILE(lstm_peephole_tile, 1, 0)
LSTM_TILE(lstm_projected_tile, 0, 1)

/* Phase 1 of a projection: h' = W (o ⊙ φ(c')), P units of H. */
static void projection_tile(const void *what, const void *given, int r0, int n, int p0, int panels)
{
    const cgru_scan *scan = what;
    const cgru_rows *rows = given;
    const cgru_matrix *m = &scan->second;
    const ptrdiff_t panel = (ptrdiff_t)m->inner * VL;
    const float *v[TILE_ROWS];
    float sums[MOST_SUMS * VL];
    for (int r = 0; r < n; r++) v[r] = operand(scan, rows, r0 + r);
#define STEP(R, P)                                                                                                     \
    {                                                                                                                  \
        vec acc[(R) * (P)];                                                                                            \
        UNROLL for (int j = 0; j < (R) * (P); j++) acc[j] = v_set(0.0f);                                               \
        multiply(R, P, 1, acc, m->weight + p0 * panel, panel, 1, 0, v, m->inner);                                      \
        put_down((R) * (P), acc, sums);                                                                                \
    }
    WITH_CONSTANTS(n, panels, 1, STEP)
#undef STEP
    EACH_PLACE(1) store_units(rows->out[row], unit, scan->out, v_load(sum));
}

/* f, i, o = σ(sums), c = φ(sum); h' = f ⊙ h + i ⊙ c; emits h', or o ⊙ h' where h is a state of its own. That one is
 * read by all units, so h' waits in scratch for phase 1. */
INLINE void three_gate(const int output_gate, const cgru_scan *scan, const cgru_rows *rows, int r0, int n, int p0,
                       int panels)
{
    const float *const *from = output_gate ? (const float *const *)rows->own : rows->h;
    const int gate = scan->recurrent_activation, hidden = scan->hidden;
    float sums[MOST_SUMS * VL];
    complete(4, 4, 0, sums, scan, &scan->h, from + r0, rows, r0, n, p0, panels);
    EACH_PLACE(4)
    {
        vec f = v_activate(gate, v_load(sum)), i_ = v_activate(gate, v_load(sum + VL));
        vec c = v_activate(scan->activation, v_load(sum + 3 * VL));
        vec h = v_fma(f, load_units(from[row], unit, hidden), v_mul(i_, c));
        if (output_gate) {
            v_store(rows->scratch[row] + unit, h);
            h = v_mul(v_activate(gate, v_load(sum + 2 * VL)), h);
        }
        store_units(rows->out[row], unit, hidden, h);
    }
}

static void three_gate_tile(const void *what, const void *given, int r0, int n, int p0, int panels)
{
    three_gate(0, what, given, r0, n, p0, panels);
}

static void three_gate_output_tile(const void *what, const void *given, int r0, int n, int p0, int panels)
{
    three_gate(1, what, given, r0, n, p0, panels);
}

static void keep_own_tile(const void *what, const void *given, int r0, int n, int p0, int panels)
{
    const cgru_scan *scan = what;
    const cgru_rows *rows = given;
    for (int r = r0; r < r0 + n; r++) {
        for (int unit = p0 * VL; unit < (p0 + panels) * VL; unit += VL)
            store_units(rows->own[r], unit, scan->hidden, v_load(rows->scratch[r] + unit));
    }
}

/* z = σ(sum), n = φ(sum), from the input alone. */
static void min_gru_tile(const void *what, const void *given, int r0, int n, int p0, int panels)
{
    const cgru_scan *scan = what;
    const cgru_rows *rows = given;
    float sums[MOST_SUMS * VL];
    complete(2, 2, 0, sums, scan, NULL, NULL, rows, r0, n, p0, panels);
    EACH_PLACE(2)
    {
        vec z = v_activate(scan->recurrent_activation, v_load(sum)), c = v_activate(scan->activation, v_load(sum + VL));
        store_units(rows->out[row], unit, scan->hidden, interpolate(z, load_units(rows->h[row], unit, scan->hidden), c));
    }
}

static ptrdiff_t panel_bytes(const cgru_matrix *m)
{
    return (ptrdiff_t)m->inner * m->gates * VL * (ptrdiff_t)sizeof(float);
}

/* A cell's step: the tile of each phase, and how many sums a unit has in it. */
#define STEP_OF(CELL, TILE, G)                                                                                         \
    static void NAME(cgru_##CELL##_f32)(const cgru_scan *scan, const cgru_rows *rows, int phase, int p0, int p1)       \
    {                                                                                                                  \
        (void)phase;                                                                                                   \
        each_tile(TILE, scan, rows, G, rows->n, p0, p1, rows->backwards, panel_bytes(&scan->h));                       \
    }
#define STEPS_OF(CELL, TILE, G, SECOND)                                                                                \
    static void NAME(cgru_##CELL##_f32)(const cgru_scan *scan, const cgru_rows *rows, int phase, int p0, int p1)       \
    {                                                                                                                  \
        if (phase == 0) each_tile(TILE, scan, rows, G, rows->n, p0, p1, rows->backwards, panel_bytes(&scan->h));       \
        else each_tile(SECOND, scan, rows, 1, rows->n, p0, p1, rows->backwards, 0);                                    \
    }
STEP_OF(gru_after, gru_after_tile, 3)
STEPS_OF(gru_before, gru_before_gates_tile, 2, gru_before_candidate_tile)
STEP_OF(rnn, rnn_tile, 1)
STEP_OF(lstm, lstm_tile, 4)
STEP_OF(lstm_peephole, lstm_peephole_tile, 4)
STEPS_OF(lstm_projected, lstm_projected_tile, 4, projection_tile)
STEP_OF(three_gate, three_gate_tile, 4)
STEPS_OF(three_gate_output, three_gate_output_tile, 4, keep_own_tile)
STEP_OF(min_gru, min_gru_tile, 2)
STEPS_OF(mgu, mgu_gate_tile, 1, mgu_candidate_tile)

/* name, gates, recurrent, phases, projects, apart, vectors, states, step */
static const cgru_cell NAME(cgru_cells)[] = {
    {"gru_reset_after", 3, 3, 1, 0, 1, 1, 1, NAME(cgru_gru_after_f32)},
    {"gru_reset_before", 3, 2, 2, 0, 0, 0, 1, NAME(cgru_gru_before_f32)},
    {"rnn", 1, 1, 1, 0, 0, 0, 1, NAME(cgru_rnn_f32)},
    {"lstm", 4, 4, 1, 0, 0, 0, 2, NAME(cgru_lstm_f32)},
    {"lstm_peephole", 4, 4, 1, 0, 0, 3, 2, NAME(cgru_lstm_peephole_f32)},
    {"lstm_projected", 4, 4, 2, 1, 0, 0, 2, NAME(cgru_lstm_projected_f32)},
    {"three_gate", 4, 4, 1, 0, 0, 0, 1, NAME(cgru_three_gate_f32)},
    {"three_gate_output", 4, 4, 2, 0, 0, 0, 2, NAME(cgru_three_gate_output_f32)},
    {"min_gru", 2, 0, 1, 0, 0, 0, 1, NAME(cgru_min_gru_f32)},
    {"mgu", 2, 1, 2, 0, 0, 0, 1, NAME(cgru_mgu_f32)},
};

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
    NAME(cgru_cells),
    sizeof NAME(cgru_cells) / sizeof NAME(cgru_cells)[0],
    NAME(cgru_activate_f32),
};
