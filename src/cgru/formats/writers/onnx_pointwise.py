"""Operations on numbers by themselves and on where they stand, as ONNX' operators: arithmetic, choices, axes, joins."""

from __future__ import annotations

import numpy as np

from ...spec.graph import Node
from .onnx_writer import Writer, refused, writes

_BINARY = {
    "add": "Add", "sub": "Sub", "mul": "Mul", "div": "Div", "maximum": "Max", "minimum": "Min", "power": "Pow",
    "average": "Mean", "matmul": "MatMul",
}  # fmt: skip
_PLAIN = {
    "relu": "Relu", "sigmoid": "Sigmoid", "tanh": "Tanh", "softsign": "Softsign", "softplus": "Softplus", "elu": "Elu",
    "selu": "Selu", "hard_swish": "HardSwish",
}  # fmt: skip
#: cgru's activations with parameters that ONNX has with the same ones.
_ALPHA = {"leaky_relu": "LeakyRelu", "elu_alpha": "Elu", "celu": "Celu", "thresholded_relu": "ThresholdedRelu"}
#: Functions of one number that ONNX has, by its names in lower case.
_UNARY = frozenset((
    "abs", "ceil", "cos", "erf", "exp", "floor", "log", "neg", "reciprocal", "round", "sign", "sin", "sqrt", "acos",
    "acosh", "asin", "asinh", "atan", "atanh", "cosh", "sinh", "tan",
))  # fmt: skip
_COMPARE = {"less": "Less", "less_equal": "LessOrEqual", "equal": "Equal"}
_REDUCE = {
    "mean": "ReduceMean", "max": "ReduceMax", "min": "ReduceMin", "prod": "ReduceProd", "l1": "ReduceL1",
    "l2": "ReduceL2", "sum_square": "ReduceSumSquare", "log_sum": "ReduceLogSum", "log_sum_exp": "ReduceLogSumExp",
}  # fmt: skip


def activated(w: Writer, node: Node, x: str, activation: str) -> str:
    """φ(x) of an activation without parameters."""

    def op(kind: str, *inputs: str, **attributes: float) -> str:
        return w.step(kind, inputs, node, **attributes)

    def number(value: float) -> str:
        return w.numbers(value, node)

    if activation == "linear":
        return x
    if activation in _PLAIN:
        return op(_PLAIN[activation], x)
    match activation:
        case "softmax":
            return w.step("Softmax", [x], node, axis=-1)
        case "hard_sigmoid":
            return op("HardSigmoid", x, alpha=1 / 6, beta=0.5)
        case "hard_sigmoid_keras2":
            return op("HardSigmoid", x, alpha=0.2, beta=0.5)
        case "hard_tanh":
            return op("Clip", x, number(-1), number(1))
        case "relu6":
            return op("Clip", x, number(0), number(6))
        case "silu":
            return op("Mul", x, op("Sigmoid", x))
        case "mish":
            return op("Mul", x, op("Tanh", op("Softplus", x)))
        case "log_sigmoid":
            return op("Neg", op("Softplus", op("Neg", x)))
        case "gelu":
            inside = op("Erf", op("Mul", x, number(np.sqrt(0.5))))
            return op("Mul", op("Mul", x, number(0.5)), op("Add", inside, number(1)))
        case "gelu_tanh":
            cube = op("Mul", op("Mul", x, op("Mul", x, x)), number(0.044715))
            inside = op("Tanh", op("Mul", op("Add", x, cube), number(np.sqrt(2 / np.pi))))
            return op("Mul", op("Mul", x, number(0.5)), op("Add", inside, number(1)))
    raise refused(node, f"the activation {activation}")


@writes("activation")
def _activation(w: Writer, node: Node, inputs: list[str]) -> str:
    kind, (x,) = node.options["activation"], inputs
    if node.options["alpha"] is None:
        return activated(w, node, x, kind)
    alpha, beta = float(node.options["alpha"]), float(node.options["beta"] or 0)

    def op(name: str, *operands: str, **attributes: float) -> str:
        return w.step(name, operands, node, **attributes)

    def number(value: float) -> str:
        return w.numbers(value, node)

    if kind in _ALPHA:
        return op(_ALPHA[kind], x, alpha=alpha)
    match kind:
        case "hard_shrink":
            return op("Shrink", x, lambd=alpha, bias=0.0)
        case "soft_shrink":
            return op("Shrink", x, lambd=alpha, bias=alpha)
        case "softplus_beta":
            return op("Div", op("Softplus", op("Mul", x, number(alpha))), number(alpha))
        case "threshold":
            return op("Where", op("Greater", x, number(alpha)), x, number(beta))
        case "affine":
            return op("Add", op("Mul", x, number(alpha)), number(beta))
        case "scaled_tanh":
            return op("Mul", op("Tanh", op("Mul", x, number(beta))), number(alpha))
        case "hard_sigmoid_line":
            return op("HardSigmoid", x, alpha=alpha, beta=beta)
    raise refused(node, f"the activation {kind}")


@writes("unary")
def _unary(w: Writer, node: Node, inputs: list[str]) -> str:
    kind = node.options["kind"]
    if kind == "not":
        return w.step("Cast", [w.step("Equal", [inputs[0], w.numbers(0, node)], node)], node, to=1)
    if kind == "isnan":
        return w.step("Cast", [w.step("IsNaN", inputs, node)], node, to=1)
    if kind not in _UNARY:
        raise refused(node, kind)
    return w.emit(kind.capitalize(), inputs, node.name)


@writes(*_BINARY)
def _binary(w: Writer, node: Node, inputs: list[str]) -> str:
    return w.emit(_BINARY[node.op], w.aligned(node, inputs), node.name)


@writes("compare")
def _compare(w: Writer, node: Node, inputs: list[str]) -> str:
    return w.step("Cast", [w.step(_COMPARE[node.options["kind"]], w.aligned(node, inputs), node)], node, to=1)


@writes("where")
def _where(w: Writer, node: Node, inputs: list[str]) -> str:
    condition, a, b = w.aligned(node, inputs)
    return w.emit("Where", [w.step("Cast", [condition], node, to=9), a, b], node.name)


@writes("clip")
def _clip(w: Writer, node: Node, inputs: list[str]) -> str:
    return w.emit("Clip", [inputs[0], *(w.numbers(node.options[key], node) for key in ("low", "high"))], node.name)


@writes("prelu")
def _prelu(w: Writer, node: Node, inputs: list[str]) -> str:
    behind = len(w.features(node.name)) - 1 - node.options["axis"]
    slope = w.arrays(node)["slope"].reshape(-1, *[1] * behind)
    return w.emit("PRelu", [inputs[0], w.numbers(slope, node)], node.name)


@writes("scale_shift")
def _scale_shift(w: Writer, node: Node, inputs: list[str]) -> str:
    arrays, axes = w.arrays(node), len(w.features(node.name))
    shape = [-1, *[1] * (axes - 1 - node.options["axis"])]
    scaled = w.step("Mul", [inputs[0], w.numbers(arrays["scale"].reshape(shape), node)], node)
    return w.emit("Add", [scaled, w.numbers(arrays["shift"].reshape(shape), node)], node.name)


@writes("dense")
def _dense(w: Writer, node: Node, inputs: list[str]) -> str:
    arrays = w.arrays(node)
    y = w.step("MatMul", [inputs[0], w.numbers(arrays["weight"].T, node)], node)
    if "bias" in arrays:
        y = w.step("Add", [y, w.numbers(arrays["bias"], node)], node)
    return activated(w, node, y, node.options["activation"])


@writes("embedding")
def _embedding(w: Writer, node: Node, inputs: list[str]) -> str:
    ids = inputs[0]
    if node.options["column"] >= 0:
        ids = w.step("Gather", [ids, w.sizes(node.options["column"], node)], node, axis=-1)
    return w.emit("Gather", [w.numbers(w.arrays(node)["weight"], node), ids], node.name, axis=0)


# Masks ----------------------------------------------------------------------------------------------------------------


@writes("mask_of")
def _mask_of(w: Writer, node: Node, inputs: list[str]) -> str:
    value = w.graph.values[node.inputs[0]]
    wanted = w.numbers(node.options["value"], node, np.int64 if value.dtype == "int64" else np.float32)
    same = w.step("Equal", [inputs[0], wanted], node)
    differs = w.step("Not", [same], node)
    if not value.features:
        return differs
    axes = list(range(w.front(node.inputs[0]), w.front(node.inputs[0]) + len(value.features)))
    one = w.step("ReduceMax", [w.step("Cast", [differs], node, to=1)], node, axes=axes, keepdims=0)
    return w.step("Cast", [one], node, to=9)


@writes("mask_and")
def _mask_and(w: Writer, node: Node, inputs: list[str]) -> str:
    return w.emit("And", inputs, node.name)


@writes("apply_mask")
def _apply_mask(w: Writer, node: Node, inputs: list[str]) -> str:
    x, mask = inputs
    front = w.front(node.inputs[0])
    axes = list(range(front, front + len(w.features(node.inputs[0]))))
    return w.emit("Where", [w.step("Unsqueeze", [mask, w.sizes(axes, node)], node), x, w.numbers(0, node)], node.name)


# Axes -----------------------------------------------------------------------------------------------------------------


@writes("reshape")
def _reshape(w: Writer, node: Node, inputs: list[str]) -> str:
    return w.reshaped(inputs[0], [0] * w.front(node.inputs[0]) + list(node.options["features"]), node)


@writes("transpose")
def _transpose(w: Writer, node: Node, inputs: list[str]) -> str:
    front = w.front(node.inputs[0])
    order = [*range(front), *(front + axis for axis in node.options["order"])]
    return w.emit("Transpose", inputs, node.name, perm=order)


@writes("slice")
def _slice(w: Writer, node: Node, inputs: list[str]) -> str:
    o = node.options
    return w.sliced(inputs[0], node, w.front(node.inputs[0]) + o["axis"], o["start"], o["stop"], o["step"])


@writes("take")
def _take(w: Writer, node: Node, inputs: list[str]) -> str:
    axis = w.front(node.inputs[0]) + node.options["axis"]
    return w.emit("Gather", [inputs[0], w.sizes(node.options["indices"], node)], node.name, axis=axis)


@writes("broadcast")
def _broadcast(w: Writer, node: Node, inputs: list[str]) -> str:
    shape = [1] * w.front(node.inputs[0]) + list(node.options["features"])
    return w.emit("Expand", [inputs[0], w.sizes(shape, node)], node.name)


@writes("pad_inner")
def _pad_inner(w: Writer, node: Node, inputs: list[str]) -> str:
    pads, front = list(node.options["pads"]), [0] * w.front(node.inputs[0])
    half = len(pads) // 2
    operands = [inputs[0], w.sizes([*front, *pads[:half], *front, *pads[half:]], node)]
    operands += [w.numbers(node.options["value"], node)] if node.options["mode"] == "constant" else []
    return w.emit("Pad", operands, node.name, mode=node.options["mode"])


@writes("constant")
def _constant(w: Writer, node: Node, inputs: list[str]) -> str:
    return w.numbers(w.arrays(node)["value"][None], node)


@writes("concat")
def _concat(w: Writer, node: Node, inputs: list[str]) -> str:
    """Values behind each other; constants and values without time are spread to the rows and frames of the others."""
    front = max(w.front(name) for name in node.inputs)
    constants = [w.is_constant(name) for name in node.inputs]
    full = next((i for i, name in enumerate(node.inputs) if w.front(name) == front and not constants[i]), None)
    if full is None:
        raise refused(node, "constants alone behind each other")
    made = []
    for source, name, constant in zip(node.inputs, w.aligned(node, inputs), constants, strict=True):
        if w.front(source) < front or constant:
            features = w.features(source)
            like = w.shape(inputs[full], node, 0, front)
            wanted = w.step("Concat", [like, w.sizes(features, node)], node, axis=0)
            name = w.step("Expand", [name, wanted], node)
        made.append(name)
    return w.emit("Concat", made, node.name, axis=front + node.options["axis"])


@writes("reduce")
def _reduce(w: Writer, node: Node, inputs: list[str]) -> str:
    axes = [w.front(node.inputs[0]) + axis for axis in node.options["axes"]]
    kind = node.options["kind"]
    if kind == "sum":
        return w.emit("ReduceSum", [inputs[0], w.sizes(axes, node)], node.name, keepdims=1)
    return w.emit(_REDUCE[kind], inputs, node.name, axes=axes, keepdims=1)


@writes("softmax")
def _softmax(w: Writer, node: Node, inputs: list[str]) -> str:
    """Over several axes as over one: they are put behind the others, and made one."""
    op = "LogSoftmax" if node.options["log"] else "Softmax"
    front, axes = w.front(node.inputs[0]), node.options["axes"]
    if len(axes) == 1:
        return w.emit(op, inputs, node.name, axis=front + axes[0])
    rest = [axis for axis in range(len(w.features(node.name))) if axis not in axes]
    order = [*range(front), *(front + axis for axis in (*rest, *axes))]
    turned = w.turned(inputs[0], order, node)
    sizes = [w.features(node.name)[axis] for axis in (*rest, *axes)]
    flat = w.reshaped(turned, [*[0] * front, *sizes[: len(rest)], -1], node)
    back = w.reshaped(w.step(op, [flat], node, axis=-1), [*[0] * front, *sizes], node)
    return w.turned(back, [order.index(axis) for axis in range(len(order))], node)


@writes("layer_norm")
def _layer_norm(w: Writer, node: Node, inputs: list[str]) -> str:
    arrays, axes, epsilon = w.arrays(node), node.options["axes"], float(node.options["epsilon"])
    shape = w.features(node.name)[-axes:]
    weight = w.numbers(arrays.get("weight", np.ones(shape)), node)
    if node.options["subtract_mean"]:
        operands = [inputs[0], weight, *([w.numbers(arrays["bias"], node)] if "bias" in arrays else [])]
        return w.emit("LayerNormalization", operands, node.name, axis=-axes, epsilon=epsilon)
    square = w.step("Mul", [inputs[0], inputs[0]], node)
    mean = w.step("ReduceMean", [square], node, axes=list(range(-axes, 0)), keepdims=1)
    root = w.step("Sqrt", [w.step("Add", [mean, w.numbers(epsilon, node)], node)], node)
    y = w.step("Mul", [w.step("Div", [inputs[0], root], node), weight], node)
    return w.step("Add", [y, w.numbers(arrays["bias"], node)], node) if "bias" in arrays else y
