"""ONNX' Loop and Scan: a recurrence over the network's time step by step, any other of a known number written out.

Source: onnx/docs/Operators.md, Loop and Scan. Inside a loop over time a value is what it is at one step: it has the
clock of the sequence, and no axis of time. What the loop hands on from iteration to iteration is a state that the
network carries; where it is a cell that cgru knows, :mod:`.onnx_cells` makes it one again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from ...errors import FormatError, UnsupportedError
from ...spec.values import EVERY_STEP, Clock
from ..containers.onnx_records import Graph, Node, shortened
from .onnx_arithmetic import Broadcast
from .onnx_carried import carried, carry
from .onnx_lowering import HANDLERS, Lowering, handles, joined_sizes, renamed
from .onnx_values import BATCH, TIME, Atom, Count, Known, Size, Step, Tensor, Unfolded, Value, frames_of, whole_numbers

#: Nodes that loops of a known number of iterations may become.
MAX_WRITTEN_OUT = 20_000
#: Operators that read a sequence inside a loop without taking it as what it is at one step.
_READ_SEQUENCES = ("Gather", "Shape", "Size")


class Iteration(NamedTuple):
    """A loop, whichever operator says it: what its body takes and gives in each iteration.

    ``states`` and ``frames`` pair the body's inputs with what they begin with, and with the sequence of which they are
    the frame; ``counter`` and ``condition`` are inputs too ("" where there is none). ``next`` are the body's outputs
    that the states become, ``stacked`` those of which every iteration's is kept.
    """

    body: Graph
    states: tuple[tuple[str, Value], ...]
    frames: tuple[tuple[str, Tensor], ...]
    next: tuple[str, ...]
    stacked: tuple[str, ...]
    counter: str = ""
    condition: str = ""
    goes_on: str = ""


@handles("Loop")
def _loop(low: Lowering, node: Node, inputs: list[Value | None]) -> Sequence[Value]:
    body, given = _body(node), inputs[2:]
    names, results = [info.name for info in body.inputs], [info.name for info in body.outputs]
    if len(names) != 2 + len(given) or len(results) < 1 + len(given) or any(value is None for value in given):
        raise FormatError(f"{node}: {len(given)} values for a body that takes {len(names)} and gives {len(results)}")
    trip, begins = inputs[0], inputs[1]
    if trip is None or (begins is not None and not _always(begins)):
        raise low.unsupported(node, "a loop that runs until what it computes says so; cgru runs those of a number")
    (count,) = whole_numbers(trip, f"{node}: the number of iterations")
    states = tuple(zip(names[2:], (value for value in given if value is not None), strict=True))
    iteration = Iteration(
        body, states, (), tuple(results[1 : 1 + len(given)]), tuple(results[1 + len(given) :]), names[0], names[1],
        results[0],
    )  # fmt: skip
    clock = _clock_of(low, count)
    if not isinstance(count, int):
        if clock is None:
            raise Unfolded
        return _over_time(low, node, iteration, clock, count)
    saved = dict(low.values)
    try:
        if clock is not None:
            return _over_time(low, node, iteration, clock, count)
    except (UnsupportedError, Unfolded):
        low.values = saved
    return _written_out(low, node, iteration, count)


@handles("Scan")
def _scan(low: Lowering, node: Node, inputs: list[Value | None]) -> Sequence[Value]:
    if node.version < 9:
        raise low.unsupported(node, "a Scan as before operator set 9")
    body, given = _body(node), [low.tensor(value, node) if value is None else value for value in inputs]
    parts = int(node.attributes["num_scan_inputs"])
    held = len(given) - parts
    names, results = [info.name for info in body.inputs], [info.name for info in body.outputs]
    if not 0 < parts <= len(given) or len(names) != len(given) or len(results) < held:
        raise FormatError(f"{node}: {len(given)} values, {parts} of them sequences, for a body that takes {len(names)}")
    kept = len(results) - held
    axes = node.attributes.get("scan_input_axes") or (0,) * parts
    places = node.attributes.get("scan_output_axes") or (0,) * kept
    turned = node.attributes.get("scan_input_directions") or (0,) * parts
    turned_back = node.attributes.get("scan_output_directions") or (0,) * kept
    if not len(axes) == len(turned) == parts or not len(places) == len(turned_back) == kept:
        raise FormatError(f"{node}: axes or directions do not fit {parts} sequences in and {kept} out")
    sequences = []
    for value, axis, reverse in zip(given[held:], axes, turned, strict=True):
        x = low.tensor(value, node)
        sequences.append(_turned(low, node, _in_front(x, axis % x.rank), bool(reverse)))
    count = low.draft.axis_size(sequences[0], 0)
    iteration = Iteration(
        body, tuple(zip(names[:held], given[:held], strict=True)),
        tuple(zip(names[held:], sequences, strict=True)), tuple(results[:held]), tuple(results[held:]),
    )  # fmt: skip
    if all(low.draft.segments(x, 0) == [TIME] for x in sequences):
        clock = low.draft.type(sequences[0].name).clock
        assert clock is not None
        made = list(_over_time(low, node, iteration, clock, count))
    elif isinstance(count, int):
        made = list(_written_out(low, node, iteration, count))
    else:
        raise low.unsupported(node, "it goes along the axis of rows, or along sequences of several lengths")
    for i, (place, reverse) in enumerate(zip(places, turned_back, strict=True), held):
        value = _turned(low, node, low.tensor(made[i], node), bool(reverse))
        at = place % value.rank
        made[i] = renamed(value, [*value.axes[1 : at + 1], value.axes[0], *value.axes[at + 1 :]])
    return made


def _body(node: Node) -> Graph:
    body = node.attributes.get("body")
    if not isinstance(body, Graph):
        raise FormatError(f"{node}: its body is no graph")
    return body


def _always(condition: Value) -> bool:
    if not isinstance(condition, Known) or condition.is_shape or condition.array.size != 1:
        return False
    return bool(condition.array.all())


def _clock_of(low: Lowering, count: Size) -> Clock | None:
    """The clock of a sequence with as many frames as the loop has iterations."""
    if isinstance(count, Count):
        (symbol, *more) = count.symbols
        return symbol if isinstance(symbol, Clock) and not more and (count.factor, count.offset) == (1, 0) else None
    fits = low.clocked is not None and frames_of(EVERY_STEP, low.draft.steps) == count
    return EVERY_STEP if fits else None


def _in_front(x: Tensor, axis: int) -> Tensor:
    return renamed(x, [x.axes[axis], *x.axes[:axis], *x.axes[axis + 1 :]])


def _turned(low: Lowering, node: Node, x: Tensor, reverse: bool) -> Tensor:
    """x with its first axis from the end to the beginning."""
    if not reverse:
        return x
    if low.draft.segments(x, 0) == [TIME]:
        return Tensor(low.draft.emit("reverse_time", x.name), x.axes, x.dtype)
    from .onnx_movement import taken

    size = low.draft.axis_size(x, 0)
    if not isinstance(size, int):
        raise Unfolded
    return taken(low, node, x, 0, list(range(size))[::-1])


# Over time ----------------------------------------------------------------------------------------------------------


@contextmanager
def _inside(low: Lowering) -> Iterator[None]:
    low.loops += 1
    try:
        yield
    finally:
        low.loops -= 1


def _over_time(low: Lowering, node: Node, it: Iteration, clock: Clock, count: Size) -> Sequence[Value]:
    if low.loops:
        raise low.unsupported(node, "a loop over time inside another")
    _check_sequences(low, node, it)
    low.scans += 1
    like = low.of_clock(clock)
    if it.goes_on:
        _check_condition(low, node, it, count)
    held: dict[str, tuple[Tensor, Value]] = {}
    counted: dict[str, int] = {}
    with _inside(low):
        low.values[it.counter] = Known(_index(Step(count)))
        for name, x in it.frames:
            low.values[name] = Tensor(x.name, x.axes[1:], x.dtype)
        for (name, begins), result in zip(it.states, it.next, strict=True):
            if _passed_on(it.body, result, name):
                low.values[name] = begins
            elif isinstance(begins, Known) and begins.array.size == 1 and begins.array.dtype.kind in "iO":
                first = begins.array.reshape(-1)[0]
                counted[name] = int(first)
                low.values[name] = Known(np.reshape(_index(Step(count)) + int(first), begins.array.shape))
            else:
                low.values[name], source = _state(low, node, name, begins, like)
                held[name] = source, begins
        low.walk(it.body, [*it.next, *it.stacked])
        low.uses.update([*it.next, *it.stacked])
        made = [
            _handed_on(low, node, it, state, result, held, counted, like, count)
            for state, result in zip(it.states, it.next, strict=True)
        ]
        return [*made, *(_sequence(low, node, low.value(name), like) for name in it.stacked)]


def _index(step: Step) -> np.ndarray:
    made = np.empty((), object)
    made[()] = Count(1, (step,))
    return made


def _check_sequences(low: Lowering, node: Node, it: Iteration) -> None:
    """Whole sequences inside the body are read a frame a step, or for their shape, and not as what they are."""
    captured = {
        name
        for name in it.body.captures
        if isinstance(value := low.values.get(name), Tensor) and any(TIME in atoms for atoms in value.axes)
    }
    passed_on = [name for (name, value), result in zip(it.states, it.next, strict=True) if isinstance(value, Tensor)
                 and any(TIME in atoms for atoms in value.axes)]  # fmt: skip
    for inner in it.body.nodes:
        for name in inner.inputs[1:] if inner.op in _READ_SEQUENCES else inner.reads():
            if name in captured or name in passed_on:
                raise low.unsupported(node, f"it reads the whole sequence {shortened(name)} at each step ({inner})")


def _check_condition(low: Lowering, node: Node, it: Iteration, count: Size) -> None:
    """Refuse a loop whose condition may end it before its last iteration."""
    saved = dict(low.values)
    last = Step(count, 1)  # what the last iteration says goes nowhere
    low.values[it.condition] = Known(np.array(True))
    low.values[it.counter] = Known(_index(last))
    for name, begins in it.states:
        if isinstance(begins, Known) and begins.array.size == 1 and begins.array.dtype.kind in "iO":
            result = it.next[[state for state, _ in it.states].index(name)]
            if _passed_on(it.body, result, name):
                low.values[name] = begins
            else:
                low.values[name] = Known(np.reshape(_index(last) + begins.array.reshape(()), begins.array.shape))
    try:
        low.walk(it.body, [it.goes_on])
        found = low.value(it.goes_on)
    except (UnsupportedError, Unfolded):
        found = None
    low.values = saved
    if found is None or not _always(found):
        raise low.unsupported(node, "what it computes may end it before its last iteration")
    low.values[it.condition] = Known(np.array(True))


def _passed_on(body: Graph, result: str, name: str) -> bool:
    """Whether a state stays what it is."""
    producers = {output: inner for inner in body.nodes for output in inner.outputs}
    while result in producers and producers[result].op == "Identity":
        result = producers[result].inputs[0]
    return result == name


def _state(low: Lowering, node: Node, name: str, begins: Value, like: Tensor) -> tuple[Tensor, Tensor]:
    """What the body reads of a state, and the node that carries it; where it does not begin with zeros, a choice."""
    sizes = low.draft.shape(begins)
    if isinstance(begins, Tensor):
        if any(TIME in atoms for atoms in begins.axes):
            raise low.unsupported(node, f"the state {shortened(name)} is a sequence")
        rows = [axis for axis, atoms in enumerate(begins.axes) if BATCH in atoms]
    else:
        whole = Count(1, (BATCH,)) if low.draft.batch is None else low.draft.batch
        rows = [axis for axis, size in enumerate(sizes) if size == whole][:1]
    axes: list[tuple[Atom, ...]] = []
    features: list[int] = []
    for axis, size in enumerate(sizes):
        if axis in rows:
            axes.append((BATCH,))
            continue
        if not isinstance(size, int):
            raise Unfolded
        axes.append((len(features),))
        features.append(size)
    source = carried(low, like, axes, features, name.replace("\0", ""))
    if isinstance(begins, Known) and not begins.is_shape and not begins.array.any():
        return source, source
    # Zero in the first step, one behind it.
    flag = carried(low, like, ((0,),), (1,), f"{source.name}.begun")
    one = Tensor(low.draft.constant(np.ones(1)), ((0,),))
    carry(low, name, f"{source.name}.begins", one, flag, like)
    start = low.tensor(begins, node)
    if isinstance(begins, Known):
        array = begins.array if not rows else begins.array.take([0], rows[0])
        if not np.array_equal(np.broadcast_to(array, begins.array.shape), begins.array):
            raise low.unsupported(node, "an initial state that differs from row to row")
        start = Tensor(low.draft.constant(array.reshape(features or (1,))), tuple(axes))
    both = Broadcast(low, node, [renamed(flag, [()] * (len(axes) - 1) + [()]) if axes else flag, source, start])
    return both.result(low.draft.emit("where", *both.names)), source


def _handed_on(
    low: Lowering, node: Node, it: Iteration, state: tuple[str, Value], result: str,
    held: dict[str, tuple[Tensor, Value]], counted: dict[str, int], like: Tensor, count: Size,
) -> Value:  # fmt: skip
    """What a state is behind the loop."""
    name, begins = state
    value = low.value(result)
    if name in counted:
        wanted = Count(1, (Step(count),), counted[name] + 1)
        if not isinstance(value, Known) or value.array.size != 1 or value.array.reshape(-1)[0] != wanted:
            raise low.unsupported(node, f"the number {shortened(name)} does not count the iterations")
        last = np.empty(value.array.shape, object)
        last[...] = count + counted[name]
        return Known(last)
    if name not in held:
        return begins
    source, _ = held[name]
    made = carry(low, name, f"{source.name}.next", value, source, like)
    axes = source.axes if isinstance(value, Known) else _arranged_axes(value)
    return Tensor(low.draft.emit("pool_whole", made, kind="last"), tuple(axes))


def _arranged_axes(value: Tensor) -> list[tuple[Atom, ...]]:
    axes: list[tuple[Atom, ...]] = []
    place = 0
    for atoms in value.axes:
        axes.append((BATCH,) if BATCH in atoms else (place,))
        place += BATCH not in atoms
    return axes


def _sequence(low: Lowering, node: Node, value: Value, like: Tensor) -> Tensor:
    """What every iteration gave, one behind the other along a first axis."""
    x = low.tensor(value, node)
    name = x.name
    if low.draft.type(name).clock is None:
        name = low.draft.emit("expand_time", name, like.name)
    if low.draft.type(name).clock != low.draft.type(like.name).clock:
        raise low.unsupported(node, "what it gives has other frames than it has steps")
    return Tensor(name, ((TIME,), *x.axes), x.dtype)


# Written out --------------------------------------------------------------------------------------------------------


def _written_out(low: Lowering, node: Node, it: Iteration, count: int) -> Sequence[Value]:
    """The body as many times as the loop runs, of a number that the file says."""
    if count < 1 or count * max(1, len(it.body.nodes)) > MAX_WRITTEN_OUT:
        raise low.unsupported(node, f"{count} iterations of {len(it.body.nodes)} nodes, which is none or too many")
    from .onnx_movement import sliced

    states = [value for _, value in it.states]
    kept: list[list[Value]] = [[] for _ in it.stacked]
    low.values[it.condition] = Known(np.array(True))
    for i in range(count):
        low.values[it.counter] = Known(np.array(i))
        low.values.update(zip((name for name, _ in it.states), states, strict=True))
        for name, x in it.frames:
            part = sliced(low, node, x, 0, slice(i, i + 1, 1))
            low.values[name] = renamed(part, part.axes[1:])
        wanted = [*it.next, *it.stacked, *([it.goes_on] if it.goes_on else [])]
        low.walk(it.body, wanted)
        if it.goes_on and i + 1 < count and not _always(low.value(it.goes_on)):
            raise low.unsupported(node, "what it computes may end it before its last iteration")
        states = [low.value(name) for name in it.next]
        for values, name in zip(kept, it.stacked, strict=True):
            values.append(low.value(name))
    return [*states, *(_stacked(low, node, values) for values in kept)]


def _stacked(low: Lowering, node: Node, values: Sequence[Value]) -> Value:
    if all(isinstance(value, Known) and not value.open for value in values):
        return Known(np.stack([value.array for value in values if isinstance(value, Known)]))
    rows = [low.tensor(value, node) for value in values]
    joined_sizes([low.draft.shape(row) for row in rows])
    rows = [renamed(row, [(), *row.axes]) for row in rows]
    made = HANDLERS["Concat"](low, replace(node, op="Concat", version=13, attributes={"axis": 0}), list(rows))
    assert isinstance(made, Tensor)
    return made
