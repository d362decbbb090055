"""Recurrent cells that a graph writes out operation by operation, made one operation again.

A GRU, LSTM or RNN whose step an exporter wrote as products, sums and activations (tf2onnx of a Keras GRU, both
exporters of torch.nn.GRUCell) is a state that is carried. Where the state's next value is, as a sum of products, that
of a cell, the cell takes its place: with kernels, reduced precision and gates to look at. What is not so recognised
runs as it is written. Equations: :mod:`cgru.reference`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ...builder import Graph as Builder
from ...spec.activations import GATE_ACTIVATIONS
from ...spec.graph import Node
from ...spec.operation import checked_options, operation
from ...spec.values import Clock
from ...weights import Weights
from .onnx_forms import Forms, Sum, Unknown

#: States and numbers of a value that are looked at: beyond them a graph stays as it is written.
_MOST_STATES, _MOST_NUMBERS = 64, 1 << 14


class State(NamedTuple):
    """A state that is carried: its node, the value that the step begins with (another where the first step's is not
    zero, which ``start`` names then), the node that writes it, and the value written."""

    node: Node
    begins: str
    start: str
    writer: Node
    ends: str


class Gate(NamedTuple):
    """What goes into a gate: matrices of the inputs by name and of the state, and a shift."""

    activation: str
    inputs: dict[str, np.ndarray]
    state: np.ndarray
    shift: np.ndarray


class Cell(NamedTuple):
    """A cell in cgru's order of gates; ``more`` (units,) is the bias within the reset of a GRU that resets after."""

    kind: str
    gates: Sequence[Gate]
    more: np.ndarray | None


def recognised(g: Builder) -> None:
    """Put a cell in the place of every one that ``g`` writes out."""
    states = _states(g)
    if not states or len(states) > _MOST_STATES:
        return
    for state in states:
        others = [other for other in states if other is not state and other.node.inputs == state.node.inputs]
        for memory in (None, *others):
            if any(item is not None and item.node.name not in g.values for item in (state, memory)):
                continue  # part of a cell by now
            try:
                cell = _Reader(g, state, memory).cell()
            except Unknown:
                continue
            if _replaced(g, state, memory, cell):
                break


def _states(g: Builder) -> list[State]:
    nodes = {node.name: node for node in g.nodes}
    made = []
    for writer in g.nodes:
        if writer.op != "carry" or g.values[writer.name].size > _MOST_NUMBERS:
            continue
        node = nodes[writer.inputs[1]]
        begins, start = node.name, ""
        readers = [other for other in g.nodes if node.name in other.inputs and other is not writer]
        if len(readers) == 1 and readers[0].op == "where" and readers[0].inputs[1] == node.name:
            flag = nodes.get(readers[0].inputs[0])
            if flag is not None and _begins_at_once(g, nodes, flag):
                begins, start = readers[0].name, readers[0].inputs[2]
        made.append(State(node, begins, start, writer, writer.inputs[0]))
    return made


def _begins_at_once(g: Builder, nodes: dict[str, Node], flag: Node) -> bool:
    """Whether a state is zero in the first step and one in all behind it."""
    writers = [node for node in g.nodes if node.op == "carry" and node.inputs[1] == flag.name]
    if flag.op != "carried" or len(writers) != 1:
        return False
    source = nodes.get(writers[0].inputs[0])
    source = nodes.get(source.inputs[0]) if source is not None and source.op == "expand_time" else source
    return (
        source is not None and source.op == "constant"
        and bool((g.store[source.weights].arrays()["value"] == 1).all())
    )  # fmt: skip


# What a state becomes -----------------------------------------------------------------------------------------------


class _Reader:
    """Reads a cell out of what a state, and the memory beside it, become."""

    def __init__(self, g: Builder, state: State, memory: State | None) -> None:
        self.state, self.memory = state, memory
        self.forms = Forms(g, {state.begins} | ({memory.begins} if memory else set()))
        self.units = g.values[state.node.name].size
        if memory is not None and g.values[memory.node.name].size != self.units:
            raise Unknown
        self.h = self.forms.marks_of(state.begins)

    def cell(self) -> Cell:
        made = self.forms.of(self.state.ends)
        if made.matrices or made.shift.any() or made.size != self.units:
            raise Unknown
        products = [(marks, _one_factor(factors)) for marks, factors in made.products.values()]
        if self.memory is not None:
            return self._lstm(products, self.memory)
        if len(products) == 1:
            ((marks, factor),) = products
            if marks.shape[1] != 1 or factor != 1:
                raise Unknown
            return Cell("rnn", [self._gate(marks[:, 0])], None)
        return self._gru(products)

    def _gate(self, marks: np.ndarray, sign: float = 1) -> Gate:
        activation, of = self._into(marks)
        if of.products:
            raise Unknown
        return self._affine(activation, of.times(np.full(of.size, sign)))

    def _into(self, marks: np.ndarray) -> tuple[str, Sum]:
        """The activation that numbers come out of, and what goes into it."""
        what, of, places = self.forms.origin(marks)
        kind, _, activation = what.partition(" ")
        if of is None or kind != "φ" or activation not in GATE_ACTIVATIONS:
            raise Unknown
        return activation, of.chosen(places)

    def _affine(self, activation: str, of: Sum) -> Gate:
        inputs = dict(of.matrices)
        state = inputs.pop(self.state.begins, np.zeros((of.size, self.units)))
        if self.forms.dependent.intersection(inputs):
            raise Unknown
        return Gate(activation, inputs, state, of.shift)

    def _gru(self, products: Sequence[tuple[np.ndarray, float]]) -> Cell:
        """(1 − z) n + z h, multiplied out; where z and 1 − z have changed places, σ(−x) = 1 − σ(x)."""
        single = [(marks, factor) for marks, factor in products if marks.shape[1] == 1]
        double = [(marks, factor) for marks, factor in products if marks.shape[1] == 2]
        if len(single) != 1 or len(double) != 2 or single[0][1] != 1 or sorted(f for _, f in double) != [-1, 1]:
            raise Unknown
        alone = single[0][0][:, 0]
        (with_h,) = [i for i, (marks, _) in enumerate(double) if (marks == self.h[:, None]).any(axis=1).all()] or [-1]
        if with_h < 0:
            raise Unknown
        z = _other(double[with_h][0], self.h)
        n = _other(double[1 - with_h][0], z)
        keeps = double[with_h][1] == 1
        if not np.array_equal(alone, n if keeps else self.h):
            raise Unknown
        update = self._gate(z, 1 if keeps else -1)
        if not keeps and update.activation not in ("sigmoid", "hard_sigmoid", "hard_sigmoid_keras2"):
            raise Unknown
        activation, of = self._into(n)
        found = self._reset_before(activation, of) if not of.products else self._reset_after(activation, of)
        kind, reset, new, more = found
        return Cell(kind, [reset, update, new], more)

    def _reset_after(self, activation: str, of: Sum) -> tuple[str, Gate, Gate, np.ndarray]:
        """φ(W x + b + r (R h + d))."""
        recurrent, more = np.zeros((self.units, self.units)), np.zeros(self.units)
        reset: np.ndarray | None = None
        for marks, factors in of.products.values():
            if marks.shape[1] == 1:
                r, more = marks[:, 0], more + factors
            elif marks.shape[1] == 2:
                place = self._block_column(marks)
                _, block, rows = self.forms.origin(marks[:, place])
                assert block is not None
                part = block.chosen(rows).times(factors)
                if part.products or set(part.matrices) - {self.state.begins}:
                    raise Unknown
                recurrent, more = recurrent + part.matrices.get(self.state.begins, 0), more + part.shift
                r = marks[:, 1 - place]
            else:
                raise Unknown
            if reset is not None and not np.array_equal(reset, r):
                raise Unknown
            reset = r
        assert reset is not None
        of.products = {}
        new = self._affine(activation, of)
        if new.state.any():
            raise Unknown
        return "gru_reset_after", self._gate(reset), new._replace(state=recurrent), more

    def _block_column(self, marks: np.ndarray) -> int:
        for place in (0, 1):
            try:
                what, _, _ = self.forms.origin(marks[:, place])
            except Unknown:
                continue
            if what == "Σ":
                return place
        raise Unknown

    def _reset_before(self, activation: str, of: Sum) -> tuple[str, Gate, Gate, None]:
        """φ(W x + b + R (r h) + d)."""
        for name, matrix in list(of.matrices.items()):
            if name == self.state.begins or name not in self.forms.dependent:
                continue
            both = self.forms.of(name)
            if both.matrices or both.shift.any() or len(both.products) != 1:
                raise Unknown
            ((marks, factors),) = both.products.values()
            if marks.shape != (self.units, 2) or _one_factor(factors) != 1:
                raise Unknown
            r = _other(marks, self.h)
            del of.matrices[name]
            new = self._affine(activation, of)
            if new.state.any():
                raise Unknown
            return "gru_reset_before", self._gate(r), new._replace(state=matrix), None
        raise Unknown

    def _lstm(self, products: Sequence[tuple[np.ndarray, float]], memory: State) -> Cell:
        """c' = f c + i g; h' = o φ(c')."""
        c = self.forms.marks_of(memory.begins)
        after = self.forms.of(memory.ends)
        if len(products) != 1 or products[0][0].shape[1] != 2 or products[0][1] != 1:
            raise Unknown
        if after.matrices or after.shift.any() or len(after.products) != 2:
            raise Unknown
        both = products[0][0]
        for place in (0, 1):
            activation, of = self._into(both[:, place])
            if of.products.keys() == after.products.keys():
                o = both[:, 1 - place]
                break
        else:
            raise Unknown
        terms = [(marks, _one_factor(factors)) for marks, factors in after.products.values()]
        if any(marks.shape[1] != 2 or factor != 1 for marks, factor in terms):
            raise Unknown
        kept = [marks for marks, _ in terms if (marks == c[:, None]).any(axis=1).all()]
        added = [marks for marks, _ in terms if not (marks == c[:, None]).any()]
        if len(kept) != 1 or len(added) != 1 or of.matrices or of.shift.any():
            raise Unknown
        gates = [self._gate(_other(kept[0], c)), self._gate(o)]
        first, second = (self._gate(added[0][:, place]) for place in (0, 1))
        # i and g are told apart by their activations; where these are the same, so is the product.
        i, new = (second, first) if first.activation != gates[0].activation else (first, second)
        if len({gates[0].activation, gates[1].activation, i.activation}) != 1 or new.activation != activation:
            raise Unknown
        return Cell("lstm", [i, gates[0], new, gates[1]], None)


def _one_factor(factors: np.ndarray) -> float:
    if np.abs(np.abs(factors) - 1).max() > 1e-6 or np.sign(factors).min() != np.sign(factors).max():
        raise Unknown
    return float(np.sign(factors[0]))


def _other(marks: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Of two marks a number, the one that is not ``known``."""
    found = marks == known[:, None]
    if not (found.sum(axis=1) == 1).all():
        raise Unknown
    return marks[~found]


# The cell in its place ------------------------------------------------------------------------------------------------


def _replaced(g: Builder, state: State, memory: State | None, cell: Cell) -> bool:
    """Whether the cell could take the place of what writes it out: nothing else may read the states of steps before."""
    clock = g.values[state.node.name].clock
    names = list(dict.fromkeys(name for gate in cell.gates for name in gate.inputs))
    starts = [state.start, *([memory.start] if memory else [])]
    if not names or clock is None or any(start and g.values[start].clock is not None for start in starts):
        return False
    if any(g.values[name].clock not in (None, clock) for name in names):
        return False
    units, features = g.values[state.node.name].size, g.values[state.node.name].features
    made: list[Node] = []
    x = _joined(g, made, names, clock)
    begins = [_flat(g, made, start, units) if start else "" for start in starts]
    if memory and any(begins) and not all(begins):
        return False
    family = cell.kind.partition("_")[0]
    name = _free(g, family)
    options = {"cell": cell.kind, "units": units, "activation": cell.gates[-2 if memory else -1].activation}
    if cell.kind != "rnn":
        options["recurrent_activation"] = cell.gates[0].activation
    if cell.kind.startswith("gru") and cell.gates[0].activation != cell.gates[1].activation:
        return False
    g.store[name] = _weights(g, cell, names)
    _put(g, made, Node(name, "scan", (x, "", *begins) if any(begins) else (x,), options, name, name))
    result = name
    if features != (units,):
        result = _put(g, made, Node(_free(g, f"{name}.shaped"), "reshape", (name,), {"features": features}, "", name))
    return _exchanged(g, state, memory, made, name, result)


def _weights(g: Builder, cell: Cell, names: Sequence[str]) -> Weights:
    def of(gate: Gate, name: str) -> np.ndarray:
        size = g.values[name].size
        return gate.inputs.get(name, np.zeros((len(gate.shift), size)))

    shift = [gate.shift for gate in cell.gates]
    arrays = {
        "weight_ih": np.concatenate([np.concatenate([of(gate, name) for name in names], 1) for gate in cell.gates]),
        "weight_hh": np.concatenate([gate.state for gate in cell.gates]),
        "bias_ih": np.concatenate(shift),
        "bias_hh": np.concatenate([np.zeros_like(part) for part in shift]),
    }
    if cell.more is not None:
        arrays["bias_hh"][-len(cell.more) :] = cell.more
    made = {key: np.ascontiguousarray(array, np.float32) for key, array in arrays.items()}
    return Weights(made, {"weight_ih", "weight_hh"})


def _joined(g: Builder, made: list[Node], names: Sequence[str], clock: Clock) -> str:
    """The inputs of a cell as one vector at every frame."""
    parts = []
    for name in names:
        flat = _flat(g, made, name, g.values[name].size)
        if g.values[flat].clock is None:
            like = next(other for other in g.values if g.values[other].clock == clock)
            flat = _put(g, made, Node(_free(g, f"{name}.expanded"), "expand_time", (flat, like)))
        parts.append(flat)
    return parts[0] if len(parts) == 1 else _put(g, made, Node(_free(g, "joined"), "concat", tuple(parts)))


def _flat(g: Builder, made: list[Node], name: str, size: int) -> str:
    if g.values[name].features == (size,):
        return name
    return _put(g, made, Node(_free(g, f"{name}.flat"), "reshape", (name,), {"features": (size,)}))


def _put(g: Builder, made: list[Node], node: Node) -> str:
    kind = operation(node.op, node.name)
    inputs = [g.values[name] if name else None for name in node.inputs]
    node = node._replace(options=checked_options(kind, node.options, node.name), layer=node.layer or node.name)
    g.values[node.name] = kind.infer(node.options, inputs, node.name)
    made.append(node)
    return node.name


def _free(g: Builder, name: str) -> str:
    number = 1
    made = name
    while made in g.values or made in g.store:
        number += 1
        made = f"{name}.{number}"
    return made


def _exchanged(g: Builder, state: State, memory: State | None, made: list[Node], scan: str, result: str) -> bool:
    """Let readers of the state's next value read ``result``; False, and no change, where more than that is read."""
    last = {state.writer.name: result, state.ends: result}
    nodes: list[Node] = []
    placed = False
    for node in g.nodes:
        if memory is not None and node.op == "pool_whole" and node.inputs[0] in (memory.writer.name, memory.ends):
            features = g.values[node.name].features
            flat = node.name if features == (g.values[scan].size,) else _free(g, f"{node.name}.flat")
            options = {"array": "c", "size": g.values[scan].size, "as_output": False}
            nodes.append(Node(flat, "last_state", (scan,), options, "", scan))
            if flat != node.name:
                g.values[flat] = g.values[node.name].with_features(g.values[scan].size)
                nodes.append(Node(node.name, "reshape", (flat,), {"features": features}, "", scan))
            continue
        nodes.append(node._replace(inputs=tuple(last.get(name, name) for name in node.inputs)))
        if node.name == state.ends:
            nodes += made
            placed = True
    outputs = [last.get(name, name) for name in g.outputs]
    gone = {state.node.name, state.begins, state.writer.name}
    gone |= {memory.node.name, memory.begins, memory.writer.name, memory.ends} if memory else set()
    needed = set(outputs)
    for node in reversed(nodes):
        if node.name in needed:
            needed.update(name for name in node.inputs if name)
    # States of others that are carried still need what writes them.
    writers = {node.inputs[1]: node for node in nodes if node.op == "carry" and node.name not in gone}
    grown = True
    while grown:
        before = len(needed)
        needed |= {writer.name for source, writer in writers.items() if source in needed}
        for node in reversed(nodes):
            if node.name in needed:
                needed.update(name for name in node.inputs if name)
        grown = len(needed) > before
    if not placed or needed & gone:
        for node in made:
            g.values.pop(node.name, None)
        g.store.pop(scan, None)
        return False
    g.nodes[:] = [node for node in nodes if node.name in needed]
    g.outputs[:] = outputs
    for node in nodes:
        if node.name not in needed:
            g.values.pop(node.name, None)
            g.store.pop(node.weights, None) if node.weights and not any(
                other.weights == node.weights for other in g.nodes
            ) else None
    return True
