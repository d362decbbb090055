"""A network behind a server, whatever protocol asks: its pool and scheduler, whole sequences, saved streams."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from .. import arrays
from ..engine import one_array
from ..engine.model import Model
from ..errors import CgruError, UnsupportedError
from .driver import Driver
from .load import Allowance, Door, Load
from .metrics import Metrics
from .priority import later, less_urgent
from .refusals import Busy
from .sessions import Sessions
from .settings import Settings
from .ticks import Channel, Ticks
from .translation import Translator

if TYPE_CHECKING:
    from .conversation import Conversation

_SWEEP = 0.5
#: Shares of a processor: streams that send far ahead of the others get what is left of half of one, newcomers what is
#: left of the most of it, and each something in any case; what may be done at once, in seconds.
_AHEAD = {"limit": 0.5, "least": 0.05, "burst": 0.002}
_NEWCOMERS = {"limit": 0.85, "least": 0.1, "burst": 0.001}


class Service:
    """What the faces of a server share. ``async with Service(net, settings) as service: …``."""

    def __init__(self, net: Model, settings: Settings) -> None:
        one_array.check(net, "a server")
        if not net.input_size:
            raise UnsupportedError("a server must know how many features a step has, and this network takes any number")
        self.net, self.settings = net, settings
        self.ids = bool(net.takes_ids)
        self.dtype = np.dtype("<i8" if self.ids else "<f4")
        self.width = 1 if self.ids else net.input_size
        self.sessions = Sessions(settings.keep, settings.saved, settings.states)
        self.conversations: dict[str, Conversation] = {}
        #: Called now and then with the time (monotonic), to let go of what nobody asks for any more.
        self.swept: list[Callable[[float], None]] = []
        self.why_not: str | None = None
        load = Load()
        #: What asks for something new waits here for its turn.
        self.door = Door(Allowance(load, **_NEWCOMERS), load)
        try:
            self.pool = net.pool(settings.capacity)
        except UnsupportedError as error:
            self.why_not = str(error)
        else:
            spare = Allowance(load, **_AHEAD)
            ticks = Ticks(self.width, self.dtype, tick=settings.tick, behind=settings.behind, spare=spare)
            self.driver = Driver(self.pool, ticks, ahead=settings.ahead, observe=self._round, load=load)
        self.metrics = Metrics(lambda: self._places, settings.capacity, lambda: len(self.sessions))
        self._worker = ThreadPoolExecutor(1, "cgru-sequence", initializer=less_urgent, initargs=(later(),))
        #: For what is text: JSON and CSV.
        self.translate = Translator(settings.jobs)
        self._jobs = 0
        self._places = 0
        self.closing = False

    async def __aenter__(self) -> Self:
        if self.why_not is None:
            await self.driver.__aenter__()
        self._sweeper = asyncio.create_task(self._sweep())
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.farewell()
        self._sweeper.cancel()
        await asyncio.gather(self._sweeper, return_exceptions=True)
        if self.why_not is None:
            await self.driver.__aexit__()
        self._worker.shutdown(wait=True, cancel_futures=True)
        self.translate.close()

    @property
    def ready(self) -> bool:
        return not self.closing and (self.why_not is not None or self.driver.alive)

    def _round(self, arrived: np.ndarray, begun: float, ended: float) -> None:
        self.metrics.round(arrived, begun, ended)

    # ---- streams ------------------------------------------------------------------------------------------

    def reserve(self) -> None:
        """Take one of the places for streams, or raise :class:`Busy`; :meth:`release` gives it back."""
        if self.why_not is not None:
            raise UnsupportedError(self.why_not)
        if self.closing:
            raise Busy("the server is shutting down")
        if self._places >= self.settings.capacity:
            raise Busy(f"all {self.settings.capacity} streams are open")
        self._places += 1

    def release(self) -> None:
        self._places -= 1

    def open(self, state: bytes | None = None, sink: Callable[[], bool] | None = None) -> Channel:
        """A channel for a new stream, or for one in a state that ``pool.dump`` gave. A place must be reserved."""
        sid = self.pool.open() if state is None else self.pool.restore(state)
        return self.driver.open(sid, sink)

    def frames(self, data: bytes, form: str) -> bytes:
        """A message's steps in the form that the pool takes. Raises :class:`CgruError` where they are none."""
        size = self.frame_bytes(form)
        if not data or len(data) % size:
            said = f"a message holds whole steps of {self.width} {form} numbers, {size} bytes each"
            raise CgruError(f"{said}; found {len(data)} bytes")
        if form == "float32":
            return data
        if form == "int16":
            return (np.frombuffer(data, "<i2").astype("<f4") * np.float32(1 / 32768)).tobytes()
        # One id beyond the vocabulary would fail the step of everybody in it.
        return arrays.ids(np.frombuffer(data, "<i4"), "ids", self.net.input_size).astype("<i8").tobytes()

    def frame_bytes(self, form: str) -> int:
        return self.width * (2 if form == "int16" else 4)

    @property
    def forms(self) -> tuple[str, ...]:
        """What the numbers of a frame may be."""
        return ("int32",) if self.ids else ("float32", "int16")

    async def farewell(self) -> None:
        """End all streams: each gets the outputs of what it has sent, and its state."""
        self.closing = True
        if self.why_not is None:
            self.driver.ticks.hurry()
        pending = [conversation.task for conversation in self.conversations.values()]
        for conversation in list(self.conversations.values()):
            conversation.end("shutdown")
        if pending:
            await asyncio.wait(pending, timeout=self.settings.drain + 5)

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(min(_SWEEP, self.settings.idle / 4, self.settings.stall / 4))
            self._swept(time.monotonic())

    def _swept(self, now: float) -> None:
        """Close streams that say nothing or do not read; forget states whose time is over."""
        for conversation in list(self.conversations.values()):
            if now - conversation.heard > self.settings.idle:
                conversation.end("idle")
            elif conversation.sending and now - conversation.sending > self.settings.stall:
                conversation.end("stalled")
        for expire in self.swept:
            expire(now)
        self.sessions.expire()

    # ---- whole sequences ----------------------------------------------------------------------------------

    async def run(self, x: Any, lengths: Any = None) -> Any:
        """``net(x, lengths)`` beside the streams, one request after another; :class:`Busy` beyond ``jobs`` of them."""
        if self.closing:
            raise Busy("the server is shutting down")
        if self._jobs >= self.settings.jobs:
            raise Busy(f"{self._jobs} requests are waiting")
        self._jobs += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._worker, self.net, x, lengths)
        finally:
            self._jobs -= 1
