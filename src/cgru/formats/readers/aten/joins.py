"""Tensors put together: along features, frames of one sequence in order, and zeros around a sequence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ....errors import UnsupportedError
from .lowering import Lowering, handles
from .pointwise import known_features, together
from .program import Call
from .values import Assembled, Axis, Known, Misread, States, T, Tensor


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
        tensors = [v for v in values if isinstance(v, Tensor)]
    frames = _as_sequence(lo, values, dim)
    if frames is not None:
        return frames
    values, at = together(lo, values)
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


def _padded(lo: Lowering, values: Sequence[Any], dim: int) -> Tensor:
    """A sequence between blocks of zeros, along time."""
    found = [i for i, v in enumerate(values) if isinstance(v, Tensor)]
    zeros = all(isinstance(v, Tensor) or not np.any(v.array) for v in values)
    if len(found) != 1 or not zeros:
        raise UnsupportedError("it joins sequences along time; zeros before and behind one are cgru's")
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
