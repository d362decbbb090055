"""ATen operators that move numbers and change none: transposes, views, slices, joins; lone frames of a sequence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import prod
from typing import Any

import numpy as np

from ....errors import UnsupportedError
from .lowering import Lowering, handles
from .program import Call
from .values import BT, TB, Axis, B, Known, Lengths, Misread, States, T, Tensor

_END = (1 << 63) - 1


@handles("transpose", "swapaxes", "permute", "t", "movedim", "numpy_T", "mT", frames=True)
def _transpose(lo: Lowering, call: Call) -> Tensor:
    x = lo.tensor(call)
    rank = len(x.axes)
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
    return replace(x, axes=tuple(x.axes[axis] for axis in order))


@handles("unsqueeze", frames=True)
def _unsqueeze(lo: Lowering, call: Call) -> Any:
    x = lo.tensor(call)
    dim = lo.arg(call, 1, "dim") % (len(x.axes) + 1)
    return replace(x, axes=(*x.axes[:dim], None, *x.axes[dim:]))


@handles("squeeze", frames=True)
def _squeeze(lo: Lowering, call: Call) -> Any:
    x = lo.tensor(call)
    rank = len(x.axes)
    dims = lo.arg(call, 1, "dim", None)
    dims = list(range(rank)) if dims is None else [dims] if isinstance(dims, int) else dims
    gone = set()
    for dim in dims:
        axis = x.axes[dim % rank]
        if axis is None or (isinstance(axis, int) and lo.features(x)[axis] == 1):
            gone.add(dim % rank)
        elif x.shape and x.shape[dim % rank] == 1:
            raise UnsupportedError("squeeze of rows or frames, of which there was one when the module was traced")
    return replace(x, axes=tuple(axis for i, axis in enumerate(x.axes) if i not in gone))


@handles("expand", "expand_as", "broadcast_to", "repeat", frames=True)
def _expand(lo: Lowering, call: Call) -> Tensor:
    x = lo.tensor(call)
    if call.base == "expand_as":
        like = lo.tensor(call, 1, "other")
        lead = len(like.axes) - len(x.axes)
        axes: tuple[Axis, ...] = (*[None] * lead, *x.axes)
        wanted = list(like.shape)
    else:
        wanted = list(lo.arg(call, 1, "repeats" if call.base == "repeat" else "size"))
        lead = len(wanted) - len(x.axes)
        axes = (*[None] * lead, *x.axes)
        if call.base == "repeat" and any(n > 1 and axis is not None for n, axis in zip(wanted, axes, strict=True)):
            raise UnsupportedError("repeat along an axis of more than one")
    x = replace(x, axes=axes)
    sizes = _sizes(lo, x)
    # A value without rows or frames on an axis is the same for all of them: torch's broadcasting does the rest.
    spread = [p for p, (n, size) in enumerate(zip(wanted, sizes, strict=True)) if n not in (-1, size) and size == 1]
    features = [p for p in spread if not _is_count(lo, axes, p, wanted[p], x)]
    if features:
        positions = sorted({*x.feature_positions, *features})
        name = lo.arranged(x, positions)
        full = tuple(wanted[p] if p in features else lo.features(name)[positions.index(p)] for p in positions)
        name = lo.emit("broadcast", name, features=full)
        x = replace(x, name=name, axes=tuple(positions.index(p) if p in positions else a for p, a in enumerate(axes)))
    return x


def _is_count(lo: Lowering, axes: Sequence[Axis], place: int, wanted: int, x: Tensor) -> bool:
    """Whether an axis of 1 that is spread to ``wanted`` becomes rows or frames rather than features."""
    if axes[place] is not None:
        return False
    return wanted == lo.steps and T not in axes and x.at is None and lo.clock(x) is None


def _sizes(lo: Lowering, x: Tensor) -> list[int]:
    features = lo.features(x)
    return [
        1 if axis is None else features[axis] if isinstance(axis, int) else -2  # -2: as many as there are
        for axis in x.axes
    ]


# ---- views --------------------------------------------------------------------------------------------------


@handles("view", "reshape", "_unsafe_view", "flatten", "unflatten", frames=True)
def _reshape(lo: Lowering, call: Call) -> Any:
    value = lo.arg(call, 0, "self")
    if isinstance(value, Lengths):
        return value
    if isinstance(value, States):
        value = lo.stacked(value)
    if not isinstance(value, Tensor) or call.shape is None:
        raise UnsupportedError("a view of something that is no tensor of the network")
    return viewed(lo, value, call.shape)


def viewed(lo: Lowering, x: Tensor, wanted: tuple[int, ...]) -> Tensor:
    """x under the sizes ``wanted``: rows and frames keep an axis each, or share one; features are split and merged."""
    source = [(axis, size) for axis, size in zip(x.axes, x.shape, strict=True) if axis is not None]
    axes: list[Axis] = []
    groups: list[list[int]] = []  # sizes of features of the result, in one run of features of the source
    target = list(wanted)
    i = 0
    while i < len(source) or target:
        if not target and all(size == 1 for _, size in source[i:]):
            break
        if not target:
            raise Misread("a view that does not follow rows, frames and features")
        axis, size = source[i] if i < len(source) else (None, 1)
        if isinstance(axis, str):
            following = source[i + 1] if i + 1 < len(source) else (None, 1)
            if target[0] == size and not (len(target) > 1 and axis in (BT, TB)):
                axes.append(axis)
                target.pop(0)
                i += 1
            elif axis in (BT, TB) and len(target) > 1 and target[0] * target[1] == size:
                axes += [axis[0], axis[1]]
                del target[:2]
                i += 1
            elif axis in (BT, TB) and target[0] == size:
                axes.append(axis)
                target.pop(0)
                i += 1
            elif isinstance(following[0], str) and target[0] == size * following[1]:
                axes.append({(B, T): BT, (T, B): TB}[(axis, following[0])])
                target.pop(0)
                i += 2
            elif target[0] == 1:
                axes.append(None)
                target.pop(0)
            else:
                raise Misread(f"a view of {x.shape} as {wanted}, which mixes rows or frames with features")
            continue
        # A run of features: as many target sizes as multiply to what it holds.
        end = i
        total = 1
        while end < len(source) and not isinstance(source[end][0], str):
            total *= source[end][1]
            end += 1
        sizes: list[int] = []
        while target and (prod(sizes) < total or (end == len(source) and target[0] == 1)):
            sizes.append(target.pop(0))
        if prod(sizes) != total:
            raise Misread(f"a view of {x.shape} as {wanted}, which mixes features with rows or frames")
        groups.append(sizes)
        axes += [0] * len(sizes)
        i = end
    positions = [p for p, axis in enumerate(x.axes) if isinstance(axis, int)]
    features = tuple(size for group in groups for size in group)
    name = x.name
    if positions or features:
        name = lo.arranged(x, positions)
        if lo.features(name) != features:
            name = lo.emit("reshape", name, features=features)
    numbers = iter(range(len(axes)))
    return replace(x, name=name, axes=tuple(next(numbers) if axis == 0 else axis for axis in axes))


# ---- parts --------------------------------------------------------------------------------------------------


@handles("select", frames=True)
def _select(lo: Lowering, call: Call) -> Any:
    value, dim, index = lo.arg(call, 0, "self"), lo.arg(call, 1, "dim"), lo.arg(call, 2, "index")
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
            return replace(lo.natural(x), name=lo.last(lo.natural(x).name), axes=_without(lo.natural(x).axes, dim))
        if index < 0:
            index += lo.frames_of(x.name)
        return replace(x, axes=rest, at=index)
    if isinstance(axis, str):
        raise Misread(f"entry {index} of an axis of rows")
    index %= lo.features(x)[axis]
    name = lo.emit("slice", x.name, start=index, stop=index + 1, axis=axis)
    return replace(x, name=name, axes=rest)


def _without(axes: tuple[Axis, ...], dim: int) -> tuple[Axis, ...]:
    return (*axes[:dim], *axes[dim + 1 :])


@handles("slice", "narrow", frames=True)
def _slice(lo: Lowering, call: Call) -> Any:
    value, dim = lo.arg(call, 0, "self"), lo.arg(call, 1, "dim", 0)
    start, end, step = lo.arg(call, 2, "start", None), lo.arg(call, 3, "end", None), lo.arg(call, 4, "step", 1)
    if call.base == "narrow":
        end = start + lo.arg(call, 3, "length")
    start, end = start or 0, _END if end is None else end
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
    return replace(value, name=lo.emit("slice", value.name, start=begin, stop=stop, step=step, axis=axis))


def cropped(lo: Lowering, x: Tensor, dim: int, start: int, end: int, step: int) -> Tensor:
    """Frames ``start`` to ``end``: those cut off at the two ends are a fixed number, or there is one left."""
    frames = lo.frames_of(x.name)
    begin, stop, _ = slice(start, end, 1).indices(frames)
    if step != 1:
        raise UnsupportedError("every so many frames of a sequence; a convolution or pooling with a stride runs")
    if end >= frames and end != _END:
        end = _END
    if start == -1 or (stop - begin == 1 and begin == frames - 1 and start < 0):
        one = replace(lo.natural(x), name=lo.last(lo.natural(x).name))
        return replace(one, axes=tuple(None if p == dim else axis for p, axis in enumerate(one.axes)))
    if stop - begin == 1:
        return replace(x, axes=tuple(None if p == dim else axis for p, axis in enumerate(x.axes)), at=begin)
    if start < 0 or (end != _END and end > 0):
        raise UnsupportedError(
            f"frames {start}:{'' if end == _END else end} of a sequence, a number of frames that does not grow with it"
        )
    right = 0 if end == _END else end
    return replace(x, name=lo.emit("pad_time", x.name, left=-start, right=right))


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
    return value[call.args[1]]


@handles("index", "index_select", "gather")
def _index(lo: Lowering, call: Call) -> Any:
    x = lo.tensor(call)
    if call.base == "index":
        indices = lo.arg(call, 1, "indices")
        given = [(i, index) for i, index in enumerate(indices) if index is not None]
        if len(given) == 2 and x.axes[:2] == (B, T) and isinstance(given[1][1], Lengths):
            return replace(
                lo.natural(x),
                name=lo.last(lo.natural(x).name),
                axes=lo.natural(x).axes[:1] + tuple(axis for axis in lo.natural(x).axes[2:]),
            )
        if len(given) != 1:
            raise UnsupportedError("entries by several arrays of indices")
        dim, index = given[0]
    elif call.base == "index_select":
        dim, index = lo.arg(call, 1, "dim") % len(x.axes), lo.arg(call, 2, "index")
    else:
        raise UnsupportedError("entries that depend on the input")
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


@handles("flip")
def _flip(lo: Lowering, call: Call) -> Tensor:
    x = lo.tensor(call)
    name = x.name
    for dim in lo.arg(call, 1, "dims"):
        axis = x.axes[dim % len(x.axes)]
        if axis == T:
            name = lo.emit("reverse_time", name)
        elif isinstance(axis, int):
            name = lo.emit("take", name, axis=axis, indices=tuple(reversed(range(lo.features(x)[axis]))))
        elif axis is not None:
            raise Misread("rows in reverse")
    return replace(x, name=name)


# ---- joins --------------------------------------------------------------------------------------------------


@handles("stack", "cat", "concat", "concatenate", frames=True)
def _join(lo: Lowering, call: Call) -> Tensor:
    from .pointwise import together

    values = lo.arg(call, 0, "tensors")
    values = [lo.stacked(v) if isinstance(v, States) else v for v in values]
    dim = lo.arg(call, 1, "dim", 0)
    tensors = [v for v in values if isinstance(v, Tensor)]
    rank = len(tensors[0].axes) + (call.base == "stack")
    dim %= rank
    if call.base == "stack":
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
    from .pointwise import known_features

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
