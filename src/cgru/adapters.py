"""Live PyTorch and Keras objects → networks. Neither framework is imported: the object brings its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from .engine.model import Model
from .errors import CgruError, UnsupportedError
from .formats.containers.tensorfile import TensorFile
from .formats.readers.naming import errors_name
from .formats.readers.torch_layers import layers_from
from .layers import GRU, LSTM, RNN, Activation, Dense, Embedding, Layer
from .layers.build import plain

#: torch modules that do nothing once training is over.
_INERT = frozenset(
    ("AlphaDropout", "Dropout", "Dropout1d", "Dropout2d", "Dropout3d", "FeatureAlphaDropout", "Identity")
)

#: torch modules that are activations, and what cgru calls them.
_ACTIVATIONS = {
    "ELU": "elu",
    "Hardsigmoid": "hard_sigmoid",
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
    "Softmax": {"dim": (-1, 2)},
    # Above its threshold torch gives x itself, which differs from log(1 + exp(x)) by less than 3e-9 there.
    "Softplus": {"beta": (1, 1.0), "threshold": (20, 20.0)},
}

_CONTAINERS = frozenset(("ModuleDict", "ModuleList", "Sequential"))


def from_torch(
    module: Any,
    *,
    layers: str | Sequence[Any] | None = None,
    prefix: str | None = None,
    backend: str | None = None,
) -> Model:
    """A network from a live torch module, or from the mapping that ``module.state_dict()`` gives.

    An nn.GRU, LSTM, RNN, one of their cells, a Linear, Embedding, activation, or an nn.Sequential of these
    (Dropout and Identity go) says itself what it is. In a Sequential a recurrent module passes on its outputs, not
    its state. A module class of one's own does not say in which order its parts run: its layers are inferred from its
    tensors, or said by ``layers`` and ``prefix``, all as for :func:`cgru.load`. The weights are copied.

    ``batch_first`` plays no part, since cgru's arrays are always batch first, (B, T, I); nor does the mode,
    since dropout is never applied. Raises :class:`UnsupportedError` naming the module that cgru does not run.
    """
    if isinstance(module, Mapping):
        return Model(layers_from(_tensor_file(module, "state_dict"), layers, prefix), backend=backend)
    if not hasattr(module, "state_dict") or not hasattr(module, "_modules"):
        raise CgruError(
            f"module: expected a torch module or its state_dict(), found {type(module).__name__}; cgru.load reads files"
        )
    shown = type(module).__name__
    with errors_name(shown):
        if prefix:
            module, prefix = _submodule(module, prefix), None
        if layers is None and _says_itself(module):
            found = list(_walk(module, ""))
            if not found:
                raise UnsupportedError("holds no layer that cgru runs")
            return Model(found, backend=backend)
        if layers is None:
            _check_hidden_steps(module)
        file = _tensor_file(module.state_dict(), shown)
        return Model(layers_from(file, layers, prefix, _table_kinds(module), _nonlinearities(module)), backend=backend)


def from_keras(model: Any, *, backend: str | None = None) -> Model:
    """A network from a live Keras 3 model: Sequential, or a functional graph without branches.

    Raises :class:`UnsupportedError` naming the layer or setting that cgru does not run.
    """
    from .formats.readers import keras_layers

    return Model(keras_layers.from_model(model), backend=backend)


def _kind(module: Any) -> str:
    """The name of one of torch's own module classes; "" for a loss or a class of somebody's own."""
    kind = type(module)
    own = kind.__module__.startswith("torch.nn.modules.") and not kind.__module__.endswith(".loss")
    return kind.__name__ if own else ""


def _says_itself(module: Any) -> bool:
    kind = _kind(module)
    return bool(kind) and kind not in ("ModuleDict", "ModuleList")


def _walk(module: Any, path: str) -> Iterator[Layer]:
    """The layers of a module whose class says what it computes, in the order data passes."""
    kind = _kind(module)
    if kind == "Sequential":
        # Not named_children(), which leaves out a module's second appearance.
        for key, child in module._modules.items():
            yield from _walk(child, f"{path}.{key}" if path else key)
    elif kind not in _INERT:
        name = path if path and not path.isdigit() else None
        with errors_name(path or kind):
            yield _layer(module, kind, name)


def _layer(module: Any, kind: str, name: str | None) -> Layer:
    if kind in _ACTIVATIONS:
        _check_standard(module, kind)
        return Activation(_ACTIVATIONS[kind], name=name)
    if kind not in _BUILDERS:
        what = f"torch.nn.{kind}" if kind else f"{type(module).__module__}.{type(module).__qualname__}"
        known = ", ".join(sorted((*_BUILDERS, *_ACTIVATIONS)))
        raise UnsupportedError(f"cgru does not run a {what}; it runs {known} and Sequential")
    if getattr(module, "max_norm", None) is not None:
        raise UnsupportedError("an Embedding with max_norm changes its weights as it runs; set it to None")
    return _BUILDERS[kind](module, _tensors(module.state_dict()), name)


def _rnn(module: Any, tensors: dict[str, np.ndarray], name: str | None) -> Layer:
    return RNN.from_torch(tensors, nonlinearity=module.nonlinearity, name=name)


#: torch's layer classes → the layer from a module and its state_dict.
_BUILDERS: dict[str, Callable[[Any, dict[str, np.ndarray], str | None], Layer]] = {
    "GRU": lambda _, tensors, name: GRU.from_torch(tensors, name=name),
    "GRUCell": lambda _, tensors, name: GRU.from_torch(tensors, name=name),
    "LSTM": lambda _, tensors, name: LSTM.from_torch(tensors, name=name),
    "LSTMCell": lambda _, tensors, name: LSTM.from_torch(tensors, name=name),
    "RNN": _rnn,
    "RNNCell": _rnn,
    "Linear": lambda _, tensors, name: Dense(tensors["weight"], tensors.get("bias"), name=name),
    "Embedding": lambda _, tensors, name: Embedding(tensors["weight"], name=name),
}


def _check_standard(module: Any, kind: str) -> None:
    for setting, accepted in _STANDARD.get(kind, {}).items():
        value = getattr(module, setting)
        if value not in accepted:
            raise UnsupportedError(f"{kind} with {setting}={value!r}; cgru runs {setting}={accepted[0]!r}")


def _submodule(module: Any, prefix: str) -> Any:
    found = module
    for part in prefix.rstrip(".").split("."):
        if part not in found._modules or found._modules[part] is None:
            known = ", ".join(map(repr, found._modules)) or "none"
            raise CgruError(f"prefix: {prefix!r} is no module: there is no {part!r} among {known}")
        found = found._modules[part]
    return found


def _check_hidden_steps(module: Any) -> None:
    """Refuse to infer what the tensors cannot show but the live object does: an activation between layers."""
    for path, part in module.named_modules():
        kind = _kind(part)
        if kind and kind not in _INERT | _CONTAINERS and not part.state_dict():
            word = _ACTIVATIONS.get(kind)
            where = f"put {word!r} where it comes" if word else "which cgru does not run, unless it does nothing here"
            raise UnsupportedError(
                f"{path} is a torch.nn.{kind}, and a class of one's own does not say where it comes: say the "
                f"order of all layers by layers=, {where}; modules with weights are "
                f"{', '.join(repr(name) for name, child in module.named_modules() if child._parameters)}"
            )


def _table_kinds(module: Any) -> dict[str, str]:
    """Which lone weights are tables and which matrices, as only the live object can tell."""
    kinds = {"Embedding": "embedding", "Linear": "dense"}
    return {path: kinds[_kind(part)] for path, part in module.named_modules() if _kind(part) in kinds}


def _nonlinearities(module: Any) -> dict[str, str]:
    """What each nn.RNN applies, which its tensors do not tell."""
    return {path: part.nonlinearity for path, part in module.named_modules() if _kind(part) in ("RNN", "RNNCell")}


def _tensors(state: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """A state_dict as arrays."""
    arrays = {}
    for name, value in state.items():
        try:
            arrays[name] = np.asarray(plain(value))
        except Exception as error:
            raise UnsupportedError(f"{name}: a {type(value).__name__} that is no array of numbers ({error})") from error
    return arrays


def _tensor_file(state: Mapping[str, Any], shown: str) -> TensorFile:
    """A state_dict as if it were a file; two names of one tensor are aliases, as in a file."""
    with errors_name(shown):
        if not all(isinstance(name, str) for name in state):
            raise CgruError("expected a mapping from tensor name to tensor")
        arrays = _tensors(state)
    seen: dict[Any, str] = {}
    aliases = {}
    for name, value in state.items():
        view = _memory(value)
        if view is not None and seen.setdefault(view, name) != name:
            aliases[name] = seen[view]
    return TensorFile(shown, "torch", arrays, aliases)


def _memory(value: Any) -> Any:
    """What tells two torch tensors that show the same memory the same way, or None."""
    if not hasattr(value, "data_ptr") or not value.numel():
        return None
    return value.data_ptr(), tuple(value.shape), value.stride(), value.dtype
