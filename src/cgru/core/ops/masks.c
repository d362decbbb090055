/* Ids to vectors, and the masks that say which frames count: a float a frame, 1 or 0. */
#include <string.h>

#include "ops.h"

/* number[1]: which of a frame's ids, or -1 for all, one after the other. */
static void run_embedding(const cgru_job *job)
{
    const cgru_gnode *node = job->node;
    const int column = node->number[1], many = column < 0 ? cgru_input_of(job->graph, node, 0)->size : 1;
    const int n = job->graph->values[node->out].size / many;
    const int64_t *ids = (const int64_t *)job->in[0].data + (column < 0 ? 0 : column);
    for (int r = 0; r < job->rows; r++) {
        for (int64_t f = 0; f < job->frames; f++) {
            const int64_t *frame = ids + r * job->in[0].row + f * job->in[0].frame;
            for (int i = 0; i < many; i++)
                cgru_table_row(node->precision, node->table, frame[i], n, cgru_frame(&job->out, r, f) + (ptrdiff_t)i * n);
        }
    }
}

static int check_embedding(const cgru_graph *g, const cgru_gnode *node)
{
    const cgru_value *x = cgru_input_of(g, node, 0);
    const int column = node->number[1];
    return x && x->content == CGRU_IDS && node->table.values && node->number[0] > 0 && column >= -1 && column < x->size &&
           (column >= 0 || g->values[node->out].size % x->size == 0);
}

const cgru_op cgru_op_embedding = {"embedding", 0, 0, check_embedding, run_embedding, .share = CGRU_BY_FRAMES};

/* True where a number, or the id, is not real[0]. */
static void run_mask_of(const cgru_job *job)
{
    const cgru_value *x = cgru_input_of(job->graph, job->node, 0);
    const float value = job->node->real[0];
    for (int r = 0; r < job->rows; r++) {
        for (int64_t f = 0; f < job->frames; f++) {
            int counts = 0;
            if (x->content == CGRU_IDS) {
                const int64_t *ids = (const int64_t *)job->in[0].data;
                counts = (float)ids[r * job->in[0].row + f * job->in[0].frame] != value;
            } else {
                const float *v = cgru_frame(&job->in[0], r, f);
                for (int i = 0; i < x->size; i++) counts |= cgru_differs(v[i], value);
            }
            *cgru_frame(&job->out, r, f) = counts ? 1.0f : 0.0f;
        }
    }
}

static int check_mask_of(const cgru_graph *g, const cgru_gnode *node)
{
    const cgru_value *x = cgru_input_of(g, node, 0), *y = &g->values[node->out];
    return x && x->content != CGRU_MASK && y->content == CGRU_MASK && y->size == 1;
}

const cgru_op cgru_op_mask_of = {"mask_of", 0, 0, check_mask_of, run_mask_of, .share = CGRU_BY_FRAMES};

static void run_mask_and(const cgru_job *job)
{
    for (int r = 0; r < job->rows; r++) {
        for (int64_t f = 0; f < job->frames; f++)
            *cgru_frame(&job->out, r, f) = cgru_unmasked(&job->in[0], r, f) && cgru_unmasked(&job->in[1], r, f) ? 1.0f : 0.0f;
    }
}

static int check_mask_and(const cgru_graph *g, const cgru_gnode *node)
{
    const cgru_value *a = cgru_input_of(g, node, 0), *b = cgru_input_of(g, node, 1), *y = &g->values[node->out];
    return a && b && a->content == CGRU_MASK && b->content == CGRU_MASK && y->content == CGRU_MASK && y->size == 1;
}

const cgru_op cgru_op_mask_and = {"mask_and", 0, 0, check_mask_and, run_mask_and, .share = CGRU_BY_FRAMES};

static void run_apply_mask(const cgru_job *job)
{
    const size_t bytes = (size_t)job->graph->values[job->node->out].size * sizeof(float);
    for (int r = 0; r < job->rows; r++) {
        for (int64_t f = 0; f < job->frames; f++) {
            if (cgru_unmasked(&job->in[1], r, f)) memcpy(cgru_frame(&job->out, r, f), cgru_frame(&job->in[0], r, f), bytes);
            else memset(cgru_frame(&job->out, r, f), 0, bytes);
        }
    }
}

static int check_apply_mask(const cgru_graph *g, const cgru_gnode *node)
{
    const cgru_value *x = cgru_input_of(g, node, 0), *mask = cgru_input_of(g, node, 1);
    return x && mask && x->content == CGRU_FEATURES && mask->content == CGRU_MASK && x->size == g->values[node->out].size;
}

const cgru_op cgru_op_apply_mask = {"apply_mask", 0, 0, check_apply_mask, run_apply_mask, .share = CGRU_BY_FRAMES};
