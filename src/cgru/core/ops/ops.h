/* The table of operations: one line an operation, one file a family. */
#ifndef CGRU_OPS_H
#define CGRU_OPS_H

#include "../block.h"
#include "../graph.h"

/* Every operation, by its name. */
#define CGRU_OPERATIONS(X)                                                                                            \
    X(embedding) X(mask_of) X(mask_and) X(apply_mask) X(dense) X(conv1d) X(depthwise) X(scan) X(last_state)           \
    X(activation) X(binary) X(scale_shift) X(concat) X(copy) X(constant) X(upsample) X(pad_time) X(pool)              \
    X(pool_whole) X(weighted_sum) X(unary) X(parametric) X(clip) X(prelu) X(where) X(reduce) X(softmax) X(norm)       \
    X(norm_time) X(matmul) X(gather) X(softmax_time) X(reverse_time) X(stack_frames) X(conv2d) X(conv_inner) X(pool_inner)     \
    X(conv_transpose) X(conv_transpose_inner) X(scan_inner) X(scan_rows) X(carried) X(carry) X(positions) X(attend)   \
    X(attend_whole) X(attend_weights) X(fold_time) X(pad_same) X(conv2d_product) X(conv_inner_product)

#define DECLARED(name) extern const cgru_op cgru_op_##name;
CGRU_OPERATIONS(DECLARED)
#undef DECLARED

/* Whether a walk over the axes stays within a frame of so many numbers, and how many numbers it visits. */
int cgru_strides_fit(const int *size, const int *stride, int offset, int numbers);
int64_t cgru_walked(const int *size);

/* Whether vector k of a node has so many numbers; one that is optional may be absent. */
static inline int cgru_vector_fits(const cgru_gnode *node, int k, int64_t numbers, int optional)
{
    return node->vector[k] ? node->numbers[k] == numbers : optional;
}

/* What functions that take many instructions a number are worth (cgru_op.cost). */
static inline int64_t cgru_cost_of_functions(const cgru_graph *g, const cgru_gnode *node)
{
    return (int64_t)64 * g->values[node->out].size;
}

/* Whether a mask, which may be left out, says that a frame counts. */
static inline int cgru_unmasked(const cgru_span *mask, int row, int64_t frame)
{
    return mask->data == NULL || *cgru_frame(mask, row, frame) != 0.0f;
}

/* Whether it, if there is one, has a value for each frame of x. */
static inline int cgru_mask_fits(const cgru_value *mask, const cgru_value *x)
{
    return mask == NULL || (mask->content == CGRU_MASK && mask->clock == x->clock);
}

/* NaN where either is. */
static inline float cgru_larger(float a, float b)
{
    return a != a ? a : b != b ? b : a > b ? a : b;
}
static inline float cgru_smaller(float a, float b)
{
    return a != a ? a : b != b ? b : a < b ? a : b;
}

static inline const cgru_value *cgru_input_of(const cgru_graph *g, const cgru_gnode *node, int k)
{
    return k < node->inputs && node->in[k] >= 0 ? &g->values[node->in[k]] : NULL;
}

#endif
