"""Where the states of streams are kept while replicas come and go: a few actors, each holding all of them."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Iterable
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from ..errors import CgruError

#: Seconds that a call waits for a store that has always answered.
_PATIENCE = 0.25


class SessionLost(CgruError):
    """No state of this session after that many steps is kept; feed it from the beginning."""


class Store:
    """The last two states of each session, by the steps done: the one before is for a call that is made again."""

    def __init__(self, most: int, keep: float) -> None:
        self._most, self._keep = most, keep
        self._held: OrderedDict[str, tuple[float, dict[int, bytes]]] = OrderedDict()

    def save(self, session: str, before: int, steps: int, state: bytes) -> None:
        """The state after ``steps`` steps, which went on from the one after ``before``.

        What is kept already, or is older than all that is kept, is the late end of a call that another replica has
        answered too, and changes nothing.
        """
        _, states = self._held.pop(session, (0.0, {}))
        late = states.get(steps) == state or (before and before not in states and steps <= max(states, default=0))
        kept = states if late else {n: kept for n, kept in states.items() if n == before} | {steps: state}
        self._held[session] = time.monotonic(), kept
        oldest = time.monotonic() - self._keep
        while len(self._held) > self._most or next(iter(self._held.values()))[0] < oldest:
            self._held.popitem(last=False)

    def load(self, session: str, steps: int) -> bytes | None:
        return self._held.get(session, (0.0, {}))[1].get(steps)

    def forget(self, session: str) -> None:
        self._held.pop(session, None)

    def count(self) -> int:
        return len(self._held)


class Stores:
    """All stores as one: saved once half of them or more have it, loaded from whichever knows.

    Half of three are two: a replica that is cut off together with the store on its node, as it is for a second after
    the end of Ray there, saves nothing, and its calls go to another.
    """

    def __init__(self, actors: list[Any]) -> None:
        self._actors = actors
        self._enough = (len(actors) + 1) // 2
        self._doubted: set[Any] = set()

    @classmethod
    def start(cls, copies: int, most: int, keep: float) -> Stores:
        """``copies`` of them, on nodes of their own where there are as many; a lost one starts anew, empty."""
        nodes = sorted((node["NodeID"] for node in ray.nodes() if node["Alive"]), key=_driver_first)
        made = ray.remote(Store)
        return cls([
            made.options(
                num_cpus=0, max_restarts=-1,
                scheduling_strategy=NodeAffinitySchedulingStrategy(nodes[k % len(nodes)], soft=True),
            ).remote(most, keep)
            for k in range(copies)
        ])  # fmt: skip

    async def save(self, session: str, before: int, steps: int, state: bytes) -> None:
        """Returns once every store that answers has it; raises where less than half of them do."""
        calls = self._ask("save", session, before, steps, state)
        # A store whose node is lost is found out after a while: from then on it is asked, but not waited for.
        trusted = [call for call, actor in calls.items() if actor not in self._doubted]
        if trusted:
            await asyncio.wait(trusted, timeout=_PATIENCE)
        for call, actor in calls.items():
            if call.done() and call.exception() is None:
                self._doubted.discard(actor)
            else:
                self._doubted.add(actor)
        await self._saved(calls)

    async def _saved(self, calls: Iterable[asyncio.Future[Any]]) -> None:
        saved, left = 0, set(calls)
        errors: list[BaseException] = []
        while saved < self._enough:
            if not left:
                raise errors[0]
            done, left = await asyncio.wait(left, return_when=asyncio.FIRST_COMPLETED)
            for call in done:
                error = call.exception()
                if error is not None:
                    errors.append(error)
                saved += error is None

    async def load(self, session: str, steps: int) -> bytes:
        """The state after ``steps`` steps, or :class:`SessionLost`."""
        found = await self._first(self._ask("load", session, steps), wanted=bytes)
        if found is None:
            said = f"session {session[:80]!r}: no state after {steps} steps is kept; feed it from the beginning"
            raise SessionLost(said)
        return bytes(found)

    async def forget(self, session: str) -> None:
        await self._first(self._ask("forget", session))

    def _ask(self, method: str, *given: Any) -> dict[asyncio.Future[Any], Any]:
        return {
            asyncio.wrap_future(getattr(actor, method).remote(*given).future()): actor for actor in self._actors
        }

    async def _first(self, calls: Iterable[asyncio.Future[Any]], wanted: type = object) -> Any:
        """The first answer of the kind wanted; None where none is, and raises where one is not to be had."""
        left, errors = set(calls), []
        while left:
            done, left = await asyncio.wait(left, return_when=asyncio.FIRST_COMPLETED)
            for call in done:
                error = call.exception()
                if error is not None:
                    errors.append(error)
                elif isinstance(call.result(), wanted):
                    return call.result()
        if errors:
            raise errors[0]
        return None


def _driver_first(node: str) -> tuple[bool, str]:
    return node != ray.get_runtime_context().get_node_id(), node
