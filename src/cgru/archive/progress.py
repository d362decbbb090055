"""How far long work is: a bar with rate and remaining time, past two seconds and on a terminal alone."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import TextIO


class Progress:
    """``total`` is None where nobody knows it; ``done`` counts what this run did, ``before`` what was there already."""

    def __init__(
        self,
        total: int | None,
        what: str,
        *,
        before: int = 0,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.total, self.what, self.before, self.done = total, what, before, 0
        self._stream = sys.stderr if stream is None else stream
        self._clock, self._begun, self._told = clock, clock(), 0.0
        self._drawn = False

    def add(self, count: int = 1) -> None:
        """So many more are done."""
        self.done += count
        now = self._clock() - self._begun
        if now > 2 and now - self._told > 0.2 and self._stream is not None and self._stream.isatty():
            self._told, self._drawn = now, True
            print("\r" + self.line(now).ljust(78), end="", file=self._stream, flush=True)

    def line(self, seconds: float) -> str:
        """What the terminal shows after so many seconds."""
        rate = self.done / seconds if seconds > 0 else 0.0
        if self.total is None:
            return f"{self.done:,} {self.what}, {rate:,.3g} a second"
        done = self.before + self.done
        share = done / self.total if self.total else 1.0
        left = (self.total - done) / rate if rate else float("inf")
        bar = f"[{'#' * int(24 * share):24}] {done:,} of {self.total:,} {self.what}"
        return f"{bar}, {rate:,.3g} a second, {_span(left)} left"

    def close(self) -> None:
        """Wipe the bar away."""
        if self._drawn:
            print("\r" + " " * 78 + "\r", end="", file=self._stream, flush=True)


def _span(seconds: float) -> str:
    if seconds == float("inf"):
        return "?"
    whole = round(seconds)
    hours, minutes = divmod(whole // 60, 60)
    return f"{hours}:{minutes:02}:{whole % 60:02}" if hours else f"{minutes}:{whole % 60:02}"
