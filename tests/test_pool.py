"""Pools: whatever happens to the others, a stream gives what it gives alone, and no error disturbs any.

The packed backend is held to bits, the others to their tolerance (agreement.py).
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from agreement import assert_same
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from networks import KINDS, Kind, build, draw_input, noise

import cgru
from cgru import CgruError, ShapeError
from cgru.engine.pool import Pool
from cgru.engine.stream import Stream

sys.path.insert(0, str(Path(__file__).parent / "soak"))
import pool_traffic

CAPACITY = 6
KIND = Kind(3, 5, layers=2, head=4)


class Traffic(RuleBasedStateMachine):
    """Opens, steps, resets, closes and mistakes in any order; beside each stream of the pool runs its twin alone."""

    backend = "packed"

    @initialize(kind=KINDS, seed=st.integers(0, 2**32 - 1))
    def begin(self, kind: Kind, seed: int) -> None:
        self.kind, self.seed = kind, seed
        self.net = build(kind, seed, self.backend)
        self.pool = self.net.pool(CAPACITY)
        self.twins: dict[int, Stream] = {}
        self.heard: dict[int, list[tuple[np.ndarray, np.ndarray]]] = {}
        self.closed: list[int] = []
        self.calls = 0

    def input(self, n: int) -> np.ndarray:
        self.calls += 1
        return draw_input(self.kind, n, 1, self.seed + self.calls)[:, 0]

    @rule()
    def open(self) -> None:
        if len(self.twins) == CAPACITY:
            with pytest.raises(CgruError, match=f"full: all {CAPACITY}"):
                self.pool.open()
            return
        sid = self.pool.open()
        assert sid not in self.twins
        assert sid not in self.closed
        self.twins[sid], self.heard[sid] = self.net.stream(), []

    @precondition(lambda self: self.twins)
    @rule(data=st.data(), through_out=st.booleans(), threads=st.sampled_from([1, 2]))
    def step(self, data: st.DataObject, through_out: bool, threads: int) -> None:
        sids = data.draw(st.lists(st.sampled_from(sorted(self.twins)), unique=True), label="sids")
        x = self.input(len(sids))
        out = np.empty((len(sids), self.net.output_size), np.float32) if through_out else None
        y = self.pool.step(sids, x, out, threads=threads)
        assert y is out or out is None
        assert y.shape == (len(sids), self.net.output_size)
        for sid, row, got in zip(sids, x, y, strict=True):
            assert_same(self.backend, got, self.twins[sid].step(row[None])[0], f"stream {sid}")
            self.heard[sid].append((row, got))

    @precondition(lambda self: self.twins)
    @rule(data=st.data())
    def reset(self, data: st.DataObject) -> None:
        sid = data.draw(st.sampled_from(sorted(self.twins)))
        self.pool.reset(sid)
        self.twins[sid].reset()
        self.heard[sid] = []

    @precondition(lambda self: self.twins)
    @rule(data=st.data())
    def close(self, data: st.DataObject) -> None:
        sid = data.draw(st.sampled_from(sorted(self.twins)))
        self.pool.close(sid)
        self.check_whole(sid)
        del self.twins[sid], self.heard[sid]
        self.closed.append(sid)

    @rule(data=st.data())
    def name_a_stream_that_is_not_open(self, data: st.DataObject) -> None:
        sids = [
            *data.draw(st.permutations(sorted(self.twins))),
            data.draw(st.sampled_from([*self.closed, -1, 0, 2**40])),
        ]
        with pytest.raises(CgruError, match=r"no stream -?[0-9]+ is open"):
            self.pool.step(sids, self.input(len(sids)))

    @precondition(lambda self: self.twins)
    @rule(data=st.data())
    def name_a_stream_twice(self, data: st.DataObject) -> None:
        sids = data.draw(st.permutations(sorted(self.twins)))
        sids = [*sids, data.draw(st.sampled_from(sids))]
        with pytest.raises(CgruError, match="stands twice"):
            self.pool.step(sids, self.input(len(sids)))

    @precondition(lambda self: self.twins)
    @rule(more=st.sampled_from([-1, 1]))
    def give_a_row_too_many_or_too_few(self, more: int) -> None:
        with pytest.raises(ShapeError, match="x:"):
            self.pool.step(list(self.twins), self.input(len(self.twins) + more))

    def check_whole(self, sid: int) -> None:
        """What the stream gave, step by step among the others, is what the whole sequence gives."""
        if not self.heard[sid]:
            return
        x = np.stack([row for row, _ in self.heard[sid]])
        want = self.net(x)
        given = [y for _, y in self.heard[sid]]
        assert_same(self.backend, given[-1] if self.kind.last else np.stack(given), want, f"all of stream {sid}")

    @invariant()
    def states_are_those_of_the_twins(self) -> None:
        if not hasattr(self, "pool"):
            return
        assert len(self.pool) == len(self.twins)
        for sid, twin in self.twins.items():
            assert_same(self.backend, self.pool._data[self.pool._rows([sid])], twin._data, f"state of stream {sid}")

    def teardown(self) -> None:
        for sid in getattr(self, "twins", ()):
            self.check_whole(sid)


class BlasTraffic(Traffic):
    backend = "blas"


class ReferenceTraffic(Traffic):
    backend = "reference"


TestTraffic = Traffic.TestCase
TestBlasTraffic = BlasTraffic.TestCase
TestReferenceTraffic = ReferenceTraffic.TestCase
TestTraffic.settings = settings(max_examples=100, stateful_step_count=40)
TestBlasTraffic.settings = TestReferenceTraffic.settings = settings(max_examples=15, stateful_step_count=30)


# Every kind of network, then every precision.
@pytest.mark.parametrize("seed", [0, 1, 2, 3, 5, 10, 15, 16])
def test_a_short_soak(seed: int) -> None:
    """The traffic of tests/soak/pool_traffic.py, which is meant to run for minutes, a short while without faults."""
    count = pool_traffic.run(turns=1200, seed=seed, faults=False)
    assert count["turns"] == 1200
    for name in ("stream steps", "ids that are not open", "ids twice", "wrong numbers of rows", "wrong types"):
        assert count[name] > 20, name


def pooled(backend: str, capacity: int = 4, kind: Kind = KIND) -> tuple[Pool, list[int]]:
    """A pool and its streams, open in all places but one and some way along."""
    net = build(kind, 1, backend)
    pool = net.pool(capacity)
    sids = [pool.open() for _ in range(capacity - 1)]
    for t in range(3):
        pool.step(sids, draw_input(kind, len(sids), 1, t)[:, 0])
    return pool, sids


# ---- many at once ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 2, 5, 127, 128, 129, 200, 300])
@pytest.mark.parametrize("threads", [1, 2])
def test_any_number_in_any_order_is_each_alone(n: int, threads: int) -> None:
    """Rows are taken in blocks of 128 inside; the order of a step's streams has nothing to do with their places."""
    net = build(Kind(24, 33, head=3), 2, "packed")
    pool = net.pool(300)
    everyone = [pool.open() for _ in range(300)]
    rng = np.random.default_rng(n)
    xs = noise((4, n, 24), n)
    chosen = [everyone[i] for i in rng.permutation(300)[:n]]
    rest = sorted(set(everyone) - set(chosen))
    alone = net.stream(n)
    for x in xs:
        order = rng.permutation(n)
        y = pool.step([chosen[i] for i in order], x[order], threads=threads)
        assert_same("packed", y, alone.step(x)[order])
    assert not pool._data[pool._rows(rest)].any()


def test_full_capacity_and_none(backend: str) -> None:
    pool, sids = pooled(backend)
    sids.append(pool.open())
    assert len(pool) == pool.capacity
    assert pool.step(sids, noise((4, 3), 0)).shape == (4, 4)
    before = pool._data.copy()
    empty: list[Any] = [[], np.array([], np.int64), ()]
    for nobody in empty:
        assert pool.step(nobody, np.zeros((0, 3), np.float32)).shape == (0, 4)
    assert np.array_equal(pool._data, before)


@pytest.mark.parametrize(
    "form", [list, tuple, np.array, lambda s: np.array(s, np.uint64), lambda s: np.array(s)[::-1][::-1]]
)
def test_ids_in_any_form(backend: str, form: Callable[[list[int]], Any]) -> None:
    pool, sids = pooled(backend)
    other = pooled(backend)
    x = noise((3, 3), 0)
    assert_same(backend, pool.step(form(sids), x), other[0].step(other[1], x))


@pytest.mark.parametrize(
    "batch", [lambda x: x.astype(float), np.asfortranarray, lambda x: x.tolist(), lambda x: x[::-1].copy()[::-1]]
)
def test_any_form_of_input(backend: str, batch: Callable[[np.ndarray], Any]) -> None:
    pool, sids = pooled(backend)
    other = pooled(backend)
    x = noise((3, 3), 0)
    assert_same(backend, pool.step(sids, batch(x)), other[0].step(other[1], x))


def test_token_ids(backend: str) -> None:
    kind = Kind(7, 4, embedded=True, masked=True)
    pool, sids = pooled(backend, kind=kind)
    other = pooled(backend, kind=kind)
    want = other[0].step(other[1], np.array([3, 0, 6]))
    assert_same(backend, pool.step(sids, [3, 0, 6]), want)
    for bad in ([3, 0, 7], [3, 0, -1], [3, 0], [3.0, 0, 6], [[3], [0], [6]], [[3, 0, 6]]):
        before = pool._data.copy()
        with pytest.raises(CgruError, match="x:"):
            pool.step(sids, bad)
        assert np.array_equal(pool._data, before)


def test_a_network_of_activations_alone(backend: str) -> None:
    pool = cgru.Model([cgru.Activation("tanh")], backend=backend).pool(3)
    sids = [pool.open(), pool.open()]
    x = noise((2, 3), 0)
    np.testing.assert_allclose(pool.step(sids, x), np.tanh(x), atol=1e-6)


# ---- opening and closing -----------------------------------------------------------------------------------


def test_a_new_stream_begins_at_zero_in_a_used_place(backend: str) -> None:
    pool, sids = pooled(backend)
    x = noise((1, 3), 0)
    want = pool.net.stream().step(x)
    for _ in range(20):
        pool.close(sids.pop())
        sids.append(pool.open())
        assert_same(backend, pool.step(sids[-1:], x), want)


def test_a_full_pool_says_so_and_goes_on(backend: str) -> None:
    pool, sids = pooled(backend)
    sids.append(pool.open())
    before = pool._data.copy()
    with pytest.raises(CgruError, match="full: all 4 streams are open"):
        pool.open()
    assert np.array_equal(pool._data, before)
    pool.close(sids[1])
    assert pool.open() not in sids
    assert len(pool) == 4


def test_ids_are_never_given_again_nor_shared_by_pools(backend: str) -> None:
    net = build(KIND, 1, backend)
    pools = [net.pool(2), net.pool(3)]
    seen = set()
    for _ in range(50):
        for pool in pools:
            sid = pool.open()
            assert sid not in seen
            seen.add(sid)
            pool.close(sid)


def test_an_id_of_another_pool_is_refused(backend: str) -> None:
    pool, _ = pooled(backend)
    other, others = pooled(backend)
    for sid in others:
        for use in (pool.close, pool.reset, lambda s: pool.step([s], noise((1, 3), 0))):
            with pytest.raises(CgruError, match=f"no stream {sid} is open"):
                use(sid)
    assert len(pool) == len(other) == 3


BAD_IDS: dict[str, Any] = {
    "closed": None,
    "never opened": 12345,
    "zero": 0,
    "negative": -1,
    "most negative": -(2**63),
    "largest int64": 2**63 - 1,
    "beyond int64": 2**63,
    "largest uint64": 2**64 - 1,
    "beyond uint64": 2**64,
    "far below": -(2**70),
    "true": True,
    "false": False,
    "a float": 1.0,
    "a string": "1",
    "nothing": None,
    "nested": [1],
}


@pytest.mark.parametrize("use", ["step", "close", "reset"])
@pytest.mark.parametrize("name", BAD_IDS)
def test_bad_ids_say_so_and_disturb_nobody(backend: str, name: str, use: str) -> None:
    pool, sids = pooled(backend)
    bad = BAD_IDS[name]
    if name == "closed":
        bad = pool.open()
        pool.close(bad)
    before, count = pool._data.copy(), len(pool)
    call = getattr(pool, use) if use != "step" else lambda sid: pool.step([*sids, sid], noise((4, 3), 0))
    with pytest.raises(CgruError, match="sids:"):
        call(bad)
    with pytest.raises(CgruError, match="sids:"):
        pool.step([bad], noise((1, 3), 0))
    assert np.array_equal(pool._data, before)
    assert len(pool) == count
    pool.step(sids, noise((3, 3), 0))


@pytest.mark.parametrize(
    "bad", [None, 7, "sids", [[1, 2], [3]], np.zeros((2, 2), np.int64), np.array([True]), object()]
)
def test_what_are_no_ids_at_all(backend: str, bad: Any) -> None:
    pool, _ = pooled(backend)
    before = pool._data.copy()
    with pytest.raises(CgruError, match="sids: expected a sequence"):
        pool.step(bad, noise((1, 3), 0))
    assert np.array_equal(pool._data, before)


def test_an_id_below_zero_is_not_the_last_closed_place(backend: str) -> None:
    """A free place is marked with a number no id may be: every place free, every small number refused."""
    pool = build(KIND, 1, backend).pool(3)
    for sid in range(-9, 9):
        with pytest.raises(CgruError, match=f"no stream {sid} is open"):
            pool.step([sid], noise((1, 3), 0))
        with pytest.raises(CgruError, match=f"no stream {sid} is open"):
            pool.close(sid)
    assert len(pool) == 0
    assert len({pool.open() for _ in range(3)}) == 3


BAD_INPUT: dict[str, Any] = {
    "too few rows": np.zeros((2, 3), np.float32),
    "too many rows": np.zeros((4, 3), np.float32),
    "too few features": np.zeros((3, 2), np.float32),
    "one axis": np.zeros(3, np.float32),
    "a time axis": np.zeros((3, 1, 3), np.float32),
    "integers": np.zeros((3, 3), np.int64),
    "complex": np.zeros((3, 3), np.complex64),
    "objects": np.full((3, 3), None, object),
    "None": None,
    "ragged": [[1.0], [1.0, 2.0], [1.0]],
}


@pytest.mark.parametrize("name", BAD_INPUT)
def test_bad_input_says_so_and_disturbs_nobody(backend: str, name: str) -> None:
    pool, sids = pooled(backend)
    before = pool._data.copy()
    with pytest.raises(ShapeError, match="x:"):
        pool.step(sids, BAD_INPUT[name])
    assert np.array_equal(pool._data, before)


_shared = np.zeros(24, np.float32)
BAD_OUT: dict[str, Any] = {
    "too few rows": np.empty((2, 4), np.float32),
    "too many features": np.empty((3, 5), np.float32),
    "float64": np.empty((3, 4)),
    "read-only": np.frombuffer(bytes(48), np.float32).reshape(3, 4),
    "broadcast": np.broadcast_to(np.float32(0), (3, 4)),
    "strided": np.empty((3, 8), np.float32)[:, ::2],
    "a list": [[0.0] * 4] * 3,
    "overlapping": _shared[8:20].reshape(3, 4),
}


@pytest.mark.parametrize("name", BAD_OUT)
def test_wrong_out_says_so_and_disturbs_nobody(backend: str, name: str) -> None:
    pool, sids = pooled(backend)
    before = pool._data.copy()
    with pytest.raises(ShapeError, match="out: it overlaps x" if name == "overlapping" else r"out: .*\(3, 4\)"):
        pool.step(sids, _shared[:9].reshape(3, 3), BAD_OUT[name])
    assert np.array_equal(pool._data, before)
    assert not _shared.any()


@pytest.mark.parametrize("bad", [0, -1, 1.5, "two"])
def test_bad_thread_counts(backend: str, bad: Any) -> None:
    pool, sids = pooled(backend)
    before = pool._data.copy()
    with pytest.raises(CgruError, match="threads"):
        pool.step(sids, noise((3, 3), 0), threads=bad)
    assert np.array_equal(pool._data, before)


def test_a_pool_larger_than_any(backend: str) -> None:
    with pytest.raises(CgruError, match="capacity: expected at most 67108864"):
        build(KIND, 1, backend).pool(2**26 + 1)


# ---- numbers that are not ordinary -------------------------------------------------------------------------


def test_nan_comes_out_of_its_own_stream_and_no_other(backend: str) -> None:
    pool, sids = pooled(backend, capacity=9)
    well = pooled(backend, capacity=9)
    x = noise((8, 3), 0)
    ill = x.copy()
    ill[2, 1], ill[5] = np.nan, np.inf
    for t in range(4):
        y, want = pool.step(sids, ill if t == 0 else x), well[0].step(well[1], x)
        assert np.isnan(y[2]).all()
        assert not np.isnan(want).any()
        others = [0, 1, 3, 4, 6, 7]
        assert_same(backend, y[others], want[others], f"step {t}")
    pool.close(sids[2])
    fresh = pool.open()
    assert_same(backend, pool.step([fresh], x[:1]), pool.net.stream().step(x[:1]))
    pool.reset(sids[5])
    assert_same(backend, pool.step([sids[5]], x[:1]), pool.net.stream().step(x[:1]))


def test_an_open_stream_takes_little_more_than_its_state() -> None:
    net = build(Kind(3, 100), 1, "packed")
    pool = net.pool(1000)
    held = pool._data.nbytes + pool._owner.nbytes + pool._place.nbytes
    assert held <= 1000 * (4 * (100 + 2 + 16) + 16)
