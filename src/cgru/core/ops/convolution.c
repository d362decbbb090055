/* Convolutions and pooling over frames and the inner axes of a frame.
 *
 * Every number of the result is the bias and then its products in one order: channels, frames of the window, kernel. The
 * inputs are staged: copied once with their padding around them, and with the columns of a stride apart, so that every
 * tap of a kernel reads numbers side by side. A transposed convolution is one over inputs with zeros between them. */
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

const cgru_op cgru_op_stack_frames = {"stack_frames", 0, 1, check_stack_frames, run_stack_frames, .share = CGRU_BY_FRAMES};

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
        const int64_t in = i ? p->wide : p->high, out = i ? p->wide_out : p->high_out;
        const int64_t reach = ((int64_t)p->kernel[i] - 1) * p->dilation[i];
        if (in < 1 || out < 1 || in * p->stride[i] + out * p->stride[i] + reach + p->pad[i] > 1 << 30) return 0;
    }
    return 1;
}

/* ---- staging ------------------------------------------------------------------------------------------------------------ */

/* How the inputs of one axis are staged: input i lies at position `lead` + i · `apart`; of the positions, every `phases`-th
 * lies side by side. */
typedef struct {
    int size, lead, apart, phases, length; /* length: positions of a phase */
} staged_axis;

/* Inputs of a frame, [channel][row][phase][position], and what the kernel sees of them. */
typedef struct {
    const cgru_gnode *node;
    plane p;
    int channels, units, groups, width; /* width: frames of the window */
    int transposed, taps;
    staged_axis high, wide;
    ptrdiff_t row, channel, frame; /* numbers between rows, channels and staged frames */
    int ring;                      /* frames staged at a time */
    float *memory;
    int64_t *held;       /* (ring): which input frame lies there, -1 for none */
    const float **input; /* (width · taps) as cgru_convolution has them */
    ptrdiff_t *weight;
} stage;

/* Laid out from the arena; with an arena of NULL it only counts. */
static stage stage_of(const cgru_gnode *node, int vl, int transposed, cgru_arena *a)
{
    const int *n = node->number;
    stage s = {.node = node, .p = plane_of(node), .channels = n[0], .units = n[1], .groups = n[2], .width = n[3]};
    const plane *p = &s.p;
    s.transposed = transposed;
    s.taps = p->kernel[0] * p->kernel[1];
    s.ring = node->window.span;
    const int reach[2] = {(p->kernel[0] - 1) * p->dilation[0], (p->kernel[1] - 1) * p->dilation[1]};
    const int places = (p->wide_out + vl - 1) / vl * vl; /* read in whole vectors */
    if (transposed) {
        s.high = (staged_axis){p->high, reach[0] - p->pad[0], p->stride[0], 1, p->high_out + reach[0]};
        s.wide = (staged_axis){p->wide, reach[1] - p->pad[1], p->stride[1], 1, places + reach[1]};
    } else {
        s.high = (staged_axis){p->high, p->pad[0], 1, 1, (p->high_out - 1) * p->stride[0] + 1 + reach[0]};
        s.wide = (staged_axis){p->wide, p->pad[1], 1, p->stride[1], places + reach[1] / p->stride[1]};
    }
    s.row = (ptrdiff_t)s.wide.phases * s.wide.length;
    s.channel = s.row * s.high.length;
    s.frame = s.channel * s.channels;
    s.memory = cgru_take(a, (size_t)s.ring * (size_t)s.frame * sizeof(float));
    s.held = cgru_take(a, (size_t)s.ring * sizeof(int64_t));
    s.input = cgru_take(a, (size_t)(s.width * s.taps) * sizeof(float *));
    s.weight = cgru_take(a, (size_t)(s.width * s.taps) * sizeof(ptrdiff_t));
    return s;
}

static size_t stage_bytes(const cgru_graph *g, const cgru_gnode *node)
{
    cgru_arena counting = {NULL, 0};
    stage_of(node, g->kernels->vl, 0, &counting);
    const size_t plain = counting.used;
    counting.used = 0;
    stage_of(node, g->kernels->vl, 1, &counting);
    return counting.used > plain ? counting.used : plain;
}

/* One row of inputs to their positions; the others stay as they are. */
static void stage_row(const staged_axis *axis, float *to, const float *from)
{
    int first = 0, end = axis->size;
    const int positions = axis->phases * axis->length;
    if (axis->lead < 0) first = (-axis->lead + axis->apart - 1) / axis->apart;
    while (end > first && axis->lead + (end - 1) * axis->apart >= positions) end--;
    if (axis->phases == 1 && axis->apart == 1 && end > first) {
        memcpy(to + axis->lead + first, from + first, (size_t)(end - first) * sizeof(float));
        return;
    }
    for (int i = first; i < end; i++) {
        const int at = axis->lead + i * axis->apart;
        to[(ptrdiff_t)(at % axis->phases) * axis->length + at / axis->phases] = from[i];
    }
}

/* Input frame `at` of a row of the job, staged; the positions of padding hold zeros since begin_stage. */
static const float *staged(const stage *s, const cgru_job *job, int r, int64_t at)
{
    const int slot = (int)(at % s->ring);
    float *to = s->memory + slot * s->frame;
    if (s->held[slot] == at) return to;
    s->held[slot] = at;
    const float *x = cgru_frame(&job->in[0], r, at);
    for (int c = 0; c < s->channels; c++) {
        for (int i = 0; i < s->high.size; i++, x += s->wide.size) {
            const int row = s->high.lead + i * s->high.apart;
            if (row >= 0 && row < s->high.length) stage_row(&s->wide, to + c * s->channel + row * s->row, x);
        }
    }
    return to;
}

static void begin_stage(stage *s)
{
    memset(s->memory, 0, (size_t)s->ring * (size_t)s->frame * sizeof(float));
}

/* The taps of one frame of the window, whose inputs are staged at x: kernel number k of the window's frames. */
static int add_taps(const stage *s, int taps, const float *x, int k)
{
    const plane *p = &s->p;
    for (int i = 0; i < p->kernel[0]; i++) {
        for (int j = 0; j < p->kernel[1]; j++, taps++) {
            const int column = j * p->dilation[1], at = k * s->taps + i * p->kernel[1] + j;
            s->input[taps] = x + (ptrdiff_t)i * p->dilation[0] * s->row +
                             (ptrdiff_t)(column % s->wide.phases) * s->wide.length + column / s->wide.phases;
            s->weight[taps] = s->transposed ? (k + 1) * s->taps - 1 - (i * p->kernel[1] + j) : at;
        }
    }
    return taps;
}

/* ---- convolutions ------------------------------------------------------------------------------------------------------- */

/* number: channels, units, groups, width, dilation over time. vector: weight (O, C / groups, width, kernel), transposed
 * (C, O / groups, width, kernel), bias or NULL. Of every input frame of a transposed one come window.up frames, in which
 * the kernels of the frames before end. */
static void convolve(const cgru_job *job, int transposed)
{
    const cgru_gnode *node = job->node;
    cgru_arena a = {job->scratch, 0};
    stage s = stage_of(node, job->graph->kernels->vl, transposed, &a);
    const plane *p = &s.p;
    const int own = s.channels / s.groups, made = s.units / s.groups, kernel = s.width * s.taps, up = node->window.up;
    cgru_convolution c = {.units = s.units, .groups = s.groups, .channels = s.channels, .rows = p->high_out,
                          .places = p->wide_out, .input = s.input, .channel = s.channel,
                          .row = s.row * (transposed ? 1 : p->stride[0]), .weights = node->vector[0],
                          .bias = node->vector[1], .weight = s.weight,
                          .of_unit = transposed ? kernel : (ptrdiff_t)own * kernel,
                          .of_channel = transposed ? (ptrdiff_t)made * kernel : kernel,
                          .of_group = (ptrdiff_t)own * made * kernel};
    begin_stage(&s);
    for (int r = 0; r < job->rows; r++) {
        for (int i = 0; i < s.ring; i++) s.held[i] = -1;
        for (int64_t f = 0; f < job->frames; f++) {
            c.y = cgru_frame(&job->out, r, f);
            c.taps = 0;
            for (int k = 0; k < s.width; k++) {
                int64_t at = f * node->window.stride + (int64_t)k * node->number[4];
                if (transposed) {
                    const int late = k * node->number[4] - (int)(f % up); /* input frames back, times up */
                    if (late < 0 || late % up != 0) continue;
                    at = f / up + node->window.left - late / up;
                }
                c.taps = add_taps(&s, c.taps, staged(&s, job, r, at), k);
            }
            job->graph->loops->convolve(&c);
            if (node->activation != CGRU_LINEAR)
                job->graph->kernels->of[CGRU_INT8]->activate(node->activation, c.y, (ptrdiff_t)s.units * c.rows * c.places);
        }
    }
}

static void run_conv(const cgru_job *job)
{
    convolve(job, 0);
}

static void run_conv_transpose(const cgru_job *job)
{
    convolve(job, 1);
}

static int check_sizes(const cgru_graph *g, const cgru_gnode *node)
{
    const cgru_value *x = cgru_input_of(g, node, 0);
    const plane p = plane_of(node);
    const int channels = node->number[0], units = node->number[1], groups = node->number[2];
    return x && x->content == CGRU_FEATURES && plane_fits(&p) && groups >= 1 && channels >= 1 && units >= 1 &&
           channels % groups == 0 && units % groups == 0 && node->number[3] >= 1 &&
           node->activation != CGRU_SOFTMAX && (int64_t)channels * p.high * p.wide == x->size &&
           (int64_t)units * p.high_out * p.wide_out == g->values[node->out].size;
}

static int check_conv(const cgru_graph *g, const cgru_gnode *node)
{
    const int64_t taps = (int64_t)node->number[3] * node->stride[0][0] * node->stride[0][1];
    return check_sizes(g, node) && cgru_vector_fits(node, 1, node->number[1], 1) &&
           cgru_vector_fits(node, 0, (int64_t)node->number[0] / node->number[2] * node->number[1] * taps, 0);
}

static int check_conv2d(const cgru_graph *g, const cgru_gnode *node)
{
    return check_conv(g, node) && check_window(g, node, node->number[3], node->number[4]);
}

static int check_conv_inner(const cgru_graph *g, const cgru_gnode *node)
{
    return check_conv(g, node) && node->number[3] == 1;
}

/* Every weight at every place of the result; the zeros between the inputs of a transposed one are skipped at best. */
static int64_t cost_of_conv(const cgru_graph *g, const cgru_gnode *node)
{
    return node->numbers[0] * (g->values[node->out].size / node->number[1]);
}

const cgru_op cgru_op_conv2d = {"conv2d", 0, 1, check_conv2d, run_conv, .scratch = stage_bytes, .share = CGRU_BY_FRAMES,
                                .cost = cost_of_conv};
const cgru_op cgru_op_conv_inner = {"conv_inner", 0, 0, check_conv_inner, run_conv, .scratch = stage_bytes,
                                    .share = CGRU_BY_FRAMES, .cost = cost_of_conv};

static int check_conv_transpose(const cgru_graph *g, const cgru_gnode *node)
{
    const cgru_value *x = cgru_input_of(g, node, 0);
    const cgru_window *w = &node->window;
    return check_conv(g, node) && x->clock != CGRU_ONCE && node->number[4] >= 1 && w->stride == 1 && w->left == w->span - 1 &&
           w->span * w->up > (node->number[3] - 1) * node->number[4] && (x->clock != CGRU_STEPS || node->hold[0] >= w->span - 1);
}

const cgru_op cgru_op_conv_transpose = {"conv_transpose", 0, 1, check_conv_transpose, run_conv_transpose,
                                        .scratch = stage_bytes, .share = CGRU_BY_FRAMES, .cost = cost_of_conv};
const cgru_op cgru_op_conv_transpose_inner = {"conv_transpose_inner", 0, 0, check_conv_inner, run_conv_transpose,
                                              .scratch = stage_bytes, .share = CGRU_BY_FRAMES, .cost = cost_of_conv};

/* ---- convolutions of few places, as products with a matrix ------------------------------------------------------------- */

/* The scratch of a batch of windows, laid out from the arena; with an arena of NULL it only counts. */
typedef struct {
    float *windows, *sums; /* (batch, inputs of a window), (batch, units of a group) */
    float **to;            /* the first unit's number of each */
} products;

static products products_of(const cgru_gnode *node, cgru_arena *a)
{
    const cgru_matrix *m = node->matrix[0];
    products s;
    s.windows = cgru_take(a, CGRU_BATCH * (size_t)m->in_features * sizeof(float));
    s.sums = cgru_take(a, CGRU_BATCH * (size_t)m->out_features * sizeof(float));
    s.to = cgru_take(a, CGRU_BATCH * sizeof(float *));
    return s;
}

static size_t products_bytes(const cgru_graph *g, const cgru_gnode *node)
{
    cgru_arena counting = {NULL, 0};
    (void)g;
    products_of(node, &counting);
    return counting.used;
}

/* What the kernels of a group see at a place of the result, in the order of their weights; zeros for padding. */
static void fill_window(const cgru_job *job, const plane *p, float *to, int r, int64_t f, int first, int place)
{
    const cgru_gnode *node = job->node;
    const int own = node->number[0] / node->number[2], width = node->number[3];
    const int row = place / p->wide_out * p->stride[0] - p->pad[0], column = place % p->wide_out * p->stride[1] - p->pad[1];
    for (int c = 0; c < own; c++) {
        for (int k = 0; k < width; k++) {
            const float *x = cgru_frame(&job->in[0], r, f * node->window.stride + (int64_t)k * node->number[4]);
            x += (ptrdiff_t)(first + c) * p->high * p->wide;
            for (int i = 0; i < p->kernel[0]; i++, to += p->kernel[1]) {
                const int at = row + i * p->dilation[0];
                const float *from = x + (ptrdiff_t)at * p->wide;
                for (int j = 0; j < p->kernel[1]; j++) {
                    const int along = column + j * p->dilation[1];
                    to[j] = at >= 0 && at < p->high && along >= 0 && along < p->wide ? from[along] : 0.0f;
                }
            }
        }
    }
}

static void multiply(const cgru_job *job, const cgru_matrix *m, const products *s, int count, int places)
{
    m->arithmetic->linear(m, job->node->activation, count, job->pointer_in, job->pointer_out, job->quantized_input, 0,
                          m->panels);
    for (int i = 0; i < count && places > 1; i++) {
        for (int o = 0; o < m->out_features; o++) s->to[i][(ptrdiff_t)o * places] = job->pointer_out[i][o];
    }
}

/* number as in a convolution; a matrix (units, inputs of a window) for each group. */
static void run_product(const cgru_job *job)
{
    const cgru_gnode *node = job->node;
    const plane p = plane_of(node);
    const int own = node->number[0] / node->number[2], places = p.high_out * p.wide_out;
    cgru_arena a = {job->scratch, 0};
    const products s = products_of(node, &a);
    for (int g = 0; g < node->groups; g++) {
        const cgru_matrix *m = node->matrix[g];
        int count = 0;
        for (int r = 0; r < job->rows; r++) {
            for (int64_t f = 0; f < job->frames; f++) {
                for (int place = 0; place < places; place++) {
                    float *window = s.windows + (ptrdiff_t)count * m->in_features;
                    fill_window(job, &p, window, r, f, g * own, place);
                    s.to[count] = cgru_frame(&job->out, r, f) + (ptrdiff_t)g * m->out_features * places + place;
                    job->pointer_in[count] = window;
                    job->pointer_out[count] = places > 1 ? s.sums + (ptrdiff_t)count * m->out_features : s.to[count];
                    if (++count == CGRU_BATCH) {
                        multiply(job, m, &s, count, places);
                        count = 0;
                    }
                }
            }
        }
        if (count) multiply(job, m, &s, count, places);
    }
}

static int check_product(const cgru_graph *g, const cgru_gnode *node)
{
    const int groups = node->number[2];
    if (node->groups != groups || !check_sizes(g, node)) return 0;
    const int64_t window = (int64_t)node->number[0] / groups * node->number[3] * node->stride[0][0] * node->stride[0][1];
    for (int i = 0; i < groups; i++) {
        const cgru_matrix *m = node->matrix[i];
        if (m->in_features != window || m->out_features != node->number[1] / groups) return 0;
    }
    return 1;
}

static int check_conv2d_product(const cgru_graph *g, const cgru_gnode *node)
{
    return check_product(g, node) && check_window(g, node, node->number[3], node->number[4]);
}

static int check_conv_inner_product(const cgru_graph *g, const cgru_gnode *node)
{
    return check_product(g, node) && node->number[3] == 1;
}

const cgru_op cgru_op_conv2d_product = {"conv2d_product", 0, 1, check_conv2d_product, run_product,
                                        .scratch = products_bytes, .share = CGRU_BY_FRAMES};
const cgru_op cgru_op_conv_inner_product = {"conv_inner_product", 0, 0, check_conv_inner_product, run_product,
                                            .scratch = products_bytes, .share = CGRU_BY_FRAMES};

/* ---- pooling ------------------------------------------------------------------------------------------------------------ */

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

const cgru_op cgru_op_pool_inner = {"pool_inner", 0, 0, check_pool_inner, run_pool_inner, .share = CGRU_BY_FRAMES};
