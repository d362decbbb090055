"""Recurrences as ONNX' GRU, LSTM and RNN: over time, of the rows of a frame, and along an axis inside it."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...spec.graph import Node
from .onnx_writer import BEGIN, Writer, refused, writes

#: cgru's gates in the order in which ONNX stacks them, and the operator.
_CELLS = {
    "gru_reset_after": ("GRU", (1, 0, 2)), "gru_reset_before": ("GRU", (1, 0, 2)), "lstm": ("LSTM", (0, 3, 1, 2)),
    "lstm_peephole": ("LSTM", (0, 3, 1, 2)), "rnn": ("RNN", (0,)), "gru_after": ("GRU", (1, 0, 2)),
    "gru_before": ("GRU", (1, 0, 2)),
}  # fmt: skip
#: Activations of gates by ONNX' names, with what α and β make of them where they are fixed.
_GATES: dict[str, tuple[str, float, float]] = {
    "sigmoid": ("Sigmoid", 0, 0), "tanh": ("Tanh", 0, 0), "relu": ("Relu", 0, 0), "softsign": ("Softsign", 0, 0),
    "softplus": ("Softplus", 0, 0), "elu": ("Elu", 1, 0), "hard_sigmoid": ("HardSigmoid", 1 / 6, 0.5),
    "hard_sigmoid_keras2": ("HardSigmoid", 0.2, 0.5), "linear": ("Affine", 1, 0),
}  # fmt: skip
_PARAMETRIC = {
    "affine": "Affine", "leaky_relu": "LeakyRelu", "thresholded_relu": "ThresholdedRelu", "scaled_tanh": "ScaledTanh",
    "hard_sigmoid_line": "HardSigmoid", "elu_alpha": "Elu",
}  # fmt: skip
_READ_BETA = ("Affine", "ScaledTanh", "HardSigmoid")
_READ_ALPHA = (*_READ_BETA, "LeakyRelu", "ThresholdedRelu", "Elu")


def _operator(w: Writer, node: Node, x: str, states: list[str], activations: list[tuple[str, float, float]]) -> str:
    """The operator over x (T, N, I) from states (1, N, H): the name of Y (T, 1, N, H), and of Y_h and Y_c beside it."""
    o, arrays = node.options, w.arrays(node)
    op, order = _CELLS[o["cell"]]
    rows = len(order) * o["units"]

    def stacked(array: np.ndarray) -> np.ndarray:
        parts = np.split(array, len(order))
        return np.concatenate([parts[i] for i in order])

    biases = [stacked(arrays.get(key, np.zeros(rows))) for key in ("bias_ih", "bias_hh")]
    operands = [
        x, *(w.numbers(stacked(arrays[key])[None], node) for key in ("weight_ih", "weight_hh")),
        w.numbers(np.concatenate(biases)[None], node), "", *states,
    ]  # fmt: skip
    if "weight_ph" in arrays:
        of_i, of_f, of_o = np.split(arrays["weight_ph"], 3)
        operands += [""] * (7 - len(operands))
        operands.append(w.numbers(np.concatenate([of_i, of_o, of_f])[None], node))
    more: dict[str, Any] = {"linear_before_reset": int(o["cell"].endswith("_after"))} if op == "GRU" else {}
    # Each activation that reads α or β takes the next one given.
    alphas = [float(alpha) for name, alpha, _ in activations if name in _READ_ALPHA]
    betas = [float(beta) for name, _, beta in activations if name in _READ_BETA]
    more |= {key: values for key, values in (("activation_alpha", alphas), ("activation_beta", betas)) if values}
    if o.get("clip"):
        more["clip"] = float(o["clip"])
    if o.get("coupled"):
        more["input_forget"] = 1
    return w.emit(op, operands, f"{node.name}.y", outputs=3 if op == "LSTM" else 2, hidden_size=o["units"],
                  activations=[name for name, _, _ in activations],
                  direction="reverse" if o["reverse"] else "forward", **more)  # fmt: skip


@writes("scan")
def _scan(w: Writer, node: Node, inputs: list[str]) -> str:
    o = node.options
    if o["cell"] not in _CELLS or any(inputs[1:2]):
        raise refused(node, f"{o['cell']} under a mask, or of a cell that ONNX lacks,")
    op, _ = _CELLS[o["cell"]]
    functions = [o["activation"]] if op == "RNN" else [o["recurrent_activation"], o["activation"]]
    functions += functions[1:] if op == "LSTM" else []
    if any(name not in _GATES for name in functions):
        raise refused(node, f"gates with {', '.join(functions)}")
    activations = [_GATES[name] for name in functions]
    states = [_spread(w, node, start, node.inputs[2 + i], inputs[0]) for i, start in enumerate(inputs[2:4])]
    y = _operator(w, node, w.turned(inputs[0], [1, 0, 2], node), states, activations)
    made = w.turned(w.step("Squeeze", [y, w.sizes([1], node)], node), [1, 0, 2], node)
    return w.sliced(made, node, 1, -1, BEGIN, -1) if o["flip"] else made


def _spread(w: Writer, node: Node, start: str, source: str, x: str) -> str:
    """An initial state (B, H) as (1, B, H); a constant is spread to the rows."""
    if not start:
        return ""
    if w.is_constant(source):
        wanted = w.step("Concat", [w.shape(x, node, 0, 1), w.sizes(w.features(source), node)], node, axis=0)
        start = w.step("Expand", [start, wanted], node)
    return w.step("Unsqueeze", [start, w.sizes([0], node)], node)


@writes("last_state")
def _last_state(w: Writer, node: Node, inputs: list[str]) -> str:
    if any(inputs[1:]):
        raise refused(node, "the last state under a mask")
    source = f"{node.inputs[0]}.y.{1 if node.options['array'] == 'h' else 2}"
    return w.step("Squeeze", [source, w.sizes([0], node)], node)


def _general(node: Node) -> list[tuple[str, float, float]]:
    """The activations of the operations that know every switch."""
    o = node.options
    made = []
    for i, name in enumerate(o["activations"]):
        if name in _GATES:
            made.append(_GATES[name])
        elif name in _PARAMETRIC:
            made.append((_PARAMETRIC[name], o["alphas"][i], o["betas"][i] if o["betas"] else 0.0))
        else:
            raise refused(node, f"gates with {name}")
    return made


@writes("scan_rows")
def _scan_rows(w: Writer, node: Node, inputs: list[str]) -> str:
    """Rows of a frame beside those of the batch."""
    if any(inputs[1:2]):
        raise refused(node, "a recurrence under a mask")
    features = w.features(node.inputs[0])
    units = node.options["units"]
    front = w.turned(inputs[0], [1, 0, *range(2, 2 + len(features))], node)
    x = w.reshaped(front, [0, -1, features[-1]], node)
    states = [start and w.reshaped(start, [1, -1, units], node) for start in inputs[2:4]]
    if any(start and w.is_constant(name) for start, name in zip(inputs[2:4], node.inputs[2:4], strict=True)):
        raise refused(node, "a constant initial state of rows")
    y = w.step("Squeeze", [_operator(w, node, x, states, _general(node)), w.sizes([1], node)], node)
    shaped = w.shaped_like(y, front, 2, [*features[:-1], units], node)
    return w.turned(shaped, [1, 0, *range(2, 2 + len(features))], node)


@writes("scan_inner")
def _scan_inner(w: Writer, node: Node, inputs: list[str]) -> str:
    """Every frame, and every row of it, a sequence of its own."""
    if node.options["emit"] != "h":
        raise refused(node, "the memory at every step")
    features, units = w.features(node.inputs[0]), node.options["units"]
    front, rank = w.front(node.inputs[0]), w.front(node.inputs[0]) + len(features)
    if any(w.front(name) > front for name in node.inputs if name):
        raise refused(node, "an initial state that has frames where its input has none")
    order = [rank - 2, *range(rank - 2), rank - 1]
    turned = w.turned(inputs[0], order, node)
    x = w.reshaped(turned, [0, -1, features[-1]], node)
    lead = w.shape(inputs[0], node, 0, rank - 2)
    states = []
    for start, source in zip(inputs[1:], node.inputs[1:], strict=True):
        if start:
            if w.front(source) < front:
                start = w.step("Unsqueeze", [start, w.sizes([1], node)], node)
            spread = w.step("Concat", [lead, w.sizes([units], node)], node, axis=0)
            start = w.reshaped(w.step("Expand", [start, spread], node), [1, -1, units], node)
        states.append(start)
    y = w.step("Squeeze", [_operator(w, node, x, states, _general(node)), w.sizes([1], node)], node)
    shaped = w.shaped_like(y, turned, rank - 1, [units], node)
    return w.turned(shaped, [order.index(axis) for axis in range(rank)], node)
