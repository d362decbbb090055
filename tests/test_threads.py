"""The pool of threads: nothing before it is asked for, nothing between calls, one result whoever calls.

Calls here are large enough that threads are used, which is counted where it matters; what a call gives is compared
to the bit with what one thread gives.
"""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import isa
import numpy as np
import pytest
from strategies import Case

import cgru

isa.require()

# Several Python threads, so that a call that does not let go of the interpreter, or a worker that serves two masters,
# would show.
CALLERS = 6

NETWORKS = {
    # name: (I, H, layers, directions, B, T), one for each way that work is divided
    "units of one stream": (64, 192, 1, 1, 1, 40),
    "rows of a batch": (32, 64, 1, 1, 40, 20),
    "two directions": (48, 96, 1, 2, 1, 50),
    "a wavefront of layers": (64, 96, 4, 1, 2, 120),
    "directions, layers and a few rows": (33, 70, 2, 2, 3, 60),
}


def network(name: str, reset: str = "after") -> tuple[cgru.Model, Case]:
    inputs, hidden, layers, directions, batch, steps = NETWORKS[name]
    case = Case(inputs, hidden, layers, directions, True, batch, steps, seed=len(name))
    bound = 1 / np.sqrt(directions * hidden)
    head = np.random.default_rng(1).uniform(-bound, bound, (9, directions * hidden)).astype(np.float32)
    layer = case.gru(reset=reset)
    return cgru.Model([layer, cgru.Dense(head, activation="softmax")], backend="packed"), case


@pytest.mark.parametrize("reset", ["after", "before"])
@pytest.mark.parametrize("name", NETWORKS)
def test_any_number_of_threads_gives_the_same_bits(name: str, reset: str) -> None:
    net, case = network(name, reset)
    want, want_state = net.run(case.x, {"gru.h": case.h0})
    # Few threads several times, because they meet differently; far more than there are cores spend their time waiting.
    for threads in (2, 3, 2, 3, 2, 3, 5, 7, 64 if reset == "after" else 1000):
        got, got_state = net.run(case.x, {"gru.h": case.h0}, threads=threads)
        assert np.array_equal(got, want), threads
        assert np.array_equal(got_state.data, want_state.data), threads


@pytest.mark.parametrize("reset", ["after", "before"])
@pytest.mark.parametrize("name", NETWORKS)
def test_lengths_and_gaps_under_threads(name: str, reset: str) -> None:
    net, case = network(name, reset)
    rng = np.random.default_rng(3)
    lengths, mask = rng.integers(0, case.steps + 1, case.batch), rng.random((case.batch, case.steps)) < 0.7
    want, want_state = net.run(case.x, {"gru.h": case.h0}, lengths, mask)
    for threads in (2, 3, 5):
        got, got_state = net.run(case.x, {"gru.h": case.h0}, lengths, mask, threads=threads)
        assert np.array_equal(got, want), threads
        assert np.array_equal(got_state.data, want_state.data), threads


def test_many_callers_of_one_model() -> None:
    """Each with its own input and number of threads, all at once, on every network in turn."""
    for name in NETWORKS:
        net, case = network(name)
        inputs = [case.x * np.float32(1 - k / 10) for k in range(CALLERS)]
        alone = [net(x) for x in inputs]
        start = threading.Barrier(CALLERS)

        def call(
            k: int,
            net: cgru.Model = net,
            inputs: list[np.ndarray] = inputs,
            alone: list[np.ndarray] = alone,
            start: threading.Barrier = start,
        ) -> bool:
            start.wait()
            return all(np.array_equal(net(inputs[k], threads=2 + k % 2), alone[k]) for _ in range(4))

        with ThreadPoolExecutor(CALLERS) as pool:
            assert all(pool.map(call, range(CALLERS))), name


def test_a_model_first_used_by_many_at_once() -> None:
    """Packing happens once, whoever comes first."""
    for _ in range(5):
        case = Case(16, 64, 2, 1, True, 4, 10, seed=5)
        gru = case.gru()
        start = threading.Barrier(CALLERS)

        def call(_: int, gru: cgru.GRU = gru, case: Case = case, start: threading.Barrier = start) -> np.ndarray:
            start.wait()
            return gru(case.x, case.h0, backend="packed", threads=2)[0]

        with ThreadPoolExecutor(CALLERS) as pool:
            results = list(pool.map(call, range(CALLERS)))
        want = case.gru()(case.x, case.h0, backend="packed")[0]
        assert all(np.array_equal(y, want) for y in results)


# ---- when threads begin, and what they cost while nothing is called --------------------------------------------------

COUNT = """
import os
import numpy as np
import cgru
from strategies import Case

def tasks():
    return len(os.listdir("/proc/self/task"))

begin = tasks()  # numpy's BLAS has its own
case = Case(64, 192, 1, 1, True, 1, 60, seed=1)
net = cgru.Model([case.gru()], backend="packed")
net(case.x)
single = tasks()
small = Case(2, 3, 1, 1, True, 1, 2, seed=1)
small.gru()(small.x, threads=4)
too_small = tasks()
net(case.x, threads=2)
two = tasks()
for _ in range(20):
    net(case.x, threads=2)
again = tasks()
net(case.x, threads=3)
three = tasks()
for _ in range(20):
    net(case.x, threads=2)
found = {"tasks": np.array([begin, single, too_small, two, again, three, tasks()])}
"""


def proc() -> None:
    import os

    if not os.path.isdir("/proc/self/task"):
        pytest.skip("this system has no /proc/self/task to count threads in")


def test_threads_start_when_asked_for_and_are_used_again() -> None:
    """None before the first call that asks for more than one, none for a call too small to share, then one each."""
    proc()
    # numpy's BLAS would otherwise count as well, and may start its threads late.
    tasks = isa.arrays(COUNT, None, OPENBLAS_NUM_THREADS="1")["tasks"]
    begin = tasks[0]
    assert list(tasks - begin) == [0, 0, 0, 1, 1, 2, 2]


def test_idle_threads_use_no_processor_time() -> None:
    """Half a second's sleep after threaded calls costs the whole process at most 50 ms of processor time."""
    net, case = network("units of one stream")
    for threads in (2, 4):
        net(case.x, threads=threads)
    time.sleep(0.05)
    least = 1.0
    for _ in range(3):  # the process may have other work to finish: an idle pool is idle every time
        before = time.process_time()
        time.sleep(0.5)
        least = min(least, time.process_time() - before)
    assert least < 0.05


INTERRUPTED = """
import os, signal, threading
import numpy as np
from strategies import Case

seen = []
signal.signal(signal.SIGUSR1, lambda number, frame: seen.append(threading.current_thread() is threading.main_thread()))
case = Case(64, 192, 1, 1, True, 1, 400, seed=1)
gru = case.gru()
want = gru(case.x, backend="packed")[0]
stop = threading.Event()
def pester():
    while not stop.wait(0.001):
        os.kill(os.getpid(), signal.SIGUSR1)
thread = threading.Thread(target=pester)
thread.start()
same = all(np.array_equal(gru(case.x, backend="packed", threads=2)[0], want) for _ in range(100))
stop.set()
thread.join()
found = {"same": same, "signals": len(seen)}
"""


def test_signals_leave_results_alone() -> None:
    """A process that is sent signals all the while computes the same and handles them in Python."""
    import signal

    if not hasattr(signal, "SIGUSR1"):
        pytest.skip("this system has no SIGUSR1 to send")
    found = isa.arrays(INTERRUPTED, None)
    assert found["same"]
    assert found["signals"] > 0


BLOCKED = """
import os
import numpy as np
from strategies import Case

def tasks():
    return set(os.listdir("/proc/self/task"))

def blocked(task):
    with open(f"/proc/self/task/{task}/status") as file:
        return next(int(line.split()[1], 16) for line in file if line.startswith("SigBlk"))

before = tasks()
case = Case(64, 192, 1, 1, True, 1, 60, seed=1)
case.gru()(case.x, backend="packed", threads=3)
found = {"workers": np.array([blocked(task) for task in sorted(tasks() - before)], np.uint64),
         "caller": blocked(os.getpid())}
"""


def test_signals_do_not_reach_workers() -> None:
    """The workers block every signal that may be blocked, so that each goes to a thread of the program's own."""
    import signal

    proc()
    # numpy's BLAS may start its threads late, and they block nothing.
    found = isa.arrays(BLOCKED, None, OPENBLAS_NUM_THREADS="1")
    assert len(found["workers"]) == 2
    never = {signal.SIGKILL, signal.SIGSTOP}
    for mask in found["workers"]:
        open_to = [number.name for number in signal.Signals if number not in never and not int(mask) >> number - 1 & 1]
        assert not open_to, open_to
    assert found["caller"] == 0


EXIT = """
import threading
from strategies import Case

case = Case(64, 192, 1, 1, True, 1, 2000, seed=1)
gru = case.gru()
gru(case.x, backend="packed", threads=3)
threading.Thread(target=lambda: [gru(case.x, backend="packed", threads=2) for _ in range(10_000)], daemon=True).start()
print("done")
"""


def test_a_process_can_end_beside_a_running_call() -> None:
    done = isa.process(EXIT, None)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "done\n"


FEWER = """
import os, resource
import numpy as np
import cgru
from strategies import Case

case = Case(32, 64, 1, 1, True, 40, 20, seed=1)
net = cgru.Model([case.gru()], backend="packed")
want = net(case.x)
net(case.x, threads=2)  # a worker that there is already
before = len(os.listdir("/proc/self/task"))
with open("/proc/self/statm") as file:
    used = int(file.read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (40 << 20), resource.RLIM_INFINITY))  # no room for another stack
got = np.stack([net(case.x, threads=4) for _ in range(30)])
found = {"got": got, "want": want, "more": np.array(len(os.listdir("/proc/self/task")) - before)}
"""


def test_fewer_threads_than_were_asked_for() -> None:
    """Where the system gives no more, those that there are take all rows, each in memory of its own."""
    proc()
    resource = pytest.importorskip("resource", reason="no limits to set on this system")
    before = resource.getrlimit(resource.RLIMIT_STACK)
    resource.setrlimit(resource.RLIMIT_STACK, (64 << 20, before[1]))  # of every thread of the process that follows
    try:
        found = isa.arrays(FEWER, None, OPENBLAS_NUM_THREADS="1", MALLOC_ARENA_MAX="1", CGRU_CORES="4")
    finally:
        resource.setrlimit(resource.RLIMIT_STACK, before)
    assert found["more"] == 0
    assert (found["got"] == found["want"]).all()
