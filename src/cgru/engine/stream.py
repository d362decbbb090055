"""Streams: a network fed as its input arrives, one step or one chunk at a time, owning its state."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from .. import arrays
from ..arrays import Float32
from ..errors import ArgumentTypeError, CgruError, ShapeError, UnsupportedError
from ..forks import in_use
from ..layers import LastStep, Recurrent
from . import dumps
from .backends.flow import Flow

if TYPE_CHECKING:
    from .model import Model


def check_streamable(net: Model) -> None:
    """Raise :class:`UnsupportedError` naming the layer whose steps depend on later input."""
    for layer in net.layers:
        if isinstance(layer, Recurrent) and not layer.streamable:
            why = "reads its input in both directions" if layer.bidirectional else "reads its input backwards"
            raise UnsupportedError(f"{layer.name}: it {why}, so the network cannot stream; run whole sequences")
        if isinstance(layer, LastStep):
            raise UnsupportedError(f"{layer.name}: a stream has no last step; run whole sequences")


def admit_step(net: Model, x: Any, batch: int) -> tuple[np.ndarray, bool]:
    """``x`` of one step cast and checked: features (B, I) or ids (B,), and whether it came without a batch axis."""
    if net.takes_ids:
        single = np.ndim(x) == 0 if isinstance(x, (int, np.ndarray, np.generic)) else False
        tokens = arrays.ids([x] if single else x, "x", net.input_size)
        if tokens.shape != (batch,):
            raise ShapeError(
                f"x: expected {batch} token id{'s' * (batch > 1)} for one step, found shape {tokens.shape}"
            )
        return np.require(tokens, requirements=["C", "A"]), single
    array = arrays.float32(x, "x", (1, 2))
    single = array.ndim == 1
    width = net.input_size or array.shape[-1]
    if array.shape != ((width,) if single and batch == 1 else (batch, width)):
        shapes = f"({batch}, {width})" + (f" or ({width},)" if batch == 1 else "")
        raise ShapeError(f"x: expected shape {shapes} for one step, found {array.shape}")
    return np.require(array, requirements=["C", "A"]), single


def check_out(out: Any, shape: tuple[int, ...], x: np.ndarray) -> None:
    """Raise :class:`ShapeError` unless ``out`` can take a result of ``shape`` without touching ``x``."""
    if not (isinstance(out, np.ndarray) and out.dtype == np.float32 and out.shape == shape and out.flags.carray):
        raise ShapeError(f"out: expected a float32 array of shape {shape} in C order that can be written to")
    if np.may_share_memory(out, x):
        raise ShapeError("out: it overlaps x; give a separate array")


class ExclusiveUse:
    """What is one thread's at a time: held for the length of a call, and refused meanwhile."""

    _called = "stream"

    def __init__(self) -> None:
        self._held = threading.Lock()
        self._process = 0  # that of the last call

    def _enter(self) -> None:
        if not self._held.acquire(blocking=False):
            raise in_use(self._called, self._process != os.getpid())
        self._process = os.getpid()

    def _leave(self) -> None:
        self._held.release()


class Stream:
    """A batch of rows advancing together through a network, with their state.

    Made by ``net.stream(batch=1)``. A stream is one thread's at a time: used from two at once it raises
    :class:`CgruError`, and what was under way goes on undisturbed. Every error leaves the state as it was, and so
    does a signal whose handler raises, as Ctrl-C's does; what ``out`` then holds is undefined. Whole
    sequences, chunks and single steps give the same bits with the packed backend.
    """

    _called = "stream"

    def __init__(self, net: Model, batch: int) -> None:
        if hasattr(self, "_data"):
            raise CgruError("this stream is made already; net.stream() makes another")
        self._net, self._batch = net, arrays.positive(batch, "batch")
        self._data = net._layout.zeros(self._batch)

    @property
    def net(self) -> Model:
        return self._net

    @property
    def batch(self) -> int:
        return self._batch

    #: Steps by which outputs are late.
    delay = 0

    def flush(self) -> Any:
        """What lookahead kept back, as at the end of the sequence: no frames, where nothing looks ahead."""
        return self.feed(np.zeros((self.batch, 0, self.net.input_size), np.float32))

    def feed(self, chunk: Any, *, threads: int | str | None = None) -> Float32:
        """Any number of steps: (B, T, I) → (B, T, O), or (T, I) → (T, O) for a batch of one; ids (B, T) or (T,)."""
        from ..threads import resolve

        count = resolve(threads)
        x, single = self.net._input(chunk)
        if x.shape[0] != self.batch:
            raise ShapeError(f"chunk: the stream has {self.batch} rows, found {x.shape[0]} (shape {x.shape})")
        self._enter()
        try:
            y = np.ascontiguousarray(self._advance(x, count), np.float32)
        finally:
            self._leave()
        return y[0] if single else y

    def reset(self, rows: Iterable[int] | None = None) -> None:
        """Return to the zero state: every row, or those named."""
        index = slice(None) if rows is None else self._rows(rows)
        self._enter()
        try:
            self._data[index] = 0
        finally:
            self._leave()

    def _rows(self, rows: Iterable[int]) -> np.ndarray:
        index = np.empty(0, object)
        try:
            index = np.fromiter(rows, object)
        except Exception:
            raise ArgumentTypeError(f"rows: expected the numbers of rows, found {arrays.brief(rows)}") from None
        for row in index:
            if not isinstance(row, (int, np.integer)) or isinstance(row, bool) or not 0 <= row < self.batch:
                raise CgruError(
                    f"rows: {arrays.brief(row)} is not a row of this stream, "
                    f"which has rows 0 to {self.batch - 1}"
                )
        return index.astype(np.int64)

    def copy(self) -> Self:
        """Another stream on the same network, in the same state."""
        twin = type(self)(self.net, self.batch)
        self._enter()
        try:
            twin._data[...] = self._data
        finally:
            self._leave()
        return twin

    __copy__ = copy

    def __deepcopy__(self, memo: Any) -> Self:
        return self.copy()

    def __reduce__(self) -> tuple[Any, ...]:
        """As its network and :meth:`dump`: what comes back is in the same state, with the same bits to come."""
        return _stream_from, (self._net, self._batch, self.dump())

    def dump(self) -> bytes:
        """The state as bytes, for :meth:`restore` on a stream of the same network, batch and version of the form."""
        self._enter()
        try:
            data = self._data.copy()
        finally:
            self._leave()
        return dumps.dump(self.net, data)

    def restore(self, blob: bytes) -> None:
        """Take the state from :meth:`dump`; :class:`FormatError` where it is damaged or another network's."""
        data = dumps.restore(self.net, blob, self.batch)
        self._enter()
        try:
            self._data[...] = data
        finally:
            self._leave()

    def step(self, x: Any, out: Float32 | None = None) -> Float32:
        """One time step: features (B, I) → (B, O), or (I,) → (O,) for a batch of one; ids (B,) or one id.

        ``out`` receives the result if given: float32 of its exact shape, C order, apart from ``x``.
        """
        raise NotImplementedError

    def _advance(self, x: np.ndarray, threads: int) -> Any:
        """Steps of x (B, T, I), or ids (B, T), and what leaves the network; the state moves only on success."""
        raise NotImplementedError

    def _enter(self) -> None:
        raise NotImplementedError

    def _leave(self) -> None:
        raise NotImplementedError

    def __repr__(self) -> str:
        return f"<cgru.{type(self).__name__} of {self.net!r}, batch {self.batch}>"


class PlainStream(ExclusiveUse, Stream):
    """A stream over any backend, by way of whole runs of one step."""

    def __init__(self, net: Model, batch: int) -> None:
        Stream.__init__(self, net, batch)
        ExclusiveUse.__init__(self)

    def step(self, x: Any, out: Float32 | None = None) -> Float32:
        array, single = admit_step(self.net, x, self.batch)
        steps = array.reshape(self.batch, 1) if self.net.takes_ids else array.reshape(self.batch, 1, -1)
        width = self.net.output_size or steps.shape[-1]
        shape = (width,) if single else (self.batch, width)
        if out is None:
            out = np.empty(shape, np.float32)
        else:
            check_out(out, shape, array)
        self._enter()
        try:
            out[...] = np.asarray(self._advance(steps, 1), np.float32).reshape(shape)
        finally:
            self._leave()
        return out

    def _advance(self, x: np.ndarray, threads: int) -> Any:
        state = self._data.copy()
        y = advance(self.net, x, state, threads)
        self._data[...] = state
        return y


def advance(net: Model, x: np.ndarray, state: Float32, threads: int) -> Any:
    """Run x (B, T, I), or ids (B, T), from ``state`` (B, width), which moves stage by stage; the output."""
    flow = Flow(x)
    for stage in net._stages(None):
        flow = stage.run(flow, state, threads)
    return flow.x


def _stream_from(net: Model, batch: int, blob: bytes) -> Stream:
    stream = open_stream(net, batch)
    stream.restore(blob)
    return stream


def open_stream(net: Model, batch: int, state: Any = None) -> Stream:
    """The stream that suits the network's backend, in ``state`` or the zero state."""
    check_streamable(net)
    stream = _suited(net, arrays.positive(batch, "batch"))
    if state is not None:
        stream._data[...] = net._state(state, batch)._data
    return stream


def _suited(net: Model, batch: int) -> Stream:
    from .backends.packed import PackedStage

    stages = net._stages(None)
    if len(stages) == 1 and isinstance(stages[0], PackedStage) and stages[0].net is not None:
        from .backends.steppers import PackedStream

        return PackedStream(net, batch)
    return PlainStream(net, batch)
