"""ONNX' operators on numbers by themselves: arithmetic with broadcasting, functions, comparisons and choices."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ...errors import FormatError
from ...spec.operations.pointwise import UNARY
from ...spec.precision import Stored
from ...weights import Weights
from ..containers.onnx_records import Node
from . import onnx_fold as fold
from .onnx_lowering import Lowering, handles
from .onnx_values import INDEX, Atom, Known, Tensor, Unfolded, Value

_BINARY = {"Add": "add", "Sub": "sub", "Mul": "mul", "Div": "div", "Pow": "power", "Max": "maximum", "Min": "minimum"}
_COMPARE = {
    "Equal": ("equal", False), "Less": ("less", False), "LessOrEqual": ("less_equal", False),
    "Greater": ("less", True), "GreaterOrEqual": ("less_equal", True),
}  # fmt: skip
#: ONNX' activations without parameters → cgru's.
ACTIVATIONS = {"Relu": "relu", "Sigmoid": "sigmoid", "Tanh": "tanh", "Softsign": "softsign", "Softplus": "softplus"}


class Broadcast:
    """Operands under one set of feature axes, so that cgru's broadcasting is ONNX'.

    ``axes`` says where each ONNX axis of the result comes from. Rows and frames must be the same axes in every operand
    that has them.
    """

    def __init__(self, low: Lowering, node: Node, operands: Sequence[Value]) -> None:
        self.low, self.node, self.draft = low, node, low.draft
        tensors = [value for value in operands if isinstance(value, Tensor)]
        for value in operands:
            if isinstance(value, Known) and value.is_shape:
                raise Unfolded
        self.rank = max(_rank(value) for value in operands)
        self.patterns = [self._pattern(tensors, operands, axis) for axis in range(self.rank)]
        self.axes: list[tuple[Atom, ...]] = []
        count = 0
        for pattern in self.patterns:
            made: list[Atom] = []
            for part in pattern:
                made.append(part if isinstance(part, str) else count)
                count += not isinstance(part, str)
            self.axes.append(tuple(made))
        self.count = count
        self.operands = operands

    @property
    def names(self) -> list[str]:
        """The operands as nodes under the result's feature axes."""
        return [self._operand(value) for value in self.operands]

    def _pattern(self, tensors: Sequence[Tensor], operands: Sequence[Value], axis: int) -> list[Any]:
        found: list[list[Any]] = []
        for value in tensors:
            at = axis - self.rank + value.rank
            if at >= 0:
                parts = self._sized(value, at)
                if parts:
                    found.append(parts)
        if any(parts != found[0] for parts in found):
            raise self.low.unsupported(
                self.node, f"axis {axis} of its inputs is not of the same rows, frames and features"
            )
        if found:
            return found[0]
        for other in operands:
            at = axis - self.rank + _rank(other)
            if isinstance(other, Known) and at >= 0:
                size = other.shape[at]
                if size != 1:
                    if not isinstance(size, int):
                        raise Unfolded
                    return [size]
        return []

    def _sized(self, value: Tensor, axis: int) -> list[Any]:
        features = self.draft.features(value)
        return [
            part if isinstance(part, str) else int(np.prod([features[i] for i in part]))
            for part in self.draft.segments(value, axis)
        ]

    def _operand(self, value: Value) -> str:
        if isinstance(value, Known):
            return self.draft.constant(self.constant(value))
        return self.draft.arranged(value, self.groups(value) or [()])

    def groups(self, value: Tensor) -> list[tuple[int, ...]]:
        """The value's feature axes for each feature axis of the result, empty where it has size 1."""
        groups: list[tuple[int, ...]] = []
        for axis, pattern in enumerate(self.patterns):
            at = axis - self.rank + value.rank
            parts = self.draft.segments(value, at) if at >= 0 else []
            for i, part in enumerate(pattern):
                if not isinstance(part, str):
                    groups.append(tuple(parts[i]) if parts else ())  # type: ignore[arg-type]
        return groups

    def constant(self, value: Known) -> np.ndarray:
        """A constant under the feature axes of the result; along rows and frames it must not vary."""
        array = value.array
        array = array.reshape((1,) * (self.rank - array.ndim) + array.shape)
        shape: list[int] = []
        for axis, pattern in enumerate(self.patterns):
            if array.shape[axis] > 1 and any(isinstance(part, str) for part in pattern):
                first = np.take(array, [0], axis)
                if not np.array_equal(np.broadcast_to(first, array.shape), array):
                    raise self.low.unsupported(self.node, "a constant differs from row to row or from frame to frame")
                array = first
            sizes = [part for part in pattern if not isinstance(part, str)]
            shape += sizes if array.shape[axis] > 1 else [1] * len(sizes)
        return array.reshape(shape or [1])

    def result(self, name: str, dtype: str = "float32") -> Tensor:
        return Tensor(name, tuple(self.axes), dtype)


def _rank(value: Value) -> int:
    return value.rank if isinstance(value, Tensor) else len(value.shape)


def floats(low: Lowering, node: Node, *values: Value | None) -> list[Value]:
    """Operands that hold numbers, not ids."""
    made = []
    for value in values:
        if value is None:
            raise FormatError(f"{node}: an input is missing")
        if isinstance(value, Known) and value.is_shape:
            value = low.counted(value)
        if isinstance(value, Tensor) and value.dtype not in ("float32", "bool"):
            if value.dtype == INDEX:
                raise low.unsupported(node, "arithmetic on the numbers of frames as whole numbers")
            if value.dtype != "int64":
                raise low.unsupported(node, f"arithmetic on codes ({value.dtype}), whose scale is not in them")
            raise low.unsupported(
                node,
                "arithmetic on whole numbers of an input; where it stays the same, say so: inputs={'name': value}",
            )
        made.append(value)
    return made


@handles(*_BINARY, "And", "Or", "Xor", "Sum", "Mean")
def _arithmetic(low: Lowering, node: Node, inputs: list[Value | None]) -> Value:
    numbers = _as_numbers(node, inputs)
    made = _computed(low, node, inputs if numbers is None else numbers)
    return made if numbers is None or isinstance(made, Known) else Tensor(made.name, made.axes, INDEX)


def _computed(low: Lowering, node: Node, inputs: list[Value | None]) -> Value:
    operands = floats(low, node, *inputs)
    if node.version < 7 and node.attributes.get("broadcast"):
        raise low.unsupported(node, "broadcasting as before operator set 7")
    made = operands[0]
    for other in operands[1:]:
        made = _pair(low, node, made, other)
    if len(operands) == 1:
        return made
    if node.op == "Mean":
        return _pair_of(low, node, "mul", made, Known(np.array(1 / len(operands), np.float32)))
    return made


def _as_numbers(node: Node, inputs: Sequence[Value | None]) -> list[Value | None] | None:
    """Numbers of frames as numbers to add and multiply; None where there are none, or others beside them."""
    if node.op not in ("Add", "Sub", "Mul") or not any(isinstance(v, Tensor) and v.dtype == INDEX for v in inputs):
        return None
    made: list[Value | None] = []
    for value in inputs:
        if isinstance(value, Tensor) and value.dtype == INDEX:
            made.append(Tensor(value.name, value.axes))
        elif isinstance(value, Known) and not value.is_shape and value.array.dtype.kind in "iu":
            made.append(Known(value.array.astype(np.float32), value.sizes))
        else:
            return None
    return made


def _pair(low: Lowering, node: Node, a: Value, b: Value) -> Value:
    if isinstance(a, Known) and isinstance(b, Known):
        arrays = fold.folded(node, [a.array, b.array])
        assert arrays is not None
        return Known(arrays[0])
    logical = {"And": "mul", "Or": "maximum", "Xor": "sub"}.get(node.op)
    if logical:
        made = _pair_of(low, node, logical, _as_bit(a), _as_bit(b), "bool")
        return Tensor(low.draft.emit("unary", made.name, kind="abs"), made.axes, "bool") if node.op == "Xor" else made
    if node.op == "Mul" and (held := _with_scale(low, a, b) or _with_scale(low, b, a)):
        return held
    if node.op in ("Add", "Sum") and (fused := _with_bias(low, node, a, b)):
        return fused
    return _pair_of(low, node, _BINARY.get(node.op, "add"), a, b)


def _as_bit(value: Value) -> Value:
    return Known(value.array.astype(bool).astype(np.float32), value.sizes) if isinstance(value, Known) else value


def _with_scale(low: Lowering, x: Value, factor: Value) -> Tensor | None:
    """The scale of weights that are held as codes, where x is their product and nothing else reads that."""
    if not isinstance(x, Tensor) or not isinstance(factor, Known) or factor.open or not low.alone(x):
        return None
    made = low.draft.node(x.name)
    if made is None or made.op != "dense" or low.draft.g.store[made.weights].precision != "int8":
        return None
    held = low.draft.g.store[made.weights].stored()
    units = made.options["units"]
    if set(held) != {"weight"} or factor.array.size not in (1, units) or factor.array.ndim > 1:
        return None
    weight = held["weight"]
    assert isinstance(weight, Stored)
    assert weight.scale is not None
    scale = (weight.scale * factor.array.reshape(-1)).astype(np.float32)
    if not (np.isfinite(scale).all() and (scale >= 0).all()):
        return None
    low.draft.g.store[made.weights] = Weights({"weight": Stored(weight.values, scale)}, {"weight"}, "int8")
    return x


def _pair_of(low: Lowering, node: Node, op: str, a: Value, b: Value, dtype: str = "float32") -> Tensor:
    for one, other in ((a, b), (b, a)):
        # x · 1, x + 0, x ^ 1: exporters write them.
        if isinstance(other, Known) and not other.open and other.array.size == 1 and isinstance(one, Tensor):
            number = float(other.array.reshape(-1)[0])
            neutral = {"add": 0.0, "mul": 1.0, "sub": 0.0, "div": 1.0, "power": 1.0}.get(op)
            if (
                number == neutral
                and (one is a or op in ("add", "mul"))
                and other.array.ndim <= one.rank
                and dtype == "float32"
            ):
                return one
    if op == "power" and isinstance(b, Known) and b.array.size == 1 and isinstance(a, Tensor):
        number = float(b.array.reshape(-1)[0])
        if number == 2.0:
            return Tensor(low.draft.emit("mul", a.name, a.name, name=output_name(node)), a.axes)
        if number == 0.5:
            return Tensor(low.draft.emit("unary", a.name, kind="sqrt", name=output_name(node)), a.axes)
    both = Broadcast(low, node, [a, b])
    return both.result(low.draft.emit(op, *both.names, name=output_name(node)), dtype)


def _with_bias(low: Lowering, node: Node, a: Value, b: Value) -> Tensor | None:
    """x W + b as one dense operation, where nothing else reads x W."""
    for x, bias in ((a, b), (b, a)):
        if not isinstance(x, Tensor) or not isinstance(bias, Known) or bias.open or not low.alone(x):
            continue
        made = low.draft.node(x.name)
        if made is None or made.op != "dense" or made.options["activation"] != "linear":
            continue
        arrays = low.draft.g.store[made.weights].arrays()
        units = made.options["units"]
        last = low.draft.segments(x, x.rank - 1)
        fits = bias.array.size == units and bias.array.ndim <= x.rank and bias.array.shape[-1] == units
        where = [] if units == 1 else [(len(low.draft.features(x)) - 1,)]
        if "bias" in arrays or not fits or last != where:
            continue
        low.draft.biased(made, bias.array.reshape(-1))
        return x
    return None


def output_name(node: Node) -> str:
    return next((name for name in node.outputs if name), node.name).replace("\0", "")


@handles(*ACTIVATIONS)
def _activation(low: Lowering, node: Node, inputs: list[Value | None]) -> Value:
    return activated(low, node, low.tensor(inputs[0], node), ACTIVATIONS[node.op])


def activated(low: Lowering, node: Node, x: Tensor, activation: str) -> Tensor:
    """φ(x): within the operation that makes x where it can be and nothing else reads x."""
    made = low.draft.node(x.name)
    if made is not None and low.alone(x) and made.options.get("activation") == "linear" and activation != "softmax":
        low.draft.changed(made, {"activation": activation})
        return x
    return Tensor(low.draft.emit("activation", x.name, activation=activation, name=output_name(node)), x.axes)


@handles(*(kind.capitalize() for kind in UNARY if kind not in ("isnan", "not", "log1p", "expm1")), "Not", "IsNaN")
def _unary(low: Lowering, node: Node, inputs: list[Value | None]) -> Value:
    (x,) = floats(low, node, inputs[0])
    made = low.draft.emit("unary", low.tensor(x, node).name, kind=node.op.lower(), name=output_name(node))
    return Tensor(made, low.tensor(x, node).axes, "bool" if node.op in ("Not", "IsNaN") else "float32")


@handles("Clip")
def _clip(low: Lowering, node: Node, inputs: list[Value | None]) -> Value:
    x = low.tensor(inputs[0], node)
    bounds: dict[str, float] = {}
    for key, name, i in (("low", "min", 1), ("high", "max", 2)):
        given = node.attributes.get(name)
        if node.version >= 11:
            given = low.known(inputs[i], node, name).item() if len(inputs) > i and inputs[i] is not None else None
        if given is not None and abs(given) <= 3.4e38:
            bounds[key] = float(given)
    return Tensor(low.draft.emit("clip", x.name, name=output_name(node), **bounds), x.axes, x.dtype)


def scaled(low: Lowering, x: Tensor, factor: float) -> Tensor:
    """factor · x."""
    if factor == 1:
        return x
    return Tensor(low.draft.emit("mul", x.name, low.draft.constant(np.array([factor]))), x.axes)


def shifted(low: Lowering, x: Tensor, term: float) -> Tensor:
    return Tensor(low.draft.emit("add", x.name, low.draft.constant(np.array([term]))), x.axes) if term else x


@handles(
    "LeakyRelu", "Elu", "Selu", "Celu", "ThresholdedRelu", "HardSigmoid", "HardSwish", "Gelu", "Mish", "Swish", "Shrink"
)
def _parametric(low: Lowering, node: Node, inputs: list[Value | None]) -> Value:
    """The activations with parameters, from their definitions in onnx/docs/Operators.md."""
    x = low.tensor(inputs[0], node)
    draft, given = low.draft, node.attributes

    def op(name: str, *values: Tensor, **options: Any) -> Tensor:
        return Tensor(draft.emit(name, *(value.name for value in values), **options), x.axes)

    def phi(kind: str, value: Tensor) -> Tensor:
        return op("activation", value, activation=kind)

    positive = op("compare", zero(low, x), x, kind="less") if node.op in ("Elu", "Selu", "Celu", "LeakyRelu") else x
    if node.op == "HardSigmoid":
        alpha, beta = given.get("alpha", 0.2), given.get("beta", 0.5)
        if abs(alpha - 1 / 6) < 1e-7 and beta == 0.5:
            return activated(low, node, x, "hard_sigmoid")
        if abs(alpha - 0.2) < 1e-7 and beta == 0.5:
            return activated(low, node, x, "hard_sigmoid_keras2")
        return op("clip", shifted(low, scaled(low, x, alpha), beta), low=0.0, high=1.0)
    if node.op == "HardSwish":
        return op("mul", x, phi("hard_sigmoid", x))
    if node.op == "Swish":
        return op("mul", x, phi("sigmoid", scaled(low, x, given.get("alpha", 1.0))))
    if node.op == "Mish":
        return op("mul", x, phi("tanh", phi("softplus", x)))
    if node.op == "Gelu":
        if given.get("approximate", "none") == "tanh":
            cube = op("mul", x, op("mul", x, x))
            inside = scaled(low, op("add", x, scaled(low, cube, 0.044715)), float(np.sqrt(2 / np.pi)))
            gate = phi("tanh", inside)
        else:
            gate = op("unary", scaled(low, x, float(np.sqrt(0.5))), kind="erf")
        return op("mul", scaled(low, x, 0.5), shifted(low, gate, 1.0))
    if node.op == "ThresholdedRelu":
        bound = Tensor(draft.constant(np.array([given.get("alpha", 1.0)])), x.axes)
        return op("where", op("compare", bound, x, kind="less"), x, zero(low, x))
    if node.op == "Shrink":
        bias, bound = given.get("bias", 0.0), given.get("lambd", 0.5)
        edge = Tensor(draft.constant(np.array([bound])), x.axes)
        above = op("where", op("compare", edge, x, kind="less"), shifted(low, x, -bias), zero(low, x))
        return op("where", op("compare", x, scaled(low, edge, -1.0), kind="less"), shifted(low, x, bias), above)
    if node.op == "LeakyRelu":
        return op("where", positive, x, scaled(low, x, given.get("alpha", 0.01)))
    alpha = given.get("alpha", 1.67326319217681884765625 if node.op == "Selu" else 1.0)
    if node.op == "Elu" and alpha == 1:
        return activated(low, node, x, "elu")
    if node.op == "Celu":
        return op("where", positive, x, scaled(low, phi("elu", scaled(low, x, 1 / alpha)), alpha))
    made = op("where", positive, x, scaled(low, phi("elu", x), alpha))
    return scaled(low, made, given.get("gamma", 1.05070102214813232421875)) if node.op == "Selu" else made


def zero(low: Lowering, like: Tensor) -> Tensor:
    return Tensor(low.draft.constant(np.zeros(1)), like.axes)


@handles("PRelu")
def _prelu(low: Lowering, node: Node, inputs: list[Value | None]) -> Value:
    x = low.tensor(inputs[0], node)
    slope = inputs[1]
    if isinstance(slope, Known) and not slope.open:
        both = Broadcast(low, node, [x, slope])
        array = both.constant(slope)
        long = [axis for axis, size in enumerate(array.shape) if size > 1] or [0]
        name = low.draft.arranged(x, both.groups(x) or [()])
        if len(long) == 1:
            full = np.broadcast_to(array.reshape(-1), (low.draft.type(name).features[long[0]],))
            made = low.draft.emit(
                "prelu", name, axis=long[0], weights={"slope": np.array(full)}, name=output_name(node)
            )
            return both.result(made)
    product = _pair_of(low, node, "mul", x, low.tensor(slope, node))
    both = Broadcast(
        low, node, [Tensor(low.draft.emit("compare", x.name, zero(low, x).name, kind="less"), x.axes), product, x]
    )
    return both.result(low.draft.emit("where", *both.names, name=output_name(node)))


@handles(*_COMPARE)
def _compare(low: Lowering, node: Node, inputs: list[Value | None]) -> Value:
    if node.op == "Equal" and (found := _of_id(low, node, inputs)) is not None:
        return found
    operands = floats(low, node, *inputs)
    kind, swap = _COMPARE[node.op]
    both = Broadcast(low, node, operands[::-1] if swap else operands)
    return both.result(low.draft.emit("compare", *both.names, kind=kind, name=output_name(node)), "bool")


def _of_id(low: Lowering, node: Node, inputs: Sequence[Value | None]) -> Tensor | None:
    """Whether an id is a certain one, of ids that choose rows of a table too: another table, of ones and zeros."""
    ids = next((value for value in inputs if isinstance(value, Tensor) and value.dtype == "int64"), None)
    other = next((value for value in inputs if isinstance(value, Known)), None)
    if ids is None or other is None or other.is_shape or other.array.size != 1 or other.array.dtype.kind not in "iu":
        return None
    names = {name for name, value in low.values.items() if isinstance(value, Tensor) and value.name == ids.name}
    names |= {reader.outputs[0] for name in names for reader in low.readers.get(name, ()) if reader.op == "Cast"}
    tables = [
        table.array
        for name in names
        for reader in low.readers.get(name, ())
        if reader.op == "Gather" and reader.inputs[1] == name
        and isinstance(table := low.values.get(reader.inputs[0]), Known)
    ]  # fmt: skip
    if not tables:
        return None
    weight = np.zeros((min(map(len, tables)), 1), np.float32)
    wanted = int(other.array.reshape(-1)[0])
    if 0 <= wanted < len(weight):
        weight[wanted] = 1
    made = low.draft.emit("embedding", ids.name, vocabulary=len(weight), units=1, weights={"weight": weight})
    return Tensor(made, ids.axes, "bool")


@handles("Where")
def _where(low: Lowering, node: Node, inputs: list[Value | None]) -> Value:
    condition, a, b = floats(low, node, *inputs)
    if isinstance(condition, Known):
        condition = _as_bit(condition)
    both = Broadcast(low, node, [condition, a, b])
    return both.result(low.draft.emit("where", *both.names, name=output_name(node)))


@handles("Cast", "CastLike")
def _cast(low: Lowering, node: Node, inputs: list[Value | None]) -> Value:
    x = low.tensor(inputs[0], node)
    if node.op == "CastLike":
        other = inputs[1]
        like = np.dtype("f4") if isinstance(other, Tensor) else low.known(other, node, "the type").dtype
    else:
        like = fold.cast_dtype(int(node.attributes["to"]))
    if like.kind == "f" and x.dtype in ("float32", "bool", INDEX):
        return Tensor(x.name, x.axes)
    if like.kind == "b":
        if x.dtype == "bool":
            return x
        if x.dtype == "float32":
            made = low.draft.emit("unary", x.name, kind="not")
            return Tensor(low.draft.emit("unary", made, kind="not"), x.axes, "bool")
    if like.kind in "iu" and x.dtype in ("int64", INDEX) and like.itemsize >= 4:
        return x
    raise low.unsupported(node, f"a cast of {x.dtype} to {like.name} of what is computed from the input")


@handles("Identity", "Dropout")
def _identity(low: Lowering, node: Node, inputs: list[Value | None]) -> Value:
    if (
        node.op == "Dropout"
        and len(inputs) > 2
        and inputs[2] is not None
        and bool(low.known(inputs[2], node, "training_mode"))
    ):
        raise low.unsupported(node, "dropout while training")
    assert inputs[0] is not None
    return inputs[0]
