"""ATen operators that take many numbers to one: means, sums and extremes over time or features, softmax, pooling."""

from __future__ import annotations

from dataclasses import replace
from math import prod
from typing import Any

import numpy as np

from ....errors import UnsupportedError
from .lengths import check_passed_over
from .lowering import Lowering, handles
from .pointwise import activated, binary, unary
from .program import Call
from .scores import softmax
from .values import B, Known, Lengths, Misread, Scores, States, T, Tensor, Within

_POOLED = {"mean": "mean", "sum": "sum", "amax": "max", "amin": "min", "max": "max", "min": "min"}


def reduced(lo: Lowering, x: Tensor, kind: str, dims: list[int], keep: bool) -> Tensor:
    """``kind`` over torch axes ``dims``: of time by pooling the whole sequence, of features in each frame."""
    rank = len(x.axes)
    dims = sorted({dim % rank for dim in dims}) if dims else list(range(rank))
    x = lo.natural(x)
    if any(axis in (B, "BT", "TB") for axis in (x.axes[dim] for dim in dims)):
        raise Misread(f"a {kind} over rows")
    name = x.name
    inner = tuple(axis for dim in dims if isinstance(axis := x.axes[dim], int))
    if inner:
        name = lo.emit("reduce", name, kind=kind, axes=inner)
    if any(x.axes[dim] == T for dim in dims):
        if inner and x.behind == 0 and kind == "sum":
            x = replace(x, name=name).followed_by(0.0)
        check_passed_over(lo, x, kind)
        name = lo.emit("pool_whole", name, kind=kind)
    axes = tuple(None if p in dims else axis for p, axis in enumerate(x.axes))
    if not keep:
        axes = tuple(axis for p, axis in enumerate(axes) if p not in dims)
    return replace(x, name=name, axes=axes)


def _dims(lo: Lowering, call: Call) -> list[int]:
    dims = lo.arg(call, 1, "dim", None)
    return [] if dims is None else [dims] if isinstance(dims, int) else list(dims)


@handles("mean", "sum", "amax", "amin")
def _reduce(lo: Lowering, call: Call) -> Any:
    mask = lo.arg(call, 0, "self")
    if isinstance(mask, Within):  # its frames counted
        dims = _dims(lo, call)
        if call.base == "sum" and not mask.negated and [mask.axes[dim] for dim in dims] == [T]:
            return Lengths()
        raise UnsupportedError(f"a {call.base} of a mask of frames")
    return reduced(lo, lo.tensor(call), _POOLED[call.base], _dims(lo, call), lo.arg(call, 2, "keepdim", False))


@handles("max", "min")
def _extreme(lo: Lowering, call: Call) -> Any:
    """torch.max of two tensors, or values and places along an axis, of which cgru gives the values."""
    if len(call.args) > 1 and isinstance(lo._resolved(call.args[1]), (Tensor, Known, States)):
        op = "maximum" if call.base == "max" else "minimum"
        return binary(lo, op, lo.arg(call, 0, "self"), lo.arg(call, 1, "other"))
    return [reduced(lo, lo.tensor(call), call.base, _dims(lo, call), lo.arg(call, 2, "keepdim", False))]


@handles("var", "std", "var_mean", "std_mean")
def _spread(lo: Lowering, call: Call) -> Any:
    """mean((x − mean)²) · n / (n − correction) over features; over time where nothing is corrected."""
    x, dims = lo.tensor(call), _dims(lo, call)
    correction = lo.arg(call, 2, "correction" if "correction" in call.kwargs else "unbiased", 1)
    correction = 1 if correction is None else int(correction)
    keep = lo.arg(call, 3 if call.op.endswith(".dim") else 9, "keepdim", False)
    rank = len(x.axes)
    places = [dim % rank for dim in dims] or list(range(rank))
    timed = [x.axes[dim] == T for dim in places]
    if any(timed):
        if len(places) != 1:
            raise UnsupportedError("a variance over time and features together")
        check_passed_over(lo, x, "variance")
        natural = lo.natural(x)
        name = lo.emit("pool_whole", natural.name, kind="variance", correction=correction)
        axes = tuple(None if p in places else axis for p, axis in enumerate(natural.axes))
        made = replace(natural, name=name, axes=axes)
    else:
        mean = reduced(lo, x, "mean", dims, True)
        apart = binary(lo, "sub", x, mean)
        square = replace(apart, name=lo.emit("mul", apart.name, apart.name))
        made = reduced(lo, square, "mean", dims, True)
        count = 1
        for dim in places:
            axis = x.axes[dim]
            count *= lo.features(x)[axis] if isinstance(axis, int) else 1
        if correction:
            made = binary(lo, "mul", made, count / (count - correction))
    if call.base.startswith("std"):
        made = unary(lo, made, "sqrt")
    if not keep:
        made = replace(made, axes=tuple(axis for p, axis in enumerate(made.axes) if p not in places))
    return [made, reduced(lo, x, "mean", dims, keep)] if call.base.endswith("_mean") else made


@handles("linalg_vector_norm", "norm")
def _norm(lo: Lowering, call: Call) -> Tensor:
    if call.base == "norm":
        order, dims, keep = lo.arg(call, 1, "p", 2), lo.arg(call, 2, "dim", None), lo.arg(call, 3, "keepdim", False)
    else:
        order, dims, keep = lo.arg(call, 1, "ord", 2), lo.arg(call, 2, "dim", None), lo.arg(call, 3, "keepdim", False)
    dims = [] if dims is None else [dims] if isinstance(dims, int) else list(dims)
    x = lo.tensor(call)
    if order == 1:
        return reduced(lo, unary(lo, x, "abs"), "sum", dims, keep)
    if order != 2:
        raise UnsupportedError(f"a norm of order {order}")
    square = replace(x, name=lo.emit("mul", x.name, x.name))
    return unary(lo, reduced(lo, square, "sum", dims, keep), "sqrt")


@handles("cosine_similarity")
def _cosine(lo: Lowering, call: Call) -> Tensor:
    """a / max(‖a‖, ε) · b / max(‖b‖, ε), summed along an axis."""
    dim, epsilon = lo.arg(call, 2, "dim", 1), lo.arg(call, 3, "eps", 1e-8)
    unit = []
    for i, name in enumerate(("x1", "x2")):
        x = lo.tensor(call, i, name)
        square = replace(x, name=lo.emit("mul", x.name, x.name))
        norm = unary(lo, reduced(lo, square, "sum", [dim], True), "sqrt")
        norm = replace(norm, name=lo.emit("clip", norm.name, low=float(epsilon)))
        unit.append(binary(lo, "div", x, norm))
    both = binary(lo, "mul", *unit)
    return reduced(lo, both, "sum", [dim], False)


@handles("pairwise_distance")
def _distance(lo: Lowering, call: Call) -> Tensor:
    """‖a − b + ε‖ of the last axis."""
    order, epsilon, keep = (lo.arg(call, i, n, d) for i, n, d in ((2, "p", 2), (3, "eps", 1e-6), (4, "keepdim", False)))
    if order != 2:
        raise UnsupportedError(f"a norm of order {order}")
    apart = binary(lo, "add", binary(lo, "sub", lo.tensor(call, 0, "x1"), lo.tensor(call, 1, "x2")), epsilon)
    square = replace(apart, name=lo.emit("mul", apart.name, apart.name))
    return unary(lo, reduced(lo, square, "sum", [-1], keep), "sqrt")


@handles("cumsum")
def _cumsum(lo: Lowering, call: Call) -> Tensor:
    """Sums so far: over time a recurrence whose matrices are the identity, over features a product."""
    x = lo.natural(lo.tensor(call))
    dim = lo.arg(call, 1, "dim") % len(x.axes)
    if x.axes[dim] == T:
        shape = lo.features(x)
        size = prod(shape)
        one = np.eye(size, dtype=np.float32)
        flat = x.name if shape == (size,) else lo.emit("reshape", x.name, features=(size,))
        arrays = {"weight_ih": one, "weight_hh": one}
        name = lo.emit("scan", flat, weights=arrays, cell="rnn", units=size, activation="linear")
        return replace(x, name=name if shape == (size,) else lo.emit("reshape", name, features=shape))
    if x.axes[dim] != len(lo.features(x)) - 1:
        raise Misread("sums so far along an axis that is neither time nor the last of features")
    size = lo.features(x)[-1]
    weight = np.tril(np.ones((size, size), np.float32))
    return replace(x, name=lo.emit("dense", x.name, weights={"weight": weight}, units=size))


@handles("prod")
def _product(lo: Lowering, call: Call) -> Tensor:
    x, dims = lo.tensor(call), _dims(lo, call)
    if any(x.axes[dim] == T for dim in dims) or not dims:
        raise UnsupportedError("a product over time")
    return reduced(lo, x, "prod", dims, lo.arg(call, 2, "keepdim", False))


@handles("logsumexp")
def _logsumexp(lo: Lowering, call: Call) -> Tensor:
    x, dims = lo.tensor(call), _dims(lo, call)
    if any(x.axes[dim] == T for dim in dims):
        raise UnsupportedError("logsumexp over time")
    return reduced(lo, x, "log_sum_exp", dims, lo.arg(call, 2, "keepdim", False))


@handles("softmax", "_softmax", "log_softmax", "_log_softmax", frames=True)
def _softmax(lo: Lowering, call: Call) -> Any:
    x = lo.arg(call, 0, "self")
    x = x if isinstance(x, Scores) else lo.tensor(call)
    return softmax_of(lo, x, lo.arg(call, 1, "dim"), log="log" in call.base)


def softmax_of(lo: Lowering, x: Any, dim: int, *, log: bool) -> Any:
    if isinstance(x, Scores):
        if log:
            raise UnsupportedError("log_softmax of scores of every frame with every other")
        return softmax(x, dim)
    dim %= len(x.axes)
    axis = x.axes[dim]
    if axis == T:
        check_passed_over(lo, x, "softmax")
        made = replace(x, name=lo.emit("softmax_time", x.name)).followed_by(0.0)
        return unary(lo, made, "log") if log else made
    if not isinstance(axis, int):
        raise Misread("a softmax over rows")
    if not log and len(lo.features(x)) == 1:
        return activated(lo, x, "softmax")
    return replace(x, name=lo.emit("softmax", x.name, axes=(axis,), log=log))
