/* What an instruction set provides, and the packed weights it works on. Kernels see pointers and sizes: never a
 * file, a model, Python or malloc.
 *
 * Packed matrices are cut into panels of vl output units (vl = floats in a vector), the last padded with zeros:
 * [panel][k][gate][vl], all gates of a unit side by side, so that the pointwise part runs on the accumulators.
 * Every output is one chain of multiply-adds in the order bias, input features, hidden units; its bits therefore do
 * not depend on the batch, the chunk, the tile or the thread that computed it. */
#ifndef CGRU_KERNELS_H
#define CGRU_KERNELS_H

#include <stddef.h>
#include <stdint.h>

#include "cgru/cgru.h"

enum cgru_activation { /* the order of cgru.activations.ACTIVATIONS */
    CGRU_LINEAR,
    CGRU_SIGMOID,
    CGRU_TANH,
    CGRU_RELU,
    CGRU_HARD_SIGMOID,
    CGRU_HARD_SIGMOID_KERAS2,
    CGRU_SOFTSIGN,
    CGRU_SOFTPLUS,
    CGRU_ELU,
    CGRU_SOFTMAX
};

enum cgru_cell { /* the codes of cgru.cells.CELLS */
    CGRU_GRU_RESET_AFTER,
    CGRU_GRU_RESET_BEFORE,
    CGRU_CELLS
};

/* One packed matrix with its bias: units = O or H, inner = I or H. */
struct cgru_matrix {
    int units, inner, gates, panels;
    float *weight; /* [panels][inner][gates][vl] */
    float *bias;   /* [panels][gates][vl] */
};

/* One direction of one recurrent layer. */
struct cgru_scan {
    int cell, activation, recurrent_activation;
    int input, hidden, panels;
    cgru_matrix x;     /* all gates from the input; its bias is what adds to the input side */
    cgru_matrix h;     /* the gates that read h: 3 for reset-after (its bias is the candidate's), 2 for reset-before */
    cgru_matrix reset; /* reset-before: the candidate from r ⊙ h */
};

/* Rows of one time step. Either proj (the input side, [panel][gate][vl], projected before) or x is given. */
typedef struct {
    int n;
    int backwards; /* walk the panels from the last: what was touched last is still in cache (no sum changes) */
    const float *const *proj;
    const float *const *x;
    const float *const *h; /* h of the step before */
    float *const *out;     /* h' */
    float *const *scratch; /* reset-before: z and then r ⊙ h, each panels·vl floats */
} cgru_rows;

struct cgru_kernels {
    const char *name;
    int vl;
    /* out[r] = activation(W v[r] + b), features side by side; softmax is the caller's */
    void (*linear)(const cgru_matrix *m, int activation, int n, const float *const *v, float *const *out, int p0, int p1);
    /* out[r] = W v[r] + b in the panel order the steps read */
    void (*project)(const cgru_matrix *m, int n, const float *const *v, float *const *out, int p0, int p1);
    /* one step of panels [p0, p1) in phase 0, 1, … of cgru_cell_phases; phases need a barrier between them */
    void (*step[CGRU_CELLS])(const cgru_scan *scan, const cgru_rows *rows, int phase, int p0, int p1);
    /* an activation over n numbers, in place */
    void (*activate)(int activation, float *values, ptrdiff_t n);
};

extern const int cgru_cell_phases[CGRU_CELLS];
extern const int cgru_cell_states[CGRU_CELLS];

/* The instruction sets of this build, best last, and whether this machine has each. */
const cgru_kernels *cgru_kernels_at(int index);
int cgru_kernels_usable(int index);

float cgru_activate_scalar(int activation, float x);

#endif
