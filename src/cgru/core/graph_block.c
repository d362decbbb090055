/* The scratch of a block: what its members share, and what each has of its own. */
#include "graph_block.h"

#include <string.h>

#include "memory.h"

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
            int64_t floats = cgru_extended_frames(b, node, k) * g->values[node->in[k]].size;
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
