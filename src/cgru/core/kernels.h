/* What an instruction set provides, and the packed weights it works on. Kernels see pointers and sizes: never a
 * file, a model, Python or malloc.
 *
 * Packed matrices are cut into panels of vl output units (vl = floats in a vector), the last padded with zeros:
 * [panel][k / group][gate][vl][group], all gates of a unit side by side, so that the pointwise part runs on the
 * accumulators; group is how many k an instruction multiplies at once (1 for float32, 2 for bf16, 4 for int8).
 * Every output is summed in one order, the bias, the input features, the hidden units, whatever computes it; its bits
 * therefore do not depend on the batch, the chunk, the tile or the thread. */
#ifndef CGRU_KERNELS_H
#define CGRU_KERNELS_H

#include <stddef.h>
#include <stdint.h>

#include "cgru/cgru.h"

enum cgru_activation { /* the order of cgru.spec.activations.ACTIVATIONS */
    CGRU_LINEAR,
    CGRU_SIGMOID,
    CGRU_TANH,
    CGRU_RELU,
    CGRU_HARD_SIGMOID,
    CGRU_HARD_SIGMOID_KERAS2,
    CGRU_SOFTSIGN,
    CGRU_SOFTPLUS,
    CGRU_ELU,
    CGRU_SOFTMAX,
    CGRU_HARD_TANH,
    CGRU_RELU6,
    CGRU_SELU,
    CGRU_SILU,
    CGRU_GELU,
    CGRU_GELU_TANH,
    CGRU_MISH,
    CGRU_HARD_SWISH,
    CGRU_LOG_SIGMOID
};

/* How weights are held, and with what they are multiplied: the order of cgru.spec.precision.PRECISIONS. */
enum cgru_precision {
    CGRU_FLOAT32,
    CGRU_INT8,   /* int8 weights with a scale for each row; activations in 8 bits */
    CGRU_INT8X16, /* the same weights; activations in 16 bits, as two planes of 8 */
    CGRU_BF16,
    CGRU_FP16,
    CGRU_PRECISIONS
};

typedef struct cgru_arithmetic cgru_arithmetic;

/* One packed matrix with its bias: in_features = I or H, out_features = O or H. */
struct cgru_matrix {
    int in_features, out_features, gates, panels;
    int precision;
    int planes;      /* of bytes that stand for one activation: 2 for int8x16, else 1 */
    void *weight;    /* [panels][in_features / group][gates][vl][group] */
    float *bias;     /* [panels][gates][vl] */
    float *scale;    /* int8: of each row, [panels][gates][vl]; else NULL */
    int32_t *compensation; /* int8: 128 times the sum of each row, for kernels that multiply unsigned activations */
    const cgru_arithmetic *arithmetic;
};

typedef struct cgru_cell cgru_cell;

/* One direction of one recurrent layer. */
struct cgru_scan {
    const cgru_cell *cell;
    int activation, recurrent_activation;
    int input, hidden, panels;
    int out;            /* numbers emitted: hidden, or what a projection makes of them */
    int bounded;        /* |h| <= max(1, |h0|), so int8 may use one fixed range per row */
    cgru_matrix x;      /* all gates from the input; its bias is what adds to the input side */
    cgru_matrix h;      /* the gates that multiply the state in phase 0; its bias holds the cell's vectors */
    cgru_matrix phase1; /* what phase 1 multiplies; in_features = 0 where it multiplies nothing */
};

/* Memory of one thread for rows as a reduced precision multiplies them: stride bytes for each, at least what
 * cgru_arithmetic.prepared says. NULL in float32. */
typedef struct {
    char *memory;
    ptrdiff_t stride;
} cgru_prepared;

/* The input side of rows whose steps are to come, made beside the steps of a single row: those wait for their weights and
 * leave half of the multipliers idle. A tile is so many rows (cgru_cell.beside) by one panel; all tiles of a panel come
 * before those of the next, so that its weights are at hand. */
typedef struct {
    const float *const *v; /* the rows, and where their input side goes */
    float *const *out;
    int tiles, tile, panel; /* tiles of a panel; the next one */
    int due;                /* tiles to be made in this step */
} cgru_ahead;

/* Rows of one time step. Either proj (the input side, [panel][gate][vl], projected before) or x is given; a reduced
 * precision wants proj. */
typedef struct {
    int n;
    int backwards; /* visit panels in descending order, as odd steps do: they start on those still in L1; no sum changes */
    const float *const *proj;
    const float *const *x;
    const float *const *h; /* h of the step before */
    float *const *out;     /* h', or what the cell emits instead */
    float *const *cell_state; /* the state arrays after the first, one after the other: a unit's are changed in place */
    float *const *scratch; /* what phase 0 leaves for phase 1: two arrays of panels·vl floats */
    const float *range;    /* int8 and a bounded scan: the largest |h| of each row, fixed with its first state */
    cgru_prepared quantized_input;
    cgru_ahead *ahead; /* with one row and a cell that takes it, else NULL */
} cgru_rows;

/* A cell: all that the packer and the runner know of it. The gates are stacked in w_ih and w_hh in this order:
 * those that multiply the state in phase 0, then those that multiply in phase 1 what phase 0 left in scratch. */
struct cgru_cell {
    const char *name; /* as cgru.spec.cells has it */
    int gates;        /* that read the input */
    int recurrent;    /* of those, the ones of phase 0 that multiply the state */
    int phases;       /* 1 or 2 */
    int projects;     /* phase 1 multiplies by w_hr rather than by the gates left */
    int separate_candidate_bias; /* the last gate's recurrent bias is a vector of its own */
    int vectors;      /* per unit, beside the matrices */
    int states;       /* arrays a row carries: the one emitted, then the units' own */
    int beside;       /* rows of a tile of cgru_rows.ahead, where its step takes that; else 0 */
    int bounded;      /* with bounded activations the state that the matrices read stays within [-1, 1] */
    /* one step of panels [p0, p1) in phase 0 or 1; phases need a barrier between them */
    void (*step)(const cgru_scan *scan, const cgru_rows *rows, int phase, int p0, int p1);
};

/* The kernels of one precision. */
struct cgru_arithmetic {
    int group; /* of k, in the packed order */
    /* bytes of one row as the matrix multiplies it; NULL where that is the row itself */
    size_t (*prepared)(const cgru_matrix *m);
    /* out[r] = activation(W v[r] + b), features side by side; softmax is the caller's */
    void (*linear)(const cgru_matrix *m, int activation, int n, const float *const *v, float *const *out,
                   cgru_prepared quantized_input, int p0, int p1);
    /* out[r] = W v[r] + b in the panel order the steps read */
    void (*project)(const cgru_matrix *m, int n, const float *const *v, float *const *out,
                    cgru_prepared quantized_input, int p0, int p1);
    const cgru_cell *cells;
    int cell_count;
    /* an activation over n numbers, in place */
    void (*activate)(int activation, float *values, ptrdiff_t n);
};

struct cgru_kernels {
    const char *name;
    int vl;
    const cgru_arithmetic *of[CGRU_PRECISIONS];
};

/* The instruction sets of this build, best last, and whether this machine has each. */
const cgru_kernels *cgru_kernels_at(int index);
int cgru_kernels_usable(int index);

/* The cell of that name, or NULL. */
const cgru_cell *cgru_cell_named(const cgru_arithmetic *arithmetic, const char *name);

float cgru_activate_scalar(int activation, float x);

#endif
