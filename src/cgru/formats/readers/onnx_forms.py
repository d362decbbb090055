"""What the numbers of a value are, as sums: of products of numbers known by a mark, and of matrices times values.

The forms in which exporters write out a recurrent cell differ in order and grouping; as such sums they are one. A
*mark* stands for one number: of a value that is not looked into, or of the result of an activation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from ...builder import Graph as Builder
from ...spec.activations import GATE_ACTIVATIONS
from ...spec.graph import Node

#: Marks in a product, and products in a sum, that are followed: a cell has three.
_MOST = 4

_SELECTS: Mapping[str, Callable[[Any, np.ndarray], np.ndarray]] = {
    "reshape": lambda o, x: x.reshape(o["features"]),
    "transpose": lambda o, x: x.transpose(o["order"]),
    "slice": lambda o, x: x[(slice(None),) * o["axis"] + (slice(o["start"], o["stop"], o["step"]),)],
    "take": lambda o, x: np.take(x, o["indices"], axis=o["axis"]),
    "broadcast": lambda o, x: np.broadcast_to(x, o["features"]),
}


class Unknown(Exception):
    """An operation that no cell is made of."""


class Sum:
    """n numbers: ``shift`` (n,), plus ``products``, from marks (n, k) as bytes to marks and factors (n,), plus
    ``matrices``, from the name of a value to a matrix (n, m) that multiplies its m numbers."""

    def __init__(self, shift: np.ndarray) -> None:
        self.shift = shift
        self.products: dict[tuple[int, bytes], tuple[np.ndarray, np.ndarray]] = {}
        self.matrices: dict[str, np.ndarray] = {}

    @property
    def size(self) -> int:
        return len(self.shift)

    @property
    def plain(self) -> bool:
        return not self.matrices

    def terms(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Every product, and the shift as one of no marks."""
        yield from self.products.values()
        if self.shift.any():
            yield np.empty((self.size, 0), np.int64), self.shift

    def put(self, marks: np.ndarray, factors: np.ndarray) -> None:
        if not marks.shape[1]:
            self.shift = self.shift + factors
            return
        marks = np.sort(marks, axis=1)
        key = (marks.shape[1], marks.tobytes())
        held = self.products.pop(key, None)
        factors = factors if held is None else held[1] + factors
        if factors.any():
            self.products[key] = (marks, factors)
        if marks.shape[1] > _MOST or len(self.products) > _MOST:
            raise Unknown

    def added(self, other: Sum, sign: float) -> Sum:
        made = Sum(self.shift + sign * other.shift)
        made.matrices = dict(self.matrices)
        for name, matrix in other.matrices.items():
            matrix = sign * matrix
            made.matrices[name] = made.matrices[name] + matrix if name in made.matrices else matrix
        for marks, factors in self.products.values():
            made.put(marks, factors)
        for marks, factors in other.products.values():
            made.put(marks, sign * factors)
        return made

    def times(self, factor: np.ndarray) -> Sum:
        """Each number times one that is known."""
        made = Sum(self.shift * factor)
        made.matrices = {name: matrix * factor[:, None] for name, matrix in self.matrices.items()}
        made.products = {key: (marks, factors * factor) for key, (marks, factors) in self.products.items()}
        return made

    def chosen(self, which: np.ndarray) -> Sum:
        """The numbers at these places."""
        made = Sum(self.shift[which])
        made.matrices = {name: matrix[which] for name, matrix in self.matrices.items()}
        for marks, factors in self.products.values():
            made.put(marks[which], factors[which])
        return made


class Forms:
    """The sums of a graph's values, worked out where they are asked for.

    ``states`` are values that are not looked into; of what does not depend on them, the last products and sums are.

    ``origins`` has for each range of marks where it begins, and what they are of: the name of a value, or an activation
    and the sum that goes into it.
    """

    def __init__(self, g: Builder, states: set[str]) -> None:
        self.g, self.states = g, states
        self.dependent = set(states)
        for node in g.nodes:
            if node.name not in states and self.dependent.intersection(node.inputs):
                self.dependent.add(node.name)
        self.nodes = {node.name: node for node in g.nodes}
        self.origins: list[tuple[int, str, Sum | None]] = []
        self._marks: dict[str, int] = {}
        self._next = 0
        self._known: dict[str, Sum] = {}
        self._blocks: dict[int, Sum] = {}

    # ---- marks --------------------------------------------------------------------------------------------------

    def _new(self, what: str, of: Sum | None, size: int) -> np.ndarray:
        self.origins.append((self._next, what, of))
        self._next += size
        return self._next - size + np.arange(size)

    def _of_marks(self, marks: np.ndarray) -> Sum:
        made = Sum(np.zeros(len(marks)))
        made.put(marks[:, None], np.ones(len(marks)))
        return made

    def marks_of(self, name: str) -> np.ndarray:
        """The marks of a value that is not looked into."""
        size = self.g.values[name].size
        if name not in self._marks:
            self._marks[name] = int(self._new(name, None, size)[0])
        return self._marks[name] + np.arange(size)

    def origin(self, marks: np.ndarray) -> tuple[str, Sum | None, np.ndarray]:
        """What the marks, all of one origin, are of, and which of its numbers; :class:`Unknown` where they differ."""
        starts = np.array([start for start, _, _ in self.origins])
        places = np.searchsorted(starts, marks, side="right") - 1
        if len(set(places.tolist())) != 1:
            raise Unknown
        start, what, of = self.origins[int(places[0])]
        return what, of, marks - start

    # ---- sums of values -----------------------------------------------------------------------------------------

    def of(self, name: str) -> Sum:
        """The sum of a value; its numbers in the order of its feature axes."""
        if name not in self._known:
            pending = [name]
            while pending:
                node = self.nodes.get(pending[-1])
                missing = [] if node is None else [
                    i for i in node.inputs if i and i not in self._known and self._looked_into(node)
                ]  # fmt: skip
                if missing:
                    pending += missing
                else:
                    self._known[pending[-1]] = self._made(pending[-1], node)
                    pending.pop()
        return self._known[name]

    def _looked_into(self, node: Node) -> bool:
        if node.name in self.states:
            return False
        if node.name in self.dependent:
            return node.op in ("dense", "add", "sub", "mul", "activation", "clip", "concat", "expand_time", *_SELECTS)
        if node.op == "dense":
            return node.options["activation"] == "linear"
        return node.op in ("add", "sub", "slice", "reshape", "expand_time", "constant")

    def _made(self, name: str, node: Node | None) -> Sum:
        if node is None:
            return self._of_marks(self.marks_of(name))
        if not self._looked_into(node):
            return self._of_marks(self.marks_of(name))
        if node.op == "constant":
            return Sum(self.g.store[node.weights].arrays()["value"].astype(np.float64).reshape(-1))
        if node.op in _SELECTS:
            return self._known[node.inputs[0]].chosen(self._places(node))
        if node.op == "expand_time":
            return self._known[node.inputs[0]]
        if node.op == "concat":
            return self._joined(node)
        if node.op == "dense":
            return self._activated(self._dense(node), node.options["activation"])
        if node.op == "activation":
            if node.options["alpha"] is not None or node.options["beta"] is not None:
                return self._of_marks(self.marks_of(name))
            return self._activated(self._known[node.inputs[0]], node.options["activation"])
        if node.op == "clip":
            return self._clipped(node)
        a, b = (self._known[item].chosen(self._broadcast(item, name)) for item in node.inputs)
        if node.op == "mul":
            return self._product(a, b)
        return a.added(b, 1 if node.op == "add" else -1)

    def _places(self, node: Node) -> np.ndarray:
        features = self.g.values[node.inputs[0]].features
        places = np.arange(int(np.prod(features))).reshape(features)
        return _SELECTS[node.op](node.options, places).reshape(-1)

    def _broadcast(self, name: str, result: str) -> np.ndarray:
        features = self.g.values[name].features
        places = np.arange(int(np.prod(features))).reshape(features)
        return np.broadcast_to(places, self.g.values[result].features).reshape(-1)

    def _joined(self, node: Node) -> Sum:
        """Values behind each other: of each, sums of as many products as the others have."""
        parts = [self._known[name] for name in node.inputs]
        shapes = [self.g.values[name].features for name in node.inputs]
        places = np.concatenate(
            [np.full(shape, i) for i, shape in enumerate(shapes)], axis=node.options["axis"]
        ).reshape(-1)
        inside = np.concatenate(
            [np.arange(int(np.prod(shape))).reshape(shape) for shape in shapes], axis=node.options["axis"]
        ).reshape(-1)
        single = [marks for part in parts if (marks := self._single(part)) is not None]
        if len(single) != len(parts):
            raise Unknown
        marks = np.array([single[i][j] for i, j in zip(places, inside, strict=True)])
        return self._of_marks(marks)

    def _single(self, part: Sum) -> np.ndarray | None:
        """The marks of numbers each of which is one mark."""
        if part.matrices or part.shift.any() or len(part.products) != 1:
            return None
        ((marks, factors),) = part.products.values()
        return marks[:, 0] if marks.shape[1] == 1 and (factors == 1).all() else None

    def _dense(self, node: Node) -> Sum:
        """x Wᵀ + b, with a matrix for each value that x is made of."""
        name, arrays = node.inputs[0], self.g.store[node.weights].arrays()
        weight = arrays["weight"].astype(np.float64)
        if self.g.values[name].size != weight.shape[1]:
            raise Unknown
        made = Sum(arrays["bias"].astype(np.float64) if "bias" in arrays else np.zeros(len(weight)))
        marks = self._single(self._known[name]) if name in self.dependent else None
        if marks is None:
            made.matrices[name] = weight
            return made
        starts = np.array([start for start, _, _ in self.origins])
        places = np.searchsorted(starts, marks, side="right") - 1
        for place in sorted(set(places.tolist())):
            start, what, of = self.origins[place]
            if of is not None:
                made.matrices = {name: weight}
                return made
            columns = places == place
            matrix = np.zeros((len(weight), self.g.values[what].size))
            np.add.at(matrix.T, marks[columns] - start, weight[:, columns].T)
            made.matrices[what] = matrix
        return made

    def _activated(self, x: Sum, activation: str) -> Sum:
        if activation == "linear":
            return x
        if activation not in GATE_ACTIVATIONS:
            raise Unknown
        return self._of_marks(self._new(f"φ {activation}", x, x.size))

    def _clipped(self, node: Node) -> Sum:
        """clip(x, 0, 1) and clip(x, 0, 6): of hard sigmoids, 1/6 of the latter."""
        x, low, high = self._known[node.inputs[0]], node.options["low"], node.options["high"]
        if low != 0 or high not in (1, 6):
            raise Unknown
        of = x.times(np.full(x.size, 6 / high)).added(Sum(np.full(x.size, 3.0)), -1)
        return self._of_marks(self._new("φ hard_sigmoid", of, x.size)).times(np.full(x.size, float(high)))

    def _product(self, a: Sum, b: Sum) -> Sum:
        if not a.products and a.plain:
            return b.times(a.shift)
        if not b.products and b.plain:
            return a.times(b.shift)
        a, b = (value if value.plain else self._block(value) for value in (a, b))
        made = Sum(np.zeros(a.size))
        for marks, factors in a.terms():
            for others, more in b.terms():
                made.put(np.concatenate([marks, others], axis=1), factors * more)
        return made

    def _block(self, value: Sum) -> Sum:
        """A sum with matrices as numbers of its own, so that it can be multiplied."""
        if id(value) not in self._blocks:
            self._blocks[id(value)] = self._of_marks(self._new("Σ", value, value.size))
        return self._blocks[id(value)]
