/* Operations on a whole sequence that give a sequence. */
#include <math.h>
#include <string.h>

#include "ops.h"

static int64_t frames_of(const cgru_job *job, int row)
{
    return job->in_lengths ? job->in_lengths[row] : job->in_frames[0];
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
                if (cgru_unmasked(&job->in[1], r, f) && (v > top || v != v)) top = v;
            }
            for (int64_t f = 0; f < frames; f++) {
                float *y = cgru_frame(&job->out, r, f) + i;
                *y = cgru_unmasked(&job->in[1], r, f) ? expf(cgru_frame(&job->in[0], r, f)[i] - top) : 0.0f;
                sum += *y;
            }
            for (int64_t f = 0; f < frames; f++) {
                float *y = cgru_frame(&job->out, r, f) + i;
                if (cgru_unmasked(&job->in[1], r, f)) *y = (float)(*y / sum);
            }
        }
    }
}

static int check_sequence(const cgru_graph *g, const cgru_gnode *node)
{
    const cgru_value *x = cgru_input_of(g, node, 0), *mask = cgru_input_of(g, node, 1);
    return x && x->content == CGRU_FEATURES && x->clock != CGRU_ONCE && x->size == g->values[node->out].size &&
           g->values[node->out].clock == x->clock && cgru_mask_fits(mask, x);
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

/* number[0]: the frames that a row has, or, with number[1], the last so many of them; a row without any gives zeros. */
static void run_fold_time(const cgru_job *job)
{
    const size_t frame = (size_t)job->graph->values[job->node->in[0]].size;
    for (int r = 0; r < job->rows; r++) {
        float *y = cgru_frame(&job->out, r, 0);
        const int64_t frames = frames_of(job, r);
        if (frames == 0) memset(y, 0, (size_t)job->node->number[0] * frame * sizeof(float));
        for (int64_t f = frames == 0 ? 0 : frames - job->node->number[0]; f < frames; f++, y += frame) memcpy(y, cgru_frame(&job->in[0], r, f), frame * sizeof(float));
    }
}

static int check_fold_time(const cgru_graph *g, const cgru_gnode *node)
{
    const cgru_value *x = cgru_input_of(g, node, 0), *y = &g->values[node->out];
    return x && x->content == CGRU_FEATURES && x->clock != CGRU_ONCE && y->clock == CGRU_ONCE && node->number[0] >= 1 &&
           (int64_t)node->number[0] * x->size == y->size;
}

const cgru_op cgru_op_fold_time = {"fold_time", 1, 0, check_fold_time, run_fold_time, .fold = 1};

/* number: span and stride of the windows that come behind; real[0]: what padding is. */
static int64_t padded_frames(const cgru_gnode *node, int64_t given)
{
    const int span = node->number[0], stride = node->number[1];
    return given > 0 ? ((given + stride - 1) / stride - 1) * stride + span : 0;
}

/* Of the missing frames the smaller half lies in front; frames that no window reaches are cut off. */
static void run_pad_same(const cgru_job *job)
{
    const cgru_gnode *node = job->node;
    const int size = job->graph->values[node->out].size;
    for (int r = 0; r < job->rows; r++) {
        const int64_t frames = frames_of(job, r), full = padded_frames(node, frames);
        const int64_t front = full > frames ? (full - frames) / 2 : 0;
        for (int64_t f = 0; f < full; f++) {
            float *y = cgru_frame(&job->out, r, f);
            if (f >= front && f - front < frames) memcpy(y, cgru_frame(&job->in[0], r, f - front), (size_t)size * sizeof(float));
            else for (int i = 0; i < size; i++) y[i] = node->real[0];
        }
    }
}

static int check_pad_same(const cgru_graph *g, const cgru_gnode *node)
{
    const cgru_value *x = cgru_input_of(g, node, 0), *y = &g->values[node->out];
    return x && x->content == CGRU_FEATURES && x->clock != CGRU_ONCE && y->clock == x->clock && x->size == y->size &&
           node->number[0] >= 1 && node->number[1] >= 1;
}

const cgru_op cgru_op_pad_same = {"pad_same", 1, 0, check_pad_same, run_pad_same, .frames = padded_frames};
