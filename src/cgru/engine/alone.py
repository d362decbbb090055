"""Layers run by themselves: ``gru(x, h0)``, ``dense(x)``, ``embedding(ids)``.

A layer knows nothing of what runs it; the package hands these functions to :mod:`cgru.layers.base`.
"""

from __future__ import annotations

from typing import Any

from ..errors import CgruError
from ..layers.base import Layer
from ..layers.conventions import plain
from ..layers.recurrent import Recurrent
from .model import Model
from .state import State


def run_layer(layer: Layer, x: Any, lengths: Any, mask: Any, threads: int | str | None, backend: str | None) -> Any:
    """What :meth:`cgru.layers.base.Layer.__call__` says."""
    return _model(layer)(plain(x), lengths=lengths, mask=mask, threads=threads, backend=backend)


def run_recurrent(
    layer: Recurrent, x: Any, h0: Any, lengths: Any, mask: Any, threads: int | str | None, backend: str | None
) -> tuple[Any, Any]:
    """What :meth:`cgru.layers.recurrent.Recurrent.__call__` says."""
    model = _model(layer)
    given = model._inputs.admit(plain(x))
    state = _initial(layer, model, h0, given.batch)
    out = model._run(given, state, lengths, mask, None, threads, backend)
    final = state._of_names(layer.cell.carried)
    last = tuple(final.values())
    if given.single:
        last = tuple(array[:, 0] for array in last)
    return out, last[0] if len(last) == 1 else last


def _model(layer: Layer) -> Model:
    """The network of that layer alone, kept with it."""
    model: Model | None = layer.alone
    if model is None:
        model = layer.alone = Model([layer])
    return model


def _initial(layer: Recurrent, model: Model, h0: Any, batch: int) -> State:
    """The state that a caller gives as ``h0``, or as a tuple of h0 and c0; zero where None."""
    state = State(model._layout, model._layout.zeros(batch))
    if h0 is not None:
        carried = layer.cell.carried
        parts = (h0,) if len(carried) == 1 else h0
        if not isinstance(parts, tuple) or len(parts) != len(carried):
            raise CgruError(f"h0: expected a tuple of {len(carried)} arrays ({', '.join(carried)})")
        for name, part in zip(carried, parts, strict=True):
            state.place(f"{layer.name}.{name}", plain(part), f"{name}0")
    return state
