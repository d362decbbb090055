"""A live PyTorch module → a network. PyTorch is not imported: the module brings its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from ..arrays import optional_text
from ..builder import Graph
from ..engine.model import Model
from ..errors import CgruError, UnsupportedError
from ..formats.containers.tensorfile import TensorFile
from ..formats.readers.naming import error_prefix
from ..formats.readers.torch_layers import assumption
from ..formats.readers.torch_words import network_from
from ..layers import GRU, LSTM, RNN, Activation, Dense, Embedding, Layer
from ..layers.conventions import plain
from ..layers.live import ACTIVATIONS
from .torch_export import Untraceable
from .torch_run import RECURRENT, evaluating, kind_of
from .torch_trace import followed
from .verification import random_inputs, verify_against

#: torch modules that do nothing once training is over.
_INERT = frozenset(
    ("AlphaDropout", "Dropout", "Dropout1d", "Dropout2d", "Dropout3d", "FeatureAlphaDropout", "Identity")
)

_CONTAINERS = frozenset(("ModuleDict", "ModuleList", "Sequential"))
_FORWARDLESS = frozenset(("ModuleDict", "ModuleList"))


def from_torch(
    module: Any,
    *,
    example: Any = None,
    layers: str | Sequence[Any] | None = None,
    prefix: str | None = None,
    verify: bool = True,
    backend: str | None = None,
) -> Model:
    """A network from a live torch module, or from the mapping that ``module.state_dict()`` gives.

    An nn.GRU, LSTM, RNN, one of their cells, a Linear, Embedding, activation, or an nn.Sequential of these
    (Dropout and Identity go) says itself what it is. In a Sequential a recurrent module passes on its outputs, not
    its state. Of any other module forward() is followed, by ``torch.export`` on ``example``: what the module takes, a
    tensor, a tuple, or a dict of arguments by name; without it, on an input made of what its parts take. Branches,
    several inputs and outputs, loops over cells and changes of axes come over; final states among the outputs are
    those that ``net.run`` gives. Where torch.export cannot follow forward(), or by ``layers`` and ``prefix``, the
    layers are taken from the tensors as :func:`cgru.load` takes them. The weights are copied.

    Module and network then run side by side, the module in evaluation mode and left as it was, on ``example`` or on
    three random inputs, and on one with more rows and steps. ``verify=False`` leaves that out, and ``print(net)``
    says so. A ``state_dict()`` cannot run; its network is inferred, and unverified.

    cgru's arrays are batch first, (B, T, I), also where the module takes (T, B, I) or (B, I, T); ``print(net)`` then
    says so.

    Raises :class:`UnsupportedError` naming the module, or the operator and the line of forward(), that cgru does not
    run, and with the difference where module and network disagree.
    """
    if isinstance(module, Mapping):
        if example is not None:
            raise CgruError("example: a state_dict cannot run; pass the module itself, or compare with cgru.verify")
        found = network_from(_tensor_file(module, "state_dict"), layers, prefix)
        net = Model(found, backend=backend)
        return net if layers is not None else net.noting(assumption(net.layers))
    if not hasattr(module, "state_dict") or not hasattr(module, "_modules"):
        raise CgruError(
            f"module: expected a torch module or its state_dict(), found {type(module).__name__}; cgru.load reads files"
        )
    shown = type(module).__name__
    with error_prefix(shown), _told_of_pairs(module):
        if optional_text(prefix, "prefix") and prefix:
            module, prefix = _submodule(module, prefix), None
        untraced = ""
        if layers is None and kind_of(module) not in _FORWARDLESS:
            whole, untraced = _followed(module, example, verify, backend)
            if whole is not None:
                return whole
        if isinstance(example, (tuple, Mapping)):
            example = _only(example, untraced)
        try:
            net = Model(_layers(module, shown, layers, prefix), backend=backend)
        except UnsupportedError as error:
            if not untraced:
                raise
            raise UnsupportedError(f"{untraced}; and without it: {error}") from error
        if not verify:
            note = "not verified: from_torch was told verify=False"
            inferred = layers is None and not _says_itself(module)
            return net.noting(*([assumption(net.layers)] if inferred else []), note)
        try:
            return net.noting(_verified(net, module, example))
        except UnsupportedError as error:
            if not untraced:
                raise
            raise UnsupportedError(f"{untraced}; and without it: {error}") from error


@contextmanager
def _told_of_pairs(module: Any) -> Iterator[None]:
    """Errors about a module of an encoder and a decoder say how both become entries."""
    try:
        yield
    except CgruError as error:
        if {"encoder", "decoder"} <= {name for name, _ in module.named_children()}:
            error.args = (
                f"{error}; of an encoder and a decoder pass a module whose forward(source, tokens) runs the decoder "
                "over all tokens at once and gives the scores after each, with example=(source, tokens): "
                "net.encoder_decoder() then makes both entries of a search",
            )
        raise


def _followed(module: Any, example: Any, verify: bool, backend: str | None) -> tuple[Model | None, str]:
    """The network of a module whose forward() is followed, or None and why it could not be."""
    if _says_itself(module):
        try:
            list(_walk(module, ""))
            return None, ""
        except UnsupportedError:
            if any(kind_of(part) in RECURRENT for part in module.modules()):
                return None, ""  # torch itself cannot run such a Sequential
            try:
                return followed(module, example, verify=verify, backend=backend), ""
            except CgruError:
                if example is None:
                    return None, ""  # what the walk found says more than an example made here
                raise
    try:
        return followed(module, example, verify=verify, backend=backend), ""
    except Untraceable as error:
        return None, str(error)


def _only(example: Any, untraced: str) -> Any:
    """The one input of a network that is a chain of layers."""
    values = list(example.values() if isinstance(example, Mapping) else example)
    if len(values) != 1:
        raise UnsupportedError(untraced or f"example: layers= make a chain of one input, found {len(values)}")
    return values[0]


def _layers(module: Any, shown: str, layers: str | Sequence[Any] | None, prefix: str | None) -> list[Layer] | Graph:
    if layers is None and _says_itself(module):
        found = list(_walk(module, ""))
        if not found:
            raise UnsupportedError("holds no layer that cgru runs")
        return found
    if layers is None:
        _check_hidden_steps(module)
    file = _tensor_file(module.state_dict(), shown)
    return network_from(file, layers, prefix, _table_kinds(module), _nonlinearities(module))


def _verified(net: Model, module: Any, example: Any) -> str:
    """Run the module beside the network; what the network shall say about it."""
    # A Sequential with a recurrent part cannot run in torch, where that part gives a tuple; a recurrent module by
    # itself takes an example as it is.
    runs_itself = kind_of(module) in RECURRENT and example is not None
    by_parts = _says_itself(module) and not runs_itself
    inputs = random_inputs(net) if example is None else [np.asarray(plain(example))]
    late = [path for path, part in module.named_modules() if getattr(part, "batch_first", True) is False]
    with evaluating(module) as ready:
        hint = "" if by_parts else _advice(late)
        found = verify_against(net, ready.by_parts if by_parts else ready.whole, inputs, hint=hint)
    what = f"{len(inputs)} random inputs" if example is None else "the example"
    aside = "; the module has batch_first=False, but here x is (B, T, I)" if late and by_parts else ""
    return f"verified against the module on {what}: {found}{aside}"


def _advice(late: Sequence[str]) -> str:
    """What to do about a module that does something else; ``late`` are its parts that take time before rows."""
    if late:
        path = f"module.{late[0]}" if late[0] else "module"
        return (
            f"; {path} has batch_first=False, so it takes (T, B, I) where cgru takes (B, T, I): set "
            f"{path}.batch_first = True, which changes no weight, and hand the rows over first"
        )
    return (
        "; say what forward() does by layers= (a list in the order data passes, with 'relu', 'last_step' and the like "
        "between); a sum, product or attention of branches is none that cgru runs"
    )


def _says_itself(module: Any) -> bool:
    kind = kind_of(module)
    return bool(kind) and kind not in ("ModuleDict", "ModuleList")


def _walk(module: Any, path: str) -> Iterator[Layer]:
    """The layers of a module whose class says what it computes, in the order data passes."""
    kind = kind_of(module)
    if kind == "Sequential":
        # Not named_children(), which leaves out a module's second appearance.
        for key, child in module._modules.items():
            yield from _walk(child, f"{path}.{key}" if path else key)
    elif kind not in _INERT:
        name = path if path and not path.isdigit() else None
        with error_prefix(path or kind):
            yield _layer(module, kind, name)


def _layer(module: Any, kind: str, name: str | None) -> Layer:
    if kind in ACTIVATIONS:
        return Activation.from_torch(module, name=name)
    if kind not in _BUILDERS:
        what = f"torch.nn.{kind}" if kind else f"{type(module).__module__}.{type(module).__qualname__}"
        known = ", ".join(sorted((*_BUILDERS, *ACTIVATIONS)))
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
    "Linear": lambda _, tensors, name: Dense.from_torch(tensors, name=name),
    "Embedding": lambda _, tensors, name: Embedding.from_torch(tensors, name=name),
}


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
        kind = kind_of(part)
        if kind and kind not in _INERT | _CONTAINERS and not part.state_dict():
            word = ACTIVATIONS.get(kind)
            where = f"put {word!r} where it comes" if word else "which cgru does not run, unless it does nothing here"
            raise UnsupportedError(
                f"{path} is a torch.nn.{kind}, and a class of one's own does not say where it comes: say the "
                f"order of all layers by layers=, {where}; modules with weights are "
                f"{', '.join(repr(name) for name, child in module.named_modules() if child._parameters)}"
            )


def _table_kinds(module: Any) -> dict[str, str]:
    """Which lone weights are tables and which matrices, as only the live object can tell."""
    kinds = {"Embedding": "embedding", "Linear": "dense"}
    return {path: kinds[kind_of(part)] for path, part in module.named_modules() if kind_of(part) in kinds}


def _nonlinearities(module: Any) -> dict[str, str]:
    """What each nn.RNN applies, which its tensors do not tell."""
    return {path: part.nonlinearity for path, part in module.named_modules() if kind_of(part) in ("RNN", "RNNCell")}


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
    with error_prefix(shown):
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
