/* Operations on each number by itself. */
#include <math.h>
#include <string.h>

#include "ops.h"

/* activation over the last axis: number[0] vectors in a frame. */
static void run_activation(const cgru_job *job)
{
    const cgru_gnode *node = job->node;
    const int n = job->graph->values[node->out].size, vectors = node->number[0];
    for (int r = 0; r < job->rows; r++) {
        for (int64_t f = 0; f < job->frames; f++) {
            const float *x = cgru_frame(&job->in[0], r, f);
            float *y = cgru_frame(&job->out, r, f);
            if (x != y) memcpy(y, x, (size_t)n * sizeof(float));
            if (node->activation == CGRU_SOFTMAX) {
                for (int i = 0; i < vectors; i++) cgru_softmax(y + i * (n / vectors), n / vectors);
            } else {
                /* the same on all instruction sets */
                job->graph->kernels->of[CGRU_INT8]->activate(node->activation, y, n);
            }
        }
    }
}

static int check_activation(const cgru_graph *g, const cgru_gnode *node)
{
    const cgru_value *x = cgru_input_of(g, node, 0);
    return x && x->content == CGRU_FEATURES && x->size == g->values[node->out].size && node->number[0] >= 1 &&
           x->size % node->number[0] == 0;
}

const cgru_op cgru_op_activation = {"activation", 0, 0, check_activation, run_activation};

/* ---- a ∘ b -------------------------------------------------------------------------------------------------------- */

enum { ADD, SUB, MUL, DIV, MINIMUM, MAXIMUM, AVERAGE, POWER, LESS, LESS_EQUAL, EQUAL, KINDS };

/* NaN where either is, as numpy has it. */
static inline float least(float a, float b) { return a != a ? a : b != b ? b : a < b ? a : b; }
static inline float largest(float a, float b) { return a != a ? a : b != b ? b : a > b ? a : b; }

#define LOOP(expression)                                                                                               \
    for (int i = 0; i < n; i++) {                                                                                      \
        const float p = a[i * da], q = b[i * db];                                                                      \
        y[i] = (expression);                                                                                           \
    }                                                                                                                  \
    break;

static inline __attribute__((always_inline)) void combine_along(int kind, float *restrict y, const float *a, const float *b,
                                                                int n, int da, int db)
{
    switch (kind) {
    case ADD: LOOP(p + q)
    case SUB: LOOP(p - q)
    case MUL: LOOP(p * q)
    case DIV: LOOP(p / q)
    case MINIMUM: LOOP(least(p, q))
    case MAXIMUM: LOOP(largest(p, q))
    case AVERAGE: LOOP((p + q) * 0.5f)
    case POWER: LOOP(powf(p, q))
    case LESS: LOOP(p < q ? 1.0f : 0.0f)
    case LESS_EQUAL: LOOP(p <= q ? 1.0f : 0.0f)
    default: LOOP(p == q ? 1.0f : 0.0f)
    }
}

/* n numbers; a and b advance by one or stand still. */
static void combine(int kind, float *restrict y, const float *a, const float *b, int n, int da, int db)
{
    if (da == 1 && db == 1) combine_along(kind, y, a, b, n, 1, 1);
    else if (da == 1 && db == 0) combine_along(kind, y, a, b, n, 1, 0);
    else if (da == 0 && db == 1) combine_along(kind, y, a, b, n, 0, 1);
    else combine_along(kind, y, a, b, n, da, db);
}

/* size: axes of the result's frame; stride: of a's and b's numbers along them, 0 where one is broadcast. */
static void run_binary(const cgru_job *job)
{
    const cgru_gnode *node = job->node;
    const int *n = node->size, *a = node->stride[0], *b = node->stride[1];
    for (int r = 0; r < job->rows; r++) {
        for (int64_t f = 0; f < job->frames; f++) {
            const float *p = cgru_frame(&job->in[0], r, f), *q = cgru_frame(&job->in[1], r, f);
            float *y = cgru_frame(&job->out, r, f);
            for (int i = 0; i < n[0]; i++) {
                for (int j = 0; j < n[1]; j++) {
                    for (int k = 0; k < n[2]; k++, y += n[3]) {
                        combine(node->kind, y, p + i * a[0] + j * a[1] + k * a[2], q + i * b[0] + j * b[1] + k * b[2], n[3],
                                a[3], b[3]);
                    }
                }
            }
        }
    }
}

int cgru_strides_fit(const int *size, const int *stride, int offset, int numbers)
{
    int64_t last = offset, first = offset;
    for (int i = 0; i < CGRU_AXES; i++) {
        if (size[i] < 1) return 0;
        *(stride[i] < 0 ? &first : &last) += (int64_t)(size[i] - 1) * stride[i];
    }
    return first >= 0 && last < numbers;
}

int64_t cgru_walked(const int *size)
{
    int64_t n = 1;
    for (int i = 0; i < CGRU_AXES; i++) n *= size[i];
    return n;
}

static int check_binary(const cgru_graph *g, const cgru_gnode *node)
{
    const cgru_value *a = cgru_input_of(g, node, 0), *b = cgru_input_of(g, node, 1);
    if (!a || !b || a->content != CGRU_FEATURES || b->content != CGRU_FEATURES || node->kind < 0 || node->kind >= KINDS)
        return 0;
    return cgru_strides_fit(node->size, node->stride[0], 0, a->size) && cgru_strides_fit(node->size, node->stride[1], 0, b->size) &&
           cgru_walked(node->size) == g->values[node->out].size;
}

const cgru_op cgru_op_binary = {"binary", 0, 0, check_binary, run_binary};

/* vector: scale and shift of each channel; number: channels, numbers of a channel side by side. */
static void run_scale_shift(const cgru_job *job)
{
    const cgru_gnode *node = job->node;
    const float *scale = node->vector[0], *shift = node->vector[1];
    const int n = job->graph->values[node->out].size, channels = node->number[0], inner = node->number[1];
    for (int r = 0; r < job->rows; r++) {
        for (int64_t f = 0; f < job->frames; f++) {
            const float *x = cgru_frame(&job->in[0], r, f);
            float *restrict y = cgru_frame(&job->out, r, f);
            if (inner == 1) {
                for (int o = 0; o < n; o += channels) {
                    for (int c = 0; c < channels; c++) y[o + c] = x[o + c] * scale[c] + shift[c];
                }
                continue;
            }
            for (int i = 0, c = 0; i < n; i += inner, c = c + 1 == channels ? 0 : c + 1) {
                for (int k = 0; k < inner; k++) y[i + k] = x[i + k] * scale[c] + shift[c];
            }
        }
    }
}

static int check_scale_shift(const cgru_graph *g, const cgru_gnode *node)
{
    const cgru_value *x = cgru_input_of(g, node, 0);
    const int channels = node->number[0], inner = node->number[1];
    return x && x->content == CGRU_FEATURES && channels > 0 && inner > 0 && x->size == g->values[node->out].size &&
           x->size % ((int64_t)channels * inner) == 0 && node->vector[0] && node->vector[1];
}

const cgru_op cgru_op_scale_shift = {"scale_shift", 0, 0, check_scale_shift, run_scale_shift};
