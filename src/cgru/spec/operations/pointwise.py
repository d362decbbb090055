"""Operations on each number by itself: roots, powers, bounds, comparisons, and a choice between two values."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from ...errors import ShapeError
from ..activations import error_function
from ..operation import Array, Operation, Option, Options, features, joined_clock, register
from ..values import Value
from .elementwise import PerChannel, aligned, binary

#: Functions of one number, by ONNX' names in lower case.
UNARY: dict[str, Callable[[Array], Array]] = {
    "abs": np.abs, "ceil": np.ceil, "cos": np.cos, "erf": error_function, "exp": np.exp, "floor": np.floor,
    "log": np.log, "neg": np.negative, "not": lambda x: (x == 0).astype(x.dtype), "reciprocal": np.reciprocal,
    "round": np.round, "sign": np.sign, "sin": np.sin, "sqrt": np.sqrt,
    "acos": np.arccos, "acosh": np.arccosh, "asin": np.arcsin, "asinh": np.arcsinh, "atan": np.arctan,
    "atanh": np.arctanh, "cosh": np.cosh, "sinh": np.sinh, "tan": np.tan,
    "isnan": lambda x: np.isnan(x).astype(x.dtype), "log1p": np.log1p, "expm1": np.expm1,
}  # fmt: skip


@register
class Unary(Operation):
    """f(x) of each number. ``round`` rounds halves to the even number; ``not`` is 1 for 0 and 0 for others."""

    name = "unary"
    options: ClassVar[Mapping[str, Option]] = {"kind": Option(str, ..., tuple(UNARY))}

    def infer(self, options: Options, inputs: Sequence[Value | None], where: str) -> Value:
        return features(inputs[0], where)

    def compute(self, options: Options, inputs: Sequence[Any], arrays: Mapping[str, Array]) -> Array:
        return UNARY[options["kind"]](inputs[0])


@register
class Clip(Operation):
    """min(max(x, low), high); NaN stays."""

    name = "clip"
    options: ClassVar[Mapping[str, Option]] = {
        "low": Option(float, -3.4028234663852886e38),
        "high": Option(float, 3.4028234663852886e38),
    }

    def infer(self, options: Options, inputs: Sequence[Value | None], where: str) -> Value:
        return features(inputs[0], where)

    def compute(self, options: Options, inputs: Sequence[Any], arrays: Mapping[str, Array]) -> Array:
        return np.minimum(np.maximum(inputs[0], options["low"]), options["high"])


Power = binary("power", np.power, "a to the power of b.")
Atan2 = binary("atan2", np.arctan2, "The angle of the point (b, a), from −π to π: a spectrum's phase of its two parts.")


@register
class Compare(Operation):
    """1 where a is less than (less or equal to, equal to) b, else 0. Axes broadcast as in arithmetic."""

    name = "compare"
    roles = ("a", "b")
    options: ClassVar[Mapping[str, Option]] = {"kind": Option(str, ..., ("less", "less_equal", "equal"))}

    def infer(self, options: Options, inputs: Sequence[Value | None], where: str) -> Value:
        return _joined(inputs, ("a", "b"), where)

    def compute(self, options: Options, inputs: Sequence[Any], arrays: Mapping[str, Array]) -> Array:
        a, b = aligned(inputs)
        test = {"less": np.less, "less_equal": np.less_equal, "equal": np.equal}[options["kind"]]
        return test(a, b).astype(a.dtype)


@register
class Where(Operation):
    """a where the condition is not 0, else b: chosen, so that what is not chosen may be infinite or NaN."""

    name = "where"
    roles = ("condition", "a", "b")

    def infer(self, options: Options, inputs: Sequence[Value | None], where: str) -> Value:
        return _joined(inputs, self.roles, where)

    def compute(self, options: Options, inputs: Sequence[Any], arrays: Mapping[str, Array]) -> Array:
        condition, a, b = aligned(inputs)
        return np.where(condition != 0, a, b)


@register
class Prelu(PerChannel):
    """x where x ≥ 0, else slope · x: a slope a channel along feature axis ``axis`` (He et al. 2015, torch.nn.PReLU)."""

    name = "prelu"
    numbers = ("slope",)

    def compute(self, options: Options, inputs: Sequence[Any], arrays: Mapping[str, Array]) -> Array:
        (x,) = inputs
        (slope,) = self.beside(x, options, arrays)
        return np.where(x < 0, slope * x, x)


def _joined(inputs: Sequence[Value | None], roles: Sequence[str], where: str) -> Value:
    values = [features(value, where, role) for value, role in zip(inputs, roles, strict=True)]
    try:
        shape = np.broadcast_shapes(*(value.features for value in values))
    except ValueError:
        shown = ", ".join(value.describe() for value in values)
        raise ShapeError(f"{where}: its inputs do not broadcast: {shown}") from None
    return Value(shape, joined_clock(values, where))
