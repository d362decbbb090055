"""Operators of ONNX on values that are known when the file is read: constants, and the arithmetic on shapes.

Source: onnx/docs/Operators.md. Arrays may hold :class:`~.onnx_values.Count`; what then has no one answer raises
:class:`~.onnx_values.Unfolded`, and what is not here is computed when the network runs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import erf
from typing import Any

import numpy as np

from ..containers.onnx_records import Node
from .onnx_values import Count, Unfolded, compared, normalised

#: Numbers in one folded array: a file cannot make the reader compute more than it could hold itself.
MAX_FOLDED = 1 << 22

Array = np.ndarray
_DTYPES = {
    1: "f4", 2: "u1", 3: "i1", 4: "u2", 5: "i2", 6: "i4", 7: "i8", 9: "?", 10: "f2", 11: "f8",
    12: "u4", 13: "u8", 16: "f4",
}  # fmt: skip


def folded(node: Node, arrays: Sequence[Array | None]) -> list[Array] | None:
    """The node's outputs from arrays; None where the operator is not one of these."""
    fold = _FOLDS.get(node.op)
    if fold is None or node.domain:
        return None
    with np.errstate(all="ignore"):
        try:
            _check_result(node, arrays)
            made = fold(node, arrays)
        except (ValueError, TypeError, IndexError, KeyError, AttributeError, OverflowError, ZeroDivisionError) as error:
            if any(array is not None and array.dtype == object for array in arrays):
                raise Unfolded from error
            raise FoldError(f"{node}: its constants do not fit it ({error})") from error
    made = [np.asarray(array) for array in (made if isinstance(made, list) else [made])]
    most = max(MAX_FOLDED, *(array.size for array in arrays if array is not None), 0)
    for array in made:
        if array.size > most:
            raise FoldError(f"{node}: a constant of {array.size} numbers; at most {most} are made")
    return [normalised(array) for array in made]


def is_real(node: Node, given: bool) -> bool:
    """Whether sizes that a node gives are numbers to compute with; ``given``: whether any of those it takes are."""
    if node.op == "Cast":
        return cast_dtype(int(attribute(node, "to"))).kind == "f"
    return given and node.op not in ("Shape", "Size")


def _check_result(node: Node, arrays: Sequence[Array | None]) -> None:
    """Refuse what would be larger than is made, before it is."""
    given = [array for array in arrays if array is not None]
    if node.op in _BROADCASTING:
        check_size(np.broadcast_shapes(*(array.shape for array in given)))
    elif node.op == "MatMul":
        a, b = given
        check_size([*np.broadcast_shapes(a.shape[:-2], b.shape[:-2]), *a.shape[-2:-1], *b.shape[-1:]])
    elif node.op == "Gather":
        data, indices = given
        check_size([indices.size, data.size // max(1, data.shape[int(attribute(node, "axis", 0))])])


class FoldError(Exception):
    """The constants of a node contradict its operator."""


def attribute(node: Node, name: str, default: Any = None) -> Any:
    return node.attributes.get(name, default)


def axes_of(node: Node, arrays: Sequence[Array | None], at: int = 1) -> list[int] | None:
    """The attribute ``axes`` of older operator sets, or the input that later ones have instead."""
    given = attribute(node, "axes")
    if given is None and len(arrays) > at and arrays[at] is not None:
        given = [int(axis) for axis in np.asarray(arrays[at]).reshape(-1)]
    return None if given is None else list(given)


def cast_dtype(code: int) -> np.dtype[Any]:
    if code not in _DTYPES:
        raise FoldError(f"a cast to ONNX' type {code}, which is no number of numpy's")
    return np.dtype(_DTYPES[code])


def _ufunc(function: Callable[..., Any]) -> Callable[..., Any]:
    def fold(node: Node, arrays: Sequence[Array]) -> Any:
        first = arrays[0]
        made = np.asarray(function(*arrays))
        if made.dtype == object or first.dtype == object:
            return made
        return made.astype(np.result_type(*arrays), copy=False)

    return fold


def _divided(a: Array, b: Array) -> Any:
    if a.dtype == object or b.dtype == object:
        return np.floor_divide(a, b)
    if a.dtype.kind in "iu":
        # ONNX divides whole numbers towards zero.
        return (np.sign(a) * np.sign(b) * (np.abs(a) // np.abs(b))).astype(a.dtype)
    return np.true_divide(a, b)


def _whole_part(function: Callable[..., Any]) -> Callable[..., Any]:
    """Rounding, of which sizes are their own results."""
    fold = _ufunc(function)
    return lambda node, arrays: arrays[0] if arrays[0].dtype == object else fold(node, arrays)


def _extreme(function: Callable[..., Any], kind: str) -> Callable[..., Any]:
    """The smaller or larger of numbers, or of sizes where one of them is so for any number of rows and frames."""
    plain = _variadic(function)
    chosen = np.frompyfunc(lambda a, b: a if (a == b or compared("less", a, b)) == (kind == "min") else b, 2, 1)

    def fold(node: Node, arrays: Sequence[Array]) -> Any:
        if all(array.dtype != object for array in arrays):
            return plain(node, arrays)
        made = arrays[0]
        for other in arrays[1:]:
            made = np.asarray(chosen(made, other), object)
        return made

    return fold


def _modulo(node: Node, arrays: Sequence[Array]) -> Any:
    return _ufunc(np.fmod if attribute(node, "fmod", 0) else np.mod)(node, arrays)


def _cumulated(node: Node, arrays: Sequence[Array]) -> Any:
    data, axis = arrays[0], int(arrays[1].reshape(-1)[0])
    data = np.flip(data, axis) if attribute(node, "reverse", 0) else data
    made = np.cumsum(data, axis, dtype=data.dtype)
    made = made - data if attribute(node, "exclusive", 0) else made
    return np.flip(made, axis) if attribute(node, "reverse", 0) else made


def _triangle(node: Node, arrays: Sequence[Array | None]) -> Any:
    data, k = arrays[0], arrays[1] if len(arrays) > 1 else None
    assert data is not None
    diagonal = 0 if k is None else int(k.reshape(-1)[0])
    return np.triu(data, diagonal) if attribute(node, "upper", 1) else np.tril(data, diagonal)


def _identity_matrix(node: Node, arrays: Sequence[Array]) -> Any:
    (data,) = arrays
    check_size(data.shape)
    dtype = cast_dtype(int(node.attributes["dtype"])) if "dtype" in node.attributes else data.dtype
    rows, columns = data.shape
    return np.eye(rows, columns, k=int(attribute(node, "k", 0)), dtype=dtype)


def _clipped(node: Node, arrays: Sequence[Array | None]) -> Any:
    data = arrays[0]
    assert data is not None
    low, high = (
        attribute(node, name) if node.version < 11 else arrays[i] if len(arrays) > i else None
        for i, name in ((1, "min"), (2, "max"))
    )
    data = data if low is None else np.maximum(data, low)
    return np.asarray(data if high is None else np.minimum(data, high)).astype(data.dtype)


def _gemm(node: Node, arrays: Sequence[Array | None]) -> Any:
    a, b, c = [*arrays, None][:3]
    if a is None or b is None or a.ndim != 2 or b.ndim != 2:
        raise FoldError(f"{node}: its inputs are no two matrices")
    a, b = a.T if attribute(node, "transA", 0) else a, b.T if attribute(node, "transB", 0) else b
    check_size([a.shape[0], b.shape[1]])
    made = attribute(node, "alpha", 1.0) * (a @ b)
    return (made if c is None else made + attribute(node, "beta", 1.0) * c).astype(a.dtype)


def _norm(x: Array, axis: Any, keepdims: bool) -> Any:
    return np.sqrt(np.sum(x * x, axis=axis, keepdims=keepdims))


def _compare(kind: str, swap: bool = False) -> Callable[..., Any]:
    function = np.frompyfunc(lambda a, b: compared(kind, a, b), 2, 1)

    def fold(node: Node, arrays: Sequence[Array]) -> Any:
        a, b = arrays if not swap else arrays[::-1]
        return np.asarray(function(a, b)).astype(bool)

    return fold


def _variadic(function: Callable[..., Any]) -> Callable[..., Any]:
    def fold(node: Node, arrays: Sequence[Array]) -> Any:
        made = arrays[0]
        for other in arrays[1:]:
            made = function(made, other)
        return made

    return fold


def _slice(node: Node, arrays: Sequence[Array | None]) -> Any:
    data = arrays[0]
    assert data is not None
    for axis, part in slices(node, arrays, data.ndim, data.shape):
        data = data[(slice(None),) * axis + (part,)]
    return data


def slices(node: Node, arrays: Sequence[Any], rank: int, sizes: Sequence[Any]) -> list[tuple[int, slice]]:
    """What a Slice takes along each axis, as numpy has it (negative numbers from the end)."""
    if node.version < 10:
        starts, ends = attribute(node, "starts"), attribute(node, "ends")
        axes, steps = attribute(node, "axes"), None
    else:
        lists = [None if array is None else list(np.asarray(array).reshape(-1)) for array in arrays[1:]]
        starts, ends, axes, steps = [*lists, None, None, None, None][:4]
    axes = list(range(len(starts))) if axes is None else axes
    steps = [1] * len(starts) if steps is None else steps
    made = []
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        axis, step = int(axis) % rank, int(step)
        if step == 0:
            raise ValueError("a step of 0")
        first, last = _bound(start, sizes[axis]), _bound(end, sizes[axis])
        if step > 0 and isinstance(last, int) and last >= _TO_THE_END:
            last = None
        if step < 0 and isinstance(last, int) and isinstance(sizes[axis], int) and last < -sizes[axis]:
            last = None
        made.append((axis, slice(first, last, step)))
    return made


# From here on a bound means the end of the axis, whatever its size: exporters write the largest whole number.
_TO_THE_END = (1 << 31) - 1


def _bound(value: Any, size: Any) -> Any:
    """A bound that may be beyond the end, or a count of what the axis has."""
    if isinstance(value, Count):
        if value == size:
            return None
        if value.factor < 0:
            # So many from the end: what is left in front is the same for any number of frames.
            first = size + value
            if isinstance(first, Count):
                raise Unfolded
            return max(first, 0)
        rest = value - size
        if isinstance(rest, Count):
            raise Unfolded
        return rest if rest < 0 else None
    return int(value)


def _reshape(node: Node, arrays: Sequence[Array | None]) -> Any:
    data, shape = arrays[0], attribute(node, "shape") if node.version < 5 else arrays[1]
    assert data is not None
    if shape is None:
        raise FoldError(f"{node}: its shape is missing")
    sizes = [int(size) for size in np.asarray(shape).reshape(-1)]
    if not attribute(node, "allowzero", 0):
        sizes = [data.shape[i] if size == 0 else size for i, size in enumerate(sizes)]
    return data.reshape(sizes)


def _expand(node: Node, arrays: Sequence[Array]) -> Any:
    shape = [int(size) for size in arrays[1].reshape(-1)]
    wanted = np.broadcast_shapes(arrays[0].shape, tuple(shape))
    check_size(wanted)
    return np.broadcast_to(arrays[0], wanted)


def check_size(shape: Sequence[int]) -> None:
    """Refuse a constant of more numbers than are made."""
    total = 1
    for size in shape:
        total *= int(size)
    if total > MAX_FOLDED:
        raise FoldError(f"a constant of {total} numbers; at most {MAX_FOLDED} are made")


def _constant_of_shape(node: Node, arrays: Sequence[Array]) -> Any:
    shape = tuple(int(size) for size in arrays[0].reshape(-1))
    check_size(shape)
    value = attribute(node, "value", np.zeros(1, np.float32))
    return np.full(shape, value.reshape(-1)[0], value.dtype)


def _reduction(function: Callable[..., Any]) -> Callable[..., Any]:
    def fold(node: Node, arrays: Sequence[Array | None]) -> Any:
        data = arrays[0]
        assert data is not None
        axes = axes_of(node, arrays)
        if not axes and attribute(node, "noop_with_empty_axes", 0):
            return data
        which = tuple(axes) if axes else None
        return np.asarray(function(data, axis=which, keepdims=bool(attribute(node, "keepdims", 1)))).astype(data.dtype)

    return fold


def _unsqueezed(node: Node, arrays: Sequence[Array | None]) -> Any:
    data, axes = arrays[0], axes_of(node, arrays)
    assert data is not None
    if axes is None:
        raise FoldError(f"{node}: the list of its axes is missing")
    return np.expand_dims(data, tuple(axes))


def _squeezed(node: Node, arrays: Sequence[Array | None]) -> Any:
    data, axes = arrays[0], axes_of(node, arrays)
    assert data is not None
    return np.squeeze(data, None if axes is None else tuple(axes))


def _split(node: Node, arrays: Sequence[Array | None]) -> Any:
    data, axis = arrays[0], int(attribute(node, "axis", 0))
    assert data is not None
    ends = np.cumsum(split_sizes(node, arrays, data.shape[axis]))[:-1]
    return np.split(data, ends, axis)


def split_sizes(node: Node, arrays: Sequence[Any], size: int) -> list[int]:
    given = attribute(node, "split") if node.version < 13 else None
    if node.version >= 13 and len(arrays) > 1 and arrays[1] is not None:
        given = [int(part) for part in np.asarray(arrays[1]).reshape(-1)]
    parts = int(attribute(node, "num_outputs", len(node.outputs))) if given is None else len(given)
    if parts != len(node.outputs):
        raise ValueError(f"{parts} parts for {len(node.outputs)} outputs")
    if given is None:
        chunk = -(-size // parts)
        return [min(chunk, size - i * chunk) for i in range(parts)]
    if sum(given) != size:
        raise ValueError(f"parts of {given} of an axis of {size}")
    return list(given)


def _pad(node: Node, arrays: Sequence[Any]) -> Any:
    data = arrays[0]
    before, behind, mode, value = pads_of(node, arrays, data.ndim)
    check_size([n + a + b for n, a, b in zip(data.shape, before, behind, strict=True)])
    if mode == "constant":
        return np.pad(data, list(zip(before, behind, strict=True)), constant_values=value)
    return np.pad(data, list(zip(before, behind, strict=True)), mode=mode)  # type: ignore[call-overload]


def pads_of(node: Node, arrays: Sequence[Any], rank: int) -> tuple[list[int], list[int], str, float]:
    """Numbers before and behind each axis, the mode and the constant of a Pad."""
    if node.version < 11:
        pads, value = list(attribute(node, "pads") or attribute(node, "paddings")), attribute(node, "value", 0.0)
        axes = None
    else:
        pads = [int(item) for item in np.asarray(arrays[1]).reshape(-1)]
        value = arrays[2].reshape(-1)[0] if len(arrays) > 2 and arrays[2] is not None and arrays[2].size else 0.0
        axes = (
            [int(axis) % rank for axis in arrays[3].reshape(-1)] if len(arrays) > 3 and arrays[3] is not None else None
        )
    axes = list(range(rank)) if axes is None else axes
    before, behind = [0] * rank, [0] * rank
    for i, axis in enumerate(axes):
        before[axis], behind[axis] = pads[i], pads[len(axes) + i]
    return before, behind, attribute(node, "mode", "constant"), float(value)


def _range(node: Node, arrays: Sequence[Array]) -> Any:
    start, limit, delta = (array.reshape(-1)[0] for array in arrays)
    count = max(int(np.ceil((limit - start) / delta)), 0)
    check_size([count])
    return (start + np.arange(count) * delta).astype(arrays[0].dtype)


def _cast(node: Node, arrays: Sequence[Array]) -> Any:
    dtype = cast_dtype(int(attribute(node, "to")))
    return arrays[0] if arrays[0].dtype == object else arrays[0].astype(dtype)


def _gather(node: Node, arrays: Sequence[Array]) -> Any:
    data, axis = arrays[0], int(attribute(node, "axis", 0))
    return np.take(data, arrays[1].astype(np.int64), axis=axis)


def _where(node: Node, arrays: Sequence[Array]) -> Any:
    condition, a, b = arrays
    return np.where(condition.astype(bool), a, b)


def _along_axis(node: Node, x: Array, numbers: Array) -> Array:
    """A scale or a zero point for each place of ``axis``, or one for all, shaped to broadcast with x."""
    if numbers.ndim == 1 and x.ndim > 1:
        shape = [1] * x.ndim
        shape[int(attribute(node, "axis", 1))] = -1
        return numbers.reshape(shape)
    if numbers.ndim > 1:
        raise Unfolded
    return numbers


def _dequantize(node: Node, arrays: Sequence[Any]) -> Any:
    x, scale = arrays[0], arrays[1]
    zero = arrays[2] if len(arrays) > 2 and arrays[2] is not None else np.zeros((), np.int32)
    scale, zero = (_along_axis(node, x, array) for array in (scale, zero))
    return ((x.astype(np.float32) - zero.astype(np.float32)) * scale).astype(np.float32)


def _quantize(node: Node, arrays: Sequence[Any]) -> Any:
    x, scale = arrays[0], arrays[1]
    zero = arrays[2] if len(arrays) > 2 and arrays[2] is not None else np.zeros((), np.uint8)
    scale = _along_axis(node, x, scale)
    info = np.iinfo(zero.dtype)
    zeros = zero.reshape(scale.shape) if zero.size == scale.size else zero
    return np.clip(np.round(x / scale) + zeros.astype(np.float32), info.min, info.max).astype(zero.dtype)


def _transpose(node: Node, arrays: Sequence[Array]) -> Any:
    return np.transpose(arrays[0], attribute(node, "perm"))


def _concat(node: Node, arrays: Sequence[Array]) -> Any:
    if any(array.dtype == object for array in arrays):
        arrays = [array.astype(object) for array in arrays]
    return np.concatenate(arrays, int(attribute(node, "axis", 1 if node.version < 4 else 0)))


def _flatten(node: Node, arrays: Sequence[Array]) -> Any:
    axis, shape = int(attribute(node, "axis", 1)), arrays[0].shape
    axis = axis + len(shape) if axis < 0 else axis
    return arrays[0].reshape(int(np.prod(shape[:axis], dtype=np.int64)), -1)


def _tiled(node: Node, arrays: Sequence[Array]) -> Any:
    counts = [int(count) for count in arrays[1].reshape(-1)]
    check_size([arrays[0].size, *counts])
    return np.tile(arrays[0], counts)


def _scatter_nd(node: Node, arrays: Sequence[Array]) -> Any:
    if attribute(node, "reduction", "none") != "none":
        raise Unfolded
    data = arrays[0].copy()
    data[tuple(np.moveaxis(arrays[1].astype(np.int64), -1, 0))] = arrays[2]
    return data


def _keeping_dtype(function: Callable[[Array], Any]) -> Callable[..., Any]:
    return lambda node, arrays: np.asarray(function(arrays[0])).astype(arrays[0].dtype)


_FOLDS: Mapping[str, Callable[..., Any]] = {
    "Abs": _ufunc(np.abs), "Add": _ufunc(np.add), "And": _ufunc(np.logical_and), "Cast": _cast,
    "Ceil": _whole_part(np.ceil), "Clip": _clipped, "Concat": _concat, "ConstantOfShape": _constant_of_shape,
    "Cos": _ufunc(np.cos), "CumSum": _cumulated,
    "DequantizeLinear": _dequantize, "Div": _ufunc(_divided), "Dropout": lambda node, arrays: arrays[0],
    "Equal": _compare("equal"), "Erf": _keeping_dtype(np.vectorize(erf, otypes=[float])), "Exp": _ufunc(np.exp),
    "Expand": _expand, "EyeLike": _identity_matrix, "Flatten": _flatten, "Floor": _whole_part(np.floor),
    "Gather": _gather, "Gemm": _gemm,
    "Greater": _compare("less", swap=True), "GreaterOrEqual": _compare("less_equal", swap=True),
    "Identity": lambda node, arrays: arrays[0], "Less": _compare("less"), "LessOrEqual": _compare("less_equal"),
    "Log": _ufunc(np.log), "MatMul": _ufunc(np.matmul), "Max": _extreme(np.maximum, "max"),
    "Min": _extreme(np.minimum, "min"),
    "Mod": _modulo, "Mul": _ufunc(np.multiply), "Neg": _ufunc(np.negative), "Not": _ufunc(np.logical_not),
    "Or": _ufunc(np.logical_or), "Pad": _pad, "Pow": lambda n, a: np.power(a[0], a[1]).astype(a[0].dtype),
    "QuantizeLinear": _quantize, "Range": _range, "Reciprocal": _ufunc(np.reciprocal),
    "ReduceL1": _reduction(lambda x, **k: np.sum(np.abs(x), **k)), "ReduceL2": _reduction(_norm),
    "ReduceMax": _reduction(np.max), "ReduceMean": _reduction(np.mean), "ReduceMin": _reduction(np.min),
    "ReduceProd": _reduction(np.prod), "ReduceSum": _reduction(np.sum),
    "ReduceSumSquare": _reduction(lambda x, **k: np.sum(x * x, **k)), "Relu": _ufunc(lambda x: np.maximum(x, 0)),
    "Reshape": _reshape, "Round": _whole_part(np.round), "ScatterND": _scatter_nd,
    "Sigmoid": _keeping_dtype(lambda x: 1 / (1 + np.exp(-x))), "Sign": _ufunc(np.sign), "Sin": _ufunc(np.sin),
    "Slice": _slice, "Split": _split,
    "Sqrt": _ufunc(np.sqrt), "Squeeze": _squeezed, "Sub": _ufunc(np.subtract), "Sum": _variadic(np.add),
    "Tanh": _ufunc(np.tanh), "Tile": _tiled, "Transpose": _transpose, "Trilu": _triangle, "Unsqueeze": _unsqueezed,
    "Where": _where, "Xor": _ufunc(np.logical_xor),
}  # fmt: skip

#: The operators that are computed here.
FOLDED = frozenset(_FOLDS)

# fmt: off
_BROADCASTING = frozenset((
    "Add", "And", "Div", "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Max", "Min", "Mod", "Mul", "Or",
    "Pow", "Sub", "Sum", "Where", "Xor",
))
#: Those of which each output number comes of one number of each input: they fold along open axes too.
ELEMENTWISE = frozenset((
    "Abs", "Add", "And", "Cast", "Ceil", "Div", "Dropout", "Equal", "Exp", "Floor", "Greater", "GreaterOrEqual",
    "Identity", "Less", "LessOrEqual", "Log", "Max", "Min", "Mul", "Neg", "Not", "Or", "Pow", "Reciprocal", "Relu",
    "Round", "Sigmoid", "Sign", "Sqrt", "Sub", "Sum", "Tanh", "Where", "Xor",
))
# fmt: on
