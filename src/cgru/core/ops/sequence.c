/* Operations on a whole sequence that give a sequence. */
#include <math.h>
#include <string.h>

#include "ops.h"

static int64_t frames_of(const cgru_job *job, int row)
{
    return job->in_lengths ? job->in_lengths[row] : job->in_frames[0];
}

static int counts(const cgru_job *job, int row, int64_t frame)
{
    return job->in[1].data == NULL || *cgru_frame(&job->in[1], row, frame) != 0.0f;
}

/* Of each number over the frames that count in in[1]; the others get 0. */
static void run_softmax_time(const cgru_job *job)
{
    const int n = job->graph->values[job->node->out].size;
    for (int r = 0; r < job->rows; r++) {
        const int64_t frames = frames_of(job, r);
        for (int i = 0; i < n; i++) {
            float top = -INFINITY;
            double sum = 0.0;
            for (int64_t f = 0; f < frames; f++) {
                const float v = cgru_frame(&job->in[0], r, f)[i];
                if (counts(job, r, f) && (v > top || v != v)) top = v;
            }
            for (int64_t f = 0; f < frames; f++) {
                float *y = cgru_frame(&job->out, r, f) + i;
                *y = counts(job, r, f) ? expf(cgru_frame(&job->in[0], r, f)[i] - top) : 0.0f;
                sum += *y;
            }
            for (int64_t f = 0; f < frames; f++) {
                float *y = cgru_frame(&job->out, r, f) + i;
                if (counts(job, r, f)) *y = (float)(*y / sum);
            }
        }
    }
}

static int check_sequence(const cgru_graph *g, const cgru_gnode *node)
{
    const cgru_value *x = cgru_input_of(g, node, 0), *mask = cgru_input_of(g, node, 1);
    return x && x->content == CGRU_FEATURES && x->clock != CGRU_ONCE && x->size == g->values[node->out].size &&
           (!mask || (mask->content == CGRU_MASK && mask->clock == x->clock));
}

const cgru_op cgru_op_softmax_time = {"softmax_time", 1, 0, check_sequence, run_softmax_time};

static void run_reverse_time(const cgru_job *job)
{
    const size_t bytes = (size_t)job->graph->values[job->node->out].size * sizeof(float);
    for (int r = 0; r < job->rows; r++) {
        const int64_t frames = frames_of(job, r);
        for (int64_t f = 0; f < frames; f++)
            memcpy(cgru_frame(&job->out, r, f), cgru_frame(&job->in[0], r, frames - 1 - f), bytes);
    }
}

const cgru_op cgru_op_reverse_time = {"reverse_time", 1, 0, check_sequence, run_reverse_time};
