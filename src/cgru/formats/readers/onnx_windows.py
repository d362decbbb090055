"""ONNX' convolutions and pooling: over time, inside a frame, and over both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ...errors import FormatError
from ..containers.onnx_records import Node
from .onnx_arithmetic import output_name
from .onnx_draft import plain_axes
from .onnx_framing import unmixed
from .onnx_lowering import Lowering, handles
from .onnx_values import BATCH, TIME, Atom, Tensor, Value


def _window(low: Lowering, node: Node, sizes: Sequence[Any], kernel: Sequence[int]) -> dict[str, tuple[int, ...]]:
    """Strides, dilations and pads of a window; ``auto_pad`` worked out where the sizes are known."""
    axes = len(kernel)
    strides = tuple(node.attributes.get("strides", (1,) * axes))
    dilations = tuple(node.attributes.get("dilations", (1,) * axes))
    pads = tuple(node.attributes.get("pads", (0,) * (2 * axes)))
    auto = node.attributes.get("auto_pad", "NOTSET")
    if auto == "VALID":
        pads = (0,) * (2 * axes)
    elif auto in ("SAME_UPPER", "SAME_LOWER"):
        begin, end = [], []
        for size, k, stride, dilation in zip(sizes, kernel, strides, dilations, strict=True):
            span = (k - 1) * dilation + 1
            if stride == 1:
                total = span - 1
            elif isinstance(size, int):
                total = max(0, (-(-size // stride) - 1) * stride + span - size)
            else:
                raise low.unsupported(
                    node, f"{auto} with a stride along time: how much is padded hangs on the number of frames"
                )
            begin.append(total // 2 if auto == "SAME_UPPER" else total - total // 2)
            end.append(total - begin[-1])
        pads = (*begin, *end)
    elif auto != "NOTSET":
        raise FormatError(f"{node}: auto_pad {auto!r}")
    if not len(strides) == len(dilations) == axes or len(pads) != 2 * axes:
        raise FormatError(f"{node}: strides, dilations and pads do not fit a kernel of {axes} axes")
    return {"kernel": tuple(kernel), "strides": strides, "dilations": dilations, "pads": pads}


class Spatial:
    """x (N, C, *S) of a convolution or pooling: which spatial axis is time, and x as a frame (C, *inner)."""

    def __init__(self, low: Lowering, node: Node, x: Tensor) -> None:
        x = unmixed(low, x)
        self.low, self.node, self.x = low, node, x
        self.groups = plain_axes(low.draft, x, str(node))
        if x.rank < 3:
            raise FormatError(f"{node}: {x.rank} axes; expected rows, channels and at least one more")
        if self.groups[0] or any(isinstance(atom, str) for atom in x.axes[1]):
            raise low.unsupported(node, "its first axis is not that of rows, or its second not that of channels")
        timed = [axis for axis in range(2, x.rank) if TIME in x.axes[axis]]
        if any(BATCH in x.axes[axis] for axis in range(2, x.rank)):
            raise low.unsupported(node, "a window over the axis of rows")
        self.time = timed[0] - 2 if timed else None
        self.sizes = low.draft.shape(x)[2:]

    def frame(self) -> str:
        """(C, *inner): the feature axes without time."""
        kept = [group for axis, group in enumerate(self.groups) if axis == 1 or (axis > 1 and axis - 2 != self.time)]
        return self.low.draft.arranged(self.x, kept)

    def result(self, name: str, lead: int = 1) -> Tensor:
        """A frame (O, *inner) under the axes of x."""
        axes: list[tuple[Atom, ...]] = [tuple(a for a in self.x.axes[0] if isinstance(a, str)), (0,)]
        place = lead
        for axis in range(2, self.x.rank):
            if axis - 2 == self.time:
                axes.append((TIME,))
            else:
                axes.append((place,))
                place += 1
        return Tensor(name, tuple(axes))


def _weights(low: Lowering, node: Node, inputs: list[Value | None]) -> dict[str, np.ndarray]:
    weights = {"weight": low.known(inputs[1], node, "the kernel")}
    if len(inputs) > 2 and inputs[2] is not None:
        weights["bias"] = low.known(inputs[2], node, "the bias")
    return weights


@handles("Conv")
def _conv(low: Lowering, node: Node, inputs: list[Value | None]) -> Value:
    space = Spatial(low, node, low.tensor(inputs[0], node))
    weights = _weights(low, node, inputs)
    weight = weights["weight"]
    if weight.ndim != space.x.rank:
        raise FormatError(f"{node}: a kernel of {weight.ndim} axes for {space.x.rank}")
    window = _window(low, node, space.sizes, weight.shape[2:])
    options = {"units": weight.shape[0], "groups": int(node.attributes.get("group", 1))}
    frame, name, axes = space.frame(), output_name(node), weight.ndim - 2
    if space.time is None:
        return space.result(low.draft.emit("conv_inner", frame, weights=weights, name=name, **options, **window))
    t = space.time
    along = {
        "stride": window["strides"][t], "dilation": window["dilations"][t],
        "left": window["pads"][t], "right": window["pads"][axes + t],
    }  # fmt: skip
    if axes == 1:
        made = low.draft.emit("conv1d", frame, width=weight.shape[2], weights=weights, name=name, **options, **along)
        return space.result(made)
    return space.result(_conv_stacked(low, node, frame, t, along, window, weights, options))


def _conv_stacked(
    low: Lowering,
    node: Node,
    frame: str,
    t: int,
    along: Mapping[str, Any],
    window: Mapping[str, tuple[int, ...]],
    weights: Mapping[str, np.ndarray],
    options: Mapping[str, Any],
) -> str:
    """A convolution over time and inner axes: the frames of its window beside each other, then one inside a frame."""
    draft, axes = low.draft, len(window["kernel"])
    width = window["kernel"][t]
    stacked = draft.emit("stack_frames", frame, width=width, **along)
    count = len(draft.type(stacked).features)
    # (K, C, *inner) → (C, K, *inner): the window is the first inner axis.
    turned = draft.emit("transpose", stacked, order=(1, 0, *range(2, count)))
    order = [t, *(axis for axis in range(axes) if axis != t)]

    def reordered(values: tuple[int, ...], first: int) -> tuple[int, ...]:
        return (first, *(values[axis] for axis in order[1:]))

    pads = window["pads"]
    inner = {
        "kernel": reordered(window["kernel"], width),
        "strides": reordered(window["strides"], 1),
        "dilations": reordered(window["dilations"], 1),
        "pads": (*reordered(pads[:axes], 0), *reordered(pads[axes:], 0)),
    }
    kernel = np.moveaxis(weights["weight"], 2 + t, 2)
    arrays = {**weights, "weight": np.ascontiguousarray(kernel)}
    made = draft.emit("conv_inner", turned, weights=arrays, name=output_name(node), **options, **inner)
    features = draft.type(made).features
    return draft.emit("reshape", made, features=(features[0], *features[2:]))


@handles("ConvTranspose")
def _conv_transpose(low: Lowering, node: Node, inputs: list[Value | None]) -> Value:
    space = Spatial(low, node, low.tensor(inputs[0], node))
    weights = _weights(low, node, inputs)
    weight = weights["weight"]
    axes, groups = weight.ndim - 2, int(node.attributes.get("group", 1))
    plain = {key: item for key, item in node.attributes.items() if key != "auto_pad"}
    window = _window(low, replace(node, attributes=plain), space.sizes, weight.shape[2:])
    extra = tuple(node.attributes.get("output_padding", (0,) * axes))
    auto, wanted = node.attributes.get("auto_pad", "NOTSET"), node.attributes.get("output_shape")
    if space.time is not None:
        return _transposed_over_time(low, node, space, weights, window, extra, groups)
    if wanted is not None or auto in ("SAME_UPPER", "SAME_LOWER"):
        begin, end = [], []
        for i, size in enumerate(space.sizes):
            span = (weight.shape[2 + i] - 1) * window["dilations"][i] + 1
            target = wanted[i - axes] if wanted is not None else size * window["strides"][i]
            total = max(0, window["strides"][i] * (size - 1) + extra[i] + span - target)
            begin.append(total // 2 if auto == "SAME_UPPER" else total - total // 2)
            end.append(total - begin[-1])
            if wanted is not None and window["strides"][i] * (size - 1) + extra[i] + span < target:
                raise low.unsupported(node, "an output_shape larger than what the kernels reach")
        window["pads"] = (*begin, *end)
    options = {"units": weight.shape[1] * groups, "groups": groups, "extra": extra}
    made = low.draft.emit(
        "conv_transpose_inner", space.frame(), weights=weights, name=output_name(node), **options, **window
    )
    return space.result(made)


def _transposed_over_time(
    low: Lowering,
    node: Node,
    space: Spatial,
    weights: Mapping[str, np.ndarray],
    window: Mapping[str, tuple[int, ...]],
    extra: Sequence[int],
    groups: int,
) -> Tensor:
    """Stride result frames of each of the input's; the operator's pads crop what is too many."""
    t, axes = space.time, len(window["kernel"])
    assert t is not None
    if "output_shape" in node.attributes or node.attributes.get("auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
        raise low.unsupported(node, "a transposed convolution over time whose size is said, not its pads")
    inner = [axis for axis in range(axes) if axis != t]
    width, stride, dilation = window["kernel"][t], window["strides"][t], window["dilations"][t]
    span = (width - 1) * dilation + 1
    first, last = window["pads"][t], window["pads"][axes + t]
    # Frames that are wanted behind the first of the last input frame; they end within the kernel, or a stride later.
    wanted = span + extra[t] - last
    right = min(max(0, -(-wanted // stride) - 1), -(-span // stride) - 1)
    if wanted > stride * (right + 1):
        raise low.unsupported(node, "more frames behind a sequence than the kernels reach")
    kernel = np.ascontiguousarray(np.moveaxis(weights["weight"], 2 + t, 2))
    pads = window["pads"]
    made = low.draft.emit(
        "conv_transpose", space.frame(), units=weights["weight"].shape[1] * groups, width=width, stride=stride,
        dilation=dilation, right=right, groups=groups, weights={**weights, "weight": kernel}, name=output_name(node),
        extra=tuple(extra[axis] for axis in inner), kernel=tuple(window["kernel"][axis] for axis in inner),
        strides=tuple(window["strides"][axis] for axis in inner),
        dilations=tuple(window["dilations"][axis] for axis in inner),
        pads=(*(pads[axis] for axis in inner), *(pads[axes + axis] for axis in inner)),
    )  # fmt: skip
    if first or wanted != stride * (right + 1):
        made = low.draft.emit("pad_time", made, left=-first, right=wanted - stride * (right + 1))
    return space.result(made)


@handles("MaxPool", "AveragePool")
def _pool(low: Lowering, node: Node, inputs: list[Value | None]) -> Value:
    if any(node.outputs[1:]):
        raise low.unsupported(node, "where the largest numbers are")
    space = Spatial(low, node, low.tensor(inputs[0], node))
    window = _window(low, node, space.sizes, node.attributes["kernel_shape"])
    kind = "max" if node.op == "MaxPool" else "average"
    if node.attributes.get("ceil_mode"):
        window["pads"] = _ceiled(low, node, space, window, kind)
    options = {"kind": kind, "count_padding": bool(node.attributes.get("count_include_pad", 0))}
    if space.time is None:
        return space.result(low.draft.emit("pool_inner", space.frame(), name=output_name(node), **options, **window))
    return space.result(_pooled_over_time(low, node, space, window, options))


def _pooled_over_time(
    low: Lowering, node: Node, space: Spatial, window: Mapping[str, tuple[int, ...]], options: Mapping[str, Any]
) -> str:
    """Windows over time and inner axes: the inner axes of each frame first, then frames.

    The largest of largest numbers is the largest. So it is with averages: the numbers that count in a window are all
    pairs of inner places and frames that do.
    """
    t, axes = space.time, len(window["kernel"])
    assert t is not None
    if window["dilations"][t] != 1:
        raise low.unsupported(node, "dilated pooling over time")
    inner = [i for i in range(axes) if i != t]
    frame = space.frame()
    plain = {"kernel": 1, "strides": 1, "dilations": 1, "pads": 0}
    picked: dict[str, Any] = {key: tuple(window[key][i] for i in inner) for key in ("kernel", "strides", "dilations")}
    picked["pads"] = tuple(window["pads"][at + i] for at in (0, axes) for i in inner)
    if any(item != plain[key] for key, items in picked.items() for item in items):
        frame = low.draft.emit("pool_inner", frame, **options, **picked)
    along = {
        "width": window["kernel"][t], "stride": window["strides"][t], "left": window["pads"][t],
        "right": window["pads"][axes + t],
    }  # fmt: skip
    if (along["width"], along["stride"]) == (1, 1):
        return frame
    return low.draft.emit("pool", frame, name=output_name(node), **options, **along)


def _ceiled(
    low: Lowering, node: Node, space: Spatial, window: Mapping[str, tuple[int, ...]], kind: str
) -> tuple[int, ...]:
    """Pads with which every window that begins among the numbers is there, though it ends beyond them."""
    if kind == "average":
        raise low.unsupported(node, "ceil_mode of averages")
    axes = len(window["kernel"])
    pads = list(window["pads"])
    for i, size in enumerate(space.sizes):
        span = (window["kernel"][i] - 1) * window["dilations"][i] + 1
        stride = window["strides"][i]
        if i == space.time:
            # Of any number of frames: with a stride's less one, none begins beyond them where the window is as wide.
            pads[axes + i] += stride - 1
            if pads[axes + i] >= span:
                raise low.unsupported(node, "ceil_mode over time with padding and stride as wide as the window")
            continue
        room = size + pads[i] + pads[axes + i] - span
        count = -(-room // stride) + 1
        if (count - 1) * stride >= size + pads[i]:
            count -= 1
        pads[axes + i] += max(0, (count - 1) * stride - room)
    return tuple(pads)
