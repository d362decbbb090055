"""The last few frames beside each other: what an explicit cache of a convolution holds, and a kernel over time sees."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from ..operation import Array, Frames, Operation, Option, Options, Window, at_least, features, register, timed
from ..values import Value
from .window import strided_windows


@register
class StackFrames(Operation):
    """(*F) → (width, *F): frames t·stride − left, … each ``dilation`` apart, the earliest first.

    ``left`` and ``right`` are frames put around the sequence, zeros; negative ones crop it.
    """

    name = "stack_frames"
    options: ClassVar[Mapping[str, Option]] = {
        "width": Option(int, ..., at_least(1)),
        "stride": Option(int, 1, at_least(1)),
        "dilation": Option(int, 1, at_least(1)),
        "left": Option(int, 0),
        "right": Option(int, 0),
    }

    def infer(self, options: Options, inputs: Sequence[Value | None], where: str) -> Value:
        value = timed(features(inputs[0], where), where)
        assert value.clock is not None
        clock = value.clock.then(*self.window(options).clock_map())
        return Value((options["width"], *value.features), clock)

    def window(self, options: Options) -> Window:
        span = (options["width"] - 1) * options["dilation"] + 1
        return Window(span, options["stride"], options["left"], options["right"])

    def compute(self, options: Options, inputs: Sequence[Any], arrays: Mapping[str, Array]) -> Array:
        frames: Frames = inputs[0]
        windows = strided_windows(frames.data, self.window(options))[..., :: options["dilation"]]
        return np.moveaxis(windows, -1, 2)
