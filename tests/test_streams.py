"""Streams: any cutting of any input into steps and chunks equals the whole, and no error moves the state.

The packed backend is held to bits, the others to their tolerance (agreement.py).
"""

from __future__ import annotations

import copy
import gc
import hashlib
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from agreement import assert_same
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import KINDS, Kind, build, draw_input, noise

import cgru
from cgru import CgruError, FormatError, ShapeError, UnsupportedError


def small(backend: str | None = None, hidden: int = 5, inputs: int = 3, seed: int = 0) -> cgru.Model:
    return build(Kind(inputs, hidden, layers=2, head=4), seed, backend)


def state(stream: Any) -> bytes:
    """Every bit a stream carries."""
    return stream.dump()


# ---- equal to the whole ------------------------------------------------------------------------------------


@settings(max_examples=60)
@given(data=st.data(), kind=KINDS, seed=st.integers(0, 2**32 - 1))
def test_any_cutting_is_the_whole(backend: str, data: st.DataObject, kind: Kind, seed: int) -> None:
    net = build(kind, seed, backend)
    batch, steps = data.draw(st.integers(1, 6)), data.draw(st.integers(0, 24))
    x = draw_input(kind, batch, steps, seed)
    want = net(x)
    stream, at, pieces = net.stream(batch), 0, []
    while at < steps:
        size = data.draw(st.integers(0, steps - at), label="steps of the next chunk, 0 for a single step()")
        if size:
            y = stream.feed(x[:, at : at + size])
        else:
            size = 1
            y = stream.step(x[:, at])
            y = y if kind.last else y[:, None]
        at += size
        pieces.append(y)
        if kind.last:
            assert_same(backend, y, net(x[:, :at]), f"after {at} steps")
    if pieces and not kind.last:
        assert_same(backend, np.concatenate(pieces, axis=1), want)
    whole = net.stream(batch)
    whole.feed(x)
    assert_same(backend, stream._data, whole._data, "state")


@pytest.mark.parametrize("hidden", [1, 17, 154, 256, 400])
@pytest.mark.parametrize("reset", ["after", "before"])
def test_steps_are_the_whole_at_real_sizes(backend: str, hidden: int, reset: str) -> None:
    kind = Kind(hidden, hidden, layers=2, reset=reset, head=7)
    net = build(kind, hidden, backend)
    x = draw_input(kind, 2, 12, 1)
    stream = net.stream(2)
    got = np.stack([stream.step(x[:, t]) for t in range(12)], axis=1)
    assert_same(backend, got, net(x))


@pytest.mark.parametrize("threads", [2, 3, "auto"])
def test_feeding_with_threads_is_the_same(threads: int | str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CGRU_CORES", "4")
    net = build(Kind(64, 192, layers=2), 3, "packed")
    x = draw_input(Kind(64, 192), 2, 60, 3)
    stream = net.stream(2)
    got = np.concatenate([stream.feed(x[:, a:b], threads=threads) for a, b in ((0, 7), (7, 7), (7, 60))], axis=1)
    assert_same("packed", got, net(x))


def test_rows_are_independent(backend: str) -> None:
    net = small(backend)
    x = noise((4, 9, 3), 5)
    together, apart = net.stream(4), [net.stream() for _ in range(4)]
    for t in range(9):
        y = together.step(x[:, t])
        for row, stream in enumerate(apart):
            assert_same(backend, stream.step(x[row, t]), y[row], f"row {row} at step {t}")


# ---- what a step takes and gives ---------------------------------------------------------------------------


def test_shapes_of_a_batch_of_one(backend: str) -> None:
    net = small(backend)
    x = noise((6, 3), 1)
    a, b = net.stream(), net.stream(batch=1)
    for row in x:
        flat, deep = a.step(row), b.step(row[None])
        assert flat.shape == (4,)
        assert deep.shape == (1, 4)
        assert_same(backend, flat, deep[0])
    assert a.feed(x).shape == (6, 4)
    assert b.feed(x[None]).shape == (1, 6, 4)
    assert a.feed(x[:0]).shape == (0, 4)
    ids = build(Kind(7, 4, embedded=True), 0, backend)
    stream = ids.stream()
    assert stream.step(3).shape == stream.step(np.int32(3)).shape == stream.step(np.array(3)).shape == (4,)
    assert stream.step([3]).shape == (1, 4)
    assert stream.feed([1, 2, 3]).shape == (3, 4)


FORMS: dict[str, Callable[[np.ndarray], Any]] = {
    "float64": lambda x: x.astype(np.float64),
    "float16": lambda x: x.astype(np.float16),
    "byte-swapped": lambda x: x.astype(">f4"),
    "every other": lambda x: np.repeat(x, 2, axis=-1)[..., ::2],
    "backwards": lambda x: x[::-1].copy()[::-1],
    "columns first": np.asfortranarray,
    "not aligned": lambda x: np.frombuffer(b"." + x.tobytes(), np.uint8)[1:].view(np.float32).reshape(x.shape),
    "read-only": lambda x: np.frombuffer(x.tobytes(), np.float32).reshape(x.shape),
    "broadcast": lambda x: np.broadcast_to(x[:1], x.shape),
    "lists": lambda x: x.tolist(),
    "subclass": lambda x: x.view(np.memmap),
}


@pytest.mark.parametrize("form", FORMS)
def test_any_form_of_input(backend: str, form: str) -> None:
    net = small(backend)
    x = noise((2, 3), 2).astype(np.float16).astype(np.float32)
    given = FORMS[form](x)
    want = np.ascontiguousarray(given, np.float32)
    before = np.array(given)
    a, b = net.stream(2), net.stream(2)
    for _ in range(3):
        assert_same(backend, a.step(given), b.step(want))
    assert np.array_equal(given, before)


BAD_STEPS: dict[str, Any] = {
    "too few features": np.zeros((2, 2), np.float32),
    "too many features": np.zeros((2, 4), np.float32),
    "too few rows": np.zeros((1, 3), np.float32),
    "too many rows": np.zeros((3, 3), np.float32),
    "one row without its axis": np.zeros(3, np.float32),
    "a time axis": np.zeros((2, 1, 3), np.float32),
    "a number": 1.0,
    "None": None,
    "integers": np.zeros((2, 3), np.int64),
    "complex": np.zeros((2, 3), np.complex64),
    "booleans": np.zeros((2, 3), bool),
    "objects": np.full((2, 3), "a", object),
    "strings": [["a"] * 3] * 2,
    "ragged": [[1.0], [1.0, 2.0]],
    "empty": np.zeros((0, 3), np.float32),
}


@pytest.mark.parametrize("name", BAD_STEPS)
def test_bad_input_says_so_and_moves_nothing(backend: str, name: str) -> None:
    stream = small(backend).stream(2)
    stream.step(noise((2, 3), 0))
    before = state(stream)
    with pytest.raises(ShapeError, match="x:"):
        stream.step(BAD_STEPS[name])
    if name != "a time axis":  # that is a chunk
        with pytest.raises(CgruError):
            stream.feed(BAD_STEPS[name])
    assert state(stream) == before


@pytest.mark.parametrize("bad", [7, -1, 2**40, 1.0, True, [1, 2], np.zeros((1, 1), np.int64), None, "a"])
def test_bad_ids_say_so_and_move_nothing(backend: str, bad: Any) -> None:
    stream = build(Kind(7, 4, embedded=True), 0, backend).stream()
    stream.step(3)
    before = state(stream)
    with pytest.raises(CgruError, match="x:"):
        stream.step(bad)
    assert state(stream) == before


def test_out_receives_the_result(backend: str) -> None:
    net = small(backend)
    x = noise((5, 2, 3), 3)
    a, b, out = net.stream(2), net.stream(2), np.empty((2, 4), np.float32)
    for row in x:
        assert a.step(row, out=out) is out
        assert_same(backend, out, b.step(row))
    one, single = net.stream(), np.empty(4, np.float32)
    assert one.step(x[0, 0], single) is single
    assert_same(backend, single, net.stream().step(x[0, 0]))


def test_out_saves_every_allocation() -> None:
    stream = small("packed").stream(2)
    x, out = noise((2, 3), 0), np.empty((2, 4), np.float32)
    step = stream.step
    step(x, out)
    gc.collect()
    gc.disable()
    try:
        before = sys.getallocatedblocks()
        for _ in range(1000):
            step(x, out)
        assert sys.getallocatedblocks() - before < 10
    finally:
        gc.enable()


_shared = np.zeros(16, np.float32)
BAD_OUT: dict[str, Any] = {
    "too small": np.empty((2, 3), np.float32),
    "too large": np.empty((2, 5), np.float32),
    "one axis": np.empty(4, np.float32),
    "float64": np.empty((2, 4), np.float64),
    "byte-swapped": np.empty((2, 4), ">f4"),
    "read-only": np.frombuffer(bytes(32), np.float32).reshape(2, 4),
    "broadcast": np.broadcast_to(np.float32(0), (2, 4)),
    "strided": np.empty((2, 8), np.float32)[:, ::2],
    "columns first": np.empty((4, 2), np.float32).T,
    "not aligned": np.zeros(33, np.uint8)[1:].view(np.float32).reshape(2, 4),
    "a list": [[0.0] * 4] * 2,
    "overlapping": _shared[4:12].reshape(2, 4),
}


@pytest.mark.parametrize("name", BAD_OUT)
def test_wrong_out_says_so_and_moves_nothing(backend: str, name: str) -> None:
    stream = small(backend).stream(2)
    stream.step(noise((2, 3), 0))
    before = state(stream)
    with pytest.raises(ShapeError, match="out: it overlaps x" if name == "overlapping" else r"out: .*\(2, 4\)"):
        stream.step(_shared[:6].reshape(2, 3), BAD_OUT[name])
    assert state(stream) == before
    assert not _shared.any()


def test_out_beside_x_is_no_overlap(backend: str) -> None:
    both = np.zeros(14, np.float32)
    stream = small(backend).stream(2)
    stream.step(both[:6].reshape(2, 3), both[6:].reshape(2, 4))
    assert both[6:].any()
    stream.step(both[8:].reshape(2, 3), both[:8].reshape(2, 4))


# ---- networks that cannot stream ---------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{"bidirectional": True}, {"go_backwards": True}])
def test_what_cannot_stream_is_named(backend: str, options: dict[str, Any]) -> None:
    arrays = {
        key + suffix: noise(shape, 0)
        for suffix in ("", "_reverse")[: 1 + ("bidirectional" in options)]
        for key, shape in (("weight_ih_l0", (12, 3)), ("weight_hh_l0", (12, 4)))
    }
    net = cgru.Model([cgru.GRU(arrays, name="listener", **options)], backend=backend)
    for make in (net.stream, lambda: net.pool(3)):
        with pytest.raises(UnsupportedError, match=r"listener: .*(both directions|backwards).*cannot stream"):
            make()


@pytest.mark.parametrize("bad", [0, -1, 1.5, "2", None])
def test_bad_sizes(bad: Any) -> None:
    with pytest.raises(CgruError, match="batch"):
        small().stream(bad)
    with pytest.raises(CgruError, match="capacity"):
        small().pool(bad)


@pytest.mark.parametrize("batch", [10**15, 10**19, 10**30])
def test_more_rows_than_memory_holds(batch: int) -> None:
    for make in (small().stream, lambda batch: small().state(batch=batch)):
        with pytest.raises(CgruError, match=rf"no memory for the state of {batch:,} rows.*fewer rows"):
            make(batch)


def test_a_network_of_activations_alone_streams(backend: str) -> None:
    net = cgru.Model([cgru.Activation("tanh")], backend=backend)
    x = noise((2, 3), 0)
    np.testing.assert_allclose(net.stream(2).step(x), np.tanh(x), atol=1e-6)


# ---- state: reset, copy, dump, restore ---------------------------------------------------------------------


def test_reset_begins_anew(backend: str) -> None:
    net = small(backend)
    x = noise((3, 8, 3), 4)
    stream, fresh = net.stream(3), net.stream(3)
    stream.feed(x)
    stream.reset()
    assert state(stream) == state(fresh)
    assert_same(backend, stream.feed(x), fresh.feed(x))


@pytest.mark.parametrize("rows", [[1], [0, 2], [], (2, 1, 0), np.array([2]), range(1, 3), [1, 1], iter([0])])
def test_reset_of_some_rows(backend: str, rows: Any) -> None:
    net = small(backend)
    x = noise((3, 8, 3), 4)
    stream, other = net.stream(3), net.stream(3)
    stream.feed(x)
    other.feed(x)
    named = list(rows)
    stream.reset(rows=iter(named))
    for row in range(3):
        kept = np.zeros_like(other._data[row]) if row in named else other._data[row]
        assert np.array_equal(stream._data[row], kept)


@pytest.mark.parametrize("rows", [[3], [-1], [0, 7], [1.0], [True], ["1"], [None], [[0]], [2**70]])
def test_reset_of_rows_that_are_not_there(backend: str, rows: Any) -> None:
    stream = small(backend).stream(3)
    stream.feed(noise((3, 2, 3), 4))
    before = state(stream)
    with pytest.raises(CgruError, match=r"rows: .* is not a row"):
        stream.reset(rows=rows)
    assert state(stream) == before


def test_copies_are_independent(backend: str) -> None:
    net = small(backend)
    x = noise((2, 10, 3), 4)
    stream, fresh = net.stream(2), net.stream(2)
    fresh.feed(x[:, :5])
    stream.feed(x[:, :5])
    for twin in (stream.copy(), copy.copy(stream)):
        before = state(stream)
        twin.feed(noise((2, 3, 3), 9))
        assert state(stream) == before
    twin = stream.copy()
    stream.reset()
    assert_same(backend, twin.feed(x[:, 5:]), fresh.feed(x[:, 5:]))


def test_a_dump_restores(backend: str) -> None:
    net = small(backend)
    x = noise((2, 10, 3), 4)
    stream, other = net.stream(2), net.stream(2)
    stream.feed(x[:, :5])
    blob = stream.dump()
    want = stream.feed(x[:, 5:])
    forms: list[Any] = [blob, bytearray(blob), memoryview(blob)]
    for form in forms:
        other.feed(noise((2, 3, 3), 9))
        other.restore(form)
        assert other.dump() == blob
        assert_same(backend, other.feed(x[:, 5:]), want)
    del other, stream
    again = small(backend).stream(2)  # the same file loaded again
    again.restore(blob)
    assert_same(backend, again.feed(x[:, 5:]), want)


def test_a_dump_restores_over_another_backend(backend: str) -> None:
    stream, other = small("reference").stream(), small(backend).stream()
    stream.feed(noise((5, 3), 1))
    other.restore(stream.dump())
    x = noise((4, 3), 2)
    np.testing.assert_allclose(other.feed(x), stream.feed(x), atol=1e-6)


def redigested(blob: bytes, at: int, byte: bytes) -> bytes:
    """The dump with a byte replaced and the digest made to match."""
    body = blob[:at] + byte + blob[at + 1 : -16]
    return body + hashlib.blake2b(body, digest_size=16).digest()


BAD_DUMPS: dict[str, tuple[Any, str]] = {
    "another type": (lambda b: "text", "found str"),
    "None": (lambda b: None, "found NoneType"),
    "empty": (lambda b: b"", "no dump of a stream"),
    "something else": (lambda b: b"x" * len(b), "no dump of a stream"),
    "one byte short": (lambda b: b[:-1], "damaged"),
    "cut in the middle": (lambda b: b[: len(b) // 2], "damaged"),
    "cut to its head": (lambda b: b[:20], "no dump of a stream"),
    "one byte longer": (lambda b: b + b"\0", "damaged"),
    "another version": (lambda b: redigested(b, 12, b"2"), "form b'cgru stream 2"),
    "another network": (lambda b: redigested(b, 20, bytes([b[20] ^ 1])), "another network"),
    "another number of rows": (lambda b: redigested(b, 30, bytes([b[30] + 1])), "3 rows"),
    "hardly any rows": (lambda b: redigested(b, 37, b"\xff"), "rows"),
}


@pytest.mark.parametrize("name", BAD_DUMPS)
def test_a_bad_dump_says_so_and_moves_nothing(backend: str, name: str) -> None:
    stream = small(backend).stream(2)
    stream.feed(noise((2, 3, 3), 1))
    change, message = BAD_DUMPS[name]
    before = state(stream)
    with pytest.raises(FormatError, match=f"restore: .*{message}"):
        stream.restore(change(before))
    assert state(stream) == before


def test_every_flipped_bit_is_seen() -> None:
    stream = small("reference").stream()
    stream.feed(noise((3, 3), 1))
    blob = stream.dump()
    for at in range(0, 8 * len(blob), 5):
        flipped = bytearray(blob)
        flipped[at // 8] ^= 1 << at % 8
        with pytest.raises(FormatError):
            stream.restore(bytes(flipped))
    assert stream.dump() == blob


@pytest.mark.parametrize(
    "other",
    [
        small(seed=1),
        small(hidden=6),
        small(inputs=4),
        build(Kind(3, 5, layers=2, head=4, reset="before"), 0, None),
        build(Kind(3, 5, layers=2, head=4, last=True), 0, None),
        build(Kind(3, 5, layers=2, head=None), 0, None),
    ],
    ids=["weights", "hidden size", "input size", "reset", "last output only", "no head"],
)
def test_a_dump_of_another_network_is_refused(other: cgru.Model) -> None:
    stream = small().stream(2)
    with pytest.raises(FormatError, match="another network"):
        stream.restore(other.stream(2).dump())
    with pytest.raises(FormatError, match="1 rows, this stream has 2"):
        stream.restore(small().stream(1).dump())


# ---- numbers that are not ordinary -------------------------------------------------------------------------


def test_nan_and_infinity_stay_in_their_row(backend: str) -> None:
    net = small(backend)
    x = noise((3, 6, 3), 2)
    ill = x.copy()
    ill[1, 2, 0] = np.nan
    ill[2, 2] = np.inf
    sick, well = net.stream(3), net.stream(3)
    for t in range(6):
        y, want = sick.step(ill[:, t]), well.step(x[:, t])
        assert_same(backend, y[0], want[0], f"step {t}")
        assert np.isnan(y[1]).all() == (t >= 2)
        assert not np.isnan(y[1]).any() or t >= 2
        sick_state = sick._data[2]
        assert np.isfinite(sick_state).all() or t >= 2
    sick.reset(rows=[1, 2])
    well.reset(rows=[1, 2])
    assert_same(backend, sick.step(x[:, 0]), well.step(x[:, 0]))


def test_infinity_saturates(backend: str) -> None:
    """±∞ drives gates to their limits: with positive weights r = z = n = 1, so h stays, and then 1·0 + 0·1."""
    ones = np.ones((3, 1), np.float32)
    stream = cgru.Model([cgru.GRU.from_arrays(ones, 0 * ones)], backend=backend).stream()
    assert stream.step(np.array([0.5], np.float32))[0] > 0
    h = stream._data[0, 0]
    assert stream.step(np.array([np.inf], np.float32))[0] == h
    assert stream.step(np.array([-np.inf], np.float32))[0] == -1.0


def test_silence_decays_to_exact_zero() -> None:
    """z keeps less than half of the state at each step; below the smallest normal number it is cut off."""
    w_hh = np.zeros((96, 32), np.float32)
    b = np.zeros(96, np.float32)
    b[32:64] = -0.5
    net = cgru.Model([cgru.GRU.from_arrays(noise((96, 4), 1), w_hh, b, 0 * b)], backend="packed")
    stream = net.stream()
    stream.step(noise((4,), 2))
    silence = np.zeros(4, np.float32)
    tiny = np.finfo(np.float32).tiny
    for _ in range(400):
        y = stream.step(silence)
        assert not ((y != 0) & (np.abs(y) < tiny)).any()
    assert not y.any()
    assert not stream._data[0, :32].any()


def test_the_callers_arithmetic_keeps_its_subnormals(backend: str) -> None:
    stream = small(backend).stream()
    stream.step(noise((3,), 1))
    assert np.float32(1e-38) / np.float32(100) > 0
