"""Operations that depend on how long a sequence is: its steps as a feature axis, and padding to full windows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from ...errors import ShapeError
from ..operation import Array, Operation, Option, Options, at_least, features, register, timed
from ..values import Value


@register
class FoldTime(Operation):
    """The frames of a sequence of just ``frames`` as a first feature axis: (T, *F) → (frames, *F) without a time axis.

    A sequence of another length is a :class:`~cgru.ShapeError` when it runs (Keras' Flatten over time). With ``last``
    it is the last so many frames of one that may be longer. A sequence without frames gives zeros.
    """

    name = "fold_time"
    options: ClassVar[Mapping[str, Option]] = {
        "frames": Option(int, ..., at_least(1)),
        "last": Option(bool, False),
    }
    whole = True

    def infer(self, options: Options, inputs: Sequence[Value | None], where: str) -> Value:
        value = timed(features(inputs[0], where), where)
        return Value((options["frames"], *value.features), None)

    def compute(self, options: Options, inputs: Sequence[Any], arrays: Mapping[str, Array]) -> Array:
        (x,), frames = inputs, options["frames"]
        if not x.shape[1]:
            return np.zeros((len(x), 1, frames, *x.shape[2:]), x.dtype)
        refuse_other_frames(frames, x.shape[1], options["last"])
        return x[:, None, x.shape[1] - frames :]


def refuse_other_frames(wanted: int, found: int, last: bool) -> None:
    """Raises where a sequence of ``found`` frames cannot be folded: it has some, and not as many as wanted, or fewer
    than the ``last`` ones wanted."""
    if last and 0 < found < wanted:
        raise ShapeError(
            f"x: the network takes the last {wanted} frames there, and a row gives {found}: pass longer sequences"
        )
    if last:
        return
    if found not in (0, wanted):
        raise ShapeError(
            f"x: the network takes its steps apart and needs {wanted} frames there, which a fixed number of steps "
            f"gives; found {found}: pass rows of the length it was trained on, without lengths="
        )


@register
class PadSame(Operation):
    """Frames of ``value`` around T, so that there are ⌈T / stride⌉ windows of ``span`` frames, ``stride`` apart.

    TensorFlow's padding "same": of the missing frames the smaller half lies in front. Frames that no window reaches
    are cut off.
    """

    name = "pad_same"
    options: ClassVar[Mapping[str, Option]] = {
        "span": Option(int, ..., at_least(1)),
        "stride": Option(int, ..., at_least(1)),
        "value": Option(float, 0.0),
    }
    whole = True

    def infer(self, options: Options, inputs: Sequence[Value | None], where: str) -> Value:
        value = timed(features(inputs[0], where), where)
        span, stride = options["span"], options["stride"]
        assert value.clock is not None
        return value._replace(clock=value.clock.then(1, stride - 1, stride).then(stride, span - stride, 1))

    def frames(self, options: Options, given: int) -> int:
        return (-(-given // options["stride"]) - 1) * options["stride"] + options["span"] if given else 0

    def compute(self, options: Options, inputs: Sequence[Any], arrays: Mapping[str, Array]) -> Array:
        (x,) = inputs
        steps = x.shape[1]
        if not steps:
            return x
        full = self.frames(options, steps)
        front = max(full - steps, 0) // 2
        behind = max(full - steps, 0) - front
        rest = [(0, 0)] * (x.ndim - 2)
        return np.pad(x, [(0, 0), (front, behind), *rest], constant_values=options["value"])[:, :full]
