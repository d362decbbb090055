"""Pools: many independent streams on one set of weights, stepped together whenever they have input."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import arrays
from ..arrays import Float32
from ..errors import ArgumentTypeError, CgruError, ShapeError
from ..layers import Embedding
from .stream import Claim, advance, check_out, check_streamable

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from .model import Model


#: Streams of one pool at most. An id is a serial number times this, plus the row that holds the stream's state.
MOST = 1 << 26
_serial = count(1)


class Pool(Claim):
    """Up to ``capacity`` streams of one network, opened and closed at any time.

    A step takes any of the open streams and one step of input for each, and advances just those in one batched pass
    (batching at the level of cells, as in BatchMaker, EuroSys'18). With the packed backend the states are addressed
    where they lie, and a stream gives the same bits as it would alone. A pool is one thread's at a time: used from
    two at once it raises :class:`CgruError`. Every error leaves all streams as they were.
    """

    _called = "pool"

    def __init__(self, net: Model, capacity: int) -> None:
        if hasattr(self, "_data"):
            raise CgruError("this pool is made already; net.pool() makes another")
        check_streamable(net)
        super().__init__()
        self._net = net
        self._capacity = arrays.positive(capacity, "capacity")
        if self.capacity > MOST:
            raise CgruError(f"capacity: expected at most {MOST}, found {arrays.brief(capacity)}; use several pools")
        self._data = net._layout.zeros(self.capacity)
        self._free = list(range(self.capacity - 1, -1, -1))
        self._owner = np.full(self.capacity, -1, np.int64)  # the id whose state a row holds
        self._place = np.zeros(self.capacity, np.int64)  # where in the step at hand a row was last named

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

    def open(self) -> int:
        """Open a stream in the zero state and return its id, which no pool of this process gives again."""
        self._enter()
        try:
            if not self._free:
                raise CgruError(
                    f"the pool is full: all {self.capacity} streams are open; close one or make a larger pool"
                )
            row = self._free[-1]
            sid = next(_serial) * MOST + row
            self._data[row] = 0
            self._owner[row] = sid
            self._free.pop()
        finally:
            self._leave()
        return sid

    def close(self, sid: int) -> None:
        """Close a stream and free its place."""
        self._enter()
        try:
            row = int(self._rows([sid])[0])
            self._free.append(row)
            self._owner[row] = -1
        finally:
            self._leave()

    def reset(self, sid: int) -> None:
        """Return a stream to the zero state."""
        self._enter()
        try:
            self._data[self._rows([sid])] = 0
        finally:
            self._leave()

    def step(
        self,
        sids: Sequence[int] | NDArray[np.integer],
        x: Any,
        out: Float32 | None = None,
        *,
        threads: int | str | None = None,
    ) -> Float32:
        """One step of the streams named: ``x`` (n, I), or ids (n,), row i for the i-th of them → (n, O).

        ``out`` receives the result if given: float32 (n, O) in C order. Raises :class:`CgruError` for an id that is
        not open or stands twice, and :class:`ShapeError` for input that does not fit.
        """
        from ..threads import resolve

        team = resolve(threads)
        self._enter()
        try:
            rows = self._rows(sids)
            features = self._input(x, len(rows))
            shape = (len(rows), self.net.output_size or features.shape[-1])
            if out is None:
                out = np.empty(shape, np.float32)
            else:
                check_out(out, shape, features)
            if len(rows):
                self._advance(rows, features, out, team)
        finally:
            self._leave()
        return out

    def _rows(self, sids: Sequence[int] | NDArray[np.integer]) -> np.ndarray:
        """The rows of the ids named, each open and named once."""
        named = arrays.as_array(sids, "sids: expected a sequence of stream ids", "integers")
        if named.ndim != 1 or (named.size and named.dtype.kind not in "iu"):
            raise CgruError("sids: expected a sequence of stream ids as open() gave them")
        signed = named.astype(np.int64)
        rows = (signed & (MOST - 1)) % self.capacity
        known = (self._owner[rows] == signed) & (signed >= 0)
        if not known.all():
            raise CgruError(f"sids: no stream {int(named[~known][0])} is open in this pool")
        order = np.arange(len(rows))
        self._place[rows] = order
        twice = self._place[rows] != order
        if twice.any():
            raise CgruError(f"sids: stream {int(named[twice][0])} stands twice; a step takes each stream once")
        return rows

    def _input(self, x: Any, named: int) -> np.ndarray:
        first = self.net.layers[0]
        if isinstance(first, Embedding):
            tokens = arrays.ids(x, "x", first.vocabulary)
            if tokens.shape != (named,):
                raise ShapeError(f"x: expected {named} ids, one for each stream named, found shape {tokens.shape}")
            return np.require(tokens, requirements=["C", "A"])
        array = arrays.float32(x, "x", 2)
        width = self.net.input_size or array.shape[-1]
        if array.shape != (named, width):
            raise ShapeError(
                f"x: expected shape ({named}, {width}), one row for each stream named, found {array.shape}"
            )
        return np.require(array, requirements=["C", "A"])

    def _advance(self, rows: np.ndarray, x: np.ndarray, out: Float32, threads: int) -> None:
        state = self._data[rows]
        out[...] = np.asarray(advance(self.net, x[:, None], state, threads), np.float32).reshape(out.shape)
        self._data[rows] = state

    def __repr__(self) -> str:
        return f"<cgru.Pool of {self.net!r}, {len(self)} of {self.capacity} streams open>"


def open_pool(net: Model, capacity: int) -> Pool:
    """The pool that suits the network's backend."""
    from .backends.packed import PackedStage

    stages = net._stages(None)
    if len(stages) == 1 and isinstance(stages[0], PackedStage) and stages[0].net is not None:
        from .backends.steppers import PackedPool

        return PackedPool(net, capacity)
    return Pool(net, capacity)
