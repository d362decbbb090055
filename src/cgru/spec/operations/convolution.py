"""Convolutions over frames and the inner axes of a frame at once, and transposed ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from ...errors import ShapeError
from ..activations import ACTIVATIONS
from ..operation import (
    Array,
    ArrayInfo,
    Frames,
    Operation,
    Option,
    Options,
    Window,
    at_least,
    features,
    positive_sizes,
    register,
    timed,
)
from ..values import Value
from .inner import ConvInner, ConvTransposeInner, whole_numbers

_INNER: Mapping[str, Option] = {
    "kernel": Option(tuple, (), positive_sizes),
    "strides": Option(tuple, (), positive_sizes),
    "dilations": Option(tuple, (), positive_sizes),
    "pads": Option(tuple, (), whole_numbers(0)),
    "groups": Option(int, 1, at_least(1)),
    "activation": Option(str, "linear", tuple(ACTIVATIONS)),
}


def _with_time(options: Options, time: Mapping[str, int | tuple[int, int]]) -> dict[str, Any]:
    """The options of a convolution over inner axes of which time is the first; what is left out is 1 or 0."""
    axes = len(options["kernel"])
    inner = {key: options[key] or (1,) * axes for key in ("strides", "dilations")}
    pads = options["pads"] or (0,) * (2 * axes)
    front, back = time.get("pads", (0, 0))  # type: ignore[misc]
    return {
        "units": options["units"],
        "groups": options["groups"],
        "activation": options["activation"],
        "kernel": (time["width"], *options["kernel"]),
        "strides": (time["stride"], *inner["strides"]),
        "dilations": (time["dilation"], *inner["dilations"]),
        "pads": (front, *pads[:axes], back, *pads[axes:]),
    }


def _as_inner(frames: Frames) -> Array:
    """(B, n, C, *S) → (B, 1, C, n, *S): time as the first inner axis."""
    return np.moveaxis(np.asarray(frames.data), 1, 2)[:, None]


@register
class Conv2d(Operation):
    """φ(b + cross-correlation over frames and the inner axes of (C, *S)): torch.nn.Conv2d whose first axis is time.

    weight (O, C / groups, width, *kernel), bias (O,). Along time ``width``, ``stride``, ``dilation``, ``left`` and
    ``right`` are conv1d's; along the inner axes ``kernel``, ``strides``, ``dilations`` and ``pads`` are conv_inner's.
    """

    name = "conv2d"
    options: ClassVar[Mapping[str, Option]] = {
        "units": Option(int, ..., at_least(1)),
        "width": Option(int, ..., at_least(1)),
        "stride": Option(int, 1, at_least(1)),
        "dilation": Option(int, 1, at_least(1)),
        "left": Option(int, 0, at_least(0)),
        "right": Option(int, 0, at_least(0)),
        **_INNER,
    }

    def infer(self, options: Options, inputs: Sequence[Value | None], where: str) -> Value:
        value = timed(features(inputs[0], where, axes=1 + len(options["kernel"])), where)
        assert value.clock is not None
        window = self.window(options)
        inner = value.with_features(value.features[0], window.span, *value.features[1:])
        made = ConvInner().infer(self._inner(options), [inner], where)
        return Value((made.features[0], *made.features[2:]), value.clock.then(*window.clock_map()))

    @staticmethod
    def _inner(options: Options) -> dict[str, Any]:
        return _with_time(options, {key: options[key] for key in ("width", "stride", "dilation")})

    def window(self, options: Options) -> Window:
        span = (options["width"] - 1) * options["dilation"] + 1
        return Window(span, options["stride"], options["left"], options["right"])

    def arrays(self, options: Options, inputs: Sequence[Value | None]) -> dict[str, ArrayInfo]:
        value = inputs[0]
        assert value is not None
        shape = (options["units"], value.features[0] // options["groups"], options["width"], *options["kernel"])
        return {"weight": ArrayInfo(shape, matrix=True), "bias": ArrayInfo((options["units"],), optional=True)}

    def compute(self, options: Options, inputs: Sequence[Any], arrays: Mapping[str, Array]) -> Array:
        frames: Frames = inputs[0]
        count = frames.data.shape[1]
        short = self.window(options).span - count
        x = _as_inner(frames)
        if short > 0:  # nothing fits: one window over zeros, of which no frame is kept
            x = np.pad(x, [(0, 0)] * 3 + [(0, short)] + [(0, 0)] * (x.ndim - 4))
        y = np.moveaxis(ConvInner().compute(self._inner(options), [x], arrays)[:, 0], 2, 1)
        return y[:, :0] if short > 0 else y


@register
class ConvTranspose(Operation):
    """φ(b + transposed convolution over frames and inner axes of (C, *S)): torch.nn.ConvTranspose1d, 2d.

    weight (C, O / groups, width, *kernel), bias (O,). Frame i adds its kernel at the result's frames i · stride + k ·
    dilation. ``stride`` result frames come of every input frame, and of ``right`` frames of zeros put behind the
    sequence, where the last kernels end; ``pad_time`` crops what is too many. Along the inner axes ``kernel``,
    ``strides``, ``dilations``, ``pads`` and ``extra`` are conv_transpose_inner's.
    """

    name = "conv_transpose"
    options: ClassVar[Mapping[str, Option]] = {
        "units": Option(int, ..., at_least(1)),
        "width": Option(int, ..., at_least(1)),
        "stride": Option(int, 1, at_least(1)),
        "dilation": Option(int, 1, at_least(1)),
        "right": Option(int, 0, at_least(0)),
        "extra": Option(tuple, (), whole_numbers(0)),
        **_INNER,
    }

    def infer(self, options: Options, inputs: Sequence[Value | None], where: str) -> Value:
        value = timed(features(inputs[0], where, axes=1 + len(options["kernel"])), where)
        assert value.clock is not None
        window = self.window(options)
        if options["right"] > window.span - 1:
            raise ShapeError(
                f"{where}: right is {options['right']}, and kernels of {options['width']} frames end within "
                f"{window.span - 1} frames behind the sequence"
            )
        inner = value.with_features(value.features[0], window.span, *value.features[1:])
        made = ConvTransposeInner().infer(self._inner(options), [inner], where)
        return Value((made.features[0], *made.features[2:]), value.clock.then(*window.clock_map()))

    def _inner(self, options: Options) -> dict[str, Any]:
        """With time cut so that ``stride`` frames are left of each window."""
        stride, span = options["stride"], (options["width"] - 1) * options["dilation"] + 1
        more = max(0, stride - span)
        front = (self.window(options).span - 1) * stride
        time = {"width": options["width"], "stride": stride, "dilation": options["dilation"]}
        made = _with_time(options, time | {"pads": (front, span + more - stride)})
        return made | {"extra": (more, *(options["extra"] or (0,) * len(options["kernel"])))}

    def window(self, options: Options) -> Window:
        span = -(-((options["width"] - 1) * options["dilation"] + 1) // options["stride"])
        return Window(span, 1, span - 1, options["right"], options["stride"])

    def arrays(self, options: Options, inputs: Sequence[Value | None]) -> dict[str, ArrayInfo]:
        value = inputs[0]
        assert value is not None
        shape = (value.features[0], options["units"] // options["groups"], options["width"], *options["kernel"])
        return {"weight": ArrayInfo(shape, matrix=True), "bias": ArrayInfo((options["units"],), optional=True)}

    def compute(self, options: Options, inputs: Sequence[Any], arrays: Mapping[str, Array]) -> Array:
        frames: Frames = inputs[0]
        count = frames.data.shape[1]
        short = self.window(options).span - count
        x = _as_inner(frames)
        if short > 0:
            x = np.pad(x, [(0, 0)] * 3 + [(0, short)] + [(0, 0)] * (x.ndim - 4))
        y = np.moveaxis(ConvTransposeInner().compute(self._inner(options), [x], arrays)[:, 0], 2, 1)
        return y[:, :0] if short > 0 else y
