"""Operations along the inner axes of a frame: (C, W) of a spectrum, (C, H, W) of an image, each frame by itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any, ClassVar

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from ...errors import ShapeError
from ..activations import ACTIVATIONS
from ..operation import Array, ArrayInfo, Operation, Option, Options, at_least, features, positive_sizes, register
from ..values import Value


def whole_numbers(low: int) -> Any:
    return lambda value: all(type(v) is int and low <= v <= 1 << 20 for v in value)


_KERNEL: Mapping[str, Option] = {
    "kernel": Option(tuple, ..., positive_sizes),
    "strides": Option(tuple, ..., positive_sizes),
    "dilations": Option(tuple, ..., positive_sizes),
    "pads": Option(tuple, ..., whole_numbers(0)),
}


def _axes(options: Options, value: Value, where: str, lead: int = 1) -> int:
    """The number of inner axes, with every option of as many numbers."""
    axes = len(options["kernel"])
    if (
        len(value.features) != axes + lead
        or len(options["strides"]) != axes
        or len(options["dilations"]) != axes
        or len(options["pads"]) != 2 * axes
    ):
        raise ShapeError(f"{where}: kernel, strides, dilations and pads do not fit the axes of {value.describe()}")
    return axes


def _spans(options: Options) -> list[int]:
    return [(k - 1) * d + 1 for k, d in zip(options["kernel"], options["dilations"], strict=True)]


def _slid(options: Options, sizes: Sequence[int], where: str) -> list[int]:
    """Positions of the window along each axis."""
    axes = len(sizes)
    made = []
    for i, span in enumerate(_spans(options)):
        room = sizes[i] + options["pads"][i] + options["pads"][axes + i] - span
        if room < 0:
            raise ShapeError(f"{where}: a window of {span} does not fit {sizes[i]} numbers along inner axis {i}")
        made.append(room // options["strides"][i] + 1)
    return made


def _windows(x: Array, options: Options, fill: float = 0.0) -> Array:
    """(B, n, C, *S) → (B, n, C, *S', *kernel)."""
    axes = len(options["kernel"])
    pads = options["pads"]
    padding = [(0, 0)] * 3 + [(pads[i], pads[axes + i]) for i in range(axes)]
    if any(pads):
        x = np.pad(x, padding, constant_values=fill)
    windows = sliding_window_view(x, _spans(options), axis=tuple(range(3, 3 + axes)))
    strides = tuple(slice(None, None, s) for s in options["strides"])
    dilations = tuple(slice(None, None, d) for d in options["dilations"])
    return windows[(slice(None),) * 3 + strides + dilations]


@register
class ConvInner(Operation):
    """φ(b + cross-correlation of a frame (C, *S) with weight (O, C / groups, *kernel)): torch.nn.Conv1d, 2d, 3d.

    ``pads`` are zeros before each inner axis, then behind each, as ONNX has them.
    """

    name = "conv_inner"
    options: ClassVar[Mapping[str, Option]] = {
        "units": Option(int, ..., at_least(1)),
        **_KERNEL,
        "groups": Option(int, 1, at_least(1)),
        "activation": Option(str, "linear", tuple(ACTIVATIONS)),
    }

    def infer(self, options: Options, inputs: Sequence[Value | None], where: str) -> Value:
        value = features(inputs[0], where)
        _axes(options, value, where)
        _check_groups(value.features[0], options, where)
        return value.with_features(options["units"], *_slid(options, value.features[1:], where))

    def arrays(self, options: Options, inputs: Sequence[Value | None]) -> dict[str, ArrayInfo]:
        value = inputs[0]
        assert value is not None
        shape = (options["units"], value.features[0] // options["groups"], *options["kernel"])
        return {"weight": ArrayInfo(shape, matrix=True), "bias": ArrayInfo((options["units"],), optional=True)}

    def compute(self, options: Options, inputs: Sequence[Any], arrays: Mapping[str, Array]) -> Array:
        weight, groups, axes = arrays["weight"], options["groups"], len(options["kernel"])
        windows = _windows(inputs[0], options)
        batch, frames, channels, *sizes = windows.shape[: 3 + axes]
        # (B, n, groups, positions, C / groups · kernel)
        windows = windows.reshape(batch, frames, groups, channels // groups, *windows.shape[3:])
        windows = np.moveaxis(windows, 3, 3 + axes)
        split = windows.reshape(batch, frames, groups, prod(sizes), channels // groups * prod(options["kernel"]))
        kernel = weight.reshape(groups, options["units"] // groups, -1)
        y = np.matmul(kernel, split.swapaxes(-1, -2)).reshape(batch, frames, options["units"], *sizes)
        if "bias" in arrays:
            y = y + arrays["bias"].reshape(-1, *[1] * axes)
        return ACTIVATIONS[options["activation"]](y)


def _check_groups(channels: int, options: Options, where: str) -> None:
    if channels % options["groups"] or options["units"] % options["groups"]:
        raise ShapeError(
            f"{where}: {channels} channels in and {options['units']} out do not split into {options['groups']} groups"
        )


@register
class ConvTransposeInner(Operation):
    """φ(b + transposed convolution of a frame (C, *S)), weight (C, O / groups, *kernel): torch.nn.ConvTranspose1d, 2d.

    Each input number adds its kernel at its own place, ``strides`` apart; ``pads`` numbers are cut off at the ends and
    ``extra`` zeros put behind each axis before that (torch's output_padding).
    """

    name = "conv_transpose_inner"
    options: ClassVar[Mapping[str, Option]] = {
        "units": Option(int, ..., at_least(1)),
        **_KERNEL,
        "extra": Option(tuple, ..., whole_numbers(0)),
        "groups": Option(int, 1, at_least(1)),
        "activation": Option(str, "linear", tuple(ACTIVATIONS)),
    }

    def infer(self, options: Options, inputs: Sequence[Value | None], where: str) -> Value:
        value = features(inputs[0], where)
        axes = _axes(options, value, where)
        _check_groups(value.features[0], options, where)
        if len(options["extra"]) != axes:
            raise ShapeError(f"{where}: extra must have {axes} numbers")
        sizes = [
            full - cut for full, cut in zip(self._full(options, value.features[1:]), self._cut(options), strict=True)
        ]
        if min(sizes) < 1:
            raise ShapeError(f"{where}: nothing is left of {value.describe()} after its pads")
        return value.with_features(options["units"], *sizes)

    @staticmethod
    def _full(options: Options, sizes: Sequence[int]) -> list[int]:
        spans = _spans(options)
        return [
            (n - 1) * s + span + e
            for n, s, span, e in zip(sizes, options["strides"], spans, options["extra"], strict=True)
        ]

    @staticmethod
    def _cut(options: Options) -> list[int]:
        axes = len(options["kernel"])
        return [options["pads"][i] + options["pads"][axes + i] for i in range(axes)]

    def arrays(self, options: Options, inputs: Sequence[Value | None]) -> dict[str, ArrayInfo]:
        value = inputs[0]
        assert value is not None
        shape = (value.features[0], options["units"] // options["groups"], *options["kernel"])
        return {"weight": ArrayInfo(shape, matrix=True), "bias": ArrayInfo((options["units"],), optional=True)}

    def compute(self, options: Options, inputs: Sequence[Any], arrays: Mapping[str, Array]) -> Array:
        (x,), weight, groups, axes = inputs, arrays["weight"], options["groups"], len(options["kernel"])
        batch, frames, channels, *sizes = x.shape
        split = x.reshape(batch, frames, groups, channels // groups, prod(sizes))
        kernel = weight.reshape(groups, channels // groups, -1)
        # (B, n, groups, O / groups · kernel, positions)
        products = np.matmul(kernel.swapaxes(-1, -2), split)
        products = products.reshape(batch, frames, options["units"], *options["kernel"], *sizes)
        full = self._full(options, sizes)
        y = np.zeros((batch, frames, options["units"], *full), x.dtype)
        for offset in np.ndindex(*options["kernel"]):
            where = tuple(
                slice(k * d, k * d + (n - 1) * s + 1, s)
                for k, d, n, s in zip(offset, options["dilations"], sizes, options["strides"], strict=True)
            )
            y[(slice(None),) * 3 + where] += products[(slice(None),) * 3 + offset]
        pads = options["pads"]
        y = y[(slice(None),) * 3 + tuple(slice(pads[i], full[i] - pads[axes + i]) for i in range(axes))]
        if "bias" in arrays:
            y = y + arrays["bias"].reshape(-1, *[1] * axes)
        return ACTIVATIONS[options["activation"]](y)


@register
class PoolInner(Operation):
    """The largest or the average number of each window over the inner axes of a frame (C, *S).

    Padding never counts for the largest; for the average it counts as zeros where ``count_padding`` says so.
    """

    name = "pool_inner"
    options: ClassVar[Mapping[str, Option]] = {
        "kind": Option(str, ..., ("max", "average")),
        **_KERNEL,
        "count_padding": Option(bool, False),
    }

    def infer(self, options: Options, inputs: Sequence[Value | None], where: str) -> Value:
        value = features(inputs[0], where)
        axes = _axes(options, value, where)
        spans = _spans(options)
        if any(max(options["pads"][i], options["pads"][axes + i]) >= spans[i] for i in range(axes)):
            raise ShapeError(f"{where}: padding as wide as the window leaves windows without a number")
        return value.with_features(value.features[0], *_slid(options, value.features[1:], where))

    def compute(self, options: Options, inputs: Sequence[Any], arrays: Mapping[str, Array]) -> Array:
        (x,), axes = inputs, len(options["kernel"])
        over = tuple(range(-axes, 0))
        if options["kind"] == "max":
            return _windows(x, options, -np.inf).max(axis=over)
        total = _windows(x, options).sum(axis=over)
        if options["count_padding"]:
            return total / prod(options["kernel"])
        return total / _windows(np.ones((1, 1, 1, *x.shape[3:]), x.dtype), options).sum(axis=over)


@register
class PadInner(Operation):
    """Numbers put before and behind the feature axes: a constant, the edge's, or the frame's own reflected."""

    name = "pad_inner"
    options: ClassVar[Mapping[str, Option]] = {
        "pads": Option(tuple, ..., whole_numbers(0)),
        "mode": Option(str, "constant", ("constant", "reflect", "edge")),
        "value": Option(float, 0.0),
    }

    def infer(self, options: Options, inputs: Sequence[Value | None], where: str) -> Value:
        value, pads = features(inputs[0], where), options["pads"]
        axes = len(value.features)
        if len(pads) != 2 * axes:
            raise ShapeError(f"{where}: {len(pads)} pads for {value.describe()}; expected two for each feature axis")
        for i, size in enumerate(value.features):
            if options["mode"] == "reflect" and max(pads[i], pads[axes + i]) >= size:
                raise ShapeError(f"{where}: {size} numbers reflect at most {size - 1}")
        return value.with_features(*(size + pads[i] + pads[axes + i] for i, size in enumerate(value.features)))

    def compute(self, options: Options, inputs: Sequence[Any], arrays: Mapping[str, Array]) -> Array:
        (x,), pads = inputs, options["pads"]
        axes = len(pads) // 2
        padding = [(0, 0), (0, 0), *((pads[i], pads[axes + i]) for i in range(axes))]
        if options["mode"] == "constant":
            return np.pad(x, padding, constant_values=options["value"])
        return np.pad(x, padding, mode=options["mode"])
