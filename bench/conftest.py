"""What the pytest-benchmark scripts share: one core, and inputs that change from call to call."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from typing import Any

# Before numpy is imported: OpenBLAS' threads would fight for the one core.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import pytest
from cells import Cell, make_inputs, make_tensors

INPUTS = 4


@pytest.fixture(autouse=True, scope="module")
def one_core() -> Iterator[None]:
    """Pin to the last core allowed, where the system has such a thing."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(before)})
    yield
    os.sched_setaffinity(0, before)


@pytest.fixture
def gru() -> Callable[[Cell], Any]:
    """Make cgru's layer for a cell."""
    import cgru

    return lambda cell: cgru.GRU.from_torch(make_tensors(cell))


@pytest.fixture
def rotating() -> Callable[[Cell], Any]:
    """Make an endless iterator over different inputs of a cell, and its h0."""

    def make(cell: Cell) -> Any:
        xs, h0 = make_inputs(cell, INPUTS)
        return itertools.cycle(xs), h0

    return make
