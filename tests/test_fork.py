"""fork after and beside threaded calls: parent and child go on, both threaded.

The suite forks some twenty times beside a busy thread; the full check is

    CGRU_FORKS=200 python -m pytest tests/test_fork.py
"""

from __future__ import annotations

import os

import isa
import pytest

isa.require()

FORKS = int(os.environ.get("CGRU_FORKS", "20"))

# In a process of its own, which no fork of the test runner's other threads disturbs.
SETUP = """
import os, threading, time
import numpy as np
from forks import forked
from strategies import Case

case = Case(64, 192, 2, 1, True, 2, 60, seed=1)
gru = case.gru()
want = gru(case.x, case.h0, backend="packed")[0]

def same(threads):
    return np.array_equal(gru(case.x, case.h0, backend="packed", threads=threads)[0], want)

def tasks():
    return len(os.listdir("/proc/self/task")) if os.path.isdir("/proc/self/task") else None
"""

AFTER = SETUP + """
assert same(3)
def child():
    alone = tasks()
    return same(1) and same(3) and same(2) and alone in (1, None) and tasks() in (3, None)
found = {
    "first": forked(child),
    "parent": same(3),
    "grandchild": forked(lambda: same(2) and forked(child) == [0]),
    "before any": forked(lambda: same(2)),
    "many": forked(lambda: same(2), 5),
}
"""

BESIDE = SETUP + """
stop, wrong, calls = threading.Event(), [], [0]
def busy():
    while not stop.is_set():
        if not same(2 + calls[0] % 2):
            wrong.append(calls[0])
        calls[0] += 1
threads = [threading.Thread(target=busy) for _ in range(CALLERS)]
for thread in threads:
    thread.start()
while calls[0] < 3:
    time.sleep(0.001)
statuses = [forked(lambda: same(2) and same(3))[0] for _ in range(FORKS)]
stop.set()
for thread in threads:
    thread.join()
found = {"statuses": statuses, "wrong": len(wrong), "parent": same(3), "calls": calls[0]}
"""


@pytest.fixture(autouse=True)
def _forks() -> None:
    if not hasattr(os, "fork"):
        pytest.skip("this system has no fork")


def test_parent_and_child_go_on_after_threaded_calls() -> None:
    """The child begins without workers, starts its own, and so do its children; the parent keeps its own."""
    found = isa.arrays(AFTER, None, OPENBLAS_NUM_THREADS="1")
    assert found["parent"]
    for key in ("first", "grandchild", "before any", "many"):
        assert not found[key].any(), f"{key}: status {found[key]}"


@pytest.mark.parametrize("callers", [1, 3])
def test_forks_beside_threads_that_call(callers: int) -> None:
    code = BESIDE.replace("FORKS", str(FORKS)).replace("CALLERS", str(callers))
    found = isa.arrays(code, None, OPENBLAS_NUM_THREADS="1")
    assert not found["statuses"].any(), f"statuses of the children: {found['statuses']}"
    assert found["statuses"].size == FORKS
    assert not found["wrong"]
    assert found["parent"]


POOL = """
import multiprocessing
import numpy as np
import cgru
from strategies import Case

case = Case(64, 192, 1, 1, True, 1, 40, seed=1)
net = cgru.Model([case.gru()], backend="packed")
want = net(case.x, threads=2)

def work(k):
    return np.array_equal(net(case.x, threads=1 + k % 3), want)

with multiprocessing.get_context("fork").Pool(3) as pool:
    found = {"same": pool.map(work, range(12)), "parent": work(1)}
"""


def test_multiprocessing_by_fork() -> None:
    found = isa.arrays(POOL, None)
    assert found["same"].all()
    assert found["parent"]


PACKING = """
import threading, time
import numpy as np
import cgru
from forks import forked
from strategies import Case

def layer(seed):
    return Case(1, 600, 1, 1, False, 1, 600, seed=seed).gru()

stop, made = threading.Event(), [0]
def pack():
    while not stop.is_set():
        cgru.Model([layer(made[0])], backend="packed")
        made[0] += 1

def child():
    net = cgru.Model([small], backend="auto")          # packs a layer of its own
    return np.array_equal(net(x), want) and np.array_equal(shared(x), want) and len(shared.stream().dump()) > 0

small = Case(64, 192, 1, 1, False, 1, 40, seed=1).gru()
x = np.random.default_rng(0).standard_normal((2, 9, small.input_size)).astype(np.float32)
shared = cgru.Model([small], backend="packed")
want = shared(x)
small = Case(64, 192, 1, 1, False, 1, 40, seed=1).gru()
thread = threading.Thread(target=pack)
thread.start()
while not made[0]:
    time.sleep(0.001)
statuses = [forked(child, limit=5)[0] for _ in range(FORKS)]
stop.set()
thread.join()
found = {"statuses": statuses, "made": made[0], "parent": child()}
"""


def test_forks_beside_a_thread_that_packs() -> None:
    """A child that packs a layer must not wait for the lock of a thread that stayed behind."""
    found = isa.arrays(PACKING.replace("FORKS", str(FORKS)), None, OPENBLAS_NUM_THREADS="1")
    assert not found["statuses"].any(), f"statuses of the children: {found['statuses']}"
    assert found["statuses"].size == FORKS
    assert found["made"]
    assert found["parent"]
