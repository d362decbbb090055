/* Operations on each number by itself. */
#include <string.h>

#include "ops.h"

/* activation over the last axis: number[0] vectors in a frame. */
static void run_activation(const cgru_job *job)
{
    const cgru_gnode *node = job->node;
    const int n = job->graph->values[node->out].size, vectors = node->number[0];
    /* Frames side by side go at once: of 48 numbers, a call for each takes as long as its tanh. */
    const int joined = node->activation != CGRU_SOFTMAX && job->in[0].frame == n && job->out.frame == n;
    const int64_t runs = joined ? job->frames > 0 : job->frames;
    const ptrdiff_t numbers = joined ? (ptrdiff_t)n * job->frames : n;
    for (int r = 0; r < job->rows; r++) {
        for (int64_t f = 0; f < runs; f++) {
            const float *x = cgru_frame(&job->in[0], r, f);
            float *y = cgru_frame(&job->out, r, f);
            if (x != y) memcpy(y, x, (size_t)numbers * sizeof(float));
            if (node->activation == CGRU_SOFTMAX) {
                for (int i = 0; i < vectors; i++) cgru_softmax(y + i * (n / vectors), n / vectors);
            } else {
                /* the same on all instruction sets */
                job->graph->kernels->of[CGRU_INT8]->activate(node->activation, y, numbers);
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

const cgru_op cgru_op_activation = {"activation", 0, 0, check_activation, run_activation, .share = CGRU_BY_FRAMES,
                                    .cost = cgru_cost_of_functions};

/* ---- a ∘ b -------------------------------------------------------------------------------------------------------- */

/* size: axes of the result's frame; stride: of a's and b's numbers along them, 0 where one is broadcast. */
static void run_binary(const cgru_job *job)
{
    const cgru_gnode *node = job->node;
    const int *n = node->size, *a = node->stride[0], *b = node->stride[1];
    void (*const combine)(int, float *, const float *, const float *, int, int, int) = job->graph->loops->combine;
    for (int r = 0; r < job->rows; r++) {
        for (int64_t f = 0; f < job->frames; f++) {
            const float *p = cgru_frame(&job->in[0], r, f), *q = cgru_frame(&job->in[1], r, f);
            float *y = cgru_frame(&job->out, r, f);
            for (int i = 0; i < n[0]; i++) {
                for (int j = 0; j < n[1]; j++) {
                    for (int k = 0; k < n[2]; k++, y += n[3]) {
                        combine(node->kind, y, p + i * a[0] + j * a[1] + k * a[2], q + i * b[0] + j * b[1] + k * b[2],
                                n[3], a[3], b[3]);
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
    if (!a || !b || a->content != CGRU_FEATURES || b->content != CGRU_FEATURES || node->kind < 0 ||
        node->kind >= CGRU_PAIR_KINDS)
        return 0;
    /* the innermost loop goes on by one number, or not at all */
    if ((node->stride[0][3] | node->stride[1][3]) & ~1) return 0;
    return cgru_strides_fit(node->size, node->stride[0], 0, a->size) && cgru_strides_fit(node->size, node->stride[1], 0, b->size) &&
           cgru_walked(node->size) == g->values[node->out].size;
}

const cgru_op cgru_op_binary = {"binary", 0, 0, check_binary, run_binary, .share = CGRU_BY_FRAMES};

/* vector: scale and shift of each channel; number: channels, numbers of a channel side by side. */
static void run_scale_shift(const cgru_job *job)
{
    const cgru_gnode *node = job->node;
    const float *scale = node->vector[0], *shift = node->vector[1];
    const int n = job->graph->values[node->out].size, channels = node->number[0], inner = node->number[1];
    const cgru_loops *loops = job->graph->loops;
    for (int r = 0; r < job->rows; r++) {
        for (int64_t f = 0; f < job->frames; f++) {
            const float *x = cgru_frame(&job->in[0], r, f);
            float *y = cgru_frame(&job->out, r, f);
            if (inner == 1) {
                for (int o = 0; o < n; o += channels) loops->rescale_each(y + o, x + o, scale, shift, channels);
                continue;
            }
            for (int i = 0, c = 0; i < n; i += inner, c = c + 1 == channels ? 0 : c + 1)
                loops->rescale(y + i, x + i, scale[c], shift[c], inner);
        }
    }
}

static int check_scale_shift(const cgru_graph *g, const cgru_gnode *node)
{
    const cgru_value *x = cgru_input_of(g, node, 0);
    const int channels = node->number[0], inner = node->number[1];
    return x && x->content == CGRU_FEATURES && channels > 0 && inner > 0 && x->size == g->values[node->out].size &&
           x->size % ((int64_t)channels * inner) == 0 && cgru_vector_fits(node, 0, channels, 0) &&
           cgru_vector_fits(node, 1, channels, 0);
}

const cgru_op cgru_op_scale_shift = {"scale_shift", 0, 0, check_scale_shift, run_scale_shift, .share = CGRU_BY_FRAMES};
