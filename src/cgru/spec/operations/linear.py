"""Products with a matrix at each frame."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from ..activations import ACTIVATIONS
from ..operation import Array, ArrayInfo, Operation, Option, Options, at_least, features, register
from ..values import Value


@register
class Dense(Operation):
    """φ(W x + b) along the last feature axis: weight (O, I), bias (O,). torch.nn.Linear, Keras' Dense."""

    name = "dense"
    options: ClassVar[Mapping[str, Option]] = {
        "units": Option(int, ..., at_least(1)),
        "activation": Option(str, "linear", tuple(ACTIVATIONS)),
    }

    def infer(self, options: Options, inputs: Sequence[Value | None], where: str) -> Value:
        value = features(inputs[0], where)
        return value.with_features(*value.features[:-1], options["units"])

    def arrays(self, options: Options, inputs: Sequence[Value | None]) -> dict[str, ArrayInfo]:
        value = inputs[0]
        assert value is not None
        units = options["units"]
        return {
            "weight": ArrayInfo((units, value.features[-1]), matrix=True),
            "bias": ArrayInfo((units,), optional=True),
        }

    def compute(self, options: Options, inputs: Sequence[Any], arrays: Mapping[str, Array]) -> Array:
        y = inputs[0] @ arrays["weight"].T
        if "bias" in arrays:
            y = y + arrays["bias"]
        return ACTIVATIONS[options["activation"]](y)
