"""Streams over any graph: late by what its windows look ahead, and with as many frames as its rates give."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import ShapeError, UnsupportedError
from .state import State
from .stream import ExclusiveUse, Stream

if TYPE_CHECKING:
    from .graph_model import GraphModel


class GraphStream(ExclusiveUse, Stream):
    """A batch of rows advancing through a graph.

    ``delay`` is the number of steps by which its outputs are late (a centred convolution sees that far ahead): the
    first steps give so many frames fewer, and :meth:`flush` gives what is left at the end. Outputs without a time axis
    do not stream.
    """

    net: GraphModel

    def __init__(self, net: GraphModel, batch: int, state: State | Mapping[str, Any] | None = None) -> None:
        Stream.__init__(self, net, batch)
        ExclusiveUse.__init__(self)
        if state is not None:
            self._data[...] = net._state(state, batch)._data
        self.delay = net._layout.timing.delay
        self._ended = False
        #: What was given once beside the last chunk, which the frames kept back need as well.
        self._static: dict[str, np.ndarray] = {}

    def feed(self, chunk: Any, *, threads: int | str | None = None) -> Any:
        """Any number of steps; the frames that can be had of them, shaped as :meth:`Model.run` shapes them."""
        inputs, single, batch, _ = self.net._inputs(chunk)
        if batch != self.batch:
            raise ShapeError(f"chunk: the stream has {self.batch} rows, found {batch}")
        return self.net._given_back(self._moved(inputs, False), single)

    def flush(self) -> Any:
        """The frames that lookahead kept back, as at the end of the sequence; then the stream must be reset."""
        inputs = dict(self._static)
        for name, value in self.net.graph.inputs.items():
            if name not in self.net.graph.optional and name not in inputs:
                if value.clock is None or value.clock.root:
                    raise UnsupportedError(f"flush: nothing was fed, and the input {name!r} comes with a chunk")
                shape = (self.batch, 0, *value.features)
                inputs[name] = np.zeros(shape, np.int64 if value.dtype == "int64" else np.float32)
        made = self.net._given_back(self._moved(inputs, True), False)
        self._ended = not self.net._layout.timing.steady
        return made

    def step(self, x: Any, out: Any = None) -> Any:
        """One time step: (B, I) → (B, O), or (I,) → (O,). Refused where a step does not give one frame."""
        timing = self.net._layout.timing
        if not timing.steady and (
            timing.delay
            or any(
                value.clock is not None and value.clock.rate != 1
                for value in map(self.net.graph.values.get, self.net.graph.outputs)
                if value
            )
        ):
            raise UnsupportedError(
                f"step: one step of this network does not give one frame (its outputs are {timing.delay} steps late or "
                "of another rate); use feed() and flush()"
            )
        given = x if isinstance(x, Mapping) else {self.net._given[0]: x}
        arrays, singles = {}, set()
        for name, array in given.items():
            if name in self.net.graph.inputs:
                value, array = self.net.graph.inputs[name], np.asarray(array)
                single = array.ndim == len(value.features)
                singles.add(single)
                arrays[name] = array[None] if single else array[:, None]
            else:
                arrays[name] = array
        inputs, _, batch, _ = self.net._inputs({n: (a[None] if True in singles else a) for n, a in arrays.items()})
        if batch != self.batch:
            raise ShapeError(f"x: the stream has {self.batch} rows, found {batch}")
        made = {n: a[:, 0] if a.ndim > 1 else a for n, a in self._moved(inputs, False).items()}
        y = self.net._given_back(made, singles == {True})
        if out is not None:
            out[...] = y
            return out
        return y

    def _moved(self, inputs: dict[str, np.ndarray], ended: bool) -> dict[str, np.ndarray]:
        if self._ended:
            raise UnsupportedError("this stream was flushed: its sequence is over; reset() begins another")
        self._enter()
        try:
            state = self._data.copy()
            made = self.net._runner(None).run(inputs, state, ended=ended)
            self._data[...] = state
            self._static = {name: np.array(inputs[name]) for name in self.net.graph.static_inputs}
        finally:
            self._leave()
        return made

    def reset(self, rows: Any = None) -> None:
        if rows is not None and not self.net._layout.timing.steady:
            raise UnsupportedError(
                "rows: the rows of this stream advance together (lookahead, changed rates); reset all"
            )
        super().reset(rows)
        self._ended = False
