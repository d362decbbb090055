/* The value that follows a step of a forecast, by what the network's output says of it. */
#ifndef CGRU_FORECAST_H
#define CGRU_FORECAST_H

#include <stddef.h>
#include <stdint.h>

enum { CGRU_VALUE, CGRU_GAUSSIAN, CGRU_STUDENT };        /* what an output is: the value, mean and deviation, … */
enum { CGRU_SCALE_LINEAR, CGRU_SCALE_LOG, CGRU_SCALE_SOFTPLUS };     /* what makes a scale, or degrees of freedom, of its number */
/* What is wrong with an output: NaN or infinity, a scale or degrees of freedom not above zero; a value beyond float32. */
enum { CGRU_FINE, CGRU_NOT_FINITE, CGRU_NO_SCALE, CGRU_NO_FREEDOM, CGRU_BEYOND };

typedef struct {
    int head, scale;
    int drawn;     /* else mean or location is taken */
    int size;      /* numbers of a value; an output has one, two or three of each */
    uint64_t seed; /* number i of row r: streams r | i << 40, uniform variates 2t and 2t + 1 */
} cgru_head;

/* The values (rows, size) that follow step t of outputs (rows, size · 1, 2 or 3). */
int cgru_head_values(const cgru_head *head, int64_t rows, const float *output, ptrdiff_t output_row, int64_t t, float *values,
                     ptrdiff_t values_row);

#endif
