"""Runs a live torch module in evaluation mode, on arrays, and leaves it as it was."""

from __future__ import annotations

import copy
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np

from ..errors import CgruError, UnsupportedError
from ..layers.conventions import plain

RECURRENT = frozenset(("GRU", "LSTM", "RNN"))
_CELLS = frozenset(("GRUCell", "LSTMCell", "RNNCell"))
#: Where a module keeps what it registers; each is a dict that forward() may change.
_REGISTRIES = ("_parameters", "_buffers", "_modules")


def kind_of(module: Any) -> str:
    """The name of one of torch's own module classes; "" for a loss or a class of somebody's own."""
    kind = type(module)
    own = kind.__module__.startswith("torch.nn.modules.") and not kind.__module__.endswith(".loss")
    return kind.__name__ if own else ""


class Runnable:
    """A module that is ready to run on arrays, in the precision and on the device of its parameters."""

    def __init__(self, module: Any) -> None:
        self.module = module
        self._torch: Any = sys.modules["torch"]
        first = next(iter(module.parameters()), None)
        self._dtype = self._torch.float32 if first is None else first.dtype

    def whole(self, x: np.ndarray) -> Any:
        """What the module's own forward() gives: an array, of several results the first."""
        return _first_array(self.module(self.tensor(x)))

    def by_parts(self, x: np.ndarray) -> Any:
        """The parts of a Sequential in turn, recurrent ones passing on their outputs, batch first."""
        if not any(kind_of(part) in RECURRENT | _CELLS for part in self.module.modules()):
            return self.whole(x)
        return plain(self._part(self.module, self.tensor(x)))

    def tensor(self, x: np.ndarray) -> Any:
        """An array as the module takes it."""
        tensor = self._torch.from_numpy(np.array(x))
        return tensor.to(self._dtype) if tensor.is_floating_point() else tensor

    def _part(self, module: Any, x: Any) -> Any:
        kind = kind_of(module)
        if kind == "Sequential":
            for child in module._modules.values():
                x = self._part(child, x)
            return x
        if kind in _CELLS:
            return self._stepped(module, x, kind)
        if kind in RECURRENT:
            return module(x)[0] if module.batch_first else module(x.transpose(0, 1))[0].transpose(0, 1)
        return module(x)

    def _stepped(self, cell: Any, x: Any, kind: str) -> Any:
        state, outputs = None, []
        for t in range(x.shape[1]):
            state = cell(x[:, t], state)
            outputs.append(state[0] if kind == "LSTMCell" else state)
        return self._torch.stack(outputs, 1)


@contextmanager
def evaluating(module: Any) -> Iterator[Runnable]:
    """The module ready to run, without gradients or dropout; as it was once the block ends.

    Training flags, attributes and buffers are put back and torch's random state is kept; hooks run and stay. Where the
    parameters are on another device or too coarse to compare with, a float32 copy on the CPU runs instead.
    """
    torch: Any = sys.modules["torch"]
    parameters = list(module.parameters())
    exact = (torch.float32, torch.float64)
    if any(held.device.type != "cpu" or held.dtype not in exact for held in parameters) or (
        len({held.dtype for held in parameters}) > 1
    ):
        try:
            module = copy.deepcopy(module).cpu().float()
        except Exception as error:
            raise CgruError(
                f"it is not float32 on the CPU, and no such copy can be made to compare with ({error}); leave the "
                "comparison out by verify=False"
            ) from error
    parts = list(module.modules())
    flags = [part.training for part in parts]
    with torch.random.fork_rng(devices=[]), torch.no_grad(), _attributes_kept(torch, parts):
        try:
            for part in parts:
                part.training = False
            yield Runnable(module)
        finally:
            for part, flag in zip(parts, flags, strict=True):
                part.training = flag


@contextmanager
def _attributes_kept(torch: Any, parts: list[Any]) -> Iterator[None]:
    """Put back what forward() stores in the modules: attributes, registrations, and the values of buffers."""
    # A scripted module keeps its attributes in C++, where assigning to one changes its type for good.
    python = [part for part in parts if not isinstance(part, torch.jit.ScriptModule)]
    held = [(part, dict(vars(part)), {key: dict(vars(part)[key]) for key in _REGISTRIES}) for part in python]
    buffers = [(buffer, buffer.clone()) for part in parts for buffer in part.buffers(recurse=False)]
    try:
        yield
    finally:
        for part, attributes, registries in held:
            vars(part).clear()
            vars(part).update(attributes)
            for key, entries in registries.items():
                vars(part)[key].clear()
                vars(part)[key].update(entries)
        for buffer, value in buffers:
            if not torch.equal(buffer, value):
                buffer.copy_(value)


def _first_array(value: Any) -> np.ndarray:
    """The outputs in what a forward() returns: the tensor itself, or the first of several."""
    found = value
    while isinstance(found, (tuple, list)) and not hasattr(found, "batch_sizes") and found:
        found = found[0]
    if not hasattr(found, "detach"):
        what = f"a mapping with {', '.join(map(repr, found))}" if isinstance(found, Mapping) else type(value).__name__
        raise UnsupportedError(
            f"its forward() returns {what[:200]}, where a tensor is expected, or a tuple that begins with one; leave "
            "the comparison out by verify=False"
        )
    array: np.ndarray = plain(found)
    return array
