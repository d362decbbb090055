"""Which backend runs a layer of this size fastest? What `auto` decides rests on these figures."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from cells import Cell, make_tensors

CELLS = [Cell(B, 100, H, H) for B in (1, 8, 64) for H in (16, 64, 256)]


@pytest.mark.parametrize("backend", ["reference", "blas", "packed"])
@pytest.mark.parametrize("cell", CELLS, ids=str)
def test_backend(benchmark: Any, backend: str, cell: Cell, rotating: Callable[[Cell], Any]) -> None:
    import cgru

    try:
        net = cgru.Model([cgru.GRU.from_torch(make_tensors(cell))], backend=backend)
    except cgru.UnsupportedError as problem:
        pytest.skip(str(problem))
    xs, _ = rotating(cell)
    y = benchmark(lambda: net(next(xs)))
    assert y.shape == (cell.B, cell.T, cell.H)
