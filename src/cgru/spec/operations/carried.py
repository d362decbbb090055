"""A state of any shape, read at the beginning of a step and written at its end: for networks that say their own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from ...errors import ShapeError
from ..operation import Array, Operation, Option, Options, features, positive_sizes, register, timed
from ..values import Value


@register
class Carried(Operation):
    """What a row carries as this step begins: zeros at first, then what the ``carry`` of this node was given.

    ``like`` is any value with the frames it is wanted at. A graph with such nodes runs a step at a time.
    """

    name = "carried"
    roles = ("like",)
    options: ClassVar[Mapping[str, Option]] = {"features": Option(tuple, ..., positive_sizes)}

    def infer(self, options: Options, inputs: Sequence[Value | None], where: str) -> Value:
        like = inputs[0]
        if like is None or like.clock is None:
            raise ShapeError(f"{where}: its input like must have a time axis")
        return Value(tuple(options["features"]), like.clock)

    def state(self, options: Options, inputs: Sequence[Value | None]) -> list[tuple[str, int]]:
        return [("value", Value(tuple(options["features"])).size)]


@register
class Carry(Operation):
    """x, which the ``carried`` node gives at the next step."""

    name = "carry"
    roles = ("x", "carried")

    def infer(self, options: Options, inputs: Sequence[Value | None], where: str) -> Value:
        value, held = timed(features(inputs[0], where), where), inputs[1]
        if held is None or value != held:
            raise ShapeError(f"{where}: {value.describe()} is not of the shape that is carried")
        return value

    def compute(self, options: Options, inputs: Sequence[Any], arrays: Mapping[str, Array]) -> Array:
        return inputs[0]
