"""Constants that differ from frame to frame: tables of positions, of which a program takes as many as there are frames.

A program says them for the frames that it was traced with. What a slice or a count to that number was made of is kept,
so that the same can be had for others: the network holds the whole table (operation ``positions``).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ....errors import UnsupportedError
from .values import Axis, Growing, Known, T, Tensor, constant_along

if TYPE_CHECKING:
    from .lowering import Lowering

#: Frames that a table has which forward() computes for as many as there are.
COMPUTED = 4096
_SHAPED = ("view", "reshape", "_unsafe_view", "expand", "unflatten")
_LOOKUPS = {"embedding": 1, "index": 1, "index_select": 2}
#: The names under which a file has arguments that are read here, in their order, and what those left out are.
_NAMED: dict[str, dict[str, Any]] = {
    "arange": {"start": 0, "end": ..., "step": 1},
    "slice": {"self": ..., "dim": 0, "start": None, "end": None, "step": 1},
    "embedding": {"weight": ..., "indices": ...},
    "index": {"self": ..., "indices": ...},
    "index_select": {"self": ..., "dim": ..., "index": ...},
}


def growing(
    base: str, fold: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any], counts: Collection[int]
) -> Growing | None:
    """How the result of a fold is for other numbers of frames than the program was traced with, or None.

    ``args`` and ``kwargs`` have :class:`Known` for arrays; ``counts`` are the numbers of frames that there were.
    """
    args, kwargs = _by_place(base, args, kwargs)
    sources = [value.growing for value in _known((*args, *kwargs.values())) if value.growing is not None]
    frames = sources[0].frames if sources else _counted(base, args, kwargs, counts)
    if frames is None or any(source.frames != frames for source in sources):
        return None
    limit = min((source.limit for source in sources), default=COMPUTED)
    if base == "slice" and not sources:
        limit = args[0].array.shape[args[1] % args[0].array.ndim]

    def at(n: int) -> np.ndarray:
        def put(value: Any) -> Any:
            if isinstance(value, Known):
                return value.array if value.growing is None else value.growing.at(n)
            if isinstance(value, (list, tuple)):
                return [put(part) for part in value]
            counted = base in _SHAPED or base in ("arange", "slice")
            return n if counted and type(value) is int and value == frames else value

        if base == "arange" and len(args) == 3:
            return np.asarray(fold(args[0], args[0] + n * args[2], args[2]))
        if base == "slice":  # its axis is no number of frames
            return np.asarray(fold(put(args[0]), args[1], *(put(value) for value in args[2:])))
        return np.asarray(fold(*map(put, args), **{key: put(value) for key, value in kwargs.items()}))

    if base in _LOOKUPS:
        limit = _within_table(base, args, limit)
    return Growing(at, frames, limit) if limit >= frames else None


def _by_place(base: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[Sequence[Any], Mapping[str, Any]]:
    """Arguments by place where they are known by name: torch's of ``arange`` depend on how many there are."""
    names = _NAMED.get(base)
    if names is None:
        return args, kwargs
    left = dict(kwargs)
    if base == "arange" and args:
        return [*args, *(left.pop(name) for name in ("end", "step") if name in left)], left
    rest = [left.pop(name, default) for name, default in list(names.items())[len(args) :]]
    if ... in rest:
        return args, kwargs
    if base == "arange" and rest[2] == 1:
        rest = rest[:2]
    return [*args, *rest], left if base not in _LOOKUPS else {}


def _known(values: Any) -> list[Known]:
    if isinstance(values, Known):
        return [values]
    return [one for value in values for one in _known(value)] if isinstance(values, (list, tuple)) else []


def _counted(base: str, args: Sequence[Any], kwargs: Mapping[str, Any], counts: Collection[int]) -> int | None:
    """The number of frames up to which a call counts or slices."""
    end: Any = None
    if base == "arange" and not kwargs:
        if len(args) == 3 and all(type(value) is int for value in args) and args[2] > 0:
            count = -(-(args[1] - args[0]) // args[2])  # 3, 6, 9 … of a sum so far of three features
            return count if count > 1 and count in counts else None
        end = args[0] if len(args) == 1 else args[1] if len(args) == 2 and args[0] == 0 else None
    elif base == "slice" and len(args) == 5 and not args[2] and args[4] == 1 and isinstance(args[0], Known):
        end = args[3]
    return end if type(end) is int and end > 1 and end in counts else None


def _within_table(base: str, args: Sequence[Any], limit: int) -> int:
    """The frames for which a table that is looked into at growing places has rows."""
    table, places = args[0], args[_LOOKUPS[base]]
    axis = args[1] if base == "index_select" else 0
    if isinstance(places, list):
        given = [(i, place) for i, place in enumerate(places) if place is not None]
        if len(given) != 1:
            return 0
        axis, places = given[0]
    if table.growing is not None or places.growing is None:
        return 0
    rows = table.array.shape[axis]
    while limit and not np.all((found := places.growing.at(limit)) < rows):
        each = found.reshape(-1, limit) if found.shape[-1:] == (limit,) else found.reshape(limit, -1).T
        limit -= max(1, int(np.sum(np.any(each >= rows, axis=0))))
    return limit


def positioned(lo: Lowering, value: Known, axes: Sequence[Axis]) -> Tensor | Known:
    """A constant that grows with the frames as a value of the graph; one that is the same at all of them as it is.

    ``axes`` are those of what it meets, aligned from the right.
    """
    grows = value.growing
    if grows is None:
        return value
    array, shorter = value.array, grows.at(grows.frames - 1).shape
    along = [p for p, (n, m) in enumerate(zip(array.shape, shorter, strict=True)) if n != m]
    meets = [axes[p - array.ndim] if array.ndim - p <= len(axes) else None for p in range(array.ndim)]
    along = [p for p in along if not constant_along(array, p)]
    if not along:
        return value
    if len(along) != 1 or meets[along[0]] not in (None, T):
        return replace(value, growing=None)
    place = along[0]
    whole = grows.at(grows.limit)
    rows = [p for p in range(array.ndim) if p != place and isinstance(meets[p], str)]
    if any(not constant_along(array, p) for p in rows):
        return replace(value, growing=None)
    for p in rows:
        whole = whole.take([0], axis=p)
    first = whole.take(range(grows.frames), axis=place)
    shown = array
    for p in rows:
        shown = shown.take([0], axis=p)
    if whole.shape[place] != grows.limit or not np.allclose(first, shown, rtol=1e-6, atol=1e-6):
        raise UnsupportedError("numbers for each frame that change with the number of frames")
    held = [p for p in range(array.ndim) if p != place and whole.shape[p] > 1]
    table = whole.transpose(place, *held, *(p for p in range(array.ndim) if p != place and p not in held))
    table = np.ascontiguousarray(table.reshape(grows.limit, *(whole.shape[p] for p in held)), np.float32)
    made = tuple(T if p == place else held.index(p) if p in held else None for p in range(array.ndim))
    like = lo.value_of(grows.frames)
    lo.evident = True
    step = float(table[-1] - table[0]) / (len(table) - 1) if not held else 0.0
    if step and np.array_equal(table, table[0] + step * np.arange(len(table))):
        return Tensor(numbered(lo, like, step, float(table[0]) - step), made)
    table = table if held else table[:, None]
    name = lo.emit("positions", like, weights={"table": table}, limit=grows.limit, features=table.shape[1:])
    return Tensor(name, made)


def numbered(lo: Lowering, like: str, factor: float = 1.0, more: float = 0.0) -> str:
    """1, 2, 3 … at the frames of ``like``, times ``factor`` and so much more: sums of ones."""
    ones = lo.emit("expand_time", lo.constant(np.ones(1, np.float32)), like)
    one = np.ones((1, 1), np.float32)
    arrays = {"weight_ih": one, "weight_hh": one}
    name = lo.emit("scan", ones, weights=arrays, cell="rnn", units=1, activation="linear")
    for op, number, none in (("mul", factor, 1.0), ("add", more, 0.0)):
        name = name if number == none else lo.emit(op, name, lo.constant(np.full(1, number, np.float32)))
    return name
