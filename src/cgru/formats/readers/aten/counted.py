"""Masks of ids and what forward() counts of them: numbers of frames, packing by them, the frame at one of them."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ....errors import UnsupportedError
from .positions import numbered
from .values import B, Known, Misread, T, Tensor

if TYPE_CHECKING:
    from .lowering import Lowering
    from .program import Call

#: Comparisons of ids, which are not negative: the number that is equal to 0 in their place, and whether it is so there.
_SIGNS = {("gt", 0): False, ("ge", 1): False, ("le", 0): True, ("lt", 1): True}
_SWAPPED = {"lt": "gt", "gt": "lt", "le": "ge", "ge": "le"}


def of_ids(lo: Lowering, call: Call, a: Any, b: Any) -> Tensor | None:
    """A comparison of token ids with a number, 1 or 0 at each frame; None where neither operand is ids."""
    kind, ids, number = call.base, a, b
    if not _are_ids(lo, ids):
        kind, ids, number = _SWAPPED.get(kind, kind), b, a
    if not _are_ids(lo, ids):
        return None
    number = number.array if isinstance(number, Known) else number
    if isinstance(number, Tensor) or np.size(number) != 1 or ids.column >= 0 or lo.features(ids):
        raise UnsupportedError("a comparison of ids with something else than a number, or of several ids a frame")
    number = int(np.reshape(number, ()))
    if kind in ("eq", "ne"):
        same = kind == "eq"
    elif (kind, number) in _SIGNS and _embedded(lo, ids.name):
        same, number = _SIGNS[kind, number], 0
    else:
        raise UnsupportedError(f"{kind} of ids and {number}; equal and unequal run, and above 0 where ids are embedded")
    if abs(number) >= 1 << 24:
        raise UnsupportedError(f"a comparison of ids with {number}")
    mask = lo.emit("mask_of", ids.name, value=float(number))
    found = lo.emit("apply_mask", lo.constant(np.ones(1, np.float32)), mask)
    return replace(ids, name=lo.emit("unary", found, kind="not") if same else found)


def _are_ids(lo: Lowering, value: Any) -> bool:
    return isinstance(value, Tensor) and lo.g.values[value.name].dtype == "int64"


def _embedded(lo: Lowering, ids: str) -> bool:
    """Whether they are looked up in a table, which takes none below 0."""
    from .program import refs

    looked_up = (call for call in lo.program.calls if call.base == "embedding")
    return any(ids in refs([*call.args[1:2], call.kwargs.get("indices")]) for call in looked_up)


def within(lo: Lowering, like: str, counts: Tensor) -> str:
    """The mask of the first ``counts`` frames of ``like``, a number for each row."""
    if any(axis not in (B, None) for axis in counts.axes) or lo.clock(counts) is not None:
        raise Misread("numbers of frames that are not one for each row")
    name = counts.name if lo.features(counts) == (1,) else lo.emit("reshape", counts.name, features=(1,))
    shown = lo.emit("compare", numbered(lo, like), name, kind="less_equal")
    return lo.emit("mask_of", shown, value=0.0)


def packed_by(lo: Lowering, x: Tensor, counts: Tensor) -> str:
    """``x`` with nothing behind so many frames of each row; what reads it holds its state there."""
    mask = within(lo, x.name, counts)
    name = lo.emit("apply_mask", x.name, mask)
    lo.packed[name] = mask
    return name


def frame_at(lo: Lowering, x: Tensor, index: Tensor) -> str:
    """The frame of each row whose number is computed; numbers below 0 count from the end."""
    if any(axis not in (B, None) for axis in index.axes) or lo.clock(index) is not None or lo.lengths:
        raise UnsupportedError(
            "entries that depend on the input; a frame for each row runs, where rows have no lengths"
        )
    if lo.features(index) != (1,):
        index = replace(index, name=lo.emit("reshape", index.name, features=(1,)))
    number = numbered(lo, x.name)
    last = lo.emit("pool_whole", number, kind="max")
    zero, one = (lo.constant(np.full(1, value, np.float32)) for value in (0, 1))
    below = lo.emit("compare", index.name, zero, kind="less")
    place = lo.emit("add", lo.emit("add", index.name, lo.emit("mul", below, last)), one)
    there = lo.emit("compare", number, place, kind="equal")
    rank = len(lo.features(x))
    if rank > 1:
        there = lo.emit("reshape", there, features=(1,) * rank)
    shown = lo.emit("where", there, x.name, lo.constant(np.zeros((1,) * rank, np.float32)))
    return lo.emit("pool_whole", shown, kind="sum")


def rows_counted(index: Any, rows: int) -> bool:
    """Whether an index is 0, 1, 2 … of the rows."""
    return isinstance(index, Known) and np.array_equal(index.array, np.arange(rows))


def _one_a_row(lo: Lowering, index: Tensor) -> Tensor:
    """An index that is repeated for every feature, as torch.gather takes it, as the number of a row that it is."""
    node = next((node for node in lo.g.nodes if node.name == index.name), None)
    if node is None or node.op != "broadcast" or lo.g.values[node.inputs[0]].size != 1:
        return index
    return replace(index, name=node.inputs[0], axes=tuple(B if axis == B else None for axis in index.axes))


def taken_at(lo: Lowering, x: Tensor, dim: int, index: Tensor, *, keep: bool) -> Tensor:
    """``x`` at a frame of each row along its axis of frames ``dim``, which goes or becomes one."""
    if x.axes[dim] != T:
        raise Misread("entries that depend on the input, of an axis that is not of frames")
    lo.evident = True
    x, index = lo.natural(x), _one_a_row(lo, index)
    middle = (None,) if keep else ()
    return replace(x, name=frame_at(lo, x, index), axes=(*x.axes[:dim], *middle, *x.axes[dim + 1 :]))


#: Operations that move numbers and change none.
_MOVES = frozenset(("broadcast", "expand_time", "reshape", "slice", "take", "transpose"))


def of_truth(lo: Lowering, name: str) -> bool:
    """Whether a value holds truth: 1 where something is so, and 0 elsewhere."""
    node = next((node for node in lo.g.nodes if node.name == name), None)
    if node is None:
        return False
    if node.op in _MOVES:
        return of_truth(lo, node.inputs[0])
    if node.op in ("mul", "maximum"):
        return all(of_truth(lo, one) for one in node.inputs)
    return node.op in ("compare", "apply_mask") or (node.op == "unary" and node.options["kind"] == "not")
