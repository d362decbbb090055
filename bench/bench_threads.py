"""How much faster does a sequence run on more threads? (The one script that is not pinned to one core.)"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from cells import Cell

import cgru

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


RNG = np.random.default_rng(0)


def arr(*shape: int) -> np.ndarray:
    return (RNG.standard_normal(shape) / np.sqrt(shape[-1])).astype(np.float32)


def conv(g: cgru.Graph, x: str, units: int, width: int) -> str:
    weights = {"weight": arr(units, g.values[x].features[0], width), "bias": arr(units)}
    return g.conv1d(x, units=units, width=width, left=width - 1, right=0, activation="relu", weights=weights)


def gru_of(g: cgru.Graph, x: str, units: int, **options: Any) -> str:
    weights = {
        "weight_ih": arr(3 * units, g.values[x].features[0]), "weight_hh": arr(3 * units, units),
        "bias_ih": arr(3 * units), "bias_hh": arr(3 * units),
    }  # fmt: skip
    return g.scan(x, cell="gru_reset_after", units=units, weights=weights, **options)


#: Networks that are no chains: a single row is shared by frames, panels and units.
GRAPHS: dict[str, Callable[[cgru.Graph, str], str]] = {
    "Conv1d 128x5, GRU 128": lambda g, x: gru_of(g, conv(g, x, 128, 5), 128),
    "two Conv1d 128x33": lambda g, x: conv(g, conv(g, x, 128, 33), 128, 33),
    "Conv1d 64x3, GRU 512": lambda g, x: gru_of(g, conv(g, x, 64, 3), 512),
    "Conv1d 64x3, GRU 128 in two directions": lambda g, x: g.concat(
        gru_of(g, y := conv(g, x, 64, 3), 128), gru_of(g, y, 128, reverse=True)
    ),
    "attention of 128": lambda g, x: g.attend(y := conv(g, x, 128, 1), y, y),
}


@pytest.mark.parametrize("threads", [1, 2, 4])
@pytest.mark.parametrize("name", GRAPHS)
def test_threads_of_one_row(benchmark: Any, threads: int, name: str) -> None:
    if hasattr(os, "sched_getaffinity") and threads > len(os.sched_getaffinity(0)):
        pytest.skip(f"this process may use {len(os.sched_getaffinity(0))} cores")
    g = cgru.Graph()
    x = g.input(40)
    g.output(GRAPHS[name](g, x))
    net, given = cgru.Model(g, backend="packed"), arr(1, 300, 40)
    assert np.shape(benchmark(lambda: net(given, threads=threads)))[:2] == (1, 300)
