"""Operations on a whole sequence that give a sequence: weights of attention over time, and time reversed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ...errors import ShapeError
from ..operation import Array, Operation, Options, features, register, timed
from ..values import Value


@register
class SoftmaxTime(Operation):
    """exp(x_t) / Σ_t exp(x_t), of each feature over the frames of the sequence: the weights of attention pooling.

    Frames that ``mask`` leaves out get 0. ``mul`` with the sequence and ``pool_whole`` with kind ``sum`` make the
    weighted sum (Bahdanau et al. 2015).
    """

    name = "softmax_time"
    roles = ("x", "mask?")
    whole = True

    def infer(self, options: Options, inputs: Sequence[Value | None], where: str) -> Value:
        value = timed(features(inputs[0], where), where)
        mask = inputs[1] if len(inputs) > 1 else None
        if mask is not None and (mask.dtype != "bool" or mask.clock != value.clock):
            raise ShapeError(f"{where}: its mask must have the frames of x, found {mask.describe()}")
        return value

    def compute(self, options: Options, inputs: Sequence[Any], arrays: Mapping[str, Array]) -> Array:
        x, mask = inputs[0], inputs[1] if len(inputs) > 1 else None
        shown = np.ones(x.shape[:2], bool) if mask is None else np.broadcast_to(mask, x.shape[:2])
        shown = shown.reshape(*shown.shape, *[1] * (x.ndim - 2))
        hidden = np.where(shown, x, -np.inf)
        top = np.max(hidden, axis=1, keepdims=True, initial=-np.inf)
        e = np.where(shown, np.exp(hidden - np.where(np.isfinite(top), top, 0)), 0)
        total = e.sum(axis=1, keepdims=True)
        return e / np.where(shown.any(axis=1, keepdims=True), total, 1)


@register
class ReverseTime(Operation):
    """The frames of the sequence from its end to its beginning, each row from its own length."""

    name = "reverse_time"
    whole = True

    def infer(self, options: Options, inputs: Sequence[Value | None], where: str) -> Value:
        return timed(features(inputs[0], where), where)

    def compute(self, options: Options, inputs: Sequence[Any], arrays: Mapping[str, Array]) -> Array:
        return inputs[0][:, ::-1]
