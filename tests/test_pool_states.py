"""Streams of a pool that come from somewhere: a state, another stream, a dump; and clients of an event loop."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from typing import Any

import isa
import numpy as np
import pytest
from agreement import assert_same
from networks import Kind, build, draw_input, noise

import cgru
from cgru import CgruError, FormatError, ShapeError, UnsupportedError

sys.path.insert(0, str(Path(__file__).parent / "soak"))
import asyncio_clients

KINDS = {
    "features": Kind(3, 5, layers=2, head=4),
    "ids": Kind(7, 5, embedded=True, masked=True),
    "last": Kind(3, 5, last=True),
}


def steps(kind: Kind, seed: int) -> list[np.ndarray]:
    return [draw_input(kind, 1, 1, seed + t)[:, 0] for t in range(4)]


@pytest.mark.parametrize("name", KINDS)
def test_states_come_from_elsewhere_and_go_on_to_the_bit(backend: str, name: str) -> None:
    """Each against ``run`` over the whole sequence, which knows neither pools nor streams."""
    kind = KINDS[name]
    net = build(kind, 1, backend)
    before, after = steps(kind, 10), steps(kind, 20)
    whole = np.stack(before, axis=1)
    _, state = net.run(whole)
    wants = []
    carried = state
    for x in after:
        y, carried = net.run(x[:, None], carried)
        wants.append(y.reshape(-1))
    pool = net.pool(7)
    first = pool.open()
    for x in before:
        pool.step([first], x)
    stream = net.stream()
    stream.feed(whole)
    from_pool, from_stream = pool.dump(first), stream.dump()
    sids = [first, pool.fork(first), pool.open(state), pool.open(state.arrays()), pool.restore(from_pool)]
    sids.append(pool.restore(from_stream))
    streams = [net.stream(state=state), net.stream(1, state.arrays()), net.stream(), net.stream()]
    streams[2].restore(from_pool)
    streams[3].restore(pool.dump(sids[1]))
    zero = pool.open()
    alone = net.stream()
    for x, want in zip(after, wants, strict=True):
        y = pool.step([*sids, zero], np.concatenate([x] * 7))
        for row in (*y[:-1], *(stream.step(x)[0] for stream in streams)):
            assert_same(backend, row, want, "a stream that came from elsewhere")
        assert_same(backend, y[-1], alone.step(x)[0], "a stream from zero")


def test_a_state_is_copied(backend: str) -> None:
    net = build(KINDS["features"], 1, backend)
    _, state = net.run(noise((1, 4, 3), 0))
    before = state.arrays()
    pool = net.pool(2)
    sid = pool.open(state)
    twin = pool.fork(sid)
    blob = pool.dump(twin)
    pool.step([sid], noise((1, 3), 1))
    net.stream(state=state).step(noise((3,), 1))
    assert all(np.array_equal(array, before[name]) for name, array in state.arrays().items())
    assert pool.dump(twin) == blob


def test_what_cannot_become_a_stream_leaves_the_pool_as_it_was(backend: str) -> None:
    net, other = build(KINDS["features"], 1, backend), build(KINDS["features"], 2, backend)
    pool, elsewhere = net.pool(2), other.pool(1)
    sid = pool.open()
    strange = elsewhere.dump(elsewhere.open())
    blob = pool.dump(sid)
    damaged = bytes([*blob[:-20], blob[-20] ^ 1, *blob[-19:]])
    for bad in (strange, damaged, blob[:-1], b"", net.stream(2).dump(), 7):
        with pytest.raises(FormatError, match="restore"):
            pool.restore(bad)  # type: ignore[arg-type]
    for state in (net.state(batch=2), other.run(noise((1, 2, 3), 0))[1], {"gru.q": np.zeros((1, 5))}, 7):
        with pytest.raises(CgruError, match="state"):
            pool.open(state)  # type: ignore[arg-type]
        with pytest.raises(CgruError, match="state"):
            net.stream(1, state)  # type: ignore[arg-type]
    with pytest.raises(ShapeError, match="expected 3 rows"):
        net.stream(3, net.state())
    unknown: list[Any] = [sid + 1, -1, 2**70, "a"]
    for name in unknown:
        for call in (pool.fork, pool.dump, pool.reset, pool.close):
            with pytest.raises(CgruError, match="sids"):
                call(name)
    assert len(pool) == 1
    assert pool.dump(sid) == blob
    pool.open()
    for full in (lambda: pool.fork(sid), lambda: pool.restore(blob), pool.open):
        with pytest.raises(CgruError, match="full: all 2"):
            full()


def test_a_stream_with_a_state_must_be_able_to_stream() -> None:
    arrays = {key: np.zeros(shape, np.float32) for key, shape in (
        ("weight_ih_l0", (15, 3)), ("weight_hh_l0", (15, 5)),
        ("weight_ih_l0_reverse", (15, 3)), ("weight_hh_l0_reverse", (15, 5)))}
    net = cgru.Model([cgru.GRU(arrays, bidirectional=True)])
    with pytest.raises(UnsupportedError, match="both directions"):
        net.stream(state=net.state())


def test_clients_of_an_event_loop(backend: str) -> None:
    """Two seconds of tests/soak/asyncio_clients.py, which is meant to run for minutes."""
    if backend != "packed":
        pytest.skip("equal bits in any batch are the packed backend's promise")
    count = asyncio.run(asyncio_clients.serve(clients=500, capacity=1000, seconds=2, seed=1))
    for name in ("opened", "closed", "steps", "reset", "forked", "restored", "left without waiting"):
        assert count[name] > 20, name


HELD = """
import threading
import numpy as np
import cgru
from forks import forked
from networks import Kind, build, noise

net = build(Kind(256, 512, layers=2), 1, "packed")
n = 1500
x = noise((n, 256), 1)
pool, stream = net.pool(n + 1), net.stream(n)
sids = [pool.open() for _ in range(n)]
pool.step(sids, x), stream.step(x)

def said(call, words):
    try:
        call()
    except cgru.CgruError as error:
        return words in str(error)
    return False

def child():
    again = net.pool(2)
    sid = again.restore(pool.dump(sids[7]))
    return (said(lambda: pool.step([], x[:0]), "when this process was forked") and again.dump(sid) == pool.dump(sids[7])
            and said(lambda: stream.reset(), "when this process was forked") and len(again) == 1)

stop = threading.Event()
def steps():
    while not stop.is_set():
        pool.step(sids, x)
chunk = np.repeat(x[:, None], 3, axis=1)
def feeds():
    while not stop.is_set():
        stream.feed(chunk)
threads = [threading.Thread(target=steps), threading.Thread(target=feeds)]
for thread in threads:
    thread.start()
busy = False
while not busy:
    busy = said(lambda: stream.dump(), "in use") and said(lambda: pool.step([], x[:0]), "in use")
status = forked(child, limit=20)[0]
stop.set()
for thread in threads:
    thread.join()
found = {"status": status}
"""


def test_a_fork_during_a_step_says_so_in_the_child() -> None:
    """The child neither hangs nor goes on with states half written; what they were before can be had."""
    if not hasattr(os, "fork"):
        pytest.skip("this system has no fork")
    isa.require()
    found = isa.arrays(HELD, None, OPENBLAS_NUM_THREADS="1")
    assert found["status"] == 0
