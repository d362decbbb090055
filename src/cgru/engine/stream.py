"""Streams: a network fed as its input arrives, one step or one chunk at a time, owning its state."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from .. import arrays
from ..arrays import Float32
from ..errors import ArgumentTypeError, CgruError, ShapeError, UnsupportedError
from ..forks import in_use
from ..spec.graph import refuse_unstreamable
from ..threads import resolve
from . import dumps

if TYPE_CHECKING:
    from .model import Model


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


class Stream(ExclusiveUse):
    """A batch of rows advancing together through a network, with their state.

    Made by ``net.stream(batch=1)``. A stream is one thread's at a time: used from two at once it raises
    :class:`CgruError`, and what was under way goes on undisturbed. Every error leaves the state as it was, and so
    does a signal whose handler raises, as Ctrl-C's does; what ``out`` then holds is undefined. Whole
    sequences, chunks and single steps give the same bits with the packed backend.

    ``delay`` is the number of steps by which the outputs are late (a centred convolution sees that far ahead): the
    first steps give so many frames fewer, and :meth:`flush` gives what is left at the end. An output without a time
    axis, a recurrent layer's last, is the one as of now.
    """

    _called = "stream"

    def __init__(self, net: Model, batch: int) -> None:
        if hasattr(self, "_data"):
            raise CgruError("this stream is made already; net.stream() makes another")
        ExclusiveUse.__init__(self)
        self._net, self._batch = net, arrays.positive(batch, "batch")
        self._data = net._layout.zeros(self._batch)
        self.delay: int = net._layout.timing.delay
        self._ended = False
        #: Whether the last chunk came without a batch axis.
        self._single = False
        #: What was given once beside the last chunk, which the frames kept back need as well.
        self._static: dict[str, np.ndarray] = {}

    @property
    def net(self) -> Model:
        return self._net

    @property
    def batch(self) -> int:
        return self._batch

    # ---- running ----------------------------------------------------------------------------------------------

    def feed(self, chunk: Any, *, threads: int | str | None = None) -> Any:
        """Any number of steps: (B, T, I) → (B, T, O), or (T, I) → (T, O) for a batch of one; ids (B, T) or (T,).

        The frames that can be had of them, where outputs are late or of another rate.
        """
        count = resolve(threads)
        arrays_in, single, batch, _ = self._net._inputs.admit(chunk)
        if batch != self._batch:
            found = next(iter(arrays_in.values())).shape
            raise ShapeError(f"chunk: the stream has {self.batch} rows, found {batch} (shape {found})")
        made = self._advance(arrays_in, count)
        self._single = single
        return self._net._shown(made, single)

    def step(self, x: Any, out: Float32 | None = None) -> Any:
        """One time step: features (B, I) → (B, O), or (I,) → (O,) for a batch of one; ids (B,) or one id.

        ``out`` receives the result if given: float32 of its exact shape, C order, apart from ``x``.
        :class:`UnsupportedError` where one step does not give one frame.
        """
        self._refuse_uneven()
        given = self.net._inputs.admit_step(x, self.batch)
        if out is not None:
            self._check_out(out, given.arrays, given.single)
        made = {
            name: array if self.net.graph.values[name].clock is None else array[:, 0]
            for name, array in self._advance(given.arrays, 1).items()
        }
        y = self.net._shown(made, given.single)
        if out is None:
            return y
        out[...] = y
        return out

    def flush(self) -> Any:
        """The frames that lookahead kept back, as at the end of the sequence: none, where nothing looks ahead.

        Shaped as the last chunk was. Where outputs are late or of another rate the stream must be reset then.
        """
        inputs = dict(self._static)
        for one in self.net._inputs.all:
            if one.name not in inputs:
                if one.name in self.net._inputs.static:
                    raise UnsupportedError(f"flush: nothing was fed, and the input {one.name!r} comes with a chunk")
                width = (self.net.output_size or 1,) if one.open_width else one.features
                inputs[one.name] = np.zeros((self.batch, 0, *width), np.int64 if one.ids else np.float32)
        made = self.net._shown(self._advance(inputs, 1, ended=True), self._single)
        self._ended = not self.net._layout.timing.steady
        return made

    def _refuse_uneven(self) -> None:
        timing = self.net._layout.timing
        if timing.steady:
            return
        values = [self.net.graph.values[name] for name in self.net.graph.outputs]
        if timing.delay or any(value.clock is not None and value.clock.rate != (1, 1) for value in values):
            raise UnsupportedError(
                f"step: one step of this network does not give one frame (its outputs are {timing.delay} steps late or "
                "of another rate); use feed() and flush()"
            )

    def _check_out(self, out: Any, inputs: Mapping[str, np.ndarray], single: bool) -> None:
        """Refuse an ``out`` that cannot take one step's output, or overlaps ``inputs``."""
        graph = self.net.graph
        if len(graph.outputs) > 1:
            raise UnsupportedError("out: the network yields several arrays; leave out= away")
        features = graph.values[graph.outputs[0]].features
        if not self.net.output_size:
            features = next(iter(inputs.values())).shape[-1:]
        check_out(out, features if single else (self.batch, *features), inputs.values())

    def _advance(self, inputs: dict[str, np.ndarray], threads: int, *, ended: bool = False) -> dict[str, np.ndarray]:
        """Run steps and return what leaves the network, by output; the state moves only on success."""
        if self._ended:
            raise UnsupportedError("this stream was flushed: its sequence is over; reset() begins another")
        plan, static = self._net._plan_for(inputs), self._net._inputs.static
        self._enter()
        try:
            state = self._data if plan.in_place else self._data.copy()
            made = plan.run(inputs, state, ended=ended, threads=threads)
            if state is not self._data:
                self._data[...] = state
            if static:
                self._static = {name: np.array(inputs[name]) for name in static if name in inputs}
        finally:
            self._leave()
        return made

    # ---- state ------------------------------------------------------------------------------------------------

    def reset(self, rows: Iterable[int] | None = None) -> None:
        """Return to the zero state: every row, or those named by number.

        :class:`UnsupportedError` for single rows where outputs are late or of another rate: such rows advance together.
        """
        if rows is not None and not self.net._layout.timing.steady:
            raise UnsupportedError(
                "rows: the rows of this stream advance together (lookahead, changed rates); reset all"
            )
        index = slice(None) if rows is None else self._rows(rows)
        self._enter()
        try:
            self._data[index] = 0
            self._ended = False
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
            twin._ended, twin._single, twin._static = self._ended, self._single, self._static
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
            self._ended = False
        finally:
            self._leave()

    def __repr__(self) -> str:
        return f"<cgru.Stream of {self.net!r}, batch {self.batch}>"


def check_out(out: Any, shape: tuple[int, ...], inputs: Iterable[np.ndarray]) -> None:
    """Raise :class:`ShapeError` unless ``out`` can take a result of ``shape`` without touching the inputs."""
    if not (isinstance(out, np.ndarray) and out.dtype == np.float32 and out.shape == shape and out.flags.carray):
        raise ShapeError(f"out: expected a float32 array of shape {shape} in C order that can be written to")
    if any(np.may_share_memory(out, x) for x in inputs):
        raise ShapeError("out: it overlaps x; give a separate array")


def _stream_from(net: Model, batch: int, blob: bytes) -> Stream:
    stream = open_stream(net, batch)
    stream.restore(blob)
    return stream


def open_stream(net: Model, batch: int, state: Any = None, inputs: Any = None) -> Stream:
    """The stream that suits the network's plan, in ``state`` or the zero state; ``inputs`` are those given once."""
    from .given_stream import GivenStream, refuse_inputs

    refuse_unstreamable(net.graph)
    rows = arrays.positive(batch, "batch")
    if inputs is not None and net.graph.static_inputs:
        return GivenStream(net, rows, state, inputs)
    refuse_inputs(inputs)
    made: type[Stream] = Stream
    if net._steps_in_core:
        from .backends.steppers import CoreStream, SplitCoreStream

        made = CoreStream if len(net.graph.outputs) == 1 else SplitCoreStream
    stream = made(net, rows)
    if state is not None:
        stream._data[...] = net._state(state, rows)._data
    return stream
