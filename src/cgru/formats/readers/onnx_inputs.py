"""Which axis of an ONNX graph's inputs is rows, which is time: every reading that is worth trying, the likeliest first.

A graph does not say. A reading is right if the whole graph can be lowered under it, as every operator is followed
exactly, and several may be: then names, open axes and recurrences along time decide, or the caller (``time_axis=``).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from typing import Any, NamedTuple

import numpy as np

from ...errors import CgruError, ShapeError, UnsupportedError
from ..containers.onnx_records import Dimension, Graph, ValueInfo, shortened

_ROWS = re.compile(r"(b|n|bs|batch.*|.*_batch|.*batch_?size)", re.IGNORECASE)
_STEPS = re.compile(
    r"(t|l|s|time.*|.*_time|.*frames?.*|seq.*|.*_seq|.*len(gth)?|steps?|.*_steps|samples)", re.IGNORECASE
)


class Reading(NamedTuple):
    """Axes of the inputs by name: which is rows, which is time (None: there is none).

    ``own`` are the inputs that have a time axis of their own, given once a sequence.
    """

    rows: Mapping[str, int | None]
    steps: Mapping[str, int | None]
    score: int
    own: tuple[str, ...] = ()

    @property
    def open_axes(self) -> int:
        """How many axes of the inputs are rows or time, so that a caller may give any number of them."""
        return sum(axis is not None for axis in (*self.rows.values(), *self.steps.values()))

    @property
    def has_rows(self) -> bool:
        return any(axis is not None for axis in self.rows.values())

    @property
    def has_steps(self) -> bool:
        return any(axis is not None for axis in self.steps.values())

    def describe(self) -> str:
        return ", ".join(f"{shortened(name)}: rows {self.rows[name]}, time {self.steps[name]}" for name in self.rows)


def fixed_inputs(
    graph: Graph, given: Mapping[str, Any] | None
) -> tuple[dict[str, np.ndarray], dict[str, tuple[Any, ...]]]:
    """What a caller says of the inputs: values of those that stay the same, and shapes of those left open.

    A tuple is a shape: a number fixes an axis, None or a text leaves it open. Anything else is the input's value.
    """
    values: dict[str, np.ndarray] = {}
    shapes: dict[str, tuple[Any, ...]] = {}
    infos = {info.name: info for info in graph.inputs}
    if not isinstance(given, Mapping | None):
        raise CgruError(f"inputs: expected a mapping from name to value or shape, found {type(given).__name__}")
    for name, value in (given or {}).items():
        if name not in infos:
            known = ", ".join(shortened(key) for key in infos) or "none"
            raise CgruError(f"inputs: the graph has no input {shortened(str(name))}; it has {known}")
        declared = infos[name].shape
        if isinstance(value, tuple):
            if declared is not None and len(declared) != len(value):
                raise ShapeError(f"inputs[{name!r}]: {len(value)} axes; the graph declares {len(declared)}")
            shapes[name] = value
            continue
        array = np.asarray(value)
        if array.dtype.kind not in "fiub":
            raise CgruError(f"inputs[{name!r}]: expected numbers, or a shape as a tuple, found {type(value).__name__}")
        array = array.astype(infos[name].dtype or array.dtype)
        if declared is not None:
            if array.ndim == 0 and len(declared) == 1:
                array = array.reshape(1)
            if array.ndim != len(declared) or any(
                isinstance(d, int) and d != n for d, n in zip(declared, array.shape, strict=True)
            ):
                raise ShapeError(f"inputs[{name!r}]: shape {array.shape}; the graph declares {declared}")
        values[name] = array
    return values, shapes


def declared_shape(info: ValueInfo, shapes: Mapping[str, tuple[Any, ...]]) -> tuple[Dimension, ...]:
    """The shape of an input with what the caller says of it."""
    given = shapes.get(info.name)
    if info.shape is None and given is None:
        raise UnsupportedError(
            f"the input {shortened(info.name)} declares no shape; say it: inputs={{{info.name!r}: (None, None, 40)}}"
        )
    if given is None:
        assert info.shape is not None
        return info.shape
    declared = info.shape or (None,) * len(given)
    made: list[Dimension] = []
    for axis, (wanted, had) in enumerate(zip(given, declared, strict=True)):
        if isinstance(wanted, int) and isinstance(had, int) and wanted != had:
            raise ShapeError(f"inputs[{info.name!r}]: axis {axis} is {had} in the file, not {wanted}")
        made.append(wanted if wanted is not None else had)
    return tuple(made)


def readings(shapes: Mapping[str, tuple[Dimension, ...]], time_axis: Any, *, frames: bool) -> Iterator[Reading]:
    """Readings of the inputs of these shapes, the likeliest first.

    ``time_axis`` is the caller's: an axis, one for each input by name, or "frame" for none; None leaves it open.
    ``frames``: the graph says its own state, so that without a time axis it describes one step.
    """
    if not shapes:
        yield Reading({}, {}, 0)
        return
    most = max(map(len, shapes.values()))
    mains = [name for name, shape in shapes.items() if len(shape) == most]
    found = [reading for main in mains for reading in _of_main(shapes, main, time_axis, frames)]
    unlike = {(*reading.rows.items(), *reading.steps.items(), *reading.own): reading for reading in reversed(found)}
    yield from sorted(unlike.values(), key=lambda reading: -reading.score)


def _of_main(shapes: Mapping[str, tuple[Dimension, ...]], main: str, time_axis: Any, frames: bool) -> Iterator[Reading]:
    """Readings in which the input ``main`` advances with the network's steps.

    An input of fewer axes whose first ones have the sizes of the main one's may advance beside it, or be as it is.
    """
    beside = any(len(shape) < len(shapes[main]) for shape in shapes.values())
    for (rows, steps), same in product(_pairs(shapes[main], time_axis, main), (False, True) if beside else (False,)):
        row_label, step_label = _labels(shapes[main], rows), _labels(shapes[main], steps)
        of_rows: dict[str, int | None] = {}
        of_steps: dict[str, int | None] = {}
        own: list[str] = []
        for name, shape in shapes.items():
            of_rows[name] = _axis_in(shape, shapes[main], rows, row_label, name == main, same)
            step = _given_axis(time_axis, name, _axis_in(shape, shapes[main], steps, step_label, name == main, same))
            if step is None and steps is not None:
                step = _left_open(shape, of_rows[name])
            if step is not None and steps is not None and shape[step] != shapes[main][steps]:
                # As many frames as it likes: an axis of its own.
                own.append(name)
            of_steps[name] = step
        score = _score(shapes[main], rows, steps) + (7 if steps is None and frames else 0)
        if all(_covers(shape, of_rows[name], of_steps[name]) for name, shape in shapes.items()):
            yield Reading(of_rows, of_steps, score, tuple(own))


def _left_open(shape: tuple[Dimension, ...], rows: int | None) -> int | None:
    """The one axis that is neither rows nor of a known size."""
    left = [axis for axis, size in enumerate(shape) if not isinstance(size, int) and axis != rows]
    return left[0] if len(left) == 1 else None


def _pairs(shape: tuple[Dimension, ...], time_axis: Any, name: str) -> Iterator[tuple[int | None, int | None]]:
    rank = len(shape)
    axes: Sequence[int | None]
    if isinstance(time_axis, Mapping):
        time_axis = time_axis.get(name)
    if time_axis == "frame":
        axes = [None]
    elif time_axis is not None:
        if not isinstance(time_axis, int) or not -rank <= time_axis < rank:
            raise CgruError(f"time_axis: {time_axis!r} is no axis of {shortened(name)}, which has {rank}")
        axes = [time_axis % rank]
    else:
        axes = [*range(rank), None]
    for steps in axes:
        for rows in (*range(rank), None):
            if rows is not None and (rows == steps or shape[rows] == 1):
                continue
            if time_axis is None and _swapped(shape, rows, steps):
                continue
            yield rows, steps


def _swapped(shape: tuple[Dimension, ...], rows: int | None, steps: int | None) -> bool:
    """Whether the file names the two axes the other way round."""
    if rows is None or steps is None:
        return False
    a, b = shape[rows], shape[steps]
    return bool(isinstance(a, str) and isinstance(b, str) and _STEPS.fullmatch(a) and _ROWS.fullmatch(b))


def _labels(shape: tuple[Dimension, ...], axis: int | None) -> str | None:
    label = shape[axis] if axis is not None else None
    return label if isinstance(label, str) else None


def _axis_in(
    shape: tuple[Dimension, ...],
    main: tuple[Dimension, ...],
    axis: int | None,
    label: str | None,
    is_main: bool,
    of_fewer: bool,
) -> int | None:
    """The axis of another input that is the same as ``axis`` of the main one: of its name, or at its place."""
    if is_main or axis is None:
        return axis
    if label is not None:
        return shape.index(label) if label in shape else None
    if len(shape) == len(main) or (of_fewer and axis < len(shape)):
        return axis if shape[axis] == main[axis] else None
    return None


def _given_axis(time_axis: Any, name: str, found: int | None) -> int | None:
    if isinstance(time_axis, Mapping) and name in time_axis:
        return time_axis[name]
    return found


def _covers(shape: tuple[Dimension, ...], rows: int | None, steps: int | None) -> bool:
    """Whether every axis that is left open is one of the two."""
    if rows is not None and rows == steps:
        return False
    return all(isinstance(size, int) or axis in (rows, steps) for axis, size in enumerate(shape))


def _score(shape: tuple[Dimension, ...], rows: int | None, steps: int | None) -> int:
    score = 0
    if rows is not None:
        label = shape[rows]
        score += 8 if isinstance(label, str) and _ROWS.fullmatch(label) else 0
        score += 2 if not isinstance(label, int) else 0
        score -= 8 if isinstance(label, str) and _STEPS.fullmatch(label) and not _ROWS.fullmatch(label) else 0
    if steps is not None:
        label = shape[steps]
        score += 8 if isinstance(label, str) and _STEPS.fullmatch(label) else 0
        score += 4 if not isinstance(label, int) else 0
        score -= 8 if isinstance(label, str) and _ROWS.fullmatch(label) and not _STEPS.fullmatch(label) else 0
    return score


def paired_states(graph: Graph, given: Mapping[str, str] | None, fixed: Sequence[str]) -> dict[str, str]:
    """Inputs that are an output of the step before: those the caller names, or whose names and shapes pair off."""
    infos = {info.name: info for info in graph.inputs if info.name not in fixed}
    outputs = {info.name: info for info in graph.outputs}
    if given is not None:
        if not isinstance(given, Mapping):
            raise CgruError(f"state: expected a mapping from input to output, found {type(given).__name__}")
        for key, value in given.items():
            if key not in infos or value not in outputs:
                known = f"{', '.join(map(shortened, infos))} → {', '.join(map(shortened, outputs))}"
                raise CgruError(f"state: {shortened(str(key))} → {shortened(str(value))}: the graph has {known}")
        return dict(given)
    found: dict[str, str] = {}
    for name, info in infos.items():
        fits = [other for other in outputs.values() if _pairs_off(info, other)]
        if len(fits) == 1:
            found[name] = fits[0].name
    if len(set(found.values())) != len(found):
        return {}
    return found


def _pairs_off(info: ValueInfo, output: ValueInfo) -> bool:
    """``state`` → ``stateN``, ``h`` → ``hn``, ``cache`` → ``cache_out``, ``h_in`` → ``h_out``, ``h0`` → ``h1``."""
    if info.shape is not None and output.shape is not None:
        if len(info.shape) != len(output.shape):
            return False
        both = zip(info.shape, output.shape, strict=True)
        if any(isinstance(a, int) and isinstance(b, int) and 0 not in (a, b) and a != b for a, b in both):
            return False
    stems = [info.name]
    stems += [
        info.name.removesuffix(end) for end in ("_in", "_0", "0", "_prev", ".in", "In") if info.name.endswith(end)
    ]
    stems += [
        info.name.removeprefix(start) for start in ("in_", "prev_", "initial_", "input_") if info.name.startswith(start)
    ]
    ends = ("N", "n", "_n", "_out", "_new", "_next", "out", "Out", ".out", "1", "_1", "_final", "_N")
    starts = ("out_", "new_", "next_", "final_", "output_")
    names = {stem + end for stem in stems for end in ends} | {start + stem for stem in stems for start in starts}
    return output.name in names or (output.name in stems and output.name != info.name)
