"""How much faster does a sequence run on more threads? (The one script that is not pinned to one core.)"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest
from cells import Cell

CELLS = [Cell(1, 100, 1024, 1024), Cell(64, 100, 512, 512), Cell(1, 100, 512, 512), Cell(8, 100, 256, 256)]


@pytest.fixture(autouse=True, scope="module")
def one_core() -> None:
    """Leave the affinity alone."""


@pytest.mark.parametrize("threads", [1, 2, 4])
@pytest.mark.parametrize("cell", CELLS, ids=str)
def test_threads(
    benchmark: Any, threads: int, cell: Cell, gru: Callable[[Cell], Any], rotating: Callable[[Cell], Any]
) -> None:
    if hasattr(os, "sched_getaffinity") and threads > len(os.sched_getaffinity(0)):
        pytest.skip(f"this process may use {len(os.sched_getaffinity(0))} cores")
    layer = gru(cell)
    xs, h0 = rotating(cell)
    out, _ = benchmark(lambda: layer(next(xs), h0, threads=threads))
    assert out.shape == (cell.B, cell.T, cell.H)
