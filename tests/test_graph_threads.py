"""A graph's rows have teams where there are more threads than rows: every way in which a node is shared, to the bit.

Networks here are large enough that threads are used, which is counted. Random graphs are in test_random_graphs.py.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import isa
import numpy as np
import pytest
from test_threads import proc

import cgru

isa.require()

RNG = np.random.default_rng(34)
STEPS = 24
Array = np.ndarray


@pytest.fixture(autouse=True)
def cores(monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads are as many as are asked for, wherever this runs."""
    monkeypatch.setenv("CGRU_CORES", "7")


def arr(*shape: int) -> Array:
    return (RNG.standard_normal(shape) / np.sqrt(shape[-1])).astype(np.float32)


def scan(g: cgru.Graph, x: str, units: int, *given: str, cell: str = "gru_reset_after", **options: Any) -> str:
    inputs, gates = g.values[x].features[0], {"gru_reset_after": 3, "gru_reset_before": 3, "lstm": 4}[cell]
    weights = {
        "weight_ih": arr(gates * units, inputs), "weight_hh": arr(gates * units, units),
        "bias_ih": arr(gates * units), "bias_hh": arr(gates * units),
    }  # fmt: skip
    return g.scan(x, *given, cell=cell, units=units, weights=weights, **options)


def conv(g: cgru.Graph, x: str, units: int, width: int, dilation: int = 1, **options: Any) -> str:
    weights = {"weight": arr(units, g.values[x].features[0], width), "bias": arr(units)}
    return g.conv1d(
        x, units=units, width=width, left=(width - 1) * dilation, right=0, dilation=dilation, weights=weights, **options
    )


def dense(g: cgru.Graph, x: str, units: int, **options: Any) -> str:
    return g.dense(x, units=units, weights={"weight": arr(units, g.values[x].features[0])}, **options)


def causal() -> cgru.Graph:
    """Products by vectors and by panels, functions, a recurrence by units."""
    g = cgru.Graph()
    x = g.input(40)
    y = conv(g, conv(g, x, 64, 5, activation="relu"), 96, 3, dilation=2)
    y = g.layer_norm(g.activation(y, activation="silu"), axes=1, epsilon=0.1)
    y = g.concat(scan(g, scan(g, y, 160), 130, cell="gru_reset_before"), y)
    g.output(dense(g, dense(g, y, 400), 30, activation="softmax"))
    return g


def directions() -> cgru.Graph:
    """Two recurrences over whole sequences at the same time, their last states, and what reads them."""
    g = cgru.Graph()
    x = g.input(24)
    y = conv(g, x, 48, 3, activation="tanh")
    both = g.concat(scan(g, y, 80, cell="lstm"), scan(g, y, 80, cell="lstm", reverse=True))
    deep = g.add(scan(g, both, 144, reverse=True), scan(g, both, 144))
    g.output(dense(g, deep, 20), g.pool_whole(deep, kind="mean"))
    return g


def started() -> cgru.Graph:
    """A recurrence that begins with what the caller gives."""
    g = cgru.Graph()
    x, start = g.input(64), g.input(192, name="h0", time=False)
    g.output(scan(g, x, 192, "", start))
    return g


def planes() -> cgru.Graph:
    """Frames with inner axes: convolutions, lines with states of their own, more frames and fewer."""
    g = cgru.Graph()
    x = g.input(128)
    y = g.reshape(x, features=(4, 32))
    weights = {"weight": arr(6, 4, 2, 3), "bias": arr(6)}
    y = g.conv2d(y, units=6, width=2, left=1, right=0, kernel=(3,), pads=(1, 1), weights=weights)
    flat = g.reshape(y, features=(192,))
    y = g.pool(g.upsample(flat, factor=3), kind="max", width=2, stride=2, left=1, right=0)
    g.output(y, g.reshape(g.softmax(g.reshape(flat, features=(6, 32)), axes=(1,)), features=(192,)))
    return g


def attention(causal: bool) -> Callable[[], cgru.Graph]:
    def build() -> cgru.Graph:
        g = cgru.Graph()
        x = g.input(64)
        g.output(dense(g, g.attend(x, dense(g, x, 64), dense(g, x, 96), causal=causal), 64))
        return g

    return build


GRAPHS = {
    "causal": causal,
    "directions": directions,
    "started": started,
    "planes": planes,
    "attention": attention(False),
    "causal attention": attention(True),
}


def run(net: cgru.Model, x: Any, **options: Any) -> list[Array]:
    y = net(x, **options)
    return list(y.values()) if isinstance(y, dict) else [y]


@pytest.mark.parametrize(("name", "precision"), [*((name, "float32") for name in GRAPHS), ("causal", "int8")])
def test_teams_give_the_bits_of_one_thread(name: str, precision: str) -> None:
    net = cgru.Model(GRAPHS[name](), backend="packed")
    net = net if precision == "float32" else net.quantize(precision)
    for batch, ragged, teams in ((1, False, (2, 3)), (1, True, (2,)), (2, False, (4,))):
        x: Any = {
            key: RNG.standard_normal((batch, *((STEPS,) if value.clock else ()), *value.features)).astype(np.float32)
            for key, value in net.graph.inputs.items()
        }
        x = x if len(x) > 1 else next(iter(x.values()))
        lengths = [STEPS - 7] if ragged else None
        want = run(net, x, lengths=lengths)
        for threads in teams:
            for got, wanted in zip(run(net, x, lengths=lengths, threads=threads), want, strict=True):
                np.testing.assert_array_equal(got, wanted, err_msg=f"{batch} rows, {threads} threads")


def test_streams_that_step_on_threads_give_the_bits_of_the_whole() -> None:
    net = cgru.Model(causal(), backend="packed")
    x = RNG.standard_normal((1, 8, 40)).astype(np.float32)
    want, _ = net.run(x)
    state = None
    for step in range(8):
        y, state = net.run(x[:, step : step + 1], state, threads=2 + step % 2)
        np.testing.assert_array_equal(y[:, 0], want[:, step])


COUNT = """
import os
import numpy as np
import cgru
from test_graph_threads import GRAPHS

def tasks():
    return len(os.listdir("/proc/self/task"))

net = cgru.Model(GRAPHS["NAME"](), backend="packed")
x = np.zeros((1, 90, 128 if "NAME" == "planes" else 40 if "NAME" == "causal" else 24), np.float32)
if "attention" in "NAME":
    x = np.zeros((1, 90, 64), np.float32)
begin = tasks()  # numpy's BLAS has its own
net(x)
single = tasks()
net(x, threads=3)
found = {"tasks": np.array([begin, single, tasks()])}
"""


@pytest.mark.parametrize("name", ["causal", "directions", "planes", "attention"])
def test_one_row_is_shared(name: str) -> None:
    proc()
    code = COUNT.replace("NAME", name)
    begin, single, several = isa.arrays(code, None, OPENBLAS_NUM_THREADS="1", CGRU_CORES="4")["tasks"]
    assert (single - begin, several - begin) == (0, 2)
