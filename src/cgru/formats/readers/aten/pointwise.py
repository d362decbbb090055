"""ATen operators on each number by itself: activations, arithmetic with torch's broadcasting, comparisons, choices."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ....errors import UnsupportedError
from ....layers import Activation
from .counted import of_ids
from .lengths import combined, compared, filled
from .lowering import Lowering, handles
from .positions import positioned
from .program import Call
from .scores import arithmetic, masked
from .values import Axis, Heads, Known, Lengths, Misread, Scores, States, Tensor, Within, constant_along

#: Operators that are one of cgru's activations under torch's defaults.
ACTIVATIONS = {
    "relu": "relu", "relu_": "relu", "sigmoid": "sigmoid", "tanh": "tanh", "hardsigmoid": "hard_sigmoid",
    "softsign": "softsign", "silu": "silu", "mish": "mish", "selu": "selu", "hardswish": "hard_swish",
    "relu6": "relu6", "log_sigmoid": "log_sigmoid", "sigmoid_": "sigmoid", "tanh_": "tanh",
}  # fmt: skip

_UNARY = {
    "abs": "abs", "ceil": "ceil", "cos": "cos", "erf": "erf", "exp": "exp", "floor": "floor", "log": "log",
    "neg": "neg", "reciprocal": "reciprocal", "round": "round", "sign": "sign", "sin": "sin", "sqrt": "sqrt",
    "atan": "atan", "asin": "asin", "acos": "acos", "tan": "tan", "sinh": "sinh", "cosh": "cosh",
    "log1p": "log1p", "expm1": "expm1",
}  # fmt: skip

#: What changes nothing once training is over.
_INERT = (
    "alias", "clone", "contiguous", "detach", "dropout", "feature_dropout", "alpha_dropout",
    "feature_alpha_dropout", "lift_fresh_copy", "to", "_to_copy", "float", "type_as", "requires_grad", "cpu", "view_as",
)  # fmt: skip


@handles(*_INERT, frames=True)
def _inert(lo: Lowering, call: Call) -> Any:
    if call.base.endswith("dropout") and lo.arg(call, 2, "train", False) is True:
        raise UnsupportedError("dropout that stays on outside training gives other numbers at every call")
    return lo.arg(call, 0, "self" if "self" in call.kwargs else "input")


@handles(*ACTIVATIONS, frames=True)
def _activation(lo: Lowering, call: Call) -> Tensor:
    return activated(lo, lo.tensor(call), ACTIVATIONS[call.base])


def activated(lo: Lowering, x: Tensor, kind: str, **parameters: Any) -> Tensor:
    if not parameters and len(lo.features(x)) == 1:
        return replace(x, name=lo.layer(Activation(kind), x.name))
    return replace(x, name=lo.emit("activation", x.name, activation=kind, **parameters))


@handles("elu", frames=True)
def _elu(lo: Lowering, call: Call) -> Tensor:
    alpha, scale, inner = (lo.arg(call, i, name, 1) for i, name in ((1, "alpha"), (2, "scale"), (3, "input_scale")))
    if scale != 1 or inner != 1:
        raise UnsupportedError("elu with scales of its own")
    x = lo.tensor(call)
    return activated(lo, x, "elu") if alpha == 1 else activated(lo, x, "elu_alpha", alpha=float(alpha))


@handles("celu", frames=True)
def _celu(lo: Lowering, call: Call) -> Tensor:
    return activated(lo, lo.tensor(call), "celu", alpha=float(lo.arg(call, 1, "alpha", 1.0)))


@handles("leaky_relu", "leaky_relu_", frames=True)
def _leaky(lo: Lowering, call: Call) -> Tensor:
    return activated(lo, lo.tensor(call), "leaky_relu", alpha=float(lo.arg(call, 1, "negative_slope", 0.01)))


@handles("hardshrink", "softshrink", frames=True)
def _shrink(lo: Lowering, call: Call) -> Tensor:
    kind = {"hardshrink": "hard_shrink", "softshrink": "soft_shrink"}[call.base]
    return activated(lo, lo.tensor(call), kind, alpha=float(lo.arg(call, 1, "lambd", 0.5)))


@handles("threshold", frames=True)
def _threshold(lo: Lowering, call: Call) -> Tensor:
    alpha, beta = (float(lo.arg(call, i, name)) for i, name in ((1, "threshold"), (2, "value")))
    return activated(lo, lo.tensor(call), "threshold", alpha=alpha, beta=beta)


@handles("gelu", frames=True)
def _gelu(lo: Lowering, call: Call) -> Tensor:
    return activated(lo, lo.tensor(call), "gelu_tanh" if lo.arg(call, 1, "approximate", "none") == "tanh" else "gelu")


@handles("softplus", frames=True)
def _softplus(lo: Lowering, call: Call) -> Tensor:
    """Above its threshold torch gives x itself, which differs from log(1 + exp(x)) by less than 3e-9 at 20."""
    beta, threshold = lo.arg(call, 1, "beta", 1), lo.arg(call, 2, "threshold", 20)
    if threshold < 20:
        raise UnsupportedError(f"softplus with threshold={threshold}; cgru runs 20 and more")
    x = lo.tensor(call)
    return activated(lo, x, "softplus") if beta == 1 else activated(lo, x, "softplus_beta", alpha=float(beta))


@handles("hardtanh", "clamp", "clamp_", "clamp_min", "clamp_max", "clip", frames=True)
def _clip(lo: Lowering, call: Call) -> Any:
    if call.op == "clamp.Tensor":
        raise UnsupportedError("clamp between tensors; torch.minimum and torch.maximum run")
    if isinstance(lo.arg(call, 0, "self"), Lengths):  # rows without frames, which nobody divides by
        return lo.arg(call, 0, "self")
    first, second = ("min_val", "max_val") if call.base == "hardtanh" else ("min", "max")
    default = 1.0 if call.base == "hardtanh" else None
    low = None if call.base == "clamp_max" else lo.arg(call, 1, first, -default if default else None)
    high = None if call.base == "clamp_min" else lo.arg(call, 1 if call.base == "clamp_max" else 2, second, default)
    x = lo.tensor(call)
    options: dict[str, Any] = {key: float(value) for key, value in (("low", low), ("high", high)) if value is not None}
    return replace(x, name=lo.emit("clip", x.name, **options))


@handles("prelu", frames=True)
def _prelu(lo: Lowering, call: Call) -> Tensor:
    x, slope = lo.natural(lo.tensor(call)), lo.known(call, 1, "weight")
    features = lo.features(x)
    position = x.feature_positions
    if slope.size > 1 and (not position or position[0] != 1):
        raise Misread("a slope a channel, where the second axis is not the channels")
    whole = np.full(features[0], slope.reshape(-1)[0], np.float32) if slope.size == 1 else slope
    return replace(x, name=lo.emit("prelu", x.name, weights={"slope": whole}, axis=0))


@handles(*_UNARY, frames=True)
def _unary(lo: Lowering, call: Call) -> Tensor:
    return unary(lo, lo.tensor(call), _UNARY[call.base])


def unary(lo: Lowering, x: Tensor, kind: str) -> Tensor:
    return replace(x, name=lo.emit("unary", x.name, kind=kind))


@handles("rsqrt", frames=True)
def _rsqrt(lo: Lowering, call: Call) -> Tensor:
    return unary(lo, unary(lo, lo.tensor(call), "sqrt"), "reciprocal")


@handles("square", frames=True)
def _square(lo: Lowering, call: Call) -> Tensor:
    x = lo.tensor(call)
    return replace(x, name=lo.emit("mul", x.name, x.name))


@handles("tanhshrink", frames=True)
def _tanhshrink(lo: Lowering, call: Call) -> Tensor:
    x = lo.tensor(call)
    return binary(lo, "sub", x, activated(lo, x, "tanh"))


# ---- two values ---------------------------------------------------------------------------------------------

_BINARY = {"add": "add", "add_": "add", "sub": "sub", "mul": "mul", "mul_": "mul", "div": "div", "sub_": "sub",
           "pow": "power", "minimum": "minimum", "maximum": "maximum", "div_": "div"}  # fmt: skip


@handles("atan2", frames=True)
def _atan2(lo: Lowering, call: Call) -> Any:
    return binary(lo, "atan2", lo.arg(call, 0, "self"), lo.arg(call, 1, "other"))


@handles(*_BINARY, "rsub", "true_divide", frames=True)
def _binary(lo: Lowering, call: Call) -> Any:
    a, b = lo.arg(call, 0, "self"), lo.arg(call, 1, "exponent" if call.base == "pow" else "other")
    alpha = lo.arg(call, 2, "alpha", 1) if call.base in ("add", "add_", "sub", "sub_", "rsub") else 1
    if lo.arg(call, 9, "rounding_mode", None) is not None:
        raise UnsupportedError("a division that rounds")
    scored = arithmetic("sub" if call.base == "rsub" else _BINARY.get(call.base, "div"), a, b)
    if scored is not NotImplemented:
        return scored
    if isinstance(a, Heads) or isinstance(b, Heads):
        return _of_heads(lo, call, a, b)
    framed = combined(lo, "sub" if call.base == "rsub" else _BINARY.get(call.base, "div"),
                      *((b, a) if call.base == "rsub" else (a, b)))  # fmt: skip
    if framed is not None:
        return framed
    if alpha != 1:
        b = binary(lo, "mul", b, alpha) if isinstance(b, (Tensor, States)) else _number(b) * alpha
    if lo.exported and call.base.startswith(("mul", "div", "true_divide")):
        counts = lo.sizes()
        for value in (a, b):
            if isinstance(value, (int, float)) and value > 1 and value in counts:
                raise UnsupportedError(
                    f"a factor of {value}, which is also a number of rows or steps; export it with others"
                )
    if call.base == "rsub":
        return binary(lo, "sub", b, a)
    if call.base == "pow" and b == 2:
        a = lo.stacked(a) if isinstance(a, States) else a
        return replace(a, name=lo.emit("mul", a.name, a.name))
    if call.base == "pow" and b == 0.5:
        return unary(lo, a, "sqrt")
    return binary(lo, _BINARY.get(call.base, "div"), a, b)


def _of_heads(lo: Lowering, call: Call, a: Any, b: Any) -> Heads:
    """Rows and heads in one axis, times or by a number."""
    held, other = (a, b) if isinstance(a, Heads) else (b, a)
    made = binary(lo, _BINARY.get(call.base, "div"), held.tensor, other)
    return replace(held, tensor=replace(made, shape=held.tensor.shape))


def _number(value: Any) -> Any:
    return value.array if isinstance(value, Known) else value


_COMPARE = {"lt": ("less", False), "le": ("less_equal", False), "gt": ("less", True), "ge": ("less_equal", True),
            "eq": ("equal", False)}  # fmt: skip


@handles(*_COMPARE, "ne", frames=True)
def _compare(lo: Lowering, call: Call) -> Any:
    kind, swapped = _COMPARE.get(call.base, ("equal", False))
    a, b = lo.arg(call, 0, "self"), lo.arg(call, 1, "other")
    mask = compared(lo, call, a, b)
    if mask is None:
        mask = of_ids(lo, call, a, b)
    if mask is not None:
        return mask
    made = binary(lo, "compare", *((b, a) if swapped else (a, b)), kind=kind)
    return unary(lo, made, "not") if call.base == "ne" else made


@handles("where", frames=True)
def _where(lo: Lowering, call: Call) -> Any:
    condition, a, b = (lo.arg(call, i, name) for i, name in enumerate(("condition", "self", "other")))
    if isinstance(a, Scores):
        return masked(lo, a, _opposite(lo, condition), b)
    if isinstance(b, Scores):
        return masked(lo, b, condition, a)
    if isinstance(condition, Within):
        x, value = (b, a) if condition.negated else (a, b)
        return filled(x, replace(condition, negated=True), value)
    return broadcast(lo, "where", [condition, a, b])


def _opposite(lo: Lowering, condition: Any) -> Any:
    if isinstance(condition, Within):
        return replace(condition, negated=not condition.negated)
    if isinstance(condition, Tensor):
        return unary(lo, condition, "not")
    return Known(~condition.array.astype(bool)) if isinstance(condition, Known) else condition


@handles("masked_fill", "masked_fill_", frames=True)
def _masked_fill(lo: Lowering, call: Call) -> Any:
    x, mask = lo.arg(call, 0, "self"), lo.arg(call, 1, "mask")
    if isinstance(x, Scores):
        return masked(lo, x, mask, lo.arg(call, 2, "value"))
    if isinstance(x, Known) and isinstance(mask, Within) and not np.any(x.array):
        return replace(mask, scale=mask.scale * float(_number(lo.arg(call, 2, "value"))))
    if isinstance(mask, Within):
        return filled(lo.tensor(call), mask, lo.arg(call, 2, "value"))
    return broadcast(lo, "where", [lo.arg(call, 1, "mask"), lo.arg(call, 2, "value"), lo.arg(call, 0, "self")])


@handles("addcmul", "addcdiv", frames=True)
def _added(lo: Lowering, call: Call) -> Tensor:
    """a + value · (b · c), or b / c."""
    a, b, c = (lo.arg(call, i, name) for i, name in enumerate(("self", "tensor1", "tensor2")))
    made = binary(lo, "mul" if call.base == "addcmul" else "div", b, c)
    factor = lo.arg(call, 3, "value", 1)
    return binary(lo, "add", a, made if factor == 1 else binary(lo, "mul", made, factor))


@handles("logical_and", "bitwise_and", "logical_or", "bitwise_or", frames=True)
def _both(lo: Lowering, call: Call) -> Tensor:
    """Of conditions, which are 1 or 0."""
    a, b = lo.arg(call, 0, "self"), lo.arg(call, 1, "other")
    return binary(lo, "mul" if call.base.endswith("and") else "maximum", a, b)


@handles("lerp", frames=True)
def _lerp(lo: Lowering, call: Call) -> Tensor:
    """a + w (b − a)."""
    a, b, weight = (lo.arg(call, i, name) for i, name in ((0, "self"), (1, "end"), (2, "weight")))
    return binary(lo, "add", a, binary(lo, "mul", binary(lo, "sub", b, a), weight))


@handles("glu", frames=True)
def _glu(lo: Lowering, call: Call) -> Tensor:
    """a · σ(b), a and b the halves along an axis (Dauphin et al. 2017)."""
    x = lo.tensor(call)
    dim = lo.arg(call, 1, "dim", -1) % len(x.axes)
    axis = x.axes[dim]
    if not isinstance(axis, int):
        raise Misread("glu halves an axis that is not of features")
    half = lo.features(x)[axis] // 2
    a, b = (lo.emit("slice", x.name, start=i * half, stop=(i + 1) * half, axis=axis) for i in (0, 1))
    return replace(x, name=lo.emit("mul", a, lo.emit("activation", b, activation="sigmoid")))


def binary(lo: Lowering, op: str, a: Any, b: Any, **options: Any) -> Tensor:
    return broadcast(lo, op, [a, b], **options)


def broadcast(lo: Lowering, op: str, operands: Sequence[Any], **options: Any) -> Tensor:
    """An operation of several values, torch's axes aligned from the right."""
    values = [lo.stacked(v) if isinstance(v, States) else v for v in operands]
    values = [v if isinstance(v, Tensor) else _float(v) for v in values]
    tensors = [v for v in values if isinstance(v, Tensor)]
    if not tensors:
        raise UnsupportedError("none of its arguments depends on the input")
    values, at = together(lo, values)
    values = with_positions(lo, values)
    tensors = [v for v in values if isinstance(v, Tensor)]
    rank = max([len(t.axes) for t in tensors] + [_rank(v) for v in values if isinstance(v, Known)])
    axes = [_joined([_axis(t, p - rank) for t in tensors]) for p in range(rank)]
    for v in values:
        if isinstance(v, Known):
            for p in range(rank - v.array.ndim, rank):
                if axes[p] is None and v.array.shape[p - rank] > 1:
                    axes[p] = 0
    positions = [p for p in range(rank) if isinstance(axes[p], int)]
    names = []
    for v in values:
        if isinstance(v, Tensor):
            lead = rank - len(v.axes)
            padded = replace(v, axes=(*[None] * lead, *v.axes))
            if any(isinstance(padded.axes[p], int) for p in range(rank) if p not in positions):
                raise Misread("its arguments disagree about rows, frames and features")
            shown = positions if len(lo.features(v)) or positions else []
            names.append(v.name if _plain(lo, padded, shown) else lo.arranged(padded, shown))
        else:
            names.append(lo.constant(known_features(v.array, axes, positions)))
    made = lo.emit(op, *names, **options)
    behind = [v.behind for v in values if isinstance(v, Tensor)]
    zero = (op == "mul" and 0 in behind) or (
        op in ("add", "sub") and len(tensors) == len(values) and set(behind) == {0}
    )
    zero = zero or (op == "div" and isinstance(values[0], Tensor) and values[0].behind == 0)
    return _named(lo, made, axes, at).followed_by(0.0 if zero else None)


def _float(value: Any) -> Known:
    made = np.asarray(_number(value), np.float32)
    return replace(value, array=made) if isinstance(value, Known) else Known(made)


def with_positions(lo: Lowering, values: Sequence[Any]) -> list[Any]:
    """Values of which constants that grow with the frames are the graph's."""
    if not any(isinstance(v, Known) and v.growing is not None for v in values):
        return list(values)
    tensors = [v for v in values if isinstance(v, Tensor)]
    rank = max(len(v.axes) if isinstance(v, Tensor) else v.array.ndim for v in values)
    axes = [_joined([_axis(t, p - rank) for t in tensors]) for p in range(rank)]
    return [positioned(lo, v, axes) if isinstance(v, Known) else v for v in values]


def _plain(lo: Lowering, value: Tensor, positions: Sequence[int]) -> bool:
    """Whether the value's features stand as they are wanted, but for ones in front."""
    own = [axis for p in positions if (axis := value.axes[p]) is not None]
    first = next((i for i, p in enumerate(positions) if value.axes[p] is not None), len(positions))
    inner = any(value.axes[p] is None for p in positions[first:])
    return not inner and own == list(range(len(lo.features(value)))) and bool(own)


def _named(lo: Lowering, name: str, axes: Sequence[Axis], at: int | None) -> Tensor:
    if list(axes).count("T") > 1:
        raise UnsupportedError("numbers for every pair of frames, which only attention by products of features has")
    numbers = iter(range(len(axes)))
    shown = tuple(next(numbers) if isinstance(axis, int) else axis for axis in axes)
    return Tensor(name, shown, at=at)


def together(lo: Lowering, values: Sequence[Any]) -> tuple[list[Any], int | None]:
    """Values that are of one frame, or, where they are not, each by itself; and that frame."""
    ats = {v.at for v in values if isinstance(v, Tensor) and lo.clock(v) is not None}
    mixed = len(ats) > 1 or any(isinstance(v, Tensor) and v.memory for v in values)
    if mixed:
        values = [lo.alone(v) if isinstance(v, Tensor) and v.at is not None else v for v in values]
        return list(values), None
    return list(values), next(iter(ats), None)


def _rank(value: Known) -> int:
    return int(value.array.ndim) if value.array.size > 1 else 0


def _axis(value: Tensor, place: int) -> Axis:
    return value.axes[place] if -place <= len(value.axes) else None


def _joined(axes: Sequence[Axis]) -> Axis:
    kinds = {0 if isinstance(axis, int) else axis for axis in axes if axis is not None}
    if len(kinds) > 1:
        raise Misread("its arguments disagree about which axis is rows, frames or features")
    return next(iter(kinds), None)


def known_features(array: np.ndarray, axes: Sequence[Axis], positions: Sequence[int]) -> np.ndarray:
    """A constant aligned to ``axes`` with its feature axes alone; it must be the same at all rows and frames."""
    if array.size == 1:
        return array.reshape((1,) * max(1, len(positions)))
    full = array.reshape((1,) * (len(axes) - array.ndim) + array.shape)
    for p, axis in enumerate(axes):
        if not isinstance(axis, int) and full.shape[p] > 1:
            if not constant_along(full, p):
                kind = "frame to frame" if axis == "T" else "row to row"
                raise UnsupportedError(
                    f"a constant that differs from {kind} (positions?), so the network is one for a single length"
                )
            full = full.take([0], axis=p)
    return full.reshape([full.shape[p] for p in positions] or [1])
