"""ATen operators that take many numbers to one: means, sums and extremes over time or features, softmax, pooling."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ....errors import UnsupportedError
from .linear import _one
from .lowering import Lowering, handles
from .pointwise import activated, binary, unary
from .program import Call
from .values import B, Misread, T, Tensor

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
        name = lo.emit("pool_whole", name, kind=kind)
    axes = tuple(None if p in dims else axis for p, axis in enumerate(x.axes))
    if not keep:
        axes = tuple(axis for p, axis in enumerate(axes) if p not in dims)
    return replace(x, name=name, axes=axes)


def _dims(lo: Lowering, call: Call) -> list[int]:
    dims = lo.arg(call, 1, "dim", None)
    return [] if dims is None else [dims] if isinstance(dims, int) else list(dims)


@handles("mean", "sum", "amax", "amin")
def _reduce(lo: Lowering, call: Call) -> Tensor:
    return reduced(lo, lo.tensor(call), _POOLED[call.base], _dims(lo, call), lo.arg(call, 2, "keepdim", False))


@handles("max", "min")
def _extreme(lo: Lowering, call: Call) -> Any:
    """torch.max of two tensors, or values and places along an axis, of which cgru gives the values."""
    from .values import Known, States

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
    keep = lo.arg(call, 9, "keepdim", False)
    rank = len(x.axes)
    places = [dim % rank for dim in dims] or list(range(rank))
    timed = [x.axes[dim] == T for dim in places]
    if any(timed):
        if len(places) != 1:
            raise UnsupportedError("a variance over time and features together")
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


@handles("logsumexp")
def _logsumexp(lo: Lowering, call: Call) -> Tensor:
    x, dims = lo.tensor(call), _dims(lo, call)
    if any(x.axes[dim] == T for dim in dims):
        raise UnsupportedError("logsumexp over time")
    return reduced(lo, x, "log_sum_exp", dims, lo.arg(call, 2, "keepdim", False))


@handles("softmax", "_softmax", "log_softmax", "_log_softmax", frames=True)
def _softmax(lo: Lowering, call: Call) -> Tensor:
    x, log = lo.tensor(call), "log" in call.base
    dim = lo.arg(call, 1, "dim") % len(x.axes)
    axis = x.axes[dim]
    if axis == T:
        made = replace(x, name=lo.emit("softmax_time", x.name))
        return unary(lo, made, "log") if log else made
    if not isinstance(axis, int):
        raise Misread("a softmax over rows")
    if not log and len(lo.features(x)) == 1:
        return activated(lo, x, "softmax")
    return replace(x, name=lo.emit("softmax", x.name, axes=(axis,), log=log))


# ---- pooling ------------------------------------------------------------------------------------------------


def _sequence(lo: Lowering, x: Tensor) -> Tensor:
    if len(x.axes) != 3 or x.axes[2] != T or x.axes[0] not in (B, None):
        raise Misread("pooling takes (rows, channels, frames), and the axes are others")
    lo.evident = True
    return x


@handles("max_pool1d", "avg_pool1d", "max_pool1d_with_indices")
def _pool(lo: Lowering, call: Call) -> Any:
    x = _sequence(lo, lo.tensor(call))
    width = _one(lo.arg(call, 1, "kernel_size"))
    stride, padding = _one(lo.arg(call, 2, "stride", None) or width), _one(lo.arg(call, 3, "padding", 0))
    options: dict[str, Any] = {"width": width, "stride": stride, "left": padding, "right": padding}
    if call.base.startswith("max"):
        if _one(lo.arg(call, 4, "dilation", 1)) != 1:
            raise UnsupportedError("pooling with dilation")
        options["kind"] = "max"
    else:
        options.update(kind="average", count_padding=lo.arg(call, 5, "count_include_pad", True))
    if lo.arg(call, 5 if call.base.startswith("max") else 4, "ceil_mode", False):
        raise UnsupportedError("pooling with ceil_mode")
    made = replace(x, name=lo.emit("pool", x.name, **options))
    return [made] if call.base.endswith("indices") else made


@handles("adaptive_avg_pool1d", "adaptive_max_pool1d")
def _adaptive(lo: Lowering, call: Call) -> Any:
    x = _sequence(lo, lo.tensor(call))
    if _one(lo.arg(call, 1, "output_size")) != 1:
        raise UnsupportedError("adaptive pooling to more than one frame")
    made = reduced(lo, x, "mean" if "avg" in call.base else "max", [2], True)
    return made if "avg" in call.base else [made]


@handles("upsample_nearest1d")
def _upsample(lo: Lowering, call: Call) -> Tensor:
    x = _sequence(lo, lo.tensor(call, 0, "input"))
    size, scales = lo.arg(call, 1, "output_size", None), lo.arg(call, 2, "scale_factors", None)
    scale = scales[0] if isinstance(scales, list) else scales
    if size is not None or scale is None or scale != int(scale) or scale < 2:
        raise UnsupportedError("upsampling by something else than a whole factor")
    return replace(x, name=lo.emit("upsample", x.name, factor=int(scale)))
