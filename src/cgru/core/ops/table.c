#include <string.h>

#include "ops.h"

static const cgru_op *const OPS[] = {
    &cgru_op_embedding, &cgru_op_mask_of,  &cgru_op_mask_and,   &cgru_op_apply_mask,  &cgru_op_dense,
    &cgru_op_conv1d,    &cgru_op_depthwise, &cgru_op_scan,      &cgru_op_last_state,  &cgru_op_activation,
    &cgru_op_binary,    &cgru_op_scale_shift, &cgru_op_concat,  &cgru_op_copy,        &cgru_op_constant,
    &cgru_op_upsample,  &cgru_op_pad_time, &cgru_op_pool,       &cgru_op_pool_whole,  &cgru_op_unary,
    &cgru_op_parametric, &cgru_op_clip,    &cgru_op_prelu,      &cgru_op_where,       &cgru_op_reduce,
    &cgru_op_softmax,   &cgru_op_norm,     &cgru_op_norm_time,  &cgru_op_matmul,      &cgru_op_gather,
    &cgru_op_softmax_time, &cgru_op_reverse_time, &cgru_op_stack_frames, &cgru_op_conv2d, &cgru_op_conv_inner,
    &cgru_op_pool_inner, &cgru_op_conv_transpose, &cgru_op_conv_transpose_inner, &cgru_op_scan_inner, &cgru_op_scan_rows,
    &cgru_op_carried,   &cgru_op_carry,   &cgru_op_attend,   &cgru_op_attend_whole,
    &cgru_op_attend_weights, &cgru_op_fold_time, &cgru_op_pad_same, &cgru_op_conv2d_product,
    &cgru_op_conv_inner_product,
};

const cgru_op *cgru_op_named(const char *name)
{
    for (size_t i = 0; i < sizeof OPS / sizeof *OPS; i++) {
        if (strcmp(OPS[i]->name, name) == 0) return OPS[i];
    }
    return NULL;
}
