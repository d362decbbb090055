/* Runs a chain of nodes over rows and time.
 *
 * Rows are taken in blocks and time in chunks, so that what lies between two nodes stays in cache and scratch does not
 * grow with the length of the sequence. A node that needs the whole sequence (two directions, backwards) ends such a
 * pipeline of chunks: the chain is cut there into segments, and only between segments is a whole sequence kept.
 *
 * Every member of a team runs all of this on the same workspace and takes its share of panels or rows; where one
 * member reads what another wrote there is a wait. */
#include "block.h"

#include <math.h>
#include <string.h>

/* ---- pieces of a step ------------------------------------------------------------------------------------------- */

static float *state_row(const block *b, int row)
{
    int64_t i = b->first + row;
    const cgru_call *call = b->call;
    return call->state + (call->index ? call->index[i] : i) * call->state_row;
}

static int counts(const block *b, int row, int64_t t)
{
    return b->valid == NULL || b->valid[row * b->steps + t];
}

void cgru_softmax(float *v, int n)
{
    float top = v[0], sum = 0;
    for (int i = 1; i < n; i++) top = v[i] > top || v[i] != v[i] ? v[i] : top;
    for (int i = 0; i < n; i++) sum += v[i] = expf(v[i] - top);
    for (int i = 0; i < n; i++) v[i] /= sum;
}

static void copy(float *to, const float *from, int n)
{
    if (to != from) memcpy(to, from, (size_t)n * sizeof(float));
}

/* ---- scratch ---------------------------------------------------------------------------------------------------- */

void cgru_take_shared(const cgru_net *net, stage_scratch *l, size_t rows, size_t many, cgru_arena *a)
{
    l->projected = cgru_take(a, many * net->projection * sizeof(float));
    l->h_ring = cgru_take(a, rows * 2 * net->hidden * sizeof(float));
    l->phase_scratch = cgru_take(a, rows * 2 * net->hidden * sizeof(float));
}

void cgru_take_own(const cgru_net *net, stage_scratch *l, size_t rows, size_t many, cgru_arena *a)
{
    l->pointer_in = cgru_take(a, many * sizeof(float *));
    l->pointer_projected = cgru_take(a, many * sizeof(float *));
    l->pointer_out = cgru_take(a, many * sizeof(float *));
    l->pointer_h = cgru_take(a, rows * sizeof(float *));
    l->current = cgru_take(a, rows * sizeof(float *));
    l->pointer_scratch = cgru_take(a, rows * sizeof(float *));
    l->pointer_cell_state = cgru_take(a, rows * sizeof(float *));
    l->step_projected = cgru_take(a, rows * sizeof(float *));
    l->step_x = cgru_take(a, rows * sizeof(float *));
    l->emitted = cgru_take(a, rows);
    l->range = cgru_take(a, rows * sizeof(float));
    l->step_range = cgru_take(a, rows * sizeof(float));
    l->prepared = cgru_take(a, many * net->prepared);
    l->active = cgru_take(a, rows * sizeof(int));
}

/* ---- one direction of a recurrent node over a chunk ---------------------------------------------------------------- */

static cgru_prepared quantized_input_of(const block *b, const stage_scratch *l)
{
    return (cgru_prepared){l->prepared, (ptrdiff_t)b->net->prepared};
}

/* The largest |h| that a row's integers allow for: what it began with, and at least 1. A NaN is left to the kernels. */
static float range_of(const cgru_scan *scan, const cgru_direction *dir, const float *state)
{
    float range = state[dir->emitted + 1];
    if (range != 0.0f || !scan->bounded || scan->h.scale == NULL) return range;
    range = 1.0f;
    for (int i = 0; i < scan->out; i++) {
        float size = fabsf(state[dir->state + i]);
        if (size > range) range = size;
    }
    return range;
}

/* The input side of all steps of the chunk that count, in one multiplication; with `ahead` the pointers alone, in the order
 * in which the steps of its one row go. */
static void project(block *b, stage_scratch *l, const cgru_scan *scan, sequence in, int64_t t0, int steps, int ahead,
                    int reverse, cgru_member member)
{
    const int width = b->net->projection;
    int many = 0, p0, p1;
    for (int i = 0; i < steps; i++) {
        const int s = ahead && reverse ? steps - 1 - i : i;
        for (int r = 0; r < b->rows; r++) {
            if (!counts(b, r, t0 + s)) continue;
            l->pointer_in[many] = in.data + r * in.row + s * in.step;
            l->pointer_projected[many++] = l->projected + ((ptrdiff_t)s * b->rows + r) * width;
        }
    }
    if (ahead) return;
    cgru_share(scan->panels, member, &p0, &p1);
    scan->x.arithmetic->project(&scan->x, many, l->pointer_in, l->pointer_projected, quantized_input_of(b, l), p0, p1);
}

/* ---- the input side beside the steps (cgru_ahead) ------------------------------------------------------------------ */

#define AHEAD_STEPS 20          /* whose input side is made at a time: whole tiles of 4 and of 5 rows */
#define AHEAD_BYTES (96 << 10)  /* of recurrent weights at least: those that stay in the first-level cache wait for nothing */
#define AHEAD_MOST (8 << 20)    /* and at most: from there on both matrices would come from behind the caches at the same time */

/* Whether the input side of the chunk's later steps is made beside its earlier ones. */
static int looks_ahead(const block *b, const cgru_scan *scan, int steps, int projected, cgru_member member)
{
    const int64_t bytes = (int64_t)scan->h.in_features * scan->hidden * scan->h.gates * (int64_t)sizeof(float);
    return projected && scan->cell->beside && b->rows == 1 && steps > AHEAD_STEPS && member.size == 1 && !b->lookup &&
           b->valid == NULL && bytes > AHEAD_BYTES && bytes <= AHEAD_MOST && 2 * scan->input >= scan->hidden;
}

static void project_now(const stage_scratch *l, const cgru_scan *scan, int from, int rows, int p0, int p1)
{
    scan->x.arithmetic->project(&scan->x, rows, l->pointer_in + from, l->pointer_projected + from, (cgru_prepared){0}, p0, p1);
}

/* Before step s of a chunk, in the order in which they go: what of the steps behind it is to be made beside this one. */
static void plan_ahead(const stage_scratch *l, const cgru_scan *scan, int s, int steps, cgru_ahead *ahead)
{
    const int at = s % AHEAD_STEPS, beside = scan->cell->beside;
    if (at == 0) {
        if (s == 0) project_now(l, scan, 0, AHEAD_STEPS, 0, scan->panels);
        const int first = s + AHEAD_STEPS, left = first < steps ? steps - first : 0;
        const int rows = left < AHEAD_STEPS ? left : AHEAD_STEPS, whole = rows / beside * beside;
        if (rows > whole) project_now(l, scan, first + whole, rows - whole, 0, scan->panels);
        *ahead = (cgru_ahead){l->pointer_in + first, l->pointer_projected + first, whole / beside, 0, 0, 0};
    }
    const int made = ahead->panel * ahead->tiles + ahead->tile;
    ahead->due = ahead->tiles * scan->panels * (at + 1) / AHEAD_STEPS - made;
}

/* Looks now and then whether the call is to end. */
static void ask(const block *b)
{
    if (b->asks) cgru_stop_ask(b->member.stop, b->rows * b->net->work);
}

/* Steps [t0, t0 + steps). in is based at t0; out at time 0, or NULL where no output is wanted. Whether the call ends. */
int cgru_scan_chunk(block *b, stage_scratch *l, const cgru_node *node, const cgru_direction *dir, sequence in,
                    const sequence *out, int64_t t0, int steps, cgru_member member)
{
    const cgru_net *net = b->net;
    const cgru_scan *scan = dir->scan;
    const cgru_cell *cell = scan->cell;
    /* A step of a single row reads both matrices once whichever way, so it goes in one pass and saves the detour. With more
     * rows the two products are faster one after the other (five rows of 256 units: 36 µs, against 43 in one pass). */
    const int n = b->rows, emits = scan->out;
    const int projected = steps > 1 || n > 1 || b->lookup || scan->x.precision != CGRU_FLOAT32;
    int share[2][2]; /* of the panels of each phase */
    cgru_share(scan->panels, member, &share[0][0], &share[0][1]);
    cgru_share(scan->phase1.panels, member, &share[1][0], &share[1][1]);
    const int beside = looks_ahead(b, scan, steps, projected, member);
    cgru_ahead ahead;
    if (projected && !b->lookup) project(b, l, scan, in, t0, steps, beside, dir->reverse, member);
    for (int r = 0; r < n; r++) {
        float *state = state_row(b, r);
        l->current[r] = state + dir->state;
        l->emitted[r] = state[dir->emitted] == CGRU_EMITTED;
        l->range[r] = range_of(scan, dir, state);
        l->pointer_scratch[r] = l->phase_scratch + (ptrdiff_t)r * 2 * net->hidden;
    }
    for (int s = 0; s < steps; s++) {
        ask(b);
        if (member.size == 1 && cgru_stopped(member.stop)) return 1;
        int step = dir->reverse ? steps - 1 - s : s, active = 0;
        int64_t t = t0 + step;
        for (int r = 0; r < n; r++) {
            float *ring = l->h_ring + (ptrdiff_t)r * 2 * net->hidden, *to = ring + (l->current[r] == ring ? net->hidden : 0);
            if (out != NULL) {
                int64_t length = b->lengths ? b->lengths[r] : b->steps;
                int64_t place = node->flipped && t < length ? length - 1 - t : t;
                to = out->data + r * out->row + place * out->step;
            }
            if (!counts(b, r, t)) {
                if (out != NULL && member.rank == 0) {
                    if (node->repeat && l->emitted[r]) copy(to, l->current[r], emits);
                    else memset(to, 0, (size_t)emits * sizeof(float));
                }
                continue;
            }
            l->step_projected[active] = b->lookup ? cgru_looked_up(b->lookup, r, t)
                                                  : l->projected + ((ptrdiff_t)step * n + r) * net->projection;
            l->step_x[active] = in.data + r * in.row + step * in.step;
            l->pointer_h[active] = l->current[r];
            l->pointer_out[active] = to;
            l->pointer_scratch[active] = l->phase_scratch + (ptrdiff_t)r * 2 * net->hidden;
            if (cell->states > 1) l->pointer_cell_state[active] = state_row(b, r) + dir->state + emits;
            l->step_range[active] = l->range[r];
            l->active[active++] = r;
        }
        cgru_rows rows = {active, (int)(t & 1), projected ? l->step_projected : NULL, l->step_x, l->pointer_h,
                          l->pointer_out, l->pointer_cell_state, l->pointer_scratch, l->step_range,
                          quantized_input_of(b, l), beside ? &ahead : NULL};
        if (beside) plan_ahead(l, scan, s, steps, &ahead);
        for (int phase = 0; phase < cell->phases && active; phase++) {
            cell->step(scan, &rows, phase, share[phase][0], share[phase][1]);
            if (cgru_team_wait(member)) return 1;
        }
        for (int i = 0; i < active; i++) {
            l->current[l->active[i]] = l->pointer_out[i];
            l->emitted[l->active[i]] = 1;
        }
    }
    if (cgru_team_wait(member)) return 1;
    if (member.rank == 0) {
        for (int r = 0; r < n; r++) {
            float *state = state_row(b, r);
            copy(state + dir->state, l->current[r], emits);
            if (l->emitted[r]) state[dir->emitted] = CGRU_EMITTED;
            state[dir->emitted + 1] = l->range[r];
        }
    }
    return cgru_team_wait(member);
}

/* One step of one row, where nothing is masked: what cgru_scan_chunk would do, without its bookkeeping. */
void cgru_step_row(block *b, stage_scratch *l, const cgru_node *node, const float *x, int64_t t, float *to)
{
    const cgru_direction *dir = &node->direction[0];
    const cgru_scan *scan = dir->scan;
    float *state = state_row(b, 0), *cell_state = state + dir->state + scan->out;
    const float *h = state + dir->state;
    const float range = range_of(scan, dir, state);
    const float *projected = b->lookup ? cgru_looked_up(b->lookup, 0, t) : l->projected;
    const int reduced = scan->x.precision != CGRU_FLOAT32;
    /* Every field, or gcc clears all of it first, which takes 5 ns of a step of 32 units' 370. */
    const cgru_rows rows = {1, 0, reduced || b->lookup ? &projected : NULL, &x, &h, &to, &cell_state, &l->phase_scratch, &range,
                            quantized_input_of(b, l), NULL};
    if (reduced && !b->lookup) scan->x.arithmetic->project(&scan->x, 1, &x, &l->projected, rows.quantized_input, 0, scan->panels);
    for (int phase = 0; phase < scan->cell->phases; phase++)
        scan->cell->step(scan, &rows, phase, 0, phase == 0 ? scan->panels : scan->phase1.panels);
    copy(state + dir->state, to, scan->out);
    state[dir->emitted] = CGRU_EMITTED;
    state[dir->emitted + 1] = range;
}

/* The last outputs of a node: its states, or zero where a row has not had a step, and where the last step did not count
 * if such a step gives zero. */
static void last_output(const block *b, const cgru_node *node, sequence out)
{
    for (int r = 0; r < b->rows; r++) {
        const float *state = state_row(b, r);
        int64_t length = b->call->lengths ? b->call->lengths[b->first + r] : b->steps;
        float *y = out.data + r * out.row;
        const int emits = node->direction[0].scan->out;
        for (int d = 0; d < node->directions; d++) {
            const cgru_direction *dir = &node->direction[d];
            int shown = node->repeat || length == 0 || counts(b, r, dir->reverse ? 0 : length - 1);
            shown = shown && state[dir->emitted] == CGRU_EMITTED;
            for (int i = 0; i < emits; i++) {
                float h = shown ? state[dir->state + i] : 0.0f;
                if (d == 0 || node->merge == CGRU_CONCAT) y[d * emits + i] = h;
                else if (node->merge == CGRU_MUL) y[i] *= h;
                else y[i] = node->merge == CGRU_AVE ? (y[i] + h) * 0.5f : y[i] + h;
            }
        }
    }
}

static void merge(const block *b, const cgru_node *node, sequence out, sequence second, cgru_member member)
{
    int low, high;
    cgru_share(b->rows, member, &low, &high);
    for (int r = low; r < high; r++) {
        for (int64_t t = 0; t < b->steps; t++) {
            float *y = out.data + r * out.row + t * out.step;
            const float *other = second.data + r * second.row + t * second.step;
            for (int i = 0; i < node->out; i++) {
                if (node->merge == CGRU_MUL) y[i] *= other[i];
                else y[i] = node->merge == CGRU_AVE ? (y[i] + other[i]) * 0.5f : y[i] + other[i];
            }
        }
    }
}

/* A node that needs the whole sequence. in and out are based at time 0. */
static void run_whole(block *b, const cgru_node *node, sequence in, sequence out)
{
    sequence outs[2] = {out, out};
    if (node->directions > 1) {
        if (node->merge == CGRU_CONCAT) outs[1].data += node->direction[0].scan->out;
        else outs[1] = (sequence){b->pair, (ptrdiff_t)b->steps * node->out, node->out};
    }
    /* The directions are independent: side by side where the team splits evenly, else one after the other. */
    cgru_member member = b->member;
    int mine = -1;
    if (node->directions == 2 && member.size % 2 == 0) member = cgru_team_split(member, 2, &mine);
    for (int d = 0; d < node->directions; d++) {
        const cgru_direction *dir = &node->direction[d];
        if (mine >= 0 && d != mine) continue;
        for (int64_t done = 0; done < b->steps; done += b->chunk) {
            int steps = (int)(b->steps - done < b->chunk ? b->steps - done : b->chunk);
            int64_t t0 = dir->reverse ? b->steps - done - steps : done;
            sequence from = {in.data + t0 * in.step, in.row, in.step};
            const sequence *to = node->sequences ? &outs[d] : NULL;
            if (cgru_scan_chunk(b, &b->scratch[d], node, dir, from, to, t0, steps, member)) break;
        }
    }
    if (cgru_team_wait(b->member)) return;
    if (node->sequences && node->directions > 1 && node->merge != CGRU_CONCAT) {
        merge(b, node, out, outs[1], b->member);
        cgru_team_wait(b->member);
    }
}

/* ---- nodes that look at one step at a time ----------------------------------------------------------------------- */

static void run_dense(block *b, stage_scratch *l, const cgru_node *node, sequence in, sequence out, int steps,
                      cgru_member member)
{
    int many = 0, p0, p1, softly = node->activation == CGRU_SOFTMAX;
    for (int s = 0; s < steps; s++) {
        for (int r = 0; r < b->rows; r++) {
            l->pointer_in[many] = in.data + r * in.row + s * in.step;
            l->pointer_out[many++] = out.data + r * out.row + s * out.step;
        }
    }
    cgru_share(node->matrix->panels, member, &p0, &p1);
    node->matrix->arithmetic->linear(node->matrix, softly ? CGRU_LINEAR : node->activation, many, l->pointer_in,
                                     l->pointer_out, quantized_input_of(b, l), p0, p1);
    if (softly) {
        cgru_team_wait(member);
        if (member.rank == 0) {
            for (int i = 0; i < many; i++) cgru_softmax(l->pointer_out[i], node->out);
        }
    }
}

/* a != b by their bits, since the call's mode takes subnormals for zeros: signs of zero are alike, NaN equals nothing. */
int cgru_differs(float a, float b)
{
    uint32_t i, j;
    memcpy(&i, &a, sizeof i);
    memcpy(&j, &b, sizeof j);
    if (((i | j) & 0x7fffffffu) == 0) return 0;
    return i != j || (i & 0x7fffffffu) > 0x7f800000u;
}

/* Embedding, masking and activation, row by row; t0 is the chunk's first step. */
static void run_rowwise(block *b, const cgru_node *node, sequence in, sequence out, int64_t t0, int steps)
{
    const cgru_call *call = b->call;
    for (int r = 0; r < b->rows; r++) {
        for (int s = 0; s < steps; s++) {
            float *y = out.data + r * out.row + s * out.step;
            const float *x = in.data ? in.data + r * in.row + s * in.step : NULL;
            uint8_t *valid = b->valid ? b->valid + r * b->steps + t0 + s : NULL;
            if (node->kind == CGRU_EMBEDDING) {
                int64_t id = ((const int64_t *)call->x)[(b->first + r) * call->x_row + (t0 + s) * call->x_step];
                cgru_table_row(node->precision, node->table, id, node->out, y);
                if (node->mask_zero) *valid &= id != 0;
            } else if (node->kind == CGRU_MASKING) {
                int counts_here = 0;
                for (int i = 0; i < node->in; i++) counts_here |= cgru_differs(x[i], node->mask_value);
                if (counts_here) copy(y, x, node->in);
                else memset(y, 0, (size_t)node->in * sizeof(float));
                if (valid) *valid &= (uint8_t)counts_here; /* NULL after a node that gives its last output alone */
            } else {
                copy(y, x, node->in);
                if (node->activation == CGRU_SOFTMAX) cgru_softmax(y, node->in);
                else b->net->kernels->of[CGRU_INT8]->activate(node->activation, y, node->in); /* equal on all instruction sets */
            }
        }
    }
}

/* ---- segments --------------------------------------------------------------------------------------------------- */

static sequence later(sequence s, int64_t t)
{
    return (sequence){s.data ? s.data + t * s.step : NULL, s.row, s.step};
}

/* Nodes [i, end) over one chunk; from and to are based at its first step t0. Whether the call ends. */
static int run_chunk(block *b, stage_scratch *l, int i, int end, sequence from, sequence to, int64_t t0, int steps,
                      cgru_member member)
{
    for (int k = i; k < end; k++) {
        const cgru_node *node = &b->net->nodes[k];
        sequence next = k == end - 1 ? to : (sequence){l->chunk_buffer[k & 1], (ptrdiff_t)node->out * b->chunk, node->out};
        if (node->kind == CGRU_RECURRENT && steps == 1 && b->rows == 1 && !b->valid && node->sequences && member.size == 1) {
            cgru_step_row(b, l, node, from.data, 0, next.data);
        } else if (node->kind == CGRU_RECURRENT) {
            const sequence based = later(next, -t0), *out = node->sequences ? &based : NULL;
            if (cgru_scan_chunk(b, l, node, &node->direction[0], from, out, t0, steps, member)) return 1;
        } else {
            if (node->kind == CGRU_DENSE) run_dense(b, l, node, from, next, steps, member);
            else if (member.rank == 0) run_rowwise(b, node, from, next, t0, steps);
            if (cgru_team_wait(member)) return 1;
        }
        from = next;
    }
    return 0;
}

/* Cuts nodes [i, end) into stages of as equally many recurrent nodes as can be; first[s] is where stage s begins. */
static int cut_stages(const cgru_net *net, int i, int end, int most, int *first)
{
    int recurrent = 0, seen = 0, stages = 0;
    for (int k = i; k < end; k++) recurrent += net->nodes[k].kind == CGRU_RECURRENT;
    if (most > recurrent) most = recurrent;
    first[stages++] = i;
    for (int k = i; k < end; k++) {
        if (net->nodes[k].kind != CGRU_RECURRENT) continue;
        if (seen++ * most >= stages * recurrent) first[stages++] = k;
    }
    first[stages] = end;
    return stages;
}

/* Nodes [i, end) over chunks of time; in and out are based at time 0. With several members and several recurrent nodes
 * the layers run as a wavefront: a stage works on one chunk while the next works on the chunk before. */
static void run_chunks(block *b, int i, int end, sequence in, sequence out)
{
    int first[MAX_STAGES + 1], mine = 0, chunk = b->chunk;
    const int most = b->member.size < b->stages ? b->member.size : b->stages;
    const int stages = cut_stages(b->net, i, end, most, first);
    cgru_member member = b->member;
    if (stages > 1) {
        member = cgru_team_split(member, stages, &mine);
        int64_t fine = b->steps / (8 * stages);
        if (fine < WAVE_STEPS) fine = WAVE_STEPS;
        if (fine < chunk) chunk = (int)fine;
    }
    const int64_t chunks = (b->steps + chunk - 1) / chunk;
    stage_scratch *l = &b->scratch[mine];
    for (int64_t tick = 0; tick < chunks + stages - 1; tick++) {
        int64_t c = tick - mine, t0 = c * chunk;
        if (c >= 0 && c < chunks) {
            int steps = (int)(b->steps - t0 < chunk ? b->steps - t0 : chunk);
            sequence from = later(in, t0), to = later(out, t0);
            if (mine > 0) {
                int width = b->net->nodes[first[mine] - 1].out;
                from = (sequence){b->scratch[mine - 1].stage_buffer[c & 1], (ptrdiff_t)width * b->chunk, width};
            }
            if (mine < stages - 1) {
                int width = b->net->nodes[first[mine + 1] - 1].out;
                to = (sequence){l->stage_buffer[c & 1], (ptrdiff_t)width * b->chunk, width};
            }
            ask(b);
            int ends = run_chunk(b, l, first[mine], first[mine + 1], from, to, t0, steps, member);
            if (ends && stages == 1) return;
        }
        if (stages > 1 && cgru_team_wait(b->member)) return;
    }
}

static void start_mask(block *b)
{
    for (int r = 0; r < b->rows; r++) {
        int64_t row = b->first + r, length = b->call->lengths ? b->call->lengths[row] : b->steps;
        uint8_t *valid = b->valid + r * b->steps;
        if (b->call->mask) memcpy(valid, b->call->mask + row * b->steps, (size_t)b->steps);
        else memset(valid, 1, (size_t)b->steps);
        memset(valid + length, 0, (size_t)(b->steps - length));
    }
}

int cgru_run_block(block *b)
{
    const cgru_net *net = b->net;
    const cgru_call *call = b->call;
    sequence in = {NULL, call->x_row, call->x_step};
    if (net->nodes[0].kind != CGRU_EMBEDDING) in.data = (float *)call->x + b->first * call->x_row;
    if (b->steps == 1 && net->direct && b->valid == NULL && b->member.size == 1) {
        sequence y = {call->y + b->first * call->y_row, call->y_row, call->y_step};
        if (call->mask_out) memset(call->mask_out + b->first, 1, (size_t)b->rows);
        return run_chunk(b, &b->scratch[0], 0, net->count, in, y, 0, 1, b->member);
    }
    if (b->valid && b->member.rank == 0) start_mask(b);
    cgru_team_wait(b->member);
    int over = 0; /* the time axis is gone */
    for (int i = 0, end, flip = 0; i < net->count; i = end, flip ^= 1) {
        end = cgru_segment_end(net, i);
        const cgru_node *node = &net->nodes[end - 1];
        int collapses = node->kind == CGRU_RECURRENT && !node->sequences;
        sequence out = {b->whole[flip], (ptrdiff_t)b->steps * node->out, node->out};
        if (over || collapses) out.row = node->out;
        if (end == net->count) out = (sequence){call->y + b->first * call->y_row, call->y_row, call->y_step};
        if (cgru_needs_whole(node)) run_whole(b, node, in, out);
        else run_chunks(b, i, end, in, out);
        if (collapses) {
            if (b->member.rank == 0) last_output(b, node, out);
            b->steps = b->chunk = 1;
            b->valid = NULL;
            over = 1;
        }
        if (cgru_team_wait(b->member)) return 1;
        in = out;
    }
    if (call->mask_out && !over && b->member.rank == 0) {
        uint8_t *to = call->mask_out + b->first * b->steps;
        if (b->valid) memcpy(to, b->valid, (size_t)(b->rows * b->steps));
        else memset(to, 1, (size_t)(b->rows * b->steps));
    }
    if (call->lengths && !over && b->member.rank == 0) {
        size_t bytes = (size_t)net->nodes[net->count - 1].out * sizeof(float);
        for (int r = 0; r < b->rows; r++) {
            for (int64_t t = call->lengths[b->first + r]; t < b->steps; t++)
                memset(call->y + (b->first + r) * call->y_row + t * call->y_step, 0, bytes);
        }
    }
    return 0;
}
