"""Ids to vectors, and the masks that say which frames count."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from ...errors import CgruError, ShapeError
from ..operation import Array, ArrayInfo, Operation, Option, Options, at_least, features, joined_clock, register
from ..values import Value


@register
class Embedding(Operation):
    """A row of a table for each token id: weight (V, O).

    A frame of several ids (*F) gives (*F, O), or with ``column`` that one of them alone (O,).
    """

    name = "embedding"
    options: ClassVar[Mapping[str, Option]] = {
        "vocabulary": Option(int, ..., lambda v: 0 < v <= 1 << 31),
        "units": Option(int, ..., at_least(1)),
        "column": Option(int, -1, lambda v: -1 <= v <= 1 << 20),
    }

    def infer(self, options: Options, inputs: Sequence[Value | None], where: str) -> Value:
        value, column = inputs[0], options["column"]
        if value is None or value.dtype != "int64":
            raise ShapeError(f"{where}: an embedding takes token ids, found {value.describe() if value else 'nothing'}")
        if column >= 0 and (len(value.features) != 1 or column >= value.features[0]):
            raise ShapeError(f"{where}: there is no id {column} in a frame of {value.describe()}")
        return Value((*(value.features if column < 0 else ()), options["units"]), value.clock)

    def arrays(self, options: Options, inputs: Sequence[Value | None]) -> dict[str, ArrayInfo]:
        return {"weight": ArrayInfo((options["vocabulary"], options["units"]), matrix=True)}

    def compute(self, options: Options, inputs: Sequence[Any], arrays: Mapping[str, Array]) -> Array:
        ids, table = inputs[0], arrays["weight"]
        ids = ids if options["column"] < 0 else ids[..., options["column"]]
        if ids.size and not 0 <= ids.min() <= ids.max() < len(table):
            raise CgruError(f"x: a token id is outside the vocabulary [0, {len(table)})")
        return table[ids]


@register
class MaskOf(Operation):
    """Which frames count: those with a number other than ``value`` (Keras' Masking, and mask_zero for ids)."""

    name = "mask_of"
    options: ClassVar[Mapping[str, Option]] = {"value": Option(float, 0.0)}

    def infer(self, options: Options, inputs: Sequence[Value | None], where: str) -> Value:
        value = inputs[0]
        if value is None or value.dtype == "bool":
            raise ShapeError(
                f"{where}: a mask is made of features or ids, found {value.describe() if value else 'nothing'}"
            )
        return Value((), value.clock, "bool")

    def compute(self, options: Options, inputs: Sequence[Any], arrays: Mapping[str, Array]) -> Array:
        (x,) = inputs
        differs = x != np.float32(options["value"])
        return differs.any(axis=tuple(range(2, x.ndim))) if x.ndim > 2 else differs


@register
class MaskAnd(Operation):
    """Frames that count in both masks; one left out of a call counts everywhere."""

    name = "mask_and"
    roles = ("a", "b")

    def infer(self, options: Options, inputs: Sequence[Value | None], where: str) -> Value:
        for value in inputs:
            if value is None or value.dtype != "bool":
                raise ShapeError(f"{where}: expected two masks, found {value.describe() if value else 'nothing'}")
        return Value((), joined_clock([value for value in inputs if value is not None], where), "bool")

    def compute(self, options: Options, inputs: Sequence[Any], arrays: Mapping[str, Array]) -> Array:
        return inputs[0] & inputs[1]


@register
class ApplyMask(Operation):
    """x where the mask is True, zero elsewhere."""

    name = "apply_mask"
    roles = ("x", "mask")

    def infer(self, options: Options, inputs: Sequence[Value | None], where: str) -> Value:
        x, mask = features(inputs[0], where), inputs[1]
        if mask is None or mask.dtype != "bool":
            raise ShapeError(f"{where}: its input mask is none")
        return Value(x.features, joined_clock([x, mask], where))

    def compute(self, options: Options, inputs: Sequence[Any], arrays: Mapping[str, Array]) -> Array:
        x, mask = inputs
        return np.where(mask.reshape(*mask.shape, *[1] * (x.ndim - 2)), x, x.dtype.type(0))
