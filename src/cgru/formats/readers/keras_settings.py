"""The settings of one Keras layer: each is read, or known to mean nothing at inference, or refused by its name."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from ...errors import FormatError, UnsupportedError
from ...spec.activations import ACTIVATIONS
from .keras_graph import Entry

#: Settings that change nothing at inference, or describe how weights were made.
_IGNORED = re.compile(
    r"name|trainable|seed|dropout|recurrent_dropout|unroll|stateful|implementation|use_cudnn|reverse_state_order"
    r"|batch_input_shape|batch_shape|input_shape|input_dim|input_length|batch_size"
    r"|(?:kernel|recurrent|bias|embeddings)_(?:initializer|regularizer|constraint)|activity_regularizer"
)
#: Settings that must say nothing: each would change what the layer computes.
_MUST_BE_EMPTY = ("quantization_config", "time_major", "ragged", "sparse")
_FLOATS = re.compile(r"(?:mixed_)?(?:b?float16|float32|float64)")


class Settings:
    """The config of one layer: what is read is remembered, and :meth:`finish` refuses what was not."""

    def __init__(self, item: Entry) -> None:
        self.config, self.where = item.config, item.where
        self.read: set[str] = {"dtype"}
        self._check_dtype()

    def _check_dtype(self) -> None:
        policy = self.config.get("dtype")
        if isinstance(policy, dict):
            inner = policy.get("config")
            if policy.get("class_name") in ("DTypePolicy", "Policy") and isinstance(inner, dict):
                policy = inner.get("name")
        if policy is not None and not (isinstance(policy, str) and _FLOATS.fullmatch(policy)):
            raise UnsupportedError(f"{self.where}: dtype policy {str(policy)[:80]} is not a floating-point one")

    def value(self, key: str, default: Any = ...) -> Any:
        self.read.add(key)
        if key not in self.config and default is ...:
            raise FormatError(f"{self.where}: its configuration lacks {key!r}")
        return self.config.get(key, default)

    def flag(self, key: str, default: bool) -> bool:
        value = self.value(key, default)
        if not isinstance(value, bool):
            raise FormatError(f"{self.where}: {key} is {str(value)[:60]!r}, expected true or false")
        return value

    def count(self, key: str) -> int:
        value = self.value(key)
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise FormatError(f"{self.where}: {key} is {str(value)[:60]!r}, expected a whole number from 1")
        return value

    def finish(self) -> None:
        for key, value in self.config.items():
            if key in self.read or _IGNORED.fullmatch(key) or (key in _MUST_BE_EMPTY and not value):
                continue
            raise UnsupportedError(
                f"{self.where}: has the setting {key[:60]}={str(value)[:60]}, which cgru does not run"
            )

    def number(self, key: str, default: Any = ...) -> float:
        value = self.value(key, default)
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise FormatError(f"{self.where}: {key} is {str(value)[:60]!r}, expected a number")
        return float(value)

    def one(self, key: str, default: Any = ...) -> int:
        """A whole number from 1, alone or in a list of one."""
        return self.several(key, 1, default)[0]

    def several(self, key: str, count: int, default: Any = ...) -> list[int]:
        """So many whole numbers from 1; one alone stands for all of them."""
        value = self.value(key, default)
        found = list(value) if isinstance(value, (list, tuple)) else [value] * count
        if len(found) != count or any(type(v) is not int or not 0 < v <= 1 << 20 for v in found):
            raise FormatError(f"{self.where}: {key} is {str(value)[:60]!r}, expected {count} whole numbers from 1")
        return found

    def word(self, key: str, allowed: tuple[str, ...], default: Any = ...) -> str:
        value = self.value(key, default)
        if value not in allowed:
            raise UnsupportedError(
                f"{self.where}: {key}={str(value)[:60]!r} is none that cgru runs; it runs {', '.join(allowed)}"
            )
        return str(value)

    def channels_last(self) -> None:
        self.word("data_format", ("channels_last", "None"), "channels_last") if self.config.get("data_format") else None
        self.read.add("data_format")


class Activated(NamedTuple):
    """An activation as the graph has it: a function of the table, of its own parameter where it takes one."""

    name: str
    alpha: float | None = None

    @property
    def is_plain(self) -> bool:
        """Whether a layer of cgru's can carry it."""
        return self.alpha is None and self.name in ACTIVATIONS


#: Keras' names of activations that have others here.
_ACTIVATIONS: dict[str, Activated] = {
    "celu": Activated("celu", 1.0),
    "exponential": Activated("exp"),
    "hard_shrink": Activated("hard_shrink", 0.5),
    "hard_silu": Activated("hard_swish"),
    "leaky_relu": Activated("leaky_relu", 0.2),
    "soft_shrink": Activated("soft_shrink", 0.5),
    "swish": Activated("silu"),
}


@dataclass
class Build:
    """What building one model needs to know everywhere: which Keras wrote it."""

    version: str

    @property
    def number(self) -> tuple[int, int]:
        """Major and minor version; a file that names none was written by Keras 1."""
        match = re.match(r"(\d{1,4})\.(\d{1,4})", self.version)
        return (int(match[1]), int(match[2])) if match else (1, 0)

    def activated(self, settings: Settings, key: str, default: str = "linear") -> Activated:
        """The activation that a setting names: Keras changed what hard_sigmoid means with version 3."""
        value = settings.value(key, default)
        if value is None:
            value = "linear"
        if isinstance(value, dict):
            called = value.get("config") if value.get("class_name") in ("function", None) else value["class_name"]
            raise UnsupportedError(f"{settings.where}: {key} is the custom function {str(called)[:80]!r}")
        if not isinstance(value, str):
            raise FormatError(f"{settings.where}: {key} is {str(value)[:80]!r}, expected a name")
        if value == "hard_sigmoid" and self.number < (3, 0):
            value = "hard_sigmoid_keras2"
        return _ACTIVATIONS.get(value, Activated(value))

    def activation(self, settings: Settings, key: str, default: str = "linear") -> str:
        """The same for a gate or a candidate, which takes no parameter."""
        return self.activated(settings, key, default).name


def check_shape(array: np.ndarray, shape: tuple[int | None, ...], where: str) -> None:
    fits = array.ndim == len(shape) and all(want in (None, size) for size, want in zip(array.shape, shape, strict=True))
    if not fits:
        wanted = ", ".join("any" if size is None else str(size) for size in shape)
        raise FormatError(f"{where} has shape {array.shape}; the configuration says ({wanted})")
