/* The table of operations: one line an operation, one file a family. */
#ifndef CGRU_OPS_H
#define CGRU_OPS_H

#include "../block.h"
#include "../graph.h"

extern const cgru_op cgru_op_embedding, cgru_op_mask_of, cgru_op_mask_and, cgru_op_apply_mask;
extern const cgru_op cgru_op_dense, cgru_op_conv1d, cgru_op_depthwise;
extern const cgru_op cgru_op_scan, cgru_op_last_state;
extern const cgru_op cgru_op_activation, cgru_op_binary, cgru_op_scale_shift;
extern const cgru_op cgru_op_concat, cgru_op_copy, cgru_op_constant, cgru_op_upsample, cgru_op_pad_time;
extern const cgru_op cgru_op_pool, cgru_op_pool_whole;
extern const cgru_op cgru_op_unary, cgru_op_parametric, cgru_op_clip, cgru_op_prelu, cgru_op_where;
extern const cgru_op cgru_op_reduce, cgru_op_softmax, cgru_op_norm, cgru_op_norm_time, cgru_op_matmul, cgru_op_gather;
extern const cgru_op cgru_op_softmax_time, cgru_op_reverse_time, cgru_op_fold_time, cgru_op_pad_same;
extern const cgru_op cgru_op_stack_frames, cgru_op_conv2d, cgru_op_conv_inner, cgru_op_pool_inner;
extern const cgru_op cgru_op_conv_transpose, cgru_op_conv_transpose_inner;
extern const cgru_op cgru_op_conv2d_product, cgru_op_conv_inner_product;
extern const cgru_op cgru_op_attend, cgru_op_attend_whole, cgru_op_attend_weights;
extern const cgru_op cgru_op_scan_inner, cgru_op_scan_rows, cgru_op_carried, cgru_op_carry;

/* Whether a walk over the axes stays within a frame of so many numbers, and how many numbers it visits. */
int cgru_strides_fit(const int *size, const int *stride, int offset, int numbers);
int64_t cgru_walked(const int *size);

static inline const cgru_value *cgru_input_of(const cgru_graph *g, const cgru_gnode *node, int k)
{
    return k < node->inputs && node->in[k] >= 0 ? &g->values[node->in[k]] : NULL;
}

#endif
