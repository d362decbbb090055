"""Streams and pools whose steps go straight to the C network."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ..pool import MOST, Pool
from ..stream import Stream, admit_step
from ._packed import BatchStepper, ChoiceStepper
from .flow import Flow

if TYPE_CHECKING:
    from ..model import Model


class PackedStream(BatchStepper, Stream):
    """A stream over the packed backend; :meth:`step` is the C call and little else."""

    __reduce__ = Stream.__reduce__  # before that of the extension type, which refuses

    def __init__(self, net: Model, batch: int) -> None:
        Stream.__init__(self, net, batch)
        stage: Any = net._stages(None)[0]
        self._bind(stage.net, self._data)

    def _advance(self, x: np.ndarray, threads: int) -> Any:
        # In place: the C network fails before it writes, or not at all.
        return self.net._stages(None)[0].run(Flow(x), self._data, threads).x

    def _admit(self, x: Any) -> tuple[np.ndarray, bool]:
        return admit_step(self.net, x, self.batch)


class PackedPool(ChoiceStepper, Pool):
    """A pool over the packed backend: the states stay where they are and are stepped in place."""

    def __init__(self, net: Model, capacity: int) -> None:
        Pool.__init__(self, net, capacity)
        stage: Any = net._stages(None)[0]
        self._bind(stage.net, self._data)
        self._name(self._owner, self._place, MOST)
