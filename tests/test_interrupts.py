"""Signals during long calls: their handlers run while the call is under way, and what they raise ends it.

Nothing here is timed. A call that looked for signals only at its end would have advanced the state and finished the
output before KeyboardInterrupt comes; the calls are seconds long, and the signal comes after a fraction of one.
"""

from __future__ import annotations

import signal

import isa
import numpy as np
import pytest

from cgru.engine import backends

isa.require()

SETUP = """
import signal
import threading
import time
import numpy as np
import cgru
from networks import Kind, build, noise

handled = []

def handler(number, frame):
    handled.append(number)
    raise KeyboardInterrupt

signal.signal(signal.SIGALRM, handler)

def interrupted(call):
    handled.clear()
    signal.setitimer(signal.ITIMER_REAL, 0.15)
    try:
        call()
    except KeyboardInterrupt:
        return True
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    return False

def same(a, b):
    return all(np.array_equal(x, y) for x, y in zip(a.arrays().values(), b.arrays().values(), strict=True))
"""

SEQUENCES = """
KINDS = {
    "stack": Kind(64, 512, layers=2, head=1),
    "last": Kind(64, 512, layers=2, last=True),
}

def both(name):
    if name != "both":
        return build(KINDS[name], 1, BACKEND)
    rng = np.random.default_rng(0)
    arrays = {key + end: rng.standard_normal(shape, np.float32) / 23 for end in ("", "_reverse") for key, shape in (
        ("weight_ih_l0", (1536, 64)), ("weight_hh_l0", (1536, 512)))}
    return cgru.Model([cgru.GRU(arrays, bidirectional=True), cgru.Dense(rng.standard_normal((1, 1024), np.float32))],
                      backend=BACKEND)

found = {}
x = noise((64, 1500, 64), 1)
for name in ("stack", "last", "both"):
    net = both(name)
    _, state = net.run(x[:, :2])
    before = state.copy()
    want = net.run(x[:, :9], state, threads=ANOTHER)
    out = np.full((64, 512) if name == "last" else (64, 1500, 1), np.nan, np.float32)
    done = interrupted(lambda: net.run(x, state, out=out, threads=THREADS))
    again = net.run(x[:, :9], state, threads=THREADS)
    # The one output of "last" is written last, of a state that is no final one: whatever stands there says nothing.
    unfinished = name == "last" or bool(np.isnan(out).any())
    found[name] = [done, unfinished, same(state, before), np.array_equal(again[0], want[0]), same(again[1], want[1])]
    if name != "both":
        stream, twin = net.stream(64, state), net.stream(64, state)
        done = interrupted(lambda: stream.feed(x, threads=THREADS))
        found[name + " fed"] = [done, stream.dump() == twin.dump(),
                                np.array_equal(stream.feed(x[:, :9]), twin.feed(x[:, :9], threads=ANOTHER))]
"""

STEPS = """
net = build(Kind(64, 2048), 1, "packed")
n = 6000
x = noise((n, 64), 1)
pool, stream = net.pool(n), net.stream(n)
sids = [pool.open() for _ in range(n)]
before = stream.dump()
states = [pool.dump(sid) for sid in sids[::97]]
out = np.full((n, 2048), np.nan, np.float32)
found = {}
done = interrupted(lambda: stream.step(x, out))
found["stream"] = [done, bool(np.isnan(out).any()), stream.dump() == before]
for threads in (1, 2):
    out[...] = np.nan
    done = interrupted(lambda: pool.step(sids, x, out, threads=threads))
    found[f"pool, {threads} threads"] = [done, bool(np.isnan(out).any()),
                                         [pool.dump(sid) for sid in sids[::97]] == states]
some = slice(5000, 5004)
fresh = net.stream(4)
found["go on"] = [np.array_equal(pool.step(sids[some], x[some]), fresh.step(x[some]))]
"""

GOES_ON = """
net = build(Kind(64, 512, layers=2, head=1), 1, "packed")
x = noise((64, 300, 64), 1)
want = net(x, threads=2)
during = []
signal.signal(signal.SIGALRM, lambda number, frame: during.append(len(finished)))
finished = []

def call():
    y = net(x)
    finished.append(1)
    return y

signal.setitimer(signal.ITIMER_REAL, 0.1, 0.1)
y = call()
signal.setitimer(signal.ITIMER_REAL, 0)
found = {"handled during the call": during.count(0), "same": np.array_equal(y, want)}

other = []                            # a call in another thread is not disturbed
signal.signal(signal.SIGALRM, handler)
thread = threading.Thread(target=lambda: other.append(net(x)))
thread.start()
found["main"] = interrupted(lambda: time.sleep(30))
while thread.is_alive():
    time.sleep(0.01)
found["other"] = np.array_equal(other[0], want)
"""


GRAPH = """
rng = np.random.default_rng(0)
def gru(n, size):
    shapes = ((3 * n, size), (3 * n, n), 3 * n, 3 * n)
    return cgru.GRU.from_arrays(*(rng.standard_normal(s, np.float32) / 23 for s in shapes))
g = cgru.Graph()
a = g.input(64)
h = g.layer(gru(512, 64), a)
g.output(g.layer(gru(512, 576), g.concat(h, a)))
net = cgru.Model(g, backend="packed")
x = noise((64, 1500, 64), 1)
_, state = net.run(x[:, :2])
before, want, stream = state.copy(), net.run(x[:, :9], state), net.stream(64)
kept = stream.dump()
found = {}
for threads in (1, 2):
    done = interrupted(lambda: net.run(x, state, threads=threads))
    again = net.run(x[:, :9], state, threads=threads)
    found[f"{threads} threads"] = [done, same(state, before), np.array_equal(again[0], want[0])]
found["stream"] = [interrupted(lambda: stream.feed(x)), stream.dump() == kept]
"""


@pytest.fixture(autouse=True)
def _timers() -> None:
    if not hasattr(signal, "setitimer"):
        pytest.skip("this system has no timers that send signals")


def check(found: dict[str, np.ndarray]) -> None:
    for name, facts in found.items():
        assert facts.all(), f"{name}: {facts.tolist()}"


@pytest.mark.parametrize(("name", "threads"), [("packed", 1), ("packed", 3), ("blas", 1)])
def test_a_sequence_is_ended_and_its_state_as_it_was(name: str, threads: int) -> None:
    if reason := backends.backend(name).unavailable():
        pytest.skip(f"{name} cannot run: {reason}")
    code = SETUP + SEQUENCES.replace("BACKEND", repr(name)).replace("THREADS", str(threads))
    code = code.replace("ANOTHER", "2" if name == "packed" else "1")  # equal bits with any number is packed's promise
    found = isa.arrays(code, None, OPENBLAS_NUM_THREADS="1", CGRU_CORES="4")
    assert len(found) == 5
    check(found)


def test_a_graph_is_ended_and_its_state_as_it_was() -> None:
    check(isa.arrays(SETUP + GRAPH, None, CGRU_CORES="2"))


def test_a_step_of_many_rows_is_ended_and_their_states_as_they_were() -> None:
    check(isa.arrays(SETUP + STEPS, None, OPENBLAS_NUM_THREADS="1", CGRU_CORES="2"))


def test_handlers_that_raise_nothing_run_during_the_call_and_change_nothing() -> None:
    found = isa.arrays(SETUP + GOES_ON, None, OPENBLAS_NUM_THREADS="1", CGRU_CORES="2")
    check(found)
