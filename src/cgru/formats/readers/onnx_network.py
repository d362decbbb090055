"""An ONNX graph as a network of cgru: inputs read, states paired, operators lowered, outputs in cgru's axes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ...builder import Graph as Builder
from ...errors import FormatError, ShapeError, UnsupportedError
from ...spec.operation import operation
from ...spec.values import EVERY_STEP, Clock
from ...spec.values import Value as ValueType
from ..containers.file_bytes import Source
from ..containers.onnx_file import read_model
from ..containers.onnx_records import Graph, OnnxModel, ValueInfo, shortened
from . import (
    onnx_arithmetic,
    onnx_layers,
    onnx_loops,
    onnx_movement,
    onnx_quantized,
    onnx_recurrent,
    onnx_resampling,
    onnx_sums,
    onnx_windows,
)
from .naming import error_prefix
from .onnx_carried import carried, carry
from .onnx_cells import recognised
from .onnx_draft import Draft
from .onnx_framing import unmixed
from .onnx_inputs import Reading, declared_shape, fixed_inputs, paired_states, readings
from .onnx_lengths import check_ends
from .onnx_lowering import HANDLERS, Lowering
from .onnx_states import take_over
from .onnx_values import BATCH, TIME, Atom, Known, Scores, Tensor, Value

#: The modules whose handlers make :data:`~.onnx_lowering.HANDLERS`.
FAMILIES = (
    onnx_arithmetic, onnx_layers, onnx_loops, onnx_movement, onnx_quantized, onnx_recurrent, onnx_resampling,
    onnx_sums, onnx_windows,
)  # fmt: skip


def load(
    source: Source,
    *,
    inputs: Mapping[str, Any] | None = None,
    state: Mapping[str, str] | None = None,
    time_axis: Any = None,
) -> Builder:
    """The network in an ONNX file, as a graph under construction.

    ``inputs`` maps an input to its value where it stays the same, or to its shape as a tuple where the file leaves it
    open; ``state`` an input to the output that is its value at the next step; ``time_axis`` says which axis of the
    input is time (a mapping where inputs differ, ``"frame"`` for a graph that describes one step).
    """
    model = read_model(source)
    with error_prefix(model.shown):
        return network(model, inputs=inputs, state=state, time_axis=time_axis).graph


class Network(NamedTuple):
    """A lowered graph, and how its inputs and outputs came of ONNX' axes.

    ``rows`` and ``steps`` give the axis of every input that is rows, or time; ``axes`` for every output what each of
    its ONNX axes is: "B", "T", a feature axis by number, or nothing, of size 1.
    """

    graph: Builder
    rows: Mapping[str, int | None]
    steps: Mapping[str, int | None]
    axes: Mapping[str, tuple[tuple[Atom, ...], ...]]


def network(
    model: OnnxModel,
    *,
    inputs: Mapping[str, Any] | None = None,
    state: Mapping[str, str] | None = None,
    time_axis: Any = None,
) -> Network:
    """As :func:`load`, from records, with the axes told."""
    graph = model.graph
    _refuse_old(model)
    values, shapes = fixed_inputs(graph, inputs)
    states = paired_states(graph, state, list(values))
    free = [info for info in graph.inputs if info.name not in values and info.name not in states]
    if not free:
        raise UnsupportedError("it has no input but those that are fixed, so that there is nothing to run")
    open_shapes = {info.name: declared_shape(info, shapes) for info in free if not _is_lengths(graph, info)}
    tried: list[tuple[int, Reading, Lowering]] = []
    problems: list[tuple[int, Exception, Reading]] = []
    for reading in readings(open_shapes, time_axis, frames=bool(states)):
        try:
            low = _lowered(graph, reading, values, states, shapes, time_axis == "frame")
        except (UnsupportedError, FormatError, ShapeError) as error:
            problems.append((reading.score, error, reading))
            continue
        tried.append((reading.score + 6 * min(low.scans, 1) - 3 * low.own_clocks, reading, low))
    if not tried:
        if not problems:
            raise UnsupportedError(_open_message(free, open_shapes))
        raise max(problems, key=lambda item: item[0])[1]
    best = max(score for score, _, _ in tried)
    chosen = [(reading, low) for score, reading, low in tried if score == best]
    # Of readings that agree otherwise, the one that leaves the most to the caller.
    most = max(reading.open_axes for reading, _ in chosen)
    chosen = [(reading, low) for reading, low in chosen if reading.open_axes == most]
    # Rows that are each by themselves are rather rows than steps that have nothing to do with each other.
    if not any(reading.has_rows and reading.has_steps for reading, _ in chosen):
        chosen = [item for item in chosen if item[0].has_rows] or chosen
    steps = {tuple(reading.steps.values()) for reading, _ in chosen}
    if len(steps) > 1:
        shown = "; ".join(reading.describe() for reading, _ in chosen)
        raise UnsupportedError(f"the graph can be read in several ways ({shown}); say which axis is time: time_axis=1")
    reading, low = chosen[0]
    return Network(low.draft.g, reading.rows, reading.steps, low.axes)


def _open_message(free: Sequence[ValueInfo], shapes: Mapping[str, tuple[Any, ...]]) -> str:
    name = next(iter(shapes), free[0].name)
    example = ", ".join("None" if i == 0 else str(n) if isinstance(n, int) else "…" for i, n in enumerate(
        shapes.get(name, (None,))))  # fmt: skip
    return (
        f"the input {shortened(name)} {shapes.get(name)} leaves more axes open than rows and time; say what is fixed: "
        f"inputs={{{name!r}: ({example})}}"
    )


def _refuse_old(model: OnnxModel) -> None:
    version = model.opsets.get("", 0)
    if 0 < version < 7:
        operators = {node.op for node in model.graph.nodes} - set(HANDLERS)
        if operators:
            raise UnsupportedError(
                f"operator set {version}; cgru runs those from 7 on: convert it with onnx.version_converter"
            )


def _is_lengths(graph: Graph, info: ValueInfo) -> bool:
    """Whether an input is only ever the ``sequence_lens`` of recurrences: the network's own lengths."""
    readers = [node for node in graph.nodes if info.name in node.inputs]
    return bool(readers) and all(
        node.op in ("GRU", "LSTM", "RNN") and [i for i, name in enumerate(node.inputs) if name == info.name] == [4]
        for node in readers
    )


def _lowered(
    graph: Graph,
    reading: Reading,
    fixed: Mapping[str, np.ndarray],
    states: Mapping[str, str],
    given: Mapping[str, tuple[Any, ...]],
    step: bool,
) -> Lowering:
    shapes = {info.name: declared_shape(info, given) for info in graph.inputs if info.name in reading.rows}
    batch = _static(shapes, reading.rows)
    together = {name: axis for name, axis in reading.steps.items() if name not in reading.own}
    low = Lowering(Draft(batch, _static(shapes, together)), "")
    low.values.update({name: Known(array) for name, array in fixed.items()})
    timed = any(axis is not None for axis in reading.steps.values())
    frame = not timed and (bool(states) or step)
    for info in graph.inputs:
        if info.name in fixed or info.name in states:
            continue
        if info.name not in reading.rows:
            low.lengths.add(info.name)
            low.values[info.name] = Tensor(info.name, ((BATCH,),), "int64")
            continue
        low.values[info.name] = _input(low, info, shapes[info.name], reading, frame)
    for info in graph.inputs:
        if info.name in states:
            low.values[info.name] = _state(low, info, declared_shape(info, given), reading, frame, shapes)
    outputs = [info.name for info in graph.outputs]
    low.draft.reserved.update(map(_plain, outputs))
    low.walk(graph, outputs)
    _finish(low, graph, states, frame)
    return low


def _static(shapes: Mapping[str, tuple[Any, ...]], axes: Mapping[str, int | None]) -> int | None:
    """The size that the file fixes for rows, or for steps; None where it leaves them open."""
    sizes = {shapes[name][axis] for name, axis in axes.items() if axis is not None}
    sizes = {size if isinstance(size, int) else None for size in sizes}
    if 0 in sizes:
        raise UnsupportedError("its inputs hold no numbers")
    if len(sizes) > 1:
        raise UnsupportedError("its inputs differ in how many rows or frames they have")
    return next(iter(sizes), None)


def _input(low: Lowering, info: ValueInfo, shape: tuple[Any, ...], reading: Reading, frame: bool) -> Tensor:
    """An input of the network: its feature axes are those that are neither rows nor time, sizes of 1 left out."""
    rows, steps = reading.rows[info.name], reading.steps[info.name]
    axes: list[tuple[Atom, ...]] = []
    features: list[int] = []
    for axis, size in enumerate(shape):
        if axis == rows:
            axes.append((BATCH,))
        elif axis == steps:
            axes.append((TIME,))
        elif not isinstance(size, int) or size < 1:
            said = "leaves axis {axis} open" if size != 0 else "has nothing along axis {axis}"
            raise UnsupportedError(f"the input {shortened(info.name)} {said.format(axis=axis)}: {shape}")
        else:
            axes.append((len(features),) if size > 1 else ())
            features += [size] if size > 1 else []
    ids = info.dtype in ("int64", "int32")
    if info.dtype not in ("float32", "float64", "float16", "int64", "int32", ""):
        raise UnsupportedError(f"the input {shortened(info.name)} holds {info.dtype}; cgru takes numbers and ids")
    clock = EVERY_STEP if steps is not None or frame else None
    if info.name in reading.own:
        clock = Clock(_plain(info.name))
    value = ValueType(tuple(features) or (() if ids else (1,)), clock, "int64" if ids else "float32")
    made = Tensor(low.draft.g.declare(_plain(info.name), value), tuple(axes), "int64" if ids else "float32")
    if clock == EVERY_STEP and low.clocked is None:
        low.clocked = made
    return made


def _state(
    low: Lowering,
    info: ValueInfo,
    shape: tuple[Any, ...],
    reading: Reading,
    frame: bool,
    shapes: Mapping[str, tuple[Any, ...]],
) -> Value:
    """A state input: read from what a row carries in a graph of one step, else what its recurrences begin with."""
    labels = {shapes[name][axis] for name, axis in reading.rows.items() if axis is not None}
    sizes = [size for size in shape if not (isinstance(size, str) and size in labels)]
    open_axes = [axis for axis, size in enumerate(shape) if not isinstance(size, int) or size < 1]
    rows = [axis for axis in open_axes if shape[axis] in labels] or (
        open_axes if None in labels or len(open_axes) == 1 else []
    )
    del sizes
    if len(open_axes) > 1 or open_axes != rows[:1]:
        raise UnsupportedError(f"the state {shortened(info.name)} leaves an axis open: {shape}")
    axes: list[tuple[Atom, ...]] = []
    features: list[int] = []
    for axis, size in enumerate(shape):
        if axis in rows:
            axes.append((BATCH,))
        else:
            axes.append((len(features),))
            features.append(int(size))
    if not frame:
        return Tensor(low.draft.g.declare(_plain(info.name), ValueType(tuple(features), None)), tuple(axes))
    assert low.clocked is not None
    return carried(low, low.clocked, axes, features, _plain(info.name))


def _plain(name: str) -> str:
    return name.replace("\0", "").removesuffix(".mask") or "x"


def _finish(low: Lowering, graph: Graph, states: Mapping[str, str], frame: bool) -> None:
    """Outputs in cgru's axes, states handed on, and what nothing needs left out."""
    draft = low.draft
    of_state = {output: name for name, output in states.items()}
    keep: list[str] = []
    made: list[tuple[str, Tensor]] = []
    for info in graph.outputs:
        value = low.value(info.name)
        if info.name in of_state and frame:
            source = low.values[of_state[info.name]]
            assert isinstance(source, Tensor)
            assert low.clocked is not None
            keep.append(carry(low, info.name, _plain(info.name), value, source, low.clocked))
            continue
        if isinstance(value, Scores):
            raise UnsupportedError(
                f"the output {shortened(info.name)} is a matrix of every frame with every other, which cgru gives to "
                "nobody: export the network without it"
            )
        if not isinstance(value, Tensor):
            raise UnsupportedError(f"the output {shortened(info.name)} is constant")
        made.append((info.name, unmixed(low, value)))
    for name, value in made:
        clock = draft.type(value.name).clock
        low.own_clocks += clock is not None and bool(clock.root)
        low.axes[name] = _numbered(low, value)
        draft.g.output(_output(low, name, value))
    # Renamed when nothing is looked up any more.
    for (name, _), given in zip(made, list(draft.g.outputs), strict=True):
        if _plain(name) not in draft.g.values:
            draft.rename(given, _plain(name))
    if not draft.g.outputs:
        raise UnsupportedError("all its outputs are states")
    g = draft.g
    sources = {name: low.values[name].name for name in states}  # type: ignore[union-attr]
    if frame:
        targets = dict(zip((info.name for info in graph.outputs if info.name in of_state), keep, strict=True))
    else:
        targets = {name: _plain(name) for name in of_state if _plain(name) in g.outputs}
    pairs = {sources[name]: targets[output] for output, name in of_state.items() if output in targets}
    if low.lengths:
        check_ends(g, low.endless)
    take_over(g, pairs)
    if not g.outputs:
        raise UnsupportedError("all its outputs are states")
    low.axes = {name: axes for name, axes in low.axes.items() if _plain(name) in g.outputs}
    _prune(g, states)
    _refuse_single_step(g)
    outputs = list(g.outputs)
    recognised(g)
    for name, made_of in zip(outputs, list(g.outputs), strict=True):
        if name not in g.values:
            draft.rename(made_of, name)


def _output(low: Lowering, name: str, value: Tensor) -> str:
    """The value as (B, T, *features), its feature axes in the order ONNX has them and sizes of 1 left out."""
    groups = [
        tuple(part) for axis in range(value.rank) for part in low.draft.segments(value, axis) if isinstance(part, tuple)
    ]
    mixed = any(len(low.draft.segments(value, axis)) > 1 for axis in range(value.rank))
    if mixed:
        raise UnsupportedError(f"the output {shortened(name)} has an axis that mixes rows, frames and features")
    made, g = low.draft.arranged(value, groups or [()]), low.draft.g
    if made in g.inputs or made in g.outputs:
        return low.draft.g.node("reshape", made, features=low.draft.type(made).features)
    return made


def _numbered(low: Lowering, value: Tensor) -> tuple[tuple[Atom, ...], ...]:
    """The axes of an output, its feature axes numbered as :func:`_output` arranges them."""
    axes: list[tuple[Atom, ...]] = []
    count = 0
    for axis in range(value.rank):
        parts = low.draft.segments(value, axis)
        axes.append(tuple(part if isinstance(part, str) else count for part in parts))
        count += sum(not isinstance(part, str) for part in parts)
    return tuple(axes)


def _prune(g: Builder, states: Mapping[str, str]) -> None:
    """Leave out the nodes that no output needs, states that nothing reads, and their inputs."""
    carried = {node.inputs[1]: node.name for node in g.nodes if node.op == "carry"}
    keep: set[str] = set()
    while True:
        needed = {*g.outputs, *keep}
        nodes = []
        for node in reversed(g.nodes):
            if node.name in needed:
                nodes.append(node)
                needed.update(name for name in node.inputs if name)
        more = {target for source, target in carried.items() if source in needed}
        if more <= keep:
            break
        keep |= more
    dropped = {node.name for node in g.nodes} - {node.name for node in nodes}
    g.nodes[:] = nodes[::-1]
    used = {node.weights for node in nodes}
    for key in [key for key in g.store if key not in used]:
        del g.store[key]
    for name in (*dropped, *(_plain(state) for state in states if _plain(state) not in needed)):
        g.values.pop(name, None)
        g.inputs.pop(name, None)


def _refuse_single_step(g: Builder) -> None:
    """Refuse a reading in which single steps at the ends of the input are all that the network looks at.

    Keras on torch writes a recurrence over an open number of steps like that: it traces one of them, and its file gives
    for any sequence what the first step gives. Where the number is fixed, steps taken one by one are no time axis.
    """
    local = {name for name, value in g.inputs.items() if value.clock is not None}
    ends: set[str] = set()
    for node in g.nodes:
        of_time = [name for name in node.inputs if name and g.values[name].clock is not None]
        if not of_time:
            continue
        if node.op == "pool_whole" and node.options["kind"] in ("first", "last") and local.issuperset(of_time):
            ends.add(node.options["kind"])
        elif operation(node.op, node.name).is_whole(node.options) or not local.issuperset(of_time):
            return
        elif node.op not in ("scan", "scan_rows", "carry"):
            local.add(node.name)
    if "first" in ends and not any(g.values[name].clock is not None for name in g.outputs):
        raise UnsupportedError(
            "of its sequence it reads the first step alone, as a recurrence over an open number of steps that was "
            "traced with one (Keras on torch writes such files, and they are wrong by themselves): export it with a "
            "fixed number of steps, or load the .keras file"
        )
