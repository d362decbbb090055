"""Streams and pools whose steps go straight to the core."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ...errors import UnsupportedError
from ..pool import MOST, Pool
from ..stream import Stream
from ._packed import BatchStepper, IndexedStepper

if TYPE_CHECKING:
    from ..model import Model


class CoreStream(BatchStepper, Stream):
    """A stream of a network with one input and a frame of its outputs for every step: :meth:`step` is the C call and
    little else."""

    __reduce__ = Stream.__reduce__  # before that of the extension type, which refuses

    def __init__(self, net: Model, batch: int) -> None:
        Stream.__init__(self, net, batch)
        self._bind(net._plan(None).core, self._data)

    def _admit(self, x: Any) -> tuple[np.ndarray, bool]:
        only = self.net._inputs.only
        assert only is not None
        return only.admit_frame(x, self.batch)


class SplitCoreStream(CoreStream):
    """The same where there are several outputs: a mapping by name."""

    def step(self, x: Any, out: Any = None) -> Any:
        if out is not None:
            raise UnsupportedError("out: the network yields several arrays; leave out= away")
        return self.net._split(super().step(x))


class CorePool(IndexedStepper, Pool):
    """A pool over the core: the states stay where they are and are stepped in place."""

    def __init__(self, net: Model, capacity: int) -> None:
        Pool.__init__(self, net, capacity)
        self._bind(net._plan(None).core, self._data)
        self._name(self._owner, self._place, MOST)


class SplitCorePool(CorePool):
    """The same where there are several outputs: a mapping by name."""

    def step(self, sids: Any, x: Any, out: Any = None, *, threads: Any = None) -> Any:
        if out is not None:
            raise UnsupportedError("out: the network yields several arrays; leave out= away")
        return self.net._split(super().step(sids, x, threads=threads))
