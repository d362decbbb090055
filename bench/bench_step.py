"""How long does one step of one live stream take, the call from Python included?"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
from cells import Cell, grid

CELLS = [Cell(1, 1, 1, 1), *grid("step")]


@pytest.mark.parametrize("cell", CELLS, ids=str)
def test_step(benchmark: Any, cell: Cell, gru: Callable[[Cell], Any], rotating: Callable[[Cell], Any]) -> None:
    import cgru

    net = cgru.Model([gru(cell)])
    if not hasattr(net, "stream"):
        pytest.skip("this cgru has no streams")
    stream = net.stream(batch=1)
    xs, _ = rotating(cell)
    rows = itertools.cycle([next(xs)[:, 0].copy() for _ in range(4)])
    y = benchmark(lambda: stream.step(next(rows)))
    assert y.shape == (1, cell.H)
