/* How many frames the values of a graph have, once so many steps have gone in and in each chunk of them.
 *
 * Frames are counted from the beginning of the sequence. Chunks change no result: every operation gives the same bits
 * however its frames come. */
#include <string.h>

#include "graph_block.h"

/* Of all values of a chunk together, as far as may be: 128 KiB, so that they stay near. Where a step multiplies much for
 * each of them it is 1 MiB, since every chunk reads all weights anew. Both go up to 4 MiB: the one until a chunk has 16 steps
 * (64 rows of a keyword spotter in chunks of 4 take 1.06 times the time), the other until it has 256 rows times steps
 * (NSNet2's 500 frames in chunks of 64: 1.06 times). */
#define CHUNK_FLOATS 32768
#define CHUNK_FLOATS_HEAVY (1 << 18)
#define CHUNK_FLOATS_MOST (1 << 20)
#define CHUNK_ROWS 256
#define HEAVY 128      /* multiply-adds for each number of a step */
#define CHUNK_STEPS 64 /* at most, where they are not heavy; for each member of a team */

void cgru_count_frames(const cgru_graph *g, const cgru_graph_call *call, int64_t steps, int ended, int64_t *frames)
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

int cgru_chunk_steps(const cgru_graph *g, int rows, int64_t steps, int members)
{
    if (g->carries) return 1;
    int64_t floats = g->scans->projection + 1;
    for (int i = 0; i < g->count; i++) floats += g->values[g->nodes[i].out].size;
    const int heavy = g->products / floats >= HEAVY, longest = heavy ? CHUNK_ROWS : CHUNK_STEPS;
    const int64_t most = CHUNK_FLOATS_MOST / (floats * rows), wanted = heavy && CHUNK_ROWS / rows > 16 ? CHUNK_ROWS / rows : 16;
    int64_t chunk = (heavy ? CHUNK_FLOATS_HEAVY : CHUNK_FLOATS) / (floats * rows);
    if (chunk < wanted) chunk = most < wanted ? most : wanted;
    if (chunk < 4) chunk = 4;
    if (chunk > longest) chunk = longest;
    chunk *= members;
    return (int)(chunk < steps ? chunk : steps > 0 ? steps : 1);
}

void cgru_plan_frames(graph_block *b)
{
    const cgru_graph *g = b->graph;
    const cgru_graph_call *call = b->call;
    const size_t bytes = (size_t)g->value_count * sizeof(int64_t);
    cgru_count_frames(g, call, call->before, 0, b->start);
    cgru_count_frames(g, call, call->before + call->steps, call->ended, b->end);
    memset(b->most, 0, bytes);
    memcpy(b->before, b->start, bytes);
    for (int64_t done = 0; done < call->steps || done == 0;) {
        int64_t now = done + b->chunk < call->steps ? done + b->chunk : call->steps;
        cgru_count_frames(g, call, call->before + now, call->ended && now == call->steps, b->after);
        for (int v = 0; v < g->value_count; v++) {
            int64_t frames = b->after[v] - b->before[v];
            if (g->values[v].clock != CGRU_STEPS) frames = b->end[v];
            if (frames > b->most[v]) b->most[v] = frames;
        }
        memcpy(b->before, b->after, bytes);
        if (g->even || now == call->steps) break; /* all chunks of an even graph but the last are alike */
        done = now;
    }
}

int64_t cgru_frames_in_call(const graph_block *b, int v)
{
    return b->graph->values[v].clock == CGRU_STEPS ? b->end[v] - b->start[v] : b->end[v];
}

int64_t cgru_mask_frames(const graph_block *b, int v)
{
    return b->graph->values[v].clock == CGRU_STEPS ? b->call->steps : b->call->inputs[v].frames;
}
