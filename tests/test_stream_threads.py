"""Streams and pools beside threads, forks and want of memory: one user at a time, and no harm from a second.

Networks here are large enough that the interpreter is let go of during a call, so that threads do meet.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import isa
import numpy as np
import pytest
from networks import Kind, build, noise

import cgru
from cgru import CgruError
from cgru.engine import backends

isa.require()

LARGE = Kind(256, 512, layers=2, head=300)
CALLERS = 6


@pytest.fixture(scope="module")
def large() -> cgru.Model:
    return build(LARGE, 1, "auto")


def in_thread(work: Callable[[], Any]) -> tuple[threading.Thread, list[Any]]:
    """A started thread, and the list that will hold what ``work`` gave."""
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(work()), daemon=True)
    thread.start()
    return thread, found


# ---- two threads at one stream ---------------------------------------------------------------------------------


def test_a_stream_in_use_refuses_everything_and_goes_on(large: cgru.Model) -> None:
    x = noise((2500, 256), 1)
    want_stream = large.stream()
    blob = want_stream.dump()
    want = want_stream.feed(x)
    stream, out = large.stream(), np.full(300, np.nan, np.float32)
    thread, found = in_thread(lambda: stream.feed(x))
    refused = False
    while not found and not refused:
        try:
            stream.dump()  # changes nothing, so that a try too early does no harm
        except CgruError as error:
            refused = "in use by another thread" in str(error)
    attempts: list[Callable[[], Any]] = [
        lambda: stream.step(x[0]),
        lambda: stream.step(x[0], out=out),
        lambda: stream.step(x[:1].astype(float)),
        lambda: stream.feed(x[:2]),
        stream.reset,
        lambda: stream.reset(rows=[0]),
        stream.copy,
        stream.dump,
        lambda: stream.restore(blob),
    ]
    for attempt in attempts:
        with pytest.raises(CgruError, match="this stream is in use by another thread"):
            attempt()
    assert not found, "the call under way ended too early to tell"
    thread.join()
    assert np.array_equal(found[0], want)
    assert stream.dump() == want_stream.dump()
    assert np.isnan(out).all()


def test_a_refused_step_leaves_no_trace_in_the_one_under_way(large: cgru.Model) -> None:
    """Rows are taken in blocks: what a refused call brought must not be where the next block is read from."""
    x, other = noise((1500, 256), 1), noise((1500, 256), 2)
    out, unused = np.full((1500, 300), np.nan, np.float32), np.full((1500, 300), np.nan, np.float32)
    want = large.stream(1500).step(x)
    stream = large.stream(1500)
    thread, found = in_thread(lambda: stream.step(x, out))
    refused = 0
    while not found:
        if not refused:  # until then a try would be let in
            try:
                stream.dump()
            except CgruError:
                refused = 1
        else:
            try:
                stream.step(other, unused)
            except CgruError:
                refused += 1
            else:
                break  # the first has ended between two looks
    thread.join()
    assert refused > 1, "the call under way ended too early to tell"
    assert np.array_equal(out, want)


def race(step: Callable[[int, np.ndarray], Any], least: int = 30) -> tuple[list[list[bytes]], int]:
    """Two threads stepping at once until each was let in ``least`` times and one was refused: what each was given."""
    given: list[list[bytes]] = [[], []]
    refused = [0, 0]
    start, enough = threading.Barrier(2), threading.Event()

    def caller(me: int) -> None:
        start.wait()
        out, rng = np.empty((1, 300), np.float32), np.random.default_rng(me)
        for _ in range(200_000):
            out[...] = np.nan
            try:
                step(me, out)
            except CgruError as error:
                refused[me] += "in use by another thread" in str(error)
            else:
                given[me].append(out.tobytes())
                time.sleep(rng.choice([0, 1e-4]))  # the other's turn, now and then
            if min(map(len, given)) >= least and any(refused):
                enough.set()
            if enough.is_set():
                return

    with ThreadPoolExecutor(2) as pool:
        for future in [pool.submit(caller, me) for me in range(2)]:
            future.result()
    return given, sum(refused)


def test_two_threads_stepping_one_stream_corrupt_nothing(large: cgru.Model) -> None:
    """Every step that was let in counts, once and wholly: together they are the steps of one thread."""
    x = noise((1, 256), 2)
    stream, alone = large.stream(), large.stream()
    given, refused = race(lambda me, out: stream.step(x, out))
    assert refused
    want = [alone.step(x).tobytes() for _ in range(sum(map(len, given)))]
    assert sorted(given[0] + given[1]) == sorted(want)
    assert stream.dump() == alone.dump()


def test_two_threads_stepping_one_pool_corrupt_nothing(large: cgru.Model) -> None:
    xs = noise((2, 1, 256), 3)
    pool = large.pool(3)
    sids = [pool.open() for _ in range(2)]
    given, refused = race(lambda me, out: pool.step([sids[me]], xs[me], out))
    assert refused
    for me in range(2):
        alone = large.stream()
        assert given[me] == [alone.step(xs[me]).tobytes() for _ in given[me]]


@pytest.mark.parametrize("name", ["packed", "blas"])
def test_a_pool_goes_on_being_used_during_a_step(name: str) -> None:
    """Opens, closes, resets, forks and dumps neither wait nor fail, and touch no bit of the step under way."""
    if reason := backends.backend(name).unavailable():
        pytest.skip(f"{name} cannot run: {reason}")
    n = 1500
    net = build(LARGE, 1, name)
    x = noise((n, 256), 4)
    pool, twin = net.pool(n), net.pool(n)
    sids, twins = [pool.open() for _ in range(n)], [twin.open() for _ in range(n)]
    for p, names in ((pool, sids), (twin, twins)):
        p.step(names, x[::-1])
    blobs = [twin.dump(sid) for sid in twins[:8]]  # before the step at hand
    want = twin.step(twins, x)

    thread, found = in_thread(lambda: pool.step(sids, x))
    refused = False
    while not found and not refused:
        try:
            pool.step([], x[:0])
        except CgruError as error:
            refused = "this pool is in use by another thread; it takes one step at a time" in str(error)
    with pytest.raises(CgruError, match="full"):
        pool.fork(sids[0])
    pool.reset(sids[1])
    pool.close(sids[2])
    forked = pool.fork(sids[3])  # in the row of the stream that was closed, which the step is about to write
    pool.close(sids[4])
    restored = pool.restore(blobs[5])
    pool.close(sids[6])
    fresh = pool.open()
    pool.reset(sids[7])
    for sid in (sids[2], sids[4], sids[6]):
        with pytest.raises(CgruError, match="no stream"):
            pool.dump(sid)
    assert not found, "the step ended too early to tell"
    dumps = 0
    while not found:  # of a stream whose state the step writes over sooner or later
        blob = pool.dump(sids[0])
        try:
            pool.step([], x[:0])
        except CgruError:
            assert blob == blobs[0]  # the step was under way before and after
            dumps += 1
    assert dumps, "the step ended too early to tell"
    thread.join()
    assert np.array_equal(found[0], want)

    def after(*blob: bytes) -> bytes:
        stream = net.stream()
        if blob:
            stream.restore(blob[0])
        return stream.dump()

    assert pool.dump(sids[0]) == twin.dump(twins[0])
    assert pool.dump(sids[1]) == pool.dump(sids[7]) == pool.dump(fresh) == after()
    assert pool.dump(forked) == blobs[3]
    assert pool.dump(restored) == blobs[5]
    assert pool.dump(sids[8]) == twin.dump(twins[8])
    with pytest.raises(CgruError, match="no stream"):
        pool.step([sids[2]], x[:1])


@pytest.mark.parametrize("make", ["stream", "pool"])
def test_use_from_within_its_own_call_comes_before_it(backend: str, make: str) -> None:
    """An object that uses the stream while it is asked for its numbers comes before the claim."""
    net = build(Kind(3, 5), 0, backend)
    stream, pool = net.stream(), net.pool(2)
    sid = pool.open()

    class Meddler:
        def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
            if make == "pool":
                pool.reset(sid)
            else:
                stream.reset()
            return noise((1, 3), 0)

    want = net.stream().step(noise((1, 3), 0))
    if make == "stream":
        assert np.array_equal(stream.step(Meddler()), want)
    else:
        pool.step([sid], noise((1, 3), 1))
        assert np.array_equal(pool.step([sid], Meddler()), want)  # reset first


def test_errors_leave_the_stream_free(backend: str) -> None:
    net = build(Kind(3, 5), 0, backend)
    stream, pool = net.stream(), net.pool(1)
    sid = pool.open()
    bad: list[Callable[[], Any]] = [
        lambda: stream.step(np.zeros(4)),
        lambda: stream.feed(np.zeros((2, 4))),
        lambda: stream.restore(b""),
        lambda: stream.reset(rows=[4]),
        pool.open,
        lambda: pool.close(-1),
        lambda: pool.reset(-1),
        lambda: pool.step([sid, sid], np.zeros((2, 3))),
        lambda: pool.step([sid], np.zeros((1, 4))),
    ]
    for attempt in bad:
        with pytest.raises(CgruError):
            attempt()
        stream.step(noise((1, 3), 0))
        pool.step([sid], noise((1, 3), 0))


# ---- many threads at one model ---------------------------------------------------------------------------------


@pytest.mark.parametrize("threads", [1, 2])
def test_one_model_from_many_threads(backend: str, threads: int) -> None:
    """Streams, pools and whole runs of one network at the same time: each gives what it gives alone."""
    kind = Kind(24, 96, layers=2, head=5)
    net = build(kind, 2, backend)
    xs = [noise((30, 24), seed) for seed in range(CALLERS)]
    wants = [np.stack([stream.step(row) for row in x]) for x, stream in ((x, net.stream()) for x in xs)]
    fed = [net.stream().feed(x) for x in xs]

    def caller(me: int) -> bool:
        pool = net.pool(3)
        for _ in range(3):
            stream, sid = net.stream(), pool.open()
            stepped = np.stack([stream.step(row) for row in xs[me]])
            pooled = np.concatenate([pool.step([sid], row[None], threads=threads) for row in xs[me]])
            chunk = net.stream().feed(xs[me], threads=threads)
            pool.close(sid)
            if not (np.array_equal(stepped, wants[me]) and np.array_equal(chunk, fed[me])):
                return False
            if not np.array_equal(pooled, wants[me]):
                return False
        return True

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        with ThreadPoolExecutor(CALLERS) as executor:
            assert all(executor.map(caller, range(CALLERS)))
    finally:
        sys.setswitchinterval(interval)


@pytest.mark.parametrize("what", ["feed", "steps", "pool"])
def test_other_threads_go_on_during_a_call(large: cgru.Model, what: str) -> None:
    """A thread that wakes again and again is not kept from it: with the interpreter held it would wake once at most."""
    stream, x = large.stream(), noise((3000, 256), 1)
    pool = large.pool(1500)
    sids = [pool.open() for _ in range(1500)]
    calls: dict[str, Callable[[], Any]] = {
        "feed": lambda: stream.feed(x),
        "steps": lambda: large.stream(batch=1500).step(x[:1500]),
        "pool": lambda: pool.step(sids, x[:1500]),
    }
    wakes, stop = [0], threading.Event()

    def sleeper() -> None:
        while not stop.is_set():
            wakes[0] += 1
            time.sleep(0.0005)

    thread = threading.Thread(target=sleeper)
    thread.start()
    try:
        before = wakes[0]
        calls[what]()
        during = wakes[0] - before
    finally:
        stop.set()
        thread.join()
    assert during > 4


# ---- forks, memory, cores --------------------------------------------------------------------------------------

FORK = """
import numpy as np
from forks import forked
from networks import Kind, build, noise

net = build(Kind(64, 192, layers=2, head=7), 1, "packed")
x = noise((40, 64), 2)
want = net.stream().feed(x)
stream, pool = net.stream(), net.pool(4)
sid = pool.open()
stream.feed(x[:10], threads=3)                      # workers run in the parent
for row in x[:10]:
    pool.step([sid], row[None])

def go_on():
    fed = stream.copy().feed(x[10:], threads=2)
    stepped = np.stack([stream.step(row) for row in x[10:]])
    pooled = np.concatenate([pool.step([sid], row[None], threads=2) for row in x[10:]])
    fresh = pool.open()
    anew = np.concatenate([pool.step([fresh], row[None]) for row in x])
    return all(np.array_equal(got, w) for got, w in
               ((fed, want[10:]), (stepped, want[10:]), (pooled, want[10:]), (anew, want)))

found = {"statuses": forked(go_on, 4), "parent": go_on()}    # prefork: four workers side by side
"""


def test_streams_live_on_in_forked_workers() -> None:
    if not hasattr(os, "fork"):
        pytest.skip("this system has no fork")
    found = isa.arrays(FORK, None)
    assert not found["statuses"].any(), f"statuses of the children: {found['statuses']}"
    assert found["parent"]


MEMORY = """
import resource
import numpy as np
from networks import Kind, build, noise

net = build(Kind(1024, 1024), 1, "packed")
x = noise((128, 1024), 2)
alone = net.stream(128)
want = [alone.step(x), alone.step(x)]
stream, pool, out = net.stream(128), net.pool(128), np.zeros((128, 1024), np.float32)
sids = np.array([pool.open() for _ in range(128)])
other = net.stream(128)
chunk = np.concatenate([x[:, None]] * 9, axis=1)
fed = np.empty((128, 9, 1024), np.float32)
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
soft, hard = resource.getrlimit(resource.RLIMIT_AS)
failures = []
resource.setrlimit(resource.RLIMIT_AS, (used, hard))
for call in (lambda: stream.step(x, out), lambda: pool.step(sids, x, out), lambda: other.feed(chunk)) * 2:
    try:
        call()
        failures.append("")
    except MemoryError as error:
        failures.append("memory")
    except BaseException as error:
        failures.append(repr(error))
resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
found = {
    "failures": failures,
    "untouched": not (stream._data.any() or pool._data.any() or other._data.any() or out.any()),
    "after": [np.array_equal(y, w) for w in want for y in (stream.step(x, out), pool.step(sids, x, out))],
    "fed": np.array_equal(other.feed(chunk)[:, 0], want[0]),
}
"""


def test_want_of_memory_leaves_everything_as_it_was() -> None:
    """No memory for scratch or results: MemoryError, states to the bit as before, and free for the next call."""
    if not sys.platform.startswith("linux"):
        pytest.skip("needs a limit on memory as Linux has it")
    found = isa.arrays(MEMORY, None, OPENBLAS_NUM_THREADS="1", MALLOC_MMAP_THRESHOLD_="65536")
    assert found["failures"].tolist() == ["memory"] * 6
    assert found["untouched"]
    assert found["after"].all()
    assert found["fed"]


AUTO = """
import os
import numpy as np
import cgru.threads
from networks import Kind, build, noise

def tasks():
    return len(os.listdir("/proc/self/task"))

net = build(Kind(256, 512, layers=2), 1, "packed")
x = noise((60, 256), 2)
before = tasks()
SETTING
pool = net.pool(60)
sids = [pool.open() for _ in range(60)]
fed, stepped = net.stream().feed(x, threads="auto"), pool.step(sids, x, threads="auto")
same = np.array_equal(fed, net.stream().feed(x)) and np.array_equal(stepped[0], fed[0])
found = {"more": tasks() - before, "allowed": cgru.threads.available(), "same": same}
"""

SETTINGS = {
    "one core by affinity": "os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})",
    "one core by quota": "cgru.threads._cgroup_quota = lambda: 0.7",
    "every core there is": "cgru.threads._cgroup_quota = lambda: None",
}


@pytest.mark.parametrize("name", SETTINGS)
def test_auto_takes_the_cores_that_were_given(name: str) -> None:
    """Counted in threads of the process: one core starts none, more start no more than one for each."""
    if not sys.platform.startswith("linux"):
        pytest.skip("counts threads as Linux shows them")
    # CGRU_CORES, which the suite sets, would go before what the system says
    found = isa.arrays(AUTO.replace("SETTING", SETTINGS[name]), None, OPENBLAS_NUM_THREADS="1", CGRU_CORES="")
    assert found["same"]
    assert found["more"] == found["allowed"] - 1
    if "one core" in name:
        assert found["more"] == 0
