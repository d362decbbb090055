/* Recurrences: the runner of chains (block.h), a direction at a time, and the states they end in. */
#include <string.h>

#include "ops.h"

/* Which frames of which rows count: those before a row's length that the mask does not leave out. */
static void fill_valid(const cgru_job *job, uint8_t *valid, int64_t total)
{
    for (int r = 0; r < job->rows; r++) {
        uint8_t *row = valid + r * total + job->at;
        for (int64_t f = 0; f < job->frames; f++) {
            int in = job->in_lengths == NULL || job->at + f < job->in_lengths[r];
            row[f] = (uint8_t)(in && cgru_unmasked(&job->in[1], r, f));
        }
    }
}

/* A row that nothing has gone into yet begins with what h0 and c0 say. */
static void begin(const cgru_job *job)
{
    const cgru_gnode *node = job->node;
    const cgru_direction *dir = &node->scan.direction[0];
    for (int r = 0; r < job->rows; r++) {
        float *state = cgru_state_row(job, r);
        if (state[dir->emitted] != CGRU_FRESH) continue;
        for (int k = 2, offset = dir->state; k < node->inputs; k++) {
            int size = k == 2 ? dir->scan->out : dir->scan->hidden;
            if (node->in[k] >= 0) memcpy(state + offset, cgru_frame(&job->in[k], r, 0), (size_t)size * sizeof(float));
            offset += size;
        }
    }
}

static void scan_frames(const cgru_job *job)
{
    const cgru_gnode *node = job->node;
    const cgru_direction *dir = &node->scan.direction[0];
    block *b = job->scans;
    stage_scratch *l = &b->scratch[job->lane];
    const int masked = job->in_lengths || job->in[1].data != NULL;
    if (job->frames == 1 && job->rows == 1 && !masked && !dir->reverse && job->out.data && job->member.size == 1) {
        cgru_step_row(b, l, &node->scan, job->in[0].data, job->at, job->out.data);
        return;
    }
    /* Time is counted from the call's beginning; a scan of whole sequences gets all of it at once, in pieces. */
    b->steps = job->at + job->frames;
    b->valid = NULL;
    b->lengths = job->in_lengths;
    if (masked) {
        b->valid = b->mask;
        fill_valid(job, b->valid, b->steps);
    }
    sequence out = {job->out.data, job->out.row, job->out.frame};
    out.data = out.data ? out.data - job->at * out.step : NULL;
    for (int64_t done = 0; done < job->frames;) {
        int steps = (int)(job->frames - done < b->chunk ? job->frames - done : b->chunk);
        int64_t from = dir->reverse ? job->frames - done - steps : done;
        sequence in = {job->in[0].data + from * job->in[0].frame, job->in[0].row, job->in[0].frame};
        if (cgru_scan_chunk(b, l, &node->scan, dir, in, out.data ? &out : NULL, job->at + from, steps, job->member)) return;
        done += steps;
    }
}

static void run_scan(const cgru_job *job)
{
    const cgru_gnode *node = job->node;
    if (node->inputs > 2) {
        if (job->member.rank == 0) begin(job);
        if (cgru_team_wait(job->member)) return;
    }
    if (node->lookup == NULL) {
        scan_frames(job);
        return;
    }
    const cgru_port *ids = &job->call->inputs[node->lookup_ids];
    const cgru_lookup lookup = {node->lookup, node->lookup_width, (const int64_t *)ids->data + job->first * ids->row, ids->row,
                                ids->frame};
    job->scans->lookup = &lookup;
    scan_frames(job);
    job->scans->lookup = NULL;
}

static int check_scan(const cgru_graph *g, const cgru_gnode *node)
{
    const cgru_value *x = cgru_input_of(g, node, 0), *mask = cgru_input_of(g, node, 1), *y = &g->values[node->out];
    const cgru_scan *scan = node->scan.direction[0].scan;
    if (x == NULL || x->content != CGRU_FEATURES || x->clock == CGRU_ONCE || scan == NULL || node->scan.directions != 1) return 0;
    if (x->size != scan->input || y->size != scan->out || y->clock != x->clock) return 0;
    if (!cgru_mask_fits(mask, x)) return 0;
    if (node->lookup) {
        const int v = node->lookup_ids;
        if (v < 0 || v >= g->inputs || g->values[v].content != CGRU_IDS || g->values[v].clock != x->clock) return 0;
        if (node->lookup_width != cgru_lookup_width(g->kernels, scan)) return 0;
    }
    for (int k = 2; k < node->inputs; k++) {
        const cgru_value *given = cgru_input_of(g, node, k);
        if (given && (given->clock != CGRU_ONCE || given->size != (k == 2 ? scan->out : scan->hidden))) return 0;
    }
    return node->inputs <= 2 + scan->cell->states;
}

/* What is multiplied at every step; the input side goes before. */
static int64_t cost_of_step(const cgru_graph *g, const cgru_gnode *node)
{
    const cgru_scan *scan = node->scan.direction[0].scan;
    (void)g;
    return cgru_matrix_cost(&scan->h) + cgru_matrix_cost(&scan->phase1);
}

const cgru_op cgru_op_scan = {"scan", 0, 0, check_scan, run_scan, .moves = 1, .share = CGRU_BY_STEPS, .cost = cost_of_step};

/* offset: where in a state row the array lies; number[0]: where the bookkeeping. flag: as the last output has it: zero for
 * a row without a frame that counted, and, with number[1], for one whose last frame (first, with number[2]) did not. */
static void run_last_state(const cgru_job *job)
{
    const cgru_gnode *node = job->node;
    const int size = job->graph->values[node->out].size;
    for (int r = 0; r < job->rows; r++) {
        const float *state = cgru_state_row(job, r);
        float *y = cgru_frame(&job->out, r, 0);
        int shown = !node->flag || state[node->number[0]] == CGRU_EMITTED;
        int64_t frames = job->in_lengths ? job->in_lengths[r] : job->in_frames[0];
        if (node->flag && node->number[1] && job->in[1].data && frames > 0)
            shown = shown && *cgru_frame(&job->in[1], r, node->number[2] ? 0 : frames - 1) != 0.0f;
        if (shown) memcpy(y, state + node->offset, (size_t)size * sizeof(float));
        else memset(y, 0, (size_t)size * sizeof(float));
    }
}

static int check_last_state(const cgru_graph *g, const cgru_gnode *node)
{
    const cgru_value *x = cgru_input_of(g, node, 0), *y = &g->values[node->out];
    if (!x || x->clock == CGRU_ONCE || y->clock != CGRU_ONCE || node->in[0] < g->inputs) return 0;
    const cgru_direction *dir = &g->nodes[node->in[0] - g->inputs].scan.direction[0];
    if (dir->scan == NULL || node->number[0] != dir->emitted) return 0;
    /* h, or one of the arrays behind it */
    const int behind = node->offset - dir->state - dir->scan->out, units = dir->scan->hidden;
    if (behind < 0) return node->offset == dir->state && y->size == dir->scan->out;
    return y->size == units && behind % units == 0 && behind / units < dir->scan->cell->states - 1;
}

const cgru_op cgru_op_last_state = {"last_state", 1, 0, check_last_state, run_last_state};
