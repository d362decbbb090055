"""When the streams of a pool step, and which of them: a scheduler without clock, sockets or threads of its own.

Frames come in by :meth:`Ticks.push`, :meth:`Ticks.wait` says how long until the next step is due, :meth:`Ticks.take`
gathers one frame of each stream that has one, and :meth:`Ticks.deliver` hands the outputs on. The caller owns the
clock (seconds, monotonic) and runs the pool between the two, so that the same code serves sockets (``driver.py``),
measurements in processor time (``bench/serving.py``) and tests that count their own seconds.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from .load import Allowance

#: Weight of the newest round in the running mean of what a round takes.
_NEWEST = 0.25
#: Seconds over which the streams' steps are compared.
_WINDOW = 0.25
#: What a stream may take in a window as urgent, measured by what the median stream took in the one before: so much if
#: more waits behind it, and so much in any case; and steps that are granted to everyone.
_FAIR, _MOST, _GRANTED = 1.25, 4.0, 4


class Channel:
    """One stream: frames on their way in, outputs on their way out. The owner reads; :class:`Ticks` writes."""

    __slots__ = (
        "closed", "due", "failed", "frames", "outputs", "ready", "sid", "steps", "taken", "times", "under_way", "wake",
    )  # fmt: skip

    def __init__(self, sid: int, wake: Callable[[], None] | None = None) -> None:
        self.sid = sid
        self.wake = wake
        #: Frames not stepped yet, each the bytes of one step, and when each came.
        self.frames: deque[bytes] = deque()
        self.times: deque[float] = deque()
        #: Outputs not collected yet, each the bytes of one step.
        self.outputs: list[bytes] = []
        #: Steps done since the stream was opened.
        self.steps = 0
        #: Of them in the window of time that now runs.
        self.taken = 0
        #: When its turn begins to count: the arrival of the frame at the head, or the end of the step before.
        self.due = 0.0
        self.ready = False
        self.under_way = False
        self.closed = False
        self.failed: Exception | None = None

    @property
    def settled(self) -> bool:
        """Whether every frame that came has been stepped."""
        return not self.frames and not self.under_way


@dataclass(frozen=True)
class Batch:
    """One step of several streams: row i of ``x`` (n, I), or ids (n,), belongs to ``channels[i]``."""

    channels: list[Channel]
    sids: np.ndarray
    x: np.ndarray
    arrived: np.ndarray
    begun: float
    #: Channels, the last ones, that were not urgent.
    spare: int = 0


class Ticks:
    """The order of steps of one pool.

    A step waits for company, but no longer than the last rounds took, and never longer than ``tick`` seconds after the
    oldest frame: waiting costs at most as much time as it can save, an idle pool answers at once, and a loaded one
    gathers while it computes. Where every open stream has a frame there is nobody to wait for.

    Streams take turns: one frame of each, in the order in which their frames became due, ``rows`` at most. One that
    has sent many frames stands at the end of the queue after each of them. One whose outputs nobody collects is left
    out once ``behind`` of them are waiting.

    With ``spare``, streams that take far more steps than the median stream, as those do that send as fast as they are
    read beside others that send in real time, take the steps beyond their share out of that allowance: a processor that
    they kept busy would answer everybody late.
    """

    def __init__(
        self,
        width: int,
        dtype: np.dtype,
        *,
        tick: float = 0.002,
        rows: int = 1024,
        behind: int = 256,
        spare: Allowance | None = None,
    ) -> None:
        self.width, self.dtype, self._spare = width, dtype, spare
        self.tick, self.rows, self.behind = tick, rows, behind
        self.bytes_in = width * dtype.itemsize
        self.open = 0
        #: Running mean of the seconds from :meth:`take` to :meth:`deliver`.
        self.round = 0.0
        self._each = np.inf
        self._ready: deque[Channel] = deque()
        #: Those that have had their share of the window, what that is, who took how much of it, and since when it runs.
        self._satisfied: deque[Channel] = deque()
        self._fair = self._most = np.inf
        self._active: list[Channel] = []
        self._since = -np.inf

    def __len__(self) -> int:
        """Streams that could step now."""
        return len(self._ready) + len(self._satisfied)

    @property
    def urgent(self) -> bool:
        """Whether a stream could step that is not put off."""
        return bool(self._ready)

    def push(self, channel: Channel, frames: Iterable[bytes], now: float) -> None:
        """Frames that came for a stream, each ``bytes_in`` long."""
        before = len(channel.frames)
        channel.frames.extend(frames)
        channel.times.extend([now] * (len(channel.frames) - before))
        self._admit(channel, now)

    def collect(self, channel: Channel, now: float) -> list[bytes]:
        """All outputs of a stream that wait; the stream may step again if they were what held it."""
        outputs, channel.outputs = channel.outputs, []
        self._admit(channel, now)
        return outputs

    def expected(self, rows: int) -> float:
        """Seconds that a round of ``rows`` streams may take, going by the last one; infinite before the first."""
        return max(self.round, self._each * rows)

    def wait(self, now: float) -> float | None:
        """Seconds until the next step is due; None where no stream has a frame."""
        if not self._ready:
            return self._spare.wait(now) if self._satisfied and self._spare is not None else None
        if len(self) >= min(self.open, self.rows):
            return 0.0
        return max(0.0, self._ready[0].due + min(self.tick, self.round) - now)

    def take(self, now: float) -> Batch | None:
        """One frame of each of the streams whose turn it is."""
        if self._spare is not None and now - self._since >= _WINDOW:
            self._compare(now)
        channels: list[Channel] = []
        self._gather(self._ready, channels)
        urgent = len(channels)
        if self._satisfied and self._spare is not None and not self._spare.wait(now):
            self._gather(self._satisfied, channels)
        if not channels:
            return None
        data = b"".join([channel.frames.popleft() for channel in channels])
        x = np.frombuffer(data, self.dtype)
        if self.dtype.kind == "f":
            x = x.reshape(len(channels), self.width)
        arrived = np.array([channel.times.popleft() for channel in channels])
        return Batch(
            channels, np.array([channel.sid for channel in channels]), x, arrived, now, len(channels) - urgent
        )

    def _gather(self, queue: deque[Channel], channels: list[Channel]) -> None:
        while queue and len(channels) < self.rows:
            channel = queue.popleft()
            channel.ready = False
            if channel.closed or not channel.frames:
                continue
            channel.under_way = True
            channels.append(channel)
            if not channel.taken:
                self._active.append(channel)
            channel.taken += 1

    def _compare(self, now: float) -> None:
        """Begin a window: what the median stream took in the last one says what is fair in this one."""
        taken = sorted(channel.taken for channel in self._active if not channel.closed)
        self._fair = self._most = np.inf
        if len(taken) > 1:
            median = taken[(len(taken) - 1) // 2]
            self._fair, self._most = _FAIR * median + _GRANTED, _MOST * median + _GRANTED
        for channel in self._active:
            channel.taken = 0
        self._active.clear()
        self._since = now
        for channel in self._satisfied:
            channel.due = now
        self._ready += self._satisfied
        self._satisfied.clear()

    def deliver(self, batch: Batch, outputs: np.ndarray, now: float) -> None:
        """The outputs (n, O) of a batch, float32 in C order."""
        took = now - batch.begun
        self.round += (took - self.round) * (_NEWEST if self.round else 1.0)
        self._each = took / len(batch.channels)
        if batch.spare and self._spare is not None:
            self._spare.spend(self._each * batch.spare)
        data, size = outputs.tobytes(), outputs.shape[1] * outputs.itemsize
        at = 0
        for channel in batch.channels:
            channel.under_way = False
            channel.steps += 1
            channel.outputs.append(data[at : at + size])
            at += size
            if channel.frames:
                self._admit(channel, now)
            if channel.wake is not None:
                channel.wake()

    def fail(self, batch: Batch, error: Exception) -> None:
        """A step that raised: its streams are over, each keeps the error, and the others go on."""
        for channel in batch.channels:
            channel.under_way = False
            channel.failed = error
            self.drop(channel)
            if channel.wake is not None:
                channel.wake()

    def drop(self, channel: Channel) -> None:
        """Take no further step of a stream."""
        channel.closed = True
        channel.frames.clear()
        channel.times.clear()

    def hurry(self) -> None:
        """From now on nobody's steps are put off."""
        self._spare, self._fair, self._most = None, np.inf, np.inf
        self._ready += self._satisfied
        self._satisfied.clear()

    def _admit(self, channel: Channel, now: float) -> None:
        if channel.ready or channel.under_way or channel.closed or not channel.frames:
            return
        if len(channel.outputs) >= self.behind:
            return
        channel.ready = True
        channel.due = now
        taken = channel.taken
        if taken > self._most or (taken > self._fair and len(channel.frames) > 1):
            self._satisfied.append(channel)
        else:
            self._ready.append(channel)
