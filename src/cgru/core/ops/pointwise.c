/* Functions of each number by itself, bounds, and a choice between two values. */
#include <math.h>

#include "ops.h"

/* The order of cgru.spec.operations.pointwise.UNARY. */
enum {
    ABS, CEIL, COS, ERF, EXP, FLOOR, LOG, NEG, NOT, RECIPROCAL, ROUND, SIGN, SIN, SQRT, ACOS, ACOSH, ASIN, ASINH, ATAN, ATANH,
    COSH, SINH, TAN, ISNAN, FUNCTIONS
};

#define EACH(expression)                \
    for (int i = 0; i < n; i++) {       \
        const float v = x[i];           \
        y[i] = (expression);            \
    }                                   \
    break

static void apply(int kind, float *restrict y, const float *restrict x, int n)
{
    switch (kind) {
    case ABS: EACH(fabsf(v));
    case CEIL: EACH(ceilf(v));
    case COS: EACH(cosf(v));
    case ERF: EACH(erff(v));
    case EXP: EACH(expf(v));
    case FLOOR: EACH(floorf(v));
    case LOG: EACH(logf(v));
    case NEG: EACH(-v);
    case NOT: EACH(v == 0.0f ? 1.0f : 0.0f);
    case RECIPROCAL: EACH(1.0f / v);
    case ROUND: EACH(rintf(v)); /* halves to the even number */
    case SIGN: EACH(v > 0.0f ? 1.0f : v < 0.0f ? -1.0f : v);
    case SIN: EACH(sinf(v));
    case SQRT: EACH(sqrtf(v));
    case ACOS: EACH(acosf(v));
    case ACOSH: EACH(acoshf(v));
    case ASIN: EACH(asinf(v));
    case ASINH: EACH(asinhf(v));
    case ATAN: EACH(atanf(v));
    case ATANH: EACH(atanhf(v));
    case COSH: EACH(coshf(v));
    case SINH: EACH(sinhf(v));
    case TAN: EACH(tanf(v));
    default: EACH(v != v ? 1.0f : 0.0f);
    }
}

static void run_unary(const cgru_job *job)
{
    const int n = job->graph->values[job->node->out].size;
    for (int r = 0; r < job->rows; r++) {
        for (int64_t f = 0; f < job->frames; f++)
            apply(job->node->kind, cgru_frame(&job->out, r, f), cgru_frame(&job->in[0], r, f), n);
    }
}

static int same_size(const cgru_graph *g, const cgru_gnode *node)
{
    const cgru_value *x = cgru_input_of(g, node, 0);
    return x && x->content == CGRU_FEATURES && x->size == g->values[node->out].size;
}

static int check_unary(const cgru_graph *g, const cgru_gnode *node)
{
    return same_size(g, node) && node->kind >= 0 && node->kind < FUNCTIONS;
}

const cgru_op cgru_op_unary = {"unary", 0, 0, check_unary, run_unary};

/* Activations with the parameters real[0] and real[1]: the order of cgru.spec.activations.PARAMETRIC. */
enum {
    AFFINE, CELU, ELU_ALPHA, HARD_SHRINK, HARD_SIGMOID_LINE, LEAKY_RELU, SCALED_TANH, SOFT_SHRINK, SOFTPLUS_BETA, THRESHOLD,
    THRESHOLDED_RELU, SHAPES
};

/* Comparisons with NaN go the way they go in the table's equations. */
static void shape(int kind, float a, float b, float *restrict y, const float *restrict x, int n)
{
    switch (kind) {
    case AFFINE: EACH(a * v + b);
    case CELU: EACH(v > 0.0f ? v : a * expm1f(v / a));
    case ELU_ALPHA: EACH(v >= 0.0f ? v : a * expm1f(v));
    case HARD_SHRINK: EACH(fabsf(v) <= a ? 0.0f : v);
    case HARD_SIGMOID_LINE: EACH(a * v + b < 0.0f ? 0.0f : a * v + b > 1.0f ? 1.0f : a * v + b);
    case LEAKY_RELU: EACH(v >= 0.0f ? v : a * v);
    case SCALED_TANH: EACH(a * tanhf(b * v));
    case SOFT_SHRINK: EACH(v > a ? v - a : v < -a ? v + a : v != v ? v : 0.0f);
    case SOFTPLUS_BETA: EACH(((a * v > 0.0f ? a * v : 0.0f) + log1pf(expf(-fabsf(a * v)))) / a);
    case THRESHOLD: EACH(v <= a ? b : v);
    default: EACH(v >= a ? v : 0.0f);
    }
}

static void run_parametric(const cgru_job *job)
{
    const cgru_gnode *node = job->node;
    for (int r = 0; r < job->rows; r++) {
        for (int64_t f = 0; f < job->frames; f++)
            shape(node->kind, node->real[0], node->real[1], cgru_frame(&job->out, r, f), cgru_frame(&job->in[0], r, f),
                  job->graph->values[node->out].size);
    }
}

static int check_parametric(const cgru_graph *g, const cgru_gnode *node)
{
    return same_size(g, node) && node->kind >= 0 && node->kind < SHAPES;
}

const cgru_op cgru_op_parametric = {"parametric", 0, 0, check_parametric, run_parametric};

/* real: low, high. NaN stays. */
static void run_clip(const cgru_job *job)
{
    const float low = job->node->real[0], high = job->node->real[1];
    const int n = job->graph->values[job->node->out].size;
    for (int r = 0; r < job->rows; r++) {
        for (int64_t f = 0; f < job->frames; f++) {
            const float *restrict x = cgru_frame(&job->in[0], r, f);
            float *restrict y = cgru_frame(&job->out, r, f);
            for (int i = 0; i < n; i++) {
                float v = x[i] < low ? low : x[i];
                y[i] = v > high ? high : v;
            }
        }
    }
}

const cgru_op cgru_op_clip = {"clip", 0, 0, same_size, run_clip};

/* vector[0]: a slope a channel; number: channels, numbers of a channel side by side. */
static void run_prelu(const cgru_job *job)
{
    const cgru_gnode *node = job->node;
    const int n = job->graph->values[node->out].size, channels = node->number[0], inner = node->number[1];
    for (int r = 0; r < job->rows; r++) {
        for (int64_t f = 0; f < job->frames; f++) {
            const float *restrict x = cgru_frame(&job->in[0], r, f);
            float *restrict y = cgru_frame(&job->out, r, f);
            for (int i = 0, c = 0; i < n; i += inner, c = c + 1 == channels ? 0 : c + 1) {
                const float slope = node->vector[0][c];
                for (int k = i; k < i + inner; k++) y[k] = x[k] < 0.0f ? slope * x[k] : x[k];
            }
        }
    }
}

static int check_prelu(const cgru_graph *g, const cgru_gnode *node)
{
    const cgru_value *x = cgru_input_of(g, node, 0);
    return same_size(g, node) && node->vector[0] && node->number[0] > 0 && node->number[1] > 0 &&
           x->size % ((int64_t)node->number[0] * node->number[1]) == 0;
}

const cgru_op cgru_op_prelu = {"prelu", 0, 0, check_prelu, run_prelu};

/* in: condition, a, b; size: axes of the result's frame; stride: of their numbers along them. */
static void run_where(const cgru_job *job)
{
    const cgru_gnode *node = job->node;
    const int *n = node->size, *sc = node->stride[0], *sa = node->stride[1], *sb = node->stride[2];
    for (int r = 0; r < job->rows; r++) {
        for (int64_t f = 0; f < job->frames; f++) {
            const float *c = cgru_frame(&job->in[0], r, f), *a = cgru_frame(&job->in[1], r, f);
            const float *b = cgru_frame(&job->in[2], r, f);
            float *restrict y = cgru_frame(&job->out, r, f);
            for (int i = 0; i < n[0]; i++) {
                for (int j = 0; j < n[1]; j++) {
                    for (int k = 0; k < n[2]; k++) {
                        const float *ck = c + i * sc[0] + j * sc[1] + k * sc[2], *ak = a + i * sa[0] + j * sa[1] + k * sa[2];
                        const float *bk = b + i * sb[0] + j * sb[1] + k * sb[2];
                        for (int l = 0; l < n[3]; l++) *y++ = ck[l * sc[3]] != 0.0f ? ak[l * sa[3]] : bk[l * sb[3]];
                    }
                }
            }
        }
    }
}

static int check_where(const cgru_graph *g, const cgru_gnode *node)
{
    for (int k = 0; k < 3; k++) {
        const cgru_value *x = cgru_input_of(g, node, k);
        if (!x || x->content != CGRU_FEATURES || !cgru_strides_fit(node->size, node->stride[k], 0, x->size)) return 0;
    }
    return cgru_walked(node->size) == g->values[node->out].size;
}

const cgru_op cgru_op_where = {"where", 0, 0, check_where, run_where};
