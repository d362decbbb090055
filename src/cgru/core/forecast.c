#include "forecast.h"

#include <float.h>
#include <math.h>

#include "variates.h"

static double scale_of(int scale, float x)
{
    return scale == CGRU_SCALE_LOG ? cgru_exp(x) : scale == CGRU_SCALE_SOFTPLUS ? cgru_softplus(x) : x;
}

int cgru_head_values(const cgru_head *head, int64_t rows, const float *output, ptrdiff_t output_row, int64_t t, float *values,
                     ptrdiff_t values_row)
{
    const int size = head->size, numbers = size * (head->head == CGRU_VALUE ? 1 : head->head == CGRU_GAUSSIAN ? 2 : 3);
    for (int64_t r = 0; r < rows; r++) {
        const float *const y = output + r * output_row;
        for (int i = 0; i < numbers; i++) {
            if (!(fabsf(y[i]) <= FLT_MAX)) return CGRU_NOT_FINITE;
        }
        for (int i = 0; i < size; i++) {
            double value = y[i];
            if (head->drawn) {
                const uint64_t stream = (uint64_t)r | (uint64_t)i << 40, index = 2 * (uint64_t)t;
                const double spread = scale_of(head->scale, y[size + i]), u = cgru_uniform(head->seed, stream, index);
                if (!(spread > 0.0)) return CGRU_NO_SCALE;
                if (head->head == CGRU_GAUSSIAN) {
                    value += spread * cgru_normal(u);
                } else {
                    const double freedom = scale_of(head->scale, y[2 * size + i]);
                    if (!(freedom > 0.0)) return CGRU_NO_FREEDOM;
                    value += spread * cgru_student(u, cgru_uniform(head->seed, stream, index + 1), freedom);
                }
                if (!(fabs(value) <= FLT_MAX)) return CGRU_BEYOND;
            }
            values[r * values_row + i] = (float)value;
        }
    }
    return CGRU_FINE;
}
