"""The activations cgru knows: one table of names, in plain numpy, for any float dtype.

``hard_sigmoid`` has two definitions in the field. Keras 3 and PyTorch: ``relu6(x + 3) / 6``. Keras 1 and 2, and
ONNX by default: ``clip(0.2 x + 0.5, 0, 1)``, here ``hard_sigmoid_keras2``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..arrays import brief
from ..errors import UnsupportedError

Array = np.ndarray[tuple[Any, ...], np.dtype[np.floating]]


def sigmoid(x: Array) -> Array:
    """1 / (1 + exp(-x)), written so that exp never overflows."""
    e = np.exp(-np.abs(x))
    return np.where(x >= 0, 1 / (1 + e), e / (1 + e))


def hard_sigmoid(x: Array) -> Array:
    return np.clip(x / 6 + 0.5, 0, 1)


def hard_sigmoid_keras2(x: Array) -> Array:
    return np.clip(0.2 * x + 0.5, 0, 1)


def relu(x: Array) -> Array:
    return np.maximum(x, 0)


def linear(x: Array) -> Array:
    return x


def softsign(x: Array) -> Array:
    return x / (1 + np.abs(x))


def softplus(x: Array) -> Array:
    return np.logaddexp(0, x)


def elu(x: Array) -> Array:
    return np.where(x > 0, x, np.expm1(np.minimum(x, 0)))


def softmax(x: Array) -> Array:
    """Over the last axis."""
    e = np.exp(x - np.max(x, axis=-1, keepdims=True))
    return e / np.sum(e, axis=-1, keepdims=True)


#: Every activation by name; the order is the code the C core knows it by.
ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "linear": linear,
    "sigmoid": sigmoid,
    "tanh": np.tanh,
    "relu": relu,
    "hard_sigmoid": hard_sigmoid,
    "hard_sigmoid_keras2": hard_sigmoid_keras2,
    "softsign": softsign,
    "softplus": softplus,
    "elu": elu,
    "softmax": softmax,
}

CODES: dict[str, int] = {name: code for code, name in enumerate(ACTIVATIONS)}

#: Those a gate or a candidate may use: elementwise ones.
GATE_ACTIVATIONS = frozenset(ACTIVATIONS) - {"softmax"}

#: Those for which f(-x) = 1 - f(x), so that a write-z gate becomes a keep-z gate by negating its weights.
COMPLEMENTARY = frozenset({"sigmoid", "hard_sigmoid", "hard_sigmoid_keras2"})


def check(name: object, where: str, *, gate: bool = False) -> str:
    """``name`` if cgru knows it, else an :class:`UnsupportedError` that lists what there is."""
    known = sorted(GATE_ACTIVATIONS if gate else ACTIVATIONS)
    if not isinstance(name, str) or name not in known:
        raise UnsupportedError(f"{where}: activation {brief(name)} is not one cgru runs; it runs {', '.join(known)}")
    return name
