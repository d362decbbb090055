"""Streams and pools whose steps go straight to the C network."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ...errors import UnsupportedError
from ..graph_pool import GraphPool
from ..graph_stream import GraphStream
from ..pool import MOST, Pool
from ..stream import Stream, admit_step
from ._packed import BatchStepper, IndexedStepper
from .flow import Flow

if TYPE_CHECKING:
    from ..graph_model import GraphModel
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


class PackedPool(IndexedStepper, Pool):
    """A pool over the packed backend: the states stay where they are and are stepped in place."""

    def __init__(self, net: Model, capacity: int) -> None:
        Pool.__init__(self, net, capacity)
        stage: Any = net._stages(None)[0]
        self._bind(stage.net, self._data)
        self._name(self._owner, self._place, MOST)


class PackedGraphStream(BatchStepper, GraphStream):
    """A stream of a graph with one input and frames for every step; :meth:`step` is the C call and little else."""

    __reduce__ = Stream.__reduce__

    def __init__(self, net: GraphModel, batch: int, state: Any = None) -> None:
        GraphStream.__init__(self, net, batch, state)
        runner: Any = net._runner(None)
        self._bind(runner.net, self._data)

    def _admit(self, x: Any) -> tuple[np.ndarray, bool]:
        return admit_step(self.net, x, self.batch)


class SplitGraphStream(PackedGraphStream):
    """The same where there are several outputs: a mapping by name."""

    def step(self, x: Any, out: Any = None) -> Any:
        if out is not None:
            raise UnsupportedError("out: the network yields several arrays; leave out= away")
        return self.net._split(super().step(x))


class PackedGraphPool(IndexedStepper, GraphPool):
    """A pool of a graph: the states stay where they are and are stepped in place."""

    def __init__(self, net: GraphModel, capacity: int) -> None:
        GraphPool.__init__(self, net, capacity)
        runner: Any = net._runner(None)
        self._bind(runner.net, self._data)
        self._name(self._owner, self._place, MOST)


class SplitGraphPool(PackedGraphPool):
    """The same where there are several outputs: a mapping by name."""

    def step(self, sids: Any, x: Any, out: Any = None, *, threads: Any = None) -> Any:
        if out is not None:
            raise UnsupportedError("out: the network yields several arrays; leave out= away")
        return self.net._split(super().step(sids, x, threads=threads))
