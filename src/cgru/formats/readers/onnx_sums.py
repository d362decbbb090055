"""ONNX' CumSum, over time and inside a frame, and Range as long as a sequence."""

from __future__ import annotations

import numpy as np

from ...errors import FormatError
from ...spec.values import Clock
from ..containers.onnx_records import Node
from . import onnx_fold as fold
from .onnx_arithmetic import output_name
from .onnx_layers import dense
from .onnx_lowering import Lowering, handles
from .onnx_values import INDEX, TIME, Count, Known, Tensor, Unfolded, Value


@handles("CumSum")
def _cumulated(low: Lowering, node: Node, inputs: list[Value | None]) -> Value:
    x = low.tensor(inputs[0], node)
    axis = int(low.known(inputs[1], node, "the axis").reshape(-1)[0])
    if not -x.rank <= axis < x.rank:
        raise FormatError(f"{node}: axis {axis} of {x.rank}")
    axis %= x.rank
    exclusive, reverse = bool(node.attributes.get("exclusive", 0)), bool(node.attributes.get("reverse", 0))
    if low.draft.segments(x, axis) != [TIME]:
        size = low.draft.axis_size(x, axis)
        if not isinstance(size, int):
            raise low.unsupported(node, "sums over rows")
        fold.check_size([size, size])
        ones = np.ones((size, size), np.float32)
        matrix = np.tril(ones, -exclusive) if reverse else np.triu(ones, int(exclusive))
        return dense(low, node, x, axis, matrix)
    name = low.draft.emit("reverse_time", x.name) if reverse else x.name
    made = so_far(low, name, output_name(node))
    made = low.draft.emit("sub", made, name) if exclusive else made
    return Tensor(low.draft.emit("reverse_time", made) if reverse else made, x.axes, x.dtype)


def so_far(low: Lowering, name: str, wanted: str = "") -> str:
    """The sum of a value's frames up to each: a recurrence whose matrices are the identity."""
    features = low.draft.type(name).features
    size = int(np.prod(features))
    fold.check_size([size, size])
    one = np.eye(size, dtype=np.float32)
    flat = low.draft.emit("reshape", name, features=(size,)) if features != (size,) else name
    made = low.draft.emit(
        "scan", flat, weights={"weight_ih": one, "weight_hh": one}, cell="rnn", units=size, activation="linear",
        name=wanted,
    )  # fmt: skip
    return made if features == (size,) else low.draft.emit("reshape", made, features=features)


@handles("Range")
def _range(low: Lowering, node: Node, inputs: list[Value | None]) -> Value:
    """A number for each frame: start, start + delta, …"""
    given = [value for value in inputs if isinstance(value, Known) and value.array.size == 1]
    if len(given) != 3 or low.loops:
        raise low.unsupported(node, "a range whose bounds are computed from the input")
    start, limit, delta = (value.array.reshape(-1)[0] for value in given)
    if isinstance(start, Count) or isinstance(delta, Count):
        raise Unfolded
    count = (limit - start) // delta
    if not isinstance(count, Count) or len(count.symbols) != 1 or not isinstance(count.symbols[0], Clock):
        raise Unfolded
    like = low.of_clock(count.symbols[0].then(count.factor, count.offset, 1))
    steps = low.draft.emit("expand_time", low.draft.constant(np.array([delta])), like.name)
    name = so_far(low, steps, output_name(node))
    if start != delta:
        name = low.draft.emit("add", name, low.draft.constant(np.array([start - delta])))
    whole = not any(value.real or value.array.dtype.kind == "f" for value in given)
    return Tensor(name, ((TIME,),), INDEX if whole else "float32")
