"""Numbers of frames of each row, masks made of them, and packed sequences: all are the network's ``lengths``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from ....errors import UnsupportedError
from .counted import of_truth, packed_by
from .lowering import Lowering, handles
from .program import Call
from .values import PACKED, TB, Axis, B, Known, Lengths, Misread, T, Tensor, Within

#: What is added to scores or put in their place so that a softmax or a maximum passes over them: this, or less.
PASSED_OVER = -1e4


@handles("sort", "argsort")
def _sort(lo: Lowering, call: Call) -> Any:
    value = lo.arg(call, 0, "self")
    if isinstance(value, Tensor) and value.axes == (B,) and lo.clock(value) is None:  # rows of computed lengths
        return Lengths(order=True) if call.base == "argsort" else [value, Lengths(order=True)]
    if not isinstance(value, Lengths):
        raise UnsupportedError("sorting numbers that are computed")
    return Lengths(order=True) if call.base == "argsort" else [Lengths(), Lengths(order=True)]


@handles("scatter")
def _scatter(lo: Lowering, call: Call) -> Any:
    """How PackedSequence turns the order of its rows round."""
    index = lo.arg(call, 2, "index")
    if not isinstance(index, Lengths) or not index.order:
        raise UnsupportedError("entries written to places that are computed")
    return index


@handles("empty_like")
def _empty_like(lo: Lowering, call: Call) -> Any:
    return Known(np.zeros(call.shape or (), np.float32))


@handles("cgru.pack")
def _pack(lo: Lowering, call: Call) -> Tensor:
    """(rows, frames, F) and the rows' lengths → the frames of all rows that there are: torch's packed data."""
    x, lengths = lo.natural(lo.tensor(call, 0, "x")), lo.arg(call, 1, "lengths")
    counted = isinstance(lengths, Tensor)
    if not counted and (not isinstance(lengths, Lengths) or lengths.order or lengths.offset):
        raise UnsupportedError(
            "pack_padded_sequence with lengths that are no input of forward(): the network takes them as lengths="
        )
    wanted = (B, T) if lo.arg(call, 2, "batch_first") else (T, B)
    if x.axes[:2] != wanted or len(x.axes) != 3:
        raise Misread(f"packing takes ({', '.join(wanted)}, features), and the axes are others")
    lo.evident = True
    return replace(x, name=packed_by(lo, x, lengths) if counted else x.name, axes=(TB, 0))


@handles("cgru.packed")
def _packed(lo: Lowering, call: Call) -> Tensor:
    return lo.tensor(call, 0, "x").followed_by(PACKED)


@handles("cgru.padded")
def _padded(lo: Lowering, call: Call) -> Tensor:
    x, value = lo.tensor(call, 0, "x"), float(lo.arg(call, 1, "value"))
    if value and x.name in lo.packed:
        raise UnsupportedError("rows of computed lengths, padded with something else than zeros")
    return x.followed_by(value)


# ---- masks --------------------------------------------------------------------------------------------------

_BY_COMPARISON: dict[str, tuple[int, bool]] = {"lt": (0, False), "le": (1, False), "ge": (0, True), "gt": (1, True)}
_SWAPPED = {"lt": "gt", "gt": "lt", "le": "ge", "ge": "le"}


def compared(lo: Lowering, call: Call, a: Any, b: Any) -> Any:
    """A mask from numbers of frames and the rows' lengths, or from such a mask; None where it is neither."""
    if isinstance(a, Within) or isinstance(b, Within):
        mask, other = (a, b) if isinstance(a, Within) else (b, a)
        number = other.array.item() if isinstance(other, Known) and other.array.size == 1 else other
        if call.base in ("eq", "ne") and number in (0, 1):
            return replace(mask, negated=mask.negated != ((call.base == "eq") == (number == 0)))
        raise UnsupportedError("a comparison of a mask of frames")
    if not isinstance(a, Lengths) and not isinstance(b, Lengths):
        return None
    kind = call.base
    if isinstance(a, Lengths):
        a, b, kind = b, a, _SWAPPED.get(kind, kind)
    if not isinstance(a, Known) or b.order or kind not in _BY_COMPARISON or call.shape is None:
        raise UnsupportedError("a comparison of the rows' lengths with something else than the frames' numbers")
    array = a.array.reshape((1,) * (len(call.shape) - a.array.ndim) + a.array.shape)
    steps = lo.steps
    place = next((p for p, n in enumerate(array.shape) if n == steps and _counts(array, p)), None)
    first, negated = _BY_COMPARISON[kind]
    if place is None or int(array.reshape(-1)[0]) != first - b.offset:
        raise UnsupportedError("a comparison of the rows' lengths with something else than the frames' numbers")
    axes: list[Axis] = [B if n > 1 else None for n in call.shape]
    axes[place] = T
    return Within(tuple(axes), negated)


def _counts(array: np.ndarray, axis: int) -> bool:
    """Whether entries go up by one along an axis, and are the same along the others."""
    line = np.moveaxis(array, axis, -1).reshape(-1, array.shape[axis])
    return bool(np.all(line == line[:1]) and np.all(np.diff(line[0]) == 1))


@handles("bitwise_not", "logical_not")
def _not(lo: Lowering, call: Call) -> Any:
    value = lo.arg(call, 0, "self")
    if isinstance(value, Within):
        return replace(value, negated=not value.negated)
    from .pointwise import unary

    x = lo.tensor(call)
    if call.base == "bitwise_not" and not of_truth(lo, x.name):
        raise UnsupportedError("bits of a number turned round; of comparisons it is run")
    return unary(lo, x, "not")


def filled(x: Tensor, mask: Within, value: Any) -> Tensor:
    """x with ``value`` behind every row's length, where ``mask`` is True there alone."""
    number = value.array if isinstance(value, Known) else np.asarray(value)
    if not mask.negated or number.dtype.kind not in "fiub" or not np.all(number == number.reshape(-1)[:1]):
        raise UnsupportedError("a mask that leaves out the frames within a row's length, or gives them values")
    return x.followed_by(float(number.reshape(-1)[0]))


def combined(lo: Lowering, op: str, a: Any, b: Any) -> Any:
    """Arithmetic with a mask of frames or with lengths; None where neither is among the operands."""
    if isinstance(a, Lengths) or isinstance(b, Lengths):
        return _counted(lo, op, a, b)
    if not isinstance(a, Within) and not isinstance(b, Within):
        return None
    mask, other = (a, b) if isinstance(a, Within) else (b, a)
    if isinstance(other, Tensor):
        if op == "mul" and not mask.negated:
            return other.followed_by(0.0)
        if op == "add" and mask.negated and mask.scale <= PASSED_OVER:
            return other.followed_by(mask.scale)
    number = other.array if isinstance(other, Known) else other
    if not isinstance(other, (Tensor, Within)) and np.size(number) == 1:
        number = float(np.reshape(number, ()))
        if op == "mul":
            return replace(mask, scale=mask.scale * number)
        if op == "sub" and other is a and number == mask.scale == 1:
            return replace(mask, negated=not mask.negated)
    raise UnsupportedError(f"{op} of a mask of frames")


def _counted(lo: Lowering, op: str, a: Any, b: Any) -> Any:
    if isinstance(a, Lengths):
        number = b.array if isinstance(b, Known) else b
        if op in ("add", "sub") and not a.order and np.size(number) == 1:
            return replace(a, offset=a.offset + int(np.reshape(number, ())) * (1 if op == "add" else -1))
        if op == "maximum" and np.size(number) == 1 and np.reshape(number, ()) <= 1:
            return a
    elif op == "div" and isinstance(a, Tensor) and not b.order and not b.offset:
        node = next((node for node in lo.g.nodes if node.name == a.name), None)
        if node is not None and node.op == "pool_whole" and node.options["kind"] == "sum":
            return replace(a, name=lo.emit("pool_whole", node.inputs[0], kind="mean"))
    raise UnsupportedError(
        f"{op} of the rows' lengths; a sum over frames divided by them runs, and the frame at lengths - 1"
    )


def passes_over(x: Tensor, kind: str) -> bool:
    """Whether ``kind`` over all frames passes over those behind a row's length."""
    behind = x.behind
    if behind is None or isinstance(behind, str):
        return behind == PACKED
    known: dict[str, Callable[[float], bool]] = {
        "sum": lambda v: v == 0,
        "max": lambda v: v <= PASSED_OVER,
        "softmax": lambda v: v <= PASSED_OVER,
        "min": lambda v: v >= -PASSED_OVER,
    }
    return kind in known and known[kind](behind)


def check_passed_over(lo: Lowering, x: Tensor, kind: str) -> None:
    """Refuse ``kind`` over frames behind a row's length that would count in it."""
    if lo.lengths and lo.clock(x) is not None and not passes_over(x, kind):
        raise UnsupportedError(
            f"a {kind} over frames, where rows have lengths: the padding behind them counts in it; mask it first "
            "(zeros for a sum, −inf for a maximum or softmax; a mean is a sum divided by the lengths)"
        )
