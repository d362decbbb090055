"""ATen operators that move numbers and change none: transposes, axes of one, repetition, order, padding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from ....errors import UnsupportedError
from .lowering import Lowering, handles
from .program import Call
from .values import Axis, Heads, Known, Lengths, Misread, Scores, T, Tensor, Within


@handles("transpose", "swapaxes", "permute", "t", "movedim", "numpy_T", "mT", frames=True)
def _transpose(lo: Lowering, call: Call) -> Any:
    given = lo.arg(call, 0, "self")
    x = given if isinstance(given, (Heads, Scores)) else lo.moved(call)
    rank = len(x.shape) if isinstance(x, (Heads, Scores)) else len(x.axes)
    order = list(range(rank))
    if call.base == "permute":
        order = [axis % rank for axis in lo.arg(call, 1, "dims")]
    elif call.base == "mT":
        order[-1], order[-2] = order[-2], order[-1]
    elif call.base in ("transpose", "swapaxes"):
        a, b = lo.arg(call, 1, "dim0") % rank, lo.arg(call, 2, "dim1") % rank
        order[a], order[b] = b, a
    elif call.base == "movedim":
        source, target = lo.arg(call, 1, "source"), lo.arg(call, 2, "destination")
        if not isinstance(source, int) or not isinstance(target, int):
            raise UnsupportedError("movedim of several axes")
        order.remove(source % rank)
        order.insert(target % rank, source % rank)
    else:
        order.reverse()
    if isinstance(x, Scores):
        raise UnsupportedError("scores of every frame with every other, turned round")
    if isinstance(x, Heads):
        return _turned(x, order)
    return replace(x, axes=tuple(x.axes[axis] for axis in order))


def _turned(x: Heads, order: Sequence[int]) -> Heads:
    """Axes in another order where rows and heads are one of them."""
    p = x.place
    full = [axis for i in order for axis in ((p, p + 1) if i == p else (i + (i > p),))]
    axes, shape = tuple(x.tensor.axes[axis] for axis in full), tuple(x.tensor.shape[axis] for axis in full)
    return Heads(replace(x.tensor, axes=axes, shape=shape), order.index(p))


@handles("unsqueeze", frames=True)
def _unsqueeze(lo: Lowering, call: Call) -> Any:
    x = lo.moved(call)
    if isinstance(x, Lengths):
        return x
    dim = lo.arg(call, 1, "dim") % (len(x.axes) + 1)
    return replace(x, axes=(*x.axes[:dim], None, *x.axes[dim:]))


@handles("squeeze", frames=True)
def _squeeze(lo: Lowering, call: Call) -> Any:
    x = lo.moved(call)
    if isinstance(x, Lengths):
        return x
    rank = len(x.axes)
    dims = lo.arg(call, 1, "dim", None)
    dims = list(range(rank)) if dims is None else [dims] if isinstance(dims, int) else dims
    gone = set()
    for dim in dims:
        axis = x.axes[dim % rank]
        if axis is None or (isinstance(axis, int) and isinstance(x, Tensor) and lo.features(x)[axis] == 1):
            gone.add(dim % rank)
        elif x.shape and x.shape[dim % rank] == 1:
            raise UnsupportedError("squeeze of rows or frames, of which there was one when the module was traced")
    return replace(x, axes=tuple(axis for i, axis in enumerate(x.axes) if i not in gone))


@handles("expand", "expand_as", "broadcast_to", "repeat", frames=True)
def _expand(lo: Lowering, call: Call) -> Any:
    given = lo.arg(call, 0, "self")
    if isinstance(given, Known) and call.base == "expand_as":
        return given  # broadcasting does the rest
    x = lo.moved(call)
    if isinstance(x, Lengths):
        return x
    if isinstance(x, Within):  # what it is compared with broadcasts it
        return replace(x, axes=(*[None] * (len(call.shape or ()) - len(x.axes)), *x.axes))
    if call.base == "expand_as":
        like = lo.tensor(call, 1, "other")
        lead = len(like.axes) - len(x.axes)
        axes: tuple[Axis, ...] = (*[None] * lead, *x.axes)
        wanted = list(like.shape)
    else:
        wanted = list(lo.arg(call, 1, "repeats" if call.base == "repeat" else "size"))
        lead = len(wanted) - len(x.axes)
        axes = (*[None] * lead, *x.axes)
        if call.base == "repeat":
            x, wanted = _tiled(lo, replace(x, axes=axes), wanted)
            axes = x.axes
    x = replace(x, axes=axes)
    sizes = _sizes(lo, x)
    # A value without rows or frames on an axis is the same for all of them: torch's broadcasting does the rest.
    spread = [p for p, (n, size) in enumerate(zip(wanted, sizes, strict=True)) if n not in (-1, size) and size == 1]
    features = [p for p in spread if not _is_count(lo, axes, p, wanted[p], x)]
    axes = tuple(None if p in spread and p not in features else axis for p, axis in enumerate(axes))
    x = replace(x, axes=axes)
    if features:
        positions = sorted({*x.feature_positions, *features})
        name = lo.arranged(x, positions)
        full = tuple(wanted[p] if p in features else lo.features(name)[positions.index(p)] for p in positions)
        name = lo.emit("broadcast", name, features=full)
        x = replace(x, name=name, axes=tuple(positions.index(p) if p in positions else a for p, a in enumerate(axes)))
    return x


def _tiled(lo: Lowering, x: Tensor, times: list[int]) -> tuple[Tensor, list[int]]:
    """Features one behind the other so many times, and the times that are left: of axes of one."""
    left, name = list(times), x.name
    for place, axis in enumerate(x.axes):
        if times[place] == 1 or axis is None:
            continue
        if not isinstance(axis, int):
            raise UnsupportedError("rows or frames repeated one behind the other")
        size = lo.features(name)[axis]
        if size == 1:
            continue
        name = lo.emit("take", name, axis=axis, indices=tuple(range(size)) * times[place])
        left[place] = -1
    return replace(x, name=name), left


def _is_count(lo: Lowering, axes: Sequence[Axis], place: int, wanted: int, x: Tensor) -> bool:
    """Whether an axis of 1 that is spread to ``wanted`` becomes rows or frames rather than features."""
    axis = axes[place]
    if isinstance(axis, str) or (axis is not None and lo.features(x)[axis] != 1):
        return False
    return wanted == lo.steps and T not in axes and x.at is None and lo.clock(x) is None


def _sizes(lo: Lowering, x: Tensor) -> list[int]:
    features = lo.features(x)
    return [
        1 if axis is None else features[axis] if isinstance(axis, int) else -2  # -2: as many as there are
        for axis in x.axes
    ]


@handles("flip")
def _flip(lo: Lowering, call: Call) -> Tensor:
    x = lo.tensor(call)
    name = x.name
    for dim in lo.arg(call, 1, "dims"):
        axis = x.axes[dim % len(x.axes)]
        if axis == T:
            lo.sees_later(x, 1, "frames in reverse")
            name = lo.emit("reverse_time", name)
        elif isinstance(axis, int):
            name = lo.emit("take", name, axis=axis, indices=tuple(reversed(range(lo.features(x)[axis]))))
        elif axis is not None:
            raise Misread("rows in reverse")
    return replace(x, name=name)


@handles("roll")
def _roll(lo: Lowering, call: Call) -> Tensor:
    x, shifts, dims = lo.tensor(call), lo.arg(call, 1, "shifts"), lo.arg(call, 2, "dims", [])
    shifts, dims = ([v] if isinstance(v, int) else v for v in (shifts, dims))
    name = x.name
    for shift, dim in zip(shifts, dims, strict=True):
        axis = x.axes[dim % len(x.axes)]
        if not isinstance(axis, int):
            raise UnsupportedError("rows or frames moved round to the other end")
        size = lo.features(x)[axis]
        name = lo.emit("take", name, axis=axis, indices=tuple((i - shift) % size for i in range(size)))
    return replace(x, name=name)


@handles("pad", "constant_pad_nd")
def _pad(lo: Lowering, call: Call) -> Tensor:
    x, pads = lo.natural(lo.tensor(call)), lo.arg(call, 1, "pad")
    mode = lo.arg(call, 2, "mode", "constant") if call.base == "pad" else "constant"
    value = lo.arg(call, 3 if call.base == "pad" else 2, "value", 0) or 0
    rank, name, inner = len(x.axes), x.name, {}
    names = {"constant": "constant", "reflect": "reflect", "replicate": "edge", "circular": "wrap"}
    for i in range(0, len(pads), 2):
        left, right, axis = pads[i], pads[i + 1], x.axes[rank - 1 - i // 2]
        if not left and not right:
            continue
        if axis == T:
            if value:
                raise UnsupportedError("frames of padding that are not zero")
            more: dict[str, Any] = {} if mode == "constant" else {"mode": names[mode]}
            name = lo.emit("pad_time", name, left=left, right=right, **more)
        elif isinstance(axis, int):
            inner[axis] = (left, right)
        else:
            raise Misread("padding of rows")
    if inner:
        count = len(lo.features(name))
        sides = [tuple(inner.get(axis, (0, 0))[side] for axis in range(count)) for side in (0, 1)]
        name = lo.emit("pad_inner", name, pads=(*sides[0], *sides[1]), mode=names[mode], value=float(value))
    return replace(x, name=name)
