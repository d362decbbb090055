/* Weights into the order the kernels read, and back. */
#ifndef CGRU_PACK_H
#define CGRU_PACK_H

#include "kernels.h"

/* W (units, inner) and b (units) or NULL, row by row. NULL when there is no memory. */
cgru_matrix *cgru_matrix_new(const cgru_kernels *kernels, int units, int inner, const float *w, const float *b);
void cgru_matrix_weights(const cgru_kernels *kernels, const cgru_matrix *m, float *w, float *b);
size_t cgru_matrix_bytes(const cgru_kernels *kernels, const cgru_matrix *m);
void cgru_matrix_free(cgru_matrix *m);

/* w_ih (G·H, input), w_hh (G·H, hidden), b_ih and b_hh (G·H), gates in the canonical order of cgru.cells. */
cgru_scan *cgru_scan_new(const cgru_kernels *kernels, int cell, int activation, int recurrent_activation, int input,
                         int hidden, const float *w_ih, const float *w_hh, const float *b_ih, const float *b_hh);
/* The two matrices again; biases that were added together cannot be told apart and are not given. */
void cgru_scan_weights(const cgru_kernels *kernels, const cgru_scan *scan, float *w_ih, float *w_hh);
size_t cgru_scan_bytes(const cgru_kernels *kernels, const cgru_scan *scan);
void cgru_scan_free(cgru_scan *scan);

#endif
