"""A small case of every operation of the table, with its formula written out for one row: what the law tests run.

An operation that is registered and has no case fails ``test_every_operation_has_a_case``.
"""

from __future__ import annotations

from collections.abc import Callable
from math import erf
from typing import Any

import numpy as np
import recurrence_cases  # noqa: F401  its cases stand in the same table
from operation_table import (
    CASES,
    Array,
    Case,
    Given,
    arr,
    built,
    case,
    correlate,
    each,
    kernel,
    scatter,
    stacked,
    windows,
)
from oracle import FUNCTIONS

__all__ = ["CASES", "Case", "Given"]

# Each number by itself
for _name in FUNCTIONS:
    case("activation", [(3, 4)], lambda x, f=FUNCTIONS[_name]: f(x), activation=_name)

for _name, _function in {"add": np.add, "sub": np.subtract, "mul": np.multiply, "minimum": np.minimum,
                         "maximum": np.maximum, "average": lambda a, b: (a + b) / 2}.items():  # fmt: skip
    case(_name, [(3, 4), (4,)], each(lambda a, b, f=_function: f(a, b)))
    case(_name, [(4,), Given((4,), timed=False)], lambda a, b, f=_function: f(a, b))
case("div", [(3, 4), Given((4,), positive=True)], each(lambda a, b: a / b))
case("power", [Given((3, 4), positive=True), (4,)], each(lambda a, b: a**b))
case("atan2", [(3, 4), (4,)], each(lambda a, b: np.angle(b + 1j * a)))
for _kind, _test in {"less": np.less, "less_equal": np.less_equal, "equal": np.equal}.items():
    built(
        "compare", [(3, 4), (4,)], each(lambda a, b, f=_test: f(np.round(a), np.round(b))),
        lambda g, a, b, k=_kind: g.compare(g.unary(a, kind="round"), g.unary(b, kind="round"), kind=k),
    )  # fmt: skip
built(
    "where", [(3, 1), (3, 4), (4,)], each(lambda c, a, b: np.asarray(np.where(c > 0, a, b))),
    lambda g, c, a, b: g.where(g.clip(c, low=0.0), a, b),
)  # fmt: skip
case("clip", [(3, 4)], lambda x: np.minimum(np.maximum(x, -0.25), 0.5), low=-0.25, high=0.5)
_slope = arr(4)
case("prelu", [(4, 3)], each(lambda x: np.where(x < 0, x * _slope[:, None], x)), weights={"slope": _slope})
_scale, _shift = arr(4), arr(4)
case("scale_shift", [(3, 4)], lambda x: x * _scale + _shift, weights={"scale": _scale, "shift": _shift}, axis=1)
for _name, _function in {
    "abs": np.abs, "ceil": np.ceil, "cos": np.cos, "erf": np.vectorize(erf, [float]), "exp": np.exp,
    "floor": np.floor, "neg": np.negative, "round": np.round, "sign": np.sign, "sin": np.sin, "asinh": np.arcsinh,
    "atan": np.arctan, "cosh": np.cosh, "sinh": np.sinh, "tan": np.tan, "expm1": lambda x: np.exp(x) - 1,
}.items():  # fmt: skip
    case("unary", [(3, 4)], lambda x, f=_function: f(x) if x.size else x, kind=_name)
for _name, _function in {
    "log": np.log, "log1p": lambda x: np.log(1 + x), "reciprocal": lambda x: 1 / x, "sqrt": np.sqrt,
    "acos": lambda x: np.arccos(x), "asin": np.arcsin, "atanh": np.arctanh,
}.items():  # fmt: skip
    case("unary", [Given((3, 4), positive=True)], lambda x, f=_function: f(x), kind=_name)
built("unary", [(3, 4)], lambda x: np.round(x) == 0, lambda g, x: g.unary(g.unary(x, kind="round"), kind="not"))
built(
    "unary", [(3, 4)], lambda x: np.arccosh(1 + np.exp(x)),
    lambda g, x: g.unary(g.activation(g.unary(x, kind="exp"), activation="affine", alpha=1.0, beta=1.0), kind="acosh"),
)  # fmt: skip
built("unary", [(3, 4)], lambda x: x < 0, lambda g, x: g.unary(g.unary(x, kind="log"), kind="isnan"))

# Numbers moved, none changed
case("slice", [(3, 7)], lambda x: x[:, :, 1:6:2], start=1, stop=6, step=2, axis=1)
case("reshape", [(3, 4)], lambda x: x.reshape(len(x), 2, 6), features=(2, 6))
case("transpose", [(2, 3, 4)], lambda x: x.transpose(0, 3, 1, 2), order=(2, 0, 1))
case("take", [(3, 4)], lambda x: x[:, :, [3, 0, 0]], axis=1, indices=(3, 0, 0))
case("broadcast", [(3, 1)], lambda x: np.concatenate([x] * 4, axis=2), features=(3, 4))
case("concat", [(3, 2), (3, 4)], lambda a, b: np.concatenate([a, b], axis=2), axis=1)
case("concat", [(3,), Given((2,), timed=False)], lambda a, b: np.array([np.concatenate([f, b]) for f in a]))
_value = arr(4)
built(
    "constant", [(4,)], lambda x: x + _value,
    lambda g, x: g.add(x, g.constant(features=(4,), weights={"value": _value})),
)  # fmt: skip
case("expand_time", [Given((4,), timed=False), (2,)], lambda x, like: np.array([x for _ in like]))
case("upsample", [(4,)], lambda x: np.array([f for f in x for _ in range(3)]), factor=3)
case("pad_time", [(4,)], lambda x: np.pad(x, ((2, 1), (0, 0)))[: len(x) and len(x) + 3], left=2, right=1)
case("pad_time", [(4,)], lambda x: x[2 : max(2, len(x) - 1)], left=-2, right=-1)
case(
    "pad_inner", [(3, 4)], each(lambda x: np.pad(x, ((1, 0), (2, 3)), mode="reflect")),
    pads=(1, 2, 0, 3), mode="reflect",
)  # fmt: skip
case("stack_frames", [(2, 3)], lambda x: stacked(windows(x, 3, 2, 2, 3, 1), 3, 2, 3),
     width=3, stride=2, dilation=2, left=3, right=1)  # fmt: skip
case("stack_frames", [(2,)], lambda x: stacked(windows(x, 1, 1, 1, 0, 0), 1, 2), width=1)

# Along feature axes
for _kind, _reduced in {
    "mean": np.mean, "sum": np.sum, "max": np.max, "min": np.min, "prod": np.prod,
    "l1": lambda x, **k: np.abs(x).sum(**k), "l2": lambda x, **k: np.sqrt((x * x).sum(**k)),
    "sum_square": lambda x, **k: (x * x).sum(**k), "log_sum_exp": lambda x, **k: np.log(np.exp(x).sum(**k)),
}.items():  # fmt: skip
    case("reduce", [(2, 3, 4)], each(lambda x, f=_reduced: f(x, axis=(0, 2), keepdims=True)), kind=_kind, axes=(0, 2))
case(
    "reduce", [Given((3, 4), positive=True)], each(lambda x: np.log(x.sum(0, keepdims=True))), kind="log_sum", axes=(0,)
)


def soft(x: Array, axis: int | tuple[int, ...]) -> Array:
    return np.exp(x) / np.exp(x).sum(axis=axis, keepdims=True)


case("softmax", [(3, 4)], each(lambda x: soft(x, 0)), axes=(0,))
case("softmax", [(3, 4)], each(lambda x: np.log(soft(x, (0, 1)))), axes=(0, 1), log=True)
case("matmul", [(2, 3, 4), (4, 5)], each(lambda a, b: a @ b))
_norm = {"weight": arr(3, 4), "bias": arr(3, 4)}
case(
    "layer_norm", [(2, 3, 4)],
    each(lambda x: np.array([(c - c.mean()) / np.sqrt(c.var() + 1e-3) for c in x]) * _norm["weight"] + _norm["bias"]),
    weights=_norm, axes=2, epsilon=1e-3,
)  # fmt: skip
case(
    "layer_norm", [(5,)], each(lambda x: x / np.sqrt((x * x).mean() + 1e-3)),
    subtract_mean=False, epsilon=1e-3,
)  # fmt: skip

# Products with weights
_dense = {"weight": arr(5, 4), "bias": arr(5)}
case(
    "dense", [(3, 4)], lambda x: np.maximum(x @ _dense["weight"].T + _dense["bias"], 0),
    weights=_dense, units=5, activation="relu",
)  # fmt: skip
_table = arr(9, 4)
case("embedding", [Given((), vocabulary=9)], lambda ids: _table[ids], weights={"weight": _table}, vocabulary=9, units=4)
case("embedding", [Given((2, 3), vocabulary=9)], lambda ids: _table[ids], weights={"weight": _table}, vocabulary=9,
     units=4)  # fmt: skip
case("embedding", [Given((3,), vocabulary=9)], lambda ids: _table[ids[:, 1]], weights={"weight": _table}, vocabulary=9,
     units=4, column=1)  # fmt: skip

_conv = {"weight": arr(6, 2, 3), "bias": arr(6)}


def conv1d(x: Array, stride: int, dilation: int, left: int, right: int) -> Array:
    rows = windows(x, 3, stride, dilation, left, right)
    made = [correlate(w.T, _conv["weight"], (1,), (1,), 2)[:, 0] + _conv["bias"] for w in rows]
    return np.tanh(stacked(made, 6))


for _timing in ((1, 1, 2, 0), (2, 1, 1, 1), (1, 2, 2, 2), (3, 2, 0, 0)):
    _stride, _dilation, _left, _right = _timing
    case(
        "conv1d", [(4,)], lambda x, t=_timing: conv1d(x, *t), weights=_conv, units=6, width=3, groups=2,
        stride=_stride, dilation=_dilation, left=_left, right=_right, activation="tanh",
    )  # fmt: skip
_one = arr(2, 4, 1)
case("conv1d", [(4,)], lambda x: x @ _one[:, :, 0].T, weights={"weight": _one}, units=2, width=1)

_inner = {"weight": arr(6, 2, 3, 2), "bias": arr(6)}
_inner_options = kernel((3, 2), strides=(2, 1), dilations=(1, 2), pads=(1, 0, 2, 1))
case(
    "conv_inner", [(4, 5, 6)],
    each(lambda x: correlate(np.pad(x, ((0, 0), (1, 2), (0, 1))), _inner["weight"], (2, 1), (1, 2), 2)
         + _inner["bias"][:, None, None]),
    weights=_inner, units=6, groups=2, **_inner_options,
)  # fmt: skip
# Of few places and many units
_few = {"weight": arr(34, 2, 3, 2), "bias": arr(34)}
case(
    "conv_inner", [(4, 5, 4)],
    each(lambda x: np.maximum(correlate(np.pad(x, ((0, 0), (1, 2), (0, 1))), _few["weight"], (2, 1), (1, 2), 2)
                              + _few["bias"][:, None, None], 0)),
    weights=_few, units=34, groups=2, activation="relu", **_inner_options,
)  # fmt: skip
_back = {"weight": arr(4, 3, 3), "bias": arr(6)}
case(
    "conv_transpose_inner", [(4, 5)],
    each(lambda x: np.pad(scatter(x, _back["weight"], (2,), (1,), 2), ((0, 0), (0, 1)))[:, 1:-1]
         + _back["bias"][:, None]),
    weights=_back, units=6, groups=2, extra=(1,), **kernel((3,), strides=(2,), pads=(1, 1)),
)  # fmt: skip


def pool_inner(x: Array, empty: float, function: Callable[[Array], Array]) -> Array:
    padded = np.pad(x, ((0, 0), (1, 1)), constant_values=empty)
    return np.array([[function(row[s : s + 3]) for s in range(0, len(row) - 2, 2)] for row in padded])


_pool = kernel((3,), strides=(2,), pads=(1, 1))
case("pool_inner", [(2, 7)], each(lambda x: pool_inner(x, -np.inf, np.max)), kind="max", **_pool)
case("pool_inner", [(2, 7)], each(lambda x: pool_inner(x, np.nan, np.nanmean)), kind="average", **_pool)

# Over a window of frames, and over the whole sequence


def pool(x: Array, width: int, stride: int, left: int, right: int, empty: float, function: Any) -> Array:
    padded = np.pad(x, ((left, right), (0, 0)), constant_values=empty)
    return stacked([function(padded[t : t + width], axis=0) for t in range(0, len(padded) - width + 1, stride)], 4)


case("pool", [(4,)], lambda x: pool(x, 3, 2, 1, 1, -np.inf, np.max), kind="max", width=3, stride=2, left=1, right=1)
case("pool", [(4,)], lambda x: pool(x, 3, 1, 1, 1, np.nan, np.nanmean), kind="average", width=3, left=1, right=1)
case(
    "pool", [(4,)], lambda x: pool(x, 2, 2, 1, 0, 0.0, np.mean),
    kind="average", width=2, stride=2, left=1, count_padding=True,
)  # fmt: skip
case("pool", [(4,)], lambda x: x, kind="max", width=1)
case("pool", [(4,)], lambda x: x, kind="average", width=1)

for _kind, _pooled in {
    "max": lambda x: x.max(axis=0), "mean": lambda x: x.mean(axis=0), "sum": lambda x: x.sum(axis=0),
    "last": lambda x: x[-1],
}.items():  # fmt: skip
    case("pool_whole", [(4,)], lambda x, f=_pooled: f(x) if len(x) else np.zeros(4), kind=_kind, whole=True)
    case(
        "pool_whole", [(2, 3)], lambda x, m, f=_pooled: f(x[m]) if m.any() else np.zeros((2, 3)),
        kind=_kind, mask=True, whole=True,
    )  # fmt: skip

# Masks
built("mask_of", [(4,)], lambda x: x, lambda g, x: g.apply_mask(x, g.mask_of(x)))
case("apply_mask", [(4,)], lambda x, m: x * m[:, None], mask=True)
built(
    "mask_and", [(4,)], lambda x, m: x * m[:, None],
    lambda g, x, m: g.apply_mask(x, g.mask_and(m, g.mask_of(x))), mask=True,
)  # fmt: skip

# Activations with parameters
for _name, _parameters, _function in (
    ("leaky_relu", (0.2,), lambda x: np.where(x > 0, x, 0.2 * x)),
    ("elu_alpha", (0.7,), lambda x: np.where(x > 0, x, 0.7 * (np.exp(x) - 1))),
    ("celu", (0.7,), lambda x: np.where(x > 0, x, 0.7 * (np.exp(x / 0.7) - 1))),
    ("hard_shrink", (0.4,), lambda x: x * (np.abs(x) > 0.4)),
    ("soft_shrink", (0.4,), lambda x: x - np.clip(x, -0.4, 0.4)),
    ("softplus_beta", (2.0,), lambda x: np.log(1 + np.exp(2 * x)) / 2),
    ("threshold", (0.1, -3.0), lambda x: np.where(x > 0.1, x, -3.0)),
    ("thresholded_relu", (0.3,), lambda x: x * (x > 0.3)),
    ("affine", (2.0, 0.5), lambda x: 2 * x + 0.5),
    ("scaled_tanh", (1.7, 0.6), lambda x: 1.7 * np.tanh(0.6 * x)),
    ("hard_sigmoid_line", (0.3, 0.4), lambda x: np.minimum(1, np.maximum(0, 0.3 * x + 0.4))),
):
    _given: dict[str, Any] = dict(zip(("alpha", "beta"), _parameters, strict=False))
    case("activation", [(3, 4)], _function, activation=_name, **_given)
case("activation", [(3, 4)], each(lambda x: soft(x, 1)), activation="softmax")

# Over the whole sequence, or groups of channels
for _kind, _pooled in {
    "min": lambda x: x.min(axis=0), "first": lambda x: x[0], "variance": lambda x: x.var(axis=0),
}.items():  # fmt: skip
    case("pool_whole", [(4,)], lambda x, f=_pooled: f(x) if len(x) else np.zeros(4), kind=_kind, whole=True)
    case(
        "pool_whole", [(4,)], lambda x, m, f=_pooled: f(x[m]) if m.any() else np.zeros(4),
        kind=_kind, mask=True, whole=True,
    )  # fmt: skip
case(
    "pool_whole", [(4,)], lambda x: x.var(axis=0, ddof=1) if len(x) > 1 else np.zeros(4),
    kind="variance", correction=1, whole=True,
)  # fmt: skip
case("softmax_time", [(4,)], lambda x: soft(x, 0), whole=True)
case("softmax_time", [(2, 3)], lambda x, m: np.exp(x) * m[:, None, None] / (
    (np.exp(x) * m[:, None, None]).sum(axis=0) + (not m.any())), mask=True, whole=True)  # fmt: skip
case("reverse_time", [(4,)], lambda x: x[::-1], whole=True)
for _mode in ("edge", "wrap"):
    case(
        "pad_time", [(4,)], lambda x, m=_mode: np.pad(x, ((1, 0), (0, 0)), mode=m) if len(x) else x,
        left=1, mode=_mode, whole=True,
    )  # fmt: skip


def group_norm(x: Array, groups: int, seen: Array | None = None) -> Array:
    """One mean and variance a group over all that is given: (n, C, *S)."""
    y = np.zeros(x.shape)
    size = x.shape[1] // groups
    for g in range(groups):
        part = x[:, g * size : (g + 1) * size]
        counted = part if seen is None else part[seen]
        mean, variance = (counted.mean(), counted.var()) if counted.size else (0.0, 0.0)
        y[:, g * size : (g + 1) * size] = (part - mean) / np.sqrt(variance + 1e-3)
    behind = (-1, *[1] * (x.ndim - 2))
    return y * _group["weight"].reshape(behind) + _group["bias"].reshape(behind)


_group = {"weight": arr(6), "bias": arr(6)}
_group_options: dict[str, Any] = {"weights": _group, "epsilon": 1e-3}
for _groups in (1, 2, 6):
    case("group_norm", [(6, 3)], lambda x, n=_groups: np.concatenate([group_norm(f[None], n) for f in x])
         if len(x) else x, groups=_groups, over_time=False, **_group_options)  # fmt: skip
    case("group_norm", [(6,)], lambda x, n=_groups: group_norm(x, n), groups=_groups, over_time=True, whole=True,
         **_group_options)  # fmt: skip
case("group_norm", [(6, 2)], lambda x, m: group_norm(x, 3, m), groups=3, over_time=True, mask=True, whole=True,
     **_group_options)  # fmt: skip

# Convolutions over frames and inner axes
_plane = {"weight": arr(6, 2, 3, 2), "bias": arr(6)}


def conv2d(x: Array, stride: int, dilation: int, left: int, right: int) -> Array:
    """Time as one more axis of the image, behind its channels."""
    padded = np.pad(x, ((left, right), (0, 0), (1, 2))).transpose(1, 0, 2)
    if padded.shape[1] < 2 * dilation + 1:
        return np.zeros((0, 6, 3))
    y = correlate(padded, _plane["weight"], (stride, 2), (dilation, 2), 2)
    return np.tanh(y + _plane["bias"][:, None, None]).transpose(1, 0, 2)


for _timing in ((1, 1, 2, 0), (1, 1, 1, 1), (2, 1, 1, 0), (1, 2, 4, 0), (3, 2, 0, 2)):
    _stride, _dilation, _left, _right = _timing
    case(
        "conv2d", [(4, 5)], lambda x, t=_timing: conv2d(x, *t) if len(x) else np.zeros((0, 6, 3)), weights=_plane,
        units=6, width=3, groups=2, stride=_stride, dilation=_dilation, left=_left, right=_right, activation="tanh",
        kernel=(2,), strides=(2,), dilations=(2,), pads=(1, 2),
    )  # fmt: skip
_wide = arr(3, 4, 1, 3)
case(
    "conv2d", [(4, 5)], each(lambda x: correlate(x, _wide[:, :, 0], (1,), (1,))), weights={"weight": _wide},
    units=3, width=1, kernel=(3,),
)  # fmt: skip

_up = {"weight": arr(4, 3, 4), "bias": arr(6)}


def conv_transpose(x: Array, stride: int, dilation: int, frames: int) -> Array:
    y = scatter(x.T, _up["weight"], (stride,), (dilation,), 2)
    y = np.pad(y, ((0, 0), (0, max(0, frames - y.shape[1]))))[:, :frames] + _up["bias"][:, None]
    return y.T


for _stride, _dilation, _right in ((2, 1, 0), (2, 1, 1), (3, 1, 1), (1, 2, 3), (5, 1, 0)):
    case(
        "conv_transpose", [(4,)],
        lambda x, s=_stride, d=_dilation, r=_right: conv_transpose(x, s, d, s * (len(x) + r)) if len(x)
        else np.zeros((0, 6)),
        weights=_up, units=6, width=4, groups=2, stride=_stride, dilation=_dilation, right=_right,
    )  # fmt: skip
_few_plane = {"weight": arr(18, 2, 3, 2), "bias": arr(18)}
case(
    "conv2d", [(2, 4)],
    lambda x: correlate(np.pad(x, ((4, 0), (0, 0), (1, 0))).transpose(1, 0, 2), _few_plane["weight"], (1, 2), (2, 1))
    .transpose(1, 0, 2) + _few_plane["bias"][:, None] if len(x) else np.zeros((0, 18, 2)),
    weights=_few_plane, units=18, width=3, groups=1, dilation=2, left=4, **kernel((2,), strides=(2,), pads=(1, 0)),
)  # fmt: skip
_up_plane = {"weight": arr(4, 3, 3, 2), "bias": arr(3)}


def conv_transpose2d(x: Array) -> Array:
    y = scatter(x.transpose(1, 0, 2), _up_plane["weight"], (2, 2), (1, 1))
    return (y[:, : 2 * len(x), 1:] + _up_plane["bias"][:, None, None]).transpose(1, 0, 2)


case(
    "conv_transpose", [(4, 5)], lambda x: conv_transpose2d(x) if len(x) else np.zeros((0, 3, 9)), weights=_up_plane,
    units=3, width=3, stride=2, kernel=(2,), strides=(2,), pads=(1, 0),
)  # fmt: skip


# Attention, and what depends on the length of a sequence
def _attended(q: Array, k: Array, v: Array, mask: Array | None = None, causal: bool = False) -> Array:
    rows = []
    for t, one in enumerate(q):
        shown = [s for s in range(len(k)) if (mask is None or mask[s]) and (not causal or s <= t)]
        weights = [np.exp(0.7 * (one * k[s]).sum()) for s in shown]
        rows.append(sum((w * v[s] for w, s in zip(weights, shown, strict=True)), np.zeros(v.shape[1])))
        rows[-1] /= sum(weights) or 1.0
    return stacked(rows, v.shape[1])


case("attend", [(4,), (4,), (3,)], _attended, factor=0.7, whole=True)
case("attend", [(4,), (4,), (3,)], lambda q, k, v: _attended(q, k, v, causal=True), factor=0.7, causal=True, whole=True)
case("attend", [(4,), (4,), (3,)], _attended, factor=0.7, mask=True, whole=True)
_INNER, _OUTER = arr(4), arr(4)
case(
    "attend", [(4,), (4,), (3,)],
    lambda q, k, v: stacked([
        soft(np.array([(_OUTER * np.tanh(_INNER * (one + other))).sum() for other in k]), 0) @ v for one in q
    ], 3),
    kind="additive", weights={"inner": _INNER, "outer": _OUTER}, whole=True,
)  # fmt: skip
_MEMORY = [(4,), Given((4,), memory=True), Given((3,), memory=True)]
case("attend", _MEMORY, _attended, factor=0.7, memory=True)
case(
    "attend", _MEMORY,
    lambda q, k, v: stacked([
        soft(np.array([(_OUTER * np.tanh(_INNER * (one + other))).sum() for other in k]), 0) @ v for one in q
    ], 3),
    kind="additive", weights={"inner": _INNER, "outer": _OUTER}, memory=True,
)  # fmt: skip
case(
    "attend_weights", _MEMORY[:2],
    lambda q, k: stacked([np.append(soft(0.7 * k @ one, 0), [0.0, 0.0]) for one in q], 7), factor=0.7, limit=7,
)  # fmt: skip
built(
    "fold_time", [(4,)], lambda x: x[:1].reshape(1, 4) if len(x) else np.zeros((1, 4)),
    lambda g, x: g.fold_time(g.pool(x, kind="max", width=1, stride=99), frames=1), whole=True,
)  # fmt: skip
built(
    "fold_time", [(4,)], lambda x: np.concatenate([np.zeros((1, 4)), x])[-2:] if len(x) else np.zeros((2, 4)),
    lambda g, x: g.fold_time(g.pad_time(x, left=1), frames=2, last=True), whole=True,
)  # fmt: skip
_places = arr(40, 3)
case("positions", [(4,)], lambda x: _places[: len(x)], weights={"table": _places}, limit=40, features=(3,))


def _same(x: Array, span: int, stride: int, value: float) -> Array:
    """TensorFlow's padding, window by window: the last one begins at the last multiple of the stride."""
    if not len(x):
        return x
    last = (len(x) - 1) // stride * stride
    missing = max(last + span - len(x), 0)
    padded = [np.full(x.shape[1:], value)] * (missing // 2) + list(x) + [np.full(x.shape[1:], value)] * missing
    return np.array(padded[: last + span])


for _span, _stride in ((3, 2), (5, 3), (2, 3), (1, 2)):
    case("pad_same", [(4,)], lambda x, s=_span, t=_stride: _same(x, s, t, -0.5), span=_span, stride=_stride,
         value=-0.5, whole=True)  # fmt: skip
