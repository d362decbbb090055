"""The cgru graph that grows while an ONNX graph is read: values in the axes an operation wants, and constants."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any, TypeAlias

import numpy as np

from ...builder import Graph
from ...errors import ShapeError, UnsupportedError
from ...spec.graph import Node
from ...spec.operation import operation
from ...spec.values import Value as ValueType
from ...weights import Weights
from .onnx_values import BATCH, TIME, Atom, Count, Scores, Size, Tensor, Triangle, Value, frames_of, product

#: Feature axes of a value that form one axis of what is wanted.
Group: TypeAlias = tuple[int, ...]
#: A part of an ONNX axis: "B", "T", or a run of feature axes.
Segment: TypeAlias = "str | Group"


class Draft:
    """A :class:`cgru.Graph` with the bookkeeping of where its values' axes come from.

    ``batch`` is the number of rows where the file fixes it, ``steps`` that of the steps of the input; None where a
    caller decides.
    """

    def __init__(self, batch: int | None, steps: int | None) -> None:
        self.g = Graph()
        #: Names that outputs of the network will have.
        self.reserved: set[str] = set()
        self.batch, self.steps = batch, steps
        self._arranged: dict[tuple[str, tuple[Group, ...]], str] = {}
        self._constants: dict[tuple[bytes, tuple[int, ...]], str] = {}

    def type(self, name: str) -> ValueType:
        return self.g.values[name]

    def features(self, value: Tensor) -> tuple[int, ...]:
        return self.g.values[value.name].features

    # ---- sizes --------------------------------------------------------------------------------------------------

    def atom_size(self, value: Tensor, atom: Atom) -> Size:
        if atom == BATCH:
            return Count(1, (BATCH,)) if self.batch is None else self.batch
        if atom == TIME:
            clock = self.type(value.name).clock
            assert clock is not None
            return frames_of(clock, self.steps)
        assert isinstance(atom, int)
        return self.features(value)[atom]

    def axis_size(self, value: Tensor, axis: int) -> Size:
        return product(self.atom_size(value, atom) for atom in value.axes[axis])

    def shape(self, value: Value | Scores | Triangle) -> tuple[Size, ...]:
        if not isinstance(value, Tensor):
            return value.shape
        return tuple(self.axis_size(value, axis) for axis in range(value.rank))

    def segments(self, value: Tensor, axis: int) -> list[Segment]:
        """What an axis consists of: "B", "T" and runs of feature axes; sizes of 1 left out."""
        found: list[Segment] = []
        for atom in value.axes[axis]:
            if isinstance(atom, int):
                if self.features(value)[atom] == 1:
                    continue
                last = found[-1] if found else None
                if isinstance(last, tuple):
                    found[-1] = (*last, atom)
                else:
                    found.append((atom,))
            else:
                found.append(atom)
        return found

    # ---- nodes --------------------------------------------------------------------------------------------------

    def emit(self, op: str, *inputs: str, name: str = "", weights: Any = None, **options: Any) -> str:
        if name in self.reserved:
            name += ".value"
        return self.g.node(op, *inputs, name=name or None, weights=weights, **options)

    def rename(self, old: str, new: str) -> None:
        """Give a node another name, which no other value has."""
        g = self.g
        for i, node in enumerate(g.nodes):
            inputs = tuple(new if name == old else name for name in node.inputs)
            if node.name == old:
                layer = new if node.layer == old else node.layer
                g.nodes[i] = node._replace(name=new, inputs=inputs, layer=layer)
            elif inputs != node.inputs:
                g.nodes[i] = node._replace(inputs=inputs)
        g.values[new] = g.values.pop(old)
        g.outputs[:] = [new if name == old else name for name in g.outputs]

    def arranged(self, value: Tensor, groups: Sequence[Group]) -> str:
        """The value with one feature axis for each of ``groups`` of its own; an empty one gives an axis of size 1.

        Feature axes in no group must have size 1.
        """
        key = (value.name, tuple(groups))
        if key in self._arranged:
            return self._arranged[key]
        features = self.features(value)
        named = [axis for group in groups for axis in group]
        rest = [axis for axis in range(len(features)) if axis not in named]
        if any(features[axis] != 1 for axis in rest):
            raise ShapeError(f"feature axes {features} of {value.name} do not fit where it is wanted")
        order = named + rest
        name = value.name
        moved = [axis for axis in order if features[axis] > 1]
        if moved != sorted(moved):
            name = self.emit("transpose", name, order=tuple(order))
        sizes = tuple(prod(features[axis] for axis in group) for group in groups)
        if sizes != self.g.values[name].features:
            name = self.emit("reshape", name, features=sizes)
        self._arranged[key] = name
        return name

    def constant(self, array: np.ndarray) -> str:
        """A node of these numbers, the same at every frame; one for equal numbers."""
        made = np.ascontiguousarray(array, np.float32)
        key = (made.tobytes(), made.shape)
        if key not in self._constants:
            self._constants[key] = self.emit("constant", features=made.shape, weights={"value": made}, name="constant")
        return self._constants[key]

    def node(self, name: str) -> Node | None:
        return next((node for node in reversed(self.g.nodes) if node.name == name), None)

    def biased(self, node: Node, bias: np.ndarray) -> None:
        """A bias beside weights that had none, which stay as they are held."""
        held = self.g.store[node.weights]
        arrays = {**held.stored(), "bias": np.ascontiguousarray(bias, np.float32)}
        self.g.store[node.weights] = Weights(arrays, held.matrices, held.precision)

    def changed(self, node: Node, options: Mapping[str, Any], arrays: Mapping[str, np.ndarray] | None = None) -> None:
        """The same node with other options and arrays, of the same result."""
        index = next(i for i, other in enumerate(self.g.nodes) if other.name == node.name)
        self.g.nodes[index] = node._replace(options={**node.options, **options}, weights=node.weights or node.name)
        if arrays is not None:
            values = [self.g.values[name] if name else None for name in node.inputs]
            infos = operation(node.op, node.name).arrays(self.g.nodes[index].options, values)
            made = {key: np.ascontiguousarray(array, np.float32) for key, array in arrays.items()}
            self.g.store[node.weights or node.name] = Weights(made, {k for k, i in infos.items() if i.matrix})


def plain_axes(draft: Draft, value: Tensor, where: str) -> list[Group]:
    """The feature axes of every ONNX axis, of a value whose axes each are features, or rows and frames, not mixed."""
    made: list[Group] = []
    for axis in range(value.rank):
        found = draft.segments(value, axis)
        runs = [part for part in found if isinstance(part, tuple)]
        if runs and len(found) > 1:
            raise UnsupportedError(f"{where}: an axis mixes features with rows or frames, which it takes apart")
        made.append(runs[0] if runs else ())
    return made
