"""Layers run by themselves: ``gru(x, h0)``, ``dense(x)``, ``embedding(ids)``."""

from __future__ import annotations

from typing import Any

from ..arrays import Float32
from ..errors import CgruError
from ..layers.base import Layer
from ..layers.conventions import plain
from ..layers.recurrent import Recurrent
from .model import Model


class Alone:
    """The network of one layer, which the layer keeps: what :meth:`cgru.layers.base.Layer.__call__` calls."""

    def __init__(self, layer: Layer) -> None:
        self.model = Model([layer])

    def __call__(self, x: Any, lengths: Any, mask: Any, threads: int | str | None, backend: str | None) -> Any:
        return self.model(plain(x), lengths=lengths, mask=mask, threads=threads, backend=backend)


class RecurrentAlone:
    """The same of a recurrent layer, which takes and gives states as torch does."""

    def __init__(self, layer: Recurrent) -> None:
        self.model = Model([layer])
        #: The arrays of its state that a caller gives and takes, and the layout's names of them.
        self._carried = layer.cell.carried
        self._keys = [f"{layer.name}.{name}" for name in self._carried]

    def __call__(
        self, x: Any, h0: Any, lengths: Any, mask: Any, threads: int | str | None, backend: str | None
    ) -> tuple[Any, Any]:
        model, layout = self.model, self.model._layout
        given = model._inputs.admit(plain(x))
        state = layout.zeros(given.batch)
        if h0 is not None:
            self._place(state, h0)
        out = model._run(given, state, lengths, mask, None, threads, backend)
        last = tuple([layout.array(state, key) for key in self._keys])
        if given.single:
            last = tuple([array[:, 0] for array in last])
        return out, last[0] if len(last) == 1 else last

    def _place(self, state: Float32, h0: Any) -> None:
        """Write what a caller gives as ``h0``, or as a tuple of h0 and c0."""
        parts = (h0,) if len(self._carried) == 1 else h0
        if not isinstance(parts, tuple) or len(parts) != len(self._carried):
            raise CgruError(f"h0: expected a tuple of {len(self._carried)} arrays ({', '.join(self._carried)})")
        for name, key, part in zip(self._carried, self._keys, parts, strict=True):
            self.model._layout.place(state, key, plain(part), f"{name}0")


def alone(layer: Layer) -> Alone | RecurrentAlone:
    """What runs a layer by itself."""
    return RecurrentAlone(layer) if isinstance(layer, Recurrent) else Alone(layer)
