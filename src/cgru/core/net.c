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
#define MAX_STAGES 8           /* of a wavefront of layers */
#define WAVE_STEPS 16          /* of a chunk of a wavefront at least: a wait costs about a microsecond */
#define CALL_WORK (1 << 17)    /* multiply-adds worth waking one more thread for: about 4 µs */
#define STEP_WORK (1 << 14)    /* multiply-adds of a step worth a barrier for each thread: about half a µs */

struct cgru_net {
    const cgru_kernels *kernels;
    int count;
    int widest;     /* features between nodes */
    int projection; /* floats of projected input of a row and step, over all scans */
    int hidden;     /* floats of a row of the widest hidden state, whole panels */
    int masks;      /* some node makes a mask */
    int64_t work;   /* multiply-adds of a row and step */
    int64_t widest_step; /* of those, in the largest recurrent multiplication */
    int parallel;   /* independent parts at most: layers of a wavefront, or two directions */
    cgru_node nodes[];
};

/* Features of rows over steps. */
typedef struct {
    float *data;
    ptrdiff_t row, step;
} sequence;

/* Scratch of one direction, or of one stage of a wavefront: what may run at the same time. */
typedef struct {
    float *hop[2];  /* features of a chunk between two nodes */
    float *hand[2]; /* features of a chunk for the next stage, by turns */
    float *projected, *ring, *between;
    const float **pointer_in, **pointer_h, **current;
    float **pointer_out, **pointer_own, **pointer_projected, **pointer_scratch;
    const float **step_projected, **step_x;
    unsigned char *emitted;
    int *active;
} lane;

/* One block of rows of one call, as one member sees it. */
typedef struct {
    const cgru_net *net;
    const cgru_call *call;
    int64_t first; /* row */
    int rows, chunk, whole_chunk;
    int64_t steps, whole_steps; /* steps become 1 once the time axis is gone */
    int stages;     /* of a wavefront, at most */
    uint8_t *valid; /* (rows, steps), or NULL where every step counts */
    uint8_t *mask;  /* where valid lies until the time axis is gone */
    float *whole[2];
    float *pair; /* a second direction's outputs before merging */
    lane lanes[MAX_STAGES];
    cgru_member member;
} block;

/* Scratch, and how it was laid out for the last call of a single block and thread: calls that step come again and again
 * with the same sizes. */
struct cgru_work {
    void *memory;
    size_t bytes;
    block plan;
};

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
    size_t steps = b->steps > 0 ? (size_t)b->steps : 1, rows = b->rows;
    /* Rows times steps of a chunk: as many as any block of at most this many rows may take. */
    size_t many = rows > CHUNK_ROWS ? rows : CHUNK_ROWS;
    if (many > rows * steps) many = rows * steps;
    int masked = net->masks || b->call->lengths || b->call->mask, segments = 0, paired = 0;
    for (int i = 0; i < net->count; i = segment_end(net, i)) segments++;
    for (int i = 0; i < net->count; i++) {
        const cgru_node *node = &net->nodes[i];
        paired |= node->kind == CGRU_RECURRENT && node->directions > 1 && node->merge != CGRU_CONCAT;
    }
    arena shared = *a;
    b->valid = masked ? take(&shared, rows * steps) : NULL;
    for (int i = 0; i < 2; i++)
        b->whole[i] = segments > 1 + i ? take(&shared, rows * steps * net->widest * sizeof(float)) : NULL;
    b->pair = paired ? take(&shared, rows * steps * net->widest * sizeof(float)) : NULL;
    const int lanes = b->stages > 2 ? b->stages : 2;
    for (int i = 0; i < lanes; i++) {
        lane *l = &b->lanes[i];
        for (int k = 0; k < 2; k++) {
            size_t hop = net->count > 1 ? many * net->widest * sizeof(float) : 0;
            l->hop[k] = take(&shared, hop);
            l->hand[k] = take(&shared, b->stages > 1 ? hop : 0);
        }
        l->projected = take(&shared, many * net->projection * sizeof(float));
        l->ring = take(&shared, rows * 2 * net->hidden * sizeof(float));
        l->between = take(&shared, rows * 2 * net->hidden * sizeof(float));
    }
    *a = shared;
    for (int m = 0; m <= member; m++) {
        for (int i = 0; i < lanes; i++) {
            lane *l = &b->lanes[i];
            l->pointer_in = take(a, many * sizeof(float *));
            l->pointer_projected = take(a, many * sizeof(float *));
            l->pointer_out = take(a, many * sizeof(float *));
            l->pointer_h = take(a, rows * sizeof(float *));
            l->current = take(a, rows * sizeof(float *));
            l->pointer_scratch = take(a, rows * sizeof(float *));
            l->pointer_own = take(a, rows * sizeof(float *));
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

size_t cgru_work_bytes(const cgru_work *work)
{
    return work->bytes;
}

void cgru_work_free(cgru_work *work)
{
    if (work != NULL) cgru_release(work->memory);
    free(work);
}

static int reserve(cgru_work *work, size_t bytes)
{
    work->plan.net = NULL;
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
    const cgru_cell *cell = scan->cell;
    const int n = b->rows, emits = scan->out, projected = steps > 1;
    int share[2][2]; /* of the panels of each phase */
    cgru_share(scan->panels, member, &share[0][0], &share[0][1]);
    cgru_share(scan->second.panels, member, &share[1][0], &share[1][1]);
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
                    if (node->repeat && l->emitted[r]) copy(to, l->current[r], emits);
                    else memset(to, 0, (size_t)emits * sizeof(float));
                }
                continue;
            }
            l->step_projected[active] = l->projected + ((ptrdiff_t)step * n + r) * net->projection;
            l->step_x[active] = in.data + r * in.row + step * in.step;
            l->pointer_h[active] = l->current[r];
            l->pointer_out[active] = to;
            l->pointer_scratch[active] = l->between + (ptrdiff_t)r * 2 * net->hidden;
            if (cell->states > 1) l->pointer_own[active] = state_row(b, r) + dir->state + emits;
            l->active[active++] = r;
        }
        cgru_rows rows = {active, (int)(t & 1), projected ? l->step_projected : NULL, l->step_x, l->pointer_h,
                          l->pointer_out, l->pointer_own, l->pointer_scratch};
        for (int phase = 0; phase < cell->phases && active; phase++) {
            cell->step(scan, &rows, phase, share[phase][0], share[phase][1]);
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
            copy(state + dir->state, l->current[r], emits);
            state[dir->emitted] = l->emitted[r];
        }
    }
    cgru_team_wait(member);
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
            shown = shown && state[dir->emitted] != 0;
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
            scan_chunk(b, &b->lanes[d], node, dir, from, node->sequences ? &outs[d] : NULL, t0, steps, member);
        }
    }
    cgru_team_wait(b->member);
    if (node->sequences && node->directions > 1 && node->merge != CGRU_CONCAT) {
        merge(b, node, out, outs[1], b->member);
        cgru_team_wait(b->member);
    }
}

/* ---- nodes that look at one step at a time ----------------------------------------------------------------------- */

static void run_dense(block *b, lane *l, const cgru_node *node, sequence in, sequence out, int steps, cgru_member member)
{
    int many = 0, p0, p1, softly = node->activation == CGRU_SOFTMAX;
    for (int s = 0; s < steps; s++) {
        for (int r = 0; r < b->rows; r++) {
            l->pointer_in[many] = in.data + r * in.row + s * in.step;
            l->pointer_out[many++] = out.data + r * out.row + s * out.step;
        }
    }
    cgru_share(node->matrix->panels, member, &p0, &p1);
    b->net->kernels->linear(node->matrix, softly ? CGRU_LINEAR : node->activation, many, l->pointer_in, l->pointer_out,
                            p0, p1);
    if (softly) {
        cgru_team_wait(member);
        if (member.rank == 0) {
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

static sequence later(sequence s, int64_t t)
{
    return (sequence){s.data ? s.data + t * s.step : NULL, s.row, s.step};
}

/* Nodes [i, end) over one chunk; from and to are based at its first step t0. */
static void run_chunk(block *b, lane *l, int i, int end, sequence from, sequence to, int64_t t0, int steps,
                      cgru_member member)
{
    for (int k = i; k < end; k++) {
        const cgru_node *node = &b->net->nodes[k];
        sequence next = k == end - 1 ? to : (sequence){l->hop[k & 1], (ptrdiff_t)node->out * b->chunk, node->out};
        if (node->kind == CGRU_RECURRENT) {
            sequence based = later(next, -t0);
            scan_chunk(b, l, node, &node->direction[0], from, node->sequences ? &based : NULL, t0, steps, member);
        } else {
            if (node->kind == CGRU_DENSE) run_dense(b, l, node, from, next, steps, member);
            else if (member.rank == 0) run_rowwise(b, node, from, next, t0, steps);
            cgru_team_wait(member);
        }
        from = next;
    }
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
    lane *l = &b->lanes[mine];
    for (int64_t tick = 0; tick < chunks + stages - 1; tick++) {
        int64_t c = tick - mine, t0 = c * chunk;
        if (c >= 0 && c < chunks) {
            int steps = (int)(b->steps - t0 < chunk ? b->steps - t0 : chunk);
            sequence from = later(in, t0), to = later(out, t0);
            if (mine > 0) {
                int width = b->net->nodes[first[mine] - 1].out;
                from = (sequence){b->lanes[mine - 1].hand[c & 1], (ptrdiff_t)width * b->chunk, width};
            }
            if (mine < stages - 1) {
                int width = b->net->nodes[first[mine + 1] - 1].out;
                to = (sequence){l->hand[c & 1], (ptrdiff_t)width * b->chunk, width};
            }
            run_chunk(b, l, first[mine], first[mine + 1], from, to, t0, steps, member);
        }
        if (stages > 1) cgru_team_wait(b->member);
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
    size_t share; /* bytes of scratch for each member, where each takes rows of its own; else 0 */
    int threads;
} whole_call;

static block block_of(const whole_call *whole, int64_t first, int64_t left, cgru_member member)
{
    const cgru_net *net = whole->net;
    int rows = (int)(left < BLOCK_ROWS ? left : BLOCK_ROWS), chunk = chunk_steps(net, rows, whole->call->steps);
    return (block){.net = net,
                   .call = whole->call,
                   .first = first,
                   .rows = rows,
                   .chunk = chunk,
                   .whole_chunk = chunk,
                   .steps = whole->call->steps,
                   .whole_steps = whole->call->steps,
                   .stages = whole->share || whole->threads == 1 ? 1 : net->parallel,
                   .member = member};
}

static void run_call(void *what, cgru_member member)
{
    const whole_call *whole = what;
    cgru_fpmode mode = cgru_flush_subnormals();
    int64_t first = 0, end = whole->call->rows;
    char *memory = whole->memory;
    if (whole->share) {
        first = end * member.rank / member.size;
        end = whole->call->rows * (member.rank + 1) / member.size;
        memory += whole->share * member.rank;
        member = cgru_alone;
    }
    for (; first < end; first += BLOCK_ROWS) {
        block b = block_of(whole, first, end - first, member);
        arena a = {memory, 0};
        lay_out(&b, &a, member.rank);
        run_block(&b);
    }
    cgru_restore_fpmode(mode);
}

/* How many of the threads asked for are worth waking, and whether each takes rows of its own (then there is nothing to
 * wait for) or all work on every row. No result depends on it. */
static void plan_threads(whole_call *whole, int *by_rows)
{
    const cgru_net *net = whole->net;
    const cgru_call *call = whole->call;
    int64_t threads = call->threads < CGRU_MAX_TEAM ? call->threads : CGRU_MAX_TEAM;
    double work = (double)net->work * (double)call->rows * (double)call->steps;
    if (work / CALL_WORK < (double)threads) threads = (int64_t)(work / CALL_WORK);
    *by_rows = threads > 1 && call->rows >= 4 * threads;
    if (!*by_rows) {
        int64_t rows = call->rows < BLOCK_ROWS ? call->rows : BLOCK_ROWS;
        int64_t apart = call->steps > 2 * WAVE_STEPS ? net->parallel : 1;
        int64_t together = apart * (1 + rows * net->widest_step / (2 * STEP_WORK));
        if (together < threads) threads = together;
    }
    whole->threads = threads > 1 ? (int)threads : 1;
}

/* One block in the caller's thread, whose scratch is kept laid out. */
static int run_alone(const cgru_net *net, const cgru_call *call, cgru_work *work)
{
    block *plan = &work->plan;
    const int masked = call->lengths || call->mask || net->masks;
    if (plan->net != net || plan->rows != call->rows || plan->whole_steps != call->steps || (plan->mask != NULL) != masked) {
        whole_call whole = {net, call, NULL, 0, 1};
        block b = block_of(&whole, 0, call->rows, cgru_alone);
        arena a = {NULL, 0};
        lay_out(&b, &a, 0);
        if (reserve(work, a.used) != CGRU_OK) return CGRU_NO_MEMORY;
        a = (arena){work->memory, 0};
        lay_out(&b, &a, 0);
        b.mask = b.valid;
        *plan = b;
    }
    plan->call = call;
    plan->steps = plan->whole_steps;
    plan->chunk = plan->whole_chunk;
    plan->valid = plan->mask;
    cgru_fpmode mode = cgru_flush_subnormals();
    run_block(plan);
    cgru_restore_fpmode(mode);
    return CGRU_OK;
}

int cgru_net_run(const cgru_net *net, const cgru_call *call, cgru_work *work)
{
    if (call->rows == 0) return CGRU_OK;
    whole_call whole = {net, call, NULL, 0, 1};
    int by_rows = 0;
    if (call->threads > 1) plan_threads(&whole, &by_rows);
    if (whole.threads == 1 && call->rows <= BLOCK_ROWS) return run_alone(net, call, work);
    whole.share = (size_t)by_rows; /* while counting: only whether there are shares */
    int64_t rows = by_rows ? (call->rows + whole.threads - 1) / whole.threads : call->rows;
    block b = block_of(&whole, 0, rows, cgru_alone);
    arena a = {NULL, 0};
    lay_out(&b, &a, by_rows ? 0 : whole.threads - 1);
    size_t bytes = a.used;
    whole.share = by_rows ? bytes : 0;
    if (reserve(work, by_rows ? bytes * (size_t)whole.threads : bytes) != CGRU_OK) return CGRU_NO_MEMORY;
    whole.memory = work->memory;
    if (whole.threads == 1) run_call(&whole, cgru_alone);
    else cgru_team_run(whole.threads, run_call, &whole);
    return CGRU_OK;
}

int64_t cgru_net_cost(const cgru_net *net)
{
    return net->work;
}

cgru_net *cgru_net_new(const cgru_kernels *kernels, const cgru_node *nodes, int count)
{
    cgru_net *net = calloc(1, sizeof *net + (size_t)count * sizeof *nodes);
    if (net == NULL) return NULL;
    net->kernels = kernels;
    net->count = count;
    net->parallel = 1;
    memcpy(net->nodes, nodes, (size_t)count * sizeof *nodes);
    for (int i = 0, layers = 0; i < count; i++) {
        const cgru_node *node = &nodes[i];
        if (node->out > net->widest) net->widest = node->out;
        if (node->kind == CGRU_DENSE) net->work += (int64_t)node->in * node->out;
        layers = barrier_node(node) ? 0 : layers + (node->kind == CGRU_RECURRENT);
        if (layers > net->parallel) net->parallel = layers < MAX_STAGES ? layers : MAX_STAGES;
        if (node->kind == CGRU_RECURRENT && node->directions > net->parallel) net->parallel = node->directions;
        net->masks |= node->kind == CGRU_MASKING || (node->kind == CGRU_EMBEDDING && node->mask_zero);
        for (int d = 0; node->kind == CGRU_RECURRENT && d < node->directions; d++) {
            const cgru_scan *scan = node->direction[d].scan;
            int units = scan->panels * kernels->vl, gates = units * scan->x.gates;
            if (gates > net->projection) net->projection = gates;
            if (units > net->hidden) net->hidden = units;
            int64_t step = (int64_t)scan->h.gates * scan->hidden * scan->out;
            step += (int64_t)scan->second.units * scan->second.inner;
            if (step > net->widest_step) net->widest_step = step;
            net->work += step + (int64_t)scan->x.gates * scan->hidden * scan->input;
        }
    }
    net->hidden = (net->hidden + ALIGN_FLOATS - 1) / ALIGN_FLOATS * ALIGN_FLOATS;
    return net;
}

void cgru_net_free(cgru_net *net)
{
    free(net);
}
