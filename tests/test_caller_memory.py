"""What the core takes for an index: copied from the caller before it is checked, and checked again where C begins."""

from __future__ import annotations

from typing import Any

import isa
import numpy as np
import pytest
from networks import Kind, build, noise

import cgru
from cgru import CgruError

isa.require()

WRITER = """
import threading
import numpy as np
import cgru
from networks import Kind, build

net = build(Kind(5, 96, layers=2, embedded=True), 1, "packed")
stream, pool = net.stream(40), net.pool(40)
sids = [pool.open() for _ in range(40)]
ids = np.zeros((40, 200), np.int64)
one = np.zeros(40, np.int64)
want = net(ids)
stop = threading.Event()

def write():
    while not stop.is_set():
        for value in (10**15, 0):
            ids[...] = value
            one[...] = value

thread = threading.Thread(target=write)
thread.start()
right = wrong = refused = 0
calls = [lambda: net(ids), lambda: net.run(ids, lengths=[200] * 40)[0], lambda: net.stream(40).feed(ids)]
for turn in range(120):
    try:
        if turn % 4 == 3:
            stream.step(one), pool.step(sids, one)
        elif np.array_equal(calls[turn % 4](), want):
            right += 1
        else:
            wrong += 1
    except cgru.CgruError as error:
        assert "outside the vocabulary" in str(error), error
        refused += 1
stop.set()
thread.join()
found = {"right": right, "wrong": wrong, "refused": refused}
"""


def test_a_thread_that_writes_ids_during_a_call_changes_nothing() -> None:
    """Each call runs on ids that were checked, or refuses those it found; the process would crash otherwise."""
    found = isa.arrays(WRITER, None)
    assert not found["wrong"]
    assert found["right"] + found["refused"] >= 20


def core(net: cgru.Model) -> Any:
    return net._plan(None).core


@pytest.mark.parametrize("length", [-1, 8, 2**62])
def test_the_core_refuses_lengths_beyond_the_steps(length: int) -> None:
    net = build(Kind(3, 5, head=4), 1, "packed")
    y, data = np.full((2, 7, 4), 7, np.float32), np.zeros((2, net._layout.width), np.float32)
    with pytest.raises(CgruError, match="lengths"):
        core(net).run(noise((2, 7, 3), 0), y, data, np.array([7, length]), None, None, 1)
    assert (y == 7).all()
    assert not data.any()


@pytest.mark.parametrize("bad", [-1, 5, 2**62])
def test_the_core_refuses_ids_outside_the_table(bad: int) -> None:
    net = build(Kind(5, 4, embedded=True), 1, "packed")
    y, data = np.full((2, 7, 4), 7, np.float32), np.zeros((2, net._layout.width), np.float32)
    ids = np.zeros((2, 7), np.int64)
    ids[1, 6] = bad
    with pytest.raises(CgruError, match="vocabulary"):
        core(net).run(ids, y, data, None, None, None, 1)
    assert (y == 7).all()
    assert not data.any()
