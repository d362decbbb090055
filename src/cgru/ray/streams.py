"""Streams on a cluster: a Ray Serve deployment whose sessions survive the replicas that run them.

A call brings the next steps of a session and says how many came before: ``feed(session, at, x)``. The router sends a
session's calls to one replica (consistent hashing by session), whose pool holds its state; after each call the state is
saved with the number of steps. Another replica goes on from there. Since a state and its input give the same bits
wherever they meet, a call that is made again gives the same outputs: no step is lost and none is done twice.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from typing import Any
from weakref import WeakValueDictionary

import numpy as np
from ray import serve
from ray.serve.config import RequestRouterConfig

from ..engine import one_array
from ..engine.model import Model
from ..errors import CgruError, ShapeError, UnsupportedError
from ..serve.driver import Driver
from ..serve.ticks import Channel, Ticks
from .shipping import received, ship
from .store import SessionLost, Stores

_ROUTER = "ray.serve.experimental.consistent_hash_router.ConsistentHashRouter"


def streams(
    net: Model,
    *,
    replicas: int = 2,
    capacity: int = 1000,
    copies: int = 3,
    sessions: int = 100_000,
    keep: float = 3600.0,
    **options: Any,
) -> serve.Application:
    """An application for ``ray.serve.run``: ``replicas`` of ``net``, each with room for ``capacity`` sessions at once.

    States are kept in memory by ``copies`` actors on different nodes, of ``sessions`` sessions at most and for ``keep``
    seconds after their last call; a call is answered once half of them or more (two of three) have the state after it.
    ``options`` are those of a Serve deployment. :class:`~cgru.ray.Session` is the client in Python; over HTTP,
    ``POST /?session=ID&at=N`` with the header ``x-session-id: ID`` and float32 steps in the body.
    """
    one_array.check(net, "cgru.ray.streams")
    if not net.input_size:
        raise UnsupportedError("a server must know how many features a step has, and this network takes any number")
    net.pool(1)  # refuses a network that cannot stream
    deployment = serve.deployment(
        Replica,
        name="cgru",
        num_replicas=replicas,
        max_ongoing_requests=capacity,
        request_router_config=RequestRouterConfig(request_router_class=_ROUTER),
        **options,
    )
    return deployment.bind(ship(net), Stores.start(copies, sessions, keep), capacity)


class _Held:
    """A session that this replica has in its pool."""

    def __init__(self, channel: Channel, steps: int) -> None:
        self.channel, self.steps = channel, steps


class Replica:
    """One replica; the deployment's class."""

    def __init__(self, net: Any, stores: Stores, capacity: int) -> None:
        self._net, self._stores, self._capacity = received(net), stores, capacity
        self._ids = bool(self._net.takes_ids)
        self._dtype = np.dtype("<i8" if self._ids else "<f4")
        self._pool = self._net.pool(capacity)
        self._driver: Driver | None = None
        self._held: OrderedDict[str, _Held] = OrderedDict()
        #: A session's calls go one after another; a lock lives as long as somebody holds it or waits for it.
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def feed(self, session: str, at: int, x: Any) -> np.ndarray:
        """Steps ``at``, ``at + 1``, … of a session: x (T, I), or ids (T,) → (T, O).

        Raises :class:`~cgru.ray.store.SessionLost` where no state after ``at`` steps is kept, and another
        :class:`CgruError` for input that does not fit.
        """
        steps = self._checked(session, at, x)
        frames = np.ascontiguousarray(steps, self._dtype).tobytes()
        turn = self._turns.get(session)
        if turn is None:
            turn = self._turns[session] = asyncio.Lock()
        async with turn:
            held = await self._at(session, at)
            driver = await self._running()
            sending = asyncio.create_task(driver.send(held.channel, frames))
            got: list[bytes] = []
            try:
                while len(got) < len(steps):
                    got += await driver.receive(held.channel)
                held.steps = at + len(steps)
                await self._stores.save(session, at, held.steps, self._pool.dump(held.channel.sid))
            except BaseException:
                self._drop(session)  # what is saved is what counts
                raise
            finally:
                sending.cancel()
        return np.frombuffer(b"".join(got), "<f4").reshape(len(steps), -1)

    async def close(self, session: str) -> None:
        """Forget a session."""
        self._drop(session)
        await self._stores.forget(session)

    async def __call__(self, request: Any) -> Any:
        from starlette.responses import JSONResponse, Response

        query = request.query_params
        try:
            session, at = query.get("session", ""), query.get("at", "")
            if not session or not at.isdecimal():
                raise CgruError("expected ?session=ID&at=STEPS")
            kind = np.dtype("<i4" if self._ids else "<f4")
            row = kind.itemsize * (1 if self._ids else self._net.input_size)
            body = await request.body()
            if len(body) % row:
                raise CgruError(f"expected whole steps of {row} bytes, found {len(body)} bytes")
            x = np.frombuffer(body, kind)
            y = await self.feed(session, int(at), x if self._ids else x.reshape(-1, self._net.input_size))
        except CgruError as error:
            return JSONResponse({"error": str(error)}, 404 if isinstance(error, SessionLost) else 400)
        return Response(y.tobytes(), media_type="application/octet-stream")

    # ---- pieces -------------------------------------------------------------------------------------------

    def _checked(self, session: str, at: int, x: Any) -> np.ndarray:
        if not isinstance(session, str) or not session:
            raise CgruError(f"session: expected a name, found {session!r:.80}")
        if isinstance(at, bool) or not isinstance(at, int | np.integer) or at < 0:
            raise CgruError(f"at: expected how many steps came before, found {at!r:.80}")
        steps, single = one_array.admit(self._net, x)
        if not single or not steps.shape[1]:
            raise ShapeError(f"x: expected steps of one session, (T, I) or ids (T,), at least one, found {np.shape(x)}")
        return steps[0]

    async def _at(self, session: str, at: int) -> _Held:
        """The session in the pool, after ``at`` steps."""
        held = self._held.get(session)
        if held is not None and held.steps == at:
            self._held.move_to_end(session)
            return held
        self._drop(session)
        state = await self._stores.load(session, at) if at else None
        driver = await self._running()
        self._room()
        channel = driver.open(self._pool.open() if state is None else self._pool.restore(state))
        held = self._held[session] = _Held(channel, at)
        return held

    def _room(self) -> None:
        """Let the session go that was fed longest ago, where the pool is full; its state is saved."""
        if len(self._held) < self._capacity:
            return
        for session in self._held:
            turn = self._turns.get(session)
            if turn is None or not turn.locked():
                self._drop(session)
                return
        raise CgruError(f"all {self._capacity} sessions of this replica are being fed; start more replicas")

    def _drop(self, session: str) -> None:
        held = self._held.pop(session, None)
        if held is not None and self._driver is not None:
            self._driver.close(held.channel)

    async def _running(self) -> Driver:
        if self._driver is None:
            width = 1 if self._ids else self._net.input_size
            self._driver = Driver(self._pool, Ticks(width, self._dtype))
            await self._driver.__aenter__()
        return self._driver
