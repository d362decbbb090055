/* A network as a graph: nodes over values, planned once, then immutable. A straight chain has a plan of its own (net.h);
 * everything else runs here. */
#ifndef CGRU_GRAPH_H
#define CGRU_GRAPH_H

#include "loops.h"
#include "net.h"
#include "team.h"

#define CGRU_MAX_INPUTS 8 /* of a node; a wider concatenation is several */
#define CGRU_AXES 4       /* of a frame in a strided copy or a broadcast */
#define CGRU_BATCH 256    /* rows of a product at once */

typedef struct cgru_graph cgru_graph;
typedef struct cgru_job cgru_job;
typedef struct cgru_gnode cgru_gnode;

/* When a value has frames. */
enum cgru_clock {
    CGRU_ONCE,   /* no time axis: one frame a row */
    CGRU_STATIC, /* a time axis of its own: an input given once, or what is made of one */
    CGRU_STEPS   /* advances with the network's steps */
};

enum cgru_content { CGRU_FEATURES, CGRU_IDS, CGRU_MASK };

typedef struct {
    int size;    /* numbers in a frame */
    int clock;   /* enum cgru_clock */
    int content; /* enum cgru_content; a mask is a frame of one float, zero where it is False */
} cgru_value;

/* Frame j of the result sees `span` input frames from j·stride - left on; `up` result frames come of each. */
typedef struct {
    int span, stride, left, right, up;
} cgru_window;

/* How the members of a team share a node: no number of its result depends on it. */
enum cgru_sharing {
    CGRU_BY_ONE,     /* one of them runs it */
    CGRU_BY_FRAMES,  /* each makes some frames of the result, of the frames of the inputs that belong to them */
    CGRU_BY_QUERIES, /* the same, but the frames of in[0] alone belong to those of the result */
    CGRU_TOGETHER,   /* all of them run it on all frames, and it divides the work by job->member */
    CGRU_BY_STEPS    /* the same, and they meet at every frame */
};

/* An operation: what it is called, whether a node of it fits together, and what it does to the frames of a chunk. */
typedef struct {
    const char *name;
    int whole;    /* needs all frames of its inputs before it gives any */
    int windowed; /* reads its input as frames carried and frames new, one after the other */
    int (*check)(const cgru_graph *graph, const cgru_gnode *node);
    void (*run)(const cgru_job *job);
    size_t (*scratch)(const cgru_graph *graph, const cgru_gnode *node); /* bytes it works with; NULL: none */
    /* Result frames of a whole sequence of so many frames of in[0]; NULL: the window says it. */
    int64_t (*frames)(const cgru_gnode *node, int64_t given);
    int fold;  /* takes sequences of number[0] frames alone (number[1]: or more), or of none */
    int counts; /* has number[0] frames for a row at most, of which the state counts those it has had at offset */
    int moves; /* what a row carries moves on even where nobody reads the result */
    int share; /* enum cgru_sharing */
    /* Multiply-adds of a frame, or their worth, that a team shares; NULL: as many as its matrices and its result say. */
    int64_t (*cost)(const cgru_graph *graph, const cgru_gnode *node);
} cgru_op;

/* The operation of that name, or NULL. */
const cgru_op *cgru_op_named(const char *name);

/* What a node is; every operation reads the fields it needs. */
struct cgru_gnode {
    const cgru_op *op;
    int inputs, in[CGRU_MAX_INPUTS]; /* values; -1 where an optional one is absent */
    int out;
    cgru_window window;
    int hold[CGRU_MAX_INPUTS];    /* frames of each input that a row carries from chunk to chunk */
    int history[CGRU_MAX_INPUTS]; /* where in a state row they lie; behind them stands how many of them are real */
    cgru_node scan;               /* scan: as a chain has it, with one direction; its lines: direction[0] alone */
    const float *lookup; /* scan behind an embedding: the rows of cgru_lookup_fill, by the ids of input lookup_ids; or NULL */
    ptrdiff_t lookup_width;
    int lookup_ids;
    const cgru_matrix *const *matrix; /* dense, conv1d: one for each group */
    int groups;
    cgru_stored table; /* embedding */
    int precision;     /* of the table */
    const float *vector[4]; /* NULL where an optional one is absent */
    int64_t numbers[4];     /* in each */
    int activation, kind, flag, offset;
    int number[6];
    float real[4];
    int size[CGRU_AXES], stride[3][CGRU_AXES]; /* of the result, and of its inputs' numbers */
};

/* Frames of rows: number i of frame f of row r is data[r·row + f·frame + i]. frame is 0 for a value without time. */
typedef struct {
    float *data; /* ids are int64_t behind it, and strides count them */
    ptrdiff_t row, frame;
} cgru_span;

/* A graph's input or output in a call. Strides count elements; features lie side by side. */
typedef struct {
    const void *data; /* float features, int64_t ids or uint8_t mask; NULL for a mask left out */
    int64_t row, frame;
    int64_t frames; /* of an input with a time axis of its own; of an output, room for so many */
} cgru_port;

typedef struct {
    int64_t rows, steps;
    int64_t before; /* steps gone in before this call, where the graph counts them */
    int ended;      /* the sequences end here: what lookahead kept back comes out */
    const cgru_port *inputs, *outputs;
    const int64_t *lengths; /* (rows) or NULL */
    float *state;
    int64_t state_row, state_rows;
    const int64_t *index; /* (rows) or NULL: where in the state each row's lies */
    int threads;
    int (*interrupted)(void); /* or NULL; as cgru_call has it */
} cgru_graph_call;

/* The nodes, values and lists are copied; the weights they point to must outlive the graph. Values begin with the inputs.
 * NULL with *status = CGRU_NO_MEMORY, or CGRU_BAD_GRAPH where something does not fit together; *bad is the node then. */
cgru_graph *cgru_graph_new(const cgru_kernels *kernels, const cgru_value *values, int value_count, int inputs,
                           const cgru_gnode *nodes, int count, const int *outputs, int output_count, int *status, int *bad);
void cgru_graph_free(cgru_graph *graph);
int64_t cgru_graph_cost(const cgru_graph *graph);

/* A status of graphs alone: a row has more frames than a table of positions has rows. */
enum { CGRU_NO_POSITION = 64 };

/* Runs the graph over the call. Any other status than CGRU_OK leaves state and outputs as they were. */
int cgru_graph_run(const cgru_graph *graph, const cgru_graph_call *call, cgru_work *work);

/* ---- inside ---------------------------------------------------------------------------------------------------- */

/* Where a value lies while a graph runs. */
enum cgru_storage {
    CGRU_IN_INPUT,
    CGRU_IN_CHUNK, /* a slot, shared with values that live at other times */
    CGRU_IN_KEPT,  /* all frames of the call */
    CGRU_IN_OUTPUT,
    CGRU_IN_VALUE, /* part of another value's frames: an input of a concatenation, or a reshape of it */
    CGRU_IN_WEIGHTS, /* a constant, where its node has it */
    CGRU_NOWHERE   /* nobody reads it */
};

typedef struct {
    int storage;
    int place;  /* input, slot, output, the value it is part of, or a constant's node */
    int offset; /* within the frames of that value */
} cgru_home;

struct cgru_graph {
    const cgru_kernels *kernels;
    const cgru_loops *loops;
    cgru_net *scans;    /* the largest sizes of all scans, as the scan runner asks for them */
    int value_count, inputs, count, output_count, passes, slots;
    int carries;  /* what a step ends with, the next begins with: a step at a time */
    int steady;   /* every window gives a frame for each at once */
    int even;     /* and every step a frame of every value */
    int folds;    /* some node folds sequences */
    int counts;   /* some node counts the frames of rows */
    int windows;  /* the most inputs that any node extends */
    int beside;   /* the most recurrences over whole sequences in any pass */
    size_t scratch; /* bytes, the most that any node works with */
    int64_t work;     /* multiply-adds of a row and step, or their worth */
    int64_t products; /* of those, the ones that read a matrix for each chunk of time, and a little for each number */
    size_t prepared;
    cgru_value *values;
    cgru_home *homes;
    int *outputs;
    int *pass, *mode; /* of each node: when it runs */
    int64_t *cost;    /* of each node: of a row and frame, as cgru_op has it */
    cgru_gnode nodes[];
};

enum { CGRU_RUN_ONCE, CGRU_RUN_CHUNK, CGRU_RUN_WHOLE };

/* One node over some frames of some rows. */
struct cgru_job {
    const cgru_graph *graph;
    const cgru_gnode *node;
    const cgru_graph_call *call;
    int64_t first; /* the block's first row in the call */
    int rows;
    int64_t frames;     /* of the result */
    int64_t at;         /* the first of them, counted from the beginning of the call */
    cgru_span in[CGRU_MAX_INPUTS], out;
    int64_t in_frames[CGRU_MAX_INPUTS];
    const int64_t *lengths;    /* (rows) of the result, counted from the beginning of the call, or NULL */
    const int64_t *in_lengths; /* (rows) of in[0] */
    const int64_t *key_lengths; /* (rows) of in[1], counted from its first frame; attention alone reads them */
    const int *real;    /* windowed: (rows, 2), the first frame of in[0] that is no padding, and the end of them, */
    int64_t look;       /* counted from so many frames before the one that in[0] begins with */
    cgru_member member; /* of the team that runs this job together; by itself where each has frames of its own */
    struct cgru_block *scans; /* what the scan runner works with, */
    int lane;                 /* in this of its scratches */
    const float **pointer_in; /* CGRU_BATCH of each */
    float **pointer_out;
    void *scratch; /* as many bytes as the operation asked for */
    cgru_prepared quantized_input;
};

static inline float *cgru_frame(const cgru_span *s, int row, int64_t frame)
{
    return s->data + row * s->row + frame * s->frame;
}

/* Whether a frame of in[0], counted from the window of the first result frame on, is no padding; windowed operations alone ask. */
static inline int cgru_is_real(const cgru_job *job, int row, int64_t frame)
{
    return frame + job->look >= job->real[2 * row] && frame + job->look < job->real[2 * row + 1];
}

static inline float *cgru_state_row(const cgru_job *job, int row)
{
    int64_t i = job->first + row;
    return job->call->state + (job->call->index ? job->call->index[i] : i) * job->call->state_row;
}

/* Result frames that can be had once so many input frames are there. */
int64_t cgru_ready(const cgru_window *w, int64_t frames, int ended);

/* Whether node i is a recurrence that may run beside others of its pass. */
int cgru_may_run_beside(const cgru_graph *graph, int i);

#endif
