"""Which part of a torch pickle is the model, and its tensors by their joined names.

A checkpoint is entered where its model lies; dicts, lists and whole modules are walked. A module is read as a tree of
data: its class is a name, its hyperparameters are numbers and words, its parameters and buffers are tensors.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TypeGuard, cast

from ...errors import FormatError, UnsupportedError
from .object_tree import MAX_NAME, ObjectTree
from .pickle_values import Record, describe
from .tensorfile import Module
from .torch_tensors import Tensor

# The first says what it is even where tensors stand beside it.
_MODEL_KEYS = ("model_state_dict", "model_state", "model", "net", "network", "weights")
_PLAIN = (bool, int, float, str, type(None))


class Tree(ObjectTree):
    """One pickle's value while its tensors are being named; ``modules`` fills with the modules that are met."""

    wanted = "tensors"

    def __init__(self, shown: str) -> None:
        super().__init__(shown)
        self.modules: dict[str, Module] = {}
        self.state_dicts: dict[int, bool] = {}

    def tensors(self, root: object) -> dict[str, Tensor]:
        """The tensors of the model in ``root`` by name, without what wrappers put before the names."""
        found = cast("dict[str, Tensor]", self.flatten(self.model_in(root)))
        if not found:
            raise FormatError(f"{self.shown}: holds no tensors; expected a state_dict")
        return self.without_wrappers(found)

    def model_in(self, root: object) -> object:
        """The part of ``root`` that holds the model's tensors."""
        if not isinstance(root, dict):
            if isinstance(root, Tensor):
                raise UnsupportedError(f"{self.shown}: holds one bare tensor; expected a state_dict")
            if isinstance(root, Record) and not is_module(root):
                raise UnsupportedError(f"{self.shown}: holds a {describe(root)}, neither a state_dict nor a module")
            return root
        if self.is_state_dict(root.get("state_dict")):
            return root["state_dict"]
        states = [key for key, value in root.items() if self.is_state_dict(value)]
        if len(states) == 1 and states[0] in (_MODEL_KEYS[:1] if self.is_state_dict(root) else _MODEL_KEYS):
            return root[states[0]]
        modules = [value for value in root.values() if is_module(value)]
        return modules[0] if len(modules) == 1 and not states else root

    def is_leaf(self, value: object) -> bool:
        return isinstance(value, Tensor)

    def members(self, value: object) -> Iterable[tuple[object, object]] | None:
        return _held(value.state) if is_module(value) else super().members(value)

    def enter(self, name: str, value: object) -> bool:
        if is_module(value):
            self.modules[name] = Module(describe(value), _options(value.state))
        # An optimizer's state is no part of the network.
        return not (isinstance(value, dict) and "param_groups" in value and "state" in value)

    def passed(self, name: str, value: Record, parent: object) -> None:
        """A record in place of a tensor must not vanish; one among hyper-parameters may."""
        made_from = describe(value)
        if self.is_state_dict(parent) or (made_from.startswith("torch.") and "._rebuild" in made_from):
            raise UnsupportedError(
                f"{self.shown}: {name!r} is a {made_from}, not a plain dense tensor; convert it before "
                "saving, or leave it out"
            )

    def is_state_dict(self, value: object) -> bool:
        """Whether ``value`` is a dict that holds tensors itself."""
        found = self.state_dicts.get(id(value))
        if found is None:
            # A lone scalar tensor (a loss, an epoch) does not make its dict a state_dict.
            found = isinstance(value, dict) and any(isinstance(v, Tensor) and v.shape != () for v in value.values())
            self.state_dicts[id(value)] = found
        return found

    def without_wrappers(self, found: dict[str, Tensor]) -> dict[str, Tensor]:
        """Names without what torch.compile (`_orig_mod`, anywhere) and DataParallel (`module`, in front) add."""
        paths = list(dict.fromkeys([*found, *self.modules]))
        names = {path: ".".join(part for part in path.split(".") if part != "_orig_mod") for path in paths}
        while all(names[path].startswith("module.") for path in found):
            names = {path: name.removeprefix("module").removeprefix(".") for path, name in names.items()}
        new = [names[path] for path in found]
        if len(set(new)) != len(new) or "" in new:
            return found
        # A wrapper's path becomes that of the module inside it, which comes later and is what it says.
        self.modules = {names[path]: module for path, module in self.modules.items()}
        return dict(zip(new, found.values(), strict=True))


def is_module(value: object) -> TypeGuard[Record]:
    """Whether ``value`` is a pickled ``torch.nn.Module``, whatever its class."""
    state = value.state if isinstance(value, Record) else None
    return isinstance(state, dict) and all(isinstance(state.get(key), dict) for key in ("_parameters", "_modules"))


def _held(state: object) -> Iterator[tuple[object, object]]:
    """Parameters, the buffers that a state_dict would hold, and modules, as ``Module.state_dict`` orders them."""
    assert isinstance(state, dict)
    skipped = state.get("_non_persistent_buffers_set")
    left_out = {name for name in skipped.elements if isinstance(name, str)} if isinstance(skipped, Record) else set()
    for kind in ("_parameters", "_buffers", "_modules"):
        held = state.get(kind)
        for name, value in held.items() if isinstance(held, dict) else ():
            if kind != "_buffers" or not isinstance(name, str) or name not in left_out:
                yield name, value


def _options(state: object) -> dict[str, object]:
    """The hyperparameters of a module: its public attributes that are plain and short."""
    assert isinstance(state, dict)
    return {
        key: value
        for key, value in state.items()
        if isinstance(key, str) and not key.startswith("_") and isinstance(value, _PLAIN)
        if not isinstance(value, str) or len(value) <= MAX_NAME
    }
