/* Recurrences along an inner axis of each frame, and states that a graph reads and writes itself. */
#include <math.h>
#include <string.h>

#include "ops.h"

enum { GRU_AFTER, LSTM, RNN, CELLS };
static const int GATES[] = {3, 4, 1};

/* What a batch of recurrences works with: for each one the gates of a few steps from the input, the gates from the state,
 * and h and c. */
typedef struct {
    const cgru_job *job;
    const cgru_matrix *x, *h;
    int units, gates, cell;
    float *from_x, *from_h, *state;
} batch;

static void multiply(const batch *b, const cgru_matrix *m, int count)
{
    m->arithmetic->linear(m, CGRU_LINEAR, count, b->job->pointer_in, b->job->pointer_out, b->job->quantized_input, 0,
                          m->panels);
}

/* One recurrence by one step: a are its gates from the input and r those from the state, both with their biases. */
static void advance(const batch *b, float *restrict a, float *restrict r, float *restrict h)
{
    const int n = b->units;
    void (*activate)(int, float *, ptrdiff_t) = b->job->graph->kernels->of[CGRU_INT8]->activate;
    if (b->cell == RNN) {
        for (int i = 0; i < n; i++) h[i] = a[i] + r[i];
        activate(CGRU_TANH, h, n);
        return;
    }
    if (b->cell == GRU_AFTER) {
        for (int i = 0; i < 2 * n; i++) a[i] += r[i];
        activate(CGRU_SIGMOID, a, 2 * n);
        for (int i = 0; i < n; i++) a[2 * n + i] += a[i] * r[2 * n + i];
        activate(CGRU_TANH, a + 2 * n, n);
        for (int i = 0; i < n; i++) h[i] = a[n + i] * h[i] + (1.0f - a[n + i]) * a[2 * n + i];
        return;
    }
    float *restrict c = h + n;
    const float *peephole = b->job->node->vector[0]; /* of i, f and o, or NULL */
    for (int i = 0; i < 4 * n; i++) a[i] += r[i];
    for (int i = 0; peephole && i < 2 * n; i++) a[i] += peephole[i] * c[i % n];
    activate(CGRU_SIGMOID, a, 2 * n);
    activate(CGRU_TANH, a + 2 * n, n);
    for (int i = 0; i < n; i++) c[i] = a[n + i] * c[i] + a[i] * a[2 * n + i];
    for (int i = 0; peephole && i < n; i++) a[3 * n + i] += peephole[2 * n + i] * c[i];
    activate(CGRU_SIGMOID, a + 3 * n, n);
    memcpy(h, c, (size_t)n * sizeof(float));
    activate(CGRU_TANH, h, n);
    for (int i = 0; i < n; i++) h[i] *= a[3 * n + i];
}

/* Recurrence number i of the job: row, frame and row of the frame. */
static void place(const cgru_job *job, int64_t i, int lines, int *row, int64_t *frame, int *line)
{
    *line = (int)(i % lines);
    *frame = i / lines % job->frames;
    *row = (int)(i / lines / job->frames);
}

/* number: rows of a frame, steps along the axis, inputs, units; kind: the cell; flag: from the end; offset: what comes out, h
 * or c (1). in[1], in[2]: h0 and c0. Of each recurrence the sums are the same, whatever runs beside it. */
static void run_scan_inner(const cgru_job *job)
{
    const cgru_gnode *node = job->node;
    const int lines = node->number[0], steps = node->number[1], inputs = node->number[2], n = node->number[3];
    batch b = {job, node->matrix[0], node->matrix[1], n, GATES[node->kind] * n, node->kind, job->gather, NULL, NULL};
    b.from_h = b.from_x + job->batch * b.gates;
    b.state = b.from_h + job->batch * b.gates;
    const int64_t total = (int64_t)job->rows * job->frames * lines;
    int64_t together = job->batch / (steps < job->batch ? steps : job->batch);
    if (together > total) together = total;
    const int piece = together ? (int)(job->batch / together) : 0; /* steps whose input side is multiplied at once */
    for (int64_t begin = 0; begin < total; begin += together) {
        const int many = (int)(total - begin < together ? total - begin : together);
        int row, line;
        int64_t frame;
        for (int i = 0; i < many; i++) {
            float *h = b.state + (ptrdiff_t)i * 2 * n;
            place(job, begin + i, lines, &row, &frame, &line);
            for (int k = 0; k < 2; k++) {
                if (job->in[1 + k].data == NULL || node->inputs < 2 + k) memset(h + k * n, 0, (size_t)n * sizeof(float));
                else memcpy(h + k * n, cgru_frame(&job->in[1 + k], row, frame) + (ptrdiff_t)line * n, (size_t)n * sizeof(float));
            }
        }
        for (int done = 0; done < steps; done += piece) {
            const int some = steps - done < piece ? steps - done : piece;
            for (int i = 0; i < many; i++) {
                place(job, begin + i, lines, &row, &frame, &line);
                for (int s = 0; s < some; s++) {
                    const int at = node->flag ? steps - 1 - done - s : done + s;
                    job->pointer_in[i * some + s] = cgru_frame(&job->in[0], row, frame) + ((ptrdiff_t)line * steps + at) * inputs;
                    job->pointer_out[i * some + s] = b.from_x + ((ptrdiff_t)i * some + s) * b.gates;
                }
            }
            multiply(&b, b.x, many * some);
            for (int s = 0; s < some; s++) {
                for (int i = 0; i < many; i++) {
                    job->pointer_in[i] = b.state + (ptrdiff_t)i * 2 * n;
                    job->pointer_out[i] = b.from_h + (ptrdiff_t)i * b.gates;
                }
                multiply(&b, b.h, many);
                const int at = node->flag ? steps - 1 - done - s : done + s;
                for (int i = 0; i < many; i++) {
                    float *h = b.state + (ptrdiff_t)i * 2 * n;
                    advance(&b, b.from_x + ((ptrdiff_t)i * some + s) * b.gates, b.from_h + (ptrdiff_t)i * b.gates, h);
                    place(job, begin + i, lines, &row, &frame, &line);
                    memcpy(cgru_frame(&job->out, row, frame) + ((ptrdiff_t)line * steps + at) * n, h + node->offset * n,
                           (size_t)n * sizeof(float));
                }
            }
        }
    }
}

static int check_scan_inner(const cgru_graph *g, const cgru_gnode *node)
{
    const cgru_value *x = cgru_input_of(g, node, 0);
    const int64_t lines = node->number[0], steps = node->number[1], inputs = node->number[2], n = node->number[3];
    if (!x || x->content != CGRU_FEATURES || node->kind < 0 || node->kind >= CELLS || node->groups != 2 || lines < 1 || steps < 1)
        return 0;
    const cgru_matrix *w = node->matrix[0], *r = node->matrix[1];
    const int gates = GATES[node->kind];
    for (int k = 1; k < 3; k++) {
        const cgru_value *given = cgru_input_of(g, node, k);
        if (given && (given->content != CGRU_FEATURES || given->size != lines * n)) return 0;
    }
    return w->in_features == inputs && w->out_features == gates * n && r->in_features == n && r->out_features == gates * n &&
           node->gather >= 2 * gates * n + 2 * n && x->size == lines * steps * inputs &&
           g->values[node->out].size == lines * steps * n && (node->offset == 0 || (node->offset == 1 && node->kind == LSTM));
}

const cgru_op cgru_op_scan_inner = {"scan_inner", 0, 0, check_scan_inner, run_scan_inner};

/* offset: where in a state row the array lies. A graph with these runs a step at a time. */
static void run_carried(const cgru_job *job)
{
    const size_t bytes = (size_t)job->graph->values[job->node->out].size * sizeof(float);
    for (int r = 0; r < job->rows; r++) {
        for (int64_t f = 0; f < job->frames; f++) memcpy(cgru_frame(&job->out, r, f), cgru_state_row(job, r) + job->node->offset, bytes);
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

const cgru_op cgru_op_carry = {"carry", 0, 0, check_carry, run_carry};
