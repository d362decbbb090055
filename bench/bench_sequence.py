"""How long does a whole sequence take, from one row to a batch?"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from cells import Cell, grid

CELLS = [*grid("small"), Cell(1, 100, 40, 64), Cell(1, 500, 400, 400, 2), Cell(16, 100, 10, 128, 2, 2)]


@pytest.mark.parametrize("cell", CELLS, ids=str)
def test_sequence(benchmark: Any, cell: Cell, gru: Callable[[Cell], Any], rotating: Callable[[Cell], Any]) -> None:
    layer = gru(cell)
    xs, h0 = rotating(cell)
    out, h_n = benchmark(lambda: layer(next(xs), h0))
    assert out.shape == (cell.B, cell.T, cell.D * cell.H)
    assert h_n.shape == h0.shape
