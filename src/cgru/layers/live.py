"""Live torch modules and Keras layers as what the constructors of single layers take; no framework is imported."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..arrays import mapping, text
from ..errors import CgruError, FormatError, UnsupportedError
from .conventions import plain

#: torch modules that are activations, and what cgru calls them.
ACTIVATIONS = {
    "ELU": "elu",
    "GELU": "gelu",
    "Hardsigmoid": "hard_sigmoid",
    "Hardswish": "hard_swish",
    "Hardtanh": "hard_tanh",
    "LogSigmoid": "log_sigmoid",
    "Mish": "mish",
    "ReLU6": "relu6",
    "SELU": "selu",
    "SiLU": "silu",
    "ReLU": "relu",
    "Sigmoid": "sigmoid",
    "Softmax": "softmax",
    "Softplus": "softplus",
    "Softsign": "softsign",
    "Tanh": "tanh",
}

#: The settings of an activation that make it another function than cgru's.
_STANDARD: dict[str, dict[str, tuple[Any, ...]]] = {
    "ELU": {"alpha": (1, 1.0)},
    "GELU": {"approximate": ("none",)},
    "Hardtanh": {"min_val": (-1, -1.0), "max_val": (1, 1.0)},
    "Softmax": {"dim": (-1, 2)},
    # Above its threshold torch gives x itself, which differs from log(1 + exp(x)) by less than 3e-9 there.
    "Softplus": {"beta": (1, 1.0), "threshold": (20, 20.0)},
}


def check_standard(module: Any, kind: str) -> None:
    """Refuse a torch activation whose settings make it another function than cgru's."""
    for setting, accepted in _STANDARD.get(kind, {}).items():
        value = getattr(module, setting)
        if value not in accepted:
            raise UnsupportedError(f"{kind} with {setting}={value!r}; cgru runs {setting}={accepted[0]!r}")


def torch_kind(given: Any) -> str:
    """The name of one of torch's own module classes, "" for anything else."""
    return type(given).__name__ if type(given).__module__.startswith("torch.nn.modules.") else ""


def torch_module(given: Any, kinds: Sequence[str], where: str) -> Any:
    """``given`` if it is a live torch module of one of ``kinds``, None if it is a mapping of tensors."""
    if isinstance(given, Mapping):
        return None
    if not hasattr(given, "state_dict"):
        raise CgruError(
            f"{where}: expected a torch.nn.{' or '.join(kinds)} or a mapping from tensor name to array, found "
            f"{type(given).__name__}"
        )
    if torch_kind(given) not in kinds:
        raise UnsupportedError(f"{where}: expected a torch.nn.{' or '.join(kinds)}, found a {type(given).__name__}")
    return given


def torch_tensors(given: Any, prefix: str, known: Sequence[str], where: str) -> dict[str, np.ndarray]:
    """The arrays ``known`` of a module's state_dict, or below ``prefix`` of a mapping; others there are an error."""
    tensors = given.state_dict() if hasattr(given, "state_dict") else mapping(given, where)
    head = dotted(tensors, text(prefix, "prefix"))
    found = {key[len(head) :]: np.asarray(plain(value)) for key, value in tensors.items() if key.startswith(head)}
    for key in found:
        if key not in known:
            raise FormatError(
                f"{where}: the tensor {head + key!r} is none of {', '.join(known)}; pass prefix= to say which module "
                "is meant"
            )
    if "weight" in known and "weight" not in found:
        some = ", ".join(map(str, list(tensors)[:8])) or "none"
        raise FormatError(f"{where}: the tensor {head + 'weight'!r} is missing; there are {some}")
    return found


def dotted(tensors: Mapping[str, Any], prefix: str) -> str:
    """The prefix with the dot behind a module's path, where the tensors have one there."""
    if prefix and not prefix.endswith(".") and any(key.startswith(f"{prefix}.") for key in tensors):
        return f"{prefix}."
    return prefix


# ---- Keras ------------------------------------------------------------------------------------------------------


def keras_layer(given: Any, kinds: Sequence[str]) -> Any:
    """``given`` if it is a live Keras layer of one of ``kinds``; None if it is no layer but arrays."""
    if not hasattr(given, "get_config") or not hasattr(given, "get_weights"):
        return None
    kind = type(given).__name__
    if kind not in kinds:
        raise UnsupportedError(f"{getattr(given, 'name', kind)}: expected a Keras {' or '.join(kinds)}, found a {kind}")
    return given


def keras_major(layer: Any) -> int | None:
    """The major version of the Keras that a live layer is of."""
    for name in ("keras", "tf_keras"):
        if type(layer).__module__.startswith((f"{name}.", f"{name}_")) or name == "keras":
            version = str(getattr(sys.modules.get(name), "__version__", ""))
            if version[:1].isdigit():
                return int(version.split(".")[0])
    return None


def keras_settings(layer: Any, where: str, *, passed: Sequence[str], inert: Mapping[str, Any]) -> dict[str, Any]:
    """``passed`` of a layer's configuration; a setting of ``inert`` with another value than there is refused."""
    config = layer.get_config()
    for key, value in inert.items():
        if key in config and config[key] != value:
            raise UnsupportedError(f"{where}: {key}={config[key]!r}, which cgru runs as {value!r} alone")
    found = {key: config[key] for key in passed if key in config}
    for key, value in found.items():
        if key.endswith("activation") and not isinstance(value, str):
            raise UnsupportedError(f"{where}: {key} is {value!r}, which is no activation by name")
    return found
