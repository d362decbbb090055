/* What running a network is made of: the network as it was built, and one block of rows of one call. */
#ifndef CGRU_BLOCK_H
#define CGRU_BLOCK_H

#include "lookup.h"
#include "memory.h"
#include "net.h"
#include "team.h"

#define MAX_STAGES 8  /* of a wavefront of layers */
#define WAVE_STEPS 16 /* of a chunk of a wavefront at least: a wait costs about a microsecond */

struct cgru_net {
    const cgru_kernels *kernels;
    unsigned long long serial; /* no other network has had it: unlike an address, which comes back once freed */
    int count;
    int widest;     /* features between nodes */
    int projection; /* floats of projected input of a row and step, over all scans */
    int hidden;     /* floats of a row of the widest hidden state, whole panels */
    size_t prepared; /* bytes of a row as the widest reduced matrix multiplies it */
    int masks;      /* some node makes a mask */
    int direct;     /* a step passes straight through: no mask, no node that needs the whole or gives its last alone */
    int64_t work;   /* multiply-adds of a row and step */
    int64_t widest_step; /* of those, in the largest recurrent multiplication */
    int parallel;   /* independent parts at most: layers of a wavefront, or two directions */
    cgru_node nodes[];
};

/* Whether a node needs the whole sequence before it can give anything. */
int cgru_needs_whole(const cgru_node *node);
/* The end (exclusive) of the segment that begins at node i: nodes that run over chunks of time one after the other, or
 * one that needs the whole sequence. */
int cgru_segment_end(const cgru_net *net, int i);

/* Features of rows over steps. */
typedef struct {
    float *data;
    ptrdiff_t row, step;
} sequence;

/* Scratch of one direction, or of one stage of a wavefront: what may run at the same time. */
typedef struct {
    float *chunk_buffer[2]; /* features of a chunk between two nodes */
    float *stage_buffer[2]; /* features of a chunk for the next stage, by turns */
    float *projected, *h_ring, *phase_scratch;
    const float **pointer_in, **pointer_h, **current;
    float **pointer_out, **pointer_cell_state, **pointer_projected, **pointer_scratch;
    const float **step_projected, **step_x;
    unsigned char *emitted;
    float *range, *step_range; /* as cgru_rows has it, of all rows and of those that step */
    char *prepared;            /* rows of a chunk as a reduced precision multiplies them */
    int *active;
} stage_scratch;

/* One block of rows of one call, as one member sees it. */
typedef struct cgru_block {
    const cgru_net *net;
    const cgru_call *call;
    int64_t first; /* row */
    int rows, chunk, whole_chunk;
    int64_t steps, whole_steps; /* steps become 1 once the time axis is gone */
    const int64_t *lengths; /* of the block's rows, or NULL */
    int stages;     /* of a wavefront, at most */
    uint8_t *valid; /* (rows, steps), or NULL where every step counts */
    uint8_t *mask;  /* where valid lies until the time axis is gone */
    float *whole[2];
    float *pair; /* a second direction's outputs before merging */
    stage_scratch scratch[MAX_STAGES];
    cgru_member member;
    const cgru_lookup *lookup; /* of the recurrence that runs: what its input side makes of tokens; NULL: features come in */
    int asks; /* whether this is the calling thread, which asks if the call is to end early */
} block;

/* A stage's scratch for blocks of so many rows and chunks of so many rows times steps: what members share, and what each
 * has of its own. */
void cgru_take_shared(const cgru_net *net, stage_scratch *l, size_t rows, size_t many, cgru_arena *a);
void cgru_take_own(const cgru_net *net, stage_scratch *l, size_t rows, size_t many, cgru_arena *a);

/* One direction of a recurrent node over steps [t0, t0 + steps). in is based at t0; out at time 0, or NULL where no output
 * is wanted. Whether the call ends. */
int cgru_scan_chunk(block *b, stage_scratch *l, const cgru_node *node, const cgru_direction *dir, sequence in,
                    const sequence *out, int64_t t0, int steps, cgru_member member);
/* Step t of one row, where nothing is masked. */
void cgru_step_row(block *b, stage_scratch *l, const cgru_node *node, const float *x, int64_t t, float *to);

void cgru_softmax(float *v, int n);
/* a != b by their bits: a call takes subnormals for zeros, and comparing must not. */
int cgru_differs(float a, float b);

/* Runs all nodes over the block. Every member of the block's team calls it on its own copy of the block. Whether the call
 * is to end early, and the same for all of them. */
int cgru_run_block(block *b);

#endif
