"""Views of a tensor under other sizes: features split and merged, rows and frames in one, frames side by side."""

from __future__ import annotations

from dataclasses import replace
from math import prod
from typing import Any

import numpy as np

from ....errors import UnsupportedError
from .lowering import Lowering, handles
from .program import Call
from .values import BT, TB, Axis, B, Heads, Lengths, Misread, Scores, States, T, Tensor, Within


@handles("view", "reshape", "_unsafe_view", "flatten", "unflatten", frames=True)
def _reshape(lo: Lowering, call: Call) -> Any:
    value = lo.arg(call, 0, "self")
    if isinstance(value, Lengths):
        return value
    if isinstance(value, States):
        value = lo.stacked(value)
    if isinstance(value, Within) and call.shape is not None:
        return _spread_mask(value, call.shape)
    if isinstance(value, Heads) and call.shape is not None:
        return value if call.shape == value.shape else viewed(lo, value.tensor, call.shape)
    if isinstance(value, Scores) and call.shape is not None:
        return _scores_apart(value, call.shape)
    if not isinstance(value, Tensor) or call.shape is None:
        raise UnsupportedError("a view of something that is no tensor of the network")
    folded: Tensor | Heads | None = _time_folded(lo, value, call.shape)
    if folded is None:
        folded = _heads(lo, value, call.shape)
    return folded if folded is not None else viewed(lo, value, call.shape)


def _heads(lo: Lowering, x: Tensor, wanted: tuple[int, ...]) -> Heads | None:
    """A view of (…, rows, heads · d) as (…, rows · heads, d), or of (rows, heads, …) with both in one; or None."""
    if B not in x.axes or x.at is not None:
        return None
    p = x.axes.index(B)
    if p + 1 >= len(x.axes) or not isinstance(x.axes[p + 1], int) or len(wanted) <= p:
        return None
    rows, size = x.shape[p : p + 2]
    heads, left = divmod(wanted[p], rows)
    if left or heads < 2 or wanted[:p] != x.shape[:p] or T not in x.axes:
        return None
    if wanted == (*x.shape[:p], rows * size, *x.shape[p + 2 :]):
        return Heads(x, p)
    if p + 2 == len(x.axes) and wanted[p + 1 :] == (size // heads,) and size % heads == 0:
        return Heads(replace(viewed(lo, x, split := (*x.shape[: p + 1], heads, size // heads)), shape=split), p)
    return None


def _scores_apart(held: Scores, wanted: tuple[int, ...]) -> Scores:
    """Scores with rows and heads in one axis, or on two."""
    full = (*held.query.shape[:-1], held.shape[-1])
    rank = len(full)
    if wanted == full:
        return replace(held, place=None, shape=wanted)
    if wanted == (full[0] * full[1], *full[2:]) and held.axes[0] == B and rank == 4:
        return replace(held, place=0, shape=wanted)
    raise UnsupportedError("scores of every frame with every other, in another shape")


def _spread_mask(mask: Within, wanted: tuple[int, ...]) -> Within:
    if mask.axes[:1] == (B,) and mask.axes[-1:] == (T,) and wanted[-1:] == mask.shape[-1:] and len(wanted) > 1:
        # Rows stay in front, alone or with heads, and frames behind; what stands between repeats.
        return replace(mask, axes=(B, *[None] * (len(wanted) - 2), T), shape=wanted)
    own = iter([axis for axis in mask.axes if axis is not None])
    axes = tuple(None if size == 1 else next(own, None) for size in wanted)
    if len([axis for axis in axes if axis]) != len([axis for axis in mask.axes if axis]):
        raise UnsupportedError("a view of a mask that mixes its rows and frames")
    return replace(mask, axes=axes)


def _time_folded(lo: Lowering, x: Tensor, wanted: tuple[int, ...]) -> Tensor | None:
    """A view of (rows, frames, features) with k frames side by side, a k-th of the features in a frame, or all frames
    in one; None where it is another."""
    own = [(axis, size) for axis, size in zip(x.axes, x.shape, strict=True) if axis is not None]
    if [axis for axis, _ in own[:2]] != [B, T] or not all(isinstance(axis, int) for axis, _ in own[2:]):
        return None
    (_, rows), (_, frames) = own[:2]
    size = prod(size for _, size in own[2:])
    if len(wanted) < 2 or wanted[0] != rows or wanted[1] == frames or rows * frames * size != prod(wanted):
        return None
    if [n for n in wanted if n > 1] == [n for n in x.shape if n > 1]:
        return None  # axes of one put between
    x = lo.natural(x)
    flat = lo.emit("reshape", x.name, features=(size,)) if lo.features(x) != (size,) else x.name
    if len(wanted) == 2:
        lo.evident = True
        if lo.lengths:
            raise UnsupportedError("all frames side by side, where rows have lengths")
        name = lo.emit("fold_time", flat, frames=frames)
        return replace(x, name=lo.emit("reshape", name, features=wanted[1:]), axes=(B, 0), at=None)
    made, rest = wanted[1], wanted[2:]
    if frames % made == 0:
        lo.evident = True
        lo.sees_later(x, 1, "frames side by side")
        name = lo.emit("stack_frames", flat, width=frames // made, stride=frames // made)
    elif made % frames == 0 and size % (made // frames) == 0:
        # Each frame's parts one after the other: a transposed convolution whose kernels pick them.
        lo.evident = True
        times, part = made // frames, size // (made // frames)
        weight = np.zeros((size, part, times), np.float32)
        for j in range(times):
            weight[j * part + np.arange(part), np.arange(part), j] = 1
        name = lo.emit(
            "conv_transpose", flat, weights={"weight": weight}, units=part, width=times, stride=times, dilation=1
        )
    else:
        return None
    name = name if lo.features(name) == rest else lo.emit("reshape", name, features=rest)
    return replace(x, name=name, axes=(B, T, *range(len(rest))))


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
        # An axis of one is any axis that broadcasts, unless it is all there is.
        real = [place for place, n in enumerate(sizes) if n > 1] or [0]
        groups.append([sizes[place] for place in real] if sizes else [])
        axes += [0 if place in real else None for place in range(len(sizes))]
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
