"""Operations on each number by itself: activations, arithmetic of two values, a scale and a shift a channel."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from ...errors import ShapeError
from ..activations import ACTIVATIONS, PARAMETRIC
from ..operation import Array, ArrayInfo, Operation, Option, Options, feature_axis, features, joined_clock, register
from ..values import Value


@register
class Activation(Operation):
    """φ(x), elementwise; softmax over the last feature axis. The functions are :mod:`cgru.spec.activations`'.

    ``alpha`` and ``beta`` are given where the function reads them and only there.
    """

    name = "activation"
    options: ClassVar[Mapping[str, Option]] = {
        "activation": Option(str, ..., (*ACTIVATIONS, *PARAMETRIC)),
        "alpha": Option((float, type(None)), None),
        "beta": Option((float, type(None)), None),
    }

    def infer(self, options: Options, inputs: Sequence[Value | None], where: str) -> Value:
        kind = options["activation"]
        reads = PARAMETRIC[kind].reads if kind in PARAMETRIC else ()
        given = tuple(key for key in ("alpha", "beta") if options[key] is not None)
        if given != reads:
            raise ShapeError(
                f"{where}: {kind} takes {' and '.join(reads) or 'neither alpha nor beta'}, "
                f"found {' and '.join(given) or 'neither'}"
            )
        if kind in ("celu", "softplus_beta") and not options["alpha"]:
            raise ShapeError(f"{where}: {kind} divides by alpha, which is 0")
        return features(inputs[0], where)

    def compute(self, options: Options, inputs: Sequence[Any], arrays: Mapping[str, Array]) -> Array:
        kind = options["activation"]
        if kind in PARAMETRIC:
            return PARAMETRIC[kind].function(inputs[0], options["alpha"], options["beta"] or 0.0)
        return ACTIVATIONS[kind](inputs[0])


class Binary(Operation):
    """a ∘ b, elementwise. Feature axes broadcast as numpy's do; a value without a clock is the same at every frame."""

    roles = ("a", "b")
    function: ClassVar[Callable[[Array, Array], Array]]

    def infer(self, options: Options, inputs: Sequence[Value | None], where: str) -> Value:
        a, b = features(inputs[0], where, "a"), features(inputs[1], where, "b")
        try:
            shape = np.broadcast_shapes(a.features, b.features)
        except ValueError:
            raise ShapeError(
                f"{where}: {self.name} takes two values of the same features, found {a.describe()} and {b.describe()}"
            ) from None
        return Value(shape, joined_clock([a, b], where))

    def compute(self, options: Options, inputs: Sequence[Any], arrays: Mapping[str, Array]) -> Array:
        return type(self).function(*aligned(inputs))


def aligned(inputs: Sequence[Array]) -> list[Array]:
    """Arrays (B, [n,] *features) of different numbers of axes with ones put in behind the frames, so they broadcast.

    The interpreter has given values without a clock a frame axis of one already.
    """
    most = max(array.ndim for array in inputs)
    return [array.reshape(*array.shape[:2], *[1] * (most - array.ndim), *array.shape[2:]) for array in inputs]


def binary(name: str, function: Callable[..., Array], doc: str) -> type[Operation]:
    """An operation of two values by numpy's function of two arrays."""
    members = {"name": name, "function": staticmethod(function), "__doc__": doc, "__module__": __name__}
    return register(type(name.title(), (Binary,), members))


Add = binary("add", np.add, "a + b.")
Sub = binary("sub", np.subtract, "a − b.")
Mul = binary("mul", np.multiply, "a · b.")
Div = binary("div", np.divide, "a / b.")
Minimum = binary("minimum", np.minimum, "The smaller of a and b; NaN where either is.")
Maximum = binary("maximum", np.maximum, "The larger of a and b; NaN where either is.")
Average = binary("average", lambda a, b: (a + b) * a.dtype.type(0.5), "(a + b) / 2.")


class PerChannel(Operation):
    """An operation with arrays of a number for each channel; ``axis`` is the feature axis of the channels."""

    options: ClassVar[Mapping[str, Option]] = {"axis": Option(int, 0)}
    #: The names of its arrays, (C,) each.
    numbers: ClassVar[Sequence[str]]

    def infer(self, options: Options, inputs: Sequence[Value | None], where: str) -> Value:
        value = features(inputs[0], where)
        feature_axis(value, options["axis"], where)
        return value

    def arrays(self, options: Options, inputs: Sequence[Value | None]) -> dict[str, ArrayInfo]:
        value = inputs[0]
        assert value is not None
        return dict.fromkeys(self.numbers, ArrayInfo((value.features[options["axis"]],)))

    def beside(self, x: Array, options: Options, arrays: Mapping[str, Array]) -> list[Array]:
        """The arrays, shaped to broadcast with x (B, T, *features)."""
        return [arrays[key].reshape(-1, *[1] * (x.ndim - 3 - options["axis"])) for key in self.numbers]


@register
class ScaleShift(PerChannel):
    """scale ⊙ x + shift, a pair of numbers for each channel: what batch normalisation is once trained.

    scale = γ / √(σ² + ε) and shift = β − μ · scale (Ioffe and Szegedy 2015).
    """

    name = "scale_shift"
    numbers = ("scale", "shift")

    def compute(self, options: Options, inputs: Sequence[Any], arrays: Mapping[str, Array]) -> Array:
        (x,) = inputs
        scale, shift = self.beside(x, options, arrays)
        return x * scale + shift
