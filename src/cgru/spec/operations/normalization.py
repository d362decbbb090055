"""Normalisation over groups of channels: of each frame by itself, or over the whole sequence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any, ClassVar

import numpy as np

from ...errors import ShapeError
from ..operation import Array, ArrayInfo, Operation, Option, Options, at_least, features, register, timed
from ..values import Value


@register
class GroupNorm(Operation):
    """(x − mean) / √(variance + ε) · weight + bias, over each of ``groups`` parts of the channels (Wu and He 2018).

    Channels are feature axis 0; the axes behind it are averaged over, and with ``over_time`` all frames of the sequence
    too: torch.nn.GroupNorm and, with a group for each channel, InstanceNorm on (B, C, T) or (B, C, T, W). Else each
    frame is normalised by itself, which streams. weight and bias (C,). The variance is the biased one. ``mask`` leaves
    frames out of mean and variance; where no frame counts they are 0.
    """

    name = "group_norm"
    roles = ("x", "mask?")
    options: ClassVar[Mapping[str, Option]] = {
        "groups": Option(int, ..., at_least(1)),
        "epsilon": Option(float, 1e-5, lambda value: 0 <= value < 1e3),
        "over_time": Option(bool, ...),
    }

    def is_whole(self, options: Options) -> bool:
        return options["over_time"]

    def infer(self, options: Options, inputs: Sequence[Value | None], where: str) -> Value:
        value = features(inputs[0], where)
        if not value.features or value.features[0] % options["groups"]:
            raise ShapeError(f"{where}: channels of {value.describe()} do not split into {options['groups']} groups")
        mask = inputs[1] if len(inputs) > 1 else None
        if options["over_time"]:
            timed(value, where)
        if mask is not None and (not options["over_time"] or mask.dtype != "bool" or mask.clock != value.clock):
            raise ShapeError(f"{where}: a mask of the frames of x goes with over_time; found {mask.describe()}")
        return value

    def arrays(self, options: Options, inputs: Sequence[Value | None]) -> dict[str, ArrayInfo]:
        value = inputs[0]
        assert value is not None
        shape = (value.features[0],)
        return {"weight": ArrayInfo(shape, optional=True), "bias": ArrayInfo(shape, optional=True)}

    def compute(self, options: Options, inputs: Sequence[Any], arrays: Mapping[str, Array]) -> Array:
        x, mask = inputs[0], inputs[1] if len(inputs) > 1 else None
        batch, frames, channels, *rest = x.shape
        split = x.reshape(batch, frames, options["groups"], channels // options["groups"] * prod(rest))
        real = np.ones((batch, frames), bool) if mask is None else np.broadcast_to(mask, (batch, frames))
        shown = real[:, :, None, None]
        axes = (1, 3) if options["over_time"] else (3,)
        count = np.maximum(1, shown.sum(axis=1, keepdims=True) if options["over_time"] else 1) * split.shape[3]
        mean = np.where(shown, split, 0).sum(axis=axes, keepdims=True) / count
        variance = np.where(shown, (split - mean) ** 2, 0).sum(axis=axes, keepdims=True) / count
        y = ((split - mean) / np.sqrt(variance + options["epsilon"])).reshape(x.shape)
        shape = (channels, *[1] * len(rest))
        y = y * arrays["weight"].reshape(shape) if "weight" in arrays else y
        return y + arrays["bias"].reshape(shape) if "bias" in arrays else y
