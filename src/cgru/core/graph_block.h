/* One block of rows of one call of a graph, as one member of its team sees it: how many frames every value has, and
 * its scratch. Members share the frames of values; what they count with and prepare products in is each one's own. */
#ifndef CGRU_GRAPH_BLOCK_H
#define CGRU_GRAPH_BLOCK_H

#include "block.h"
#include "graph.h"

/* Who has written to what the members share since they last met. */
enum cgru_written { CGRU_BY_NOBODY, CGRU_BY_FIRST, CGRU_BY_ALL };

typedef struct {
    const cgru_graph *graph;
    const cgru_graph_call *call;
    int64_t first; /* row */
    int rows, chunk;
    cgru_member member;
    int written; /* enum cgru_written */
    int asks;    /* this is the thread that made the call */
    int64_t *start, *end;    /* of every value: frames when the call begins and when it has ended, */
    int64_t *before, *after; /* and when a chunk does */
    int64_t *most;           /* frames of a chunk at most */
    int64_t *lengths;        /* [value][row], frames of each row counted from the call's beginning; NULL without lengths */
    const float **pointer_in; /* CGRU_BATCH of each */
    float **pointer_out;
    char *prepared; /* a batch of rows as a reduced precision multiplies them */
    void *scratch;  /* of the operation that runs */
    /* shared: */
    float **kept; /* of every value: where it lies for the whole call, or NULL */
    float **slots;
    float **windows;
    float **masks; /* of every input: a mask as floats, or NULL */
    int *real;     /* as cgru_job has it */
    /* recurrences: */
    int lanes;         /* scratches, for recurrences that run at the same time */
    cgru_call scan_call;
    block scans;
    uint8_t *valid; /* (rows, steps) */
} graph_block;

/* ---- how many frames ---------------------------------------------------------------------------------------------- */

/* Frames of every value once so many steps have gone in. */
void cgru_count_frames(const cgru_graph *g, const cgru_graph_call *call, int64_t steps, int ended, int64_t *frames);

/* Steps of a chunk, for a team of so many members. */
int cgru_chunk_steps(const cgru_graph *g, int rows, int64_t steps, int members);

/* Counts the frames of the call, and how many a chunk has at most. */
void cgru_plan_frames(graph_block *b);

/* Frames of a value in the call, and of a mask among the inputs. */
int64_t cgru_frames_in_call(const graph_block *b, int v);
int64_t cgru_mask_frames(const graph_block *b, int v);

/* Whether a node reads input k as frames held and frames new, one after the other. */
static inline int cgru_extends(const cgru_gnode *node, int k)
{
    return node->in[k] >= 0 && (node->op->windowed || node->hold[k]);
}

/* Frames of such an input at most: those held, those new, and padding at the end. */
static inline int64_t cgru_extended_frames(const graph_block *b, const cgru_gnode *node, int k)
{
    int whole = b->graph->values[node->in[k]].clock != CGRU_STEPS || (node->op->whole && node->op->windowed);
    int64_t fresh = whole ? cgru_frames_in_call(b, node->in[k]) : b->most[node->in[k]];
    int64_t right = node->window.right > 0 ? node->window.right : 0, left = node->window.left > 0 ? node->window.left : 0;
    return node->hold[k] + fresh + right + (whole ? left : 0);
}

/* ---- scratch -------------------------------------------------------------------------------------------------------- */

/* Bytes of a block: once, and for each member. */
typedef struct {
    size_t shared, own;
} graph_room;

/* Prepares a block, of which graph, call, first, rows, chunk, lanes and member are set, in memory: what is shared, and what is
 * the member's own. With NULL for both it only measures, and gives no room where there is no memory to count in. */
graph_room cgru_prepare_block(graph_block *b, char *shared, char *own);

#endif
