"""Keras' recurrent layers and cells, and the wrappers around them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ...errors import FormatError, ShapeError, UnsupportedError
from ...layers import GRU, LSTM, RNN, Recurrent
from .keras_draft import Draft, Step, Tensor
from .keras_graph import Entry, entry
from .keras_settings import Build, Settings, check_shape
from .keras_weights import Weights

#: How the results of two directions are joined: Keras' words and the operations.
JOINS = {"concat": "concat", "sum": "add", "mul": "mul", "ave": "average"}

#: Keras' recurrent layers and cells → cgru's.
_CELLS: dict[str, type[GRU] | type[LSTM] | type[RNN]] = {
    "GRU": GRU,
    "CuDNNGRU": GRU,
    "LSTM": LSTM,
    "CuDNNLSTM": LSTM,
    "SimpleRNN": RNN,
    "GRUCell": GRU,
    "LSTMCell": LSTM,
    "SimpleRNNCell": RNN,
}
_CELL_CLASSES = tuple(name for name in _CELLS if name.endswith("Cell"))
RECURRENT_CLASSES = tuple(name for name in _CELLS if name not in _CELL_CLASSES)


def snake_case(name: str) -> str:
    """Keras' spelling of a class name in weight paths: GRUCell → gru_cell, TimeDistributed → time_distributed."""
    name = re.sub(r"\W+", "", name)
    name = re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", name)
    return re.sub(r"([a-z])([A-Z])", r"\1_\2", name).lower()


@dataclass(frozen=True)
class _Cell:
    """One recurrent cell's settings, as the layer's ``from_keras`` takes them, and the arrays it has."""

    layer: type[GRU] | type[LSTM] | type[RNN]
    #: For ``from_keras``; activations are in Keras 3's words by now, whatever wrote the file.
    options: dict[str, Any]
    slots: tuple[str, ...]
    units: int
    is_cudnn: bool = False

    def take(self, weights: Weights, where: str) -> list[np.ndarray]:
        arrays = weights.take(self.slots, where)
        columns = len(self.layer.GATES) * self.units
        shapes: list[tuple[int | None, ...]] = [(None, columns), (self.units, columns)]
        if len(arrays) == 3:
            rows: tuple[int | None, ...] = (columns,)
            if self.is_cudnn:
                rows = (2 * columns,)
            elif self.options.get("reset_after"):
                rows = (2, columns)
            shapes.append(rows)
        for array, shape, slot in zip(arrays, shapes, self.slots, strict=True):
            check_shape(array, shape, f"{where}: {slot}")
        return _from_cudnn(arrays, len(self.layer.GATES)) if self.is_cudnn else arrays


def _cell(settings: Settings, build: Build, class_name: str) -> _Cell:
    """What a recurrent layer's or a cell's configuration says of its cell."""
    layer = _CELLS[class_name]
    units = settings.count("units")
    slots = ("kernel", "recurrent_kernel", "bias")
    options: dict[str, Any] = {"activation": "tanh", "recurrent_activation": "sigmoid", "keras_version": 3}
    if class_name.startswith("CuDNN"):
        if layer is GRU:
            options["reset_after"] = True
        return _Cell(layer, options, slots, units, is_cudnn=True)
    if layer is RNN:
        del options["recurrent_activation"]
    else:
        if "recurrent_activation" not in settings.config and build.number < (2, 3) and build.version.endswith("-tf"):
            had = f"{build.version} had two defaults"
            raise FormatError(f"{settings.where}: recurrent_activation is missing, and {had}")
        rate = "hard_sigmoid" if build.number < (2, 3) else "sigmoid"
        options["recurrent_activation"] = build.activation(settings, "recurrent_activation", rate)
    options["activation"] = build.activation(settings, "activation", "tanh")
    if layer is GRU:
        options["reset_after"] = settings.flag("reset_after", False)
    if layer is LSTM:
        settings.flag("unit_forget_bias", True)  # how the bias began
    return _Cell(layer, options, slots if settings.flag("use_bias", True) else slots[:2], units)


def _from_cudnn(arrays: Sequence[np.ndarray], gates: int) -> list[np.ndarray]:
    """The arrays of CuDNNGRU or CuDNNLSTM as GRU's or LSTM's: each gate's block of a kernel holds its transpose.

    An input block of shape (I, H) holds the numbers of an (H, I) matrix in C order. The biases lie end to end; an LSTM
    only adds them.
    """
    kernel, recurrent, bias = arrays
    inputs = [np.ascontiguousarray(block).reshape(block.shape[::-1]).T for block in np.split(kernel, gates, axis=1)]
    states = [block.T for block in np.split(recurrent, gates, axis=1)]
    both = bias.reshape(2, -1)
    return [np.concatenate(inputs, axis=1), np.concatenate(states, axis=1), both if gates == 3 else both.sum(axis=0)]


@dataclass(frozen=True)
class _Recurrence:
    """What a recurrent layer says beside its cell."""

    return_sequences: bool
    go_backwards: bool
    zero_output_for_mask: bool
    return_state: bool = False

    def options(self) -> dict[str, Any]:
        return {key: value for key, value in vars(self).items() if key != "return_state"}


def _recurrence(settings: Settings) -> _Recurrence:
    return _Recurrence(
        settings.flag("return_sequences", False),
        settings.flag("go_backwards", False),
        settings.flag("zero_output_for_mask", False),
        settings.flag("return_state", False),
    )


def recurrent(item: Entry, weights: Weights, build: Build) -> Step:
    cell, run = _recurrent_settings(item, build)
    arrays = cell.take(weights.part("cell"), item.where)
    layer = cell.layer.from_keras(arrays, **cell.options, **run.options(), name=item.name)
    return _step([layer], run.return_state)


def _recurrent_settings(item: Entry, build: Build) -> tuple[_Cell, _Recurrence]:
    settings = Settings(item)
    cell, run = _cell(settings, build, item.class_name), _recurrence(settings)
    settings.finish()
    return cell, run


def bidirectional(item: Entry, weights: Weights, build: Build) -> Step:
    settings = Settings(item)
    merge_mode = settings.value("merge_mode", "concat")
    forward = entry(settings.value("layer"), item.where)
    backward = forward
    if settings.value("backward_layer", None) is not None:
        backward = entry(settings.value("backward_layer"), item.where)
    settings.finish()
    for inner in (forward, backward):
        if inner.class_name not in (*RECURRENT_CLASSES, "RNN"):
            known = ", ".join((*RECURRENT_CLASSES, "RNN"))
            raise UnsupportedError(f"{item.where}: wraps a {inner.class_name}; run are {known}")
    if not (merge_mode is None or (isinstance(merge_mode, str) and merge_mode in JOINS)):
        raise UnsupportedError(f"{item.where}: merge_mode={str(merge_mode)[:60]!r} is none of {', '.join(JOINS)}, None")
    names = (None, None) if backward is forward else (forward.name, backward.name)
    parts = [weights.part(path, name) for path, name in zip(("forward_layer", "backward_layer"), names, strict=True)]
    sides = [_side(inner, build) for inner in (forward, backward)]
    runs = [run for _, run in sides]
    # An old file has no backward_layer: Keras derives it by turning the forward one round.
    if runs[0].go_backwards or (backward is not forward and not runs[1].go_backwards):
        raise UnsupportedError(f"{item.where}: expected a forward layer and one with go_backwards=True, in this order")
    if runs[0].return_sequences != runs[1].return_sequences or runs[0].return_state != runs[1].return_state:
        raise UnsupportedError(f"{item.where}: its two directions differ in return_sequences or return_state")
    cells = [side if isinstance(side, _Cell) else None for side, _ in sides]
    sequences = runs[0].return_sequences
    if cells[0] is not None and cells[0] == cells[1]:
        cell = cells[0]
        arrays, arrays_back = (cell.take(part.part("cell"), item.where) for part in parts)
        layer = cell.layer.from_keras(
            arrays,
            backward=arrays_back,
            merge_mode=merge_mode,
            return_sequences=sequences,
            # Whatever the layers say, Keras' wrapper sets this.
            zero_output_for_mask=sequences,
            **cell.options,
            name=item.name,
        )
        return _step([layer], runs[0].return_state)
    both = [
        _stack(inner, part, build, replace(run, go_backwards=turned, zero_output_for_mask=sequences), item.name)
        for inner, part, run, turned in zip((forward, backward), parts, runs, (False, True), strict=True)
    ]

    def emit(d: Draft, args: list[Any], kwargs: dict[str, Any]) -> Any:
        x, initial = called(d, args, kwargs)
        half = len(initial) // 2
        ends, states = [], []
        for layers, given, turned in zip(both, (initial[:half], initial[half:]), (False, True), strict=True):
            y, last = _run_all(d, layers, x, given)
            if turned and sequences:  # Keras turns the backward layer's sequence round
                y = replace(d.node("reverse_time", y, part="turned"), mask=y.mask)
            ends.append(y)
            states += last
        result: list[Tensor] = ends
        if merge_mode is not None:
            result = [replace(d.node(JOINS[merge_mode], *ends), mask=x.mask if sequences else None)]
        made = [*result, *states] if runs[0].return_state else result
        return made if len(made) > 1 else made[0]

    return Step(emit=emit)


def _side(inner: Entry, build: Build) -> tuple[_Cell | None, _Recurrence]:
    if inner.class_name == "RNN":
        settings = Settings(inner)
        settings.value("cell")
        run = _recurrence(settings)
        settings.finish()
        return None, run
    return _recurrent_settings(inner, build)


def _stack(inner: Entry, part: Weights, build: Build, run: _Recurrence, name: str) -> list[Recurrent]:
    """The layers of one direction that is a layer of its own kind, or an RNN over cells."""
    if inner.class_name == "RNN":
        return _rnn_layers(inner, part, build, run, name)
    cell, _ = _recurrent_settings(inner, build)
    arrays = cell.take(part.part("cell"), inner.where)
    return [cell.layer.from_keras(arrays, **cell.options, **run.options(), name=name)]


def rnn(item: Entry, weights: Weights, build: Build) -> Step:
    """RNN over a cell, or over several: as many layers, all but the last with return_sequences."""
    _, run = _side(item, build)
    return _step(_rnn_layers(item, weights, build, run, item.name), run.return_state)


def _rnn_layers(item: Entry, weights: Weights, build: Build, run: _Recurrence, name: str) -> list[Recurrent]:
    inner = entry(item.config.get("cell"), item.where)
    part = weights.part("cell", inner.name)
    if inner.class_name == "StackedRNNCells":
        stack = Settings(inner)
        listed = stack.value("cells")
        stack.finish()
        if not isinstance(listed, list) or not listed:
            raise FormatError(f"{inner.where}: lists no cells")
        cells = [entry(value, inner.where) for value in listed]
        if run.go_backwards and len(cells) > 1:
            raise UnsupportedError(f"{item.where}: go_backwards over several cells is not run")
        counts: dict[str, int] = {}
        parts: list[Weights] = []
        for cell in cells:
            stem = snake_case(cell.class_name)
            number = counts[stem] = counts.get(stem, -1) + 1
            parts.append(part.part(f"cells/{stem}_{number}" if number else f"cells/{stem}", cell.name))
    else:
        cells, parts = [inner], [part]
    layers: list[Recurrent] = []
    for index, (one, held) in enumerate(zip(cells, parts, strict=True)):
        if one.class_name not in _CELL_CLASSES:
            known = ", ".join(_CELL_CLASSES)
            raise UnsupportedError(f"{item.where}: its cell is a {one.class_name}; run are {known} and stacks of them")
        own = Settings(one)
        kept = _cell(own, build, one.class_name)
        own.finish()
        is_last = index == len(cells) - 1
        options = run.options() if is_last else {"return_sequences": True}
        called = name if len(cells) == 1 else f"{name}_cell_{index}"
        layers.append(kept.layer.from_keras(kept.take(held, one.where), **kept.options, **options, name=called))
    return layers


# ---- as nodes --------------------------------------------------------------------------------------------


def _step(layers: list[Recurrent], with_state: bool) -> Step:
    def emit(d: Draft, args: list[Any], kwargs: dict[str, Any]) -> Any:
        x, initial = called(d, args, kwargs)
        y, states = _run_all(d, layers, x, initial)
        ends = y if isinstance(y, list) else [y]
        made = [*ends, *states] if with_state else ends
        return made if len(made) > 1 else made[0]

    return Step(None if with_state else list(layers), emit)


def called(d: Draft, args: list[Any], kwargs: dict[str, Any]) -> tuple[Tensor, list[Tensor]]:
    """The sequence a recurrent layer is called with, and the states it begins with."""
    initial = kwargs.get("initial_state")
    if len(args) > 1 and args[1] is not None and initial is None:
        initial = args[1]
    first = args[0] if args else None
    if isinstance(first, list) and len(first) > 1:  # Keras 2 lists the states behind the sequence
        initial, first = first[1:], first[0]
    x = d.only([first], kwargs, "initial_state")
    found: list[Tensor] = []
    stack = [initial]
    while stack:
        one = stack.pop(0)
        if isinstance(one, list):
            stack = [*one, *stack]
        elif one is not None:
            found.append(d.tensor(one))
    return x, found


def _run_all(d: Draft, layers: list[Recurrent], x: Tensor, initial: list[Tensor]) -> tuple[Any, list[Tensor]]:
    """Layers one after the other: what the last gives, and the states of all of them."""
    wanted = sum(len(layer.cell.state) * layer.directions for layer in layers)
    if initial and len(initial) != wanted:
        raise d.refuse(f"begins with {len(initial)} states; it has {wanted}")
    states: list[Tensor] = []
    y: Any = x
    for layer in layers:
        count = len(layer.cell.state) * layer.directions if initial else 0
        begin, initial = initial[:count], initial[count:]
        y, last = _run(d, layer, y, begin)
        states += last
    return y, states


def _run(d: Draft, layer: Recurrent, x: Tensor, initial: list[Tensor]) -> tuple[Any, list[Tensor]]:
    if d.value(x).dtype != "float32":
        raise d.refuse("works on the ids of an input, which only an Embedding does")
    if not x.timed:
        x = replace(x, mask=None)
    one = _over_time if x.timed else _over_axis
    size, per = len(d.features(x)), len(layer.cell.state)
    if size != (1 if x.timed else 2):
        raise ShapeError(f"{d.where}: expected (batch, steps, features), found {len(d.shape(x)) + 1} axes")
    ends, states = [], []
    for i, scan in enumerate(layer.scans()):
        backwards = scan.reverse or layer.go_backwards
        y, last = one(d, layer, x, scan.suffix, scan.label, backwards, initial[i * per : (i + 1) * per])
        ends.append(y)
        states += last
    if layer.directions == 1:
        return ends[0], states
    if layer.merge_mode is None:
        return ends, states
    mode = JOINS[layer.merge_mode]
    axis: dict[str, Any] = {"axis": len(d.features(ends[0])) - 1} if mode == "concat" else {}
    return replace(d.node(mode, *ends, **axis), mask=ends[0].mask), states


def _over_time(
    d: Draft, layer: Recurrent, x: Tensor, suffix: str, label: str, backwards: bool, initial: list[Tensor]
) -> tuple[Tensor, list[Tensor]]:
    units, emitted = layer.hidden_size, layer.emitted_size
    y = d.node(
        "scan", x, *([x.mask, *initial] if initial else [x.mask] if x.mask else []),
        part="" if layer.directions == 1 and layer.return_sequences else label,
        weights=layer.weights[suffix], cell=layer.cell.name, units=units,
        emitted=emitted if emitted != units else 0,
        activation=layer.activation, recurrent_activation=layer.recurrent_activation,
        reverse=backwards, flip=layer.go_backwards and layer.return_sequences,
        repeat=not layer.zero_output_for_mask,
    )  # fmt: skip
    masks = [x.mask] if x.mask else []
    states = [
        d.node("last_state", y, *masks, part=f"{label}.{name}", array=name, timed=False,
               size=emitted if name == layer.cell.state[0] else units)
        for name in layer.cell.state
    ]  # fmt: skip
    if layer.return_sequences:
        return replace(y, mask=x.mask), states
    part = "" if layer.directions == 1 else f"{label}.last"
    last = d.node(
        "last_state", y, *masks, part=part, array=layer.cell.state[0], size=emitted, as_output=True, timed=False
    )
    return last, states


#: The names that ``scan_inner`` has for cells.
_INNER_CELLS = {"gru_reset_after": "gru_after", "gru_reset_before": "gru_before", "lstm": "lstm", "rnn": "rnn"}
#: The activations that a cell of ``scan_inner`` takes: the gates' and the candidates'.
_GATES = {"lstm": (1, 2), "rnn": (0, 1)}


def _over_axis(
    d: Draft, layer: Recurrent, x: Tensor, suffix: str, label: str, backwards: bool, initial: list[Tensor]
) -> tuple[Tensor, list[Tensor]]:
    """Along the first feature axis (S, I) of a value, whose steps are no frames of the network's."""
    rates, others = _GATES.get(layer.cell.name, (1, 1))
    steps, units = d.features(x)[0], layer.hidden_size
    options: dict[str, Any] = {
        "cell": _INNER_CELLS[layer.cell.name], "units": units, "reverse": backwards,
        "activations": (layer.recurrent_activation,) * rates + (layer.activation,) * others,
    }  # fmt: skip
    y = d.node("scan_inner", x, *initial, part=label, weights=layer.weights[suffix], **options)
    end = 0 if backwards else steps - 1

    def last_of(values: Tensor, name: str) -> Tensor:
        return d.reshaped(d.node("slice", values, part=f"{label}.{name}", start=end, stop=end + 1), units)

    states = [last_of(y, "h")]
    if layer.cell.name == "lstm":
        memory = d.node(
            "scan_inner", x, *initial, part=f"{label}.memory", weights=layer.weights[suffix], emit="c", **options
        )
        states.append(last_of(memory, "c"))
    if not layer.return_sequences:
        return states[0], states
    if layer.go_backwards:
        d.listed(steps)
        y = d.node("take", y, part=f"{label}.turned", indices=tuple(range(steps - 1, -1, -1)))
    return y, states
