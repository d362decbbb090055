"""Operations that move numbers and change none: slices, reshapes, transposes of a frame, constants, repetition."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any, ClassVar

import numpy as np

from ...errors import ShapeError
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


@register
class Slice(Operation):
    """x[start : stop : step] along a feature axis."""

    name = "slice"
    options: ClassVar[Mapping[str, Option]] = {
        "start": Option(int),
        "stop": Option(int),
        "step": Option(int, 1, lambda v: v >= 1),
        "axis": Option(int, 0),
    }

    def infer(self, options: Options, inputs: Sequence[Value | None], where: str) -> Value:
        value, axis = features(inputs[0], where), options["axis"]
        start, stop, step = options["start"], options["stop"], options["step"]
        if not 0 <= axis < len(value.features) or not 0 <= start < stop <= value.features[axis]:
            raise ShapeError(f"{where}: {start}:{stop} of feature axis {axis} is not in {value.describe()}")
        size = -(-(stop - start) // step)
        return value.with_features(*value.features[:axis], size, *value.features[axis + 1 :])

    def compute(self, options: Options, inputs: Sequence[Any], arrays: Mapping[str, Array]) -> Array:
        part = slice(options["start"], options["stop"], options["step"])
        return inputs[0][(slice(None),) * (2 + options["axis"]) + (part,)]


@register
class Reshape(Operation):
    """The numbers of a frame, in their order, under other feature axes."""

    name = "reshape"
    options: ClassVar[Mapping[str, Option]] = {"features": Option(tuple, ..., positive_sizes)}

    def infer(self, options: Options, inputs: Sequence[Value | None], where: str) -> Value:
        value, shape = features(inputs[0], where), options["features"]
        if prod(shape) != value.size:
            raise ShapeError(f"{where}: {value.describe()} has {value.size} numbers a frame, not {shape}")
        return value.with_features(*shape)

    def compute(self, options: Options, inputs: Sequence[Any], arrays: Mapping[str, Array]) -> Array:
        (x,) = inputs
        return x.reshape(*x.shape[:2], *options["features"])


@register
class Transpose(Operation):
    """The feature axes of a frame in another order: axis i of the result is axis ``order[i]`` of x."""

    name = "transpose"
    options: ClassVar[Mapping[str, Option]] = {"order": Option(tuple)}

    def infer(self, options: Options, inputs: Sequence[Value | None], where: str) -> Value:
        value, order = features(inputs[0], where), options["order"]
        if sorted(order) != list(range(len(value.features))):
            raise ShapeError(f"{where}: {order} does not name each feature axis of {value.describe()} once")
        return value.with_features(*(value.features[axis] for axis in order))

    def compute(self, options: Options, inputs: Sequence[Any], arrays: Mapping[str, Array]) -> Array:
        return inputs[0].transpose(0, 1, *(2 + axis for axis in options["order"]))


@register
class Constant(Operation):
    """A learned or given value without a time axis, the same for every row: weight ``value`` of its features."""

    name = "constant"
    roles = ()
    options: ClassVar[Mapping[str, Option]] = {"features": Option(tuple, ..., positive_sizes)}

    def infer(self, options: Options, inputs: Sequence[Value | None], where: str) -> Value:
        return Value(tuple(options["features"]), None)

    def arrays(self, options: Options, inputs: Sequence[Value | None]) -> dict[str, ArrayInfo]:
        return {"value": ArrayInfo(tuple(options["features"]))}

    def compute(self, options: Options, inputs: Sequence[Any], arrays: Mapping[str, Array]) -> Array:
        return arrays["value"][None, None]


@register
class ExpandTime(Operation):
    """x, which has no time axis, at every frame of ``like`` (Keras' RepeatVector beside a sequence)."""

    name = "expand_time"
    roles = ("x", "like")

    def infer(self, options: Options, inputs: Sequence[Value | None], where: str) -> Value:
        x, like = features(inputs[0], where), inputs[1]
        if x.clock is not None or like is None or like.clock is None:
            raise ShapeError(f"{where}: expected a value without a time axis and one with, found {x.describe()}")
        return Value(x.features, like.clock)

    def compute(self, options: Options, inputs: Sequence[Any], arrays: Mapping[str, Array]) -> Array:
        x, like = inputs
        return np.broadcast_to(x, (x.shape[0], like.shape[1], *x.shape[2:]))


@register
class Upsample(Operation):
    """Each frame ``factor`` times (Keras' UpSampling1D; torch's nearest Upsample)."""

    name = "upsample"
    options: ClassVar[Mapping[str, Option]] = {"factor": Option(int, ..., at_least(2))}

    def infer(self, options: Options, inputs: Sequence[Value | None], where: str) -> Value:
        value = timed(features(inputs[0], where), where)
        assert value.clock is not None
        return value._replace(clock=value.clock.then(options["factor"], 0, 1))

    def window(self, options: Options) -> Window:
        return Window(up=options["factor"])

    def compute(self, options: Options, inputs: Sequence[Any], arrays: Mapping[str, Array]) -> Array:
        return np.repeat(inputs[0].data, options["factor"], axis=1)


@register
class PadTime(Operation):
    """Frames before and behind a sequence; negative numbers crop it (Keras' ZeroPadding1D, Cropping1D).

    They are zeros, or by ``mode`` the sequence's own: the frame at the edge, the sequence reflected at its edges, or
    gone round (torch's replicate, reflect and circular), which needs the whole sequence.
    """

    name = "pad_time"
    options: ClassVar[Mapping[str, Option]] = {
        "left": Option(int, 0),
        "right": Option(int, 0),
        "mode": Option(str, "constant", ("constant", "edge", "reflect", "wrap")),
    }

    def is_whole(self, options: Options) -> bool:
        return options["mode"] != "constant"

    def infer(self, options: Options, inputs: Sequence[Value | None], where: str) -> Value:
        value = timed(features(inputs[0], where), where)
        assert value.clock is not None
        if options["mode"] != "constant" and min(options["left"], options["right"]) < 0:
            raise ShapeError(f"{where}: only mode 'constant' crops a sequence")
        return value._replace(clock=value.clock.then(*self.window(options).clock_map()))

    def window(self, options: Options) -> Window:
        return Window(left=options["left"], right=options["right"])

    def compute(self, options: Options, inputs: Sequence[Any], arrays: Mapping[str, Array]) -> Array:
        if options["mode"] == "constant":
            frames: Frames = inputs[0]
            return frames.data
        (x,), left, right, mode = inputs, options["left"], options["right"], options["mode"]
        most = {"edge": max(left, right), "reflect": x.shape[1] - 1, "wrap": x.shape[1]}[mode]
        if not x.shape[1]:
            return x
        if max(left, right) > most:
            raise ShapeError(
                f"pad_time: {max(left, right)} frames by {mode} of a sequence of {x.shape[1]}; it has at most {most}"
            )
        return np.pad(x, [(0, 0), (left, right), *[(0, 0)] * (x.ndim - 2)], mode=mode)
