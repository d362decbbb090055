/* Runs a block of rows of a graph: pass by pass, in each of them time in chunks and then what needs whole sequences.
 *
 * Every member of a team walks over all nodes. A node worth it is shared, by frames of its result or as the operation does it
 * by itself; the first member alone runs the others. Members meet where one reads what another has written, or writes where
 * another still reads. */
#include "graph_run.h"

#include <string.h>

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
        cgru_span whole = span_of(b, home->place, at);
        if (whole.data) whole.data += home->offset;
        return whole;
    }
    default:
        return (cgru_span){NULL, 0, 0};
    }
}

/* Where an input that is extended lies in window memory: it begins with the frames held. */
static cgru_span window_of(const graph_block *b, const cgru_gnode *node, int k, float *memory)
{
    const int size = b->graph->values[node->in[k]].size;
    return (cgru_span){memory, cgru_extended_frames(b, node, k) * size, size};
}

/* Which frames of the window of a row are no padding: those held of what came before `from`, and `real` new ones; the state
 * then holds frames of `own` more. */
static void count_real(const graph_block *b, const cgru_gnode *node, int k, int r, float *state, int64_t from, int64_t real,
                       int64_t own)
{
    const int v = node->in[k], size = b->graph->values[v].size, hold = node->hold[k];
    if (k != 0) return;
    int64_t held = state && b->graph->steady ? (int64_t)state[hold * size] : b->graph->values[v].clock == CGRU_STEPS ? from : 0;
    if (held > hold) held = hold;
    b->real[2 * r] = (int)(hold - held);
    b->real[2 * r + 1] = (int)(hold + real);
    if (state) state[hold * size] = (float)(held + own < hold ? held + own : hold);
}

/* Whether the windows of a chunk can be read where the caller has their frames: they look back into the chunks before, but
 * not behind the call's beginning, nor beyond its end, where padding is. Of 64 rows of 97 frames the copy takes as long as
 * a fifteenth of the products with them (48 units, width 5). */
static int in_place(const graph_block *b, const cgru_job *job, int k, int64_t first, int64_t fresh, int64_t look)
{
    const cgru_gnode *node = job->node;
    const int v = node->in[k];
    const cgru_value *value = &b->graph->values[v];
    if (b->lengths || b->graph->homes[v].storage != CGRU_IN_INPUT || value->clock != CGRU_STEPS ||
        value->content != CGRU_FEATURES || b->call->inputs[v].frame != value->size)
        return 0;
    const cgru_window *w = &node->window;
    const int64_t from = first - node->hold[k] + look, frames = job->frames / w->up;
    return frames == 0 || (from >= b->start[v] && from + (frames - 1) * w->stride + w->span <= first + fresh);
}

/* The state of rows whose windows are read in place moves on by the frames from `from` on. */
static void carry(const graph_block *b, const cgru_job *job, int k, int64_t from, int64_t frames)
{
    const cgru_gnode *node = job->node;
    const int size = b->graph->values[node->in[k]].size, hold = node->hold[k];
    const cgru_span in = span_of(b, node->in[k], from);
    const int64_t kept = frames < hold ? hold - frames : 0, later = frames - (hold - kept);
    for (int r = 0; r < b->rows; r++) {
        float *state = hold ? cgru_state_row(job, r) + node->history[k] : NULL;
        count_real(b, node, k, r, state, from, frames, frames);
        if (state == NULL || frames == 0) continue;
        memmove(state, state + (hold - kept) * size, (size_t)(kept * size) * sizeof(float));
        memcpy(state + kept * size, in.data + r * in.row + later * size, (size_t)((hold - kept) * size) * sizeof(float));
    }
}

/* Fills that window: frames held, then `frames` from frame `from` on, zeros where it sees padding; the state then holds the last
 * of them. */
static void extend(const graph_block *b, const cgru_job *job, int k, cgru_span window, int64_t from, int64_t frames)
{
    const cgru_gnode *node = job->node;
    const int v = node->in[k], size = b->graph->values[v].size, hold = node->hold[k];
    const int moves = b->graph->values[v].clock == CGRU_STEPS;
    const cgru_span in = span_of(b, v, from);
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
        count_real(b, node, k, r, state, from, real, own);
        if (state && own > 0) memcpy(state, row + own * size, (size_t)hold * bytes);
    }
}

/* ---- one node ------------------------------------------------------------------------------------------------------- */

/* Whether the call ends: where it may, every member learns of it at the same place. */
static int meet(graph_block *b)
{
    b->written = CGRU_BY_NOBODY;
    return cgru_team_wait(b->member);
}

/* Numbers past a row's length are zero, so that padding stays padding. */
static void clear_beyond(const cgru_job *job)
{
    const size_t bytes = (size_t)job->graph->values[job->node->out].size * sizeof(float);
    if (job->lengths == NULL || job->out.data == NULL || job->graph->values[job->node->out].clock == CGRU_ONCE) return;
    for (int r = 0; r < job->rows; r++) {
        int64_t from = job->lengths[r] - job->at;
        for (int64_t f = from > 0 ? from : 0; f < job->frames; f++) memset(cgru_frame(&job->out, r, f), 0, bytes);
    }
}

/* Frames [from, to) of the node's result, counted from the beginning of the sequence, without its inputs. Field by field: to
 * clear all of a job first would take longer than a small step of a small node. */
static void start_job(graph_block *b, cgru_job *job, const cgru_gnode *node, int64_t from, int64_t to)
{
    const int v = node->out, ragged = b->lengths != NULL;
    job->graph = b->graph, job->node = node, job->call = b->call;
    job->first = b->first, job->rows = b->rows;
    job->frames = to - from;
    job->at = from - (b->graph->values[v].clock == CGRU_STEPS ? b->start[v] : 0);
    job->out = span_of(b, v, from);
    for (int k = node->inputs; k < CGRU_MAX_INPUTS; k++) job->in[k].data = NULL;
    job->lengths = ragged ? b->lengths + (int64_t)v * b->rows : NULL;
    job->in_lengths = ragged && node->inputs && node->in[0] >= 0 ? b->lengths + (int64_t)node->in[0] * b->rows : NULL;
    job->key_lengths = ragged && node->inputs > 1 && node->in[1] >= 0 ? b->lengths + (int64_t)node->in[1] * b->rows : NULL;
    job->real = b->real, job->look = 0;
    job->member = cgru_alone;
    job->scans = &b->scans, job->lane = 0;
    job->pointer_in = b->pointer_in, job->pointer_out = b->pointer_out;
    job->scratch = b->scratch;
    job->quantized_input = (cgru_prepared){b->prepared, (ptrdiff_t)b->graph->prepared};
}

/* Its inputs. Those that are read as frames held and frames new are put together where `fills`; states move on with that. */
static void give_inputs(graph_block *b, cgru_job *job, int i, int64_t from, int fills, const int64_t *before,
                        const int64_t *after)
{
    const cgru_graph *g = b->graph;
    const cgru_gnode *node = job->node;
    for (int k = 0, window = 0; k < node->inputs; k++) {
        const int u = node->in[k];
        if (u < 0) {
            job->in[k] = (cgru_span){NULL, 0, 0};
            continue;
        }
        const int whole = g->mode[i] != CGRU_RUN_CHUNK || g->values[u].clock != CGRU_STEPS;
        const int64_t first = whole ? (g->values[u].clock == CGRU_STEPS ? b->start[u] : 0) : before[u];
        const int64_t fresh = (whole ? b->end[u] : after[u]) - first;
        job->in_frames[k] = fresh;
        if (!cgru_extends(node, k)) {
            job->in[k] = span_of(b, u, first);
            continue;
        }
        float *memory = b->windows[window++];
        /* from where the first result frame looks */
        const int64_t look = from / node->window.up * node->window.stride - node->window.left - (first - node->hold[k]);
        if (in_place(b, job, k, first, fresh, look)) {
            job->in[k] = span_of(b, u, first);
            job->in[k].data += (look - node->hold[k]) * g->values[u].size;
            if (fills) carry(b, job, k, first, fresh);
        } else {
            job->in[k] = window_of(b, node, k, memory);
            if (fills) extend(b, job, k, job->in[k], first, fresh);
            job->in[k].data += look * g->values[u].size;
        }
        if (k == 0) job->look = look;
    }
}

/* The job that is left of it for one member: some frames of the result, and of the inputs that belong to them. */
static cgru_job frames_of(const cgru_job *job, cgru_member member)
{
    const cgru_gnode *node = job->node;
    const cgru_value *values = job->graph->values;
    const int up = node->window.up;
    const int64_t pieces = job->frames / up, low = pieces * member.rank / member.size;
    const int64_t high = pieces * (member.rank + 1) / member.size, later = low * node->window.stride;
    cgru_job mine = *job;
    mine.frames = (high - low) * up;
    mine.at += low * up;
    if (mine.out.data) mine.out.data += low * up * mine.out.frame;
    mine.look += later;
    for (int k = 0; k < (node->op->share == CGRU_BY_QUERIES ? 1 : node->inputs); k++) {
        const int u = node->in[k];
        if (u < 0 || values[u].clock != values[node->out].clock || mine.in[k].data == NULL) continue;
        const int wide = values[u].content == CGRU_IDS ? sizeof(int64_t) / sizeof(float) : 1;
        mine.in[k].data += later * mine.in[k].frame * wide;
    }
    return mine;
}

/* How many members share so many frames of node i. */
static int members_for(const graph_block *b, int i, int64_t frames)
{
    const cgru_gnode *node = &b->graph->nodes[i];
    const int share = node->op->share, most = b->member.size;
    if (most == 1 || share == CGRU_BY_ONE || frames == 0) return 1;
    const int64_t together = share == CGRU_BY_STEPS ? 1 : frames;
    int64_t members = cgru_members_worth(b->graph->cost[i] * b->rows * together);
    if (members > most) members = most;
    if ((share == CGRU_BY_FRAMES || share == CGRU_BY_QUERIES) && members > frames / node->window.up)
        members = frames / node->window.up;
    return members > 1 ? (int)members : 1;
}

/* A member's part of a job that several of them share. */
static void run_share(cgru_job *job, cgru_member member)
{
    const int share = job->node->op->share;
    if (share == CGRU_BY_FRAMES || share == CGRU_BY_QUERIES) {
        cgru_job mine = frames_of(job, member);
        if (mine.frames == 0) return;
        mine.node->op->run(&mine);
        clear_beyond(&mine);
        return;
    }
    job->member = member;
    job->node->op->run(job);
    cgru_team_wait(member);
    if (member.rank == 0) clear_beyond(job);
}

static int is_run(const cgru_graph *g, int i)
{
    const cgru_gnode *node = &g->nodes[i];
    const cgru_home *home = &g->homes[node->out];
    /* Nobody reads it; what a row carries has to move on all the same. */
    if (home->storage == CGRU_NOWHERE) return node->op->moves;
    /* It is there already: a constant, or a value that is another seen otherwise. */
    return home->storage != CGRU_IN_WEIGHTS && !(home->storage == CGRU_IN_VALUE && home->place < node->out);
}

/* Frames [from, to) of the result of node i. */
static void run_node(graph_block *b, int i, int64_t from, int64_t to, const int64_t *before, const int64_t *after)
{
    const cgru_gnode *node = &b->graph->nodes[i];
    const int members = is_run(b->graph, i) ? members_for(b, i, to - from) : 0;
    const int first = b->member.rank == 0;
    if (members == 0) return;
    if (b->written == CGRU_BY_ALL) meet(b);
    if (members == 1) {
        b->written = CGRU_BY_FIRST;
        if (!first) return;
        cgru_job job;
        start_job(b, &job, node, from, to);
        give_inputs(b, &job, i, from, 1, before, after);
        node->op->run(&job);
        clear_beyond(&job);
        return;
    }
    int extends = 0;
    for (int k = 0; k < node->inputs; k++) extends |= cgru_extends(node, k);
    cgru_job job;
    start_job(b, &job, node, from, to);
    give_inputs(b, &job, i, from, first, before, after);
    if (extends || b->written == CGRU_BY_FIRST) meet(b);
    b->written = CGRU_BY_ALL;
    if (b->member.rank < members) run_share(&job, cgru_team_part(b->member, 0, members));
}

/* ---- passes ------------------------------------------------------------------------------------------------------------ */

/* Whether the call ends. */
static int run_chunks(graph_block *b, int pass)
{
    const cgru_graph *g = b->graph;
    const cgru_graph_call *call = b->call;
    memcpy(b->before, b->start, (size_t)g->value_count * sizeof(int64_t));
    for (int64_t done = 0;;) {
        int64_t now = done + b->chunk < call->steps ? done + b->chunk : call->steps;
        cgru_count_frames(g, call, call->before + now, call->ended && now == call->steps, b->after);
        for (int i = 0; i < g->count; i++) {
            if (g->pass[i] != pass || g->mode[i] != CGRU_RUN_CHUNK) continue;
            int v = g->nodes[i].out;
            run_node(b, i, b->before[v], b->after[v], b->before, b->after);
        }
        memcpy(b->before, b->after, (size_t)g->value_count * sizeof(int64_t));
        if (b->asks) cgru_stop_ask(b->member.stop, g->work * b->rows * (now - done));
        if (meet(b)) return 1;
        if (now == call->steps) return 0;
        done = now;
    }
}

/* Frames of the result of a node that sees whole sequences, from the first one in the call on. */
static int64_t first_frame(const graph_block *b, int i)
{
    const int v = b->graph->nodes[i].out;
    return b->graph->values[v].clock == CGRU_STEPS ? b->start[v] : 0;
}

static int runs_beside(const cgru_graph *g, int i, int pass)
{
    return g->pass[i] == pass && cgru_may_run_beside(g, i) && is_run(g, i);
}

/* How many recurrences over whole sequences a pass has, and the members that each of them is worth. */
static int count_beside(const graph_block *b, int pass, int64_t *worth)
{
    const cgru_graph *g = b->graph;
    int found = 0;
    *worth = b->member.size;
    for (int i = 0; i < g->count; i++) {
        if (!runs_beside(g, i, pass)) continue;
        const int64_t members = cgru_members_worth(g->cost[i] * b->rows);
        if (members < *worth) *worth = members;
        found++;
    }
    return found;
}

/* Within a pass they wait for nothing of each other: each has members and a scratch of its own, its lane. */
static void run_beside(graph_block *b, int pass, int64_t worth)
{
    const cgru_graph *g = b->graph;
    int number = 0;
    if (b->written != CGRU_BY_NOBODY) meet(b);
    b->written = CGRU_BY_ALL;
    for (int i = 0; i < g->count; i++) {
        if (!runs_beside(g, i, pass)) continue;
        const int lane = number++ % b->lanes;
        const int first = b->member.size * lane / b->lanes, end = b->member.size * (lane + 1) / b->lanes;
        const int members = worth < end - first ? (int)worth : end - first;
        if (b->member.rank < first || b->member.rank >= first + members) continue;
        const int64_t from = first_frame(b, i);
        cgru_job job;
        start_job(b, &job, &g->nodes[i], from, b->end[g->nodes[i].out]);
        job.lane = lane;
        give_inputs(b, &job, i, from, 0, b->start, b->end);
        run_share(&job, cgru_team_part(b->member, first, members));
    }
}

/* Whether the call ends. */
static int run_pass(graph_block *b, int pass)
{
    const cgru_graph *g = b->graph;
    int chunks = 0;
    int64_t worth;
    for (int i = 0; i < g->count; i++) {
        if (g->pass[i] != pass) continue;
        chunks += g->mode[i] == CGRU_RUN_CHUNK;
        if (g->mode[i] == CGRU_RUN_ONCE) run_node(b, i, 0, b->end[g->nodes[i].out], b->start, b->end);
    }
    if (chunks && run_chunks(b, pass)) return 1;
    const int beside = b->lanes > 1 && count_beside(b, pass, &worth) > 1;
    if (beside) run_beside(b, pass, worth);
    for (int i = 0; i < g->count; i++) {
        if (g->pass[i] != pass || g->mode[i] != CGRU_RUN_WHOLE || (beside && runs_beside(g, i, pass))) continue;
        run_node(b, i, first_frame(b, i), b->end[g->nodes[i].out], b->start, b->end);
    }
    return 0;
}

/* ---- a block ------------------------------------------------------------------------------------------------------------ */

static void fill_masks(const graph_block *b)
{
    const cgru_graph *g = b->graph;
    for (int v = 0; v < g->inputs; v++) {
        if (b->masks[v] == NULL) continue;
        const cgru_port *port = &b->call->inputs[v];
        const int64_t frames = cgru_mask_frames(b, v);
        for (int r = 0; r < b->rows; r++) {
            const uint8_t *from = (const uint8_t *)port->data + (b->first + r) * port->row;
            for (int64_t t = 0; t < frames; t++) b->masks[v][r * (frames + 1) + t] = from[t * port->frame] ? 1.0f : 0.0f;
        }
    }
}

static void count_lengths(graph_block *b)
{
    const cgru_graph *g = b->graph;
    const cgru_graph_call *call = b->call;
    for (int r = 0; r < b->rows; r++) {
        cgru_count_frames(g, call, call->before + call->lengths[b->first + r], call->ended, b->after);
        for (int v = 0; v < g->value_count; v++) {
            int64_t from = g->values[v].clock == CGRU_STEPS ? b->start[v] : 0;
            b->lengths[(int64_t)v * b->rows + r] = b->after[v] > from ? b->after[v] - from : 0;
        }
    }
}

static void start_scans(graph_block *b)
{
    const cgru_graph_call *call = b->call;
    b->scan_call = (cgru_call){.rows = b->rows,
                               .steps = call->steps,
                               .state = call->index ? call->state : call->state + b->first * call->state_row,
                               .state_row = call->state_row,
                               .state_rows = call->state_rows,
                               .index = call->index ? call->index + b->first : NULL,
                               .threads = 1};
    b->scans.net = b->graph->scans;
    b->scans.call = &b->scan_call;
    b->scans.first = 0; /* the call of the scans begins with this block's rows */
    b->scans.rows = b->rows;
    b->scans.member = b->member;
    b->scans.mask = b->valid;
    b->scans.asks = b->asks;
}

void cgru_run_graph_block(graph_block *b)
{
    if (b->member.rank == 0) fill_masks(b);
    if (b->lengths) count_lengths(b);
    start_scans(b);
    b->written = CGRU_BY_FIRST;
    for (int pass = 0; pass < b->graph->passes; pass++) {
        if (run_pass(b, pass)) return;
    }
}
