"""Random traffic on a pool for as long as you like, with mistakes and faults, against streams that run alone.

    export PYTHONPATH=tests MALLOC_ARENA_MAX=1 MALLOC_MMAP_THRESHOLD_=65536
    python tests/soak/pool_traffic.py --seconds 600

The two settings of glibc make it ask the system for memory anew, so that there is such a thing as none.

Opens, steps, resets and closes come at random, on networks of several kinds in every precision. Among them: ids that
are closed, unknown or named twice, input of wrong shape and type, NaN and infinity, a second thread at the pool during
a step, and calls that find no memory (Linux). What is checked, all the time: every output and every state, to the bit,
against a stream of its own for each one open; that mistakes raise CgruError and move nothing; that NaN stays where it
was given; that memory does not grow. Ends with one line of figures; a difference ends it at once with the seed that
leads there.
"""

from __future__ import annotations

import argparse
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import numpy as np
from networks import Kind, build

import cgru
from cgru import CgruError
from cgru.spec.precision import PRECISIONS

KINDS = [
    Kind(24, 64, layers=2, head=5),
    Kind(16, 33, reset="before", masked=True, head=3, softmax=True),
    Kind(50, 48, embedded=True, masked=True, last=True, head=4),
    Kind(130, 200, layers=2),
]


@cache
def large() -> cgru.Model:
    return build(Kind(256, 640), 1, "packed")


class Soak:
    """One pool, and a stream alone beside each of its own."""

    def __init__(self, seed: int, capacity: int = 200, faults: bool = True) -> None:
        self.rng = np.random.default_rng(seed)
        self.kind, self.capacity, self.faults = KINDS[seed % len(KINDS)], capacity, faults
        precision = PRECISIONS[seed // len(KINDS) % len(PRECISIONS)]
        self.net = build(self.kind, seed, "packed").quantize(precision)
        self.pool = self.net.pool(capacity)
        self.twins: dict[int, Any] = {}
        self.ill: set[int] = set()
        self.closed: list[int] = []
        self.count: Counter[str] = Counter()
        # Scratch and results for the largest step, so that a limit on memory later meets nothing but what is meant.
        self.out = np.empty((capacity, self.net.output_size), np.float32)

    def input(self, n: int) -> np.ndarray:
        if self.kind.embedded:
            return self.rng.integers(0, self.kind.inputs, n)
        x = self.rng.standard_normal((n, self.kind.inputs)).astype(np.float32)
        x[self.rng.random(n) < 0.1] = 0
        return x

    def some(self) -> list[int]:
        """Open streams in any order, most often few, now and then all."""
        most = len(self.twins) if self.rng.random() < 0.1 else min(len(self.twins), 12)
        return [int(sid) for sid in self.rng.permutation(list(self.twins))[: self.rng.integers(0, most + 1)]]

    # ---- what is allowed ---------------------------------------------------------------------------------------

    def open(self) -> None:
        if len(self.twins) == self.capacity:
            self.refused("full", self.pool.open)
            return
        sid = self.pool.open()
        assert sid not in self.twins, "an id was given twice"
        self.twins[sid] = self.net.stream()

    def close(self) -> None:
        if self.twins:
            sid = self.some()[:1] or [next(iter(self.twins))]
            self.pool.close(sid[0])
            del self.twins[sid[0]]
            self.ill.discard(sid[0])
            self.closed = [*self.closed[-50:], sid[0]]

    def reset(self) -> None:
        for sid in self.some()[:1]:
            self.pool.reset(sid)
            self.twins[sid].reset()
            self.ill.discard(sid)

    def step(self, spoil: float | None = None) -> None:
        sids = self.some()
        x = self.input(len(sids))
        if spoil is not None and len(sids) and not self.kind.embedded:
            x[0, 0] = spoil
            self.count["NaN or infinity given"] += 1
            if np.isnan(spoil):
                self.ill.add(sids[0])
        out = self.out[: len(sids)] if self.rng.random() < 0.5 else None
        y = self.pool.step(sids, x, out, threads=int(self.rng.integers(1, 3)))
        for sid, row, got in zip(sids, x, y, strict=True):
            want = self.twins[sid].step(row[None])[0]
            assert got.tobytes() == want.tobytes(), f"stream {sid} gave something else than alone"
            assert np.isfinite(got).all() or sid in self.ill, f"NaN came to stream {sid} from elsewhere"
        self.count["stream steps"] += len(sids)

    def nan(self) -> None:
        self.step(np.nan)

    def infinity(self) -> None:
        """±∞ may turn into NaN (∞ − ∞ in a sum), in its own stream."""
        before = set(self.ill)
        self.ill |= set(self.twins)
        self.step(float(self.rng.choice([np.inf, -np.inf])))
        self.ill = before | {sid for sid in self.twins if not np.isfinite(self.twins[sid]._data).all()}

    # ---- mistakes and faults -----------------------------------------------------------------------------------

    def refused(self, what: str, call: Callable[[], Any], error: type[Exception] = CgruError) -> None:
        before = self.pool._data.tobytes()
        try:
            call()
        except error:
            self.count[what] += 1
        else:
            raise AssertionError(f"{what}: it was let through")
        assert self.pool._data.tobytes() == before, f"{what}: a state moved"

    def mistake(self) -> None:
        sids, step = self.some(), self.pool.step
        wrong = self.closed[-1] if self.closed and self.rng.random() < 0.5 else int(self.rng.choice([-1, 0, 7, 2**50]))
        self.refused("ids that are not open", lambda: step([*sids, wrong], self.input(len(sids) + 1)))
        self.refused("ids that are not open", lambda: self.pool.close(wrong))
        self.refused("wrong numbers of rows", lambda: step(sids, self.input(len(sids) + 1)))
        self.refused("wrong types", lambda: step(sids, np.full((len(sids), self.kind.inputs), "a")))
        if sids:
            self.refused("ids twice", lambda: step([*sids, sids[0]], self.input(len(sids) + 1)))

    def another_thread(self) -> None:
        """A second thread steps the pool during a step: what is refused is refused, what is let in counts."""
        sids = list(self.twins)
        if not sids:
            return
        x, second = self.input(len(sids)), self.input(1)
        let_in: list[np.ndarray] = []
        begun, done = threading.Event(), threading.Event()

        def meddle() -> None:
            begun.wait()
            while not done.is_set() and not let_in:
                try:
                    let_in.append(self.pool.step(sids[:1], second))
                except CgruError:
                    self.count["second threads refused"] += 1

        thread = threading.Thread(target=meddle)
        thread.start()
        y = None
        begun.set()
        while y is None:
            try:
                y = self.pool.step(sids, x)
            except CgruError:
                continue
        done.set()
        thread.join()
        # Which came first is not known; one order or the other must give both results.
        for order in ("xs", "sx")[: 1 + bool(let_in)]:
            twin = self.twins[sids[0]].copy()
            given = {"x": x[:1], "s": second}
            results = {key: twin.step(given[key])[0].tobytes() for key in (order if let_in else "x")}
            if results["x"] == y[0].tobytes() and (not let_in or results["s"] == let_in[0][0].tobytes()):
                break
        else:
            raise AssertionError(f"stream {sids[0]}: two threads took turns, and no order of theirs gives this")
        self.twins[sids[0]] = twin
        for sid, row, got in zip(sids[1:], x[1:], y[1:], strict=True):
            assert self.twins[sid].step(row[None])[0].tobytes() == got.tobytes()

    def no_memory(self) -> None:
        """A fresh pool whose first step finds no room for scratch, and then does."""
        net = large()
        pool, alone, x = net.pool(128), net.stream(128), np.ones((128, 256), np.float32)
        sids = np.array([pool.open() for _ in range(128)])
        out = np.zeros((128, 640), np.float32)
        try:
            with memory_limited():
                pool.step(sids, x, out)
        except MemoryError:
            self.count["calls without memory"] += 1
            assert not pool._data.any()
            assert not out.any()
            pool.step(sids, x, out)
        assert out.tobytes() == alone.step(x).tobytes()

    # ---- all of it ---------------------------------------------------------------------------------------------

    def turn(self) -> None:
        choices = [self.open, self.close, self.reset, self.step, self.mistake, self.infinity, self.nan]
        weights = [8, 5, 2, 30, 2, 0.5, 0.5]
        if self.faults:
            choices += [self.another_thread, self.no_memory]
            weights += [0.2, 0.02]
        chosen = choices[self.rng.choice(len(choices), p=np.array(weights) / sum(weights))]
        chosen()
        self.count["turns"] += 1
        assert len(self.pool) == len(self.twins)

    def states(self) -> None:
        """Every state of the pool is that of its twin."""
        for sid, twin in self.twins.items():
            assert self.pool._data[self.pool._rows([sid])].tobytes() == twin._data.tobytes(), f"state of stream {sid}"


@contextmanager
def memory_limited() -> Iterator[None]:
    """No more address space than now, where the system has such a limit."""
    try:
        import resource

        with open("/proc/self/statm", encoding="ascii") as file:
            used = int(file.read().split()[0]) * resource.getpagesize()
    except (ImportError, OSError):
        yield
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def resident() -> float:
    """MiB of memory in use; 0 where the system does not say."""
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            return int(file.read().split()[1]) * 4096 / 2**20
    except OSError:
        return 0.0


def run(seconds: float = 0.0, turns: int = 0, seed: int = 0, faults: bool = True) -> Counter[str]:
    """So many seconds, or so many turns, a new pool every 3,000 turns; the sum of what was counted."""
    total: Counter[str] = Counter()
    end, at = time.monotonic() + seconds, seed
    settled = 0.0
    while (time.monotonic() < end) if seconds else (total["turns"] < turns):
        soak = Soak(at, faults=faults)
        try:
            for _ in range(3000 if seconds else min(3000, turns)):
                soak.turn()
            soak.states()
        except BaseException:
            print(f"seed {at}, after {soak.count['turns']} turns", file=sys.stderr)
            raise
        total += soak.count
        at += 1
        # A round of every kind of network in every precision first: then nothing more is to be kept.
        if at - seed == len(KINDS) * len(PRECISIONS):
            settled = resident()
    if settled:
        total["KiB grown, resident"] = round(1024 * (resident() - settled))
    return total


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    found = run(args.seconds, seed=args.seed)
    print(f"cgru {cgru.__version__}, {args.seconds:g} s: " + ", ".join(f"{n:,} {name}" for name, n in found.items()))


if __name__ == "__main__":
    main()
