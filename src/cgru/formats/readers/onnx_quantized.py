"""ONNX' quantized operators: numbers held as codes, x = (code − zero point) · scale.

Rounding by a scale that the file says is done as it says. DynamicQuantizeLinear takes its scale from the largest number
of a whole batch, so that a row would depend on the rows beside it: that rounding is left to cgru, whose int8 has a
scale for each row and step; the weights keep their codes and scales. Source: onnx/docs/Operators.md and ONNX Runtime's
docs/ContribOperators.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ...errors import FormatError
from ...spec.precision import Stored
from ...weights import Weights
from ..containers.onnx_records import Node
from . import onnx_fold as fold
from .onnx_arithmetic import Broadcast
from .onnx_layers import dense
from .onnx_lowering import HANDLERS, Lowering, handles
from .onnx_recurrent import Operands, in_order, lowered
from .onnx_values import Known, Tensor, Value

_NOTE = "activations are rounded to 8 bits by a scale for each row, where ONNX Runtime takes one of the whole batch"
_CODES = {"uint8": (0, 255), "int8": (-128, 127), "uint16": (0, 65535), "int16": (-32768, 32767)}


def _constants(low: Lowering, node: Node, inputs: Sequence[Value | None], *places: int) -> list[np.ndarray]:
    """Scales and zero points, which must be known; a zero point left out is 0."""
    made = []
    for place in places:
        value = inputs[place] if place < len(inputs) else None
        made.append(np.zeros((), np.uint8) if value is None else low.known(value, node, f"input {place}"))
    return made


def _along(array: np.ndarray, axis: int, rank: int) -> np.ndarray:
    """A scale or zero point of an axis, shaped to broadcast."""
    if array.size == 1:
        return array.reshape(())
    return array.reshape([-1 if i == axis % rank else 1 for i in range(rank)])


def _binary(low: Lowering, node: Node, op: str, x: Tensor, array: np.ndarray) -> Tensor:
    both = Broadcast(low, node, [x, Known(array.astype(np.float32))])
    return both.result(low.draft.emit(op, *both.names))


def _quantized(low: Lowering, node: Node, x: Tensor, scale: np.ndarray, zero: np.ndarray, axis: int = 1) -> Tensor:
    """round(x / scale) + zero point, within the codes there are; halves go to the even number."""
    if zero.dtype.name not in _CODES:
        raise low.unsupported(node, f"codes of the type {zero.dtype.name}")
    lowest, highest = _CODES[zero.dtype.name]
    ratio = _binary(low, node, "div", x, _along(scale, axis, x.rank))
    made = Tensor(low.draft.emit("unary", ratio.name, kind="round"), ratio.axes)
    if zero.any():
        made = _binary(low, node, "add", made, _along(zero, axis, x.rank))
    name = low.draft.emit("clip", made.name, low=float(lowest), high=float(highest))
    return Tensor(name, made.axes, zero.dtype.name)


def _numbers(low: Lowering, node: Node, value: Value | None, scale: np.ndarray, zero: np.ndarray, axis: int) -> Value:
    """(code − zero point) · scale."""
    if isinstance(value, Known):
        made = value.array.astype(np.float32) - _along(zero, axis, value.array.ndim).astype(np.float32)
        return Known((made * _along(scale, axis, value.array.ndim)).astype(np.float32))
    x = low.tensor(value, node)
    x = Tensor(x.name, x.axes)
    if zero.any():
        x = _binary(low, node, "sub", x, _along(zero, axis, x.rank))
    return _binary(low, node, "mul", x, _along(scale, axis, x.rank))


@handles("QuantizeLinear")
def _quantize_linear(low: Lowering, node: Node, inputs: list[Value | None]) -> Value:
    scale, zero = _constants(low, node, inputs, 1, 2)
    if node.attributes.get("block_size") or scale.ndim > 1:
        raise low.unsupported(node, "a scale for each block")
    if len(inputs) < 3 or inputs[2] is None:
        code = int(node.attributes.get("output_dtype", 2)) or 2
        zero = np.zeros((), fold.cast_dtype(code))
    return _quantized(low, node, low.tensor(inputs[0], node), scale, zero, int(node.attributes.get("axis", 1)))


@handles("DequantizeLinear")
def _dequantize_linear(low: Lowering, node: Node, inputs: list[Value | None]) -> Value:
    scale, zero = _constants(low, node, inputs, 1, 2)
    if node.attributes.get("block_size") or scale.ndim > 1:
        raise low.unsupported(node, "a scale for each block")
    return _numbers(low, node, inputs[0], scale, zero, int(node.attributes.get("axis", 1)))


def _plain(low: Lowering, node: Node, op: str, inputs: Sequence[Value | None], **attributes: Any) -> Tensor:
    """An operator of ONNX on numbers, in the place of its quantized form."""
    named = replace(node, op=op, domain="", version=17, attributes=attributes)
    if all(value is None or isinstance(value, Known) for value in inputs):
        raise low.unsupported(node, "a product of constants alone")
    made = HANDLERS[op](low, named, list(inputs))
    if not isinstance(made, Tensor):
        raise FormatError(f"{node}: gives more than one value")
    return made


@handles("QLinearMatMul")
def _qlinear_matmul(low: Lowering, node: Node, inputs: list[Value | None]) -> Value:
    a_scale, a_zero, b_scale, b_zero, y_scale, y_zero = _constants(low, node, inputs, 1, 2, 4, 5, 6, 7)
    a = _numbers(low, node, inputs[0], a_scale, a_zero, -2)
    b = _numbers(low, node, inputs[3], b_scale, b_zero, -1)
    return _quantized(low, node, _plain(low, node, "MatMul", [a, b]), y_scale, y_zero)


@handles("QLinearConv")
def _qlinear_conv(low: Lowering, node: Node, inputs: list[Value | None]) -> Value:
    x_scale, x_zero, w_scale, w_zero, y_scale, y_zero = _constants(low, node, inputs, 1, 2, 4, 5, 6, 7)
    operands: list[Value | None] = [
        _numbers(low, node, inputs[0], x_scale, x_zero, 1), _numbers(low, node, inputs[3], w_scale, w_zero, 0),
    ]  # fmt: skip
    if len(inputs) > 8 and inputs[8] is not None:
        bias = low.known(inputs[8], node, "the bias").astype(np.float64) * x_scale.reshape(()) * w_scale.reshape(-1)
        operands.append(Known(bias.astype(np.float32)))
    return _quantized(low, node, _plain(low, node, "Conv", operands, **node.attributes), y_scale, y_zero)


@handles("com.microsoft.QGemm")
def _qgemm(low: Lowering, node: Node, inputs: list[Value | None]) -> Value:
    a_scale, a_zero, b_scale, b_zero = _constants(low, node, inputs, 1, 2, 4, 5)
    b_axis = 0 if node.attributes.get("transB") else 1
    a = _numbers(low, node, inputs[0], a_scale, a_zero, 0)
    b = _numbers(low, node, inputs[3], b_scale, b_zero, b_axis)
    operands: list[Value | None] = [a, b]
    if len(inputs) > 6 and inputs[6] is not None:
        alpha = float(node.attributes.get("alpha", 1.0))
        bias = low.known(inputs[6], node, "C").astype(np.float64) * (a_scale.reshape(()) * b_scale.reshape(-1) * alpha)
        operands.append(Known(bias.astype(np.float32)))
    made = _plain(low, node, "Gemm", operands, **node.attributes)
    if len(inputs) < 9 or inputs[7] is None:
        return made
    y_scale, y_zero = _constants(low, node, inputs, 7, 8)
    return _quantized(low, node, made, y_scale, y_zero)


@handles("com.microsoft.QLinearAdd", "com.microsoft.QLinearMul")
def _qlinear_binary(low: Lowering, node: Node, inputs: list[Value | None]) -> Value:
    a_scale, a_zero, b_scale, b_zero, y_scale, y_zero = _constants(low, node, inputs, 1, 2, 4, 5, 6, 7)
    a, b = (_numbers(low, node, inputs[i], s, z, 1) for i, s, z in ((0, a_scale, a_zero), (3, b_scale, b_zero)))
    return _quantized(low, node, _plain(low, node, node.op[-3:], [a, b]), y_scale, y_zero)


@handles("com.microsoft.QLinearSigmoid", "com.microsoft.QLinearLeakyRelu")
def _qlinear_activation(low: Lowering, node: Node, inputs: list[Value | None]) -> Value:
    x_scale, x_zero, y_scale, y_zero = _constants(low, node, inputs, 1, 2, 3, 4)
    x = _numbers(low, node, inputs[0], x_scale, x_zero, 1)
    op = node.op.removeprefix("QLinear")
    return _quantized(low, node, _plain(low, node, op, [x], **node.attributes), y_scale, y_zero)


# Rounding by what is at hand ------------------------------------------------------------------------------------------


@handles("DynamicQuantizeLinear")
def _dynamic(low: Lowering, node: Node, inputs: list[Value | None]) -> Sequence[Value]:
    """x as it is, beside a scale of 1: its products with weights get back the weights' own scale alone.

    That holds for what exporters write, MatMulInteger or ConvInteger → Cast → Mul by both scales; elsewhere the codes
    themselves would be wanted.
    """
    codes, scale, zero = (*node.outputs, "", "")[:3]
    products = low.readers.get(codes, [])
    ends = [end for product in products for end in _scaled_back(low, product, codes, scale, zero)]
    read = low.readers.get(scale, [])
    through = [end for factor in read for end in _readers(low, factor) if factor not in ends]
    fits = len(low.readers.get(zero, [])) == len(products) and all(factor.op == "Mul" for factor in read)
    if not ends or not fits or any(end not in ends for end in through):
        raise low.unsupported(node, "codes that more is done with than a product with weights, scaled back")
    if _NOTE not in low.draft.g.notes:
        low.draft.g.notes.append(_NOTE)
    x = low.tensor(inputs[0], node)
    return [Tensor(x.name, x.axes, "codes"), Known(np.ones((), np.float32)), Known(np.zeros((), np.uint8))]


def _readers(low: Lowering, node: Node) -> list[Node]:
    return [reader for name in node.outputs[:1] for reader in low.readers.get(name, [])]


def _scaled_back(low: Lowering, product: Node, codes: str, scale: str, zero: str) -> list[Node]:
    """The multiplications that end what is done with a product of codes: by their scale, and by that of the weights."""
    inputs = (*product.inputs, "", "")
    casts = _readers(low, product)
    ends = [end for cast in casts for end in _readers(low, cast)]
    factors = {name for end in ends for name in end.inputs} - {name for cast in casts for name in cast.outputs}
    by_scale = {scale, *(name for factor in low.readers.get(scale, []) for name in factor.outputs)}
    fits = (
        product.op in ("MatMulInteger", "ConvInteger") and inputs[0] == codes and inputs[2] == zero
        and all(cast.op == "Cast" for cast in casts) and all(end.op == "Mul" for end in ends) and factors <= by_scale
    )  # fmt: skip
    if not fits or not ends:
        raise low.unsupported(product, "a product of codes that is not scaled back by their scale")
    return ends


@handles("MatMulInteger")
def _matmul_integer(low: Lowering, node: Node, inputs: list[Value | None]) -> Value:
    a_zero, b_zero = _constants(low, node, inputs, 2, 3)
    one = np.ones((), np.float32)
    a = _numbers(low, node, inputs[0], one, a_zero, -2)
    codes = low.known(inputs[1], node, "the matrix")
    return _times_codes(low, node, a, codes, b_zero)


def _times_codes(low: Lowering, node: Node, a: Value, codes: np.ndarray, zero: np.ndarray) -> Value:
    b = _numbers(low, node, Known(codes), np.ones((), np.float32), zero, -1)
    assert isinstance(b, Known)
    if not isinstance(a, Tensor) or codes.ndim != 2:
        return _plain(low, node, "MatMul", [a, b])
    made = dense(low, node, a, a.rank - 1, b.array)
    if np.abs(b.array).max(initial=0) <= 127:
        kept = Stored(np.ascontiguousarray(b.array.T.astype(np.int8)), np.ones(codes.shape[1], np.float32))
        low.draft.g.store[made.name] = Weights({"weight": kept}, {"weight"}, "int8")
    return made


@handles("ConvInteger")
def _conv_integer(low: Lowering, node: Node, inputs: list[Value | None]) -> Value:
    x_zero, w_zero = _constants(low, node, inputs, 2, 3)
    one = np.ones((), np.float32)
    x = _numbers(low, node, inputs[0], one, x_zero, 1)
    return _plain(low, node, "Conv", [x, _numbers(low, node, inputs[1], one, w_zero, 0)], **node.attributes)


@handles("com.microsoft.DynamicQuantizeLSTM")
def _dynamic_lstm(low: Lowering, node: Node, inputs: list[Value | None]) -> Sequence[Value]:
    """W (D, I, 4 H) and R (D, H, 4 H) as codes, a scale for each direction, or for each of its columns."""
    x, w, r, b, lengths, h, c, p = (inputs[i] if i < len(inputs) else None for i in range(8))
    scales = _constants(low, node, inputs, 8, 9, 10, 11)
    matrices = []
    for value, scale, zero, name in ((w, scales[0], scales[1], "W"), (r, scales[2], scales[3], "R")):
        codes = low.known(value, node, name)
        if codes.ndim != 3 or scale.size not in (len(codes), len(codes) * codes.shape[2]):
            raise FormatError(f"{node}: {name} {codes.shape} with scales {scale.shape}")
        shape = (len(codes), 1, -1)
        numbers = (codes.astype(np.float32) - zero.reshape(shape).astype(np.float32)) * scale.reshape(shape)
        matrices.append(np.ascontiguousarray(numbers.transpose(0, 2, 1).astype(np.float32)))
    operands = Operands(
        low.tensor(x, node), matrices[0], matrices[1], None if b is None else low.known(b, node, "B"), lengths, h, c,
        None if p is None else low.known(p, node, "P"),
    )  # fmt: skip
    if _NOTE not in low.draft.g.notes:
        low.draft.g.notes.append(_NOTE)
    before = len(low.draft.g.nodes)
    made = lowered(low, replace(node, op="LSTM", domain="", version=17), operands)
    scans = [item for item in low.draft.g.nodes[before:] if item.op == "scan"]
    for k, scan in enumerate(scans):
        _keep_codes(low, scan.weights, k, {
            "weight_ih": (w, scales[0], scales[1]), "weight_hh": (r, scales[2], scales[3]),
        })  # fmt: skip
    return made


def _keep_codes(low: Lowering, key: str, k: int, given: Mapping[str, tuple[Any, np.ndarray, np.ndarray]]) -> None:
    """Hold the matrices of direction ``k`` as the file does, where cgru's int8 can: no zero points, −127 to 127."""
    made: dict[str, Any] = dict(low.draft.g.store[key].stored())
    for name, (value, scale, zero) in given.items():
        codes = value.array[k].T
        if zero.any() or codes.dtype != np.int8 or codes.min(initial=0) < -127:
            return
        rows = np.broadcast_to(scale.reshape(len(value.array), -1)[k], len(codes))
        made[name] = Stored(np.ascontiguousarray(in_order("LSTM", codes)), in_order("LSTM", rows).astype(np.float32))
    low.draft.g.store[key] = Weights(made, {"weight_ih", "weight_hh"}, "int8")
