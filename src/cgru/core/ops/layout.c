/* Operations that move numbers and change none. */
#include <string.h>

#include "ops.h"

/* number[0]: blocks in a frame; of each, every input's numbers one after the other. */
static void run_concat(const cgru_job *job)
{
    const cgru_gnode *node = job->node;
    const int blocks = node->number[0], total = job->graph->values[node->out].size / blocks;
    for (int k = 0, offset = 0; k < node->inputs; k++) {
        const int n = job->graph->values[node->in[k]].size / blocks;
        const cgru_home *home = &job->graph->homes[node->in[k]];
        /* Written in place; a value that stands here twice is so once. */
        if (home->storage == CGRU_IN_VALUE && home->place == node->out && home->offset == offset) {
            offset += n;
            continue;
        }
        for (int r = 0; r < job->rows; r++) {
            for (int64_t f = 0; f < job->frames; f++) {
                const float *x = cgru_frame(&job->in[k], r, f);
                float *y = cgru_frame(&job->out, r, f) + offset;
                for (int i = 0; i < blocks; i++) memcpy(y + i * total, x + i * n, (size_t)n * sizeof(float));
            }
        }
        offset += n;
    }
}

static int check_concat(const cgru_graph *g, const cgru_gnode *node)
{
    int64_t total = 0;
    for (int k = 0; k < node->inputs; k++) {
        const cgru_value *x = cgru_input_of(g, node, k);
        if (x == NULL || x->content != CGRU_FEATURES || node->number[0] < 1 || x->size % node->number[0]) return 0;
        total += x->size;
    }
    return node->inputs > 0 && total == g->values[node->out].size;
}

const cgru_op cgru_op_concat = {"concat", 0, 0, check_concat, run_concat, .share = CGRU_BY_FRAMES};

/* size: axes of the result's frame; stride and offset: where its numbers lie in the input's. Slices, transposes, reshapes,
 * and with an input without time its repetition at every frame. */
static void run_copy(const cgru_job *job)
{
    const cgru_gnode *node = job->node;
    for (int r = 0; r < job->rows; r++) {
        for (int64_t f = 0; f < job->frames; f++)
            job->graph->loops->copy(cgru_frame(&job->out, r, f), cgru_frame(&job->in[0], r, f) + node->offset,
                                             node->size, node->stride[0]);
    }
}

static int check_copy(const cgru_graph *g, const cgru_gnode *node)
{
    const cgru_value *x = cgru_input_of(g, node, 0);
    int64_t low = node->offset, high = node->offset, numbers = 1;
    for (int i = 0; i < CGRU_AXES; i++) {
        if (node->size[i] < 1) return 0;
        *(node->stride[0][i] < 0 ? &low : &high) += (int64_t)(node->size[i] - 1) * node->stride[0][i];
        numbers *= node->size[i];
    }
    return x && x->content == CGRU_FEATURES && low >= 0 && high < x->size && numbers == g->values[node->out].size;
}

const cgru_op cgru_op_copy = {"copy", 0, 0, check_copy, run_copy, .share = CGRU_BY_FRAMES};

static void run_constant(const cgru_job *job)
{
    for (int r = 0; r < job->rows; r++)
        memcpy(cgru_frame(&job->out, r, 0), job->node->vector[0], (size_t)job->graph->values[job->node->out].size * sizeof(float));
}

static int check_constant(const cgru_graph *g, const cgru_gnode *node)
{
    const cgru_value *y = &g->values[node->out];
    return y->clock == CGRU_ONCE && cgru_vector_fits(node, 0, y->size, 0);
}

const cgru_op cgru_op_constant = {"constant", 0, 0, check_constant, run_constant};

static void run_upsample(const cgru_job *job)
{
    const int up = job->node->window.up;
    const size_t bytes = (size_t)job->graph->values[job->node->out].size * sizeof(float);
    for (int r = 0; r < job->rows; r++) {
        for (int64_t f = 0; f < job->frames; f++) memcpy(cgru_frame(&job->out, r, f), cgru_frame(&job->in[0], r, f / up), bytes);
    }
}

static int check_same(const cgru_graph *g, const cgru_gnode *node)
{
    const cgru_value *x = cgru_input_of(g, node, 0);
    return x && x->content == CGRU_FEATURES && x->size == g->values[node->out].size && x->clock != CGRU_ONCE;
}

static int check_upsample(const cgru_graph *g, const cgru_gnode *node)
{
    return check_same(g, node) && node->window.span == 1 && node->window.stride == 1 && node->window.left == 0;
}

const cgru_op cgru_op_upsample = {"upsample", 0, 0, check_upsample, run_upsample, .share = CGRU_BY_FRAMES};

/* Frames as the window shows them: padding is there already. */
static void run_pad_time(const cgru_job *job)
{
    const size_t bytes = (size_t)job->graph->values[job->node->out].size * sizeof(float);
    for (int r = 0; r < job->rows; r++) {
        for (int64_t f = 0; f < job->frames; f++) {
            if (cgru_is_real(job, r, f)) memcpy(cgru_frame(&job->out, r, f), cgru_frame(&job->in[0], r, f), bytes);
            else memset(cgru_frame(&job->out, r, f), 0, bytes);
        }
    }
}

const cgru_op cgru_op_pad_time = {"pad_time", 0, 1, check_same, run_pad_time, .share = CGRU_BY_FRAMES};
