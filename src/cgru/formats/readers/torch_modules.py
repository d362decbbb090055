"""Whole pickled torch modules → layers: what their classes tell, and the rest as for tensors alone.

A ``Sequential`` is a chain by definition, so one of classes known here needs nothing else. Another class keeps its
forward() in Python code, which is never run: its layers are inferred where all of its parts are known and leave one
reading, as those of a state_dict are, and else named in ``layers=``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ...builder import Graph
from ...errors import UnsupportedError
from ...layers import Layer
from ..containers.messages import some
from ..containers.tensorfile import Module, TensorFile
from .naming import error_prefix
from .torch_words import network_from

_NN = "torch.nn.modules."
_SEQUENTIAL = (_NN + "container.Sequential",)
_RECURRENT = tuple(_NN + f"rnn.{name}" for name in ("GRU", "LSTM", "RNN", "GRUCell", "LSTMCell", "RNNCell"))
_TABLES = {_NN + "sparse.Embedding": "embedding", _NN + "linear.Linear": "dense"}
_NOTHING = tuple(_NN + name for name in (
    "linear.Identity", "dropout.Dropout", "dropout.Dropout1d", "dropout.AlphaDropout",
))  # fmt: skip
#: The options with which an activation is the one that cgru knows by this word.
_ACTIVATIONS: dict[str, tuple[str, dict[str, tuple[object, ...]]]] = {
    _NN + "activation.ReLU": ("relu", {}),
    _NN + "activation.Tanh": ("tanh", {}),
    _NN + "activation.Sigmoid": ("sigmoid", {}),
    _NN + "activation.Softsign": ("softsign", {}),
    _NN + "activation.Softplus": ("softplus", {"beta": (1, 1.0), "threshold": (20, 20.0)}),
    _NN + "activation.ELU": ("elu", {"alpha": (1, 1.0)}),
    _NN + "activation.Softmax": ("softmax", {"dim": (-1,)}),
}


def layers_of(file: TensorFile, said: str | Sequence[Any] | None, prefix: str | None) -> list[Layer] | Graph:
    """The layers of a file that holds a whole module; ``said`` and ``prefix`` are as for :func:`cgru.load`.

    Raises :class:`UnsupportedError` with what to pass where the module's classes do not tell its layers.
    """
    head = f"{prefix.rstrip('.')}." if prefix else ""
    below = {path[len(head) :]: module for path, module in file.modules.items() if path.startswith(head)}
    if head and head[:-1] in file.modules:
        below[""] = file.modules[head[:-1]]
    kinds = {path: _TABLES[module.cls] for path, module in below.items() if module.cls in _TABLES}
    words = {path: word for path, module in below.items() if (word := _nonlinearity(module))}
    with error_prefix(file.shown):
        for path, module in below.items():
            _check_options(path, module)
        if said is None and below.get("", Module("", {})).cls in _SEQUENTIAL:
            said = _chain(below)
        elif said is None:
            _check_parts(below)
    return network_from(file, said, prefix, kinds, words)


def _nonlinearity(module: Module) -> str | None:
    if not module.cls.startswith(_NN + "rnn.RNN"):
        return None
    mode = module.options.get("mode", module.options.get("nonlinearity"))
    return {"RNN_TANH": "tanh", "RNN_RELU": "relu", "tanh": "tanh", "relu": "relu"}.get(str(mode))


def _check_options(path: str, module: Module) -> None:
    if module.cls == _NN + "sparse.Embedding" and module.options.get("max_norm") is not None:
        raise UnsupportedError(f"{path or 'the module'} is an Embedding with max_norm, which changes it while it runs")


def _chain(modules: Mapping[str, Module], at: str = "") -> list[Any]:
    """``layers=`` for the Sequential at ``at``; what it holds comes in the order in which data passes it."""
    said: list[Any] = []
    inside = [path for path in modules if path and path.rpartition(".")[0] == at]
    for path in inside:
        module = modules[path]
        # Only a recurrent module is named by its path alone here.
        if said and isinstance(said[-1], str) and said[-1] in modules:
            raise UnsupportedError(
                f"{path} follows the recurrent {said[-1]} in a Sequential, which would get its state as well, and "
                f"cannot run so; pass layers= with the modules in the order data passes them"
            )
        if module.cls in _SEQUENTIAL:
            said += _chain(modules, path)
        elif module.cls in _RECURRENT:
            said.append(path)
        elif module.cls in _TABLES:
            said.append({_TABLES[module.cls]: path})
        elif module.cls in _ACTIVATIONS:
            said.append(_activation(path, module))
        elif module.cls not in _NOTHING:
            raise UnsupportedError(f"{path} is a {module.cls}, which cgru does not run; it runs {_known()}")
    return said


def _activation(path: str, module: Module) -> str:
    word, wanted = _ACTIVATIONS[module.cls]
    for option, values in wanted.items():
        if option in module.options and module.options[option] not in values:
            found = f"{option}={module.options[option]!r}"
            raise UnsupportedError(f"{path} is a {module.cls} with {found}; cgru runs {option}={values[0]!r}")
    return word


def _check_parts(modules: Mapping[str, Module]) -> None:
    """A class of its own is inferred as tensors are, if nothing in it could change what lies between them."""
    known = (*_RECURRENT, *_TABLES, *_NOTHING)
    parents = {path.rpartition(".")[0] for path in modules if path}
    leaves = {path: module.cls for path, module in modules.items() if path not in parents}
    strange = [f"{path} ({cls})" for path, cls in leaves.items() if cls not in known]
    if "" in modules and len(modules) > 1 and strange:
        raise UnsupportedError(
            f"holds a whole {modules[''].cls}, whose forward() is code that is not run, with parts that its tensors do "
            f"not place: {some(strange)}; name the modules and activations in the order data passes them: layers=[…]"
        )


def _known() -> str:
    return some(name.rpartition(".")[2] for name in (*_RECURRENT, *_TABLES, *_ACTIVATIONS, *_NOTHING))


