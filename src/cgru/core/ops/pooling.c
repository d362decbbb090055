/* Pooling: over a window of frames, and over the whole sequence. */
#include <math.h>
#include <string.h>

#include "ops.h"

enum { LARGEST, MEAN, SUM, LAST, FIRST, SMALLEST, VARIANCE };

/* number[0]: width; flag: padding counts as zeros for the average. */
static void run_pool(const cgru_job *job)
{
    const cgru_gnode *node = job->node;
    const int n = job->graph->values[node->out].size, width = node->number[0];
    for (int r = 0; r < job->rows; r++) {
        for (int64_t f = 0; f < job->frames; f++) {
            float *restrict y = cgru_frame(&job->out, r, f);
            const int64_t first = f * node->window.stride;
            int seen = 0;
            for (int k = 0; k < width; k++) {
                if (!cgru_is_real(job, r, first + k)) continue;
                const float *x = cgru_frame(&job->in[0], r, first + k);
                if (seen++ == 0) memcpy(y, x, (size_t)n * sizeof(float));
                else if (node->kind == LARGEST) for (int i = 0; i < n; i++) y[i] = cgru_larger(y[i], x[i]);
                else for (int i = 0; i < n; i++) y[i] += x[i];
            }
            if (seen == 0) memset(y, 0, (size_t)n * sizeof(float));
            if (node->kind == MEAN) {
                const float count = (float)(node->flag ? width : seen ? seen : 1);
                for (int i = 0; i < n; i++) y[i] /= count;
            }
        }
    }
}

static int check_pool(const cgru_graph *g, const cgru_gnode *node)
{
    const cgru_value *x = cgru_input_of(g, node, 0);
    return x && x->content == CGRU_FEATURES && x->clock != CGRU_ONCE && x->size == g->values[node->out].size &&
           node->number[0] == node->window.span && (node->kind == LARGEST || node->kind == MEAN) &&
           (x->clock != CGRU_STEPS || node->hold[0] >= node->window.span - 1);
}

const cgru_op cgru_op_pool = {"pool", 0, 1, check_pool, run_pool, .share = CGRU_BY_FRAMES};

/* y: the mean of the frames that count, which becomes the variance, divided by their number less flag. */
static void distances(const cgru_job *job, int r, float *restrict y, int n, int64_t frames, int64_t seen)
{
    const int64_t count = seen > job->node->flag ? seen - job->node->flag : 1;
    for (int i = 0; i < n; i++) {
        double squares = 0.0;
        for (int64_t f = 0; f < frames; f++) {
            if (!cgru_unmasked(&job->in[1], r, f)) continue;
            const float d = cgru_frame(&job->in[0], r, f)[i] - y[i];
            squares += (double)d * d;
        }
        y[i] = (float)(squares / (double)count);
    }
}

/* flag: what is taken off the number of frames for the variance. */
static void run_pool_whole(const cgru_job *job)
{
    const cgru_gnode *node = job->node;
    const int n = job->graph->values[node->out].size;
    for (int r = 0; r < job->rows; r++) {
        float *restrict y = cgru_frame(&job->out, r, 0);
        int64_t frames = job->in_lengths ? job->in_lengths[r] : job->in_frames[0], seen = 0;
        memset(y, 0, (size_t)n * sizeof(float));
        for (int64_t f = 0; f < frames; f++) {
            if (!cgru_unmasked(&job->in[1], r, f)) continue;
            const float *x = cgru_frame(&job->in[0], r, f);
            if (seen++ == 0 || node->kind == LAST) memcpy(y, x, (size_t)n * sizeof(float));
            else if (node->kind == FIRST) break;
            else if (node->kind == LARGEST) for (int i = 0; i < n; i++) y[i] = cgru_larger(y[i], x[i]);
            else if (node->kind == SMALLEST) for (int i = 0; i < n; i++) y[i] = cgru_smaller(y[i], x[i]);
            else for (int i = 0; i < n; i++) y[i] += x[i];
        }
        if ((node->kind == MEAN || node->kind == VARIANCE) && seen > 1) {
            for (int i = 0; i < n; i++) y[i] /= (float)seen;
        }
        if (node->kind == VARIANCE) distances(job, r, y, n, frames, seen);
    }
}

static int check_pool_whole(const cgru_graph *g, const cgru_gnode *node)
{
    const cgru_value *x = cgru_input_of(g, node, 0), *mask = cgru_input_of(g, node, 1);
    return x && x->content == CGRU_FEATURES && x->clock != CGRU_ONCE && x->size == g->values[node->out].size &&
           g->values[node->out].clock == CGRU_ONCE && node->kind >= LARGEST && node->kind <= VARIANCE &&
           cgru_mask_fits(mask, x);
}

const cgru_op cgru_op_pool_whole = {"pool_whole", 1, 0, check_pool_whole, run_pool_whole};

/* The sum over time of x, in[0], each frame of it times one number of in[1]; in[2] a mask: what a product and the pooling of
 * it give, in the order of their sums, without the product. */
static void run_weighted_sum(const cgru_job *job)
{
    const int n = job->graph->values[job->node->out].size;
    const cgru_loops *loops = job->graph->loops;
    for (int r = 0; r < job->rows; r++) {
        float *y = cgru_frame(&job->out, r, 0);
        const int64_t frames = job->in_lengths ? job->in_lengths[r] : job->in_frames[0];
        int begun = 0;
        memset(y, 0, (size_t)n * sizeof(float));
        for (int64_t f = 0; f < frames; f++) {
            if (!cgru_unmasked(&job->in[2], r, f)) continue;
            const float *x = cgru_frame(&job->in[0], r, f), weight = *cgru_frame(&job->in[1], r, f);
            if (begun) loops->add_scaled(y, x, weight, n);
            else loops->combine(CGRU_PAIR_MUL, y, &weight, x, n, 0, 1);
            begun = 1;
        }
    }
}

static int check_weighted_sum(const cgru_graph *g, const cgru_gnode *node)
{
    const cgru_value *x = cgru_input_of(g, node, 0), *weight = cgru_input_of(g, node, 1), *y = &g->values[node->out];
    return x && weight && x->content == CGRU_FEATURES && weight->content == CGRU_FEATURES && x->clock != CGRU_ONCE &&
           weight->clock == x->clock && weight->size == 1 && x->size == y->size && y->clock == CGRU_ONCE &&
           cgru_mask_fits(cgru_input_of(g, node, 2), x);
}

const cgru_op cgru_op_weighted_sum = {"weighted_sum", 1, 0, check_weighted_sum, run_weighted_sum};
