"""How busy a server's event loop is, and how much of its time goes to work that may wait."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable

#: Seconds of one sample of the load, and over which its mean forgets.
_SAMPLE, _MEMORY = 0.010, 0.050


class Load:
    """What share of one processor the loop's thread takes, and the steps it has done in another (0 to 1).

    In processor time: a machine that has no time for this process does not make it busy. :meth:`note` is called in the
    loop's thread.
    """

    def __init__(
        self, clock: Callable[[], float] = time.perf_counter, used: Callable[[], float] = time.thread_time
    ) -> None:
        self.clock, self._used = clock, used
        self.busy = 0.0
        self._elsewhere = 0.0
        self._before: tuple[float, float] | None = None

    def add(self, seconds: float) -> None:
        """Processor seconds that the loop had spent for it in another thread."""
        self._elsewhere += seconds

    def note(self, now: float) -> None:
        """Bring ``busy`` up to date."""
        if self._before is not None and now - self._before[0] < _SAMPLE:
            return
        used = self._used() + self._elsewhere
        if self._before is not None:
            passed = now - self._before[0]
            self.busy += ((used - self._before[1]) / passed - self.busy) * min(1.0, passed / _MEMORY)
        self._before = now, used


class Allowance:
    """Seconds that one kind of work may take: a second earns what ``load`` leaves below ``limit``, or ``least``.

    Unused, at most ``burst`` seconds gather. What is spent beyond, since work cannot be cut, is waited for afterwards.
    """

    def __init__(self, load: Load, *, limit: float, least: float, burst: float) -> None:
        self._load, self._limit, self._least, self._burst = load, limit, least, burst
        self._left, self._at = burst, load.clock()

    @property
    def _rate(self) -> float:
        return max(self._least, self._limit - self._load.busy)

    def wait(self, now: float) -> float:
        """Seconds until there is something to spend; 0 where there is now."""
        self._left = min(self._burst, self._left + (now - self._at) * self._rate)
        self._at = now
        return 0.0 if self._left > 0 else max(-self._left / self._rate, 1e-6)

    def spend(self, seconds: float) -> None:
        self._left -= seconds


class Door:
    """Lets newcomers in one after another, so that many at once delay nobody who is inside."""

    def __init__(self, allowance: Allowance, load: Load) -> None:
        self._allowance, self._load = allowance, load
        self._queue: deque[tuple[float, Callable[[], object]]] = deque()
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        """How many wait."""
        return len(self._queue)

    def enter(self, cost: float, admitted: Callable[[], object]) -> None:
        """Call ``admitted`` once it is the turn of somebody who will take about ``cost`` seconds; now, if it may be."""
        self._queue.append((cost, admitted))
        if self._timer is None:
            self._admit()

    async def turn(self, cost: float) -> None:
        """Wait for the turn of somebody who will take about ``cost`` seconds."""
        turn = asyncio.Event()
        self.enter(cost, turn.set)
        await turn.wait()

    def _admit(self) -> None:
        self._timer = None
        while self._queue:
            now = self._load.clock()
            self._load.note(now)
            if wait := self._allowance.wait(now):
                self._timer = asyncio.get_running_loop().call_later(wait, self._admit)
                return
            cost, admitted = self._queue.popleft()
            self._allowance.spend(cost)
            admitted()
