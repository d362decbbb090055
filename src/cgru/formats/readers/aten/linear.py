"""ATen operators with weights, recurrent ones apart: products, convolutions over time, normalisations, embeddings."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from ....errors import UnsupportedError
from ....layers import Dense, Embedding
from .convolution import title_of
from .lengths import check_passed_over
from .lowering import Lowering, handles
from .pointwise import binary
from .program import Call
from .scores import arithmetic, scores, weighted
from .values import Axis, B, Heads, Known, Misread, Scores, States, T, Tensor


def _title(call: Call) -> str | None:
    """What a layer made of a call is named after: the module's path."""
    return call.module or None


@handles("linear", frames=True)
def _linear(lo: Lowering, call: Call) -> Tensor:
    x = lo.tensor(call, 0, "input")
    return dense(lo, call, x, lo.known(call, 1, "weight"), lo.known(call, 2, "bias", None))


def dense(lo: Lowering, call: Call, x: Tensor, weight: np.ndarray, bias: np.ndarray | None) -> Tensor:
    if not isinstance(x.axes[-1], int):
        raise Misread("a product along an axis that is not of features")
    if weight.ndim == 1:
        made = dense(lo, call, x, weight[None], bias)
        return replace(made, axes=made.axes[:-1])
    x = lo.natural(x)
    weight, bias = _own(weight), None if bias is None else _own(bias)
    if len(lo.features(x)) == 1:
        return replace(x, name=lo.layer(Dense(weight, bias, name=_title(call)), x.name))
    arrays = {"weight": weight} | ({} if bias is None else {"bias": bias})
    return replace(x, name=lo.emit("dense", x.name, weights=arrays, units=weight.shape[0]))


def _own(array: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(array, np.float32)


@handles("bilinear", frames=True)
def _bilinear(lo: Lowering, call: Call) -> Tensor:
    """y_k = a · W_k b + bias_k: products of every pair of features, then a matrix."""
    a, b = (lo.natural(lo.tensor(call, i, name)) for i, name in enumerate(("input1", "input2")))
    weight, bias = lo.known(call, 2, "weight"), lo.known(call, 3, "bias", None)
    pairs = binary(lo, "mul", replace(a, axes=(*a.axes, None)), replace(b, axes=(*b.axes[:-1], None, b.axes[-1])))
    flat = lo.emit("reshape", lo.natural(pairs).name, features=(weight.shape[1] * weight.shape[2],))
    x = Tensor(flat, (*pairs.axes[:-2], 0), at=pairs.at)
    return dense(lo, call, x, weight.reshape(len(weight), -1), bias)


@handles("baddbmm", frames=True)
def _baddbmm(lo: Lowering, call: Call) -> Any:
    beta, alpha = lo.arg(call, 3, "beta", 1), lo.arg(call, 4, "alpha", 1)
    made: Any = product(lo, lo.arg(call, 1, "batch1"), lo.arg(call, 2, "batch2"))
    base = lo.arg(call, 0, "self")
    if isinstance(made, Scores):
        made = made if alpha == 1 else arithmetic("mul", made, alpha)
        made = replace(made, shape=call.shape or ())
        return made if beta == 0 else arithmetic("add", made, base)
    made = made if alpha == 1 else binary(lo, "mul", made, alpha)
    return made if beta == 0 else binary(lo, "add", base if beta == 1 else binary(lo, "mul", base, beta), made)


@handles("matmul", "mm", "bmm", "mv", frames=True)
def _matmul(lo: Lowering, call: Call) -> Any:
    a, b = lo.arg(call, 0, "self"), lo.arg(call, 1, "mat2" if call.base in ("mm", "bmm") else "other")
    a, b = (lo.stacked(v) if isinstance(v, States) else v for v in (a, b))
    if isinstance(a, Scores):
        return weighted(lo, a, b)
    if isinstance(a, Heads) and isinstance(b, Heads):
        return product(lo, a, b)
    if isinstance(b, Known) and b.array.ndim <= 2:
        return dense(lo, call, a, b.array.T if b.array.ndim == 2 else b.array, None)
    if isinstance(a, Known) or isinstance(b, Known):
        raise UnsupportedError("a product with a constant from the left, or with a batch of them")
    return product(lo, a, b)


@handles("addmm", frames=True)
def _addmm(lo: Lowering, call: Call) -> Tensor:
    bias, x, weight = lo.known(call, 0, "self"), lo.tensor(call, 1, "mat1"), lo.known(call, 2, "mat2")
    if lo.arg(call, 3, "beta", 1) != 1 or lo.arg(call, 4, "alpha", 1) != 1:
        raise UnsupportedError("addmm with factors")
    return dense(lo, call, x, weight.T, bias)


def product(lo: Lowering, a: Any, b: Any) -> Any:
    """Products of the last two axes, which may sum over time: attention pooling written with bmm."""
    if isinstance(a, Scores):
        return weighted(lo, a, b)
    if isinstance(a, Heads) or isinstance(b, Heads):
        return scores(lo, a, b)
    if len(a.axes) < 2 or len(b.axes) < 2:
        raise UnsupportedError("a product of a vector with something computed")
    left, inner, other, right = a.axes[-2], a.axes[-1], b.axes[-2], b.axes[-1]
    spread_a = replace(a, axes=(*a.axes[:-1], inner, None))
    spread_b = replace(b, axes=(*b.axes[:-2], None, other, right))
    if T in (inner, other) or (T in (left, right)):
        if T in (inner, other) and inner != other:
            raise Misread("a product along time of something without time")
        if left == T and right == T:
            return scores(lo, a, b)
        both = binary(lo, "mul", spread_a, spread_b)
        return summed(lo, both, len(both.axes) - 2)
    both_features = all(isinstance(axis, int) or axis is None for axis in (left, inner, other, right))
    if not both_features:
        raise Misread("a product along rows")
    positions_a = sorted({*a.feature_positions, len(a.axes) - 2, len(a.axes) - 1})
    positions_b = sorted({*b.feature_positions, len(b.axes) - 2, len(b.axes) - 1})
    made = lo.emit("matmul", lo.arranged(a, positions_a), lo.arranged(b, positions_b))
    rank = max(len(a.axes), len(b.axes))
    axes: list[Axis] = []
    for p in range(rank - 2):
        found = [v.axes[p - rank] for v in (a, b) if rank - p <= len(v.axes)]
        kinds = {0 if isinstance(axis, int) else axis for axis in found} - {None}
        if len(kinds) > 1:
            raise Misread("a product whose rows and frames disagree")
        axes.append(next(iter(kinds), None))
    axes += [0, 0]
    numbers = iter(range(rank))
    return Tensor(made, tuple(next(numbers) if axis == 0 and isinstance(axis, int) else axis for axis in axes))


def summed(lo: Lowering, x: Tensor, dim: int) -> Tensor:
    """The sum along one axis, which goes."""
    axis = x.axes[dim]
    rest = (*x.axes[:dim], *x.axes[dim + 1 :])
    if axis == T:
        check_passed_over(lo, x, "sum")
        return replace(x, name=lo.emit("pool_whole", x.name, kind="sum"), axes=rest)
    if isinstance(axis, int):
        return replace(x, name=lo.emit("reduce", x.name, kind="sum", axes=(axis,)), axes=rest)
    if axis is None:
        return replace(x, axes=rest)
    raise Misread("a sum over rows")


@handles("embedding", frames=True)
def _embedding(lo: Lowering, call: Call) -> Tensor:
    weight, ids = lo.known(call, 0, "weight"), lo.tensor(call, 1, "indices")
    if lo.g.values[ids.name].dtype != "int64":
        raise Misread("an embedding of numbers that are not whole")
    shape = lo.features(ids)
    if not shape:
        return replace(ids, name=lo.layer(Embedding(_own(weight), name=_title(call)), ids.name), axes=(*ids.axes, 0))
    arrays = {"weight": _own(weight)}
    name = lo.emit(
        "embedding", ids.name, weights=arrays, name=title_of(lo, call), vocabulary=weight.shape[0],
        units=weight.shape[1], column=ids.column,
    )  # fmt: skip
    return replace(ids, name=name, axes=(*ids.axes, len(lo.features(name)) - 1), column=-1)


# ---- normalisations -----------------------------------------------------------------------------------------


@handles("batch_norm", "_native_batch_norm_legit_no_training", "cudnn_batch_norm")
def _batch_norm(lo: Lowering, call: Call) -> Tensor:
    """γ (x − μ) / √(σ² + ε) + β with trained statistics: a scale and a shift a channel."""
    x = lo.tensor(call, 0, "input")
    names = ((1, "weight"), (2, "bias"), (3, "running_mean"), (4, "running_var"))
    gamma, beta, mean, variance = (lo.known(call, i, name, None) for i, name in names)
    legit = call.base.startswith("_native")
    if mean is None or variance is None or (not legit and lo.arg(call, 5, "training", False)):
        raise UnsupportedError("batch normalisation without trained statistics: rows would depend on each other")
    epsilon = lo.arg(call, 6 if legit else 7, "eps", 1e-5)
    scale = 1.0 / np.sqrt(variance.astype(np.float64) + epsilon)
    scale = scale if gamma is None else scale * gamma
    shift = -mean.astype(np.float64) * scale + (0.0 if beta is None else beta)
    if len(x.axes) < 2 or not isinstance(x.axes[1], int):
        raise Misread("batch normalisation takes the channels second, and that axis is another")
    x = lo.natural(x)
    axis = x.axes[1]
    arrays = {"scale": scale.astype(np.float32), "shift": shift.astype(np.float32)}
    return replace(x, name=lo.emit("scale_shift", x.name, weights=arrays, name=title_of(lo, call), axis=axis))


@handles("layer_norm", "rms_norm", "native_layer_norm", frames=True)
def _layer_norm(lo: Lowering, call: Call) -> Any:
    x, count = lo.natural(lo.tensor(call, 0, "input")), len(lo.arg(call, 1, "normalized_shape"))
    rms = call.base == "rms_norm"
    weight = lo.known(call, 2, "weight", None)
    bias = None if rms else lo.known(call, 3, "bias", None)
    epsilon = lo.arg(call, 3 if rms else 4, "eps", None if rms else 1e-5)
    epsilon = float(np.finfo(np.float32).eps) if epsilon is None else epsilon
    if any(not isinstance(axis, int) for axis in x.axes[-count:]):
        raise Misread("layer normalisation over an axis that is not of features")
    arrays = {key: _own(a) for key, a in (("weight", weight), ("bias", bias)) if a is not None}
    name = lo.emit(
        "layer_norm",
        x.name,
        weights=arrays,
        name=title_of(lo, call),
        axes=count,
        epsilon=epsilon,
        subtract_mean=not rms,
    )
    return replace(x, name=name) if call.base != "native_layer_norm" else [replace(x, name=name)]


@handles("group_norm", "instance_norm")
def _group_norm(lo: Lowering, call: Call) -> Tensor:
    x = lo.natural(lo.tensor(call, 0, "input"))
    if len(x.axes) < 2 or not isinstance(x.axes[1], int) or x.axes[0] not in (B, None, "BT", "TB"):
        raise Misread("it takes rows first and channels second, and the axes are others")
    if call.base == "group_norm":
        groups, weight, bias = (
            lo.arg(call, 1, "num_groups"),
            lo.known(call, 2, "weight", None),
            lo.known(call, 3, "bias", None),
        )
        epsilon = lo.arg(call, 4, "eps", 1e-5)
    else:
        groups, weight, bias = lo.features(x)[0], lo.known(call, 1, "weight", None), lo.known(call, 2, "bias", None)
        epsilon = lo.arg(call, 7, "eps", 1e-5)
        if not lo.arg(call, 5, "use_input_stats", True):
            raise UnsupportedError("instance normalisation with statistics of its own")
    arrays = {key: _own(a) for key, a in (("weight", weight), ("bias", bias)) if a is not None}
    if T in x.axes:
        check_passed_over(lo, x, "normalisation")
    name = lo.emit(
        "group_norm", x.name, weights=arrays, name=title_of(lo, call), groups=groups, epsilon=epsilon,
        over_time=T in x.axes,
    )  # fmt: skip
    return replace(x, name=name)
