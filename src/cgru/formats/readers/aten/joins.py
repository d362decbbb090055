"""Tensors put together: along features, frames of one sequence in order, and zeros around a sequence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ....errors import UnsupportedError
from .lowering import Lowering, handles
from .pointwise import known_features, together, with_positions
from .positions import numbered
from .program import Call
from .values import Assembled, Axis, Known, Misread, States, T, Tensor

_ALONG_TIME = "it joins sequences along time; zeros before and behind one, or a frame before it, run"


@handles("stack", "cat", "concat", "concatenate", frames=True)
def _join(lo: Lowering, call: Call) -> Tensor:
    return joined(lo, lo.arg(call, 0, "tensors"), lo.arg(call, 1, "dim", 0), stack=call.base == "stack")


def joined(lo: Lowering, values: Sequence[Any], dim: int, *, stack: bool) -> Tensor:
    """Values one after the other along an axis, or, with ``stack``, along a new one."""
    values = [lo.stacked(v) if isinstance(v, States) else v for v in values]
    tensors = [v for v in values if isinstance(v, Tensor)]
    rank = len(tensors[0].axes) + stack
    dim %= rank
    if stack:
        values = [
            replace(v, axes=(*v.axes[:dim], None, *v.axes[dim:])) if isinstance(v, Tensor)
            else Known(np.expand_dims(v.array, dim)) for v in values
        ]  # fmt: skip
    if not all(isinstance(v, (Tensor, Known)) for v in values):
        raise UnsupportedError("it joins something that is no tensor of the network")
        tensors = [v for v in values if isinstance(v, Tensor)]
    frames = _as_sequence(lo, values, dim)
    if frames is None and not stack:
        frames = _after_its_first(lo, values, dim)
    if frames is not None:
        return frames
    values, at = together(lo, values)
    values = with_positions(lo, values)
    tensors = [v for v in values if isinstance(v, Tensor)]
    if any(v.axes[dim] == T for v in tensors):
        return _padded(lo, values, dim)
    axes: list[Axis] = []
    for p in range(rank):
        kinds = {0 if isinstance(v.axes[p], int) else v.axes[p] for v in tensors} - {None}
        if len(kinds) > 1:
            raise Misread("it joins values whose axes of rows, frames and features disagree")
        axes.append(next(iter(kinds), None))
    if isinstance(axes[dim], str):
        raise Misread("it joins along rows or frames")
    axes[dim] = 0
    positions = [p for p in range(rank) if isinstance(axes[p], int)]
    names = []
    for v in values:
        if isinstance(v, Tensor):
            names.append(lo.arranged(v, positions))
        else:
            names.append(lo.constant(known_features(np.asarray(v.array, np.float32), axes, positions)))
    name = names[0] if len(names) == 1 else lo.emit("concat", *names, axis=positions.index(dim))
    numbers = iter(range(len(axes)))
    return Tensor(name, tuple(next(numbers) if isinstance(axis, int) else axis for axis in axes), at=at)


def _as_sequence(lo: Lowering, values: Sequence[Any], dim: int) -> Tensor | None:
    """Every frame of one value, in order: the value itself."""
    first = values[0]
    if not isinstance(first, Tensor) or first.at is None or any(not isinstance(v, Tensor) for v in values):
        return None
    frames = lo.frames_of(first.name)
    same = all(v.name == first.name and v.axes == first.axes and not v.memory for v in values)
    if not same or first.axes[dim] is not None or len(values) != frames or frames < 2:
        return None
    ats = [v.at for v in values]
    axes = tuple(T if p == dim else axis for p, axis in enumerate(first.axes))
    if ats == list(range(frames)):
        return replace(first, axes=axes, at=None)
    if ats == list(reversed(range(frames))):
        return replace(first, name=lo.emit("reverse_time", first.name), axes=axes, at=None)
    return None


def _after_its_first(lo: Lowering, values: Sequence[Any], dim: int) -> Tensor | None:
    """The first frame of a sequence, and behind it another; None where they are others."""
    if len(values) != 2 or not all(isinstance(v, Tensor) for v in values):
        return None
    first, x = values
    if first.at != 0 or x.at is not None or x.axes[dim] != T or first.axes[dim] is not None or first.memory:
        return None
    x, first = lo.natural(x), lo.natural(replace(first, at=None, axes=_with(first.axes, dim, T)))
    late = lo.frames_of(x.name) + 1 - lo.frames_of(first.name)
    if lo.features(x) != lo.features(first) or first.axes != x.axes or late not in (0, 1):
        return None
    name = lo.emit("pad_time", first.name, left=0, right=1) if late else first.name
    return _chosen(lo, name, x)


def _behind_one(lo: Lowering, first: Any, x: Tensor, dim: int) -> Tensor:
    """One frame, the same in every sequence or computed of each, and a sequence behind it."""
    x = lo.natural(x)
    positions = x.feature_positions
    if isinstance(first, Known):
        if first.array.shape[dim] != 1:
            raise UnsupportedError(_ALONG_TIME)
        name = lo.constant(known_features(np.asarray(first.array, np.float32), x.axes, positions))
    else:
        if first.axes[dim] is not None or lo.clock(first) is not None:
            raise UnsupportedError(_ALONG_TIME)
        name = lo.arranged(first, positions)
    return _chosen(lo, name, x)


def _with(axes: Sequence[Axis], place: int, axis: Axis) -> tuple[Axis, ...]:
    return (*axes[:place], axis, *axes[place + 1 :])


def _chosen(lo: Lowering, first: str, x: Tensor) -> Tensor:
    """``first`` at frame 0, and x a frame later."""
    if lo.lengths:
        raise UnsupportedError("a frame put before a sequence, where rows have lengths")
    later = lo.emit("pad_time", x.name, left=1, right=0)
    rank = len(lo.features(x))
    one = lo.constant(np.ones(1, np.float32))
    begins = lo.emit("compare", numbered(lo, later), one, kind="equal")
    begins = begins if rank < 2 else lo.emit("reshape", begins, features=(1,) * rank)
    return replace(x, name=lo.emit("where", begins, first, later))


def _padded(lo: Lowering, values: Sequence[Any], dim: int) -> Tensor:
    """A sequence between blocks of zeros, along time."""
    found = [i for i, v in enumerate(values) if isinstance(v, Tensor)]
    zeros = all(isinstance(v, Tensor) or not np.any(v.array) for v in values)
    if len(values) == 2 and isinstance(values[1], Tensor) and not (zeros and len(found) == 1):
        return _behind_one(lo, values[0], values[1], dim)
    if len(found) != 1 or not zeros:
        raise UnsupportedError(_ALONG_TIME)
    left, right = (sum(v.array.shape[dim] for v in part) for part in (values[: found[0]], values[found[0] + 1 :]))
    x: Tensor = values[found[0]]
    return replace(x, name=lo.emit("pad_time", x.name, left=left, right=right))


@handles("assembled")
def _assembled(lo: Lowering, value: Any) -> Any:
    """A constant that was written into, entry by entry, as the join of its parts."""
    held: Assembled = value
    size = held.base.array.shape[held.dim]
    parts = [held.parts.get(i, Known(held.base.array.take(i, axis=held.dim))) for i in range(size)]
    return joined(lo, parts, held.dim, stack=True)
