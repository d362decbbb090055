"""A graph's nodes as ONNX', one handler an operation, and what all handlers share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np

from ...errors import UnsupportedError
from ...spec.graph import Graph, Node
from ...weights import Store
from ..containers.onnx_schema import SCHEMA
from ..containers.protobuf_write import encode

OPSET = 17
_IR = 8
Fields: TypeAlias = dict[str, Any]
#: From the writer, a node and the ONNX names of its inputs to the name of its result.
Handler: TypeAlias = "Callable[[Writer, Node, list[str]], str]"
#: Operation → handler, filled by the modules of the families of operations.
HANDLERS: dict[str, Handler] = {}

#: The end of an axis, whatever its size, forwards and backwards.
END, BEGIN = (1 << 63) - 1, -(1 << 63)


def writes(*operations: str) -> Callable[[Handler], Handler]:
    """Put a handler into the table for these operations."""

    def register(handler: Handler) -> Handler:
        HANDLERS.update(dict.fromkeys(operations, handler))
        return handler

    return register


def refused(node: Node, what: str) -> UnsupportedError:
    return UnsupportedError(f"{node.layer}: {what} cannot be written as ONNX")


class Writer:
    def __init__(self, graph: Graph, store: Store) -> None:
        self.graph, self.store = graph, store
        self.nodes: list[Fields] = []
        self.tensors: dict[str, np.ndarray] = {}
        self.names: dict[str, str] = {}
        self._made = 0

    def model(self) -> bytes:
        for name in self.graph.optional:
            if any(name in node.inputs for node in self.graph.nodes):
                raise UnsupportedError(f"{name}: a mask has no place in the ONNX file; save a network without one")
        for name in self.graph.inputs:
            self.names[name] = name
        for node in self.graph.nodes:
            handler = HANDLERS.get(node.op)
            if handler is None:
                raise UnsupportedError(f"{node.layer}: {node.op} cannot be written as ONNX")
            if node.weights and self.store[node.weights].precision != "float32":
                raise UnsupportedError(
                    f"{node.layer}: its weights are {self.store[node.weights].precision}; save float32"
                )
            self.names[node.name] = handler(self, node, [self.names[name] if name else "" for name in node.inputs])
        taken = {*self.graph.inputs, *self.tensors, *(output for item in self.nodes for output in item["output"])}
        outputs = [
            (self.emit("Identity", [self.names[name]], f"{name}.out" if name in taken else name), name)
            for name in self.graph.outputs
        ]
        inputs = [name for name in self.graph.inputs if name not in self.graph.optional]
        made = {
            "node": self.nodes, "name": "cgru",
            "initializer": [_tensor(name, array) for name, array in self.tensors.items()],
            "input": [self.info(name, name) for name in inputs],
            "output": [self.info(name, value) for name, value in outputs],
        }  # fmt: skip
        fields = {"ir_version": _IR, "producer_name": "cgru", "opset_import": [{"version": OPSET}], "graph": made}
        return encode("ModelProto", fields, SCHEMA)

    def info(self, name: str, value: str) -> Fields:
        kind = self.graph.values[value]
        dims: list[Any] = [{"dim_param": "batch"}]
        if kind.clock is not None:
            dims.append({"dim_param": "time" if kind.clock.describe() == "T" else f"frames_{name}"})
        dims += [{"dim_value": size} for size in kind.features]
        return {
            "name": name,
            "type": {"tensor_type": {"elem_type": {"int64": 7, "bool": 9}.get(kind.dtype, 1), "shape": {"dim": dims}}},
        }

    def emit(self, op: str, inputs: Sequence[str], name: str, outputs: int = 1, **attributes: Any) -> str:
        """One node; its first output's name. Further outputs are ``name.1`` and so on."""
        names = [name, *(f"{name}.{i}" for i in range(1, outputs))]
        made = [_attribute(key, value) for key, value in attributes.items() if value is not None]
        self.nodes.append({"op_type": op, "name": name, "input": list(inputs), "output": names, "attribute": made})
        return name

    def constant(self, array: Any, name: str) -> str:
        self.tensors[name] = np.asarray(array)
        return name

    def arrays(self, node: Node) -> dict[str, np.ndarray]:
        return self.store[node.weights].arrays() if node.weights else {}

    # ---- what handlers share ----------------------------------------------------------------------------------

    def front(self, name: str) -> int:
        """The axes before the features: rows, and time."""
        return 1 + (self.graph.values[name].clock is not None)

    def is_constant(self, name: str) -> bool:
        """Whether a value has one row, whatever the number of rows is."""
        node = self.graph.node(name)
        return node is not None and node.op == "constant"

    def features(self, name: str) -> tuple[int, ...]:
        return self.graph.values[name].features

    def fresh(self, hint: str) -> str:
        """A name that nothing has yet."""
        self._made += 1
        return f"{hint}#{self._made}"

    def step(self, op: str, inputs: Sequence[str], node: Node, **attributes: Any) -> str:
        """One node on the way to a result."""
        return self.emit(op, inputs, self.fresh(node.name), **attributes)

    def numbers(self, array: Any, node: Node, dtype: Any = np.float32) -> str:
        return self.constant(np.asarray(array, dtype), self.fresh(f"{node.name}.constant"))

    def sizes(self, array: Any, node: Node) -> str:
        return self.numbers(array, node, np.int64)

    def reshaped(self, x: str, shape: Sequence[int], node: Node) -> str:
        return self.step("Reshape", [x, self.sizes(list(shape), node)], node)

    def turned(self, x: str, order: Sequence[int], node: Node) -> str:
        return x if list(order) == list(range(len(order))) else self.step("Transpose", [x], node, perm=list(order))

    def sliced(self, x: str, node: Node, axis: int, start: int, stop: int, step: int = 1) -> str:
        return self.step("Slice", [x, *(self.sizes([n], node) for n in (start, stop, axis, step))], node)

    def shape(self, x: str, node: Node, start: int, stop: int) -> str:
        """Sizes of some axes, as one list."""
        return self.step("Shape", [x], node, start=start, end=stop)

    def shaped_like(self, x: str, like: str, axes: int, shape: Sequence[int], node: Node) -> str:
        """x under the first ``axes`` of ``like``, and these behind."""
        wanted = self.step("Concat", [self.shape(like, node, 0, axes), self.sizes(list(shape), node)], node, axis=0)
        return self.step("Reshape", [x, wanted], node)

    def aligned(self, node: Node, inputs: Sequence[str]) -> list[str]:
        """Operands under as many axes: one without time gets an axis of 1 there, one of fewer features in front."""
        front = max(self.front(name) for name in node.inputs)
        most = max(len(self.features(name)) for name in node.inputs)
        made = []
        for source, name in zip(node.inputs, inputs, strict=True):
            own = self.front(source)
            axes = [*range(own, front), *range(front, front + most - len(self.features(source)))]
            made.append(self.step("Unsqueeze", [name, self.sizes(axes, node)], node) if axes else name)
        return made


def _attribute(name: str, value: Any) -> Fields:
    if isinstance(value, str):
        return {"name": name, "type": 3, "s": value.encode()}
    if isinstance(value, float):
        return {"name": name, "type": 1, "f": value}
    if isinstance(value, int):
        return {"name": name, "type": 2, "i": value}
    if value and isinstance(value[0], float):
        return {"name": name, "type": 6, "floats": list(value)}
    if value and isinstance(value[0], str):
        return {"name": name, "type": 8, "strings": [item.encode() for item in value]}
    return {"name": name, "type": 7, "ints": list(value)}


def _tensor(name: str, array: np.ndarray) -> Fields:
    code, dtype = {"i": (7, "<i8"), "b": (9, "?")}.get(array.dtype.kind, (1, "<f4"))
    return {
        "name": name,
        "dims": array.shape,
        "data_type": code,
        "raw_data": np.ascontiguousarray(array, dtype).tobytes(),
    }
