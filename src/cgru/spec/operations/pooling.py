"""Pooling: over a window of frames, and over the whole sequence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from ...errors import ShapeError
from ..operation import Array, Frames, Operation, Option, Options, Window, at_least, features, register, timed
from ..values import Value
from .window import strided_windows


@register
class Pool(Operation):
    """The largest or the average of each feature over a window of frames (torch's and Keras' 1-D pooling).

    Frames of padding never count for the largest; they count as zeros for the average where ``count_padding`` says so
    (torch's default), else the average is over real frames alone (Keras').
    """

    name = "pool"
    options: ClassVar[Mapping[str, Option]] = {
        "kind": Option(str, ..., ("max", "average")),
        "width": Option(int, ..., at_least(1)),
        "stride": Option(int, 1, at_least(1)),
        "left": Option(int, 0, at_least(0)),
        "right": Option(int, 0, at_least(0)),
        "count_padding": Option(bool, False),
    }

    def infer(self, options: Options, inputs: Sequence[Value | None], where: str) -> Value:
        value = timed(features(inputs[0], where), where)
        if max(options["left"], options["right"]) >= options["width"]:
            raise ShapeError(f"{where}: padding as wide as the window leaves windows without a frame")
        assert value.clock is not None
        return value._replace(clock=value.clock.then(*self.window(options).clock_map()))

    def window(self, options: Options) -> Window:
        return Window(options["width"], options["stride"], options["left"], options["right"])

    def compute(self, options: Options, inputs: Sequence[Any], arrays: Mapping[str, Array]) -> Array:
        frames: Frames = inputs[0]
        window = self.window(options)
        real = frames.real.reshape(*frames.real.shape, *[1] * (frames.data.ndim - 2))
        if options["kind"] == "max":
            hidden = np.where(real, frames.data, -np.inf).astype(frames.data.dtype)
            return strided_windows(hidden, window).max(axis=-1)
        total = strided_windows(np.where(real, frames.data, frames.data.dtype.type(0)), window).sum(axis=-1)
        if options["count_padding"]:
            return total / options["width"]
        return total / strided_windows(np.where(real, 1.0, 0.0).astype(total.dtype), window).sum(axis=-1)


@register
class PoolWhole(Operation):
    """One frame of a whole sequence: of each feature the largest, the smallest, the mean, the sum or the variance over
    time, or the last or the first frame.

    ``mask`` leaves frames out. Of a sequence without frames that count: zero. The variance divides the squared
    distances from the mean by the number of frames less ``correction`` (1: torch's default), and is zero where that
    leaves none.
    """

    name = "pool_whole"
    roles = ("x", "mask?")
    options: ClassVar[Mapping[str, Option]] = {
        "kind": Option(str, ..., ("max", "mean", "sum", "last", "first", "min", "variance")),
        "correction": Option(int, 0, (0, 1)),
    }
    whole = True

    def infer(self, options: Options, inputs: Sequence[Value | None], where: str) -> Value:
        value = timed(features(inputs[0], where), where)
        return Value(value.features, None)

    def compute(self, options: Options, inputs: Sequence[Any], arrays: Mapping[str, Array]) -> Array:
        x, mask = inputs[0], inputs[1] if len(inputs) > 1 else None
        real = np.ones(x.shape[:2], bool) if mask is None else mask
        kind = options["kind"]
        if kind in ("first", "last"):
            if not x.shape[1]:
                return np.zeros((len(x), 1, *x.shape[2:]), x.dtype)
            at = np.argmax(real, axis=1) if kind == "first" else x.shape[1] - 1 - np.argmax(real[:, ::-1], axis=1)
            taken, any_real = x[np.arange(len(x)), at], real.any(axis=1).reshape(-1, *[1] * (x.ndim - 2))
            return np.where(any_real, taken, x.dtype.type(0))[:, None]
        shown = real.reshape(*real.shape, *[1] * (x.ndim - 2))
        count = shown.sum(axis=1, keepdims=True)
        if kind in ("max", "min"):
            far = -np.inf if kind == "max" else np.inf
            extreme = (np.max if kind == "max" else np.min)(np.where(shown, x, far), axis=1, keepdims=True, initial=far)
            return np.where(count > 0, extreme, 0.0).astype(x.dtype)
        total = np.where(shown, x, x.dtype.type(0)).sum(axis=1, keepdims=True)
        if kind == "sum":
            return total
        mean = total / np.maximum(count, 1)
        if kind == "mean":
            return mean
        squares = np.where(shown, (x - mean) ** 2, x.dtype.type(0)).sum(axis=1, keepdims=True)
        return squares / np.maximum(count - options["correction"], 1)
