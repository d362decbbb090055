/* Weights into the order the kernels read, and back. */
#ifndef CGRU_PACK_H
#define CGRU_PACK_H

#include "kernels.h"

/* W (units, inner) and b (units) or NULL, row by row. NULL when there is no memory. */
cgru_matrix *cgru_matrix_new(const cgru_kernels *kernels, int units, int inner, const float *w, const float *b);
void cgru_matrix_weights(const cgru_kernels *kernels, const cgru_matrix *m, float *w, float *b);
size_t cgru_matrix_bytes(const cgru_kernels *kernels, const cgru_matrix *m);
void cgru_matrix_free(cgru_matrix *m);

/* The arrays of one direction, row by row, gates in the canonical order of cgru.cells; NULL where the cell has none
 * (biases may always be). out is the number emitted: H, or P where the cell projects. */
typedef struct {
    int input, hidden, out;
    const float *w_ih;       /* (G·H, input) */
    const float *w_hh;       /* (G·H, out) */
    const float *w_hr;       /* (P, H) */
    const float *b_ih, *b_hh; /* (G·H) */
    const float *w_ph;       /* (vectors·H) */
} cgru_weights;

cgru_scan *cgru_scan_new(const cgru_kernels *kernels, const cgru_cell *cell, int activation, int recurrent_activation,
                         const cgru_weights *weights);
/* The matrices again, those that there are; vectors, and biases that were added together, are not given. */
void cgru_scan_weights(const cgru_kernels *kernels, const cgru_scan *scan, float *w_ih, float *w_hh, float *w_hr);
size_t cgru_scan_bytes(const cgru_kernels *kernels, const cgru_scan *scan);
void cgru_scan_free(cgru_scan *scan);

#endif
