"""Operations along feature axes of any frame: reductions, softmax, entries by index, repetition, products of values."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from ...errors import ShapeError
from ..operation import (
    Array,
    ArrayInfo,
    Operation,
    Option,
    Options,
    feature_axis,
    features,
    joined_clock,
    positive_sizes,
    register,
)
from ..values import Value
from .elementwise import aligned


def _logsumexp(x: Array, axis: tuple[int, ...]) -> Array:
    top = np.max(x, axis=axis, keepdims=True)
    top = np.where(np.isfinite(top), top, x.dtype.type(0))
    return np.log(np.sum(np.exp(x - top), axis=axis, keepdims=True)) + top


REDUCTIONS: dict[str, Callable[[Array, tuple[int, ...]], Array]] = {
    "mean": lambda x, axis: np.mean(x, axis=axis, keepdims=True),
    "sum": lambda x, axis: np.sum(x, axis=axis, keepdims=True),
    "max": lambda x, axis: np.max(x, axis=axis, keepdims=True),
    "min": lambda x, axis: np.min(x, axis=axis, keepdims=True),
    "prod": lambda x, axis: np.prod(x, axis=axis, keepdims=True),
    "l1": lambda x, axis: np.sum(np.abs(x), axis=axis, keepdims=True),
    "l2": lambda x, axis: np.sqrt(np.sum(x * x, axis=axis, keepdims=True)),
    "sum_square": lambda x, axis: np.sum(x * x, axis=axis, keepdims=True),
    "log_sum": lambda x, axis: np.log(np.sum(x, axis=axis, keepdims=True)),
    "log_sum_exp": _logsumexp,
}


def _axis_numbers(value: Any) -> bool:
    return all(type(v) is int and 0 <= v < 64 for v in value) and len(set(value)) == len(value)


def _check_axes(value: Value, axes: Sequence[int], where: str) -> None:
    for axis in axes:
        feature_axis(value, axis, where)


@register
class Reduce(Operation):
    """One number of all along the feature axes ``axes``, which stay with size 1."""

    name = "reduce"
    options: ClassVar[Mapping[str, Option]] = {
        "kind": Option(str, ..., tuple(REDUCTIONS)),
        "axes": Option(tuple, ..., _axis_numbers),
    }

    def infer(self, options: Options, inputs: Sequence[Value | None], where: str) -> Value:
        value = features(inputs[0], where)
        _check_axes(value, options["axes"], where)
        return value.with_features(*(1 if i in options["axes"] else size for i, size in enumerate(value.features)))

    def compute(self, options: Options, inputs: Sequence[Any], arrays: Mapping[str, Array]) -> Array:
        return REDUCTIONS[options["kind"]](inputs[0], tuple(2 + axis for axis in options["axes"]))


@register
class Softmax(Operation):
    """exp(x) / Σ exp(x) over the feature axes ``axes``, or its logarithm."""

    name = "softmax"
    options: ClassVar[Mapping[str, Option]] = {
        "axes": Option(tuple, ..., _axis_numbers),
        "log": Option(bool, False),
    }

    def infer(self, options: Options, inputs: Sequence[Value | None], where: str) -> Value:
        value = features(inputs[0], where)
        _check_axes(value, options["axes"], where)
        return value

    def compute(self, options: Options, inputs: Sequence[Any], arrays: Mapping[str, Array]) -> Array:
        axes = tuple(2 + axis for axis in options["axes"])
        shifted = inputs[0] - np.max(inputs[0], axis=axes, keepdims=True)
        e = np.exp(shifted)
        total = np.sum(e, axis=axes, keepdims=True)
        return shifted - np.log(total) if options["log"] else e / total


@register
class Take(Operation):
    """The entries ``indices`` along feature axis ``axis``, in that order."""

    name = "take"
    options: ClassVar[Mapping[str, Option]] = {
        "axis": Option(int, 0),
        "indices": Option(tuple, ..., lambda value: len(value) > 0 and all(type(v) is int and v >= 0 for v in value)),
    }

    def infer(self, options: Options, inputs: Sequence[Value | None], where: str) -> Value:
        value, axis = features(inputs[0], where), options["axis"]
        _check_axes(value, [axis], where)
        if max(options["indices"]) >= value.features[axis]:
            raise ShapeError(f"{where}: no entry {max(options['indices'])} along axis {axis} of {value.describe()}")
        return value.with_features(*value.features[:axis], len(options["indices"]), *value.features[axis + 1 :])

    def compute(self, options: Options, inputs: Sequence[Any], arrays: Mapping[str, Array]) -> Array:
        return np.take(inputs[0], options["indices"], axis=2 + options["axis"])


@register
class Broadcast(Operation):
    """x with feature axes of size 1 repeated to ``features``."""

    name = "broadcast"
    options: ClassVar[Mapping[str, Option]] = {"features": Option(tuple, ..., positive_sizes)}

    def infer(self, options: Options, inputs: Sequence[Value | None], where: str) -> Value:
        value, wanted = features(inputs[0], where), options["features"]
        fits = len(wanted) == len(value.features)
        if not fits or any(a not in (1, b) for a, b in zip(value.features, wanted, strict=True)):
            raise ShapeError(f"{where}: {value.describe()} does not broadcast to {wanted}")
        return value.with_features(*wanted)

    def compute(self, options: Options, inputs: Sequence[Any], arrays: Mapping[str, Array]) -> Array:
        return np.broadcast_to(inputs[0], (*inputs[0].shape[:2], *options["features"]))


@register
class MatMul(Operation):
    """Products of the last two feature axes: a (…, M, K) · b (…, K, N) → (…, M, N). Axes in front broadcast."""

    name = "matmul"
    roles = ("a", "b")

    def infer(self, options: Options, inputs: Sequence[Value | None], where: str) -> Value:
        a, b = features(inputs[0], where, "a"), features(inputs[1], where, "b")
        if min(len(a.features), len(b.features)) < 2 or a.features[-1] != b.features[-2]:
            raise ShapeError(f"{where}: cannot multiply the matrices of {a.describe()} and {b.describe()}")
        try:
            front = np.broadcast_shapes(a.features[:-2], b.features[:-2])
        except ValueError:
            raise ShapeError(f"{where}: {a.describe()} and {b.describe()} do not broadcast") from None
        return Value((*front, a.features[-2], b.features[-1]), joined_clock([a, b], where))

    def compute(self, options: Options, inputs: Sequence[Any], arrays: Mapping[str, Array]) -> Array:
        a, b = aligned(inputs)
        return np.matmul(a, b)


@register
class LayerNorm(Operation):
    """(x − mean) / √(variance + ε) · weight + bias over the last ``axes`` feature axes (Ba et al. 2016).

    weight and bias are of those axes. With ``subtract_mean`` False it is RMS normalisation (Zhang and Sennrich 2019).
    """

    name = "layer_norm"
    options: ClassVar[Mapping[str, Option]] = {
        "axes": Option(int, 1, lambda value: 1 <= value < 64),
        "epsilon": Option(float, 1e-5, lambda value: 0 <= value < 1e3),
        "subtract_mean": Option(bool, True),
    }

    def infer(self, options: Options, inputs: Sequence[Value | None], where: str) -> Value:
        value = features(inputs[0], where)
        if options["axes"] > len(value.features):
            raise ShapeError(f"{where}: {value.describe()} has fewer than {options['axes']} feature axes")
        return value

    def arrays(self, options: Options, inputs: Sequence[Value | None]) -> dict[str, ArrayInfo]:
        value = inputs[0]
        assert value is not None
        shape = value.features[-options["axes"] :]
        return {"weight": ArrayInfo(shape, optional=True), "bias": ArrayInfo(shape, optional=True)}

    def compute(self, options: Options, inputs: Sequence[Any], arrays: Mapping[str, Array]) -> Array:
        (x,), axes = inputs, tuple(range(-options["axes"], 0))
        if options["subtract_mean"]:
            x = x - np.mean(x, axis=axes, keepdims=True)
        y = x / np.sqrt(np.mean(x * x, axis=axes, keepdims=True) + x.dtype.type(options["epsilon"]))
        y = y * arrays["weight"] if "weight" in arrays else y
        return y + arrays["bias"] if "bias" in arrays else y
