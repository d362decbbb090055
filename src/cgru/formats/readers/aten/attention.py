"""ATen's attention in one call, and rows and heads in one axis, as nn.MultiheadAttention has them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from ....errors import UnsupportedError
from .counted import of_truth
from .linear import dense, product
from .lowering import Lowering, handles
from .pointwise import binary, unary
from .program import Call
from .reduction import softmax_of
from .scores import arithmetic, hiding, masked
from .values import Known, Scores, Tensor, Within


@handles("scaled_dot_product_attention", "_scaled_dot_product_flash_attention_for_cpu")
def _attention(lo: Lowering, call: Call) -> Any:
    """softmax(q kᵀ · scale + mask) v (Vaswani et al. 2017); scale 1 / √d unless it is said."""
    q, k, v = (lo.tensor(call, i, name) for i, name in enumerate(("query", "key", "value")))
    flash = call.base.startswith("_")
    mask = lo.arg(call, 5 if flash else 3, "attn_mask", None)
    causal = bool(lo.arg(call, 4 if flash else 5, "is_causal", False))
    scale = lo.arg(call, 6, "scale", None)
    if lo.arg(call, 3 if flash else 4, "dropout_p", 0.0):
        raise UnsupportedError("dropout that stays on outside training gives other numbers at every call")
    if lo.arg(call, 7, "enable_gqa", False):
        raise UnsupportedError("queries with more heads than keys (enable_gqa)")
    turned = replace(k, axes=(*k.axes[:-2], k.axes[-1], k.axes[-2]), shape=(*k.shape[:-2], k.shape[-1], k.shape[-2]))
    made: Any = product(lo, q, turned)
    made = replace(made, shape=(*q.shape[:-1], k.shape[-2]))
    made = _scaled(lo, made, float(q.shape[-1] ** -0.5 if scale is None else scale))
    if not isinstance(made, Scores):
        if mask is not None or causal:
            raise UnsupportedError("a mask of what is attended to, where not every frame attends")
        return _whole(lo, made, v)
    if causal:
        made = hiding(made, np.triu(np.ones(made.shape[-2:], bool), 1))
    if isinstance(mask, Known) and mask.array.dtype == bool:
        made = hiding(made, ~mask.array)
    elif isinstance(mask, Within) and mask.scale == 1:  # True where a frame counts
        made = masked(lo, made, replace(mask, negated=not mask.negated), -np.inf)
    elif isinstance(mask, Tensor) and of_truth(lo, mask.name):
        if lo.archived:
            raise UnsupportedError("a mask of truth values that is computed: a file does not say that it is one")
        made = masked(lo, made, unary(lo, mask, "not"), -np.inf)
    elif mask is not None:
        made = arithmetic("add", made, mask)
    return _whole(lo, made, v)


def _scaled(lo: Lowering, x: Any, factor: float) -> Any:
    return arithmetic("mul", x, factor) if isinstance(x, Scores) else binary(lo, "mul", x, factor)


def _whole(lo: Lowering, made: Any, v: Tensor) -> Any:
    return product(lo, softmax_of(lo, made, -1, log=False), v)


@handles("_native_multi_head_attention")
def _native(lo: Lowering, call: Call) -> Any:
    """nn.MultiheadAttention outside training, on (rows, frames, features), in one call of torch's own."""
    q, k, v = (lo.tensor(call, i, name) for i, name in enumerate(("query", "key", "value")))
    width, heads = lo.arg(call, 3, "embed_dim"), lo.arg(call, 4, "num_head")
    weight, bias, out_weight, out_bias = (
        lo.known(call, 5 + i, name) for i, name in enumerate(("qkv_weight", "qkv_bias", "proj_weight", "proj_bias"))
    )
    if lo.arg(call, 9, "mask", None) is not None:
        raise UnsupportedError("a mask of nn.MultiheadAttention in torch's own call")
    size = width // heads
    sides: list[Tensor] = []
    for x, rows in zip((q, k, v), np.split(weight, 3), strict=True):
        part = None if bias is None else np.split(bias, 3)[len(sides)]
        y = lo.natural(dense(lo, call._replace(module=""), x, rows, part))
        split = lo.emit("reshape", y.name, features=(heads, size))
        shape = (x.shape[0], heads, x.shape[1], size)
        sides.append(replace(y, name=split, axes=(y.axes[0], 0, y.axes[1], 1), shape=shape))
    turned = replace(sides[1], axes=(*sides[1].axes[:2], 1, sides[1].axes[2]))
    made: Any = product(lo, sides[0], turned)
    made = _scaled(lo, replace(made, shape=(q.shape[0], heads, q.shape[1], k.shape[1])), float(size**-0.5))
    y = _whole(lo, made, sides[2])
    flat = lo.emit("reshape", lo.natural(y).name, features=(width,))
    out = dense(lo, call, Tensor(flat, (*q.axes[:-1], 0), q.shape), out_weight, out_bias)
    return [replace(out, shape=q.shape)]
