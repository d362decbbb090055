/* Recurrences whose frames have lines that share weights: over time, each line with a state of its own, and along an
 * inner axis of every frame. The cells are those of chains (kernels.h), which see a line as they see a row. */
#include <math.h>
#include <string.h>

#include "ops.h"

/* Scratch for a batch of lines, or of lines by steps where the input side is concerned. */
typedef struct {
    const cgru_scan *scan;
    cgru_prepared quantized_input;
    ptrdiff_t projection;                /* numbers of the input side of one line and step */
    float *projected, *zero;             /* (batch, projection); (units) */
    float *h, *c;                        /* (batch, 2, units): where no result takes it; (batch, units) */
    const float **in, **from_x, **h_now; /* of the lines that step: inputs, their input side, the state before */
    float **to, **out, **cell_state, **phase_scratch;
    float *range;
    const float **current; /* of every line: where its h lies */
    int *active;
} lines;

/* Laid out from the arena; with an arena of NULL it only counts. */
static lines lay_out(const cgru_gnode *node, int vl, cgru_arena *a)
{
    const cgru_scan *scan = node->scan.direction[0].scan;
    const size_t batch = CGRU_BATCH, units = (size_t)scan->hidden, padded = (size_t)(scan->panels * vl);
    lines l = {.scan = scan, .projection = (ptrdiff_t)padded * scan->x.gates};
    l.projected = cgru_take(a, batch * (size_t)l.projection * sizeof(float));
    l.zero = cgru_take(a, units * sizeof(float));
    l.h = cgru_take(a, batch * 2 * units * sizeof(float));
    l.c = cgru_take(a, batch * units * sizeof(float));
    float *scratch = cgru_take(a, batch * 2 * padded * sizeof(float));
    l.in = cgru_take(a, batch * sizeof(float *));
    l.from_x = cgru_take(a, batch * sizeof(float *));
    l.h_now = cgru_take(a, batch * sizeof(float *));
    l.to = cgru_take(a, batch * sizeof(float *));
    l.out = cgru_take(a, batch * sizeof(float *));
    l.cell_state = cgru_take(a, batch * sizeof(float *));
    l.phase_scratch = cgru_take(a, batch * sizeof(float *));
    l.range = cgru_take(a, batch * sizeof(float));
    l.current = cgru_take(a, batch * sizeof(float *));
    l.active = cgru_take(a, batch * sizeof(int));
    if (a->at) {
        memset(l.zero, 0, units * sizeof(float));
        for (size_t i = 0; i < batch; i++) l.phase_scratch[i] = scratch + i * 2 * padded;
    }
    return l;
}

static size_t scratch_bytes(const cgru_graph *g, const cgru_gnode *node)
{
    cgru_arena counting = {NULL, 0};
    lay_out(node, g->kernels->vl, &counting);
    return counting.used;
}

static lines lines_of(const cgru_job *job)
{
    cgru_arena a = {job->scratch, 0};
    lines l = lay_out(job->node, job->graph->kernels->vl, &a);
    l.quantized_input = job->quantized_input;
    return l;
}

/* The input side of the first `count` inputs, into projected one after the other. */
static void project(const lines *l, int count)
{
    for (int i = 0; i < count; i++) l->to[i] = l->projected + i * l->projection;
    l->scan->x.arithmetic->project(&l->scan->x, count, l->in, l->to, l->quantized_input, 0, l->scan->panels);
}

/* One step of the first `count` lines, whose pointers are set. */
static void step(const lines *l, int count, int64_t at)
{
    const cgru_rows rows = {.n = count, .backwards = (int)(at & 1), .proj = l->from_x, .h = l->h_now, .out = l->out,
                            .cell_state = l->cell_state, .scratch = l->phase_scratch, .range = l->range,
                            .quantized_input = l->quantized_input};
    for (int phase = 0; phase < l->scan->cell->phases; phase++)
        l->scan->cell->step(l->scan, &rows, phase, 0, phase == 0 ? l->scan->panels : l->scan->phase1.panels);
}

/* The largest |h| that int8 allows for, as in a chain. A NaN is left to the kernels. */
static float range_of(const cgru_scan *scan, const float *h, int64_t n)
{
    float range = 0.0f;
    if (!scan->bounded || scan->h.scale == NULL) return range;
    range = 1.0f;
    for (int64_t i = 0; i < n; i++) range = fabsf(h[i]) > range ? fabsf(h[i]) : range;
    return range;
}

/* A cell that begins and ends with the units' own numbers, over frames of so many lines. */
static int fits(const cgru_gnode *node, int64_t count, int size)
{
    const cgru_scan *scan = node->scan.direction[0].scan;
    return scan && node->scan.directions == 0 && count >= 1 && scan->out == scan->hidden && count * scan->hidden == size;
}

/* ---- along an inner axis --------------------------------------------------------------------------------------------- */

/* Line number i of the job: row, frame and line of the frame. */
static void place(const cgru_job *job, int64_t i, int count, int *row, int64_t *frame, int *line)
{
    *line = (int)(i % count);
    *frame = i / count % job->frames;
    *row = (int)(i / count / job->frames);
}

/* number: lines of a frame, steps along the axis; kind: what comes out, h or c (1). in[1], in[2]: h0 and c0. */
static void run_scan_inner(const cgru_job *job)
{
    const cgru_gnode *node = job->node;
    const lines l = lines_of(job);
    const int count = node->number[0], steps = node->number[1], n = l.scan->hidden, inputs = l.scan->input;
    const int64_t total = (int64_t)job->rows * job->frames * count;
    int64_t together = CGRU_BATCH / (steps < CGRU_BATCH ? steps : CGRU_BATCH);
    if (together > total) together = total;
    const int piece = together ? (int)(CGRU_BATCH / together) : 1; /* steps whose input side is multiplied at once */
    for (int64_t begin = 0; begin < total; begin += together) {
        const int many = (int)(total - begin < together ? total - begin : together);
        int row, line;
        int64_t frame;
        for (int i = 0; i < many; i++) {
            const float *given[2] = {l.zero, l.zero};
            place(job, begin + i, count, &row, &frame, &line);
            for (int k = 0; k < 2; k++) {
                if (k + 1 < node->inputs && job->in[k + 1].data)
                    given[k] = cgru_frame(&job->in[k + 1], row, frame) + (ptrdiff_t)line * n;
            }
            l.current[i] = given[0];
            l.range[i] = range_of(l.scan, given[0], n);
            l.cell_state[i] = l.c + (ptrdiff_t)i * n;
            memcpy(l.cell_state[i], given[1], (size_t)n * sizeof(float));
        }
        for (int done = 0; done < steps; done += piece) {
            const int some = steps - done < piece ? steps - done : piece;
            for (int i = 0; i < many; i++) {
                place(job, begin + i, count, &row, &frame, &line);
                const float *x = cgru_frame(&job->in[0], row, frame) + (ptrdiff_t)line * steps * inputs;
                for (int s = 0; s < some; s++) {
                    const int at = node->scan.direction[0].reverse ? steps - 1 - done - s : done + s;
                    l.in[i * some + s] = x + (ptrdiff_t)at * inputs;
                }
            }
            project(&l, many * some);
            for (int s = 0; s < some; s++) {
                const int at = node->scan.direction[0].reverse ? steps - 1 - done - s : done + s;
                for (int i = 0; i < many; i++) {
                    place(job, begin + i, count, &row, &frame, &line);
                    float *y = cgru_frame(&job->out, row, frame) + ((ptrdiff_t)line * steps + at) * n;
                    l.from_x[i] = l.projected + (i * some + s) * l.projection;
                    l.h_now[i] = l.current[i];
                    l.out[i] = node->kind ? l.h + ((ptrdiff_t)i * 2 + (at & 1)) * n : y;
                }
                step(&l, many, at);
                for (int i = 0; i < many; i++) {
                    l.current[i] = l.out[i];
                    if (node->kind == 0) continue;
                    place(job, begin + i, count, &row, &frame, &line);
                    float *y = cgru_frame(&job->out, row, frame) + ((ptrdiff_t)line * steps + at) * n;
                    memcpy(y, l.cell_state[i], (size_t)n * sizeof(float));
                }
            }
        }
    }
}

/* Every line, at `steps` steps of it. */
static int64_t cost_of_lines(const cgru_gnode *node, int64_t steps)
{
    const cgru_scan *scan = node->scan.direction[0].scan;
    return (cgru_matrix_cost(&scan->x) + cgru_matrix_cost(&scan->h) + cgru_matrix_cost(&scan->phase1)) * node->number[0] * steps;
}

static int64_t cost_of_scan_inner(const cgru_graph *g, const cgru_gnode *node)
{
    (void)g;
    return cost_of_lines(node, node->number[1]);
}

static int64_t cost_of_scan_rows(const cgru_graph *g, const cgru_gnode *node)
{
    (void)g;
    return cost_of_lines(node, 1);
}

static int check_scan_inner(const cgru_graph *g, const cgru_gnode *node)
{
    const cgru_value *x = cgru_input_of(g, node, 0);
    const int64_t count = node->number[0], steps = node->number[1];
    if (!x || x->content != CGRU_FEATURES || steps < 1 || !fits(node, count * steps, g->values[node->out].size)) return 0;
    const cgru_scan *scan = node->scan.direction[0].scan;
    for (int k = 1; k < node->inputs; k++) {
        const cgru_value *given = cgru_input_of(g, node, k);
        if (given && (given->content != CGRU_FEATURES || given->size != count * scan->hidden)) return 0;
    }
    return count >= 1 && x->size == count * steps * scan->input && node->inputs <= 1 + scan->cell->states &&
           (node->kind == 0 || (node->kind == 1 && scan->cell->states > 1));
}

const cgru_op cgru_op_scan_inner = {"scan_inner", 0, 0, check_scan_inner, run_scan_inner, .scratch = scratch_bytes,
                                    .share = CGRU_BY_FRAMES, .cost = cost_of_scan_inner};

/* ---- over time --------------------------------------------------------------------------------------------------------- */

static int counts(const cgru_job *job, int row, int64_t frame)
{
    if (job->in_lengths && job->at + frame >= job->in_lengths[row]) return 0;
    return cgru_unmasked(&job->in[1], row, frame);
}

/* A row that nothing has gone into yet begins with what h0 and c0 say; where its numbers get a range, all lines share it. */
static void begin_rows(const cgru_job *job, const cgru_scan *scan, int64_t size)
{
    const cgru_gnode *node = job->node;
    const cgru_direction *dir = &node->scan.direction[0];
    for (int r = 0; r < job->rows; r++) {
        float *state = cgru_state_row(job, r);
        for (int k = 2; k < node->inputs && state[dir->emitted] == CGRU_FRESH; k++) {
            if (node->in[k] >= 0)
                memcpy(state + dir->state + (k - 2) * size, cgru_frame(&job->in[k], r, 0), (size_t)size * sizeof(float));
        }
        if (state[dir->emitted + 1] == 0.0f) state[dir->emitted + 1] = range_of(scan, state + dir->state, size);
        for (int64_t f = 0; f < job->frames; f++) {
            if (counts(job, r, f)) state[dir->emitted] = CGRU_EMITTED;
        }
    }
}

/* number[0]: lines of a frame. in[1]: a mask; in[2], in[3]: h0 and c0. A state row holds h of every line, then c. */
static void run_scan_rows(const cgru_job *job)
{
    const cgru_gnode *node = job->node;
    const cgru_direction *dir = &node->scan.direction[0];
    const lines l = lines_of(job);
    const int count = node->number[0], n = l.scan->hidden, inputs = l.scan->input;
    const int64_t all = (int64_t)job->rows * count, size = (int64_t)count * n;
    const int64_t first = all * job->member.rank / job->member.size, end = all * (job->member.rank + 1) / job->member.size;
    const int64_t together = end - first < CGRU_BATCH ? end - first : CGRU_BATCH;
    if (job->member.rank == 0) begin_rows(job, l.scan, size);
    if (cgru_team_wait(job->member)) return;
    for (int64_t begin = first; begin < end && job->frames; begin += together) {
        const int many = (int)(end - begin < together ? end - begin : together);
        const int64_t piece = CGRU_BATCH / many; /* frames whose input side is multiplied at once */
        for (int i = 0; i < many; i++)
            l.current[i] = cgru_state_row(job, (int)((begin + i) / count)) + dir->state + (begin + i) % count * n;
        for (int64_t done = 0; done < job->frames; done += piece) {
            const int some = (int)(job->frames - done < piece ? job->frames - done : piece);
            int projected = 0;
            for (int s = 0; s < some; s++) {
                const int64_t f = dir->reverse ? job->frames - 1 - done - s : done + s;
                for (int i = 0; i < many; i++) {
                    const int row = (int)((begin + i) / count);
                    if (!counts(job, row, f)) continue;
                    l.in[projected++] = cgru_frame(&job->in[0], row, f) + (begin + i) % count * inputs;
                }
            }
            project(&l, projected);
            projected = 0;
            for (int s = 0; s < some; s++) {
                const int64_t f = dir->reverse ? job->frames - 1 - done - s : done + s;
                int active = 0;
                for (int i = 0; i < many; i++) {
                    const int row = (int)((begin + i) / count);
                    const int64_t line = (begin + i) % count;
                    float *y = job->out.data ? cgru_frame(&job->out, row, f) + line * n : NULL;
                    if (!counts(job, row, f)) {
                        if (y) memset(y, 0, (size_t)n * sizeof(float));
                        continue;
                    }
                    float *state = cgru_state_row(job, row), *ring = l.h + (ptrdiff_t)i * 2 * n;
                    l.from_x[active] = l.projected + projected++ * l.projection;
                    l.h_now[active] = l.current[i];
                    l.out[active] = y ? y : ring + (l.current[i] == ring ? n : 0);
                    l.cell_state[active] = state + dir->state + size + line * n;
                    l.range[active] = state[dir->emitted + 1];
                    l.active[active++] = i;
                }
                step(&l, active, f);
                for (int i = 0; i < active; i++) l.current[l.active[i]] = l.out[i];
            }
        }
        for (int i = 0; i < many; i++) {
            float *h = cgru_state_row(job, (int)((begin + i) / count)) + dir->state + (begin + i) % count * n;
            if (h != l.current[i]) memcpy(h, l.current[i], (size_t)n * sizeof(float));
        }
    }
}

static int check_scan_rows(const cgru_graph *g, const cgru_gnode *node)
{
    const cgru_value *x = cgru_input_of(g, node, 0), *mask = cgru_input_of(g, node, 1), *y = &g->values[node->out];
    if (!x || x->content != CGRU_FEATURES || x->clock == CGRU_ONCE || y->clock != x->clock) return 0;
    if (!fits(node, node->number[0], y->size) || !cgru_mask_fits(mask, x)) return 0;
    const cgru_scan *scan = node->scan.direction[0].scan;
    for (int k = 2; k < node->inputs; k++) {
        const cgru_value *given = cgru_input_of(g, node, k);
        if (given && (given->clock != CGRU_ONCE || given->content != CGRU_FEATURES || given->size != y->size)) return 0;
    }
    return x->size == (int64_t)node->number[0] * scan->input && node->inputs <= 2 + scan->cell->states;
}

const cgru_op cgru_op_scan_rows = {"scan_rows", 0, 0, check_scan_rows, run_scan_rows, .scratch = scratch_bytes,
                                   .moves = 1, .share = CGRU_TOGETHER, .cost = cost_of_scan_rows};
