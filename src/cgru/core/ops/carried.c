/* States that a graph reads and writes itself. A graph with these runs a step at a time. */
#include <string.h>

#include "ops.h"

/* offset: where in a state row the array lies. */
static void run_carried(const cgru_job *job)
{
    const size_t bytes = (size_t)job->graph->values[job->node->out].size * sizeof(float);
    for (int r = 0; r < job->rows; r++) {
        const float *state = cgru_state_row(job, r) + job->node->offset;
        for (int64_t f = 0; f < job->frames; f++) memcpy(cgru_frame(&job->out, r, f), state, bytes);
    }
}

static int check_carried(const cgru_graph *g, const cgru_gnode *node)
{
    return node->offset >= 0 && g->values[node->out].clock == CGRU_STEPS && g->values[node->out].content == CGRU_FEATURES;
}

const cgru_op cgru_op_carried = {"carried", 0, 0, check_carried, run_carried};

static void run_carry(const cgru_job *job)
{
    const size_t bytes = (size_t)job->graph->values[job->node->out].size * sizeof(float);
    for (int r = 0; r < job->rows; r++) {
        for (int64_t f = 0; f < job->frames; f++) {
            const float *x = cgru_frame(&job->in[0], r, f);
            if (job->out.data) memcpy(cgru_frame(&job->out, r, f), x, bytes);
            if (job->in_lengths == NULL || job->at + f < job->in_lengths[r])
                memcpy(cgru_state_row(job, r) + job->node->offset, x, bytes);
        }
    }
}

static int check_carry(const cgru_graph *g, const cgru_gnode *node)
{
    const cgru_value *x = cgru_input_of(g, node, 0);
    return x && check_carried(g, node) && x->content == CGRU_FEATURES && x->size == g->values[node->out].size;
}

const cgru_op cgru_op_carry = {"carry", 0, 0, check_carry, run_carry, .moves = 1};
