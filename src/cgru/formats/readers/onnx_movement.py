"""ONNX' operators that move numbers: axes renamed without a copy where they can be, numbers moved where they must."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ...errors import FormatError, UnsupportedError
from ..containers.onnx_records import Node
from . import onnx_fold as fold
from .onnx_arithmetic import Broadcast, output_name
from .onnx_framing import framed
from .onnx_lowering import Lowering, handles, joined_sizes, renamed, reshaped_sizes
from .onnx_values import (
    BATCH,
    TIME,
    Atom,
    Count,
    Known,
    Size,
    Tensor,
    Unfolded,
    Value,
    divided,
    product,
    step_of,
    whole_numbers,
)


def _arrays(inputs: Sequence[Value | None]) -> list[Any]:
    """The arrays of what is known among the inputs; the first, which is not, stands as an empty one."""
    return [value.array if isinstance(value, Known) else None for value in inputs]


def _axis(node: Node, rank: int, default: int = 0, name: str = "axis") -> int:
    axis = int(node.attributes.get(name, default))
    if not -rank <= axis < max(rank, 1):
        raise FormatError(f"{node}: axis {axis} of {rank}")
    return axis % rank if rank else 0


# Axes renamed -----------------------------------------------------------------------------------------------------


@handles("Transpose")
def _transpose(low: Lowering, node: Node, inputs: list[Value | None]) -> Value:
    x = low.tensor(inputs[0], node)
    order = node.attributes.get("perm", tuple(reversed(range(x.rank))))
    if sorted(order) != list(range(x.rank)):
        raise FormatError(f"{node}: {order} does not name each of {x.rank} axes once")
    return renamed(x, [x.axes[axis] for axis in order])


@handles("Unsqueeze")
def _unsqueeze(low: Lowering, node: Node, inputs: list[Value | None]) -> Value:
    x = low.tensor(inputs[0], node)
    axes = fold.axes_of(node, _arrays(inputs)) or []
    made = list(x.axes)
    for axis in sorted(axis % (x.rank + len(axes)) for axis in axes):
        made.insert(axis, ())
    return renamed(x, made)


@handles("Squeeze")
def _squeeze(low: Lowering, node: Node, inputs: list[Value | None]) -> Value:
    x = low.tensor(inputs[0], node)
    sizes = low.draft.shape(x)
    axes = fold.axes_of(node, _arrays(inputs))
    which = {axis % x.rank for axis in axes} if axes else {i for i, size in enumerate(sizes) if size == 1}
    for axis in which:
        if sizes[axis] != 1:
            raise low.unsupported(node, f"axis {axis}, which it removes, has more than one entry")
        if any(isinstance(atom, str) for atom in x.axes[axis]):
            raise low.unsupported(node, f"axis {axis}, which it removes, is that of rows or frames")
    return renamed(x, [atoms for axis, atoms in enumerate(x.axes) if axis not in which])


@handles("Flatten")
def _flatten(low: Lowering, node: Node, inputs: list[Value | None]) -> Value:
    x = low.tensor(inputs[0], node)
    axis = int(node.attributes.get("axis", 1))
    axis = axis + x.rank if axis < 0 else axis
    return renamed(x, [sum(x.axes[:axis], ()), sum(x.axes[axis:], ())])


@handles("Reshape")
def _reshape(low: Lowering, node: Node, inputs: list[Value | None]) -> Value:
    x = low.tensor(inputs[0], node)
    given = node.attributes.get("shape") if node.version < 5 else whole_numbers(inputs[1], f"{node}: the shape")
    sizes = low.draft.shape(x)
    try:
        return regrouped(low, node, x, reshaped_sizes(sizes, list(given or ()), node))
    except (UnsupportedError, FormatError, Unfolded) as error:
        if (made := framed(low, x, list(given or ()))) is not None:
            return made
        if not any(isinstance(size, Count) for size in sizes):
            raise
        raise low.unsupported(
            node, f"the shape {list(given or ())} of {list(sizes)}; where the file was made for rows or frames of one "
            "number, though it declares them open, say that: inputs={'x': (None, 9, 40)}",
        ) from error  # fmt: skip


def regrouped(low: Lowering, node: Node, x: Tensor, wanted: Sequence[Size]) -> Tensor:
    """The same numbers in the same order under other axes: each wanted one takes as many of what x has as it needs.

    A feature axis may be split; rows and frames stay whole.
    """
    draft = low.draft
    parts: list[tuple[Atom, Size]] = [
        (atom, draft.atom_size(x, atom))
        for axis in x.axes
        for atom in axis
        if draft.atom_size(x, atom) != 1 or atom in (BATCH, TIME)
    ]
    if product(size for _, size in parts) != product(wanted):
        raise FormatError(f"{node}: a shape of {tuple(wanted)} for {draft.shape(x)}")
    # Pieces of feature axes, in order, and for each wanted axis which of them it consists of.
    pieces: list[tuple[int, int]] = []
    axes: list[list[Atom]] = []
    queue = list(parts)
    for size in wanted:
        taken: list[Atom] = []
        done: Size = 1
        while done != size:
            if not queue:
                raise low.unsupported(node, f"rows or frames would be split to give the shape {tuple(wanted)}")
            atom, have = queue.pop(0)
            if divided(size, done * have) is not None:
                taken.append(atom if isinstance(atom, str) else len(pieces))
                if isinstance(atom, int):
                    pieces.append((atom, int(have)))
                done = done * have
                continue
            rest = divided(size, done)
            if isinstance(atom, str) or not isinstance(rest, int) or isinstance(have, Count) or have % rest:
                raise low.unsupported(node, f"rows or frames would be split to give the shape {tuple(wanted)}")
            taken.append(len(pieces))
            pieces.append((atom, rest))
            queue.insert(0, (atom, have // rest))
            done = size
        axes.append(taken)
    # A static number of rows or frames of 1 goes where the axes of size 1 are left.
    for atom, _ in queue:
        if atom in (BATCH, TIME):
            free = [i for i, axis in enumerate(axes) if not axis]
            if not free:
                raise low.unsupported(node, "the axis of rows or frames, of size 1, is reshaped away")
            axes[free[0]].append(atom)
    order = [atom for atom, _ in pieces]
    name = draft.arranged(x, [(atom,) for atom in dict.fromkeys(order)] or [()])
    sizes = tuple(size for _, size in pieces) or (1,)
    if draft.type(name).features != sizes:
        name = draft.emit("reshape", name, features=sizes)
    return Tensor(name, tuple(map(tuple, axes)), x.dtype)


# Parts of an axis -------------------------------------------------------------------------------------------------


def sliced(low: Lowering, node: Node, x: Tensor, axis: int, part: slice) -> Tensor:
    """x along one axis from ``part.start`` to ``part.stop``; negative numbers count from the end."""
    draft = low.draft
    size = draft.axis_size(x, axis)
    segments = draft.segments(x, axis)
    if part in (slice(None, None, 1), slice(0, None, 1)):
        return x
    if segments == [TIME]:
        return _frames_sliced(low, node, x, axis, part, size)
    if not isinstance(size, int) or any(isinstance(segment, str) for segment in segments):
        raise low.unsupported(node, "it takes some of the rows")
    start, stop, step = part.indices(size)
    indices = range(start, stop, step)
    if len(indices) == size and step == 1:
        return x
    if not indices:
        raise low.unsupported(node, "nothing is left of an axis")
    return taken(low, node, x, axis, list(indices))


def taken(low: Lowering, node: Node, x: Tensor, axis: int, indices: list[int]) -> Tensor:
    """Entries of a feature axis by their indices; the axis stays."""
    name, axes, at = _isolated(low, node, x, axis)
    if at is None:
        return x if indices == [0] else _repeated(low, x, axis, len(indices))
    step = indices[1] - indices[0] if len(indices) > 1 else 1
    if step > 0 and indices == list(range(indices[0], indices[-1] + 1, step)):
        made = low.draft.emit("slice", name, start=indices[0], stop=indices[-1] + 1, step=step, axis=at)
    else:
        made = low.draft.emit("take", name, axis=at, indices=tuple(indices))
    return Tensor(made, axes, x.dtype)


def _repeated(low: Lowering, x: Tensor, axis: int, count: int) -> Tensor:
    """x with an axis of size 1 repeated."""
    if any(isinstance(atom, str) for atom in x.axes[axis]):
        raise Unfolded
    features = low.draft.features(x)
    name = low.draft.emit("reshape", x.name, features=(*features, 1))
    made = low.draft.emit("broadcast", name, features=(*features, count))
    axes = list(x.axes)
    axes[axis] = (len(features),)
    return Tensor(made, tuple(axes), x.dtype)


def _isolated(low: Lowering, node: Node, x: Tensor, axis: int) -> tuple[str, tuple[tuple[Atom, ...], ...], int | None]:
    """x with ``axis`` as one feature axis: the value, its axes then, and which one it is (None: of size 1)."""
    segments = low.draft.segments(x, axis)
    if not segments:
        return x.name, x.axes, None
    if len(segments) > 1 or isinstance(segments[0], str):
        raise low.unsupported(node, "an axis mixes features with rows or frames")
    group = segments[0]
    if len(group) == 1:
        return x.name, x.axes, group[0]
    features = low.draft.features(x)
    at = min(group)
    groups: list[tuple[int, ...]] = [(i,) for i in range(len(features)) if i not in group]
    groups.insert(sum(members[0] < at for members in groups), group)
    name = low.draft.arranged(x, groups)
    place = {member: i for i, members in enumerate(groups) for member in members}
    axes = tuple(tuple(dict.fromkeys(place[a] if isinstance(a, int) else a for a in atoms)) for atoms in x.axes)
    return name, axes, place[at]


#: From here on a bound means the beginning of the axis, whatever its size: exporters write the smallest whole number.
TO_THE_BEGINNING = -(1 << 31) + 1


def _frames_sliced(low: Lowering, node: Node, x: Tensor, axis: int, part: slice, size: Size) -> Tensor:
    """Frames cut off at the ends, every n-th frame, or the last one alone."""
    start, stop, step = part.start, part.stop, part.step or 1
    if isinstance(size, int):
        first, last, step = part.indices(size)
        start, stop = first, (last - size if last < size else None)
        if size and (first, last) == (size - 1, size):
            start = -1
    if (start, stop, step) == (-1, None, 1):
        return _one_frame(low, x, "last")
    if (start or 0, stop, step) == (0, 1, 1) and not isinstance(size, int):
        return _one_frame(low, x, "first")
    if step == -1 and start in (-1, None) and (stop is None or stop <= TO_THE_BEGINNING):
        return Tensor(low.draft.emit("reverse_time", x.name), x.axes, x.dtype)
    if step < 1 or (start or 0) < 0 or (stop is not None and stop >= 0):
        raise low.unsupported(node, f"it takes frames {part.start}:{part.stop}:{step} of a sequence of any length")
    right = stop or 0
    if step == 1:
        made = low.draft.emit("pad_time", x.name, left=-(start or 0), right=right)
        return Tensor(made, x.axes, x.dtype)
    features = low.draft.features(x)
    made = low.draft.emit("stack_frames", x.name, width=1, stride=step, left=-(start or 0), right=right)
    return Tensor(low.draft.emit("reshape", made, features=features or (1,)), x.axes, x.dtype)


def _one_frame(low: Lowering, x: Tensor, kind: str) -> Tensor:
    made = low.draft.emit("pool_whole", x.name, kind=kind)
    return Tensor(made, tuple(tuple(a for a in atoms if a != TIME) for atoms in x.axes), x.dtype)


@handles("ReverseSequence")
def _reverse_sequence(low: Lowering, node: Node, inputs: list[Value | None]) -> Value:
    """Whole axes turned round: a sequence from each row's own end, as ``sequence_lens`` of the network's own says."""
    x, lengths = low.tensor(inputs[0], node), inputs[1]
    rows, axis = _axis(node, x.rank, 1, "batch_axis"), _axis(node, x.rank, 0, "time_axis")
    size, over_time = low.draft.axis_size(x, axis), low.draft.segments(x, axis) == [TIME]
    if isinstance(lengths, Tensor) and lengths.name in low.lengths:
        if not over_time or BATCH not in x.axes[rows]:
            raise low.unsupported(node, "the lengths of rows for another axis than that of frames")
    elif not isinstance(lengths, Known) or any(length != size for length in lengths.array.reshape(-1)):
        raise low.unsupported(node, "sequence_lens other than the network's own or whole ones")
    if over_time:
        return Tensor(low.draft.emit("reverse_time", x.name), x.axes, x.dtype)
    if not isinstance(size, int):
        raise low.unsupported(node, "it turns round the axis of rows")
    return taken(low, node, x, axis, list(range(size))[::-1])


@handles("Slice")
def _slice(low: Lowering, node: Node, inputs: list[Value | None]) -> Value:
    x = low.tensor(inputs[0], node)
    for axis, part in fold.slices(node, [None, *_arrays(inputs[1:])], x.rank, low.draft.shape(x)):
        x = sliced(low, node, x, axis, part)
    return x


@handles("Split")
def _split(low: Lowering, node: Node, inputs: list[Value | None]) -> Sequence[Value]:
    x = low.tensor(inputs[0], node)
    axis = _axis(node, x.rank)
    size = low.draft.axis_size(x, axis)
    if not isinstance(size, int):
        raise Unfolded
    made, at = [], 0
    for part in fold.split_sizes(node, [None, *_arrays(inputs[1:])], size):
        made.append(sliced(low, node, x, axis, slice(at, at + part, 1)))
        at += part
    return made


@handles("Gather")
def _gather(low: Lowering, node: Node, inputs: list[Value | None]) -> Value:
    data, indices = inputs
    if isinstance(indices, Tensor):
        return _embedding(low, node, data, indices)
    x = low.tensor(data, node)
    axis = _axis(node, x.rank)
    if isinstance(indices, Known) and indices.is_shape and indices.array.size == 1:
        return at_step(low, node, x, axis, indices)
    which = low.known(indices, node, "the indices").astype(np.int64)
    size = low.draft.axis_size(x, axis)
    if which.size == 1:
        index = int(which.reshape(-1)[0])
        made = sliced(low, node, x, axis, slice(index, index + 1 or None, 1))
    else:
        if not isinstance(size, int):
            raise Unfolded
        flat = [int(i) % size for i in which.reshape(-1)]
        made = taken(low, node, x, axis, flat) if TIME not in x.axes[axis] else _never(low, node)
    if which.ndim == 1:
        return made
    split = [int(n) for n in which.shape]
    sizes = low.draft.shape(made)
    return regrouped(low, node, made, [*sizes[:axis], *split, *sizes[axis + 1 :]])


def at_step(low: Lowering, node: Node, x: Tensor, axis: int, index: Known) -> Tensor:
    """Inside a loop over time: the frame of its step, of a sequence that has one for each."""
    found = step_of(index.array.reshape(-1)[0])
    if found is None or found[1] != 0 or low.draft.segments(x, axis) != [TIME]:
        raise Unfolded
    if low.draft.atom_size(x, TIME) != found[0].count:
        raise low.unsupported(node, "a sequence of another length than the loop has iterations")
    return renamed(x, [*x.axes[:axis], *[()] * index.array.ndim, *x.axes[axis + 1 :]])


def _never(low: Lowering, node: Node) -> Tensor:
    raise low.unsupported(node, "it takes single frames out of a sequence")


def _embedding(low: Lowering, node: Node, data: Value | None, ids: Tensor) -> Tensor:
    """Rows of a table by ids that the input holds."""
    table = low.known(data, node, "the table")
    if _axis(node, table.ndim) != 0 or table.ndim != 2 or ids.dtype != "int64":
        raise low.unsupported(node, "entries chosen by the input, other than rows of a matrix")
    name = ids.name
    weights = {"weight": table.astype(np.float32)}
    made = low.draft.emit("embedding", name, vocabulary=len(table), units=table.shape[1], weights=weights)
    return Tensor(made, (*ids.axes, (len(low.draft.type(made).features) - 1,)))


@handles("OneHot")
def _one_hot(low: Lowering, node: Node, inputs: list[Value | None]) -> Tensor:
    """An id as a row of an identity: ``values`` holds what is elsewhere and what is at its place."""
    ids = low.tensor(inputs[0], node)
    depth = int(low.known(inputs[1], node, "the depth").reshape(-1)[0])
    elsewhere, there = (float(item) for item in low.known(inputs[2], node, "the values").reshape(-1))
    axis = int(node.attributes.get("axis", -1))
    if ids.dtype != "int64" or axis not in (-1, ids.rank):
        raise low.unsupported(node, "other than of ids of the input, along a last axis")
    fold.check_size([depth, depth])
    table = np.where(np.eye(depth, dtype=bool), there, elsewhere).astype(np.float32)
    made = low.draft.emit("embedding", ids.name, vocabulary=depth, units=depth, weights={"weight": table})
    return Tensor(made, (*ids.axes, (len(low.draft.type(made).features) - 1,)))


# Values joined ----------------------------------------------------------------------------------------------------


@handles("Concat")
def _concat(low: Lowering, node: Node, inputs: list[Value | None]) -> Value:
    operands = [value for value in inputs if value is not None]
    operands = [value for value in operands if not (isinstance(value, Known) and 0 in value.shape)]
    rank = max(value.rank if isinstance(value, Tensor) else len(value.shape) for value in operands)
    axis = _axis(node, rank, 1 if node.version < 4 else 0)
    if len(operands) == 1:
        return operands[0]
    tensors = [value for value in operands if isinstance(value, Tensor)]
    if any(atom in (BATCH, TIME) for value in tensors for atom in value.axes[axis]):
        return _frames_joined(low, node, operands, axis)
    # The axis itself is put last, as one feature axis; the others are aligned as in arithmetic.
    rests = [_without(low, node, value, axis) for value in operands]
    both = Broadcast(low, node, [rest for rest, _ in rests])
    names = [
        _with_inner(low, both, rest, inner, value, axis) for (rest, inner), value in zip(rests, operands, strict=True)
    ]
    types = [low.draft.type(name).features for name in names]
    shape = [max(features[i] for features in types) for i in range(both.count)]
    spread = [
        name if list(features[:-1]) == shape else low.draft.emit("broadcast", name, features=(*shape, features[-1]))
        for name, features in zip(names, types, strict=True)
    ]
    made = low.draft.emit("concat", *spread, axis=len(shape), name=output_name(node))
    axes = list(both.axes)
    axes.insert(axis, (len(shape),))
    return Tensor(made, tuple(axes))


def _without(low: Lowering, node: Node, value: Value, axis: int) -> tuple[Value, tuple[int, ...]]:
    """The value without an axis, for the others to be aligned, and the feature axes the axis consists of."""
    if isinstance(value, Known):
        if value.is_shape or value.open:
            raise Unfolded
        return Known(value.array.take(0, axis)), ()
    segments = low.draft.segments(value, axis)
    inner = segments[0] if segments else ()
    if len(segments) > 1 or isinstance(inner, str):
        raise low.unsupported(node, "values joined along an axis that mixes features with rows or frames")
    return Tensor(value.name, value.axes[:axis] + value.axes[axis + 1 :], value.dtype), inner


def _with_inner(low: Lowering, both: Broadcast, rest: Value, inner: tuple[int, ...], value: Value, axis: int) -> str:
    """The value under the feature axes of ``both``, and ``axis`` behind them."""
    if isinstance(rest, Tensor):
        return low.draft.arranged(rest, [*both.groups(rest), inner])
    assert isinstance(value, Known)
    moved = np.moveaxis(value.array, axis, -1)
    columns = np.stack([both.constant(Known(moved[..., i])) for i in range(moved.shape[-1])], axis=-1)
    return low.draft.constant(columns if both.count else columns.reshape(-1))


def _frames_joined(low: Lowering, node: Node, operands: Sequence[Value], axis: int) -> Tensor:
    """Zeros before or behind a sequence; other sequences end to end do not stream."""
    sequences = [(i, value) for i, value in enumerate(operands) if isinstance(value, Tensor)]
    if len(sequences) != 1 or sequences[0][1].axes[axis] != (TIME,):
        raise low.unsupported(node, "sequences are joined end to end, or rows under rows")
    at, x = sequences[0]
    pads = [0, 0]
    for i, value in enumerate(operands):
        if isinstance(value, Known):
            size = value.shape[axis]
            if isinstance(size, Count) or value.array.astype(bool).any():
                raise low.unsupported(node, "frames other than zeros are put before or behind a sequence")
            pads[i > at] += size
    return Tensor(low.draft.emit("pad_time", x.name, left=pads[0], right=pads[1]), x.axes, x.dtype)


@handles("Expand")
def _expand(low: Lowering, node: Node, inputs: list[Value | None]) -> Value:
    x = low.tensor(inputs[0], node)
    wanted = joined_sizes([low.draft.shape(x), tuple(whole_numbers(inputs[1], f"{node}: the shape"))])
    x = renamed(x, [()] * (len(wanted) - x.rank) + list(x.axes))
    for axis, size in enumerate(wanted):
        x = _spread_along(low, x, axis, size)
    return x


@handles("Tile")
def _tile(low: Lowering, node: Node, inputs: list[Value | None]) -> Value:
    x = low.tensor(inputs[0], node)
    counts = whole_numbers(inputs[1], f"{node}: the repeats")
    if len(counts) != x.rank:
        raise FormatError(f"{node}: {len(counts)} repeats for {x.rank} axes")
    for axis, count in enumerate(counts):
        size = low.draft.axis_size(x, axis)
        if size == 1:
            x = _spread_along(low, x, axis, count)
        elif count != 1:
            if not isinstance(size, int) or not isinstance(count, int) or count < 1 or TIME in x.axes[axis]:
                raise Unfolded
            fold.check_size([size, count])
            x = taken(low, node, x, axis, list(range(size)) * count)
    return x


def _spread_along(low: Lowering, x: Tensor, axis: int, size: Size) -> Tensor:
    """x with an axis of size 1 as long as is wanted: along features, rows or frames."""
    if low.draft.axis_size(x, axis) == size:
        return x
    if isinstance(size, int):
        if size < 1:
            raise Unfolded
        return _repeated(low, x, axis, size)
    if size == Count(1, (BATCH,)) and not any(BATCH in atoms for atoms in x.axes):
        # Every value has rows; these are the same in all of them.
        return renamed(x, [*x.axes[:axis], (BATCH,), *x.axes[axis + 1 :]])
    like = low.timed_input()
    if low.loops or low.draft.type(x.name).clock is not None or size != low.draft.atom_size(like, TIME):
        raise Unfolded
    made = low.draft.emit("expand_time", x.name, like.name)
    return Tensor(made, (*x.axes[:axis], (TIME,), *x.axes[axis + 1 :]), x.dtype)


# Padding and writing ----------------------------------------------------------------------------------------------


@handles("Pad")
def _pad(low: Lowering, node: Node, inputs: list[Value | None]) -> Value:
    x = low.tensor(inputs[0], node)
    for i, value in enumerate(inputs[1:], 1):
        if value is not None:
            low.known(value, node, f"input {i}")
    before, behind, mode, fill = fold.pads_of(node, _arrays(inputs), x.rank)
    if mode not in ("constant", "reflect", "edge", "wrap"):
        raise low.unsupported(node, f"padding of mode {mode!r}")
    return padded(low, node, x, before, behind, mode, fill)


def padded(
    low: Lowering, node: Node, x: Tensor, before: Sequence[int], behind: Sequence[int], mode: str, value: float
) -> Tensor:
    for axis in range(x.rank):
        if before[axis] == behind[axis] == 0:
            continue
        segments = low.draft.segments(x, axis)
        if segments == [TIME] and mode == "constant" and (value == 0 or max(before[axis], behind[axis]) <= 0):
            x = Tensor(low.draft.emit("pad_time", x.name, left=before[axis], right=behind[axis]), x.axes, x.dtype)
            continue
        if segments == [TIME] and mode != "constant" and min(before[axis], behind[axis]) >= 0:
            made = low.draft.emit("pad_time", x.name, left=before[axis], right=behind[axis], mode=mode)
            x = Tensor(made, x.axes, x.dtype)
            continue
        if any(isinstance(segment, str) for segment in segments):
            raise low.unsupported(node, f"frames are padded otherwise than with zeros ({mode})")
        if min(before[axis], behind[axis]) < 0:
            size = low.draft.axis_size(x, axis)
            assert isinstance(size, int)
            x = sliced(low, node, x, axis, slice(max(0, -before[axis]), size - max(0, -behind[axis]), 1))
        if mode == "wrap":
            size = low.draft.axis_size(x, axis)
            assert isinstance(size, int)
            x = taken(low, node, x, axis, [i % size for i in range(-before[axis], size + behind[axis])])
            continue
        name, axes, at = _isolated(low, node, x, axis)
        if at is None:
            features = low.draft.features(x)
            name = low.draft.emit("reshape", name, features=(*features, 1))
            axes = (*axes[:axis], (len(features),), *axes[axis + 1 :])
            at = len(features)
        count = len(low.draft.type(name).features)
        pads = [0] * (2 * count)
        pads[at], pads[count + at] = max(0, before[axis]), max(0, behind[axis])
        if any(pads):
            name = low.draft.emit(
                "pad_inner", name, pads=tuple(pads), mode=mode, value=value if mode == "constant" else 0.0
            )
        x = Tensor(name, axes, x.dtype)
    return x


@handles("ScatterND")
def _scatter(low: Lowering, node: Node, inputs: list[Value | None]) -> Value:
    """Writes a box of a value: the update where the box is, what was there elsewhere."""
    if node.attributes.get("reduction", "none") != "none":
        raise low.unsupported(node, f"reduction {node.attributes['reduction']!r}")
    indices = low.known(inputs[1], node, "the indices").astype(np.int64)
    data, update = inputs[0], low.tensor(inputs[2], node)
    assert data is not None
    sizes = low.draft.shape(data)
    depth = indices.shape[-1]
    shape = [size for size in sizes[:depth] if isinstance(size, int)]
    if len(shape) < depth:
        raise Unfolded
    flat = np.where(indices < 0, indices + shape, indices).reshape(-1, depth)
    low_corner, high = flat.min(axis=0), flat.max(axis=0) + 1
    box = tuple(int(n) for n in high - low_corner)
    grid = np.stack(np.meshgrid(*[np.arange(a, b) for a, b in zip(low_corner, high, strict=True)], indexing="ij"), -1)
    if low_corner.min() < 0 or (high > shape).any() or not np.array_equal(grid.reshape(-1, depth), flat):
        raise low.unsupported(node, "it writes other places than a block, in its order")
    whole = regrouped(low, node, update, [*box, *sizes[depth:]])
    before = [int(n) for n in low_corner] + [0] * (len(sizes) - depth)
    behind = [int(n - m) for n, m in zip(shape, high, strict=True)] + [0] * (len(sizes) - depth)
    if not any(before) and not any(behind):
        return whole
    spread = padded(low, node, whole, before, behind, "constant", 0.0)
    mask = np.zeros(shape + [1] * (len(sizes) - depth), np.float32)
    mask[tuple(slice(a, b) for a, b in zip(low_corner, high, strict=True))] = 1
    both = Broadcast(low, node, [Known(mask), spread, data])
    return both.result(low.draft.emit("where", *both.names))
