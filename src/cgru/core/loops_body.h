/* The loops of loops.h, written once and compiled once for each instruction set: a file isa/loops_*.c defines ISA and
 * includes its vector primitives, then this. Loops in plain C are for the compiler to vectorize. */
#include <math.h>
#include <string.h>

#include "exp_of.h"
#include "loops.h"

#define JOIN_(a, b, c) a##_##b##_##c
#define JOIN(a, b, c) JOIN_(a, b, c)
#define INLINE static inline __attribute__((always_inline))
#ifdef __clang__
#define UNROLL _Pragma("clang loop unroll(full)")
#else
#define UNROLL _Pragma("GCC unroll 16")
#endif

/* ---- each number by itself ------------------------------------------------------------------------------------------ */

/* NaN where either is, as numpy has it. */
INLINE float least(float a, float b) { return a != a ? a : b != b ? b : a < b ? a : b; }
INLINE float largest(float a, float b) { return a != a ? a : b != b ? b : a > b ? a : b; }

#define PAIRS(expression)                                                                                              \
    for (int i = 0; i < n; i++) {                                                                                      \
        const float p = a[i * da], q = b[i * db];                                                                      \
        y[i] = (expression);                                                                                           \
    }                                                                                                                  \
    break

INLINE void combine_along(int kind, float *restrict y, const float *a, const float *b, int n, const int da, const int db)
{
    switch (kind) {
    case CGRU_PAIR_ADD: PAIRS(p + q);
    case CGRU_PAIR_SUB: PAIRS(p - q);
    case CGRU_PAIR_MUL: PAIRS(p * q);
    case CGRU_PAIR_DIV: PAIRS(p / q);
    case CGRU_PAIR_MINIMUM: PAIRS(least(p, q));
    case CGRU_PAIR_MAXIMUM: PAIRS(largest(p, q));
    case CGRU_PAIR_AVERAGE: PAIRS((p + q) * 0.5f);
    case CGRU_PAIR_POWER: PAIRS(powf(p, q));
    case CGRU_PAIR_LESS: PAIRS(p < q ? 1.0f : 0.0f);
    case CGRU_PAIR_LESS_EQUAL: PAIRS(p <= q ? 1.0f : 0.0f);
    case CGRU_PAIR_EQUAL: PAIRS(p == q ? 1.0f : 0.0f);
    default: PAIRS(atan2f(p, q));
    }
}

static void combine(int kind, float *y, const float *a, const float *b, int n, int da, int db)
{
    if (da == 1 && db == 1) combine_along(kind, y, a, b, n, 1, 1);
    else if (da == 1 && db == 0) combine_along(kind, y, a, b, n, 1, 0);
    else if (da == 0 && db == 1) combine_along(kind, y, a, b, n, 0, 1);
    else combine_along(kind, y, a, b, n, da, db);
}

#define EACH(expression)                                                                                               \
    for (int i = 0; i < n; i++) {                                                                                      \
        const float v = x[i];                                                                                          \
        y[i] = (expression);                                                                                           \
    }                                                                                                                  \
    break

static void unary(int kind, float *restrict y, const float *restrict x, int n)
{
    switch (kind) {
    case CGRU_ABS: EACH(fabsf(v));
    case CGRU_CEIL: EACH(ceilf(v));
    case CGRU_COS: EACH(cosf(v));
    case CGRU_ERF: EACH(erff(v));
    case CGRU_EXP: EACH(expf(v));
    case CGRU_FLOOR: EACH(floorf(v));
    case CGRU_LOG: EACH(logf(v));
    case CGRU_NEG: EACH(-v);
    case CGRU_NOT: EACH(v == 0.0f ? 1.0f : 0.0f);
    case CGRU_RECIPROCAL: EACH(1.0f / v);
    case CGRU_ROUND: EACH(rintf(v)); /* halves to the even number */
    case CGRU_SIGN: EACH(v > 0.0f ? 1.0f : v < 0.0f ? -1.0f : v);
    case CGRU_SIN: EACH(sinf(v));
    case CGRU_SQRT: EACH(sqrtf(v));
    case CGRU_ACOS: EACH(acosf(v));
    case CGRU_ACOSH: EACH(acoshf(v));
    case CGRU_ASIN: EACH(asinf(v));
    case CGRU_ASINH: EACH(asinhf(v));
    case CGRU_ATAN: EACH(atanf(v));
    case CGRU_ATANH: EACH(atanhf(v));
    case CGRU_COSH: EACH(coshf(v));
    case CGRU_SINH: EACH(sinhf(v));
    case CGRU_TAN: EACH(tanf(v));
    case CGRU_ISNAN: EACH(v != v ? 1.0f : 0.0f);
    case CGRU_LOG1P: EACH(log1pf(v));
    default: EACH(expm1f(v));
    }
}

/* Comparisons with NaN go the way they go in the table's equations. */
static void parametric(int kind, float a, float b, float *restrict y, const float *restrict x, int n)
{
    switch (kind) {
    case CGRU_AFFINE: EACH(a * v + b);
    case CGRU_CELU: EACH(v > 0.0f ? v : a * expm1f(v / a));
    case CGRU_ELU_ALPHA: EACH(v >= 0.0f ? v : a * expm1f(v));
    case CGRU_HARD_SHRINK: EACH(fabsf(v) <= a ? 0.0f : v);
    case CGRU_HARD_SIGMOID_LINE: EACH(a * v + b < 0.0f ? 0.0f : a * v + b > 1.0f ? 1.0f : a * v + b);
    case CGRU_LEAKY_RELU: EACH(v >= 0.0f ? v : a * v);
    case CGRU_SCALED_TANH: EACH(a * tanhf(b * v));
    case CGRU_SOFT_SHRINK: EACH(v > a ? v - a : v < -a ? v + a : v != v ? v : 0.0f);
    case CGRU_SOFTPLUS_BETA: EACH(((a * v > 0.0f ? a * v : 0.0f) + log1pf(expf(-fabsf(a * v)))) / a);
    case CGRU_THRESHOLD: EACH(v <= a ? b : v);
    default: EACH(v >= a ? v : 0.0f);
    }
}

static void clip(float *restrict y, const float *restrict x, float low, float high, int n)
{
    for (int i = 0; i < n; i++) {
        const float v = x[i] < low ? low : x[i];
        y[i] = v > high ? high : v;
    }
}

static void rectify(float *restrict y, const float *restrict x, float slope, int n)
{
    for (int i = 0; i < n; i++) y[i] = x[i] < 0.0f ? slope * x[i] : x[i];
}

static void rectify_each(float *restrict y, const float *restrict x, const float *restrict slope, int n)
{
    for (int i = 0; i < n; i++) y[i] = x[i] < 0.0f ? slope[i] * x[i] : x[i];
}

static void rescale(float *restrict y, const float *restrict x, float scale, float shift, int n)
{
    for (int i = 0; i < n; i++) y[i] = x[i] * scale + shift;
}

static void rescale_each(float *restrict y, const float *restrict x, const float *restrict scale,
                         const float *restrict shift, int n)
{
    for (int i = 0; i < n; i++) y[i] = x[i] * scale[i] + shift[i];
}

static void standardise(float *restrict y, const float *restrict x, float mean, float factor, float weight, float bias, int n)
{
    for (int i = 0; i < n; i++) y[i] = (x[i] - mean) * factor * weight + bias;
}

static void standardise_each(float *restrict y, const float *restrict x, float mean, float factor, const float *weight,
                             const float *bias, int n)
{
    if (weight && bias) for (int i = 0; i < n; i++) y[i] = (x[i] - mean) * factor * weight[i] + bias[i];
    else if (weight) for (int i = 0; i < n; i++) y[i] = (x[i] - mean) * factor * weight[i];
    else if (bias) for (int i = 0; i < n; i++) y[i] = (x[i] - mean) * factor + bias[i];
    else for (int i = 0; i < n; i++) y[i] = (x[i] - mean) * factor;
}

/* ---- products of vectors, and their sums ------------------------------------------------------------------------------ */

#define PARTS (CGRU_LANES / VL)
#define PRODUCTS (VL > 4 ? 4 : 2) /* at once: each is a chain of additions that waits for itself */
#define SUMMED 8                  /* vectors of a weighted sum that stay in registers */

/* The first n numbers, at most a vector of them, and zeros behind. */
INLINE vec load_first(const float *p, int n)
{
    return n >= VL ? v_load(p) : n > 0 ? v_load_part(p, n) : v_set(0.0f);
}

/* sums[j][i mod CGRU_LANES] += x[i] · k[j][i], in order of i. */
INLINE void add_products_tile(const int count, vec *sums, const float *x, const float *k, ptrdiff_t next, int n)
{
    int i = 0;
    for (; i + CGRU_LANES <= n; i += CGRU_LANES) {
        UNROLL for (int j = 0; j < count * PARTS; j++)
        {
            const int at = i + j % PARTS * VL;
            sums[j] = v_add(sums[j], v_mul(v_load(x + at), v_load(k + j / PARTS * next + at)));
        }
    }
    if (i == n) return;
    UNROLL for (int j = 0; j < count * PARTS; j++)
    {
        const int at = i + j % PARTS * VL;
        sums[j] = v_add(sums[j], v_mul(load_first(x + at, n - at), load_first(k + j / PARTS * next + at, n - at)));
    }
}

static void add_products(float *sums, const float *a, const float *b, int n)
{
    vec s[PARTS];
    UNROLL for (int p = 0; p < PARTS; p++) s[p] = v_load(sums + p * VL);
    add_products_tile(1, s, a, b, 0, n);
    UNROLL for (int p = 0; p < PARTS; p++) v_store(sums + p * VL, s[p]);
}

INLINE void products_tile(const int count, float *y, const float *x, const float *k, ptrdiff_t next, int n)
{
    vec sums[PRODUCTS * PARTS];
    UNROLL for (int j = 0; j < count * PARTS; j++) sums[j] = v_set(0.0f);
    add_products_tile(count, sums, x, k, next, n);
    UNROLL for (int j = 0; j < count; j++)
    {
        vec *s = sums + j * PARTS;
        UNROLL for (int half = PARTS / 2; half > 0; half /= 2) {
            UNROLL for (int p = 0; p < half; p++) s[p] = v_add(s[p], s[p + half]);
        }
        y[j] = v_sum(s[0]);
    }
}

static void products(float *y, const float *x, const float *k, ptrdiff_t next, int count, int n)
{
    int j = 0;
    for (; j + PRODUCTS <= count; j += PRODUCTS) products_tile(PRODUCTS, y + j, x, k + j * next, next, n);
    for (; j < count; j++) products_tile(1, y + j, x, k + j * next, next, n);
}

static void add_scaled(float *restrict y, const float *restrict x, float weight, int n)
{
    for (int i = 0; i < n; i++) y[i] += weight * x[i];
}

static void add_weighted(float *y, const float *v, ptrdiff_t next, const float *weight, int count, int n)
{
    int i = 0;
    for (; i + SUMMED * VL <= n; i += SUMMED * VL) {
        vec sums[SUMMED];
        UNROLL for (int p = 0; p < SUMMED; p++) sums[p] = v_load(y + i + p * VL);
        for (int j = 0; j < count; j++) {
            const vec w = v_set(weight[j]);
            UNROLL for (int p = 0; p < SUMMED; p++) sums[p] = v_add(sums[p], v_mul(w, v_load(v + j * next + i + p * VL)));
        }
        UNROLL for (int p = 0; p < SUMMED; p++) v_store(y + i + p * VL, sums[p]);
    }
    for (int j = 0; i < n && j < count; j++) add_scaled(y + i, v + j * next + i, weight[j], n - i);
}

/* ---- sums ------------------------------------------------------------------------------------------------------------ */

/* Sum number j takes every eighth term from the j-th on; then they are added by halves. Written in vectors: of eight plain
 * sums gcc 12 makes scalars. */
#define SUMS 8
#define WIDTH (VL / 2) /* numbers of double precision in a vector */
typedef double wide __attribute__((vector_size(8 * WIDTH)));
typedef float narrow __attribute__((vector_size(4 * WIDTH)));
typedef int32_t narrow_bits __attribute__((vector_size(4 * WIDTH)));
#define WIDE(v) __builtin_convertvector(v, wide)

/* terms: of WIDTH numbers v; term: of one. */
#define EIGHT_SUMS(terms, term)                                                                                        \
    wide whole[SUMS / WIDTH] = {{0.0}};                                                                                \
    double sums[SUMS];                                                                                                 \
    int i = 0;                                                                                                         \
    for (; i + SUMS <= n; i += SUMS) {                                                                                 \
        UNROLL for (int p = 0; p < SUMS / WIDTH; p++)                                                                  \
        {                                                                                                              \
            narrow v;                                                                                                  \
            memcpy(&v, x + i + p * WIDTH, sizeof v);                                                                   \
            whole[p] += (terms);                                                                                       \
        }                                                                                                              \
    }                                                                                                                  \
    memcpy(sums, whole, sizeof sums);                                                                                  \
    for (int j = 0; i < n; i++, j++) {                                                                                 \
        const float v = x[i];                                                                                          \
        sums[j] += (term);                                                                                             \
    }                                                                                                                  \
    for (int half = SUMS / 2; half > 0; half /= 2) {                                                                   \
        for (int j = 0; j < half; j++) sums[j] += sums[j + half];                                                      \
    }                                                                                                                  \
    return sums[0];

static double sum(const float *x, int n) { EIGHT_SUMS(WIDE(v), (double)v) }
static double sum_size(const float *x, int n) { EIGHT_SUMS(WIDE((narrow)((narrow_bits)v & 0x7fffffff)), (double)fabsf(v)) }
static double sum_squares(const float *x, float mean, int n)
{
    EIGHT_SUMS(WIDE(v - mean) * WIDE(v - mean), (double)(v - mean) * (v - mean))
}

static double sum_exps(const float *x, float top, int n)
{
    float piece[64];
    double total = 0.0;
    for (int at = 0; at < n; at += 64) {
        const int count = n - at < 64 ? n - at : 64;
        for (int i = 0; i < count; i++) piece[i] = exp_of(x[at + i] - top);
        total += sum(piece, count);
    }
    return total;
}

static float largest_of(const float *x, int n, int *numbers)
{
    float lanes[VL];
    vec most = v_set(-INFINITY);
    int wrong = 0;
    for (int i = 0; i < n; i++) wrong |= x[i] != x[i];
    for (int i = 0; i + VL <= n; i += VL) most = v_max(v_load(x + i), most);
    if (n >= VL) most = v_max(v_load(x + n - VL), most); /* those left, and some again */
    v_store(lanes, most);
    for (int i = 0; n < VL && i < n; i++) lanes[i] = x[i];
    for (int half = VL / 2; half > 0; half /= 2) {
        for (int l = 0; l < half; l++) lanes[l] = lanes[l] > lanes[l + half] ? lanes[l] : lanes[l + half];
    }
    *numbers = !wrong;
    return lanes[0];
}

/* ---- moves ------------------------------------------------------------------------------------------------------------ */

/* The innermost loop runs along the axis whose numbers lie side by side in x where that is longer than the result's last. */
static void copy(float *restrict y, const float *restrict x, const int *size, const int *stride)
{
    if (stride[3] != 1) {
        ptrdiff_t step[4] = {0, 0, 0, 1};
        for (int i = 2; i >= 0; i--) step[i] = step[i + 1] * size[i + 1];
        for (int along = 0; along < 3; along++) {
            if (stride[along] != 1 || size[along] <= size[3]) continue;
            const int a = along == 0 ? 1 : 0, b = along == 2 ? 1 : 2, n = size[along];
            const ptrdiff_t apart = step[along];
            for (int i = 0; i < size[a]; i++) {
                for (int j = 0; j < size[b]; j++) {
                    for (int k = 0; k < size[3]; k++) {
                        float *to = y + i * step[a] + j * step[b] + k;
                        const float *from = x + (ptrdiff_t)i * stride[a] + (ptrdiff_t)j * stride[b] + (ptrdiff_t)k * stride[3];
                        for (int l = 0; l < n; l++) to[l * apart] = from[l];
                    }
                }
            }
            return;
        }
    }
    const int n = size[3];
    for (int i = 0; i < size[0]; i++) {
        for (int j = 0; j < size[1]; j++) {
            for (int k = 0; k < size[2]; k++, y += n) {
                const float *from = x + (ptrdiff_t)i * stride[0] + (ptrdiff_t)j * stride[1] + (ptrdiff_t)k * stride[2];
                if (stride[3] == 1) for (int l = 0; l < n; l++) y[l] = from[l];
                else for (int l = 0; l < n; l++) y[l] = from[(ptrdiff_t)l * stride[3]];
            }
        }
    }
}

static void gather(float *restrict y, const float *restrict x, const float *restrict index, float fill, int n)
{
    for (int i = 0; i < n; i++) y[i] = index[i] < 0.0f ? fill : x[(int)index[i]];
}

/* ---- convolutions ----------------------------------------------------------------------------------------------------- */

#define UNITS 4   /* of a tile */
#define VECTORS 3 /* of places */

/* `U` units from unit o of group g on, `V` vectors of places of one row: the bias, then channel by channel its taps. */
INLINE void convolution_tile(const int U, const int V, const cgru_convolution *c, int g, int o, int row, int place)
{
    const int made = c->units / c->groups, own = c->channels / c->groups;
    const float *weights[UNITS];
    vec acc[UNITS * VECTORS];
    UNROLL for (int u = 0; u < U; u++)
    {
        weights[u] = c->weights + g * c->of_group + (o + u) * c->of_unit;
        UNROLL for (int p = 0; p < V; p++) acc[u * V + p] = v_set(c->bias ? c->bias[g * made + o + u] : 0.0f);
    }
    const ptrdiff_t first = g * own * c->channel + row * c->row + place;
    for (int k = 0; k < own; k++) {
        for (int t = 0; t < c->taps; t++) {
            const float *x = c->input[t] + first + k * c->channel;
            const ptrdiff_t at = c->weight[t] + k * c->of_channel;
            vec in[VECTORS];
            UNROLL for (int p = 0; p < V; p++) in[p] = v_load(x + p * VL);
            UNROLL for (int u = 0; u < U; u++)
            {
                const vec w = v_set(weights[u][at]);
                UNROLL for (int p = 0; p < V; p++) acc[u * V + p] = v_fma(w, in[p], acc[u * V + p]);
            }
        }
    }
    UNROLL for (int u = 0; u < U; u++)
    {
        float *y = c->y + ((ptrdiff_t)(g * made + o + u) * c->rows + row) * c->places + place;
        UNROLL for (int p = 0; p < V; p++)
        {
            const int left = c->places - place - p * VL;
            if (left >= VL) v_store(y + p * VL, acc[u * V + p]);
            else v_store_part(y + p * VL, acc[u * V + p], left);
        }
    }
}

#define TILE(U, V)                                                                                                     \
    case (U) * 4 + (V): convolution_tile(U, V, c, g, o, row, place); break;

static void convolve(const cgru_convolution *c)
{
    const int made = c->units / c->groups, vectors = (c->places + VL - 1) / VL;
    for (int g = 0; g < c->groups; g++) {
        for (int o = 0; o < made; o += UNITS) {
            const int units = made - o < UNITS ? made - o : UNITS;
            for (int row = 0; row < c->rows; row++) {
                for (int v = 0; v < vectors; v += VECTORS) {
                    const int place = v * VL, some = vectors - v < VECTORS ? vectors - v : VECTORS;
                    switch (units * 4 + some) {
                        TILE(1, 1) TILE(1, 2) TILE(1, 3) TILE(2, 1) TILE(2, 2) TILE(2, 3)
                        TILE(3, 1) TILE(3, 2) TILE(3, 3) TILE(4, 1) TILE(4, 2) TILE(4, 3)
                    }
                }
            }
        }
    }
}

#define FRAMES 4 /* side by side: their sums are chains of their own */

/* `count` frames of a vector of channels, `left` of them. */
INLINE void depthwise_tile(const int count, float *y, ptrdiff_t out, const float *x, ptrdiff_t stride, ptrdiff_t tap,
                           const float *weights, const float *bias, int width, int n, int left)
{
    vec acc[FRAMES];
    const int whole = left >= VL;
    const vec start = !bias ? v_set(0.0f) : whole ? v_load(bias) : v_load_part(bias, left);
    UNROLL for (int f = 0; f < count; f++) acc[f] = start;
    for (int k = 0; k < width; k++) {
        const float *at = weights + (ptrdiff_t)k * n;
        const vec w = whole ? v_load(at) : v_load_part(at, left);
        UNROLL for (int f = 0; f < count; f++)
        {
            const float *from = x + f * stride + k * tap;
            acc[f] = v_fma(w, whole ? v_load(from) : v_load_part(from, left), acc[f]);
        }
    }
    UNROLL for (int f = 0; f < count; f++)
    {
        if (whole) v_store(y + f * out, acc[f]);
        else v_store_part(y + f * out, acc[f], left);
    }
}

static void depthwise(float *y, ptrdiff_t out, const float *x, ptrdiff_t stride, ptrdiff_t tap, const float *weights,
                      const float *bias, int width, int n, int64_t frames)
{
    for (int i = 0; i < n; i += VL) {
        const float *b = bias ? bias + i : NULL;
        int64_t f = 0;
        for (; f + FRAMES <= frames; f += FRAMES)
            depthwise_tile(FRAMES, y + f * out + i, out, x + f * stride + i, stride, tap, weights + i, b, width, n, n - i);
        for (; f < frames; f++)
            depthwise_tile(1, y + f * out + i, out, x + f * stride + i, stride, tap, weights + i, b, width, n, n - i);
    }
}

const cgru_loops JOIN(cgru, loops, ISA) = {
    .combine = combine,
    .unary = unary,
    .parametric = parametric,
    .clip = clip,
    .rectify = rectify,
    .rectify_each = rectify_each,
    .rescale = rescale,
    .rescale_each = rescale_each,
    .standardise = standardise,
    .standardise_each = standardise_each,
    .sum = sum,
    .sum_size = sum_size,
    .sum_squares = sum_squares,
    .add_products = add_products,
    .products = products,
    .add_scaled = add_scaled,
    .add_weighted = add_weighted,
    .largest = largest_of,
    .sum_exps = sum_exps,
    .copy = copy,
    .gather = gather,
    .convolve = convolve,
    .depthwise = depthwise,
};
