/* cgru: recurrent networks on a CPU. The C core that the Python package binds, usable by itself: core/pack.h and core/net.h
 * build a network, and tests/c/chain.c is a small whole program.
 *
 * A network is a chain of layers built once and then immutable: any number of threads may run it at the same time,
 * each with its own state, outputs and workspace. All state belongs to the caller. Functions that return int give
 * CGRU_OK or a status and write results only on CGRU_OK. */
#ifndef CGRU_H
#define CGRU_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum {
    CGRU_OK = 0,
    CGRU_NO_MEMORY = 1,
    CGRU_BAD_LENGTH = 2, /* a length is negative or more than the steps */
    CGRU_BAD_ID = 3,     /* an id is outside the table of the embedding */
    CGRU_BAD_INDEX = 4,  /* a row of the call has no row of the state */
    CGRU_BAD_GRAPH = 5,  /* nodes and values that do not fit together */
    CGRU_BAD_PORT = 6,   /* an input is missing, or an output has no room for the frames */
    CGRU_INTERRUPTED = 7,
};

typedef struct cgru_kernels cgru_kernels; /* an instruction set; static, never freed */
typedef struct cgru_matrix cgru_matrix;   /* a packed matrix with its bias */
typedef struct cgru_scan cgru_scan;       /* the packed weights of one direction of one recurrent layer */
typedef struct cgru_net cgru_net;         /* a chain of layers; borrows the packed weights it was given */
typedef struct cgru_work cgru_work;       /* scratch memory that grows to what was needed; one call at a time */

/* One call: rows (streams, batch) by steps of time. Strides count elements; features lie side by side. */
typedef struct {
    int64_t rows, steps;
    const void *x; /* float features, or int64_t ids where the network begins with an embedding */
    int64_t x_row, x_step;
    float *y; /* outputs; for a network that gives only its last output, (rows, features) */
    int64_t y_row, y_step;
    const int64_t *lengths; /* (rows) or NULL: torch's meaning */
    const uint8_t *mask;    /* (rows, steps) or NULL: Keras' meaning */
    uint8_t *mask_out;      /* (rows, steps) or NULL: the mask that flows on from the last layer */
    float *state;           /* row i is at state + (index ? index[i] : i) · state_row; changed in place */
    int64_t state_row, state_rows; /* floats from one row of the state to the next, and rows of it */
    const int64_t *index;
    int threads; /* at least 1 */
    int (*interrupted)(void); /* or NULL; called every 50 ms or so by the calling thread, and the call ends where it is not 0 */
} cgru_call;

/* Runs the network over the call. Any other status than CGRU_OK leaves state and outputs as they were, but that
 * CGRU_INTERRUPTED leaves both undefined. Lengths, ids and
 * index are checked first; nobody may change them during the call. */
int cgru_net_run(const cgru_net *net, const cgru_call *call, cgru_work *work);

/* Work of one row and one step, in multiply-adds of float32: reduced precision counts by its bytes. */
int64_t cgru_net_cost(const cgru_net *net);

cgru_work *cgru_work_new(void);
size_t cgru_work_bytes(const cgru_work *work); /* what it holds now */
void cgru_work_free(cgru_work *work);

#ifdef __cplusplus
}
#endif

#endif
