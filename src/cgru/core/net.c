/* Runs a chain of nodes over rows and time.
 *
 * Rows are taken in blocks and time in chunks, so that what lies between two nodes stays in cache and scratch does not
 * grow with the length of the sequence. A node that needs the whole sequence (two directions, backwards) ends such a
 * pipeline of chunks: the chain is cut there into segments, and only between segments is a whole sequence kept.
 *
 * Every member of a team runs all of this on the same workspace and takes its share of panels or rows; where one
 * member reads what another wrote there is a wait. */
#include "net.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "fpmode.h"
#include "memory.h"
#include "team.h"

#define BLOCK_ROWS 128         /* rows taken together at most */
#define CHUNK_ROWS 256         /* rows times steps of a chunk at most, beyond one step */
#define CHUNK_FLOATS (1 << 18) /* of projected input in a chunk, beyond one step: 1 MiB */
#define ALIGN_FLOATS 16

struct cgru_net {
    const cgru_kernels *kernels;
    int count;
    int widest;     /* features between nodes */
    int projection; /* floats of projected input of a row and step, over all scans */
    int hidden;     /* floats of a row of the widest hidden state, whole panels */
    int masks;      /* some node makes a mask */
    cgru_node nodes[];
};

struct cgru_work {
    void *memory;
    size_t bytes;
};

/* Features of rows over steps. */
typedef struct {
    float *data;
    ptrdiff_t row, step;
} sequence;

/* Scratch of one direction: the two of a node may run at the same time. */
typedef struct {
    float *projected, *ring, *between;
    const float **pointer_in, **pointer_h, **current;
    float **pointer_out, **pointer_projected, **pointer_scratch;
    const float **step_projected, **step_x;
    unsigned char *emitted;
    int *active;
} lane;

/* One block of rows of one call, as one member sees it. */
typedef struct {
    const cgru_net *net;
    const cgru_call *call;
    int64_t first; /* row */
    int rows, chunk;
    int64_t steps;
    uint8_t *valid; /* (rows, steps), or NULL where every step counts */
    float *hop[2];  /* features of a chunk between two nodes */
    float *whole[2];
    float *pair; /* a second direction's outputs before merging */
    lane lanes[2];
    cgru_member member;
} block;

/* ---- workspace -------------------------------------------------------------------------------------------------- */

typedef struct {
    char *at;
    size_t used;
} arena;

static void *take(arena *a, size_t bytes)
{
    void *memory = a->at ? a->at + a->used : NULL;
    a->used += (bytes + CGRU_ALIGN - 1) / CGRU_ALIGN * CGRU_ALIGN;
    return memory;
}

static int barrier_node(const cgru_node *node)
{
    return node->kind == CGRU_RECURRENT && (node->directions > 1 || node->direction[0].reverse);
}

/* The end (exclusive) of the segment that begins at node i. */
static int segment_end(const cgru_net *net, int i)
{
    if (barrier_node(&net->nodes[i])) return i + 1;
    while (i < net->count && !barrier_node(&net->nodes[i])) {
        const cgru_node *node = &net->nodes[i++];
        if (node->kind == CGRU_RECURRENT && !node->sequences) break;
    }
    return i;
}

static int chunk_steps(const cgru_net *net, int rows, int64_t steps)
{
    int64_t by_rows = CHUNK_ROWS / rows, by_floats = CHUNK_FLOATS / ((int64_t)rows * (net->projection + 1));
    int64_t chunk = by_rows < by_floats ? by_rows : by_floats;
    if (chunk < 8) chunk = 8 < by_rows ? 8 : by_rows;
    if (chunk < 1) chunk = 1;
    return (int)(chunk < steps ? chunk : steps > 0 ? steps : 1);
}

/* Lays the block's scratch out from the arena; with a NULL arena it only counts. Pointers that members fill with the
 * same values each for itself are per member; all else is shared. */
static void lay_out(block *b, arena *a, int member)
{
    const cgru_net *net = b->net;
    size_t many = (size_t)b->rows * b->chunk, rows = b->rows;
    size_t steps = b->steps > 0 ? (size_t)b->steps : 1;
    int masked = net->masks || b->call->lengths || b->call->mask, segments = 0, paired = 0;
    for (int i = 0; i < net->count; i = segment_end(net, i)) segments++;
    for (int i = 0; i < net->count; i++) {
        const cgru_node *node = &net->nodes[i];
        paired |= node->kind == CGRU_RECURRENT && node->directions > 1 && node->merge != CGRU_CONCAT;
    }
    arena shared = *a;
    b->valid = masked ? take(&shared, rows * steps) : NULL;
    for (int i = 0; i < 2; i++) {
        b->hop[i] = net->count > 1 ? take(&shared, many * net->widest * sizeof(float)) : NULL;
        b->whole[i] = segments > 1 + i ? take(&shared, rows * steps * net->widest * sizeof(float)) : NULL;
    }
    b->pair = paired ? take(&shared, rows * steps * net->widest * sizeof(float)) : NULL;
    for (int i = 0; i < 2; i++) {
        lane *l = &b->lanes[i];
        l->projected = take(&shared, many * net->projection * sizeof(float));
        l->ring = take(&shared, rows * 2 * net->hidden * sizeof(float));
        l->between = take(&shared, rows * 2 * net->hidden * sizeof(float));
    }
    *a = shared;
    for (int m = 0; m <= member; m++) {
        for (int i = 0; i < 2; i++) {
            lane *l = &b->lanes[i];
            l->pointer_in = take(a, many * sizeof(float *));
            l->pointer_projected = take(a, many * sizeof(float *));
            l->pointer_out = take(a, many * sizeof(float *));
            l->pointer_h = take(a, rows * sizeof(float *));
            l->current = take(a, rows * sizeof(float *));
            l->pointer_scratch = take(a, rows * sizeof(float *));
            l->step_projected = take(a, rows * sizeof(float *));
            l->step_x = take(a, rows * sizeof(float *));
            l->emitted = take(a, rows);
            l->active = take(a, rows * sizeof(int));
        }
    }
}

cgru_work *cgru_work_new(void)
{
    return calloc(1, sizeof(cgru_work));
}

void cgru_work_free(cgru_work *work)
{
    if (work != NULL) cgru_release(work->memory);
    free(work);
}

static int reserve(cgru_work *work, size_t bytes)
{
    if (work->bytes >= bytes) return CGRU_OK;
    cgru_release(work->memory);
    work->bytes = 0;
    work->memory = cgru_allocate(bytes);
    if (work->memory == NULL) return CGRU_NO_MEMORY;
    work->bytes = bytes;
    return CGRU_OK;
}

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

static void softmax(float *v, int n)
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

/* ---- one direction of a recurrent node over a chunk ---------------------------------------------------------------- */

/* The input side of all steps of the chunk that count, in one multiplication. */
static void project(block *b, lane *l, const cgru_scan *scan, sequence in, int64_t t0, int steps, cgru_member member)
{
    const int width = b->net->projection;
    int many = 0, p0, p1;
    for (int s = 0; s < steps; s++) {
        for (int r = 0; r < b->rows; r++) {
            if (!counts(b, r, t0 + s)) continue;
            l->pointer_in[many] = in.data + r * in.row + s * in.step;
            l->pointer_projected[many++] = l->projected + ((ptrdiff_t)s * b->rows + r) * width;
        }
    }
    cgru_share(scan->panels, member, &p0, &p1);
    b->net->kernels->project(&scan->x, many, l->pointer_in, l->pointer_projected, p0, p1);
}

/* Steps [t0, t0 + steps). in is based at t0; out at time 0, or NULL where no output is wanted. */
static void scan_chunk(block *b, lane *l, const cgru_node *node, const cgru_direction *dir, sequence in,
                       const sequence *out, int64_t t0, int steps, cgru_member member)
{
    const cgru_net *net = b->net;
    const cgru_scan *scan = dir->scan;
    const int n = b->rows, hidden = scan->hidden, phases = cgru_cell_phases[scan->cell], projected = steps > 1;
    int p0, p1;
    cgru_share(scan->panels, member, &p0, &p1);
    if (projected) project(b, l, scan, in, t0, steps, member);
    for (int r = 0; r < n; r++) {
        float *state = state_row(b, r);
        l->current[r] = state + dir->state;
        l->emitted[r] = state[dir->emitted] != 0;
        l->pointer_scratch[r] = l->between + (ptrdiff_t)r * 2 * net->hidden;
    }
    for (int s = 0; s < steps; s++) {
        int step = dir->reverse ? steps - 1 - s : s, active = 0;
        int64_t t = t0 + step;
        for (int r = 0; r < n; r++) {
            float *ring = l->ring + (ptrdiff_t)r * 2 * net->hidden, *to = ring + (l->current[r] == ring ? net->hidden : 0);
            if (out != NULL) {
                int64_t length = b->call->lengths ? b->call->lengths[b->first + r] : b->steps;
                int64_t place = node->flipped && t < length ? length - 1 - t : t;
                to = out->data + r * out->row + place * out->step;
            }
            if (!counts(b, r, t)) {
                if (out != NULL && member.rank == 0) {
                    if (node->repeat && l->emitted[r]) copy(to, l->current[r], hidden);
                    else memset(to, 0, (size_t)hidden * sizeof(float));
                }
                continue;
            }
            l->step_projected[active] = l->projected + ((ptrdiff_t)step * n + r) * net->projection;
            l->step_x[active] = in.data + r * in.row + step * in.step;
            l->pointer_h[active] = l->current[r];
            l->pointer_out[active] = to;
            l->pointer_scratch[active] = l->between + (ptrdiff_t)r * 2 * net->hidden;
            l->active[active++] = r;
        }
        cgru_rows rows = {active, (int)(t & 1), projected ? l->step_projected : NULL, l->step_x, l->pointer_h,
                          l->pointer_out, l->pointer_scratch};
        for (int phase = 0; phase < phases && active; phase++) {
            net->kernels->step[scan->cell](scan, &rows, phase, p0, p1);
            cgru_team_wait(member);
        }
        for (int i = 0; i < active; i++) {
            l->current[l->active[i]] = l->pointer_out[i];
            l->emitted[l->active[i]] = 1;
        }
    }
    cgru_team_wait(member);
    if (member.rank == 0) {
        for (int r = 0; r < n; r++) {
            float *state = state_row(b, r);
            copy(state + dir->state, l->current[r], hidden);
            state[dir->emitted] = l->emitted[r];
        }
    }
    cgru_team_wait(member);
}

/* The last outputs of a node: its states, or zero where a row has not had a step. */
static void last_output(const block *b, const cgru_node *node, sequence out)
{
    for (int r = 0; r < b->rows; r++) {
        const float *state = state_row(b, r);
        float *y = out.data + r * out.row;
        const int hidden = node->direction[0].scan->hidden;
        for (int d = 0; d < node->directions; d++) {
            const cgru_direction *dir = &node->direction[d];
            for (int i = 0; i < hidden; i++) {
                float h = state[dir->emitted] != 0 ? state[dir->state + i] : 0.0f;
                if (d == 0 || node->merge == CGRU_CONCAT) y[d * hidden + i] = h;
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
        if (node->merge == CGRU_CONCAT) outs[1].data += node->direction[0].scan->hidden;
        else outs[1] = (sequence){b->pair, (ptrdiff_t)b->steps * node->out, node->out};
    }
    for (int d = 0; d < node->directions; d++) {
        const cgru_direction *dir = &node->direction[d];
        for (int64_t done = 0; done < b->steps; done += b->chunk) {
            int steps = (int)(b->steps - done < b->chunk ? b->steps - done : b->chunk);
            int64_t t0 = dir->reverse ? b->steps - done - steps : done;
            sequence from = {in.data + t0 * in.step, in.row, in.step};
            scan_chunk(b, &b->lanes[d], node, dir, from, node->sequences ? &outs[d] : NULL, t0, steps, b->member);
        }
    }
    if (node->sequences && node->directions > 1 && node->merge != CGRU_CONCAT) {
        merge(b, node, out, outs[1], b->member);
        cgru_team_wait(b->member);
    }
}

/* ---- nodes that look at one step at a time ----------------------------------------------------------------------- */

static void run_dense(block *b, const cgru_node *node, sequence in, sequence out, int steps)
{
    lane *l = &b->lanes[0];
    int many = 0, p0, p1, softly = node->activation == CGRU_SOFTMAX;
    for (int s = 0; s < steps; s++) {
        for (int r = 0; r < b->rows; r++) {
            l->pointer_in[many] = in.data + r * in.row + s * in.step;
            l->pointer_out[many++] = out.data + r * out.row + s * out.step;
        }
    }
    cgru_share(node->matrix->panels, b->member, &p0, &p1);
    b->net->kernels->linear(node->matrix, softly ? CGRU_LINEAR : node->activation, many, l->pointer_in, l->pointer_out,
                            p0, p1);
    if (softly) {
        cgru_team_wait(b->member);
        if (b->member.rank == 0) {
            for (int i = 0; i < many; i++) softmax(l->pointer_out[i], node->out);
        }
    }
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
                copy(y, node->table + id * node->out, node->out);
                if (node->mask_zero) *valid &= id != 0;
            } else if (node->kind == CGRU_MASKING) {
                int counts_here = 0;
                for (int i = 0; i < node->in; i++) counts_here |= x[i] != node->mask_value;
                if (counts_here) copy(y, x, node->in);
                else memset(y, 0, (size_t)node->in * sizeof(float));
                *valid &= (uint8_t)counts_here;
            } else {
                copy(y, x, node->in);
                if (node->activation == CGRU_SOFTMAX) softmax(y, node->in);
                else b->net->kernels->activate(node->activation, y, node->in);
            }
        }
    }
}

/* ---- segments --------------------------------------------------------------------------------------------------- */

/* Nodes [i, end) over chunks of time; in and out are based at time 0. */
static void run_chunks(block *b, int i, int end, sequence in, sequence out)
{
    const cgru_net *net = b->net;
    const int keeps = net->nodes[end - 1].kind != CGRU_RECURRENT || net->nodes[end - 1].sequences;
    for (int64_t t0 = 0; t0 < b->steps; t0 += b->chunk) {
        int steps = (int)(b->steps - t0 < b->chunk ? b->steps - t0 : b->chunk);
        sequence from = {in.data ? in.data + t0 * in.step : NULL, in.row, in.step};
        for (int k = i; k < end; k++) {
            const cgru_node *node = &net->nodes[k];
            sequence to = {b->hop[k & 1], (ptrdiff_t)node->out * b->chunk, node->out};
            if (k == end - 1) to = (sequence){out.data + t0 * out.step, out.row, out.step};
            if (node->kind == CGRU_RECURRENT) {
                sequence based = {to.data - t0 * to.step, to.row, to.step};
                scan_chunk(b, &b->lanes[0], node, &node->direction[0], from, k < end - 1 || keeps ? &based : NULL, t0,
                           steps, b->member);
            } else if (node->kind == CGRU_DENSE) {
                run_dense(b, node, from, to, steps);
                cgru_team_wait(b->member);
            } else {
                if (b->member.rank == 0) run_rowwise(b, node, from, to, t0, steps);
                cgru_team_wait(b->member);
            }
            from = to;
        }
    }
}

static void flip_mask(block *b)
{
    for (int r = 0; r < b->rows; r++) {
        uint8_t *valid = b->valid + r * b->steps;
        int64_t length = b->call->lengths ? b->call->lengths[b->first + r] : b->steps;
        for (int64_t a = 0, z = length - 1; a < z; a++, z--) {
            uint8_t swap = valid[a];
            valid[a] = valid[z];
            valid[z] = swap;
        }
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

static void run_block(block *b)
{
    const cgru_net *net = b->net;
    const cgru_call *call = b->call;
    sequence in = {NULL, call->x_row, call->x_step};
    if (net->nodes[0].kind != CGRU_EMBEDDING) in.data = (float *)call->x + b->first * call->x_row;
    if (b->valid && b->member.rank == 0) start_mask(b);
    cgru_team_wait(b->member);
    int over = 0; /* the time axis is gone */
    for (int i = 0, end, flip = 0; i < net->count; i = end, flip ^= 1) {
        end = segment_end(net, i);
        const cgru_node *node = &net->nodes[end - 1];
        int collapses = node->kind == CGRU_RECURRENT && !node->sequences;
        sequence out = {b->whole[flip], (ptrdiff_t)b->steps * node->out, node->out};
        if (over || collapses) out.row = node->out;
        if (end == net->count) out = (sequence){call->y + b->first * call->y_row, call->y_row, call->y_step};
        if (barrier_node(node)) run_whole(b, node, in, out);
        else run_chunks(b, i, end, in, out);
        if (b->valid && node->kind == CGRU_RECURRENT && node->flipped && b->member.rank == 0) flip_mask(b);
        if (collapses) {
            if (b->member.rank == 0) last_output(b, node, out);
            b->steps = b->chunk = 1;
            b->valid = NULL;
            over = 1;
        }
        cgru_team_wait(b->member);
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
}

/* ---- a call ------------------------------------------------------------------------------------------------------- */

typedef struct {
    const cgru_net *net;
    const cgru_call *call;
    char *memory;
} whole_call;

static block block_of(const cgru_net *net, const cgru_call *call, int64_t first, int rows, cgru_member member)
{
    return (block){.net = net,
                   .call = call,
                   .first = first,
                   .rows = rows,
                   .chunk = chunk_steps(net, rows, call->steps),
                   .steps = call->steps,
                   .member = member};
}

static int block_rows(const cgru_call *call)
{
    return (int)(call->rows < BLOCK_ROWS ? call->rows : BLOCK_ROWS);
}

static void run_call(void *what, cgru_member member)
{
    const whole_call *whole = what;
    cgru_fpmode mode = cgru_flush_subnormals();
    for (int64_t first = 0; first < whole->call->rows; first += BLOCK_ROWS) {
        int64_t left = whole->call->rows - first;
        block b = block_of(whole->net, whole->call, first, (int)(left < BLOCK_ROWS ? left : BLOCK_ROWS), member);
        arena a = {whole->memory, 0};
        lay_out(&b, &a, member.rank);
        run_block(&b);
    }
    cgru_restore_fpmode(mode);
}

int cgru_net_run(const cgru_net *net, const cgru_call *call, cgru_work *work)
{
    if (call->rows == 0) return CGRU_OK;
    block b = block_of(net, call, 0, block_rows(call), cgru_alone);
    arena a = {NULL, 0};
    lay_out(&b, &a, call->threads - 1);
    if (reserve(work, a.used) != CGRU_OK) return CGRU_NO_MEMORY;
    whole_call whole = {net, call, work->memory};
    if (call->threads == 1) run_call(&whole, cgru_alone);
    else cgru_team_run(call->threads, run_call, &whole);
    return CGRU_OK;
}

cgru_net *cgru_net_new(const cgru_kernels *kernels, const cgru_node *nodes, int count)
{
    cgru_net *net = calloc(1, sizeof *net + (size_t)count * sizeof *nodes);
    if (net == NULL) return NULL;
    net->kernels = kernels;
    net->count = count;
    memcpy(net->nodes, nodes, (size_t)count * sizeof *nodes);
    for (int i = 0; i < count; i++) {
        const cgru_node *node = &nodes[i];
        if (node->out > net->widest) net->widest = node->out;
        net->masks |= node->kind == CGRU_MASKING || (node->kind == CGRU_EMBEDDING && node->mask_zero);
        for (int d = 0; node->kind == CGRU_RECURRENT && d < node->directions; d++) {
            const cgru_scan *scan = node->direction[d].scan;
            int units = scan->panels * kernels->vl, gates = units * scan->x.gates;
            if (gates > net->projection) net->projection = gates;
            if (units > net->hidden) net->hidden = units;
        }
    }
    net->hidden = (net->hidden + ALIGN_FLOATS - 1) / ALIGN_FLOATS * ALIGN_FLOATS;
    return net;
}

void cgru_net_free(cgru_net *net)
{
    free(net);
}
