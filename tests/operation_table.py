"""The table of cases that the law tests of operations run, and what formulas are made of.

``operation_cases`` and ``recurrence_cases`` fill it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

import cgru

Array = np.ndarray
RNG = np.random.default_rng(29)


class Given(NamedTuple):
    """An input: feature axes, and whether it has a time axis, its mask, or token ids below ``vocabulary``.

    ``memory``: its time axis is its own, and it is given once.
    """

    features: tuple[int, ...]
    timed: bool = True
    vocabulary: int = 0
    positive: bool = False
    memory: bool = False


class Case(NamedTuple):
    """A graph of one operation and what it must give.

    ``build(g, *inputs)`` adds the operation and gives the name of its result; ``formula(*inputs)`` is the result of
    one row from arrays (T, *features) or, without a time axis, (*features), in float64. ``mask``: the first input has
    one, which both get behind the others.
    """

    inputs: Sequence[Given]
    build: Callable[..., Any]
    formula: Callable[..., Array]
    mask: bool = False
    whole: bool = False


def arr(*shape: int) -> Array:
    return (RNG.standard_normal(shape) * 0.5).astype(np.float32)


def each(function: Callable[..., Array]) -> Callable[..., Array]:
    """The formula of an operation on frames, from that of one frame."""

    def over_time(*inputs: Array) -> Array:
        return np.array([function(*frame) for frame in zip(*inputs, strict=True)])

    return over_time


def windows(x: Array, width: int, stride: int, dilation: int, left: int, right: int) -> list[Array]:
    """The windows (width, *features) over time of a padded row, by counting."""
    axes = [(left, right)] + [(0, 0)] * (x.ndim - 1)
    padded = np.pad(x, axes)
    span = (width - 1) * dilation + 1
    return [padded[t : t + span : dilation] for t in range(0, len(padded) - span + 1, stride)]


def stacked(rows: list[Array], *shape: int) -> Array:
    return np.array(rows) if rows else np.zeros((0, *shape))


def correlate(x: Array, weight: Array, strides: Sequence[int], dilations: Sequence[int], groups: int = 1) -> Array:
    """Cross-correlation of (C, *S) with (O, C / groups, *K), number by number."""
    axes = x.ndim - 1
    sizes = [(x.shape[1 + i] - (weight.shape[2 + i] - 1) * dilations[i] - 1) // strides[i] + 1 for i in range(axes)]
    split, per = len(weight) // groups, weight.shape[1]
    y = np.zeros((len(weight), *sizes))
    for o in range(len(weight)):
        channels = x[o // split * per : (o // split + 1) * per]
        for at in np.ndindex(*sizes):
            cut = tuple(
                slice(a * s, a * s + (k - 1) * d + 1, d)
                for a, s, d, k in zip(at, strides, dilations, weight.shape[2:], strict=True)
            )
            y[(o, *at)] = (channels[(slice(None), *cut)] * weight[o]).sum()
    return y


def scatter(x: Array, weight: Array, strides: Sequence[int], dilations: Sequence[int], groups: int = 1) -> Array:
    """Transposed convolution of (C, *S) with (C, O / groups, *K): each number adds its kernel at its own place."""
    axes = x.ndim - 1
    sizes = [(x.shape[1 + i] - 1) * strides[i] + (weight.shape[2 + i] - 1) * dilations[i] + 1 for i in range(axes)]
    per = len(x) // groups
    y = np.zeros((groups, weight.shape[1], *sizes))
    for c in range(len(x)):
        for at in np.ndindex(*x.shape[1:]):
            cut = tuple(
                slice(a * s, a * s + (k - 1) * d + 1, d)
                for a, s, d, k in zip(at, strides, dilations, weight.shape[2:], strict=True)
            )
            place: Any = (c // per, slice(None), *cut)
            y[place] += x[(c, *at)] * weight[c]
    return y.reshape(-1, *sizes)


def kernel(kernel: tuple[int, ...], **changes: tuple[int, ...]) -> dict[str, Any]:
    ones = (1,) * len(kernel)
    return {"kernel": kernel, "strides": ones, "dilations": ones, "pads": (0, 0) * len(kernel), **changes}


# ---- the table -----------------------------------------------------------------------------------------------------

CASES: dict[str, list[Case]] = {}


def case(
    op: str, inputs: Sequence[Any], formula: Callable[..., Array], *, mask: bool = False, whole: bool = False,
    weights: Mapping[str, Array] | None = None, **options: Any,
) -> None:  # fmt: skip
    """A graph of ``op`` alone. Inputs are feature shapes of timed ones, or :class:`Given`."""
    given = [entry if isinstance(entry, Given) else Given(entry) for entry in inputs]

    def build(g: cgru.Graph, *names: str) -> str:
        return g.node(op, *names, weights=weights, **options)

    CASES.setdefault(op, []).append(Case(given, build, formula, mask, whole))


def built(
    op: str, inputs: Sequence[Any], formula: Callable[..., Array], build: Callable[..., Any], **rest: bool
) -> None:
    """A case of an operation that needs others around it."""
    given = [entry if isinstance(entry, Given) else Given(entry) for entry in inputs]
    CASES.setdefault(op, []).append(Case(given, build, formula, **rest))
