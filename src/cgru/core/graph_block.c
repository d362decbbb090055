/* The scratch of a block, and where in it, in the caller's arrays and in the weights the frames of values lie. */
#include "graph_block.h"

#include <string.h>

#include "memory.h"

/* ---- scratch ------------------------------------------------------------------------------------------------------- */

/* Frames of an extended input at most: those held, those new, and padding at the end. */
static int64_t extended_frames(const graph_block *b, const cgru_gnode *node, int k)
{
    int whole = b->graph->values[node->in[k]].clock != CGRU_STEPS || (node->op->whole && node->op->windowed);
    int64_t fresh = whole ? cgru_frames_in_call(b, node->in[k]) : b->most[node->in[k]];
    int64_t right = node->window.right > 0 ? node->window.right : 0, left = node->window.left > 0 ? node->window.left : 0;
    return node->hold[k] + fresh + right + (whole ? left : 0);
}

/* What a member counts with, which says how large the rest is, and what it prepares products in. */
static void lay_out_member(graph_block *b, cgru_arena *a)
{
    const cgru_graph *g = b->graph;
    const size_t n = (size_t)g->value_count, rows = (size_t)b->rows;
    b->start = cgru_take(a, n * sizeof(int64_t));
    b->end = cgru_take(a, n * sizeof(int64_t));
    b->before = cgru_take(a, n * sizeof(int64_t));
    b->after = cgru_take(a, n * sizeof(int64_t));
    b->most = cgru_take(a, n * sizeof(int64_t));
    b->lengths = b->call->lengths ? cgru_take(a, n * rows * sizeof(int64_t)) : NULL;
    b->kept = cgru_take(a, n * sizeof(float *));
    b->slots = cgru_take(a, (size_t)(g->slots + 1) * sizeof(float *));
    b->windows = cgru_take(a, (size_t)(g->windows + 1) * sizeof(float *));
    b->masks = cgru_take(a, (size_t)(g->inputs + 1) * sizeof(float *));
    b->pointer_in = cgru_take(a, CGRU_BATCH * sizeof(float *));
    b->pointer_out = cgru_take(a, CGRU_BATCH * sizeof(float *));
    b->prepared = cgru_take(a, CGRU_BATCH * g->prepared);
    b->scratch = cgru_take(a, g->scratch);
}

/* The frames of values, which the members share. Without memory the tables of the block are not written. */
static void lay_out_frames(graph_block *b, cgru_arena *a)
{
    const cgru_graph *g = b->graph;
    const size_t rows = (size_t)b->rows;
    const int laid = a->at != NULL;
    int64_t extended = 0;
    for (int v = 0; v < g->value_count; v++) {
        float *kept = NULL;
        if (g->homes[v].storage == CGRU_IN_KEPT)
            kept = cgru_take(a, rows * (size_t)(cgru_frames_in_call(b, v) + 1) * (size_t)g->values[v].size * sizeof(float));
        if (laid) b->kept[v] = kept;
    }
    for (int s = 0; s < g->slots; s++) {
        int64_t floats = 0;
        for (int v = g->inputs; v < g->value_count; v++) {
            if (g->homes[v].storage != CGRU_IN_CHUNK || g->homes[v].place != s) continue;
            if (b->most[v] * g->values[v].size > floats) floats = b->most[v] * g->values[v].size;
        }
        float *slot = cgru_take(a, rows * (size_t)floats * sizeof(float));
        if (laid) b->slots[s] = slot;
    }
    for (int i = 0; i < g->count; i++) {
        const cgru_gnode *node = &g->nodes[i];
        for (int k = 0; k < node->inputs; k++) {
            if (!cgru_extends(node, k)) continue;
            int64_t floats = extended_frames(b, node, k) * g->values[node->in[k]].size;
            if (floats > extended) extended = floats;
        }
    }
    for (int w = 0; w < g->windows; w++) {
        float *window = cgru_take(a, rows * (size_t)extended * sizeof(float));
        if (laid) b->windows[w] = window;
    }
    for (int v = 0; v < g->inputs; v++) {
        float *mask = NULL;
        if (g->values[v].content == CGRU_MASK && b->call->inputs[v].data)
            mask = cgru_take(a, rows * (size_t)(cgru_mask_frames(b, v) + 1) * sizeof(float));
        if (laid) b->masks[v] = mask;
    }
    b->real = cgru_take(a, rows * 2 * sizeof(int));
}

/* What recurrences run in. */
static void lay_out_scans(graph_block *b, cgru_arena *shared, cgru_arena *own)
{
    const cgru_graph *g = b->graph;
    const size_t rows = (size_t)b->rows;
    int64_t longest = 1, many = b->chunk;
    if (g->scans->count == 0) return;
    for (int v = 0; v < g->value_count; v++) {
        if (cgru_frames_in_call(b, v) > longest) longest = cgru_frames_in_call(b, v);
    }
    for (int i = 0; i < g->count; i++) {
        if (g->nodes[i].scan.directions && b->most[g->nodes[i].out] > many) many = b->most[g->nodes[i].out];
    }
    for (int i = 0; i < b->lanes; i++) {
        cgru_take_shared(g->scans, &b->scans.scratch[i], rows, rows * (size_t)many, shared);
        cgru_take_own(g->scans, &b->scans.scratch[i], rows, rows * (size_t)many, own);
    }
    b->scans.chunk = (int)many;
    b->valid = cgru_take(own, rows * (size_t)longest);
}

graph_room cgru_prepare_block(graph_block *b, char *shared, char *own)
{
    cgru_arena ours = {shared, 0}, mine = {own, 0};
    graph_block counting = *b;
    char *numbers = NULL;
    lay_out_member(b, &mine);
    if (own == NULL) { /* the numbers of frames decide how much more there is */
        numbers = cgru_allocate(mine.used);
        if (numbers == NULL) return (graph_room){0, 0};
        cgru_arena temporary = {numbers, 0};
        lay_out_member(&counting, &temporary);
    }
    graph_block *counted = own ? b : &counting;
    cgru_plan_frames(counted);
    lay_out_frames(counted, &ours);
    lay_out_scans(counted, &ours, &mine);
    cgru_release(numbers);
    return (graph_room){ours.used, mine.used};
}

/* ---- where frames are ---------------------------------------------------------------------------------------------- */

cgru_span cgru_span_of(const graph_block *b, int v, int64_t at)
{
    const cgru_graph *g = b->graph;
    const cgru_home *home = &g->homes[v];
    const int size = g->values[v].size, moves = g->values[v].clock != CGRU_ONCE;
    const int64_t late = g->values[v].clock == CGRU_STEPS ? at - b->start[v] : at;
    switch (home->storage) {
    case CGRU_IN_INPUT: {
        const cgru_port *port = &b->call->inputs[v];
        if (b->masks[v]) return (cgru_span){b->masks[v] + late, cgru_mask_frames(b, v) + 1, 1};
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
        return (cgru_span){b->kept[v] + (moves ? late * size : 0), (cgru_frames_in_call(b, v) + 1) * size, moves ? size : 0};
    case CGRU_IN_CHUNK:
        return (cgru_span){b->slots[home->place] + (at - b->before[v]) * size, b->most[v] * size, size};
    case CGRU_IN_WEIGHTS:
        return (cgru_span){(float *)g->nodes[home->place].vector[0], 0, 0};
    case CGRU_IN_VALUE: {
        cgru_span whole = cgru_span_of(b, home->place, at);
        if (whole.data) whole.data += home->offset;
        return whole;
    }
    default:
        return (cgru_span){NULL, 0, 0};
    }
}

cgru_span cgru_window_of(const graph_block *b, const cgru_gnode *node, int k, float *memory)
{
    const int size = b->graph->values[node->in[k]].size;
    return (cgru_span){memory, extended_frames(b, node, k) * size, size};
}

void cgru_extend(const graph_block *b, const cgru_job *job, int k, cgru_span window, int64_t from, int64_t frames)
{
    const cgru_gnode *node = job->node;
    const int v = node->in[k], size = b->graph->values[v].size, hold = node->hold[k];
    const int moves = b->graph->values[v].clock == CGRU_STEPS;
    const cgru_span in = cgru_span_of(b, v, from);
    const size_t bytes = (size_t)size * sizeof(float);
    for (int r = 0; r < b->rows; r++) {
        float *row = window.data + r * window.row, *end = row + window.row;
        float *state = hold && moves ? cgru_state_row(job, r) + node->history[k] : NULL;
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
        float *to = row + (ptrdiff_t)hold * size;
        for (int64_t f = 0; f < there; f++, to += size) memcpy(to, in.data + r * in.row + f * in.frame, bytes);
        memset(to, 0, (size_t)(end - to) * sizeof(float));
        if (k == 0) {
            int64_t held = state && b->graph->steady ? (int64_t)state[hold * size] : moves ? from : 0;
            if (held > hold) held = hold;
            b->real[2 * r] = (int)(hold - held);
            b->real[2 * r + 1] = (int)(hold + real);
            if (state) state[hold * size] = (float)(held + own < hold ? held + own : hold);
        }
        if (state && own > 0) memcpy(state, row + own * size, (size_t)hold * bytes);
    }
}
