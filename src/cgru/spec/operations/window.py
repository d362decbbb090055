"""Operations that see a few frames at once: convolutions over time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

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
    register,
    timed,
)
from ..values import Value


@register
class Conv1d(Operation):
    """φ(b + Σ_k W_k x[t·stride − left + k·dilation]): cross-correlation over time, as torch.nn.Conv1d has it.

    weight (O, I / groups, K), bias (O,). Output channel o reads the inputs of its group alone; ``groups`` = I is a
    depthwise convolution. ``left`` and ``right`` are frames of zeros put around the sequence.
    """

    name = "conv1d"
    options: ClassVar[Mapping[str, Option]] = {
        "units": Option(int, ..., at_least(1)),
        "width": Option(int, ..., at_least(1)),
        "stride": Option(int, 1, at_least(1)),
        "dilation": Option(int, 1, at_least(1)),
        "groups": Option(int, 1, at_least(1)),
        "left": Option(int, 0, at_least(0)),
        "right": Option(int, 0, at_least(0)),
        "activation": Option(str, "linear", tuple(ACTIVATIONS)),
    }

    def infer(self, options: Options, inputs: Sequence[Value | None], where: str) -> Value:
        value = timed(features(inputs[0], where, axes=1), where)
        channels, groups, units = value.features[0], options["groups"], options["units"]
        if channels % groups or units % groups:
            raise ShapeError(f"{where}: {channels} channels in and {units} out do not split into {groups} groups")
        assert value.clock is not None
        return Value((units,), value.clock.then(*self.window(options).clock_map()))

    def window(self, options: Options) -> Window:
        span = (options["width"] - 1) * options["dilation"] + 1
        return Window(span, options["stride"], options["left"], options["right"])

    def arrays(self, options: Options, inputs: Sequence[Value | None]) -> dict[str, ArrayInfo]:
        value = inputs[0]
        assert value is not None
        units = options["units"]
        shape = (units, value.features[0] // options["groups"], options["width"])
        return {"weight": ArrayInfo(shape, matrix=True), "bias": ArrayInfo((units,), optional=True)}

    def compute(self, options: Options, inputs: Sequence[Any], arrays: Mapping[str, Array]) -> Array:
        frames: Frames = inputs[0]
        weight, groups = arrays["weight"], options["groups"]
        windows = strided_windows(frames.data, self.window(options))[..., :: options["dilation"]]  # (B, n, I, K)
        batch, count, channels, width = windows.shape
        split = windows.reshape(batch, count, groups, (channels // groups) * width)
        kernel = weight.reshape(groups, weight.shape[0] // groups, -1)
        y = np.einsum("bngi,goi->bngo", split, kernel, optimize=True).reshape(batch, count, weight.shape[0])
        if "bias" in arrays:
            y = y + arrays["bias"]
        return ACTIVATIONS[options["activation"]](y)


def strided_windows(data: Array, window: Window) -> Array:
    """(B, n, *features) → (B, m, *features, span): every stride-th window of frames."""
    if data.shape[1] < window.span:
        return np.empty((data.shape[0], 0, *data.shape[2:], window.span), data.dtype)
    return sliding_window_view(data, window.span, axis=1)[:, :: window.stride]
