"""States that an ONNX graph hands to its caller, given to the recurrences that they belong to.

A graph of one step reads ``h`` and gives ``hn``; between them stand slices, reshapes and joins. Each number is followed
through those: where what a recurrence begins with is, number by number, what it ended in a step before, the recurrence
runs over the network's time and carries its state itself, like one that was never taken apart. What is not so found
stays as it is: carried by name, or an input and an output.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ...builder import Graph as Builder
from ...spec.graph import Node
from ...spec.operation import operation

#: Numbers that are followed: beyond this many a graph keeps the states that it says.
MAX_FOLLOWED = 1 << 22

_CELLS = {"gru_after": "gru_reset_after", "gru_before": "gru_reset_before", "lstm": "lstm", "rnn": "rnn"}


class Origins:
    """For every value, where each of its numbers was made: a node and the number's place in its result."""

    def __init__(self, g: Builder) -> None:
        self.numbers: dict[str, np.ndarray] = {}
        self._next = 0
        self._constants = {
            node.name: g.store[node.weights].arrays()["value"] for node in g.nodes if node.op == "constant"
        }
        for name in g.inputs:
            self._own(g, name)
        for node in g.nodes:
            moved = self._moved(node)
            if moved is None:
                self._own(g, node.name)
            else:
                self.numbers[node.name] = moved

    def _own(self, g: Builder, name: str) -> None:
        value = g.values[name]
        self.numbers[name] = self._next + np.arange(value.size, dtype=np.int64).reshape(value.features)
        self._next += value.size

    def _moved(self, node: Node) -> np.ndarray | None:
        """The result of an operation that moves numbers and changes none."""
        given = [self.numbers[name] for name in node.inputs if name]
        options = node.options
        match node.op:
            case "reshape":
                return given[0].reshape(options["features"])
            case "transpose":
                return given[0].transpose(options["order"])
            case "slice":
                part = slice(options["start"], options["stop"], options["step"])
                return given[0][(slice(None),) * options["axis"] + (part,)]
            case "take":
                return np.take(given[0], options["indices"], axis=options["axis"])
            case "broadcast":
                return np.broadcast_to(given[0], options["features"])
            case "concat":
                return np.concatenate(given, axis=options["axis"])
            case "carry":
                return given[0]
            case "pad_inner" if options["mode"] == "constant":
                axes = len(options["pads"]) // 2
                pads = [(options["pads"][i], options["pads"][axes + i]) for i in range(axes)]
                return np.pad(given[0], pads, constant_values=-1)
            case "where":
                chosen = self._constants.get(node.inputs[0])
                return None if chosen is None else np.where(chosen != 0, given[1], given[2])
        return None


def take_over(g: Builder, states: Mapping[str, str]) -> None:
    """Give the states of ``g``, from a ``carried`` node or input to a ``carry`` node or output, to its recurrences."""
    if sum(value.size for value in g.values.values()) > MAX_FOLLOWED or not states:
        return
    origins = Origins(g)
    if all(name in g.inputs for name in states):
        _over_sequences(g, states, origins)
    else:
        _over_steps(g, states, origins)
        _caches(g, states, origins)


def _follows(origins: Origins, states: Mapping[str, str], begins: str, ends: np.ndarray) -> bool:
    """Whether the numbers of ``begins`` are those of a state, and the state's next ones are ``ends``."""
    wanted = origins.numbers[begins].reshape(-1)
    for source, target in states.items():
        held = origins.numbers[source].reshape(-1)
        places = wanted - held[0]
        if places.min() >= 0 and places.max() < held.size:
            return np.array_equal(origins.numbers[target].reshape(-1)[places], ends.reshape(-1))
    return False


# Whole sequences: the state is what a recurrence over them begins with and ends in ------------------------------------


def _over_sequences(g: Builder, states: Mapping[str, str], origins: Origins) -> None:
    lasts = {(node.inputs[0], node.options["array"]): node.name for node in g.nodes if node.op == "last_state"}
    changed: dict[str, Node] = {}
    read: set[str] = set()
    for node in g.nodes:
        if node.op not in ("scan", "scan_rows") or len(node.inputs) < 3:
            continue
        begins = [(array, name) for array, name in zip(("h", "c"), node.inputs[2:], strict=False) if name]
        ends = [lasts.get((node.name, array), "") for array, _ in begins]
        if not all(ends):
            continue
        if all(
            _follows(origins, states, name, origins.numbers[end]) for (_, name), end in zip(begins, ends, strict=True)
        ):
            changed[node.name] = node._replace(inputs=node.inputs[:1])
            read.update(name for _, name in begins)
    # All or nothing: a state of which a part stays an input is none of the network's yet.
    taken = {int(n) for name in read for n in origins.numbers[name].reshape(-1)}
    for source in states:
        if not set(origins.numbers[source].reshape(-1).tolist()) <= taken:
            return
    g.nodes[:] = [changed.get(node.name, node) for node in g.nodes]
    g.outputs[:] = [name for name in g.outputs if name not in states.values()]


# One step: the state is carried --------------------------------------------------------------------------------------


def _over_steps(g: Builder, states: Mapping[str, str], origins: Origins) -> None:
    memories = {node.weights: node.name for node in g.nodes if node.op == "scan_inner" and node.options["emit"] == "c"}
    nodes: list[Node] = []
    for node in g.nodes:
        scan = _scan_of(g, node, states, origins, memories.get(node.weights, ""))
        if scan is None:
            nodes.append(node)
            continue
        shape = g.values[node.name].features
        squeezed = Node(f"{node.name}.x", "reshape", node.inputs[:1], {"features": _without_steps(g, node.inputs[0])})
        for made in (squeezed, scan):
            inputs = [g.values[name] if name else None for name in made.inputs]
            g.values[made.name] = operation(made.op, made.name).infer(made.options, inputs, made.name)
            nodes.append(made)
        nodes.append(Node(node.name, "reshape", (scan.name,), {"features": shape}, "", node.name))
    g.nodes[:] = nodes


def _without_steps(g: Builder, name: str) -> tuple[int, ...]:
    features = g.values[name].features
    return (*features[:-2], features[-1])


def _scan_of(g: Builder, node: Node, states: Mapping[str, str], origins: Origins, memory: str) -> Node | None:
    """A recurrence of a single step that begins with what it ended in a step before, as one over time."""
    if node.op != "scan_inner" or node.options["emit"] != "h" or g.values[node.inputs[0]].features[-2] != 1:
        return None
    lstm = node.options["cell"] == "lstm"
    begins = [name for name in node.inputs[1:] if name]
    if len(begins) != 1 + lstm or (lstm and not memory):
        return None
    ends = [origins.numbers[node.name], *([origins.numbers[memory]] if lstm else [])]
    if not all(_follows(origins, states, name, end) for name, end in zip(begins, ends, strict=True)):
        return None
    rows = _without_steps(g, node.inputs[0])[:-1]
    options = {key: value for key, value in node.options.items() if key != "emit"} | {"reverse": False}
    simple = None if rows else _plain_options(options, g.store[node.weights].shapes)
    op, chosen = ("scan_rows", options) if simple is None else ("scan", simple)
    checked = {key: option.default for key, option in operation(op, node.name).options.items()} | chosen
    return Node(f"{node.name}.scan", op, (f"{node.name}.x",), checked, node.weights, node.name)


def _plain_options(options: Mapping[str, Any], shapes: Mapping[str, Any]) -> dict[str, Any] | None:
    """Options of ``scan``, which has kernels, where no switch is used that it lacks."""
    activations = options["activations"]
    if options["clip"] or options["coupled"] or any(options["alphas"]) or any(options["betas"]):
        return None
    if options["cell"] == "lstm" and activations[1] != activations[2]:
        return None
    cell = "lstm_peephole" if "weight_ph" in shapes else _CELLS[options["cell"]]
    made = {"cell": cell, "units": options["units"], "activation": activations[-1]}
    return made if options["cell"] == "rnn" else made | {"recurrent_activation": activations[0]}


# Caches: frames of steps before, kept beside each other ---------------------------------------------------------------

#: Steps that a cache may look back.
_MOST_STEPS = 4096


def _caches(g: Builder, states: Mapping[str, str], origins: Origins) -> None:
    """Where a frame is joined to those of the steps before, which a state hands on, the last frames are stacked."""
    past = Past(states, origins)
    nodes: list[Node] = []
    for node in g.nodes:
        made = _stack_of(g, node, origins, past) if node.op == "concat" else None
        for extra in made or ():
            inputs = [g.values[name] for name in extra.inputs]
            g.values[extra.name] = operation(extra.op, extra.name).infer(extra.options, inputs, extra.name)
        nodes += made if made is not None else [node]
    g.nodes[:] = nodes


class Past:
    """For every number of a state, which number of a step before it is, and of how many steps before."""

    def __init__(self, states: Mapping[str, str], origins: Origins) -> None:
        pairs = [
            (origins.numbers[source].reshape(-1), origins.numbers[target].reshape(-1))
            for source, target in states.items()
        ]
        self.held = np.concatenate([held for held, _ in pairs])
        after = np.concatenate([after for _, after in pairs])
        order = np.argsort(self.held)
        self.held, after = self.held[order], after[order]
        self.number, self.steps = after.copy(), np.ones(len(after), np.int64)
        for _ in range(_MOST_STEPS):
            inside, place = self._find(self.number)
            if not inside.any():
                break
            self.number[inside] = after[place[inside]]
            self.steps[inside] += 1
        else:
            # Numbers that never change, or come round: nothing of this network is behind them.
            inside, _ = self._find(self.number)
            self.number[inside] = -1

    def _find(self, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        place = np.minimum(np.searchsorted(self.held, numbers), len(self.held) - 1)
        return self.held[place] == numbers, place

    def of(self, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The numbers themselves, and how many steps before they were made."""
        inside, place = self._find(numbers)
        return np.where(inside, self.number[place], numbers), np.where(inside, self.steps[place], 0)


def _stack_of(g: Builder, node: Node, origins: Origins, past: Past) -> list[Node] | None:
    """The nodes that stack the last frames of what the node joins last, if that is what it gives."""
    axis, new = node.options["axis"], node.inputs[-1]
    features = g.values[new].features
    if features[axis] != 1 or len(node.inputs) < 2:
        return None
    numbers, steps = past.of(origins.numbers[node.name])
    width = numbers.shape[axis]
    latest = origins.numbers[new]
    ages = (width - 1 - np.arange(width)).reshape(-1, *[1] * (numbers.ndim - axis - 1))
    if (numbers != latest).any() or (steps != ages).any():
        return None
    rest = (*features[:axis], *features[axis + 1 :])
    order = (*range(1, axis + 1), 0, *range(axis + 1, len(features)))
    frame, stack = f"{node.name}.frame", f"{node.name}.frames"
    made = {key: option.default for key, option in operation("stack_frames", node.name).options.items()}
    return [
        Node(frame, "reshape", (new,), {"features": rest or (1,)}, "", node.layer),
        Node(stack, "stack_frames", (frame,), {**made, "width": width, "left": width - 1}, "", node.layer),
        Node(node.name, "transpose", (stack,), {"order": order}, "", node.layer)
        if rest
        else Node(node.name, "reshape", (stack,), {"features": g.values[node.name].features}, "", node.layer),
    ]
