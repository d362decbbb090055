#ifndef CGRU_LOOKUP_H
#define CGRU_LOOKUP_H

#include "kernels.h"

/* Numbers of a token's row, as steps read the input side. */
ptrdiff_t cgru_lookup_width(const cgru_kernels *kernels, const cgru_scan *scan);
/* Fills `to`, (tokens, width), from an embedding (tokens, input). CGRU_NO_MEMORY or CGRU_OK. */
int cgru_lookup_fill(const cgru_kernels *kernels, const cgru_scan *scan, const float *embedding, int64_t tokens, float *to);

/* The rows to read in place of the products of some steps: that of row r at step t is ids[r · row + t · step]. */
typedef struct {
    const float *rows;
    ptrdiff_t width;
    const int64_t *ids;
    ptrdiff_t row, step;
} cgru_lookup;

static inline float *cgru_looked_up(const cgru_lookup *l, int row, int64_t t)
{
    return (float *)l->rows + l->ids[row * l->row + t * l->step] * l->width; /* read alone, as what is projected is */
}

#endif
