#include "forecast.h"

#include <float.h>
#include <math.h>

#include "variates.h"

static double scale_of(int scale, double x)
{
    return scale == CGRU_SCALE_LOG ? cgru_exp(x) : scale == CGRU_SCALE_SOFTPLUS ? cgru_softplus(x) : x;
}

#define TOGETHER 8 /* numbers drawn at once */

typedef struct {
    const float *y[TOGETHER]; /* what the output says: location, `size` numbers behind it the scale, then the freedom */
    float *to[TOGETHER];
    uint64_t stream[TOGETHER];
} numbers;

static void scale_each(int scale, double *x, int count)
{
    if (scale == CGRU_SCALE_LOG) {
        cgru_exp_eight(x);
    } else {
        for (int j = 0; j < count; j++) x[j] = scale_of(scale, x[j]);
    }
}

static int draw(const cgru_head *head, const numbers *of, int count, uint64_t index)
{
    const int size = head->size;
    double spread[TOGETHER] = {0.0}, u[TOGETHER] = {0.0}, z[TOGETHER];
    for (int j = 0; j < count; j++) spread[j] = of->y[j][size], u[j] = cgru_uniform(head->seed, of->stream[j], index);
    scale_each(head->scale, spread, count);
    for (int j = 0; j < count; j++) {
        if (!(spread[j] > 0.0)) return CGRU_NO_SCALE;
    }
    if (head->head == CGRU_GAUSSIAN) {
        cgru_normal_eight(z, u);
    } else {
        double freedom[TOGETHER] = {0.0};
        for (int j = 0; j < count; j++) freedom[j] = of->y[j][2 * size];
        scale_each(head->scale, freedom, count);
        for (int j = 0; j < count; j++) {
            if (!(freedom[j] > 0.0)) return CGRU_NO_FREEDOM;
            z[j] = cgru_student(u[j], cgru_uniform(head->seed, of->stream[j], index + 1), freedom[j]);
        }
    }
    for (int j = 0; j < count; j++) {
        const double value = *of->y[j] + spread[j] * z[j];
        if (!(fabs(value) <= FLT_MAX)) return CGRU_BEYOND;
        *of->to[j] = (float)value;
    }
    return CGRU_FINE;
}

int cgru_head_values(const cgru_head *head, int64_t rows, const float *output, ptrdiff_t output_row, int64_t t, float *values,
                     ptrdiff_t values_row)
{
    const int size = head->size, said = size * (head->head == CGRU_VALUE ? 1 : head->head == CGRU_GAUSSIAN ? 2 : 3);
    numbers of;
    int count = 0;
    for (int64_t r = 0; r < rows; r++) {
        const float *const y = output + r * output_row;
        for (int i = 0; i < said; i++) {
            if (!(fabsf(y[i]) <= FLT_MAX)) return CGRU_NOT_FINITE;
        }
        for (int i = 0; i < size; i++) {
            if (!head->drawn) {
                values[r * values_row + i] = y[i];
                continue;
            }
            of.y[count] = y + i, of.to[count] = values + r * values_row + i, of.stream[count] = (uint64_t)r | (uint64_t)i << 40;
            if (++count < TOGETHER && (r + 1 < rows || i + 1 < size)) continue;
            const int status = draw(head, &of, count, 2 * (uint64_t)t);
            if (status != CGRU_FINE) return status;
            count = 0;
        }
    }
    return CGRU_FINE;
}
