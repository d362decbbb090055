/* Rows of a table by the place of a frame in its sequence, which each row of the state counts. */
#include <string.h>

#include "ops.h"

/* number[0]: rows of the table, vector[0]; offset: where in a state row the count lies. The call has checked that there
 * are rows for all frames (cgru_op.counts). */
static void run_positions(const cgru_job *job)
{
    const int n = job->graph->values[job->node->out].size;
    for (int r = 0; r < job->rows; r++) {
        float *count = cgru_state_row(job, r) + job->node->offset;
        int64_t frames = job->frames;
        if (job->in_lengths && job->in_lengths[r] < job->at + frames)
            frames = job->in_lengths[r] > job->at ? job->in_lengths[r] - job->at : 0;
        const float *table = job->node->vector[0] + (int64_t)*count * n;
        for (int64_t f = 0; f < job->frames; f++) {
            if (f < frames) memcpy(cgru_frame(&job->out, r, f), table + f * n, (size_t)n * sizeof(float));
            else memset(cgru_frame(&job->out, r, f), 0, (size_t)n * sizeof(float));
        }
        *count += (float)frames;
    }
}

static int check_positions(const cgru_graph *g, const cgru_gnode *node)
{
    const cgru_value *x = cgru_input_of(g, node, 0), *y = &g->values[node->out];
    return x && x->clock == CGRU_STEPS && y->clock == CGRU_STEPS && y->content == CGRU_FEATURES && node->offset >= 0 &&
           node->number[0] >= 1 && cgru_vector_fits(node, 0, (int64_t)node->number[0] * y->size, 0);
}

const cgru_op cgru_op_positions = {"positions", 0, 0, check_positions, run_positions, .counts = 1};
