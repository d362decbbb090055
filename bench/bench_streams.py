"""What do the calls of a service cost: a round of a pool, a chunk, opening and closing, keeping and restoring?"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from cells import Cell

ROUNDS = [(1, 64), (16, 64), (16, 256), (128, 256), (1000, 256), (200, 1024)]


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize(("n", "H"), ROUNDS)
def test_round_of_a_pool(benchmark: Any, gru: Callable[[Cell], Any], n: int, H: int) -> None:
    import cgru

    pool = cgru.Model([gru(Cell(1, 1, H, H))]).pool(n)
    sids = [pool.open() for _ in range(n)]
    x, out = noise(n, H), np.empty((n, H), np.float32)
    assert benchmark(pool.step, sids, x, out) is out


@pytest.mark.parametrize("steps", [1, 10, 100])
def test_chunk(benchmark: Any, gru: Callable[[Cell], Any], steps: int) -> None:
    import cgru

    stream = cgru.Model([gru(Cell(1, 1, 64, 64))]).stream()
    assert benchmark(stream.feed, noise(steps, 64)).shape == (steps, 64)


@pytest.mark.parametrize("what", ["open and close", "dump", "restore", "copy", "reset"])
def test_around_the_steps(benchmark: Any, gru: Callable[[Cell], Any], what: str) -> None:
    import cgru

    net = cgru.Model([gru(Cell(1, 1, 256, 256))])
    stream, pool = net.stream(), net.pool(1000)
    blob = stream.dump()
    benchmark({
        "open and close": lambda: pool.close(pool.open()),
        "dump": stream.dump,
        "restore": lambda: stream.restore(blob),
        "copy": stream.copy,
        "reset": stream.reset,
    }[what])  # fmt: skip
