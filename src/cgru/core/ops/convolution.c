/* Convolutions and pooling over frames and the inner axes of a frame, by loops along the last axis.
 *
 * Every number of the result is the bias and then its products in one order: channels, frames of the window, kernel. */
#include <math.h>
#include <string.h>

#include "ops.h"

/* number[0]: width, number[1]: dilation. The frames of the window one after the other. */
static void run_stack_frames(const cgru_job *job)
{
    const cgru_gnode *node = job->node;
    const int width = node->number[0], dilation = node->number[1], n = job->graph->values[node->out].size / width;
    for (int r = 0; r < job->rows; r++) {
        for (int64_t f = 0; f < job->frames; f++) {
            float *y = cgru_frame(&job->out, r, f);
            for (int k = 0; k < width; k++)
                memcpy(y + (ptrdiff_t)k * n, cgru_frame(&job->in[0], r, f * node->window.stride + (int64_t)k * dilation),
                       (size_t)n * sizeof(float));
        }
    }
}

static int check_window(const cgru_graph *g, const cgru_gnode *node, int width, int dilation)
{
    const cgru_value *x = cgru_input_of(g, node, 0);
    return x && x->content == CGRU_FEATURES && x->clock != CGRU_ONCE && width >= 1 && dilation >= 1 &&
           node->window.span == (width - 1) * dilation + 1 && (x->clock != CGRU_STEPS || node->hold[0] >= node->window.span - 1);
}

static int check_stack_frames(const cgru_graph *g, const cgru_gnode *node)
{
    const cgru_value *x = cgru_input_of(g, node, 0);
    return check_window(g, node, node->number[0], node->number[1]) &&
           (int64_t)x->size * node->number[0] == g->values[node->out].size;
}

const cgru_op cgru_op_stack_frames = {"stack_frames", 0, 1, check_stack_frames, run_stack_frames};

/* The two inner axes of a frame (one of them 1 where there is one): sizes in and out, kernel, strides, dilations, padding before. */
typedef struct {
    int high, wide, high_out, wide_out, kernel[2], stride[2], dilation[2], pad[2];
} plane;

/* size: high, wide, high_out, wide_out; stride: kernel and strides; dilations and padding. */
static plane plane_of(const cgru_gnode *node)
{
    const int *n = node->size, *a = node->stride[0], *b = node->stride[1];
    return (plane){n[0], n[1], n[2], n[3], {a[0], a[1]}, {a[2], a[3]}, {b[0], b[1]}, {b[2], b[3]}};
}

static int plane_fits(const plane *p)
{
    for (int i = 0; i < 2; i++) {
        if (p->kernel[i] < 1 || p->stride[i] < 1 || p->dilation[i] < 1 || p->pad[i] < 0) return 0;
    }
    return p->high >= 1 && p->wide >= 1 && p->high_out >= 1 && p->wide_out >= 1;
}

/* Places of the result at which tap k of a kernel lies within the input: [*from, *to). */
static void places(int k, int size, int size_out, int stride, int dilation, int pad, int *from, int *to)
{
    const int offset = k * dilation - pad;
    *from = offset < 0 ? (-offset + stride - 1) / stride : 0;
    *to = size - offset <= 0 ? 0 : (size - offset - 1) / stride + 1;
    if (*to > size_out) *to = size_out;
}

/* y[j] += w · x[j · stride] */
static void add_row(float *restrict y, const float *restrict x, float w, int n, int stride)
{
    if (stride == 1) for (int j = 0; j < n; j++) y[j] += w * x[j];
    else for (int j = 0; j < n; j++) y[j] += w * x[(ptrdiff_t)j * stride];
}

/* One channel of one frame with one channel's kernel (kernel[0], kernel[1]) added to one channel of the result. */
static void add_plane(const plane *p, float *y, const float *x, const float *w)
{
    int top, bottom, left, right;
    for (int i = 0; i < p->kernel[0]; i++) {
        places(i, p->high, p->high_out, p->stride[0], p->dilation[0], p->pad[0], &top, &bottom);
        for (int k = 0; k < p->kernel[1]; k++) {
            places(k, p->wide, p->wide_out, p->stride[1], p->dilation[1], p->pad[1], &left, &right);
            const int start = left * p->stride[1] + k * p->dilation[1] - p->pad[1];
            for (int row = top; row < bottom && right > left; row++) {
                const int from = row * p->stride[0] + i * p->dilation[0] - p->pad[0];
                add_row(y + (ptrdiff_t)row * p->wide_out + left, x + (ptrdiff_t)from * p->wide + start,
                        w[i * p->kernel[1] + k], right - left, p->stride[1]);
            }
        }
    }
}

/* number: channels, units, groups, width, dilation over time. vector: weight (O, C / groups, width, kernel), bias or NULL. */
static void run_conv(const cgru_job *job)
{
    const cgru_gnode *node = job->node;
    const plane p = plane_of(node);
    const int channels = node->number[0], units = node->number[1], groups = node->number[2], width = node->number[3];
    const int own = channels / groups, taps = p.kernel[0] * p.kernel[1];
    const ptrdiff_t in = (ptrdiff_t)p.high * p.wide, out = (ptrdiff_t)p.high_out * p.wide_out;
    for (int r = 0; r < job->rows; r++) {
        for (int64_t f = 0; f < job->frames; f++) {
            float *frame = cgru_frame(&job->out, r, f);
            for (int o = 0; o < units; o++) {
                float *y = frame + o * out;
                const float *w = node->vector[0] + (ptrdiff_t)o * own * width * taps, bias = node->vector[1] ? node->vector[1][o] : 0;
                for (ptrdiff_t i = 0; i < out; i++) y[i] = bias;
                for (int c = 0; c < own; c++) {
                    const ptrdiff_t channel = (o / (units / groups) * own + c) * in;
                    for (int k = 0; k < width; k++, w += taps) {
                        const int64_t at = f * node->window.stride + (int64_t)k * node->number[4];
                        add_plane(&p, y, cgru_frame(&job->in[0], r, at) + channel, w);
                    }
                }
            }
            if (node->activation != CGRU_LINEAR)
                job->graph->kernels->of[CGRU_INT8]->activate(node->activation, frame, (ptrdiff_t)units * out);
        }
    }
}

static int check_conv(const cgru_graph *g, const cgru_gnode *node)
{
    const cgru_value *x = cgru_input_of(g, node, 0);
    const plane p = plane_of(node);
    const int channels = node->number[0], units = node->number[1], groups = node->number[2];
    return x && x->content == CGRU_FEATURES && plane_fits(&p) && groups >= 1 && channels >= 1 && units >= 1 &&
           channels % groups == 0 && units % groups == 0 && node->number[3] >= 1 && node->vector[0] &&
           node->activation != CGRU_SOFTMAX && (int64_t)channels * p.high * p.wide == x->size &&
           (int64_t)units * p.high_out * p.wide_out == g->values[node->out].size;
}

static int check_conv2d(const cgru_graph *g, const cgru_gnode *node)
{
    return check_conv(g, node) && check_window(g, node, node->number[3], node->number[4]);
}

static int check_conv_inner(const cgru_graph *g, const cgru_gnode *node)
{
    return check_conv(g, node) && node->number[3] == 1;
}

const cgru_op cgru_op_conv2d = {"conv2d", 0, 1, check_conv2d, run_conv};
const cgru_op cgru_op_conv_inner = {"conv_inner", 0, 0, check_conv_inner, run_conv};

/* One channel of a frame, each of whose numbers adds the kernel at its own place. The plane's sizes in are those of x. */
static void scatter_plane(const plane *p, float *y, const float *x, const float *w)
{
    int top, bottom, left, right;
    for (int i = 0; i < p->kernel[0]; i++) {
        places(i, p->high_out, p->high, p->stride[0], p->dilation[0], p->pad[0], &top, &bottom);
        for (int k = 0; k < p->kernel[1]; k++) {
            places(k, p->wide_out, p->wide, p->stride[1], p->dilation[1], p->pad[1], &left, &right);
            const float weight = w[i * p->kernel[1] + k];
            for (int row = top; row < bottom && right > left; row++) {
                const int at = row * p->stride[0] + i * p->dilation[0] - p->pad[0];
                float *restrict to = y + (ptrdiff_t)at * p->wide_out + k * p->dilation[1] - p->pad[1];
                const float *restrict from = x + (ptrdiff_t)row * p->wide;
                for (int j = left; j < right; j++) to[(ptrdiff_t)j * p->stride[1]] += weight * from[j];
            }
        }
    }
}

/* As conv; vector[0] is (C, O / groups, width, kernel). Of every input frame come window.up frames, in which the kernels of
 * the frames before end. */
static void run_conv_transpose(const cgru_job *job)
{
    const cgru_gnode *node = job->node;
    const plane p = plane_of(node);
    const int channels = node->number[0], units = node->number[1], groups = node->number[2], width = node->number[3];
    const int own = channels / groups, made = units / groups, taps = p.kernel[0] * p.kernel[1], up = node->window.up;
    const ptrdiff_t in = (ptrdiff_t)p.high * p.wide, out = (ptrdiff_t)p.high_out * p.wide_out;
    for (int r = 0; r < job->rows; r++) {
        for (int64_t f = 0; f < job->frames; f++) {
            float *frame = cgru_frame(&job->out, r, f);
            for (int o = 0; o < units; o++) {
                float *y = frame + o * out;
                for (ptrdiff_t i = 0; i < out; i++) y[i] = node->vector[1] ? node->vector[1][o] : 0.0f;
                for (int c = 0; c < own; c++) {
                    const int channel = o / made * own + c;
                    const float *w = node->vector[0] + ((ptrdiff_t)channel * made + o % made) * width * taps;
                    for (int k = 0; k < width; k++) {
                        const int late = k * node->number[4] - (int)(f % up); /* input frames back, times up */
                        if (late < 0 || late % up != 0) continue;
                        const int64_t at = f / up + node->window.left - late / up;
                        scatter_plane(&p, y, cgru_frame(&job->in[0], r, at) + channel * in, w + (ptrdiff_t)k * taps);
                    }
                }
            }
            if (node->activation != CGRU_LINEAR)
                job->graph->kernels->of[CGRU_INT8]->activate(node->activation, frame, (ptrdiff_t)units * out);
        }
    }
}

static int check_conv_transpose(const cgru_graph *g, const cgru_gnode *node)
{
    const cgru_value *x = cgru_input_of(g, node, 0);
    const cgru_window *w = &node->window;
    return check_conv(g, node) && x->clock != CGRU_ONCE && node->number[4] >= 1 && w->stride == 1 && w->left == w->span - 1 &&
           w->span * w->up > (node->number[3] - 1) * node->number[4] && (x->clock != CGRU_STEPS || node->hold[0] >= w->span - 1);
}

const cgru_op cgru_op_conv_transpose = {"conv_transpose", 0, 1, check_conv_transpose, run_conv_transpose};
const cgru_op cgru_op_conv_transpose_inner = {"conv_transpose_inner", 0, 0, check_conv_inner, run_conv_transpose};

/* number[0]: channels; kind: 0 largest, 1 average; flag: padding counts as zeros for the average. */
static void run_pool_inner(const cgru_job *job)
{
    const cgru_gnode *node = job->node;
    const plane p = plane_of(node);
    for (int r = 0; r < job->rows; r++) {
        for (int64_t f = 0; f < job->frames; f++) {
            const float *x = cgru_frame(&job->in[0], r, f);
            float *y = cgru_frame(&job->out, r, f);
            for (int c = 0; c < node->number[0]; c++, x += (ptrdiff_t)p.high * p.wide) {
                for (int row = 0; row < p.high_out; row++) {
                    for (int column = 0; column < p.wide_out; column++) {
                        float sum = 0.0f, top = -INFINITY;
                        int seen = 0;
                        for (int i = 0; i < p.kernel[0]; i++) {
                            const int at = row * p.stride[0] + i * p.dilation[0] - p.pad[0];
                            if (at < 0 || at >= p.high) continue;
                            for (int k = 0; k < p.kernel[1]; k++) {
                                const int along = column * p.stride[1] + k * p.dilation[1] - p.pad[1];
                                if (along < 0 || along >= p.wide) continue;
                                const float v = x[(ptrdiff_t)at * p.wide + along];
                                top = v > top || v != v ? v : top;
                                sum += v;
                                seen++;
                            }
                        }
                        const int count = node->flag ? p.kernel[0] * p.kernel[1] : seen;
                        *y++ = node->kind == 0 ? top : sum / (float)count;
                    }
                }
            }
        }
    }
}

static int check_pool_inner(const cgru_graph *g, const cgru_gnode *node)
{
    const cgru_value *x = cgru_input_of(g, node, 0);
    const plane p = plane_of(node);
    return x && x->content == CGRU_FEATURES && plane_fits(&p) && node->number[0] >= 1 &&
           (int64_t)node->number[0] * p.high * p.wide == x->size &&
           (int64_t)node->number[0] * p.high_out * p.wide_out == g->values[node->out].size;
}

const cgru_op cgru_op_pool_inner = {"pool_inner", 0, 0, check_pool_inner, run_pool_inner};
