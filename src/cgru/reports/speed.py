"""How fast a network runs here: what ``cgru bench`` prints. Medians of repeated calls, in this process."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from ..engine.model import Model
from ..errors import UnsupportedError
from .tables import aligned

#: Seconds given to each line, and the steps of a sequence.
SECONDS, STEPS = 0.3, 100


@dataclass(frozen=True)
class Speed:
    """One line: what was called, the median time of a call, and how many rows advanced how many steps in it."""

    what: str
    microseconds: float
    row_steps: int

    @property
    def steps_per_second(self) -> float:
        return self.row_steps / self.microseconds * 1e6


def measure(net: Model, *, streams: int | None = None, threads: int = 1) -> list[Speed]:
    """Steps of one stream, sequences of batches of 1, 8 and 64, and a pool of ``streams`` beside them one by one."""
    found = []
    try:
        stream = net.stream()
    except UnsupportedError:
        if streams is not None:
            raise
    else:
        found.append(_speed("one step of one stream", partial(stream.step, _input(net, 1)), 1))
    for batch in (1, 8, 64):
        name = f"{batch} sequence{'s' * (batch > 1)} of {STEPS} steps"
        found.append(_speed(name, partial(net, _input(net, batch, STEPS), threads=threads), batch * STEPS))
    if streams is not None:
        pool, each = net.pool(streams), [net.stream() for _ in range(streams)]
        ids, rows = [pool.open() for _ in range(streams)], _input(net, streams)
        singles = [rows[i : i + 1] for i in range(streams)]
        found.append(_speed(f"a round of a pool of {streams}", lambda: pool.step(ids, rows, threads=threads), streams))
        pairs = list(zip(each, singles, strict=True))
        found.append(_speed("the same, stream by stream", lambda: [one.step(x) for one, x in pairs], streams))
    return found


def table(found: list[Speed]) -> str:
    lines = [(speed.what, f"{speed.microseconds:,.2f}", f"{speed.steps_per_second:,.0f}") for speed in found]
    rows = [("", "µs a call", "steps a second"), *lines]
    return "\n".join(aligned(rows))


def _input(net: Model, batch: int, steps: int | None = None) -> np.ndarray:
    """Random features, or ids; without ``steps`` those of a single step."""
    rng = np.random.default_rng(0)
    shape = (batch,) if steps is None else (batch, steps)
    if net.takes_ids:
        return rng.integers(0, net.input_size, shape)
    return rng.standard_normal((*shape, net.input_size or 1)).astype(np.float32)


def _speed(what: str, call: Callable[[], Any], row_steps: int) -> Speed:
    call()
    times: list[float] = []
    end = time.perf_counter() + SECONDS
    while len(times) < 3 or time.perf_counter() < end:
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return Speed(what, statistics.median(times) * 1e6, row_steps)
