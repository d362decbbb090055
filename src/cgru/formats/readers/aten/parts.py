"""Parts of a tensor: entries, slices, lone frames of a sequence, and parts that are written."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from ....errors import UnsupportedError
from .counted import rows_counted, taken_at
from .joins import joined
from .lowering import Lowering, handles
from .program import Call
from .values import Assembled, B, Known, Lengths, Misread, States, T, Tensor, Within

_END = (1 << 63) - 1


@handles("select", frames=True)
def _select(lo: Lowering, call: Call) -> Any:
    value, dim, index = lo.arg(call, 0, "self"), lo.arg(call, 1, "dim"), lo.arg(call, 2, "index")
    if isinstance(value, Assembled):
        size = value.base.array.shape[value.dim]
        if dim % value.base.array.ndim == value.dim and index % size in value.parts:
            return value.parts[index % size]
        value = lo.assembled(value)
    if isinstance(value, States):
        if dim % 3 == 0:
            return Tensor(value.parts[index], (B, 0))
        value = lo.stacked(value)
    return selected(lo, value, dim, index)


def selected(lo: Lowering, x: Tensor, dim: int, index: int) -> Tensor:
    dim %= len(x.axes)
    axis, rest = x.axes[dim], (*x.axes[:dim], *x.axes[dim + 1 :])
    if axis is None:
        return replace(x, axes=rest)
    if axis == T:
        if index == -1:
            return lo.last_of(x, dim)
        if index < 0:
            index += lo.frames_of(x.name)
        return replace(x, axes=rest, at=index)
    if isinstance(axis, str):
        raise Misread(f"entry {index} of an axis of rows")
    index %= lo.features(x)[axis]
    if lo.g.values[x.name].dtype == "int64":
        return replace(x, axes=rest, column=index)
    name = lo.emit("slice", x.name, start=index, stop=index + 1, axis=axis)
    return replace(x, name=name, axes=rest)


@handles("slice", "narrow", frames=True)
def _slice(lo: Lowering, call: Call) -> Any:
    value, dim = lo.arg(call, 0, "self"), lo.arg(call, 1, "dim", 0)
    start, end, step = lo.arg(call, 2, "start", None), lo.arg(call, 3, "end", None), lo.arg(call, 4, "step", 1)
    if call.base == "narrow":
        end = start + lo.arg(call, 3, "length")
    start, end = start or 0, _END if end is None else end
    if isinstance(value, Assembled):
        size = value.base.array.shape[dim]
        if (start, step) == (0, 1) and end >= size:
            return value
        value = lo.assembled(value)
    if isinstance(value, Within):
        axis = value.axes[dim % len(value.axes)]
        if (start, step) == (0, 1) and (end >= _END or end == value.shape[dim % len(value.axes)]):
            return value
        raise UnsupportedError(f"{start}:{end} of a mask's axis of {axis}")
    if isinstance(value, States):
        if dim % 3 == 0:
            return States(value.parts[slice(start, end, step)])
        value = lo.stacked(value)
    if isinstance(value, Lengths):
        return value
    dim %= len(value.axes)
    axis = value.axes[dim]
    if (
        start == 0
        and end >= (_END if axis is None or isinstance(axis, str) else lo.features(value)[axis])
        and step == 1
    ):
        return value
    if axis == T:
        return cropped(lo, value, dim, start, end, step)
    if not isinstance(axis, int):
        if isinstance(axis, str) and value.shape and start == 0 and end == value.shape[dim]:
            return value
        raise Misread(f"{start}:{end} of an axis of rows")
    size = lo.features(value)[axis]
    begin, stop, _ = slice(start, end, step).indices(size)
    if begin >= stop:
        raise UnsupportedError(f"{start}:{end} of {size} features is nothing")
    if lo.g.values[value.name].dtype == "int64":
        if stop - begin != 1:
            raise UnsupportedError("some of the ids of a frame; one at a time is embedded")
        return replace(value, column=begin, axes=tuple(None if p == dim else a for p, a in enumerate(value.axes)))
    return replace(value, name=lo.emit("slice", value.name, start=begin, stop=stop, step=step, axis=axis))


def cropped(lo: Lowering, x: Tensor, dim: int, start: int, end: int, step: int) -> Tensor:
    """Frames ``start`` to ``end``: those cut off at the two ends are a fixed number, or there is one left."""
    frames = lo.frames_of(x.name)
    begin, stop, _ = slice(start, end, 1).indices(frames)
    if end >= frames and end != _END:
        end = _END
    if step == 1 and stop - begin == 1:
        if start == -1 or (begin == frames - 1 and start < 0):
            one = lo.last_of(x, dim)
            return replace(one, axes=(*one.axes[:dim], None, *one.axes[dim:]))
        return replace(x, axes=tuple(None if p == dim else axis for p, axis in enumerate(x.axes)), at=begin)
    if start < 0 and (end == _END or start < end < 0) and begin < stop:
        return _last_frames(lo, x, dim, -start, 0 if end == _END else -end, step)
    if 0 < end == lo.steps < frames and not lo.exported:
        end -= frames  # x[:, :T] of something longer: T as it is in every call, which another size will show
    if start < 0 or (end != _END and end > 0):
        raise UnsupportedError(
            f"frames {start}:{'' if end == _END else end} of a sequence, a number of frames that does not grow with it"
        )
    right, name = 0 if end == _END else end, x.name
    if lo.lengths and right:
        raise UnsupportedError("frames cut off at the end, where rows have lengths")
    if start or right:
        name = lo.emit("pad_time", name, left=-start, right=right)
    if step != 1:
        lo.evident = True
        name = lo.emit("pool", name, kind="max", width=1, stride=step)
    return replace(x, name=name).followed_by(x.behind)


def _last_frames(lo: Lowering, x: Tensor, dim: int, count: int, less: int, step: int) -> Tensor:
    """The last ``count`` frames but for ``less`` at the end, on a feature axis: a number that does not grow."""
    if lo.lengths:
        raise UnsupportedError("the last frames, where rows have lengths, are padding in shorter rows")
    lo.evident = True
    x = lo.natural(x)
    name = lo.emit("fold_time", x.name, frames=count, last=True)
    if less or step != 1:
        name = lo.emit("slice", name, start=0, stop=count - less, step=step, axis=0)
    return replace(x, name=name, axes=tuple(0 if p == dim else a + 1 if isinstance(a, int) else a
                                            for p, a in enumerate(x.axes))).followed_by(None)  # fmt: skip


@handles("diff", frames=True)
def _diff(lo: Lowering, call: Call) -> Tensor:
    """x_t − x_{t−1} along an axis; what is put in front stands for the one before the first."""
    x, dim = lo.natural(lo.tensor(call)), lo.arg(call, 2, "dim", -1)
    before, behind = lo.arg(call, 3, "prepend", None), lo.arg(call, 4, "append", None)
    if lo.arg(call, 1, "n", 1) != 1 or behind is not None or x.at is not None:
        raise UnsupportedError("differences of differences, or with something behind the last")
    axis = x.axes[dim % len(x.axes)]
    if axis != T and (before is not None or not isinstance(axis, int)):
        raise UnsupportedError("differences along rows, or of features with something in front")
    if isinstance(axis, int):
        size = lo.features(x)[axis]
        late, early = (lo.emit("slice", x.name, start=i, stop=size - 1 + i, axis=axis) for i in (1, 0))
        return replace(x, name=lo.emit("sub", late, early))
    lo.evident = True
    if before is None:
        late = lo.emit("pad_time", x.name, left=-1, right=0)
        early = lo.emit("pad_time", x.name, left=0, right=-1)
        return replace(x, name=lo.emit("sub", late, early))
    shifted = replace(x, name=lo.emit("pad_time", x.name, left=0, right=-1))
    last = joined(lo, [before, shifted], dim % len(x.axes), stack=False)
    return replace(x, name=lo.emit("sub", x.name, lo.natural(last).name))


@handles("written", frames=True)
def _written(lo: Lowering, call: Call) -> Any:
    """A value with another written into part of it: what views it was written through come as a list."""
    base, part, chain = lo.arg(call, 0, "self"), lo.arg(call, 1, "src"), call.args[2]
    shape = list(base.base.array.shape if isinstance(base, Assembled) else base.array.shape
                 if isinstance(base, Known) else base.shape)  # fmt: skip
    left = list(range(len(shape)))  # the axes of the whole that the view has still
    places = []
    for kind, dim, *how in reversed(chain):
        axis = left[dim % len(left)]
        if kind == "select":
            places.append((axis, how[0] % shape[axis], how[0] % shape[axis] + 1, True))
            left.remove(axis)
        else:
            begin, stop, step = slice(*how).indices(shape[axis])
            if (begin, stop, step) != (0, shape[axis], 1):
                if step != 1:
                    raise UnsupportedError("writing into every so many entries")
                places.append((axis, begin, stop, False))
    if len(places) != 1:
        raise UnsupportedError(f"writing into a part of {len(places)} axes at once")
    ((axis, begin, stop, alone),) = places
    if isinstance(base, (Known, Assembled)):
        if isinstance(base, Assembled) and base.dim != axis:
            base = lo.assembled(base)
        elif stop - begin == 1:
            held = base if isinstance(base, Assembled) else Assembled(base, axis, {})
            one = part if alone else selected(lo, part, axis, 0) if isinstance(part, Tensor) else Known(part.array[0])
            return replace(held, parts={**held.parts, begin: one})
        else:
            base = lo.assembled(base) if isinstance(base, Assembled) else base
    if not alone:
        pieces = [part]
    elif isinstance(part, Tensor):
        pieces = [replace(part, axes=(*part.axes[:axis], None, *part.axes[axis:]))]
    else:
        pieces = [Known(np.expand_dims(part.array, axis))]
    before = [_piece(lo, base, axis, 0, begin)] if begin else []
    behind = [_piece(lo, base, axis, stop, shape[axis])] if stop < shape[axis] else []
    return joined(lo, [*before, *pieces, *behind], axis, stack=False)


def _piece(lo: Lowering, base: Any, axis: int, begin: int, stop: int) -> Any:
    if isinstance(base, Known):
        return Known(base.array.take(range(begin, stop), axis=axis))
    if not isinstance(base.axes[axis], int):
        raise UnsupportedError("writing into rows or frames of something computed")
    return replace(base, name=lo.emit("slice", base.name, start=begin, stop=stop, axis=base.axes[axis]))


@handles("copy", frames=True)
def _copy(lo: Lowering, call: Call) -> Any:
    source = lo.arg(call, 0, "src")
    if isinstance(source, Tensor) and call.shape is not None and len(source.axes) < len(call.shape):
        source = replace(source, axes=(*[None] * (len(call.shape) - len(source.axes)), *source.axes))
    return source


@handles("unbind", frames=True)
def _unbind(lo: Lowering, call: Call) -> list[Any]:
    value, dim = lo.arg(call, 0, "self"), lo.arg(call, 1, "dim", 0)
    if isinstance(value, States) and dim % 3 == 0:
        return [Tensor(part, (B, 0)) for part in value.parts]
    x = lo.stacked(value) if isinstance(value, States) else value
    axis = x.axes[dim % len(x.axes)]
    count = lo.frames_of(x.name) if axis == T else x.shape[dim % len(x.axes)]
    return [selected(lo, x, dim, i) for i in range(count)]


@handles("chunk", "split", "split_with_sizes", "tensor_split", frames=True)
def _split(lo: Lowering, call: Call) -> list[Any]:
    value = lo.arg(call, 0, "self")
    x = lo.stacked(value) if isinstance(value, States) else value
    part, dim = (
        lo.arg(
            call,
            1,
            "chunks" if call.base == "chunk" else "split_size" if "split_size" in call.kwargs else "split_sizes",
            None,
        ),
        lo.arg(call, 2, "dim", 0),
    )
    dim %= len(x.axes)
    axis = x.axes[dim]
    if axis == T and part == 1 and call.base == "split":
        frames = [selected(lo, x, dim, i) for i in range(lo.frames_of(x.name))]
        return [replace(one, axes=(*one.axes[:dim], None, *one.axes[dim:])) for one in frames]
    if not isinstance(axis, int):
        raise Misread("parts of an axis that is not of features")
    size = lo.features(x)[axis]
    if isinstance(part, list):
        sizes = part
    else:
        width = -(-size // part) if call.base == "chunk" else part
        sizes = [min(width, size - start) for start in range(0, size, width)]
    made, start = [], 0
    for width in sizes:
        made.append(replace(x, name=lo.emit("slice", x.name, start=start, stop=start + width, axis=axis)))
        start += width
    return made


@handles("getitem")
def _getitem(lo: Lowering, call: Call) -> Any:
    value = lo._resolved(call.args[0])
    if not isinstance(value, (list, tuple)):
        raise UnsupportedError("a part of something that has none")
    return value[call.args[1]]


@handles("index", "index_select", "gather")
def _index(lo: Lowering, call: Call) -> Any:
    value = lo.arg(call, 0, "self")
    order = lo.arg(call, 2, "index") if call.base == "index_select" else None
    if isinstance(value, Lengths) or (isinstance(value, States) and isinstance(order, Lengths) and order.order):
        return value
    x = lo.tensor(call)
    if call.base == "index":
        indices = lo.arg(call, 1, "indices")
        given = [(i, index) for i, index in enumerate(indices) if index is not None]
        if len(given) == 2 and x.axes[:2] == (B, T) and _last_of_each(given[1][1]):
            return replace(lo.natural(x), name=lo.last(lo.natural(x).name), axes=(B, *lo.natural(x).axes[2:]))
        by_row = len(given) == 2 and x.axes[:2] == (B, T) and bool(x.shape) and rows_counted(given[0][1], x.shape[0])
        if by_row and isinstance(given[1][1], Tensor):
            return taken_at(lo, x, 1, given[1][1], keep=False)
        if len(given) != 1:
            raise UnsupportedError("entries by several arrays of indices")
        dim, index = given[0]
    elif call.base == "index_select":
        dim, index = lo.arg(call, 1, "dim") % len(x.axes), lo.arg(call, 2, "index")
    else:
        dim, index = lo.arg(call, 1, "dim") % len(x.axes), lo.arg(call, 2, "index")
        if isinstance(index, Tensor) and call.base == "gather":
            return taken_at(lo, x, dim, index, keep=True)
        if x.axes[dim] != T or not _last_of_each(index):
            raise UnsupportedError("entries that depend on the input")
        x = lo.natural(x)
        return replace(x, name=lo.last(x.name), axes=(*x.axes[:dim], None, *x.axes[dim + 1 :]))
    axis = x.axes[dim]
    if isinstance(index, Lengths) and index.order and axis == B:
        return x
    if not isinstance(index, Known) or index.array.ndim != 1 or index.array.dtype.kind != "i":
        raise UnsupportedError("entries by an array that is not constant")
    if not isinstance(axis, int):
        raise Misread("entries by index of an axis that is not of features")
    size = lo.features(x)[axis]
    indices = tuple(int(i) % size for i in index.array)
    return replace(x, name=lo.emit("take", x.name, axis=axis, indices=indices))


def _last_of_each(index: Any) -> bool:
    return isinstance(index, Lengths) and not index.order and index.offset == -1
