"""The activations cgru knows: one table of names, in plain numpy, for any float dtype.

``hard_sigmoid`` has two definitions in the field. Keras 3 and PyTorch: ``relu6(x + 3) / 6``. Keras 1 and 2, and
ONNX by default: ``clip(0.2 x + 0.5, 0, 1)``, here ``hard_sigmoid_keras2``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import erf, erfc, pi, sqrt
from typing import Any, NamedTuple

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


def hard_tanh(x: Array) -> Array:
    return np.clip(x, -1, 1)


def relu6(x: Array) -> Array:
    return np.clip(x, 0, 6)


def selu(x: Array) -> Array:
    """λ · elu with α, so that unit variance is kept (Klambauer et al. 2017)."""
    return 1.0507009873554805 * np.where(x > 0, x, 1.6732632423543772 * np.expm1(np.minimum(x, 0)))


def silu(x: Array) -> Array:
    """x σ(x): SiLU, swish (Ramachandran et al. 2017)."""
    return x * sigmoid(x)


def gelu(x: Array) -> Array:
    """x Φ(x), Φ the normal distribution (Hendrycks and Gimpel 2016); by erfc, which keeps its digits below zero."""
    return x * (0.5 * _erfc(-x / sqrt(2)))


def gelu_tanh(x: Array) -> Array:
    """The approximation of gelu by tanh: (1 + tanh u) / 2 = σ(2 u)."""
    return x * sigmoid(2 * sqrt(2 / pi) * (x + 0.044715 * x * x * x))


def mish(x: Array) -> Array:
    """x tanh(softplus(x)) (Misra 2019)."""
    return x * np.tanh(softplus(x))


def hard_swish(x: Array) -> Array:
    """x relu6(x + 3) / 6 (Howard et al. 2019)."""
    return x * hard_sigmoid(x)


def log_sigmoid(x: Array) -> Array:
    return -np.logaddexp(0, -x)


def error_function(x: Array) -> Array:
    """erf, number by number: numpy has none."""
    return _each(_ERF, x)


_ERF, _ERFC = np.frompyfunc(erf, 1, 1), np.frompyfunc(erfc, 1, 1)


def _erfc(x: Array) -> Array:
    return _each(_ERFC, x)


def _each(function: Callable[..., Any], x: Array) -> Array:
    return np.asarray(function(x), x.dtype) if x.size else x


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
    "hard_tanh": hard_tanh,
    "relu6": relu6,
    "selu": selu,
    "silu": silu,
    "gelu": gelu,
    "gelu_tanh": gelu_tanh,
    "mish": mish,
    "hard_swish": hard_swish,
    "log_sigmoid": log_sigmoid,
}

CODES: dict[str, int] = {name: code for code, name in enumerate(ACTIVATIONS)}

#: Those a gate or a candidate may use.
GATE_ACTIVATIONS = frozenset(
    {"linear", "sigmoid", "tanh", "relu", "hard_sigmoid", "hard_sigmoid_keras2", "softsign", "softplus", "elu"}
)


class Parametric(NamedTuple):
    """An activation with parameters: φ(x, α, β), and which of the two it reads."""

    function: Callable[[Array, float, float], Array]
    reads: tuple[str, ...] = ("alpha",)


#: Activations with parameters, by name. ONNX' are among them: docs/Operators.md and RNN's activation_alpha.
PARAMETRIC: Mapping[str, Parametric] = {
    "affine": Parametric(lambda x, α, β: α * x + β, ("alpha", "beta")),
    "celu": Parametric(lambda x, α, β: np.where(x > 0, x, α * np.expm1(np.minimum(x, 0) / α))),
    "elu_alpha": Parametric(lambda x, α, β: np.where(x >= 0, x, α * np.expm1(np.minimum(x, 0)))),
    "hard_shrink": Parametric(lambda x, α, β: np.where(np.abs(x) <= α, x.dtype.type(0), x)),
    "hard_sigmoid_line": Parametric(lambda x, α, β: np.clip(α * x + β, 0, 1), ("alpha", "beta")),
    "leaky_relu": Parametric(lambda x, α, β: np.where(x >= 0, x, α * x)),
    "scaled_tanh": Parametric(lambda x, α, β: α * np.tanh(β * x), ("alpha", "beta")),
    "soft_shrink": Parametric(lambda x, α, β: np.sign(x) * np.maximum(np.abs(x) - α, 0)),
    "softplus_beta": Parametric(lambda x, α, β: np.logaddexp(0, α * x) / α),
    "threshold": Parametric(lambda x, α, β: np.where(x <= α, x.dtype.type(β), x), ("alpha", "beta")),
    "thresholded_relu": Parametric(lambda x, α, β: np.where(x >= α, x, x.dtype.type(0))),
}

#: Those for which f(-x) = 1 - f(x), so that a write-z gate becomes a keep-z gate by negating its weights.
COMPLEMENTARY = frozenset({"sigmoid", "hard_sigmoid", "hard_sigmoid_keras2"})


def check(name: object, where: str, *, gate: bool = False) -> str:
    """``name`` if cgru knows it, else an :class:`UnsupportedError` that lists what there is."""
    known = sorted(GATE_ACTIVATIONS if gate else ACTIVATIONS)
    if not isinstance(name, str) or name not in known:
        raise UnsupportedError(f"{where}: activation {brief(name)} is not one cgru runs; it runs {', '.join(known)}")
    return name
