"""Operations on windows of frames, on the axes inside a frame and on whole sequences, as ONNX' operators."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ...spec.graph import Node
from .onnx_pointwise import activated
from .onnx_writer import BEGIN, END, Writer, refused, writes


def _weights(w: Writer, node: Node) -> list[str]:
    arrays = w.arrays(node)
    return [w.numbers(arrays[key], node) for key in ("weight", "bias") if key in arrays]


def _channels_first(w: Writer, node: Node, x: str, inner: int) -> str:
    """(B, T, C, *S) → (B, C, T, *S)."""
    return w.turned(x, [0, 2, 1, *range(3, 3 + inner)], node)


# Inside a frame -------------------------------------------------------------------------------------------------------


def _of_frames(w: Writer, node: Node, x: str) -> str:
    """(B, T, *F) → (B · T, *F); a value without time is that already."""
    if w.front(node.inputs[0]) == 1:
        return x
    return w.reshaped(x, [-1, *w.features(node.inputs[0])], node)


def _in_frames(w: Writer, node: Node, y: str, x: str) -> str:
    if w.front(node.inputs[0]) == 1:
        return y
    return w.shaped_like(y, x, 2, w.features(node.name), node)


@writes("conv_inner")
def _conv_inner(w: Writer, node: Node, inputs: list[str]) -> str:
    o = node.options
    y = w.step("Conv", [_of_frames(w, node, inputs[0]), *_weights(w, node)], node, kernel_shape=o["kernel"],
               strides=o["strides"], dilations=o["dilations"], group=o["groups"], pads=o["pads"])  # fmt: skip
    return activated(w, node, _in_frames(w, node, y, inputs[0]), o["activation"])


@writes("conv_transpose_inner")
def _conv_transpose_inner(w: Writer, node: Node, inputs: list[str]) -> str:
    o = node.options
    y = w.step("ConvTranspose", [_of_frames(w, node, inputs[0]), *_weights(w, node)], node, kernel_shape=o["kernel"],
               strides=o["strides"], dilations=o["dilations"], group=o["groups"], pads=o["pads"],
               output_padding=o["extra"])  # fmt: skip
    return activated(w, node, _in_frames(w, node, y, inputs[0]), o["activation"])


@writes("pool_inner")
def _pool_inner(w: Writer, node: Node, inputs: list[str]) -> str:
    o = node.options
    average = o["kind"] == "average"
    if average and any(n > 1 for n in o["dilations"]):
        raise refused(node, "a dilated average")
    more = {"count_include_pad": int(o["count_padding"])} if average else {"dilations": o["dilations"]}
    y = w.step("AveragePool" if average else "MaxPool", [_of_frames(w, node, inputs[0])], node,
               kernel_shape=o["kernel"], strides=o["strides"], pads=o["pads"], **more)  # fmt: skip
    return _in_frames(w, node, y, inputs[0])


@writes("group_norm")
def _group_norm(w: Writer, node: Node, inputs: list[str]) -> str:
    """Groups as the channels of an InstanceNormalization; over time, with the frames behind the channels."""
    if any(inputs[1:]):
        raise refused(node, "normalisation under a mask")
    o, features, arrays = node.options, w.features(node.name), w.arrays(node)
    groups, over_time = o["groups"], o["over_time"]
    x = _channels_first(w, node, inputs[0], len(features) - 1) if over_time else _of_frames(w, node, inputs[0])
    flat = w.reshaped(x, [0 if over_time else -1, groups, -1 if over_time else int(np.prod(features)) // groups], node)
    one, zero = w.numbers(np.ones(groups), node), w.numbers(np.zeros(groups), node)
    y = w.step("InstanceNormalization", [flat, one, zero], node, epsilon=float(o["epsilon"]))
    if over_time:
        y = w.step("Reshape", [y, w.step("Shape", [x], node)], node)
        y = _channels_first(w, node, y, len(features) - 1)
    else:
        y = _in_frames(w, node, y, inputs[0]) if w.front(node.inputs[0]) == 2 else w.reshaped(y, [0, *features], node)
    shape = (len(arrays.get("weight", arrays.get("bias", ()))), *[1] * (len(features) - 1))
    for key, op in (("weight", "Mul"), ("bias", "Add")):
        if key in arrays:
            y = w.step(op, [y, w.numbers(arrays[key].reshape(shape), node)], node)
    return y


# Over time ------------------------------------------------------------------------------------------------------------


@writes("conv1d", "conv2d")
def _conv(w: Writer, node: Node, inputs: list[str]) -> str:
    o = node.options
    inner = len(w.features(node.inputs[0])) - 1
    ones, zeros = (1,) * inner, (0,) * inner
    pads = o.get("pads") or zeros * 2
    y = w.step(
        "Conv", [_channels_first(w, node, inputs[0], inner), *_weights(w, node)], node,
        kernel_shape=[o["width"], *(o.get("kernel") or ())], strides=[o["stride"], *(o.get("strides") or ones)],
        dilations=[o["dilation"], *(o.get("dilations") or ones)], group=o["groups"],
        pads=[o["left"], *pads[:inner], o["right"], *pads[inner:]],
    )  # fmt: skip
    return activated(w, node, _channels_first(w, node, y, inner), o["activation"])


@writes("conv_transpose")
def _conv_transpose(w: Writer, node: Node, inputs: list[str]) -> str:
    """As many frames as the stride for each of the input's, and of those of zeros behind it."""
    o = node.options
    inner = len(w.features(node.inputs[0])) - 1
    ones, zeros = (1,) * inner, (0,) * inner
    x = _padded(w, node, inputs[0], 0, o["right"], 1 + inner) if o["right"] else inputs[0]
    span, pads = (o["width"] - 1) * o["dilation"] + 1, o["pads"] or zeros * 2
    y = w.step(
        "ConvTranspose", [_channels_first(w, node, x, inner), *_weights(w, node)], node,
        kernel_shape=[o["width"], *o["kernel"]], strides=[o["stride"], *(o["strides"] or ones)],
        dilations=[o["dilation"], *(o["dilations"] or ones)], group=o["groups"],
        pads=[0, *pads[:inner], 0, *pads[inner:]],
        output_padding=[max(0, o["stride"] - span), *(o["extra"] or zeros)],
    )  # fmt: skip
    if span > o["stride"]:
        y = w.sliced(y, node, 2, 0, o["stride"] - span)
    return activated(w, node, _channels_first(w, node, y, inner), o["activation"])


def _padded(w: Writer, node: Node, x: str, left: int, right: int, rest: int, mode: str = "constant") -> str:
    """(B, T, …) with frames around, or with some cut off."""
    if left < 0 or right < 0:
        x = w.sliced(x, node, 1, max(0, -left), END if right >= 0 else right)
        left, right = max(0, left), max(0, right)
    if not left and not right:
        return x
    return w.step("Pad", [x, w.sizes([0, left, *[0] * rest, 0, right, *[0] * rest], node)], node, mode=mode)


@writes("pad_time")
def _pad_time(w: Writer, node: Node, inputs: list[str]) -> str:
    o = node.options
    if o["mode"] == "wrap":
        raise refused(node, "padding by the sequence gone round")
    return _padded(w, node, inputs[0], o["left"], o["right"], len(w.features(node.name)), o["mode"])


@writes("stack_frames")
def _stack_frames(w: Writer, node: Node, inputs: list[str]) -> str:
    o = node.options
    span = (o["width"] - 1) * o["dilation"] + 1
    x = _padded(w, node, inputs[0], o["left"], o["right"], len(w.features(node.inputs[0])))
    parts = []
    for k in range(o["width"]):
        first = k * o["dilation"]
        part = w.sliced(x, node, 1, first, END if first == span - 1 else first + 1 - span, o["stride"])
        parts.append(w.step("Unsqueeze", [part, w.sizes([2], node)], node))
    return w.emit("Concat", parts, node.name, axis=2)


@writes("pool")
def _pool(w: Writer, node: Node, inputs: list[str]) -> str:
    o, features = node.options, list(w.features(node.name))
    average = o["kind"] == "average"
    more = {"count_include_pad": int(o["count_padding"])} if average else {}
    flat = w.turned(w.reshaped(inputs[0], [0, 0, -1], node), [0, 2, 1], node)
    y = w.step("AveragePool" if average else "MaxPool", [flat], node, kernel_shape=[o["width"]],
               strides=[o["stride"]], pads=[o["left"], o["right"]], **more)  # fmt: skip
    return w.reshaped(w.turned(y, [0, 2, 1], node), [0, 0, *features], node)


@writes("upsample")
def _upsample(w: Writer, node: Node, inputs: list[str]) -> str:
    features = list(w.features(node.name))
    apart = w.step("Unsqueeze", [inputs[0], w.sizes([2], node)], node)
    repeated = w.step("Expand", [apart, w.sizes([1, 1, node.options["factor"], *[1] * len(features)], node)], node)
    return w.reshaped(repeated, [0, -1, *features], node)


@writes("expand_time")
def _expand_time(w: Writer, node: Node, inputs: list[str]) -> str:
    x, like = inputs
    frames = w.shape(like, node, 0 if w.is_constant(node.inputs[0]) else 1, 2)
    ones = [1] * len(w.features(node.name))
    parts = [frames, w.sizes(ones, node)] if w.is_constant(node.inputs[0]) else [
        w.sizes([1], node), frames, w.sizes(ones, node)
    ]  # fmt: skip
    apart = w.step("Unsqueeze", [x, w.sizes([1], node)], node)
    return w.emit("Expand", [apart, w.step("Concat", parts, node, axis=0)], node.name)


# The whole sequence ---------------------------------------------------------------------------------------------------


@writes("pool_whole")
def _pool_whole(w: Writer, node: Node, inputs: list[str]) -> str:
    kind, x = node.options["kind"], inputs[0]
    if any(inputs[1:]):
        raise refused(node, "one frame of those that a mask leaves")
    if kind in ("last", "first"):
        return w.emit("Gather", [x, w.sizes(-1 if kind == "last" else 0, node)], node.name, axis=1)
    if kind == "sum":
        return w.emit("ReduceSum", [x, w.sizes([1], node)], node.name, keepdims=0)
    if kind != "variance":
        op = {"mean": "ReduceMean", "max": "ReduceMax", "min": "ReduceMin"}[kind]
        return w.emit(op, [x], node.name, axes=[1], keepdims=0)
    centred = w.step("Sub", [x, w.step("ReduceMean", [x], node, axes=[1], keepdims=1)], node)
    squares = w.step("ReduceSumSquare", [centred], node, axes=[1], keepdims=0)
    frames = w.step("Cast", [w.shape(x, node, 1, 2)], node, to=1)
    fewer = w.step("Sub", [frames, w.numbers(node.options["correction"], node)], node)
    return w.emit("Div", [squares, w.step("Max", [fewer, w.numbers(1, node)], node)], node.name)


@writes("softmax_time")
def _softmax_time(w: Writer, node: Node, inputs: list[str]) -> str:
    if any(inputs[1:]):
        raise refused(node, "softmax over the frames that a mask leaves")
    return w.emit("Softmax", inputs[:1], node.name, axis=1)


@writes("reverse_time")
def _reverse_time(w: Writer, node: Node, inputs: list[str]) -> str:
    return w.sliced(inputs[0], node, 1, -1, BEGIN, -1)


@writes("fold_time")
def _fold_time(w: Writer, node: Node, inputs: list[str]) -> str:
    """A Reshape that only a sequence of as many frames fits, of the last of them where there may be more."""
    if node.options["last"]:
        inputs = [w.sliced(inputs[0], node, 1, -node.options["frames"], END, 1)]
    return w.reshaped(inputs[0], [0, *w.features(node.name)], node)


@writes("pad_same")
def _pad_same(w: Writer, node: Node, inputs: list[str]) -> str:
    """TensorFlow's padding, from how many frames there are."""
    o, x = node.options, inputs[0]
    rest = len(w.features(node.name))

    def op(name: str, a: str, b: int) -> str:
        return w.step(name, [a, w.sizes([b], node)], node)

    frames = w.shape(x, node, 1, 2)
    windows = op("Div", op("Add", frames, o["stride"] - 1), o["stride"])
    full = op("Add", op("Mul", op("Sub", windows, 1), o["stride"]), o["span"])
    missing = op("Max", w.step("Sub", [full, frames], node), 0)
    front = op("Div", missing, 2)
    zeros = w.sizes([0] * rest, node)
    behind = w.step("Sub", [missing, front], node)
    pads = w.step("Concat", [w.sizes([0], node), front, zeros, w.sizes([0], node), behind, zeros], node, axis=0)
    padded = w.step("Pad", [x, pads, w.numbers(o["value"], node)], node)
    return w.emit("Slice", [padded, w.sizes([0], node), full, w.sizes([1], node)], node.name)


@writes("attend")
def _attend(w: Writer, node: Node, inputs: list[str]) -> str:
    if any(inputs[3:]):
        raise refused(node, "attention under a mask")
    query, key, value = inputs[:3]
    scores = _scores(w, node, query, key)
    if node.options["causal"]:
        shape = w.step("Concat", [w.shape(query, node, 1, 2), w.shape(key, node, 1, 2)], node, axis=0)
        shown = w.step("Trilu", [w.step("Expand", [w.numbers(1, node), shape], node)], node, upper=0)
        seen = w.step("Cast", [shown], node, to=9)
        scores = w.step("Where", [seen, scores, w.numbers(-np.inf, node)], node)
    return w.emit("MatMul", [w.step("Softmax", [scores], node, axis=-1), value], node.name)


@writes("attend_weights")
def _attend_weights(w: Writer, node: Node, inputs: list[str]) -> str:
    if any(inputs[2:]):
        raise refused(node, "attention under a mask")
    weights = w.step("Softmax", [_scores(w, node, inputs[0], inputs[1])], node, axis=-1)
    # Zeros behind the frames that there are.
    rest = w.step("Sub", [w.sizes([node.options["limit"]], node), w.shape(inputs[1], node, 1, 2)], node)
    pads = w.step("Concat", [w.sizes([0] * 5, node), rest], node, axis=0)
    return w.emit("Pad", [weights, pads], node.name)


def _scores(w: Writer, node: Node, query: str, key: str) -> str:
    if node.options["kind"] == "dot":
        product = w.step("MatMul", [query, w.turned(key, [0, 2, 1], node)], node)
        return w.step("Mul", [product, w.numbers(node.options["factor"], node)], node)
    arrays = w.arrays(node)

    def apart(x: str, axis: int) -> str:
        return w.step("Unsqueeze", [x, w.sizes([axis], node)], node)

    both = w.step("Add", [apart(query, 2), apart(key, 1)], node)
    inside = w.step("Tanh", [w.step("Mul", [both, w.numbers(arrays["inner"], node)], node)], node)
    return w.step("Squeeze", [w.step("MatMul", [inside, w.numbers(_column(arrays["outer"]), node)], node),
                              w.sizes([-1], node)], node)  # fmt: skip


def _column(array: Sequence[float] | np.ndarray) -> np.ndarray:
    return np.asarray(array).reshape(-1, 1)
