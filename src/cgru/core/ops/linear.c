/* Products with a matrix: of each frame, and of a window of frames.
 *
 * With frames side by side in memory a window of k frames is one vector of k·C numbers, so a convolution is the dense
 * kernel over overlapping rows: no copy, one order of summation. A dilation or groups take a copy of the window first. */
#include <string.h>

#include "ops.h"

/* A team divides a product of few vectors, or with more weights than stay in a cache, by panels: every member reads weights of
 * its own. Of other products the members take vectors. */
#define OWN_CACHE (1 << 18) /* bytes of weights */

static int by_panels(const cgru_job *job, const cgru_matrix *m, int64_t vectors)
{
    const int members = job->member.size;
    if (members == 1 || m->panels < members || job->node->activation == CGRU_SOFTMAX) return 0;
    const int even = m->panels % members == 0 || m->panels >= 4 * members;
    return vectors < 8 * members || (even && (int64_t)m->in_features * m->out_features * (int64_t)sizeof(float) > OWN_CACHE);
}

/* Which vectors of a product a member takes, and which panels. */
typedef struct {
    int64_t low, high;
    int p0, p1;
} part_of_product;

static part_of_product part_of(const cgru_job *job, const cgru_matrix *m, int64_t vectors)
{
    part_of_product part = {0, vectors, 0, m->panels};
    if (by_panels(job, m, vectors)) {
        cgru_share(m->panels, job->member, &part.p0, &part.p1);
    } else {
        part.low = vectors * job->member.rank / job->member.size;
        part.high = vectors * (job->member.rank + 1) / job->member.size;
    }
    return part;
}

/* Vectors are counted row by row, and within a row by frames. */
static int first_row(const cgru_job *job, const part_of_product *part)
{
    return job->frames ? (int)(part->low / job->frames) : 0;
}

static void next_vector(const cgru_job *job, int *row, int64_t *frame)
{
    if (++*frame == job->frames) ++*row, *frame = 0;
}

/* y[i] = φ(W v[i] + b) for the pointers gathered so far. */
static void multiply(const cgru_job *job, const cgru_matrix *m, int count, const part_of_product *part)
{
    const int activation = job->node->activation, softly = activation == CGRU_SOFTMAX;
    m->arithmetic->linear(m, softly ? CGRU_LINEAR : activation, count, job->pointer_in, job->pointer_out,
                          job->quantized_input, part->p0, part->p1);
    for (int i = 0; softly && i < count; i++) cgru_softmax(job->pointer_out[i], m->out_features);
}

/* number[0]: vectors in a frame, each of m->in_features numbers. */
static void run_dense(const cgru_job *job)
{
    const cgru_matrix *m = job->node->matrix[0];
    const int vectors = job->node->number[0];
    const part_of_product part = part_of(job, m, job->rows * job->frames);
    int count = 0;
    int r = first_row(job, &part);
    int64_t f = part.low - r * job->frames;
    for (int64_t left = part.high - part.low; left > 0; left--, next_vector(job, &r, &f)) {
        for (int i = 0; i < vectors; i++) {
            job->pointer_in[count] = cgru_frame(&job->in[0], r, f) + (ptrdiff_t)i * m->in_features;
            job->pointer_out[count++] = cgru_frame(&job->out, r, f) + (ptrdiff_t)i * m->out_features;
            if (count == CGRU_BATCH) {
                multiply(job, m, count, &part);
                count = 0;
            }
        }
    }
    if (count) multiply(job, m, count, &part);
}

static int check_dense(const cgru_graph *g, const cgru_gnode *node)
{
    const cgru_value *x = cgru_input_of(g, node, 0);
    if (x == NULL || x->content != CGRU_FEATURES || node->groups != 1 || node->number[0] < 1) return 0;
    const cgru_matrix *m = node->matrix[0];
    return x->size == node->number[0] * m->in_features && g->values[node->out].size == node->number[0] * m->out_features;
}

const cgru_op cgru_op_dense = {"dense", 0, 0, check_dense, run_dense, .share = CGRU_TOGETHER};

/* Whether windows are no vectors in memory as they are. */
static int gathers(const cgru_gnode *node)
{
    return node->groups > 1 || node->number[1] > 1;
}

static size_t window_bytes(const cgru_graph *g, const cgru_gnode *node)
{
    (void)g;
    return gathers(node) ? CGRU_BATCH * (size_t)node->matrix[0]->in_features * sizeof(float) : 0;
}

/* number: width, dilation, channels. The weights of a group are (units, width · channels of the group). */
static void run_conv1d(const cgru_job *job)
{
    const cgru_gnode *node = job->node;
    const int width = node->number[0], dilation = node->number[1], channels = node->number[2], groups = node->groups;
    const int own = channels / groups, units = node->matrix[0]->out_features;
    const ptrdiff_t frame = job->in[0].frame;
    float *gathered = gathers(node) ? job->scratch : NULL;
    const part_of_product part = part_of(job, node->matrix[0], job->rows * job->frames);
    for (int g = 0; g < groups; g++) {
        int count = 0;
        int r = first_row(job, &part);
        int64_t f = part.low - r * job->frames;
        for (int64_t left = part.high - part.low; left > 0; left--, next_vector(job, &r, &f)) {
            const float *x = job->in[0].data + r * job->in[0].row + f * node->window.stride * frame + g * own;
            if (gathered) {
                float *to = gathered + (ptrdiff_t)count * width * own;
                for (int k = 0; k < width; k++)
                    memcpy(to + k * own, x + (ptrdiff_t)k * dilation * frame, (size_t)own * sizeof(float));
                x = to;
            }
            job->pointer_in[count] = x;
            job->pointer_out[count++] = cgru_frame(&job->out, r, f) + g * units;
            if (count == CGRU_BATCH) {
                multiply(job, node->matrix[g], count, &part);
                count = 0;
            }
        }
        if (count) multiply(job, node->matrix[g], count, &part);
    }
}

static int check_conv1d(const cgru_graph *g, const cgru_gnode *node)
{
    const cgru_value *x = cgru_input_of(g, node, 0);
    const int width = node->number[0], dilation = node->number[1], channels = node->number[2];
    if (x == NULL || x->content != CGRU_FEATURES || node->groups < 1 || width < 1 || dilation < 1) return 0;
    if (x->size != channels || channels % node->groups || node->window.span != (width - 1) * dilation + 1) return 0;
    if (x->clock == CGRU_ONCE || (x->clock == CGRU_STEPS && node->hold[0] < node->window.span - 1)) return 0;
    for (int i = 0; i < node->groups; i++) {
        const cgru_matrix *m = node->matrix[i];
        if (m->in_features != width * (channels / node->groups)) return 0;
        if (m->out_features * node->groups != g->values[node->out].size) return 0;
        if (node->activation == CGRU_SOFTMAX && node->groups > 1) return 0;
    }
    return 1;
}

const cgru_op cgru_op_conv1d = {"conv1d", 0, 1, check_conv1d, run_conv1d, .scratch = window_bytes, .share = CGRU_TOGETHER};

/* A convolution whose every channel reads itself alone: vector[0] (width, channels), vector[1] the bias or NULL.
 * number: width, dilation. Sums go in the order of the window, the bias first. */
static void run_depthwise(const cgru_job *job)
{
    const cgru_gnode *node = job->node;
    const int width = node->number[0], dilation = node->number[1], n = job->graph->values[node->out].size;
    const ptrdiff_t frame = job->in[0].frame;
    for (int r = 0; r < job->rows; r++) {
        job->graph->loops->depthwise(cgru_frame(&job->out, r, 0), job->out.frame, cgru_frame(&job->in[0], r, 0),
                                              node->window.stride * frame, dilation * frame, node->vector[0],
                                              node->vector[1], width, n, job->frames);
        for (int64_t f = 0; f < job->frames && node->activation != CGRU_LINEAR; f++) {
            float *y = cgru_frame(&job->out, r, f);
            if (node->activation == CGRU_SOFTMAX) cgru_softmax(y, n);
            else job->graph->kernels->of[CGRU_INT8]->activate(node->activation, y, n);
        }
    }
}

static int check_depthwise(const cgru_graph *g, const cgru_gnode *node)
{
    const cgru_value *x = cgru_input_of(g, node, 0);
    const int width = node->number[0], dilation = node->number[1];
    return x && x->content == CGRU_FEATURES && x->clock != CGRU_ONCE && width >= 1 && dilation >= 1 &&
           cgru_vector_fits(node, 0, (int64_t)width * x->size, 0) && cgru_vector_fits(node, 1, x->size, 1) &&
           node->window.span == (width - 1) * dilation + 1 && x->size == g->values[node->out].size &&
           (x->clock != CGRU_STEPS || node->hold[0] >= node->window.span - 1);
}

static int64_t cost_of_depthwise(const cgru_graph *g, const cgru_gnode *node)
{
    return (int64_t)(node->number[0] + 1) * g->values[node->out].size;
}

const cgru_op cgru_op_depthwise = {"depthwise", 0, 1, check_depthwise, run_depthwise, .share = CGRU_BY_FRAMES,
                                   .cost = cost_of_depthwise};
