"""A network as an ONNX file, for whoever runs it elsewhere: operator set 17, written by hand, needs numpy alone.

Every value is (B, T, *features), or (B, *features) without time; batch and time stay open. Sequences begin from zero
states: what a stream carries is not in the file.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ...errors import CgruError, UnsupportedError
from ...spec.graph import Graph, Node
from ...weights import Store
from ..containers.onnx_schema import SCHEMA
from ..containers.protobuf_write import encode

if TYPE_CHECKING:
    from ...engine.model import Model

_OPSET = 17
_IR = 8
Fields = dict[str, Any]

_BINARY = {"add": "Add", "sub": "Sub", "mul": "Mul", "div": "Div", "maximum": "Max", "minimum": "Min", "power": "Pow"}
_ACTIVATIONS = {
    "relu": "Relu", "sigmoid": "Sigmoid", "tanh": "Tanh", "softsign": "Softsign", "softplus": "Softplus", "elu": "Elu",
}  # fmt: skip
_UNARY = {
    "abs": "Abs", "ceil": "Ceil", "cos": "Cos", "erf": "Erf", "exp": "Exp", "floor": "Floor", "log": "Log",
    "neg": "Neg", "reciprocal": "Reciprocal", "round": "Round", "sign": "Sign", "sin": "Sin", "sqrt": "Sqrt",
}  # fmt: skip
#: cgru's gates in the order in which ONNX stacks them, and the operator.
_CELLS = {
    "gru_reset_after": ("GRU", (1, 0, 2)), "gru_reset_before": ("GRU", (1, 0, 2)), "lstm": ("LSTM", (0, 3, 1, 2)),
    "lstm_peephole": ("LSTM", (0, 3, 1, 2)), "rnn": ("RNN", (0,)),
}  # fmt: skip
_GATES = {
    "sigmoid": "Sigmoid", "tanh": "Tanh", "relu": "Relu", "softsign": "Softsign", "softplus": "Softplus", "elu": "Elu",
}  # fmt: skip


def save(model: Model, path: str | os.PathLike[str]) -> None:
    """Write ``model`` to ``path``; :class:`UnsupportedError` names the layer that cannot be said in ONNX."""
    content = to_bytes(model)
    try:
        beside = f"{os.fspath(path)}.{os.urandom(4).hex()}.tmp"
        with open(beside, "xb") as file:
            file.write(content)
        os.replace(beside, path)
    except OSError as error:
        raise CgruError(f"{os.fspath(path)}: cannot be written: {error.strerror or error}") from None


def to_bytes(model: Model) -> bytes:
    """The bytes of the file."""
    graph, store = _graph_of(model)
    return _Writer(graph, store).model()


def _graph_of(model: Any) -> tuple[Graph, Store]:
    if not model.is_chain:
        return model.graph, model.store
    from ...builder import Graph as Builder

    g = Builder()
    first = next((layer.input_size for layer in model.layers if layer.input_size is not None), 1)
    y: Any = g.input(dtype="int64") if model.takes_ids else g.input(first)
    for layer in model.layers:
        y = g.layer(layer, y)
    g.output(*(y if isinstance(y, tuple) else (y,)))
    return g.build(), g.store


class _Writer:
    def __init__(self, graph: Graph, store: Store) -> None:
        self.graph, self.store = graph, store
        self.nodes: list[Fields] = []
        self.tensors: dict[str, np.ndarray] = {}
        self.names: dict[str, str] = {}

    def model(self) -> bytes:
        for name in self.graph.optional:
            if any(name in node.inputs for node in self.graph.nodes):
                raise UnsupportedError(f"{name}: a mask has no place in the ONNX file; save a network without one")
        for name in self.graph.inputs:
            self.names[name] = name
        for node in self.graph.nodes:
            handler = _HANDLERS.get(node.op)
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
        fields = {"ir_version": _IR, "producer_name": "cgru", "opset_import": [{"version": _OPSET}], "graph": made}
        return encode("ModelProto", fields, SCHEMA)

    def info(self, name: str, value: str) -> Fields:
        kind = self.graph.values[value]
        dims: list[Any] = [{"dim_param": "batch"}]
        if kind.clock is not None:
            dims.append({"dim_param": "time" if kind.clock.describe() == "T" else f"frames_{name}"})
        dims += [{"dim_value": size} for size in kind.features]
        return {
            "name": name,
            "type": {"tensor_type": {"elem_type": 7 if kind.dtype == "int64" else 1, "shape": {"dim": dims}}},
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

    def front(self, name: str) -> int:
        """The axes before the features: rows, and time."""
        return 1 + (self.graph.values[name].clock is not None)


def _attribute(name: str, value: Any) -> Fields:
    if isinstance(value, str):
        return {"name": name, "type": 3, "s": value.encode()}
    if isinstance(value, float):
        return {"name": name, "type": 1, "f": value}
    if isinstance(value, int):
        return {"name": name, "type": 2, "i": value}
    if value and isinstance(value[0], str):
        return {"name": name, "type": 8, "strings": [item.encode() for item in value]}
    return {"name": name, "type": 7, "ints": list(value)}


def _tensor(name: str, array: np.ndarray) -> Fields:
    code, dtype = (7, "<i8") if array.dtype.kind == "i" else (1, "<f4")
    return {
        "name": name,
        "dims": array.shape,
        "data_type": code,
        "raw_data": np.ascontiguousarray(array, dtype).tobytes(),
    }


Handler = Callable[[_Writer, Node, "list[str]"], str]


def _activated(w: _Writer, node: Node, x: str, activation: str) -> str:
    if activation == "linear":
        return x
    name = f"{node.name}.{activation}"
    if activation == "softmax":
        return w.emit("Softmax", [x], name, axis=-1)
    if activation == "hard_sigmoid":
        return w.emit("HardSigmoid", [x], name, alpha=1 / 6, beta=0.5)
    if activation == "hard_sigmoid_keras2":
        return w.emit("HardSigmoid", [x], name, alpha=0.2, beta=0.5)
    if activation not in _ACTIVATIONS:
        raise UnsupportedError(f"{node.layer}: the activation {activation} cannot be written as ONNX")
    return w.emit(_ACTIVATIONS[activation], [x], name)


def _activation(w: _Writer, node: Node, inputs: list[str]) -> str:
    if {key: value for key, value in node.options.items() if key != "activation" and value}:
        raise UnsupportedError(f"{node.layer}: an activation with parameters cannot be written as ONNX")
    return _activated(w, node, inputs[0], node.options["activation"])


def _dense(w: _Writer, node: Node, inputs: list[str]) -> str:
    arrays = w.arrays(node)
    y = w.emit("MatMul", [inputs[0], w.constant(arrays["weight"].T, f"{node.name}.weight")], f"{node.name}.product")
    if "bias" in arrays:
        y = w.emit("Add", [y, w.constant(arrays["bias"], f"{node.name}.bias")], f"{node.name}.sum")
    return _activated(w, node, y, node.options["activation"])


def _binary(w: _Writer, node: Node, inputs: list[str]) -> str:
    """Operands under as many axes: one without time gets an axis of 1 there, and one of fewer features in front."""
    values = [w.graph.values[name] for name in node.inputs]
    front = max(w.front(name) for name in node.inputs)
    most = max(len(value.features) for value in values)
    made = []
    for i, (name, value) in enumerate(zip(inputs, values, strict=True)):
        axes = list(range(w.front(node.inputs[i]), front)) + list(range(front, front + most - len(value.features)))
        if axes:
            name = w.emit("Unsqueeze", [name, w.constant(axes, f"{node.name}.axes{i}")], f"{node.name}.in{i}")
        made.append(name)
    return w.emit(_BINARY[node.op], made, node.name)


def _concat(w: _Writer, node: Node, inputs: list[str]) -> str:
    if len({w.graph.values[name].clock for name in node.inputs}) > 1:
        raise UnsupportedError(f"{node.layer}: a value without time beside one with cannot be written as ONNX")
    if any(w.graph.node(name) and w.graph.node(name).op == "constant" for name in node.inputs):  # type: ignore[union-attr]
        raise UnsupportedError(f"{node.layer}: a constant beside values of every row cannot be written as ONNX")
    return w.emit("Concat", inputs, node.name, axis=w.front(node.inputs[0]) + node.options["axis"])


def _slice(w: _Writer, node: Node, inputs: list[str]) -> str:
    o = node.options
    bounds = {"start": o["start"], "stop": o["stop"], "axis": w.front(node.inputs[0]) + o["axis"], "step": o["step"]}
    return w.emit("Slice", [inputs[0], *(w.constant([v], f"{node.name}.{k}") for k, v in bounds.items())], node.name)


def _reshape(w: _Writer, node: Node, inputs: list[str]) -> str:
    shape = [0] * w.front(node.inputs[0]) + list(node.options["features"])
    return w.emit("Reshape", [inputs[0], w.constant(shape, f"{node.name}.shape")], node.name)


def _transpose(w: _Writer, node: Node, inputs: list[str]) -> str:
    front = w.front(node.inputs[0])
    return w.emit(
        "Transpose", inputs, node.name, perm=[*range(front), *(front + axis for axis in node.options["order"])]
    )


def _constant(w: _Writer, node: Node, inputs: list[str]) -> str:
    return w.constant(w.arrays(node)["value"][None], f"{node.name}.value")


def _scale_shift(w: _Writer, node: Node, inputs: list[str]) -> str:
    arrays, axes = w.arrays(node), len(w.graph.values[node.name].features)
    shape = [-1, *[1] * (axes - 1 - node.options["axis"])]
    parts = {key: w.constant(array.reshape(shape), f"{node.name}.{key}") for key, array in arrays.items()}
    return w.emit("Add", [w.emit("Mul", [inputs[0], parts["scale"]], f"{node.name}.scaled"), parts["shift"]], node.name)


def _conv1d(w: _Writer, node: Node, inputs: list[str]) -> str:
    arrays, o = w.arrays(node), node.options
    turned = w.emit("Transpose", inputs, f"{node.name}.in", perm=[0, 2, 1])
    operands = [turned, *(w.constant(arrays[key], f"{node.name}.{key}") for key in ("weight", "bias") if key in arrays)]
    y = w.emit("Conv", operands, f"{node.name}.conv", kernel_shape=[o["width"]], strides=[o["stride"]],
               dilations=[o["dilation"]], group=o["groups"], pads=[o["left"], o["right"]])  # fmt: skip
    return _activated(w, node, w.emit("Transpose", [y], node.name, perm=[0, 2, 1]), o["activation"])


def _scan(w: _Writer, node: Node, inputs: list[str]) -> str:
    o, arrays = node.options, w.arrays(node)
    if o["cell"] not in _CELLS or o["flip"] or any(inputs[1:2]):
        raise UnsupportedError(f"{node.layer}: {o['cell']} with a mask, flipped or of a cell that ONNX lacks")
    op, order = _CELLS[o["cell"]]
    functions = [o["activation"]] if op == "RNN" else [o["recurrent_activation"], o["activation"]]
    functions += functions[1:] if op == "LSTM" else []
    named = [_GATES.get(name, "") for name in functions]
    if not all(named):
        raise UnsupportedError(f"{node.layer}: gates with {', '.join(functions)} cannot be written as ONNX")
    units = o["units"]

    def stacked(array: np.ndarray) -> np.ndarray:
        parts = np.split(array, len(order))
        return np.concatenate([parts[i] for i in order])

    zeros = np.zeros(len(order) * units, np.float32)
    biases = [stacked(arrays.get(key, zeros)) for key in ("bias_ih", "bias_hh")]
    operands = [
        w.emit("Transpose", inputs[:1], f"{node.name}.in", perm=[1, 0, 2]),
        w.constant(stacked(arrays["weight_ih"])[None], f"{node.name}.W"),
        w.constant(stacked(arrays["weight_hh"])[None], f"{node.name}.R"),
        w.constant(np.concatenate(biases)[None], f"{node.name}.B"),
        "",
    ]
    for i, start in enumerate(inputs[2:4]):
        operands.append(
            start and w.emit("Unsqueeze", [start, w.constant([0], f"{node.name}.zero{i}")], f"{node.name}.start{i}")
        )
    if "weight_ph" in arrays:
        of_i, of_f, of_o = np.split(arrays["weight_ph"], 3)
        operands += [""] * (7 - len(operands))
        operands.append(w.constant(np.concatenate([of_i, of_o, of_f])[None], f"{node.name}.P"))
    more: dict[str, Any] = {"linear_before_reset": int(o["cell"] == "gru_reset_after")} if op == "GRU" else {}
    y = w.emit(op, operands, f"{node.name}.y", outputs=3 if op == "LSTM" else 2, hidden_size=units, activations=named,
               direction="reverse" if o["reverse"] else "forward", **more)  # fmt: skip
    rows = w.emit("Squeeze", [y, w.constant([1], f"{node.name}.one")], f"{node.name}.rows")
    return w.emit("Transpose", [rows], node.name, perm=[1, 0, 2])


def _last_state(w: _Writer, node: Node, inputs: list[str]) -> str:
    if any(inputs[1:]):
        raise UnsupportedError(f"{node.layer}: the last state under a mask cannot be written as ONNX")
    source = f"{node.inputs[0]}.y.{1 if node.options['array'] == 'h' else 2}"
    return w.emit("Squeeze", [source, w.constant([0], f"{node.name}.axis")], node.name)


def _pool_whole(w: _Writer, node: Node, inputs: list[str]) -> str:
    kind = node.options["kind"]
    if any(inputs[1:]) or kind not in ("mean", "max", "sum", "last"):
        raise UnsupportedError(f"{node.layer}: {kind} over time, or under a mask, cannot be written as ONNX")
    if kind == "last":
        return w.emit("Gather", [inputs[0], w.constant(np.array(-1), f"{node.name}.at")], node.name, axis=1)
    if kind == "sum":
        return w.emit("ReduceSum", [inputs[0], w.constant([1], f"{node.name}.axes")], node.name, keepdims=0)
    return w.emit({"mean": "ReduceMean", "max": "ReduceMax"}[kind], inputs[:1], node.name, axes=[1], keepdims=0)


def _layer_norm(w: _Writer, node: Node, inputs: list[str]) -> str:
    arrays, axes = w.arrays(node), node.options["axes"]
    if not node.options["subtract_mean"]:
        raise UnsupportedError(f"{node.layer}: RMS normalisation is not in operator set {_OPSET}")
    shape = w.graph.values[node.name].features[-axes:]
    operands = [inputs[0], w.constant(arrays.get("weight", np.ones(shape, np.float32)), f"{node.name}.weight")]
    operands += [w.constant(arrays["bias"], f"{node.name}.bias")] if "bias" in arrays else []
    return w.emit("LayerNormalization", operands, node.name, axis=-axes, epsilon=float(node.options["epsilon"]))


def _softmax(w: _Writer, node: Node, inputs: list[str]) -> str:
    if len(node.options["axes"]) != 1:
        raise UnsupportedError(f"{node.layer}: softmax over several axes cannot be written as ONNX")
    axis = w.front(node.inputs[0]) + node.options["axes"][0]
    return w.emit("LogSoftmax" if node.options["log"] else "Softmax", inputs, node.name, axis=axis)


def _prelu(w: _Writer, node: Node, inputs: list[str]) -> str:
    behind = len(w.graph.values[node.name].features) - 1 - node.options["axis"]
    slope = w.arrays(node)["slope"].reshape(-1, *[1] * behind)
    return w.emit("PRelu", [inputs[0], w.constant(slope, f"{node.name}.slope")], node.name)


def _pad_time(w: _Writer, node: Node, inputs: list[str]) -> str:
    left, right = node.options["left"], node.options["right"]
    if node.options.get("mode", "constant") not in ("constant", "zeros") or min(left, right) < 0:
        raise UnsupportedError(f"{node.layer}: frames cut off, or padded otherwise than with zeros")
    rest = len(w.graph.values[node.name].features)
    pads = [0, left, *[0] * rest, 0, right, *[0] * rest]
    return w.emit("Pad", [inputs[0], w.constant(pads, f"{node.name}.pads")], node.name)


def _embedding(w: _Writer, node: Node, inputs: list[str]) -> str:
    return w.emit("Gather", [w.constant(w.arrays(node)["weight"], f"{node.name}.weight"), inputs[0]], node.name, axis=0)


def _clip(w: _Writer, node: Node, inputs: list[str]) -> str:
    bounds = [w.constant(np.array(node.options[key], np.float32), f"{node.name}.{key}") for key in ("low", "high")]
    return w.emit("Clip", [inputs[0], *bounds], node.name)


def _unary(w: _Writer, node: Node, inputs: list[str]) -> str:
    if node.options["kind"] not in _UNARY:
        raise UnsupportedError(f"{node.layer}: {node.options['kind']} cannot be written as ONNX")
    return w.emit(_UNARY[node.options["kind"]], inputs, node.name)


_HANDLERS: Mapping[str, Handler] = {
    **dict.fromkeys(_BINARY, _binary),
    "activation": _activation, "clip": _clip, "concat": _concat, "constant": _constant, "conv1d": _conv1d,
    "dense": _dense, "embedding": _embedding, "last_state": _last_state, "layer_norm": _layer_norm,
    "pad_time": _pad_time, "pool_whole": _pool_whole, "prelu": _prelu, "reshape": _reshape, "scale_shift": _scale_shift,
    "scan": _scan, "slice": _slice, "softmax": _softmax, "transpose": _transpose, "unary": _unary,
}  # fmt: skip
