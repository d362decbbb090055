"""The scheduler on an event loop: clients await room and outputs, one worker thread runs the pool's steps."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Protocol, Self

import numpy as np

from ..threads import available
from .load import Load
from .ticks import Batch, Channel, Ticks

#: A step that takes less than this runs on the loop itself: handing it to a thread and back costs about as much. On one
#: core the loop gains nothing from a thread, as long as others do not wait for the step's end too long.
INLINE, INLINE_ON_ONE_CORE = 150e-6, 4e-3
#: The selector's timers are a millisecond coarse; a shorter wait is one more turn of the loop, which reads the sockets.
_COARSE = 0.0008


class Engine(Protocol):
    """What steps: a :class:`cgru.engine.pool.Pool`, or something measured beside it."""

    def step(self, sids: Any, x: Any) -> np.ndarray: ...

    def close(self, sid: int) -> None: ...


@dataclass(frozen=True)
class _Client:
    """What a stream's tasks wait for: outputs, and any other change. One event would wake all of them for each step."""

    made: asyncio.Event = field(default_factory=asyncio.Event)
    changed: asyncio.Event = field(default_factory=asyncio.Event)


class Driver:
    """Steps a pool as its clients' frames arrive: ``async with Driver(pool, ticks) as driver: …``.

    ``ahead`` bounds the frames of one client that wait to be stepped; :meth:`send` waits while there are as many.
    ``observe`` is told of every round: when its frames arrived, when the step began and when it ended. ``load`` is kept
    up to date, where it is given.
    """

    def __init__(
        self,
        pool: Engine,
        ticks: Ticks,
        *,
        ahead: int = 256,
        observe: Callable[[np.ndarray, float, float], None] | None = None,
        load: Load | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.pool, self.ticks, self.ahead = pool, ticks, ahead
        self._observe, self._load, self._clock = observe, load, clock
        self._worker = ThreadPoolExecutor(1, "cgru-step")
        self._inline = INLINE if available() > 1 else INLINE_ON_ONE_CORE
        self._arrived = asyncio.Event()
        self._clients: dict[Channel, _Client] = {}
        self._task: asyncio.Task[None] | None = None
        self._stopping = False

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._run())
        return self

    async def __aexit__(self, *_: object) -> None:
        # A step under way ends first: nobody loses an output that the state already counts.
        self._stopping = True
        self._arrived.set()
        assert self._task is not None
        await self._task
        self._worker.shutdown()
        for channel in list(self._clients):
            self.close(channel)

    @property
    def alive(self) -> bool:
        """Whether the loop that steps the pool runs."""
        return self._task is not None and not self._task.done()

    # ---- a client's side ----------------------------------------------------------------------------------

    def open(self, sid: int, sink: Callable[[], bool] | None = None) -> Channel:
        """A channel for a stream that the pool has opened.

        ``sink`` is called after a step of the stream, before anything else runs: it takes the outputs by
        :meth:`collect` and is True, or leaves them to :meth:`receive`. It spares them the turns of the loop, and the
        loop the task, between a step and the socket.
        """
        client, channel = _Client(), Channel(sid)

        def wake() -> None:
            if sink is None or not channel.outputs or not sink():
                client.made.set()
            client.changed.set()

        channel.wake = wake
        self._clients[channel] = client
        self.ticks.open += 1
        return channel

    def close(self, channel: Channel) -> None:
        """Let a stream go; one in a step under way leaves the pool when that ends."""
        if self._clients.pop(channel, None) is None:
            return
        self.ticks.drop(channel)
        self.ticks.open -= 1
        channel.wake = None
        if not channel.under_way:
            self.pool.close(channel.sid)

    def offer(self, channel: Channel, data: bytes) -> bool:
        """Hand in whole steps now; False, and nothing is done, where :meth:`send` would wait for room."""
        room = self.ahead - len(channel.frames)
        if len(data) > room * self.ticks.bytes_in or channel.closed:
            return False
        self._push(channel, data)
        return True

    async def send(self, channel: Channel, data: bytes) -> None:
        """Hand in whole steps, in order; returns once all are accepted, which bounds what a client has waiting."""
        size, at = self.ticks.bytes_in, 0
        while at < len(data):
            room = self.ahead - len(channel.frames)
            if room <= 0:
                await self._until(channel, lambda: len(channel.frames) < self.ahead)
                continue
            end = min(len(data), at + room * size)
            self._push(channel, data[at:end])
            at = end

    def _push(self, channel: Channel, data: bytes) -> None:
        # Copies: views are objects that the garbage collector looks through, thousands of a client that floods.
        size = self.ticks.bytes_in
        self.ticks.push(channel, [data[k : k + size] for k in range(0, len(data), size)], self._clock())
        self._arrived.set()

    def collect(self, channel: Channel) -> list[bytes]:
        """The outputs that wait, without waiting for any."""
        outputs = self.ticks.collect(channel, self._clock())
        if channel.ready:
            self._arrived.set()
        return outputs

    async def receive(self, channel: Channel) -> list[bytes]:
        """The outputs that wait, at least one step's; raises what a step of this stream raised."""
        client = self._clients.get(channel)
        if not channel.outputs:
            await self._until(channel, lambda: bool(channel.outputs), made=True)
        outputs = self.collect(channel)
        if client is not None:
            client.changed.set()
        return outputs

    async def settled(self, channel: Channel) -> None:
        """Wait until every step handed in has been done."""
        await self._until(channel, lambda: channel.settled)

    async def collected(self, channel: Channel) -> None:
        """Wait until every step handed in has been done and its output received."""
        await self._until(channel, lambda: channel.settled and not channel.outputs)

    async def halted(self, channel: Channel) -> None:
        """Take no further step of a stream, and wait until the one under way has ended."""
        self.ticks.drop(channel)
        changed = self._clients[channel].changed
        while channel.under_way:
            changed.clear()
            await changed.wait()

    async def _until(self, channel: Channel, true: Callable[[], bool], *, made: bool = False) -> None:
        client = self._clients.get(channel)
        while not true():
            if channel.failed is not None:
                raise channel.failed
            if channel.closed or client is None:
                raise ConnectionResetError("the stream is closed")
            event = client.made if made else client.changed
            event.clear()  # others that wait for it have been woken already
            await event.wait()

    # ---- the steps ----------------------------------------------------------------------------------------

    async def _run(self) -> None:
        ticks, clock, loop = self.ticks, self._clock, asyncio.get_running_loop()
        while not self._stopping:
            now = clock()
            if self._load is not None:
                self._load.note(now)
            wait = ticks.wait(now)
            if wait is None or (wait and not ticks.urgent):
                # Whatever arrives may be more urgent than what there is to wait for.
                self._arrived.clear()
                timer = None if wait is None else loop.call_later(wait, self._arrived.set)
                await self._arrived.wait()
                if timer is not None:
                    timer.cancel()
                continue
            # Even where nothing is to wait for, the sockets get their turn.
            await asyncio.sleep(wait if wait > _COARSE else 0)
            batch = ticks.take(clock())
            if batch is None:
                continue
            try:
                if ticks.expected(len(batch.channels)) < self._inline:
                    outputs = self.pool.step(batch.sids, batch.x)
                else:
                    outputs, seconds = await loop.run_in_executor(self._worker, self._step, batch)
                    if self._load is not None:
                        self._load.add(seconds)
            except Exception as error:
                ticks.fail(batch, error)
            else:
                now = clock()
                ticks.deliver(batch, outputs, now)
                if self._observe is not None:
                    self._observe(batch.arrived, batch.begun, now)
            self._release(batch)

    def _step(self, batch: Batch) -> tuple[np.ndarray, float]:
        """In the worker: the outputs, and the processor time that they took."""
        begun = time.thread_time()
        return self.pool.step(batch.sids, batch.x), time.thread_time() - begun

    def _release(self, batch: Batch) -> None:
        """Close the streams that their clients left while they were in a step."""
        for channel in batch.channels:
            if channel.closed and channel not in self._clients:
                self.pool.close(channel.sid)
