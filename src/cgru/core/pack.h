/* Weights into the order the kernels read, and back. */
#ifndef CGRU_PACK_H
#define CGRU_PACK_H

#include "kernels.h"

/* A matrix as files hold it, row by row: float, int8_t, or the bits of a bf16 or an fp16; in int8 the scale of each row,
 * else NULL. values NULL: there is none. */
typedef struct {
    void *values;
    float *scale;
} cgru_stored;

/* W (out_features, in_features) and b (out_features) or NULL. NULL when there is no memory. */
cgru_matrix *cgru_matrix_new(const cgru_kernels *kernels, int precision, int out_features, int in_features,
                             cgru_stored w, const float *b);
/* What it was made of again. */
void cgru_matrix_weights(const cgru_kernels *kernels, const cgru_matrix *m, cgru_stored w, float *b);
size_t cgru_matrix_bytes(const cgru_kernels *kernels, const cgru_matrix *m);
void cgru_matrix_free(cgru_matrix *m);

/* The arrays of one direction, gates in the canonical order of cgru.spec.cells; NULL where the cell has none (biases may
 * always be). out is the number emitted: H, or P where the cell projects. */
typedef struct {
    int precision, input, hidden, out;
    cgru_stored w_ih;         /* (G·H, input) */
    cgru_stored w_hh;         /* (G·H, out) */
    cgru_stored w_hr;         /* (P, H) */
    const float *b_ih, *b_hh; /* (G·H) */
    const float *w_ph;        /* (vectors·H) */
} cgru_weights;

cgru_scan *cgru_scan_new(const cgru_kernels *kernels, const cgru_cell *cell, int activation, int recurrent_activation,
                         const cgru_weights *weights);
/* The matrices again, those that there are; vectors, and biases that were added together, are not given. */
void cgru_scan_weights(const cgru_kernels *kernels, const cgru_scan *scan, cgru_stored w_ih, cgru_stored w_hh,
                       cgru_stored w_hr);
size_t cgru_scan_bytes(const cgru_kernels *kernels, const cgru_scan *scan);
void cgru_scan_free(cgru_scan *scan);

/* Row `row` of a table (rows, n) as floats: an embedding's. */
void cgru_table_row(int precision, cgru_stored table, int64_t row, int n, float *to);

#endif
