/* The loops over numbers that operations of graphs are made of, compiled once for each instruction set.
 *
 * A number of a result is made by the same operations in the same order on all of them; where products are summed by
 * multiply-adds (convolve, depthwise), those are fused wherever the instruction set has them, as in a matrix product. */
#ifndef CGRU_LOOPS_H
#define CGRU_LOOPS_H

#include <stddef.h>
#include <stdint.h>

#include "cgru/cgru.h"

/* The order of the core's binary operation. */
enum cgru_pair {
    CGRU_PAIR_ADD, CGRU_PAIR_SUB, CGRU_PAIR_MUL, CGRU_PAIR_DIV, CGRU_PAIR_MINIMUM, CGRU_PAIR_MAXIMUM, CGRU_PAIR_AVERAGE,
    CGRU_PAIR_POWER, CGRU_PAIR_LESS, CGRU_PAIR_LESS_EQUAL, CGRU_PAIR_EQUAL, CGRU_PAIR_ATAN2,
    CGRU_PAIR_KINDS
};

/* The order of cgru.spec.operations.pointwise.UNARY. */
enum cgru_unary {
    CGRU_ABS, CGRU_CEIL, CGRU_COS, CGRU_ERF, CGRU_EXP, CGRU_FLOOR, CGRU_LOG, CGRU_NEG, CGRU_NOT, CGRU_RECIPROCAL,
    CGRU_ROUND, CGRU_SIGN, CGRU_SIN, CGRU_SQRT, CGRU_ACOS, CGRU_ACOSH, CGRU_ASIN, CGRU_ASINH, CGRU_ATAN, CGRU_ATANH,
    CGRU_COSH, CGRU_SINH, CGRU_TAN, CGRU_ISNAN, CGRU_LOG1P, CGRU_EXPM1, CGRU_UNARY_KINDS
};

/* Activations with two parameters: the order of cgru.spec.activations.PARAMETRIC. */
enum cgru_parametric {
    CGRU_AFFINE, CGRU_CELU, CGRU_ELU_ALPHA, CGRU_HARD_SHRINK, CGRU_HARD_SIGMOID_LINE, CGRU_LEAKY_RELU,
    CGRU_SCALED_TANH, CGRU_SOFT_SHRINK, CGRU_SOFTPLUS_BETA, CGRU_THRESHOLD, CGRU_THRESHOLDED_RELU,
    CGRU_PARAMETRIC_KINDS
};

/* One frame of a convolution over two inner axes, whose inputs lie as `convolve` reads them, padding and all: every tap of
 * the kernel finds the number for a place of the result that many places after its own first one. */
typedef struct {
    int units, groups, channels; /* of the result; of both; of the input */
    int rows, places;            /* of the result's two axes */
    int taps;                    /* of a channel's kernel */
    const float *const *input;   /* (taps): channel 0, the first row and place; whole vectors may be read behind a row */
    ptrdiff_t channel, row;      /* between channels, and between the inputs of rows of the result */
    const float *weights, *bias; /* bias (units) or NULL */
    const ptrdiff_t *weight;     /* (taps): where in a kernel */
    ptrdiff_t of_unit, of_channel; /* between kernels: of units of a group, and of channels of a group */
    ptrdiff_t of_group;
    float *y; /* (units, rows, places) */
} cgru_convolution;

#define CGRU_LANES 16 /* partial sums of a product of two vectors */

typedef struct {
    /* y = a ∘ b, n numbers; a and b advance by da and db, which are 0 or 1 */
    void (*combine)(int kind, float *y, const float *a, const float *b, int n, int da, int db);
    void (*unary)(int kind, float *y, const float *x, int n);
    void (*parametric)(int kind, float a, float b, float *y, const float *x, int n);
    /* bounds; NaN stays */
    void (*clip)(float *y, const float *x, float low, float high, int n);
    /* x where it is not negative, else slope · x */
    void (*rectify)(float *y, const float *x, float slope, int n);
    /* the same with a slope for each number */
    void (*rectify_each)(float *y, const float *x, const float *slope, int n);
    /* x · scale + shift: two numbers, or n of each */
    void (*rescale)(float *y, const float *x, float scale, float shift, int n);
    void (*rescale_each)(float *y, const float *x, const float *scale, const float *shift, int n);
    /* (x - mean) · factor · weight + bias: two numbers, or n of each, where either may be NULL */
    void (*standardise)(float *y, const float *x, float mean, float factor, float weight, float bias, int n);
    void (*standardise_each)(float *y, const float *x, float mean, float factor, const float *weight, const float *bias,
                             int n);
    /* sums in double precision, eight at a time: of x, |x|, (x - mean)² */
    double (*sum)(const float *x, int n);
    double (*sum_size)(const float *x, int n);
    double (*sum_squares)(const float *x, float mean, int n);
    /* sums[i mod CGRU_LANES] += a[i] · b[i] */
    void (*add_products)(float *sums, const float *a, const float *b, int n);
    /* y[j] = x · k[j] for `count` vectors k, `next` floats from one to the next: lanes of products as add_products sums
     * them, then the sum of the lanes, by halves */
    void (*products)(float *y, const float *x, const float *k, ptrdiff_t next, int count, int n);
    /* y[i] += weight · x[i] */
    void (*add_scaled)(float *y, const float *x, float weight, int n);
    /* the same of `count` vectors v with a weight each, one after the other */
    void (*add_weighted)(float *y, const float *v, ptrdiff_t next, const float *weight, int count, int n);
    /* The largest number; *numbers: whether no one is NaN, without which the result is anything. */
    float (*largest)(const float *x, int n, int *numbers);
    /* Σ e^(x[i] − top) in double precision, 64 at a time as sum takes them; no x above top */
    double (*sum_exps)(const float *x, float top, int n);
    /* Numbers of a walk over four axes, the result's one after the other. */
    void (*copy)(float *y, const float *x, const int *size, const int *stride);
    /* y[i] = x[index[i]], or fill where the index is negative */
    void (*gather)(float *y, const float *x, const float *index, float fill, int n);
    void (*convolve)(const cgru_convolution *c);
    /* Frames of a convolution of every channel by itself: weights (width, n), bias (n) or NULL; the taps of a window lie
     * `tap` floats apart, windows `stride`, results `out`. */
    void (*depthwise)(float *y, ptrdiff_t out, const float *x, ptrdiff_t stride, ptrdiff_t tap, const float *weights,
                      const float *bias, int width, int n, int64_t frames);
} cgru_loops;

/* The loops of an instruction set that cgru_kernels_at gave. */
const cgru_loops *cgru_loops_of(const cgru_kernels *kernels);

#endif
