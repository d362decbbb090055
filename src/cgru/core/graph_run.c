/* Runs a graph over a call: rows in blocks, time in chunks, pass by pass. Threads take rows of their own.
 *
 * Frames are counted from the beginning of the sequence. Chunks change no result: every operation gives the same bits
 * however its frames come. */
#include <stdlib.h>
#include <string.h>

#include "block.h"
#include "fpmode.h"
#include "graph.h"
#include "memory.h"
#include "stop.h"
#include "work.h"

#define BLOCK_ROWS 64      /* rows taken together at most */
/* Of all values of a chunk together, as far as may be: 128 KiB, so that they stay near; 1 MiB where a step multiplies
 * much for each of them, since every chunk reads all weights anew (NSNet2's 500 frames in chunks of 8: 1.3 times the
 * time). */
#define CHUNK_FLOATS 32768
#define CHUNK_FLOATS_HEAVY (1 << 18)
#define HEAVY 128      /* multiply-adds for each number of a step */
#define CHUNK_STEPS 64 /* at most */
#define KEPT_STATIC 8      /* inputs given once that a kept plan may have */
#define ROW_WORK (1 << 17) /* multiply-adds worth waking one more thread for */

/* One block of rows of one call. */
typedef struct {
    const cgru_graph *graph;
    const cgru_graph_call *call;
    int64_t first;
    int rows, chunk;
    cgru_stop *stop; /* of the call, or NULL */
    int asks;        /* this is the thread that made the call */
    int64_t *start, *end;    /* of every value: frames when the call begins and when it has ended */
    int64_t *before, *after; /* and when a chunk does */
    int64_t *most;           /* frames of a chunk at most */
    int64_t *lengths;        /* [value][row], frames of each row counted from the call's beginning; NULL without lengths */
    float **kept;            /* of every value: where it lies for the whole call, or NULL */
    float **slots;
    float **windows;
    float **masks; /* of every input: a mask as floats, or NULL */
    int *real;
    block scans;
    cgru_call scan_call;
    uint8_t *valid;
    const float **pointer_in;
    float **pointer_out;
    char *prepared;
    void *scratch;
} graph_block;

/* ---- how many frames ---------------------------------------------------------------------------------------------- */

/* Frames of every value once so many steps have gone in. */
static void count_frames(const cgru_graph *g, const cgru_graph_call *call, int64_t steps, int ended, int64_t *frames)
{
    for (int v = 0; v < g->inputs; v++) {
        int clock = g->values[v].clock;
        frames[v] = clock == CGRU_STEPS ? steps : clock == CGRU_STATIC ? call->inputs[v].frames : 1;
    }
    for (int i = 0; i < g->count; i++) {
        const cgru_gnode *node = &g->nodes[i];
        if (g->values[node->out].clock == CGRU_ONCE) {
            frames[node->out] = 1;
            continue;
        }
        int64_t least = -1;
        for (int k = 0; k < node->inputs; k++) {
            int v = node->in[k];
            if (v < 0 || g->values[v].clock != g->values[node->out].clock) continue; /* a memory that is attended to */
            if (least < 0 || frames[v] < least) least = frames[v];
            if (node->op->whole) break; /* it sees the others to their ends */
        }
        frames[node->out] = node->op->frames ? node->op->frames(node, least)
                                             : cgru_ready(&node->window, least, ended || g->values[node->out].clock == CGRU_STATIC);
    }
}

/* ---- scratch ------------------------------------------------------------------------------------------------------- */

static int chunk_steps(const cgru_graph *g, int rows, int64_t steps)
{
    if (g->carries) return 1;
    int64_t floats = g->scans->projection + 1;
    for (int i = 0; i < g->count; i++) floats += g->values[g->nodes[i].out].size;
    int64_t chunk = (g->work / floats >= HEAVY ? CHUNK_FLOATS_HEAVY : CHUNK_FLOATS) / (floats * rows);
    if (chunk < 4) chunk = 4;
    if (chunk > CHUNK_STEPS) chunk = CHUNK_STEPS;
    return (int)(chunk < steps ? chunk : steps > 0 ? steps : 1);
}

/* Counts frames, and how many a chunk has at most. */
static void plan_frames(graph_block *b)
{
    const cgru_graph *g = b->graph;
    const cgru_graph_call *call = b->call;
    const int64_t bytes = g->value_count * (int64_t)sizeof(int64_t);
    count_frames(g, call, call->before, 0, b->start);
    count_frames(g, call, call->before + call->steps, call->ended, b->end);
    memset(b->most, 0, (size_t)bytes);
    memcpy(b->before, b->start, (size_t)bytes);
    for (int64_t done = 0; done < call->steps || done == 0;) {
        int64_t now = done + b->chunk < call->steps ? done + b->chunk : call->steps;
        count_frames(g, call, call->before + now, call->ended && now == call->steps, b->after);
        for (int v = 0; v < g->value_count; v++) {
            int64_t frames = b->after[v] - b->before[v];
            if (g->values[v].clock != CGRU_STEPS) frames = b->end[v];
            if (frames > b->most[v]) b->most[v] = frames;
        }
        memcpy(b->before, b->after, (size_t)bytes);
        if (g->even || now == call->steps) break; /* all chunks of an even graph but the last are alike */
        done = now;
    }
}

/* Frames that a mask among the inputs has in this call. */
static int64_t mask_frames(const graph_block *b, int v)
{
    return b->graph->values[v].clock == CGRU_STEPS ? b->call->steps : b->call->inputs[v].frames;
}

static int64_t frames_in_call(const graph_block *b, int v)
{
    return b->graph->values[v].clock == CGRU_STEPS ? b->end[v] - b->start[v] : b->end[v];
}

/* Frames of an extended input at most: those held, those new, and padding at the end. */
static int64_t extended_frames(const graph_block *b, const cgru_gnode *node, int k)
{
    int whole = b->graph->values[node->in[k]].clock != CGRU_STEPS || (node->op->whole && node->op->windowed);
    int64_t fresh = whole ? frames_in_call(b, node->in[k]) : b->most[node->in[k]];
    int64_t right = node->window.right > 0 ? node->window.right : 0, left = node->window.left > 0 ? node->window.left : 0;
    return node->hold[k] + fresh + right + (whole ? left : 0);
}

static void lay_out(graph_block *b, cgru_arena *a)
{
    const cgru_graph *g = b->graph;
    const cgru_graph_call *call = b->call;
    const size_t n = (size_t)g->value_count, rows = (size_t)b->rows;
    b->start = cgru_take(a, n * sizeof(int64_t));
    b->end = cgru_take(a, n * sizeof(int64_t));
    b->before = cgru_take(a, n * sizeof(int64_t));
    b->after = cgru_take(a, n * sizeof(int64_t));
    b->most = cgru_take(a, n * sizeof(int64_t));
    b->kept = cgru_take(a, n * sizeof(float *));
    b->slots = cgru_take(a, (size_t)(g->slots + 1) * sizeof(float *));
    b->windows = cgru_take(a, (size_t)(g->windows + 1) * sizeof(float *));
    b->masks = cgru_take(a, (size_t)(g->inputs + 1) * sizeof(float *));
    b->real = cgru_take(a, rows * 2 * sizeof(int));
    b->lengths = call->lengths ? cgru_take(a, n * rows * sizeof(int64_t)) : NULL;
    b->pointer_in = cgru_take(a, CGRU_BATCH * sizeof(float *));
    b->pointer_out = cgru_take(a, CGRU_BATCH * sizeof(float *));
    b->prepared = cgru_take(a, CGRU_BATCH * g->prepared);
    b->scratch = cgru_take(a, g->scratch);
}

/* What depends on the numbers of frames, which are known by now. */
static void lay_out_frames(graph_block *b, cgru_arena *a)
{
    const cgru_graph *g = b->graph;
    const size_t rows = (size_t)b->rows;
    const int real = a->at != NULL;
    int64_t longest = 1, many = 0, extended = 0;
    for (int v = 0; v < g->value_count; v++) {
        if (frames_in_call(b, v) > longest) longest = frames_in_call(b, v);
        float *kept = NULL;
        if (g->homes[v].storage == CGRU_IN_KEPT)
            kept = cgru_take(a, rows * (size_t)(frames_in_call(b, v) + 1) * (size_t)g->values[v].size * sizeof(float));
        if (real) b->kept[v] = kept;
    }
    for (int s = 0; s < g->slots; s++) {
        int64_t floats = 0;
        for (int v = g->inputs; v < g->value_count; v++) {
            if (g->homes[v].storage != CGRU_IN_CHUNK || g->homes[v].place != s) continue;
            if (b->most[v] * g->values[v].size > floats) floats = b->most[v] * g->values[v].size;
        }
        float *slot = cgru_take(a, rows * (size_t)floats * sizeof(float));
        if (real) b->slots[s] = slot;
    }
    for (int i = 0; i < g->count; i++) {
        const cgru_gnode *node = &g->nodes[i];
        for (int k = 0; k < node->inputs; k++) {
            if (node->in[k] < 0 || !(node->op->windowed || node->hold[k])) continue;
            int64_t floats = extended_frames(b, node, k) * g->values[node->in[k]].size;
            if (floats > extended) extended = floats;
        }
        if (node->scan.directions && b->most[node->out] > many) many = b->most[node->out];
    }
    for (int w = 0; w < g->windows; w++) {
        float *window = cgru_take(a, rows * (size_t)extended * sizeof(float));
        if (real) b->windows[w] = window;
    }
    for (int v = 0; v < g->inputs; v++) {
        float *mask = NULL;
        if (g->values[v].content == CGRU_MASK && b->call->inputs[v].data)
            mask = cgru_take(a, rows * (size_t)(mask_frames(b, v) + 1) * sizeof(float));
        if (real) b->masks[v] = mask;
    }
    if (g->scans->count == 0) return;
    if (many < b->chunk) many = b->chunk;
    stage_scratch *l = &b->scans.scratch[0];
    cgru_take_shared(g->scans, l, rows, rows * (size_t)many, a);
    cgru_take_own(g->scans, l, rows, rows * (size_t)many, a);
    b->scans.chunk = (int)many;
    b->valid = cgru_take(a, rows * (size_t)longest);
}

/* ---- where frames are ---------------------------------------------------------------------------------------------- */

/* Frames of a value from frame `at` of the sequence on. */
static cgru_span span_of(const graph_block *b, int v, int64_t at)
{
    const cgru_graph *g = b->graph;
    const cgru_home *home = &g->homes[v];
    const int size = g->values[v].size, moves = g->values[v].clock != CGRU_ONCE;
    const int64_t late = g->values[v].clock == CGRU_STEPS ? at - b->start[v] : at;
    switch (home->storage) {
    case CGRU_IN_INPUT: {
        const cgru_port *port = &b->call->inputs[v];
        if (b->masks[v]) return (cgru_span){b->masks[v] + late, mask_frames(b, v) + 1, 1};
        if (port->data == NULL) return (cgru_span){NULL, 0, 0};
        int64_t from = b->first * port->row + (moves ? late * port->frame : 0);
        const char *data = (const char *)port->data + from * (g->values[v].content == CGRU_IDS ? 8 : 4);
        return (cgru_span){(float *)data, port->row, moves ? port->frame : 0};
    }
    case CGRU_IN_OUTPUT: {
        const cgru_port *port = &b->call->outputs[home->place];
        return (cgru_span){(float *)port->data + b->first * port->row + (moves ? late * port->frame : 0), port->row,
                           moves ? port->frame : 0};
    }
    case CGRU_IN_KEPT:
        return (cgru_span){b->kept[v] + (moves ? late * size : 0), (frames_in_call(b, v) + 1) * size, moves ? size : 0};
    case CGRU_IN_CHUNK:
        return (cgru_span){b->slots[home->place] + (at - b->before[v]) * size, b->most[v] * size, size};
    case CGRU_IN_WEIGHTS:
        return (cgru_span){(float *)g->nodes[home->place].vector[0], 0, 0};
    case CGRU_IN_VALUE: {
        cgru_span whole = span_of(b, home->place, at);
        if (whole.data) whole.data += home->offset;
        return whole;
    }
    default:
        return (cgru_span){NULL, 0, 0};
    }
}

/* Frames held and frames new of an input, one after the other in memory, zeros where the window sees padding; the state
 * then holds the last of them. The span begins `hold` frames before the first new one. */
static cgru_span extend(const graph_block *b, const cgru_job *job, int k, float *memory, int64_t from, int64_t frames)
{
    const cgru_gnode *node = job->node;
    const int v = node->in[k], size = b->graph->values[v].size, hold = node->hold[k];
    const int64_t stride = extended_frames(b, node, k), moves = b->graph->values[v].clock == CGRU_STEPS;
    const cgru_span in = span_of(b, v, from);
    const size_t bytes = (size_t)size * sizeof(float);
    for (int r = 0; r < b->rows; r++) {
        float *row = memory + r * stride * size, *state = hold && moves ? cgru_state_row(job, r) + node->history[k] : NULL;
        /* Frames that count: a row's own, where a steady graph carries the state at the row's length. Where frames are late
         * a row's last ones come of the padding behind it, and its state, that of a sequence that has ended, of nothing. */
        int64_t own = frames, real = frames;
        if (b->lengths) {
            real = b->lengths[(int64_t)v * b->rows + r] - (from - (moves ? b->start[v] : 0));
            own = real < 0 ? 0 : real < frames ? real : frames;
            if (real < -hold) real = -hold;
            if (real > frames) real = frames;
            if (b->graph->steady) real = own;
            else own = frames;
        }
        if (state) memcpy(row, state, (size_t)hold * bytes);
        else memset(row, 0, (size_t)hold * bytes);
        const int64_t there = real > 0 ? real : 0; /* what a caller has behind a row's length is anybody's guess */
        for (int64_t f = 0; f < there; f++) memcpy(row + (hold + f) * size, in.data + r * in.row + f * in.frame, bytes);
        memset(row + (hold + there) * size, 0, (size_t)(stride - hold - there) * bytes);
        if (k == 0) {
            int64_t held = state && b->graph->steady ? (int64_t)state[hold * size] : moves ? from : 0;
            if (held > hold) held = hold;
            b->real[2 * r] = (int)(hold - held);
            b->real[2 * r + 1] = (int)(hold + real);
            if (state) state[hold * size] = (float)(held + own < hold ? held + own : hold);
        }
        if (state && own > 0) memcpy(state, row + own * size, (size_t)hold * bytes);
    }
    return (cgru_span){memory, stride * size, size};
}

/* ---- nodes ---------------------------------------------------------------------------------------------------------- */

/* Numbers past a row's length are zero, so that padding stays padding. */
static void clear_beyond(const cgru_job *job)
{
    const size_t bytes = (size_t)job->graph->values[job->node->out].size * sizeof(float);
    for (int r = 0; r < job->rows; r++) {
        int64_t from = job->lengths[r] - job->at;
        for (int64_t f = from > 0 ? from : 0; f < job->frames; f++) memset(cgru_frame(&job->out, r, f), 0, bytes);
    }
}

/* Frames [from, to) of the node's result, counted from the beginning of the sequence. */
static void run_node(graph_block *b, int i, int64_t from, int64_t to, const int64_t *before, const int64_t *after)
{
    const cgru_graph *g = b->graph;
    const cgru_gnode *node = &g->nodes[i];
    const int v = node->out, moves = g->values[v].clock == CGRU_STEPS;
    /* Nobody reads it; what a row carries has to move on all the same. */
    if (g->homes[v].storage == CGRU_NOWHERE && !node->op->moves) return;
    /* It is there already: a constant, or a value that is another seen otherwise. */
    const cgru_home *home = &g->homes[v];
    if (home->storage == CGRU_IN_WEIGHTS || (home->storage == CGRU_IN_VALUE && home->place < v)) return;
    cgru_job job = {.graph = g, .node = node, .call = b->call, .first = b->first, .rows = b->rows, .frames = to - from,
                    .at = from - (moves ? b->start[v] : 0), .scans = &b->scans, .pointer_in = b->pointer_in,
                    .pointer_out = b->pointer_out, .quantized_input = {b->prepared, (ptrdiff_t)g->prepared},
                    .real = b->real, .scratch = b->scratch};
    int window = 0;
    job.out = span_of(b, v, from);
    for (int k = 0; k < node->inputs; k++) {
        const int u = node->in[k];
        if (u < 0) {
            job.in[k] = (cgru_span){NULL, 0, 0};
            continue;
        }
        const int whole = g->mode[i] != CGRU_RUN_CHUNK || g->values[u].clock != CGRU_STEPS;
        int64_t first = whole ? (g->values[u].clock == CGRU_STEPS ? b->start[u] : 0) : before[u];
        int64_t fresh = (whole ? b->end[u] : after[u]) - first;
        job.in_frames[k] = fresh;
        if (node->op->windowed || node->hold[k]) {
            job.in[k] = extend(b, &job, k, b->windows[window++], first, fresh);
            /* from where the first result frame looks */
            int64_t look = from / node->window.up * node->window.stride - node->window.left - (first - node->hold[k]);
            job.in[k].data += look * g->values[u].size;
            if (k == 0) {
                job.reach = node->hold[k] + fresh - look;
                for (int r = 0; r < b->rows; r++) b->real[2 * r] -= (int)look, b->real[2 * r + 1] -= (int)look;
            }
        } else {
            job.in[k] = span_of(b, u, first);
        }
    }
    if (b->lengths) {
        job.lengths = b->lengths + (int64_t)v * b->rows;
        if (node->inputs && node->in[0] >= 0) job.in_lengths = b->lengths + (int64_t)node->in[0] * b->rows;
        if (node->inputs > 1 && node->in[1] >= 0) job.key_lengths = b->lengths + (int64_t)node->in[1] * b->rows;
    }
    node->op->run(&job);
    if (job.lengths && g->values[v].clock != CGRU_ONCE && job.out.data) clear_beyond(&job);
}

static void start_block(graph_block *b)
{
    const cgru_graph *g = b->graph;
    const cgru_graph_call *call = b->call;
    for (int v = 0; v < g->inputs; v++) {
        if (b->masks[v] == NULL) continue;
        const cgru_port *port = &call->inputs[v];
        for (int r = 0; r < b->rows; r++) {
            const uint8_t *from = (const uint8_t *)port->data + (b->first + r) * port->row;
            const int64_t frames = mask_frames(b, v);
            for (int64_t t = 0; t < frames; t++) b->masks[v][r * (frames + 1) + t] = from[t * port->frame] ? 1.0f : 0.0f;
        }
    }
    if (b->lengths) {
        for (int r = 0; r < b->rows; r++) {
            count_frames(g, call, call->before + call->lengths[b->first + r], call->ended, b->after);
            for (int v = 0; v < g->value_count; v++) {
                int64_t from = g->values[v].clock == CGRU_STEPS ? b->start[v] : 0;
                b->lengths[(int64_t)v * b->rows + r] = b->after[v] > from ? b->after[v] - from : 0;
            }
        }
    }
    b->scan_call = (cgru_call){.rows = b->rows,
                               .steps = call->steps,
                               .state = call->index ? call->state : call->state + b->first * call->state_row,
                               .state_row = call->state_row,
                               .state_rows = call->state_rows,
                               .index = call->index ? call->index + b->first : NULL,
                               .threads = 1};
    b->scans.net = g->scans;
    b->scans.call = &b->scan_call;
    b->scans.first = 0; /* the call of the scans begins with this block's rows */
    b->scans.rows = b->rows;
    b->scans.member = cgru_alone;
    b->scans.mask = b->valid;
    b->scans.member.stop = b->stop;
    b->scans.asks = b->asks;
}

static void run_block(graph_block *b)
{
    const cgru_graph *g = b->graph;
    const cgru_graph_call *call = b->call;
    start_block(b);
    for (int pass = 0; pass < g->passes; pass++) {
        int chunks = 0;
        for (int i = 0; i < g->count; i++) {
            if (g->pass[i] != pass) continue;
            chunks += g->mode[i] == CGRU_RUN_CHUNK;
            if (g->mode[i] == CGRU_RUN_ONCE) run_node(b, i, 0, b->end[g->nodes[i].out], b->start, b->end);
        }
        memcpy(b->before, b->start, (size_t)g->value_count * sizeof(int64_t));
        for (int64_t done = 0; chunks; ) {
            int64_t now = done + b->chunk < call->steps ? done + b->chunk : call->steps;
            count_frames(g, call, call->before + now, call->ended && now == call->steps, b->after);
            for (int i = 0; i < g->count; i++) {
                if (g->pass[i] != pass || g->mode[i] != CGRU_RUN_CHUNK) continue;
                int v = g->nodes[i].out;
                run_node(b, i, b->before[v], b->after[v], b->before, b->after);
            }
            memcpy(b->before, b->after, (size_t)g->value_count * sizeof(int64_t));
            if (b->asks) cgru_stop_ask(b->stop, g->work * b->rows * (now - done));
            if (now == call->steps || cgru_stopped(b->stop)) break;
            done = now;
        }
        if (cgru_stopped(b->stop)) return;
        for (int i = 0; i < g->count; i++) {
            if (g->pass[i] != pass || g->mode[i] != CGRU_RUN_WHOLE) continue;
            int v = g->nodes[i].out;
            int64_t from = g->values[v].clock == CGRU_STEPS ? b->start[v] : 0;
            run_node(b, i, from, b->end[v], b->start, b->end);
        }
    }
}

/* ---- calls ------------------------------------------------------------------------------------------------------------ */

typedef struct {
    const cgru_graph *graph;
    const cgru_graph_call *call;
    char *memory;
    size_t share; /* bytes for each thread */
    int rows;     /* of a block at most */
    cgru_stop *stop;
} graph_task;

/* Prepares a block of at most `rows` rows in memory; with NULL the bytes it takes, or 0 without memory to count in. */
static size_t prepare(graph_block *b, const graph_task *task, int64_t first, int rows, char *memory)
{
    *b = (graph_block){.graph = task->graph, .call = task->call, .first = first, .rows = rows};
    b->chunk = chunk_steps(task->graph, task->rows, task->call->steps); /* the same in every block: fewer rows take less */
    cgru_arena a = {memory, 0};
    lay_out(b, &a);
    graph_block counting = *b;
    char *numbers = NULL;
    if (memory == NULL) { /* the numbers of frames decide how much more there is */
        cgru_arena head = {NULL, 0};
        lay_out(&counting, &head);
        numbers = cgru_allocate(head.used);
        if (numbers == NULL) return 0;
        head = (cgru_arena){numbers, 0};
        lay_out(&counting, &head);
    }
    plan_frames(&counting);
    lay_out_frames(&counting, &a);
    if (memory) *b = counting;
    cgru_release(numbers);
    return a.used;
}

static void run_rows(void *what, cgru_member member)
{
    const graph_task *task = what;
    const int64_t end = task->call->rows * (member.rank + 1) / member.size;
    cgru_fpmode mode = cgru_flush_subnormals();
    for (int64_t first = task->call->rows * member.rank / member.size; first < end && !cgru_stopped(task->stop);
         first += task->rows) {
        graph_block b;
        int rows = (int)(end - first < task->rows ? end - first : task->rows);
        prepare(&b, task, first, rows, task->memory + task->share * (size_t)member.rank);
        b.stop = task->stop;
        b.asks = member.rank == 0;
        run_block(&b);
    }
    cgru_restore_fpmode(mode);
}

static int check_call(const cgru_graph *g, const cgru_graph_call *call)
{
    const int status = cgru_check_rows(call->rows, call->steps, call->lengths, call->index, call->state_rows);
    if (status != CGRU_OK) return status;
    for (int v = 0; v < g->inputs; v++) {
        if (call->inputs[v].data == NULL && g->values[v].content != CGRU_MASK && call->steps > 0) return CGRU_BAD_PORT;
    }
    for (int i = 0; i < g->count; i++) { /* every table that an input's ids are looked up in */
        const cgru_gnode *node = &g->nodes[i];
        if (node->table.values == NULL || node->in[0] >= g->inputs) continue;
        const cgru_port *port = &call->inputs[node->in[0]];
        int clock = g->values[node->in[0]].clock;
        int64_t frames = clock == CGRU_STEPS ? call->steps : clock == CGRU_STATIC ? port->frames : 1;
        const int column = node->number[1], many = column < 0 ? g->values[node->in[0]].size : 1;
        for (int64_t r = 0; r < call->rows; r++) {
            for (int64_t f = 0; f < frames; f++) {
                const int64_t *ids = (const int64_t *)port->data + r * port->row + f * port->frame + (column < 0 ? 0 : column);
                for (int i = 0; i < many; i++) {
                    if (ids[i] < 0 || ids[i] >= node->number[0]) return CGRU_BAD_ID;
                }
            }
        }
    }
    return CGRU_OK;
}

/* Whether each output has room for just the frames that come, and sequences that are folded have the length for it. */
static int check_frames(const cgru_graph *g, const cgru_graph_call *call)
{
    int64_t *frames = malloc((size_t)g->value_count * 2 * sizeof *frames), *end = frames + g->value_count;
    if (frames == NULL) return CGRU_NO_MEMORY;
    count_frames(g, call, call->before, 0, frames);
    count_frames(g, call, call->before + call->steps, call->ended, end);
    int status = CGRU_OK;
    for (int o = 0; o < g->output_count; o++) {
        int v = g->outputs[o];
        int64_t come = g->values[v].clock == CGRU_STEPS ? end[v] - frames[v] : end[v];
        if (come != call->outputs[o].frames) status = CGRU_BAD_PORT;
    }
    for (int64_t r = 0; g->folds && r < (call->lengths ? call->rows : 1); r++) {
        count_frames(g, call, call->before + (call->lengths ? call->lengths[r] : call->steps), call->ended, end);
        for (int i = 0; i < g->count; i++) {
            const int64_t found = g->nodes[i].op->fold ? end[g->nodes[i].in[0]] : 0;
            if (found != 0 && found != g->nodes[i].number[0]) status = CGRU_BAD_LENGTH;
        }
    }
    free(frames);
    return status;
}

/* Whether a call leaves its scratch laid out for the next, and what must be the same then: calls that step come again and
 * again with the same sizes. Frames of a steady graph do not depend on the steps before. */
typedef struct {
    int64_t rows, steps;
    uint64_t given; /* which inputs are there */
    int64_t frames[KEPT_STATIC]; /* of those with a time axis of their own, in their order */
    int lengths;
    graph_block block;
} kept_plan;

static kept_plan plan_of(const cgru_graph *g, const cgru_graph_call *call)
{
    kept_plan plan = {.rows = call->rows, .steps = call->steps, .lengths = call->lengths != NULL};
    for (int v = 0, of = 0; v < g->inputs; v++) {
        plan.given |= (uint64_t)(call->inputs[v].data != NULL) << v;
        if (g->values[v].clock == CGRU_STATIC) plan.frames[of++] = call->inputs[v].frames;
    }
    return plan;
}

static int keeps_plan(const cgru_graph *g, const cgru_graph_call *call)
{
    if (!g->even || call->rows > BLOCK_ROWS || call->steps > CHUNK_STEPS || g->inputs > 64) return 0;
    int own = 0;
    for (int v = 0; v < g->inputs; v++) own += g->values[v].clock == CGRU_STATIC;
    return own <= KEPT_STATIC;
}

/* One block in the caller's thread, whose scratch is kept laid out. */
static int run_kept(const cgru_graph *graph, const cgru_graph_call *call, cgru_work *work)
{
    const size_t head = (sizeof(kept_plan) + CGRU_ALIGN - 1) / CGRU_ALIGN * CGRU_ALIGN;
    const kept_plan wanted = plan_of(graph, call);
    kept_plan *plan = cgru_work_memory(work);
    unsigned long long *planned = cgru_work_planned(work);
    if (*planned != graph->scans->serial || plan->rows != wanted.rows || plan->steps != wanted.steps ||
        plan->given != wanted.given || plan->lengths != wanted.lengths ||
        memcmp(plan->frames, wanted.frames, sizeof wanted.frames) != 0) {
        graph_task task = {graph, call, NULL, 0, (int)call->rows, NULL};
        graph_block counting;
        size_t bytes = prepare(&counting, &task, 0, task.rows, NULL);
        char *memory = bytes ? cgru_work_reserve(work, head + bytes) : NULL;
        if (memory == NULL) return CGRU_NO_MEMORY;
        plan = (kept_plan *)memory;
        *plan = wanted;
        prepare(&plan->block, &task, 0, task.rows, memory + head);
        *planned = graph->scans->serial;
    }
    plan->block.call = call;
    cgru_fpmode mode = cgru_flush_subnormals();
    run_block(&plan->block);
    cgru_restore_fpmode(mode);
    return CGRU_OK;
}

int cgru_graph_run(const cgru_graph *graph, const cgru_graph_call *call, cgru_work *work)
{
    if (call->rows == 0) return CGRU_OK;
    int status = check_call(graph, call);
    if (status == CGRU_OK && (!graph->even || graph->folds || call->steps != 1)) status = check_frames(graph, call);
    if (status != CGRU_OK) return status;
    if (call->threads == 1 && !call->interrupted && keeps_plan(graph, call)) return run_kept(graph, call, work);
    double share = (double)graph->work * (double)call->rows * (double)(call->steps + 1) / ROW_WORK;
    int64_t threads = call->threads < CGRU_MAX_TEAM ? call->threads : CGRU_MAX_TEAM;
    if (threads > call->rows) threads = call->rows;
    if ((double)threads > share) threads = (int64_t)share;
    if (threads < 1) threads = 1;
    int64_t most = (call->rows + threads - 1) / threads;
    cgru_stop stop = {.interrupted = call->interrupted};
    if (call->interrupted) stop.asked = cgru_clock();
    graph_task task = {graph, call, NULL, 0, (int)(most < BLOCK_ROWS ? most : BLOCK_ROWS), call->interrupted ? &stop : NULL};
    graph_block b;
    task.share = prepare(&b, &task, 0, task.rows, NULL);
    if (task.share == 0 || task.share > SIZE_MAX / (size_t)threads) return CGRU_NO_MEMORY;
    task.memory = cgru_work_reserve(work, task.share * (size_t)threads);
    if (task.memory == NULL) return CGRU_NO_MEMORY;
    if (threads == 1) run_rows(&task, cgru_alone);
    else cgru_team_run((int)threads, run_rows, &task);
    return cgru_stopped(task.stop) ? CGRU_INTERRUPTED : CGRU_OK;
}
