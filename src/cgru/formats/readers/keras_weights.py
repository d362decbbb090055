"""Where a Keras layer finds its arrays: by counted class names in ``.keras``, by lists of names in legacy files."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np

from ...errors import FormatError, UnsupportedError
from .keras_graph import Entry


class Weights(Protocol):
    """Where a layer finds its arrays; ``take`` gives those of one group, in the order of ``slots``."""

    def layer(self, key: str, name: str) -> Weights:
        """Those of a layer of a model: ``key`` is its class name in snake case, counted; ``name`` its own."""
        ...

    def part(self, path: str, name: str | None = None) -> Weights:
        """Those of a part of a layer, such as the cell of a recurrent one."""
        ...

    def take(self, slots: Sequence[str], where: str) -> list[np.ndarray]: ...

    def order(self, items: Sequence[Entry]) -> list[int]:
        """The order in which the layers of a nested model must take their weights."""
        ...

    def check_all_used(self) -> None: ...


class PathWeights:
    """The layout of ``.keras``: ``layers/gru/cell/vars/0``; parts are found by counted class names.

    ``names`` maps the path of a ``vars`` group to the name of the layer whose it is; a name that is not the
    configuration's means the weights belong to another model.
    """

    def __init__(
        self,
        tensors: Mapping[str, np.ndarray],
        names: Mapping[str, str],
        aliases: Mapping[str, str],
        path: str = "",
        used: set[str] | None = None,
    ) -> None:
        self.tensors, self.names, self.aliases, self.path = tensors, names, aliases, path
        self.used: set[str] = set() if used is None else used

    def layer(self, key: str, name: str) -> PathWeights:
        return self.part(f"layers/{key}", name)

    def part(self, path: str, name: str | None = None) -> PathWeights:
        inner = f"{self.path}/{path}" if self.path else path
        found = self.names.get(f"{inner}/vars")
        if name is not None and found is not None and found != name:
            raise FormatError(
                f"the weights at {inner!r} belong to a layer named {found!r}; the configuration has {name!r}"
            )
        return PathWeights(self.tensors, self.names, self.aliases, inner, self.used)

    def take(self, slots: Sequence[str], where: str) -> list[np.ndarray]:
        arrays = []
        for index, slot in enumerate(slots):
            path = f"{self.path}/vars/{index}"
            if path not in self.tensors:
                raise FormatError(f"{where}: the array {path!r} ({slot}) is missing")
            # Two paths of one array would let a small file grow with every layer.
            first = self.aliases.get(path, path)
            if first in self.used:
                raise FormatError(f"{where}: the array {path!r} ({slot}) is that of another layer, {first!r}")
            self.used.add(first)
            array = self.tensors[path]
            arrays.append(array if slot == "count" else _floats(array, f"{where}: {path!r} ({slot})"))
        return arrays

    def order(self, items: Sequence[Entry]) -> list[int]:
        return list(range(len(items)))

    def check_all_used(self) -> None:
        for path in self.tensors:
            if path.startswith("optimizer/") or "/seed_generator/vars/" in path:
                continue
            if self.aliases.get(path, path) not in self.used:
                raise FormatError(f"nothing in the configuration uses the array {path!r}")


class GroupedWeights:
    """The layout of legacy ``.h5`` files and of live models: for each layer a list of (name, array) to take from."""

    def __init__(self, groups: Mapping[str, list[tuple[str, np.ndarray]]]) -> None:
        self.groups = {name: _Queue(items) for name, items in groups.items()}

    def layer(self, key: str, name: str) -> _Queue:
        return self.groups.get(name) or _Queue([])

    def part(self, path: str, name: str | None = None) -> Weights:
        return self

    def take(self, slots: Sequence[str], where: str) -> list[np.ndarray]:
        raise FormatError(f"{where}: has no weights of its own")

    def order(self, items: Sequence[Entry]) -> list[int]:
        return list(range(len(items)))

    def check_all_used(self) -> None:
        for layer, queue in self.groups.items():
            if queue.items:
                raise FormatError(
                    f"nothing in the configuration uses the array {queue.items[0][0]!r} of layer {layer!r}"
                )


class _Queue:
    """One layer's arrays, taken in order; the names they end in must be those expected.

    A nested model lists statistics (``moving_mean``) behind the weights of all its layers: they are found by the
    ``inner`` layer's name in their path.
    """

    def __init__(self, items: Sequence[tuple[str, np.ndarray]], inner: str = "") -> None:
        self.items = items if isinstance(items, deque) else deque(items)
        self.inner = inner

    def layer(self, key: str, name: str) -> _Queue:
        return _Queue(self.items, name)

    def part(self, path: str, name: str | None = None) -> _Queue:
        return self

    def take(self, slots: Sequence[str], where: str) -> list[np.ndarray]:
        arrays = []
        for slot in slots:
            if not self.items:
                raise FormatError(f"{where}: the array {slot!r} is missing")
            if slot in STATISTICS:
                self._bring_forward(slot, where)
            name, array = self.items.popleft()
            if _last_word(name) not in slot.split("|"):
                raise FormatError(f"{where}: found the array {name!r} where {slot!r} was expected")
            arrays.append(_floats(array, f"{where}: {name!r}") if slot != "count" else array)
        return arrays

    def _bring_forward(self, slot: str, where: str) -> None:
        """Move the statistic of the layer at hand to the head of the queue."""
        found = [i for i, (name, _) in enumerate(self.items) if _last_word(name) == slot]
        own = [i for i in found if self.inner in self.items[i][0].split("/")] or found
        if len(own) > 1 and self.inner and own == found:
            raise FormatError(f"{where}: several arrays are named {slot!r}, and none of them by the layer")
        if own:
            self.items.rotate(-own[0])
            item = self.items.popleft()
            self.items.rotate(own[0])
            self.items.appendleft(item)

    def order(self, items: Sequence[Entry]) -> list[int]:
        """Keras lists a nested model's trainable weights before its frozen ones."""
        return sorted(range(len(items)), key=lambda index: items[index].config.get("trainable") is False)

    def check_all_used(self) -> None:
        pass


#: Weights that are never trained, which a nested model lists behind all that are.
STATISTICS = ("moving_mean", "moving_variance", "mean", "variance", "count")


def _last_word(name: str) -> str:
    return name.rpartition("/")[2].partition(":")[0]


def _floats(array: np.ndarray, where: str) -> np.ndarray:
    if array.dtype.kind != "f":
        raise UnsupportedError(f"{where} has dtype {array.dtype}; quantised weights are not read, save the float model")
    return array
