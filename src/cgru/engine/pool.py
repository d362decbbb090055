"""Pools: many independent streams on one set of weights, stepped together whenever they have input."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from itertools import count
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import arrays
from ..arrays import Float32
from ..errors import ArgumentTypeError, CgruError, UnsupportedError
from ..forks import Lock, in_use
from ..spec.graph import refuse_unstreamable
from ..threads import resolve
from . import dumps
from .stream import check_out

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from .model import Model
    from .state import State


#: Streams of one pool at most. An id is a serial number times this, plus the row that holds the stream's state.
MOST = 1 << 26
_serial = count(1)


#: Guards what pools know of their streams. Nobody holds it for the length of a step.
_books = Lock()


class Pool:
    """Up to ``capacity`` streams of one network, opened and closed at any time, from any thread.

    A step takes any of the open streams and one step of input for each, and advances just those in one batched pass
    (batching at the level of cells, as in BatchMaker, EuroSys'18). With the packed backend the states are addressed
    where they lie, and a stream gives the same bits as it would alone. Every error leaves all streams as they were,
    and so does a signal whose handler raises, as Ctrl-C's does; what ``out`` then holds is undefined.

    There is one step at a time: a second one meanwhile raises :class:`CgruError`. Everything else may be called while
    a step is under way in another thread, as an event loop does: it neither waits for the step nor fails for it. What
    changes a stream takes effect before the next step, and :meth:`dump` and :meth:`fork` find a stream as it was before
    the step under way.
    """

    _called = "pool"

    def __init__(self, net: Model, capacity: int) -> None:
        if hasattr(self, "_data"):
            raise CgruError("this pool is made already; net.pool() makes another")
        check_poolable(net)
        self._net = net
        self._capacity = arrays.positive(capacity, "capacity")
        if self.capacity > MOST:
            raise CgruError(f"capacity: expected at most {MOST}, found {arrays.brief(capacity)}; use several pools")
        self._data = net._layout.zeros(self.capacity)
        self._free = list(range(self.capacity - 1, -1, -1))
        self._owner = np.full(self.capacity, -1, np.int64)  # the id whose state a row holds
        self._place = np.zeros(self.capacity, np.int64)  # where in the step at hand a row was last named
        self._stepping = 0  # the process with a step under way
        self._pending: dict[int, Float32] = {}  # states that rows take on at its end

    @property
    def net(self) -> Model:
        return self._net

    @property
    def capacity(self) -> int:
        return self._capacity

    def __reduce_ex__(self, protocol: Any) -> Any:
        raise ArgumentTypeError(
            "a pool is not copied or pickled: its ids name streams of this one pool in this one process; copy the "
            "network, and take the streams across one by one"
        )

    def __len__(self) -> int:
        """Streams now open."""
        return self.capacity - len(self._free)

    def open(self, state: State | Mapping[str, Any] | None = None) -> int:
        """Open a stream and return its id, which no pool of this process gives again.

        It begins in a copy of ``state``, of one row as :meth:`Model.run` takes it, or in the zero state.
        :class:`CgruError` where ``capacity`` streams are open, here and in :meth:`fork` and :meth:`restore`.
        """
        return self._open(None if state is None else self.net._state(state, 1)._data[0])

    def fork(self, sid: int) -> int:
        """Open a stream in the state of another; from then on each goes its own way."""
        with _books:
            return self._open(self._read(self._row(sid)))

    def restore(self, blob: bytes) -> int:
        """Open a stream in the state that :meth:`dump` gave, of a pool's stream or of a stream of one row.

        :class:`FormatError` where it is damaged or another network's.
        """
        return self._open(dumps.restore(self.net, blob, 1)[0])

    def dump(self, sid: int) -> bytes:
        """A stream's state as bytes, for :meth:`restore` here or on a stream of the same network."""
        with _books:
            data = self._read(self._row(sid))
        return dumps.dump(self.net, data[None])

    def reset(self, sid: int) -> None:
        """Return a stream to the zero state."""
        with _books:
            self._write(self._row(sid), np.zeros(self._data.shape[1], np.float32))

    def close(self, sid: int) -> None:
        """Close a stream and free its place; :class:`CgruError` where it is not open, as of all that name one."""
        with _books:
            row = self._row(sid)
            self._owner[row] = -1
            self._free.append(row)

    def _open(self, data: Float32 | None) -> int:
        with _books:
            if not self._free:
                raise CgruError(
                    f"the pool is full: all {self.capacity} streams are open; close one or make a larger pool"
                )
            row = self._free[-1]
            self._write(row, np.zeros(self._data.shape[1], np.float32) if data is None else data)
            sid = next(_serial) * MOST + row
            self._owner[row] = sid
            self._free.pop()
            return sid

    def _row(self, sid: int) -> int:
        """The row of an id that must be open. The books must be held."""
        named = self._names([sid])
        row = int(named[0]) & (MOST - 1)
        if row >= self.capacity or named[0] < 0 or self._owner[row] != named[0]:
            raise CgruError(f"sids: no stream {sid} is open in this pool")
        return row

    def _write(self, row: int, data: Float32) -> None:
        """Give a row a state, now or at the end of the step under way. The books must be held."""
        if self._stepping:
            self._pending[row] = data
        else:
            self._data[row] = data

    def _read(self, row: int) -> Float32:
        """A copy of the state of a row, as it was before the step under way. The books must be held."""
        return self._pending.get(row, self._data[row]).copy()

    def step(
        self,
        sids: Sequence[int] | NDArray[np.integer],
        x: Any,
        out: Float32 | None = None,
        *,
        threads: int | str | None = None,
    ) -> Any:
        """One step of the streams named: ``x`` (n, I), or ids (n,), row i for the i-th of them → (n, O), or a mapping
        by name where the network has several outputs.

        ``out`` receives the result if given: float32 (n, O) in C order. Raises :class:`CgruError` for an id that is
        not open or stands twice, and :class:`ShapeError` for input that does not fit.
        """
        team = resolve(threads)
        named = self._names(sids)
        features = self._input(x, len(named))
        made = [np.empty((len(named), *shape), np.float32) for shape in self._shapes(features)]
        if out is not None:
            if len(made) > 1:
                raise UnsupportedError("out: the network yields several arrays; leave out= away")
            check_out(out, made[0].shape, [features])
            made = [out]
        with _books:
            if self._stepping:
                raise in_use(self._called, self._stepping != os.getpid())
            rows = self._rows(named)
            if not len(rows):
                return self._shown(made)
            state = self._data[rows]
            self._stepping = os.getpid()
        try:
            for array, y in zip(made, self._stepped(features, state, team), strict=True):
                array[...] = y.reshape(array.shape)
            with _books:
                self._data[rows] = state
        finally:
            with _books:
                for row, data in self._pending.items():
                    self._data[row] = data
                self._pending.clear()
                self._stepping = 0
        return self._shown(made)

    def _stepped(self, x: np.ndarray, state: Float32, threads: int) -> list[np.ndarray]:
        """One step of rows of ``state``, which moves; what leaves the network, in the order of its outputs."""
        inputs = {self.net.input_names[0]: x[:, None]}
        made = self.net._plan_for(inputs).run(inputs, state, ended=False, threads=threads)
        return [made[name] for name in self.net.graph.outputs]

    def _shapes(self, x: np.ndarray) -> list[tuple[int, ...]]:
        """The feature axes of every output."""
        if not self.net.output_size:
            return [x.shape[-1:]]
        return [self.net.graph.values[name].features for name in self.net.graph.outputs]

    def _shown(self, made: list[Float32]) -> Any:
        return made[0] if len(made) == 1 else dict(zip(self.net.graph.outputs, made, strict=True))

    def _names(self, sids: Sequence[int] | NDArray[np.integer]) -> NDArray[np.int64]:
        """Ids as an array of its own."""
        named = arrays.as_array(sids, "sids: expected a sequence of stream ids", "integers")
        if named.ndim != 1 or (named.size and named.dtype.kind not in "iu"):
            raise CgruError("sids: expected a sequence of stream ids as open() gave them")
        return named.astype(np.int64)

    def _rows(self, sids: Sequence[int] | NDArray[np.integer]) -> np.ndarray:
        """The rows of the ids named, each open and named once."""
        named = self._names(sids)
        rows = (named & (MOST - 1)) % self.capacity
        known = (self._owner[rows] == named) & (named >= 0)
        if not known.all():
            raise CgruError(f"sids: no stream {int(named[~known][0])} is open in this pool")
        order = np.arange(len(rows))
        self._place[rows] = order
        twice = self._place[rows] != order
        if twice.any():
            raise CgruError(f"sids: stream {int(named[twice][0])} stands twice; a step takes each stream once")
        return rows

    def _input(self, x: Any, named: int) -> np.ndarray:
        only = self.net._inputs.only
        assert only is not None
        return only.admit_frame(x, named, single=False)[0]

    def __repr__(self) -> str:
        return f"<cgru.Pool of {self.net!r}, {len(self)} of {self.capacity} streams open>"


def check_poolable(net: Model) -> None:
    """Raise :class:`UnsupportedError` where a step does not give a frame of every output, or takes several inputs."""
    graph, timing = net.graph, net._layout.timing
    refuse_unstreamable(graph)
    if not timing.steady:
        raise UnsupportedError("pool: one step of this network does not give one frame; use net.stream(batch)")
    if net._inputs.only is None:
        raise UnsupportedError("pool: the network takes several inputs; use net.stream(batch)")
    for name in graph.outputs:
        if graph.values[name].dtype != "float32":
            raise UnsupportedError(f"pool: its output {name!r} does not have a frame for each step")


def open_pool(net: Model, capacity: int) -> Pool:
    """The pool that suits the network's plan."""
    check_poolable(net)
    if not net._steps_in_core:
        return Pool(net, capacity)
    from .backends.steppers import CorePool, SplitCorePool

    return (CorePool if len(net.graph.outputs) == 1 else SplitCorePool)(net, capacity)
