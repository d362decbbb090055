/* Functions of each number by itself, bounds, and a choice between two values. */
#include "ops.h"

static void run_unary(const cgru_job *job)
{
    const int n = job->graph->values[job->node->out].size;
    for (int r = 0; r < job->rows; r++) {
        for (int64_t f = 0; f < job->frames; f++)
            job->graph->loops->unary(job->node->kind, cgru_frame(&job->out, r, f), cgru_frame(&job->in[0], r, f), n);
    }
}

static int same_size(const cgru_graph *g, const cgru_gnode *node)
{
    const cgru_value *x = cgru_input_of(g, node, 0);
    return x && x->content == CGRU_FEATURES && x->size == g->values[node->out].size;
}

static int check_unary(const cgru_graph *g, const cgru_gnode *node)
{
    return same_size(g, node) && node->kind >= 0 && node->kind < CGRU_UNARY_KINDS;
}

const cgru_op cgru_op_unary = {"unary", 0, 0, check_unary, run_unary, .share = CGRU_BY_FRAMES, .cost = cgru_cost_of_functions};

/* real: the parameters. */
static void run_parametric(const cgru_job *job)
{
    const cgru_gnode *node = job->node;
    for (int r = 0; r < job->rows; r++) {
        for (int64_t f = 0; f < job->frames; f++)
            job->graph->loops->parametric(node->kind, node->real[0], node->real[1], cgru_frame(&job->out, r, f),
                                                   cgru_frame(&job->in[0], r, f), job->graph->values[node->out].size);
    }
}

static int check_parametric(const cgru_graph *g, const cgru_gnode *node)
{
    return same_size(g, node) && node->kind >= 0 && node->kind < CGRU_PARAMETRIC_KINDS;
}

const cgru_op cgru_op_parametric = {"parametric", 0, 0, check_parametric, run_parametric, .share = CGRU_BY_FRAMES,
                                    .cost = cgru_cost_of_functions};

/* real: low, high. NaN stays. */
static void run_clip(const cgru_job *job)
{
    const float low = job->node->real[0], high = job->node->real[1];
    const int n = job->graph->values[job->node->out].size;
    for (int r = 0; r < job->rows; r++) {
        for (int64_t f = 0; f < job->frames; f++)
            job->graph->loops->clip(cgru_frame(&job->out, r, f), cgru_frame(&job->in[0], r, f), low, high, n);
    }
}

const cgru_op cgru_op_clip = {"clip", 0, 0, same_size, run_clip, .share = CGRU_BY_FRAMES};

/* vector[0]: a slope a channel; number: channels, numbers of a channel side by side. */
static void run_prelu(const cgru_job *job)
{
    const cgru_gnode *node = job->node;
    const int n = job->graph->values[node->out].size, channels = node->number[0], inner = node->number[1];
    const cgru_loops *loops = job->graph->loops;
    for (int r = 0; r < job->rows; r++) {
        for (int64_t f = 0; f < job->frames; f++) {
            const float *x = cgru_frame(&job->in[0], r, f);
            float *y = cgru_frame(&job->out, r, f);
            if (inner == 1) {
                for (int i = 0; i < n; i += channels) loops->rectify_each(y + i, x + i, node->vector[0], channels);
                continue;
            }
            for (int i = 0, c = 0; i < n; i += inner, c = c + 1 == channels ? 0 : c + 1)
                loops->rectify(y + i, x + i, node->vector[0][c], inner);
        }
    }
}

static int check_prelu(const cgru_graph *g, const cgru_gnode *node)
{
    const cgru_value *x = cgru_input_of(g, node, 0);
    return same_size(g, node) && cgru_vector_fits(node, 0, node->number[0], 0) && node->number[0] > 0 && node->number[1] > 0 &&
           x->size % ((int64_t)node->number[0] * node->number[1]) == 0;
}

const cgru_op cgru_op_prelu = {"prelu", 0, 0, check_prelu, run_prelu, .share = CGRU_BY_FRAMES};

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

const cgru_op cgru_op_where = {"where", 0, 0, check_where, run_where, .share = CGRU_BY_FRAMES};
