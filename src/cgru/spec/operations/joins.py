"""Values side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from ...errors import ShapeError
from ..operation import Array, Operation, Option, Options, feature_axis, features, joined_clock, register
from ..values import Value


@register
class Concat(Operation):
    """Values one after the other along a feature axis; one without a clock is the same at every frame."""

    name = "concat"
    roles = ("x*",)
    options: ClassVar[Mapping[str, Option]] = {"axis": Option(int, 0)}

    def infer(self, options: Options, inputs: Sequence[Value | None], where: str) -> Value:
        values, axis = [features(value, where, f"number {i}") for i, value in enumerate(inputs)], options["axis"]
        first = values[0].features
        feature_axis(values[0], axis, where)
        for value in values:
            if len(value.features) != len(first) or any(
                a != b for i, (a, b) in enumerate(zip(value.features, first, strict=True)) if i != axis
            ):
                raise ShapeError(
                    f"{where}: cannot join {values[0].describe()} and {value.describe()} along feature axis {axis}"
                )
        total = sum(value.features[axis] for value in values)
        return Value((*first[:axis], total, *first[axis + 1 :]), joined_clock(values, where))

    def compute(self, options: Options, inputs: Sequence[Any], arrays: Mapping[str, Array]) -> Array:
        frames = max(array.shape[1] for array in inputs)
        if any(array.shape[1] == 0 for array in inputs):
            frames = 0
        spread = [
            np.broadcast_to(array[:, : min(frames, array.shape[1])], (array.shape[0], frames, *array.shape[2:]))
            for array in inputs
        ]
        return np.concatenate(spread, axis=2 + options["axis"])
