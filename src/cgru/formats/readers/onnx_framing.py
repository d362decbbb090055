"""Reshapes of ONNX graphs that make several frames one, or one frame several."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np

from ...errors import UnsupportedError
from .onnx_fold import MAX_FOLDED
from .onnx_lowering import Lowering
from .onnx_values import BATCH, TIME, Atom, Count, Tensor


def framed(low: Lowering, x: Tensor, wanted: Sequence[Any]) -> Tensor | None:
    """(rows, T, *features) as (rows, T / k, k · features) or (rows, k · T, features / k); None where it is neither.

    ``wanted`` is the shape asked for, with 0 and −1 as the file has them. Frames that are fewer than k at the end of a
    sequence are left out; the operator knows no such sequence.
    """
    draft = low.draft
    order: list[Atom] = [atom for axis in range(x.rank) for part in draft.segments(x, axis) for atom in (
        part if isinstance(part, tuple) else (part,))]  # fmt: skip
    lead = [BATCH] if BATCH in order else []
    if order[: len(lead) + 1] != [*lead, TIME] or TIME not in order:
        return None
    if not all(isinstance(atom, int) for atom in order[len(lead) + 1 :]) or low.loops:
        return None
    shape = draft.shape(x)
    asked: list[Any] = [shape[i] if isinstance(n, int) and n == 0 and i < x.rank else n for i, n in enumerate(wanted)]
    at = len(lead)
    rows = draft.atom_size(x, BATCH) if lead else 1
    if lead and asked[:1] == [-1]:
        asked[0] = rows
    if len(asked) <= at or (lead and asked[0] != rows) or any(not isinstance(n, int) or n < 1 for n in asked[at + 1 :]):
        return None
    size, part = prod(draft.features(x)), prod(asked[at + 1 :])
    frames = draft.atom_size(x, TIME)
    if not isinstance(frames, Count):
        return None  # of a number that the file fixes they are no time axis, if they are taken apart
    inner = tuple(atom for atom in order if isinstance(atom, int))
    flat = draft.arranged(x, [inner])
    times: int
    if part % size == 0 and part > size:
        times = part // size
        if not _is_part(asked[at], frames, times):
            return None
        # Shapes go on with the count that the operation gives.
        name = draft.emit("stack_frames", flat, width=times, stride=times)
    elif size % part == 0 and size > part:
        times = size // part
        if asked[at] != -1 and asked[at] != frames * times:
            return None
        # Each frame's parts one after the other: a transposed convolution whose kernels pick them.
        if size * size > MAX_FOLDED:
            raise UnsupportedError(
                f"frames of {size} numbers in {times} parts; at most {MAX_FOLDED} are made of weights"
            )
        weight = np.zeros((size, part, times), np.float32)
        for j in range(times):
            weight[j * part + np.arange(part), np.arange(part), j] = 1
        name = draft.emit(
            "conv_transpose", flat, weights={"weight": weight}, units=part, width=times, stride=times, dilation=1
        )
    else:
        return None
    rest = tuple(asked[at + 1 :])
    name = draft.emit("reshape", name, features=rest or (1,))
    return Tensor(name, (*((atom,) for atom in lead), (TIME,), *((i,) for i in range(len(rest)))), x.dtype)


def _is_part(asked: Any, frames: Count, times: int) -> bool:
    """Whether an axis is asked for that has a ``times``-th of the frames."""
    return asked == -1 or (isinstance(asked, Count) and asked == frames // times)


def unmixed(low: Lowering, x: Tensor) -> Tensor:
    """x whose axis of frames with parts of each, if it has one, is one of as many frames more."""
    for axis in range(x.rank):
        match low.draft.segments(x, axis):
            case ["T", tuple() as parts]:
                break
    else:
        return x
    draft = low.draft
    others = tuple(atom for i, atoms in enumerate(x.axes) if i != axis for atom in atoms if isinstance(atom, int))
    times, size = prod(draft.features(x)[i] for i in parts), prod(draft.features(x)[i] for i in others)
    flat = Tensor(draft.arranged(x, [(*parts, *others)]), ((BATCH,), (TIME,), (0,)))
    if any(BATCH in atoms for atoms in x.axes):
        made = framed(low, flat, [draft.atom_size(x, BATCH), -1, size])
    else:
        made = framed(low, Tensor(flat.name, ((TIME,), (0,))), [-1, size])
    if made is None or times < 2:
        return x
    sizes = tuple(draft.features(x)[i] for i in others)
    name = made.name if sizes in ((size,), ()) else draft.emit("reshape", made.name, features=sizes)
    places = {atom: i for i, atom in enumerate(others)}
    axes = [
        (TIME,) if i == axis else tuple(places[a] if isinstance(a, int) else a for a in atoms)
        for i, atoms in enumerate(x.axes)
    ]
    return Tensor(name, tuple(axes), x.dtype)
