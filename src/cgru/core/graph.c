/* Plans a graph: checks that it fits together, says when each node runs and where each value lies.
 *
 * Nodes run in passes. A pass first runs what has no frames in time, once; then its other nodes over chunks of time, so
 * that what lies between two of them stays in cache; then those that need whole sequences. Their results are read in
 * the next pass. */
#include "graph.h"

#include <stdlib.h>
#include <string.h>

#include "memory.h"

#define NUMBER_WORTH 16 /* multiply-adds that a number of a result is worth where members share it: load, function, store */

int64_t cgru_ready(const cgru_window *w, int64_t frames, int ended)
{
    if (frames <= 0) return 0;
    int64_t reach = frames + w->left + (ended ? w->right : w->right < 0 ? w->right : 0) - w->span;
    return reach >= 0 ? w->up * (reach / w->stride + 1) : 0;
}

int64_t cgru_graph_cost(const cgru_graph *graph)
{
    return graph->work;
}

static int steady(const cgru_window *w)
{
    return w->stride == 1 && w->up == 1 && w->left == w->span - 1 && w->right == 0;
}

static int check_node(const cgru_graph *g, const cgru_gnode *node, int made)
{
    if (node->op == NULL || node->inputs < 0 || node->inputs > CGRU_MAX_INPUTS || node->out != made) return 0;
    for (int i = 0; i < node->inputs; i++) {
        if (node->in[i] < -1 || node->in[i] >= made || node->hold[i] < 0 || node->history[i] < 0) return 0;
    }
    /* What reads whole sequences carries none of their frames from chunk to chunk. */
    const int whole = (node->op->whole && !node->op->windowed) || node->scan.direction[0].reverse;
    for (int i = 0; i < node->inputs; i++) {
        if (whole && node->hold[i] > 0) return 0;
    }
    const cgru_window *w = &node->window;
    if (w->span < 1 || w->stride < 1 || w->up < 1) return 0;
    const cgru_value *out = &g->values[node->out];
    if (out->size < 1 || out->clock < CGRU_ONCE || out->clock > CGRU_STEPS) return 0;
    /* A result advances with the steps where an input does, unless the node gives one frame of the whole. */
    int steps = 0, own = 0;
    for (int i = 0; i < node->inputs; i++) {
        int clock = node->in[i] < 0 ? CGRU_ONCE : g->values[node->in[i]].clock;
        steps |= clock == CGRU_STEPS;
        own |= clock == CGRU_STATIC;
    }
    if (out->clock == CGRU_STEPS && !steps) return 0;
    if (out->clock == CGRU_STATIC && (!own || steps)) return 0;
    if (out->clock == CGRU_ONCE && (steps || own) && !node->op->whole) return 0;
    return node->op->check == NULL || node->op->check(g, node);
}

int cgru_may_run_beside(const cgru_graph *g, int i)
{
    const cgru_gnode *node = &g->nodes[i];
    if (g->mode[i] != CGRU_RUN_WHOLE || node->op->share != CGRU_BY_STEPS) return 0;
    for (int k = 0; k < node->inputs; k++) {
        if (node->hold[k]) return 0;
    }
    return 1;
}

/* What only once-given values go into runs once; what needs whole sequences, at the end of a pass. */
static void set_modes(cgru_graph *g)
{
    for (int i = 0; i < g->count; i++) {
        const cgru_gnode *node = &g->nodes[i];
        int steps = 0;
        for (int k = 0; k < node->inputs; k++) steps |= node->in[k] >= 0 && g->values[node->in[k]].clock == CGRU_STEPS;
        const int whole = node->op->whole || node->scan.direction[0].reverse;
        g->mode[i] = !steps ? CGRU_RUN_ONCE : whole ? CGRU_RUN_WHOLE : CGRU_RUN_CHUNK;
    }
}

/* A result that needs whole sequences is read in the next pass. */
static void order_passes(cgru_graph *g)
{
    g->passes = 1;
    for (int i = 0; i < g->count; i++) {
        const cgru_gnode *node = &g->nodes[i];
        g->pass[i] = 0;
        for (int k = 0; k < node->inputs; k++) {
            if (node->in[k] < g->inputs) continue;
            int of = node->in[k] - g->inputs, later = g->pass[of] + (g->mode[of] == CGRU_RUN_WHOLE);
            if (later > g->pass[i]) g->pass[i] = later;
        }
        if (g->pass[i] + 1 > g->passes) g->passes = g->pass[i] + 1;
    }
    for (int i = 0; i < g->count; i++) g->passes += g->mode[i] == CGRU_RUN_WHOLE && g->pass[i] + 1 == g->passes;
}

/* Whether chunks of the pass in which node i runs read its result. */
static int read_in_chunks(const cgru_graph *g, int i)
{
    for (int j = i + 1; j < g->count; j++) {
        if (g->pass[j] != g->pass[i] || g->mode[j] != CGRU_RUN_CHUNK) continue;
        for (int k = 0; k < g->nodes[j].inputs; k++) {
            if (g->nodes[j].in[k] == g->nodes[i].out) return 1;
        }
    }
    return 0;
}

/* The forward direction beside a backward one waits for it, where nothing else waits for that: then a team runs both at the
 * same time. Their result is kept for the next pass anyway. */
static void pair_directions(cgru_graph *g)
{
    for (int i = 0; i < g->count; i++) {
        const cgru_gnode *node = &g->nodes[i];
        if (g->mode[i] != CGRU_RUN_CHUNK || node->op->share != CGRU_BY_STEPS || read_in_chunks(g, i)) continue;
        for (int j = 0; j < g->count; j++) {
            if (g->pass[j] != g->pass[i] || !cgru_may_run_beside(g, j) || g->nodes[j].in[0] != node->in[0]) continue;
            g->mode[i] = CGRU_RUN_WHOLE;
            if (!cgru_may_run_beside(g, i)) g->mode[i] = CGRU_RUN_CHUNK;
            break;
        }
    }
}

static int root_of(const cgru_graph *g, int v)
{
    while (g->homes[v].storage == CGRU_IN_VALUE) v = g->homes[v].place;
    return v;
}

/* A concatenation along the first axis is written in place: an input that lies nowhere else becomes part of its frames. */
static void join_in_place(cgru_graph *g)
{
    for (int i = g->count - 1; i >= 0; i--) {
        const cgru_gnode *node = &g->nodes[i];
        if (strcmp(node->op->name, "concat") != 0 || node->number[0] != 1 || g->mode[i] != CGRU_RUN_CHUNK) continue;
        for (int k = 0, offset = 0; k < node->inputs; k++) {
            int v = root_of(g, node->in[k]); /* a view of all of a value may take that along */
            cgru_home *home = &g->homes[v];
            int free = v >= g->inputs && home->storage == CGRU_NOWHERE && g->values[v].clock == CGRU_STEPS &&
                       g->values[v].size == g->values[node->in[k]].size && node->hold[k] == 0;
            for (int other = 0; other < k; other++) free &= root_of(g, node->in[other]) != v && node->in[other] != node->in[k];
            if (free && g->mode[v - g->inputs] != CGRU_RUN_ONCE) *home = (cgru_home){CGRU_IN_VALUE, node->out, offset};
            offset += g->values[node->in[k]].size;
        }
    }
}

/* A reshape or a slice of neighbouring numbers is its input's frames, seen otherwise; a constant is where its node has it. */
static void view_in_place(cgru_graph *g)
{
    for (int i = 0; i < g->count; i++) {
        const cgru_gnode *node = &g->nodes[i];
        const int v = node->out, *n = node->size, *stride = node->stride[0];
        if (g->homes[v].storage != CGRU_NOWHERE) continue;
        if (strcmp(node->op->name, "constant") == 0) g->homes[v] = (cgru_home){CGRU_IN_WEIGHTS, i, 0};
        if (strcmp(node->op->name, "copy") != 0 || g->mode[i] != CGRU_RUN_CHUNK || node->hold[0]) continue;
        const cgru_value *x = &g->values[node->in[0]];
        const int together = n[0] * n[1] * n[2] == 1 && (stride[3] == 1 || n[3] == 1);
        if (!together || x->clock != g->values[v].clock) continue;
        g->homes[v] = (cgru_home){CGRU_IN_VALUE, node->in[0], node->offset};
    }
}

/* Where each value lies. A slot is used again once nobody reads what is in it. */
static int place_values(cgru_graph *g)
{
    const int n = g->value_count;
    int *last = malloc((size_t)n * 4 * sizeof(int)), *born = last + n, *kept = born + n, *busy = kept + n;
    if (last == NULL) return 0;
    for (int v = 0; v < n; v++) {
        g->homes[v] = (cgru_home){v < g->inputs ? CGRU_IN_INPUT : CGRU_NOWHERE, v, 0};
        last[v] = -1;
        born[v] = v - g->inputs;
        kept[v] = v >= g->inputs && g->mode[v - g->inputs] != CGRU_RUN_CHUNK;
        busy[v] = 0;
    }
    for (int o = 0; o < g->output_count; o++) g->homes[g->outputs[o]] = (cgru_home){CGRU_IN_OUTPUT, o, 0};
    view_in_place(g);
    join_in_place(g);
    for (int i = 0; i < g->count; i++) {
        const cgru_gnode *node = &g->nodes[i];
        for (int k = 0; k < node->inputs; k++) {
            int v = node->in[k];
            if (v < 0) continue;
            busy[v] = 1;
            int root = root_of(g, v);
            if (last[root] < i) last[root] = i;
            if (v >= g->inputs && (g->pass[i] != g->pass[v - g->inputs] || g->mode[i] != CGRU_RUN_CHUNK)) kept[root] = 1;
        }
    }
    for (int v = g->inputs; v < n; v++) {
        int root = root_of(g, v);
        if (root == v || root < g->inputs) continue;
        if (born[v] < born[root]) born[root] = born[v];
        if (kept[v] || g->pass[v - g->inputs] != g->pass[root - g->inputs]) kept[root] = 1;
        busy[root] |= busy[v];
    }
    int *until = malloc((size_t)n * sizeof(int)); /* of each slot: the last node that needs what is in it */
    if (until == NULL) {
        free(last);
        return 0;
    }
    /* Slots are handed out in the order in which values begin to be. */
    for (int i = 0; i < g->count; i++) {
        for (int v = g->inputs; v < n; v++) {
            if (g->homes[v].storage != CGRU_NOWHERE || born[v] != i || root_of(g, v) != v || !busy[v]) continue;
            if (kept[v]) {
                g->homes[v] = (cgru_home){CGRU_IN_KEPT, v, 0};
                continue;
            }
            int slot = 0;
            while (slot < g->slots && until[slot] >= i) slot++;
            if (slot == g->slots) g->slots++;
            until[slot] = last[v];
            g->homes[v] = (cgru_home){CGRU_IN_CHUNK, slot, 0};
        }
    }
    free(until);
    free(last);
    return 1;
}

/* A recurrence of the lines of a frame. */
static void measure_lines(cgru_graph *g, const cgru_gnode *node)
{
    const cgru_scan *scan = node->scan.direction[0].scan;
    const cgru_matrix *matrices[] = {&scan->x, &scan->h, &scan->phase1};
    for (int i = 0; i < 3; i++) {
        const cgru_matrix *m = matrices[i];
        cgru_widen_prepared(&g->prepared, m);
        g->products += (int64_t)m->out_features * m->gates * m->in_features * (g->values[node->out].size / scan->hidden);
    }
}

/* Multiply-adds of the matrices of a node, for a frame of a row. */
static int64_t products_of(const cgru_graph *g, const cgru_gnode *node)
{
    int64_t work = 0;
    for (int k = 0; k < node->groups; k++) {
        const cgru_matrix *m = node->matrix[k];
        int rows = g->values[node->out].size / (m->out_features * node->groups);
        work += (int64_t)m->out_features * m->in_features * rows;
    }
    return work;
}

/* Sizes of scratch and an estimate of work. */
static int measure(cgru_graph *g)
{
    cgru_node *scans = calloc((size_t)g->count + 1, sizeof *scans);
    int found = 0, uneven = 0;
    if (scans == NULL) return 0;
    g->steady = 1;
    for (int i = 0; i < g->count; i++) {
        const cgru_gnode *node = &g->nodes[i];
        if (g->values[node->out].clock == CGRU_STEPS) g->steady &= steady(&node->window);
        uneven |= node->op->frames != NULL;
        g->folds |= node->op->fold;
        g->counts |= node->op->counts;
        g->carries |= strcmp(node->op->name, "carry") == 0;
        if (node->op->scratch && node->op->scratch(g, node) > g->scratch) g->scratch = node->op->scratch(g, node);
        if (node->scan.directions) scans[found++] = node->scan;
        else if (node->scan.direction[0].scan) measure_lines(g, node);
        for (int k = 0; k < node->groups; k++) cgru_widen_prepared(&g->prepared, node->matrix[k]);
        const int64_t products = products_of(g, node), size = g->values[node->out].size;
        g->cost[i] = node->op->cost ? node->op->cost(g, node) : products + NUMBER_WORTH * size;
        g->products += products + 2 * size;
        if (!node->scan.directions) g->work += g->cost[i]; /* below, with their input sides */
        int extended = 0;
        for (int k = 0; k < node->inputs; k++) extended += node->op->windowed || node->hold[k] > 0;
        if (extended > g->windows) g->windows = extended;
    }
    g->even = g->steady && !uneven;
    for (int pass = 0; pass < g->passes; pass++) {
        int beside = 0;
        for (int i = 0; i < g->count; i++) beside += g->pass[i] == pass && cgru_may_run_beside(g, i);
        if (beside > g->beside) g->beside = beside;
    }
    g->scans = cgru_net_new(g->kernels, scans, found);
    free(scans);
    if (g->scans == NULL) return 0;
    g->products += cgru_net_cost(g->scans);
    g->work += cgru_net_cost(g->scans);
    return 1;
}

void cgru_graph_free(cgru_graph *g)
{
    if (g == NULL) return;
    cgru_net_free(g->scans);
    free(g->values);
    free(g->homes);
    free(g->outputs);
    free(g->pass);
    free(g->cost);
    free(g);
}

cgru_graph *cgru_graph_new(const cgru_kernels *kernels, const cgru_value *values, int value_count, int inputs,
                           const cgru_gnode *nodes, int count, const int *outputs, int output_count, int *status, int *bad)
{
    *status = CGRU_NO_MEMORY;
    *bad = -1;
    cgru_graph *g = calloc(1, sizeof *g + (size_t)count * sizeof *nodes);
    if (g == NULL) return NULL;
    g->kernels = kernels;
    g->loops = cgru_loops_of(kernels);
    g->value_count = value_count, g->inputs = inputs, g->count = count, g->output_count = output_count;
    memcpy(g->nodes, nodes, (size_t)count * sizeof *nodes);
    g->values = malloc((size_t)value_count * sizeof *values);
    g->homes = malloc((size_t)value_count * sizeof *g->homes);
    g->outputs = malloc((size_t)(output_count + 1) * sizeof(int));
    g->pass = calloc((size_t)(2 * count + 1), sizeof(int));
    g->cost = calloc((size_t)count + 1, sizeof *g->cost);
    if (!g->values || !g->homes || !g->outputs || !g->pass || !g->cost) goto fail;
    g->mode = g->pass + count;
    memcpy(g->values, values, (size_t)value_count * sizeof *values);
    memcpy(g->outputs, outputs, (size_t)output_count * sizeof(int));
    *status = CGRU_BAD_GRAPH;
    if (value_count != inputs + count || output_count < 1) goto fail;
    for (int v = 0; v < value_count; v++) {
        if (values[v].size < 1 || values[v].clock < CGRU_ONCE || values[v].clock > CGRU_STEPS) goto fail;
        if (values[v].content < CGRU_FEATURES || values[v].content > CGRU_MASK) goto fail;
        if (values[v].content == CGRU_MASK && values[v].size != 1) goto fail;
    }
    for (int i = 0; i < count; i++) {
        *bad = i;
        if (!check_node(g, &g->nodes[i], inputs + i)) goto fail;
    }
    *bad = -1;
    for (int o = 0; o < output_count; o++) {
        if (outputs[o] < inputs || outputs[o] >= value_count) goto fail;
        for (int other = 0; other < o; other++) {
            if (outputs[other] == outputs[o]) goto fail;
        }
    }
    *status = CGRU_NO_MEMORY;
    set_modes(g);
    order_passes(g);
    pair_directions(g);
    order_passes(g);
    if (!place_values(g) || !measure(g)) goto fail;
    *status = CGRU_OK;
    return g;
fail:
    cgru_graph_free(g);
    return NULL;
}
