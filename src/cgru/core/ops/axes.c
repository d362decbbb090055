/* Operations along some axes of a frame: one number of many, softmax, normalisation, products of matrices, numbers by index. */
#include <math.h>
#include <string.h>

#include "ops.h"

/* ---- one of many -------------------------------------------------------------------------------------------------- */

/* size and stride[0]: axes that stay; number[0..3] and stride[1]: axes that are gone over. */
#define OVER_KEPT(base)                                                                                                \
    for (int i_ = 0; i_ < node->size[0]; i_++)                                                                         \
        for (int j_ = 0; j_ < node->size[1]; j_++)                                                                     \
            for (int k_ = 0; k_ < node->size[2]; k_++)                                                                 \
                for (int l_ = 0, base = i_ * kept[0] + j_ * kept[1] + k_ * kept[2]; l_ < node->size[3]; l_++, base += kept[3])
#define OVER_GONE(base, at)                                                                                            \
    for (int a_ = 0; a_ < node->number[0]; a_++)                                                                       \
        for (int b_ = 0; b_ < node->number[1]; b_++)                                                                   \
            for (int c_ = 0; c_ < node->number[2]; c_++)                                                               \
                for (int d_ = 0, at = base + a_ * gone[0] + b_ * gone[1] + c_ * gone[2]; d_ < node->number[3]; d_++, at += gone[3])

/* The order of cgru.spec.operations.axes' table of reductions. */
enum { MEAN, SUM, LARGEST, SMALLEST, PRODUCT, L1, L2, SUM_SQUARE, LOG_SUM, LOG_SUM_EXP, REDUCTIONS };

/* The numbers gone over that lie side by side are summed eight at a time. */
static double summed(const cgru_loops *loops, int kind, const float *x, int n)
{
    return kind == L1 ? loops->sum_size(x, n) : kind == L2 || kind == SUM_SQUARE ? loops->sum_squares(x, 0.0f, n) : loops->sum(x, n);
}

static float reduced(const cgru_loops *loops, const cgru_gnode *node, const float *x, int base)
{
    const int *gone = node->stride[1], kind = node->kind;
    double sum = kind == PRODUCT ? 1.0 : 0.0;
    float top = kind == SMALLEST ? INFINITY : -INFINITY;
    if (kind == SMALLEST) {
        OVER_GONE(base, at) top = cgru_smaller(top, x[at]);
        return top;
    }
    if (kind == LARGEST || kind == LOG_SUM_EXP) {
        OVER_GONE(base, at) top = cgru_larger(top, x[at]);
        if (kind == LARGEST) return top;
        if (!(fabsf(top) < INFINITY)) top = 0.0f;
    }
    switch (kind) {
    case PRODUCT: OVER_GONE(base, at) sum *= x[at]; break;
    case LOG_SUM_EXP: OVER_GONE(base, at) sum += expf(x[at] - top); break;
    default:
        if (gone[3] == 1) {
            for (int a = 0; a < node->number[0]; a++) {
                for (int b = 0; b < node->number[1]; b++) {
                    for (int c = 0; c < node->number[2]; c++)
                        sum += summed(loops, kind, x + base + a * gone[0] + b * gone[1] + c * gone[2], node->number[3]);
                }
            }
        } else if (kind == L1) {
            OVER_GONE(base, at) sum += fabsf(x[at]);
        } else if (kind == L2 || kind == SUM_SQUARE) {
            OVER_GONE(base, at) sum += (double)x[at] * x[at];
        } else {
            OVER_GONE(base, at) sum += x[at];
        }
    }
    switch (kind) {
    case MEAN: return (float)(sum / ((double)node->number[0] * node->number[1] * node->number[2] * node->number[3]));
    case L2: return (float)sqrt(sum);
    case LOG_SUM: return (float)log(sum);
    case LOG_SUM_EXP: return (float)log(sum) + top;
    default: return (float)sum;
    }
}

static void run_reduce(const cgru_job *job)
{
    const cgru_gnode *node = job->node;
    const int *kept = node->stride[0];
    for (int r = 0; r < job->rows; r++) {
        for (int64_t f = 0; f < job->frames; f++) {
            const float *x = cgru_frame(&job->in[0], r, f);
            float *y = cgru_frame(&job->out, r, f);
            OVER_KEPT(base) *y++ = reduced(job->graph->loops, node, x, base);
        }
    }
}

/* Whether the two walks together stay within a frame of so many numbers. */
static int walks_fit(const cgru_gnode *node, int numbers)
{
    int64_t last = 0;
    for (int i = 0; i < CGRU_AXES; i++) {
        if (node->size[i] < 1 || node->number[i] < 1 || node->stride[0][i] < 0 || node->stride[1][i] < 0) return 0;
        last += (int64_t)(node->size[i] - 1) * node->stride[0][i] + (int64_t)(node->number[i] - 1) * node->stride[1][i];
    }
    return last < numbers;
}

static int check_reduce(const cgru_graph *g, const cgru_gnode *node)
{
    const cgru_value *x = cgru_input_of(g, node, 0);
    return x && x->content == CGRU_FEATURES && node->kind >= 0 && node->kind < REDUCTIONS && walks_fit(node, x->size) &&
           cgru_walked(node->size) == g->values[node->out].size;
}

const cgru_op cgru_op_reduce = {"reduce", 0, 0, check_reduce, run_reduce, .share = CGRU_BY_FRAMES};

/* flag: the logarithm. */
static void run_softmax(const cgru_job *job)
{
    const cgru_gnode *node = job->node;
    const int *kept = node->stride[0], *gone = node->stride[1];
    for (int r = 0; r < job->rows; r++) {
        for (int64_t f = 0; f < job->frames; f++) {
            const float *x = cgru_frame(&job->in[0], r, f);
            float *restrict y = cgru_frame(&job->out, r, f);
            OVER_KEPT(base) {
                float top = -INFINITY, sum = 0.0f;
                OVER_GONE(base, at) top = cgru_larger(top, x[at]);
                OVER_GONE(base, at) sum += y[at] = expf(x[at] - top);
                if (node->flag) {
                    const float log_sum = logf(sum);
                    OVER_GONE(base, at) y[at] = x[at] - top - log_sum;
                } else {
                    OVER_GONE(base, at) y[at] /= sum;
                }
            }
        }
    }
}

static int check_softmax(const cgru_graph *g, const cgru_gnode *node)
{
    const cgru_value *x = cgru_input_of(g, node, 0);
    int64_t gone = 1;
    for (int i = 0; i < CGRU_AXES; i++) gone *= node->number[i];
    return x && x->content == CGRU_FEATURES && x->size == g->values[node->out].size && walks_fit(node, x->size) &&
           cgru_walked(node->size) * gone == x->size;
}

const cgru_op cgru_op_softmax = {"softmax", 0, 0, check_softmax, run_softmax, .share = CGRU_BY_FRAMES,
                                 .cost = cgru_cost_of_functions};

/* ---- normalisation ------------------------------------------------------------------------------------------------- */

/* y = (x - mean) · factor · weight + bias; weight and bias of number i are those of channel (first + i) / inner. */
static void rescale(const cgru_loops *loops, float *y, const float *x, int n, float mean, float factor, const float *weight,
                    const float *bias, int first, int inner)
{
    if (inner == 1) {
        loops->standardise_each(y, x, mean, factor, weight ? weight + first : NULL, bias ? bias + first : NULL, n);
        return;
    }
    for (int i = 0, c = first / inner; i < n; i += inner, c++)
        loops->standardise(y + i, x + i, mean, factor, weight ? weight[c] : 1.0f, bias ? bias[c] : 0.0f, inner);
}

/* Blocks of number[0] numbers, each to mean 0 (unless flag) and variance 1. vector: weight, bias, each or neither; their index
 * is that of a number within number[2] divided by number[1]. real[0]: epsilon. */
static void run_norm(const cgru_job *job)
{
    const cgru_gnode *node = job->node;
    const int n = node->number[0], inner = node->number[1], period = node->number[2];
    const int size = job->graph->values[node->out].size;
    const cgru_loops *loops = job->graph->loops;
    for (int r = 0; r < job->rows; r++) {
        for (int64_t f = 0; f < job->frames; f++) {
            const float *x = cgru_frame(&job->in[0], r, f);
            float *y = cgru_frame(&job->out, r, f);
            for (int at = 0; at < size; at += n) {
                const float mean = node->flag ? 0.0f : (float)(loops->sum(x + at, n) / n);
                const double squares = loops->sum_squares(x + at, mean, n);
                const float factor = (float)(1.0 / sqrt(squares / n + node->real[0]));
                rescale(loops, y + at, x + at, n, mean, factor, node->vector[0], node->vector[1], at % period, inner);
            }
        }
    }
}

static int check_norm(const cgru_graph *g, const cgru_gnode *node)
{
    const cgru_value *x = cgru_input_of(g, node, 0);
    const int n = node->number[0], inner = node->number[1], period = node->number[2];
    if (!x || x->content != CGRU_FEATURES || x->size != g->values[node->out].size || n < 1 || inner < 1 || period < 1) return 0;
    return x->size % n == 0 && n % inner == 0 && period % n == 0 && cgru_vector_fits(node, 0, period / inner, 1) &&
           cgru_vector_fits(node, 1, period / inner, 1);
}

const cgru_op cgru_op_norm = {"norm", 0, 0, check_norm, run_norm, .share = CGRU_BY_FRAMES};

/* The same over all frames of a row as well, in[1] says which of them count. */
static void run_norm_time(const cgru_job *job)
{
    const cgru_gnode *node = job->node;
    const int n = node->number[0], inner = node->number[1], period = node->number[2];
    const int size = job->graph->values[node->out].size;
    const cgru_loops *loops = job->graph->loops;
    for (int r = 0; r < job->rows; r++) {
        const int64_t frames = job->in_lengths ? job->in_lengths[r] : job->in_frames[0];
        for (int at = 0; at < size; at += n) {
            double sum = 0.0, squares = 0.0;
            int64_t seen = 0;
            for (int64_t f = 0; f < frames; f++) {
                if (!cgru_unmasked(&job->in[1], r, f)) continue;
                const float *x = cgru_frame(&job->in[0], r, f) + at;
                sum += loops->sum(x, n);
                seen++;
            }
            const double count = seen ? (double)seen * n : 1.0;
            const float mean = (float)(sum / count);
            for (int64_t f = 0; f < frames; f++) {
                if (!cgru_unmasked(&job->in[1], r, f)) continue;
                squares += loops->sum_squares(cgru_frame(&job->in[0], r, f) + at, mean, n);
            }
            const float factor = (float)(1.0 / sqrt(squares / count + node->real[0]));
            for (int64_t f = 0; f < frames; f++)
                rescale(loops, cgru_frame(&job->out, r, f) + at, cgru_frame(&job->in[0], r, f) + at, n, mean, factor,
                        node->vector[0], node->vector[1], at % period, inner);
        }
    }
}

static int check_norm_time(const cgru_graph *g, const cgru_gnode *node)
{
    const cgru_value *x = cgru_input_of(g, node, 0), *mask = cgru_input_of(g, node, 1);
    return check_norm(g, node) && x->clock != CGRU_ONCE && g->values[node->out].clock == x->clock && cgru_mask_fits(mask, x);
}

const cgru_op cgru_op_norm_time = {"norm_time", 1, 0, check_norm_time, run_norm_time};

/* ---- matrices ------------------------------------------------------------------------------------------------------- */

/* size: two axes in front, M, N; stride[0] and [1]: a's and b's along the axes in front, rows and columns; number[0]: K. */
static void run_matmul(const cgru_job *job)
{
    const cgru_gnode *node = job->node;
    const int *n = node->size, *sa = node->stride[0], *sb = node->stride[1], inner = node->number[0];
    const cgru_loops *loops = job->graph->loops;
    for (int r = 0; r < job->rows; r++) {
        for (int64_t f = 0; f < job->frames; f++) {
            const float *a = cgru_frame(&job->in[0], r, f), *b = cgru_frame(&job->in[1], r, f);
            float *restrict y = cgru_frame(&job->out, r, f);
            for (int i = 0; i < n[0]; i++) {
                for (int j = 0; j < n[1]; j++) {
                    for (int m = 0; m < n[2]; m++, y += n[3]) {
                        const float *row = a + i * sa[0] + j * sa[1] + m * inner;
                        memset(y, 0, (size_t)n[3] * sizeof(float));
                        for (int k = 0; k < inner; k++)
                            loops->add_scaled(y, b + i * sb[0] + j * sb[1] + (ptrdiff_t)k * n[3], row[k], n[3]);
                    }
                }
            }
        }
    }
}

static int check_matmul(const cgru_graph *g, const cgru_gnode *node)
{
    const cgru_value *a = cgru_input_of(g, node, 0), *b = cgru_input_of(g, node, 1);
    const int *n = node->size, inner = node->number[0];
    if (!a || !b || a->content != CGRU_FEATURES || b->content != CGRU_FEATURES || inner < 1) return 0;
    for (int i = 0; i < CGRU_AXES; i++) {
        if (n[i] < 1 || node->stride[0][i] < 0 || node->stride[1][i] < 0) return 0;
    }
    const int64_t last_a = (int64_t)(n[0] - 1) * node->stride[0][0] + (int64_t)(n[1] - 1) * node->stride[0][1];
    const int64_t last_b = (int64_t)(n[0] - 1) * node->stride[1][0] + (int64_t)(n[1] - 1) * node->stride[1][1];
    return last_a + (int64_t)n[2] * inner <= a->size && last_b + (int64_t)n[3] * inner <= b->size &&
           cgru_walked(n) == g->values[node->out].size;
}

static int64_t cost_of_matmul(const cgru_graph *g, const cgru_gnode *node)
{
    return (int64_t)g->values[node->out].size * node->number[0];
}

const cgru_op cgru_op_matmul = {"matmul", 0, 0, check_matmul, run_matmul, .share = CGRU_BY_FRAMES, .cost = cost_of_matmul};

/* ---- by index -------------------------------------------------------------------------------------------------------- */

/* vector[0]: for each number of the result, which of the input's it is, or -1 for real[0]. Floats count exactly to 2^24. */
static void run_gather(const cgru_job *job)
{
    const cgru_gnode *node = job->node;
    const int n = job->graph->values[node->out].size;
    for (int r = 0; r < job->rows; r++) {
        for (int64_t f = 0; f < job->frames; f++)
            job->graph->loops->gather(cgru_frame(&job->out, r, f), cgru_frame(&job->in[0], r, f), node->vector[0],
                                               node->real[0], n);
    }
}

static int check_gather(const cgru_graph *g, const cgru_gnode *node)
{
    const cgru_value *x = cgru_input_of(g, node, 0);
    if (!x || x->content != CGRU_FEATURES || x->size > 1 << 24) return 0;
    if (!cgru_vector_fits(node, 0, g->values[node->out].size, 0)) return 0;
    for (int i = 0; i < g->values[node->out].size; i++) {
        if (!(node->vector[0][i] >= -1.0f && node->vector[0][i] < (float)x->size)) return 0;
    }
    return 1;
}

const cgru_op cgru_op_gather = {"gather", 0, 0, check_gather, run_gather, .share = CGRU_BY_FRAMES};
