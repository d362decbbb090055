"""Laws every network obeys: one result whatever the route, and nothing of the caller's is written to.

A backend that promises bits is held to bits (see agreement.py). The same file runs under every instruction set
by ``CGRU_ISA``.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Literal

import numpy as np
import pytest
from agreement import assert_same
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import Case, cases, cuts

import cgru

RESETS = st.sampled_from(["after", "before"])


@settings(max_examples=40)
@given(data=st.data(), case=cases(steps=40, directions=1, masks=None, lengths=False), reset=RESETS)
def test_chunked_is_whole(backend: str, data: st.DataObject, case: Case, reset: str) -> None:
    net = cgru.Model([case.gru(reset=reset)], backend=backend)
    begin = net.state({"gru.h": case.h0}, batch=case.batch)
    want, want_state = net.run(case.x, begin, mask=case.mask)
    ends = data.draw(cuts(case.steps))
    state, pieces = begin, []
    for a, b in pairwise(ends):
        y, state = net.run(case.x[:, a:b], state, mask=None if case.mask is None else case.mask[:, a:b])
        pieces.append(y)
    assert_same(backend, np.concatenate(pieces, axis=1), want, f"cut at {ends}")
    assert_same(backend, state.arrays()["gru.h"], want_state.arrays()["gru.h"], "state")


@settings(max_examples=25)
@given(case=cases(steps=12, directions=1, least=1), reset=RESETS)
def test_step_by_step_is_whole(backend: str, case: Case, reset: str) -> None:
    net = cgru.Model([case.gru(reset=reset)], backend=backend)
    want, want_state = net.run(case.x)
    state = None
    for t in range(case.steps):
        y, state = net.run(case.x[:, t : t + 1], state)
        assert_same(backend, y[:, 0], want[:, t], f"step {t}")
    assert state is not None
    assert_same(backend, state.arrays()["gru.h"], want_state.arrays()["gru.h"], "state")


@settings(max_examples=40)
@given(case=cases(steps=20, lengths=None, masks=None), reset=RESETS)
def test_batch_is_singles(backend: str, case: Case, reset: str) -> None:
    gru = case.gru(reset=reset)
    want, want_h = gru(case.x, case.h0, case.lengths, case.mask, backend=backend)
    for b in range(case.batch):
        length = None if case.lengths is None else case.lengths[b]
        mask = None if case.mask is None else case.mask[b]
        y, h = gru(case.x[b], case.h0[:, b], length, mask, backend=backend)
        assert_same(backend, y, want[b], f"row {b}")
        assert_same(backend, h, want_h[:, b], f"state of row {b}")


@settings(max_examples=25)
@given(data=st.data(), case=cases(steps=20, lengths=None, masks=None), reset=RESETS)
def test_order_of_rows_does_not_matter(backend: str, data: st.DataObject, case: Case, reset: str) -> None:
    order = np.array(data.draw(st.permutations(range(case.batch))))
    gru = case.gru(reset=reset)
    want, want_h = gru(case.x, case.h0, case.lengths, case.mask, backend=backend)
    lengths = None if case.lengths is None else np.array(case.lengths)[order]
    mask = None if case.mask is None else case.mask[order]
    y, h = gru(case.x[order], case.h0[:, order], lengths, mask, backend=backend)
    assert_same(backend, y, want[order])
    assert_same(backend, h, want_h[:, order])


@settings(max_examples=25)
@given(case=cases(steps=20, lengths=True), reset=RESETS)
def test_lengths_are_each_row_alone(backend: str, case: Case, reset: str) -> None:
    """A row cut off at its length by hand; what stands past it, NaN too, changes nothing."""
    assert case.lengths is not None
    gru = case.gru(reset=reset)
    x = case.x.copy()
    for b, n in enumerate(case.lengths):
        x[b, n:] = np.nan
    got, got_h = gru(x, case.h0, case.lengths, backend=backend)
    for b, n in enumerate(case.lengths):
        y, h = gru(case.x[b, :n], case.h0[:, b], backend=backend)
        assert_same(backend, got[b, :n], y, f"row {b} of length {n}")
        assert not got[b, n:].any()
        assert_same(backend, got_h[:, b], h, f"state of row {b}")


@settings(max_examples=25)
@given(case=cases(steps=20, lengths=True), reset=RESETS)
def test_mask_with_a_masked_tail_is_lengths(backend: str, case: Case, reset: str) -> None:
    assert case.lengths is not None
    mask = np.arange(case.steps) < np.array(case.lengths)[:, None]
    gru = case.gru(reset=reset, zero_output_for_mask=True)
    want, want_h = gru(case.x, case.h0, case.lengths, backend=backend)
    got, got_h = gru(case.x, case.h0, mask=mask, backend=backend)
    assert_same(backend, got, want)
    assert_same(backend, got_h, want_h, "state")


@settings(max_examples=25)
@given(case=cases(steps=20, lengths=None, masks=True))
def test_masked_features_do_not_matter(backend: str, case: Case) -> None:
    assert case.mask is not None
    x = case.x.copy()
    x[~case.mask] = np.nan
    want = case.gru(zero_output_for_mask=True)(case.x, case.h0, case.lengths, case.mask, backend=backend)
    got = case.gru(zero_output_for_mask=True)(x, case.h0, case.lengths, case.mask, backend=backend)
    for a, b in zip(got, want, strict=True):
        assert_same(backend, a, b)


@settings(max_examples=15)
@given(case=cases(steps=12), threads=st.integers(2, 4), reset=RESETS)
def test_threads_do_not_matter(backend: str, case: Case, threads: int, reset: str) -> None:
    gru = case.gru(reset=reset)
    want = gru(case.x, case.h0, threads=1, backend=backend)
    got = gru(case.x, case.h0, threads=threads, backend=backend)
    for a, b in zip(got, want, strict=True):
        assert_same(backend, a, b)


def unaligned(x: np.ndarray) -> np.ndarray:
    raw = np.zeros(x.nbytes + 1, np.uint8)
    view = np.frombuffer(raw.data, np.float32, x.size, offset=1).reshape(x.shape)
    view[...] = x
    assert not view.flags.aligned or x.size == 0
    return view


def strided(x: np.ndarray) -> np.ndarray:
    wide = np.full((x.shape[0], 2 * x.shape[1], x.shape[2] + 3), np.nan, np.float32)
    wide[:, ::2, 1:-2] = x
    return wide[:, ::2, 1:-2]


def readonly(x: np.ndarray) -> np.ndarray:
    twin = x.copy()
    twin.flags.writeable = False
    return twin


LAYOUTS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "fortran": np.asfortranarray,
    "strided": strided,
    "unaligned": unaligned,
    "read-only": readonly,
    "negative strides": lambda x: x[::-1, ::-1, ::-1].copy()[::-1, ::-1, ::-1],
    "time first": lambda x: x.transpose(1, 0, 2).copy().transpose(1, 0, 2),
    "float64": lambda x: x.astype(np.float64),
    "long double": lambda x: x.astype(np.longdouble),
    "big-endian": lambda x: x.astype(">f4"),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("first", ["gru", "dense"])
def test_layout_of_memory_does_not_matter(backend: str, layout: str, first: str) -> None:
    case = Case(7, 19, 2, 2, True, 5, 6, seed=31, lengths=(6, 1, 0, 4, 6))
    layers: list[cgru.layers.Layer] = [case.gru()]
    if first == "dense":
        layers.insert(0, cgru.Dense(np.random.default_rng(1).standard_normal((7, 7)).astype(np.float32)))
    net = cgru.Model(layers, backend=backend)
    state = {"gru.h": case.h0}
    want, want_state = net.run(case.x, state, case.lengths)
    got, got_state = net.run(LAYOUTS[layout](case.x), {"gru.h": LAYOUTS[layout](case.h0)}, case.lengths)
    assert np.array_equal(got, want)
    assert np.array_equal(got_state.arrays()["gru.h"], want_state.arrays()["gru.h"])


def test_float16_is_cast_up(backend: str) -> None:
    case = Case(7, 19, 1, 1, True, 3, 4, seed=32)
    half = case.x.astype(np.float16)
    got, _ = case.gru()(half, backend=backend)
    want, _ = case.gru()(half.astype(np.float32), backend=backend)
    assert got.dtype == np.float32
    assert np.array_equal(got, want)


def test_broadcast_input(backend: str) -> None:
    """A stride of zero is a stride."""
    case = Case(7, 9, 1, 2, True, 3, 4, seed=33)
    wide = np.broadcast_to(case.x[:1], case.x.shape)
    assert np.array_equal(case.gru()(wide, backend=backend)[0], case.gru()(wide.copy(), backend=backend)[0])


@settings(max_examples=25)
@given(case=cases(steps=10, lengths=True, masks=True))
def test_run_writes_to_nothing_it_is_given(backend: str, case: Case) -> None:
    net = cgru.Model([case.gru()], backend=backend)
    assert case.mask is not None
    lengths, mask, h0, x = np.array(case.lengths), case.mask.copy(), case.h0.copy(), case.x.copy()
    state = net.state({"gru.h": h0}, batch=case.batch)
    before = state.arrays()
    first, after = net.run(x, state, lengths, mask)
    assert np.array_equal(x, case.x)
    assert np.array_equal(lengths, np.array(case.lengths))
    assert np.array_equal(mask, case.mask)
    assert np.array_equal(h0, case.h0)
    assert np.array_equal(state.arrays()["gru.h"], before["gru.h"])
    # the state can be used again, and the new one is not tied to it
    kept = after.arrays()["gru.h"]
    again, after_again = net.run(x, state, lengths, mask)
    assert np.array_equal(again, first)
    assert np.array_equal(after_again.arrays()["gru.h"], kept)
    after_again.data[...] = 5
    assert np.array_equal(state.arrays()["gru.h"], before["gru.h"])
    assert np.array_equal(after.arrays()["gru.h"], kept)


def single_layers() -> dict[str, tuple[cgru.layers.Layer, np.ndarray]]:
    x = np.random.default_rng(1).standard_normal((2, 3, 4)).astype(np.float32)
    return {
        "linear": (cgru.Activation("linear"), x),
        "relu": (cgru.Activation("relu"), x),
        "masking": (cgru.Masking(), x),
        "dense": (cgru.Dense(np.eye(4, dtype=np.float32)), x),
        "embedding": (cgru.Embedding(np.ones((5, 4), np.float32)), np.ones((2, 3), np.int64)),
        "gru": (Case(4, 4, 1, 1, True, 2, 3, seed=1).gru(), x),
    }


@pytest.mark.parametrize("kind", single_layers())
def test_results_share_memory_with_nothing(backend: str, kind: str) -> None:
    """Writing to a result changes neither the input, nor the weights, nor the next result."""
    layer, x = single_layers()[kind]
    net = cgru.Model([layer], backend=backend)
    kept = x.copy()
    y = net(x)
    assert y.flags.writeable
    assert y.shape == (2, 3, 4)
    first = y.copy()
    y[...] = 9
    assert np.array_equal(x, kept)
    assert np.array_equal(net(x), first)


@pytest.mark.parametrize("kind", single_layers())
@pytest.mark.parametrize("order", ["C", "F"])
def test_out_is_filled_and_returned(backend: str, kind: str, order: Literal["C", "F"]) -> None:
    layer, x = single_layers()[kind]
    net = cgru.Model([layer], backend=backend)
    out = np.array(np.full((2, 3, 4), np.nan), np.float32, order=order)
    y, _ = net.run(x, out=out)
    assert y is out
    assert np.array_equal(out, net(x))
    assert np.array_equal(net.run(x[0], out=out[1])[0], net(x[0]))


def test_out_may_be_the_input(backend: str) -> None:
    """In place is as good as elsewhere, whole or shifted by a step, for two layers and two directions too."""
    case = Case(8, 4, 2, 2, True, 3, 6, seed=35)
    net = cgru.Model([case.gru()], backend=backend)
    want = net(case.x)
    x = case.x.copy()
    assert np.array_equal(net.run(x, out=x)[0], want)
    room = np.zeros((3, 7, 8), np.float32)
    room[:, 1:] = case.x
    assert np.array_equal(net.run(room[:, 1:], out=room[:, :-1])[0], want)


def test_out_beyond_lengths_is_zero(backend: str) -> None:
    case = Case(3, 4, 1, 2, True, 3, 6, seed=36, lengths=(2, 0, 6))
    net = cgru.Model([case.gru()], backend=backend)
    out = np.full((3, 6, 8), np.nan, np.float32)
    net.run(case.x, lengths=case.lengths, out=out)
    assert np.array_equal(out, net(case.x, case.lengths))
    assert not out[0, 2:].any()
    assert not out[1].any()


@settings(max_examples=15)
@given(case=cases(steps=16, directions=1, least=2), reset=RESETS)
def test_stacked_is_one_after_the_other(backend: str, case: Case, reset: str) -> None:
    """A stack is its layers run singly, whole sequences at a time."""
    net = case.gru(reset=reset)
    want, want_h = net(case.x, case.h0, backend=backend)
    x = case.x
    for k in range(case.layers):
        arrays = {key.replace(f"_l{k}", "_l0"): value for key, value in case.arrays.items() if key.endswith(f"_l{k}")}
        x, h = cgru.GRU(arrays, reset=reset)(x, case.h0[k : k + 1], backend=backend)
        assert_same(backend, h, want_h[k : k + 1], f"state of layer {k}")
    assert_same(backend, x, want)


@settings(max_examples=15)
@given(case=cases(steps=16, directions=2, least=1, lengths=False), reset=RESETS)
def test_two_directions_are_one_turned_round(backend: str, case: Case, reset: str) -> None:
    """The reverse direction of a single layer is the forward cell on time turned round."""
    arrays = {key: value for key, value in case.arrays.items() if "_l0" in key}
    hidden = case.hidden
    both, h_n = cgru.GRU(arrays, bidirectional=True, reset=reset)(case.x, case.h0[:2], backend=backend)
    back = {key.removesuffix("_reverse"): value for key, value in arrays.items() if key.endswith("_reverse")}
    y, h = cgru.GRU(back, reset=reset)(case.x[:, ::-1], case.h0[1:2], backend=backend)
    assert_same(backend, np.ascontiguousarray(both[..., hidden:]), np.ascontiguousarray(y[:, ::-1]))
    assert_same(backend, h_n[1:], h)


def test_one_model_serves_many_python_threads(backend: str) -> None:
    """Eight threads on one model, each with its own input and state: as if each were alone."""
    case = Case(9, 33, 2, 1, True, 8, 30, seed=40)
    net = cgru.Model([case.gru()], backend=backend)

    def one(b: int) -> np.ndarray:
        return net.run(case.x[b], {"gru.h": case.h0[:, b]}, threads=1 + b % 2)[0]

    alone = [one(b) for b in range(8)]
    with ThreadPoolExecutor(8) as pool:
        for _ in range(5):
            for b, y in enumerate(pool.map(one, range(8))):
                assert np.array_equal(y, alone[b])
