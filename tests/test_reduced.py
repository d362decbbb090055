"""Reduced precision keeps the promises of float32, at every precision: chunks, batches, threads, streams and pools give
the same bits, a bad number stays in its row, and the error is what it is said to be.

``test_int8.py`` holds the int8 kernels to their arithmetic; bf16 and fp16 are held here to float64 on their weights.
"""

from __future__ import annotations

import importlib.util
import sys
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import isa
import numpy as np
import pytest
import test_packed as big
from cell_oracle import KINDS as CELLS
from cell_oracle import Net, nets
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import KINDS as STREAMED
from networks import Kind, build, draw_input
from strategies import Case

import cgru
from cgru import demo
from cgru.demo import co2
from cgru.spec.precision import PRECISIONS

isa.require()

ISAS = isa.available()
REDUCED = PRECISIONS[1:]
HALVES = ("bf16", "fp16")
RESETS = ("after", "before")
BENCH = Path(__file__).parents[1] / "bench"


def bits(got: Any, want: Any, what: str = "") -> None:
    """The same bits; which NaN it is does not matter."""
    got, want = np.ascontiguousarray(got), np.ascontiguousarray(want)
    assert got.dtype == want.dtype == np.float32, what
    assert got.shape == want.shape, what
    apart = (got.view(np.uint32) != want.view(np.uint32)) & ~(np.isnan(got) & np.isnan(want))
    assert not apart.any(), f"{what}: {apart.sum()} of {got.size} numbers differ in their bits"


def rounds_activations(precision: str, name: str | None = None) -> bool:
    """Whether an instruction set, by default the one in use, rounds what bf16 weights are multiplied with."""
    from cgru.engine.backends._packed import isa_in_use

    return precision == "bf16" and (name or isa_in_use()) == "avx512bf16"


# ---- laws, to the bit ------------------------------------------------------------------------------------------------

NETWORKS = st.sampled_from(big.KINDS)


@pytest.mark.parametrize("precision", REDUCED)
@settings(max_examples=20)
@given(kind=NETWORKS, case=big.big(), threads=st.integers(2, 4), reset=st.sampled_from(RESETS), data=st.data())
def test_threads_and_rows_do_not_matter(
    precision: str, kind: str, case: Case, threads: int, reset: str, data: st.DataObject
) -> None:
    """With more threads, in another order, in two batches and singly: the same rows."""
    merge = data.draw(st.sampled_from(big.MERGES))
    net, x = big.network(kind, case, reset, merge).quantize(precision), big.inputs_of(kind, case)
    state = big.begin(net, case)
    want, want_state = net.run(x, state, case.lengths, case.mask)
    got, got_state = net.run(x, state, case.lengths, case.mask, threads=threads)
    bits(got, want, f"{threads} threads")
    bits(got_state.data, want_state.data, f"state of {threads} threads")
    order = np.random.default_rng(case.seed).permutation(case.batch)
    cut, single = data.draw(st.integers(0, case.batch)), data.draw(st.integers(0, case.batch - 1))
    for rows in (order[:cut], order[cut:], np.array([single])):
        if len(rows):
            lengths = None if case.lengths is None else np.array(case.lengths)[rows]
            mask = None if case.mask is None else case.mask[rows]
            own = {key: array[:, rows] for key, array in state.arrays().items()}
            got, got_state = net.run(x[rows], own, lengths, mask)
            bits(got, want[rows], f"{len(rows)} rows")
            bits(got_state.data, want_state.data[rows], f"state of {len(rows)} rows")


@pytest.mark.parametrize("precision", REDUCED)
@settings(max_examples=15)
@given(
    kind=st.sampled_from(["plain", "head", "hidden dense", "masking", "two", "embedding"]),
    case=big.big(directions=1),
    threads=st.integers(1, 3),
    reset=st.sampled_from(RESETS),
    data=st.data(),
)
def test_cuts_in_time_do_not_matter(
    precision: str, kind: str, case: Case, threads: int, reset: str, data: st.DataObject
) -> None:
    """Though rows begin beyond ±1, which int8 has to remember."""
    net, x = big.network(kind, case, reset, "concat").quantize(precision), big.inputs_of(kind, case)
    state = net.state({k: 3 * a for k, a in big.begin(net, case).arrays().items()}, batch=case.batch)
    big.same_when_cut(net, x, state, case, threads, data)


@pytest.mark.parametrize("precision", REDUCED)
@pytest.mark.parametrize("name", CELLS)
@settings(max_examples=4)
@given(data=st.data())
def test_every_cell_keeps_the_laws(precision: str, name: str, data: st.DataObject) -> None:
    """Threads, rows and cuts once more, for the other cells."""
    net = data.draw(nets((name,), least=2))
    layer = net.layer()
    model = cgru.Model([layer], backend="packed").quantize(precision)
    state = model.state({f"{layer.name}.{key}": array for key, array in net.begin.items()}, batch=net.batch)
    want, end = model.run(net.x, state, net.lengths, net.mask)
    got, got_end = model.run(net.x, state, net.lengths, net.mask, threads=2)
    bits(got, want, "threads")
    bits(got_end.data, end.data, "threads")
    b = net.batch - 1
    own = {key: array[:, [b]] for key, array in state.arrays().items()}
    lengths, mask = net.lengths and net.lengths[b], None if net.mask is None else net.mask[b]
    got, got_end = model.run(net.x[b], own, lengths, mask)
    bits(got, want[b], "a row alone")
    bits(got_end.data[0], end.data[b], "a row alone")
    if net.directions == 1:
        want, end = model.run(net.x, state, None, net.mask)
        cut = net.steps // 2
        first, middle = model.run(net.x[:, :cut], state, None, None if net.mask is None else net.mask[:, :cut])
        rest, last = model.run(net.x[:, cut:], middle, None, None if net.mask is None else net.mask[:, cut:])
        bits(np.concatenate([first, rest], axis=1), want, "chunks")
        bits(last.data, end.data, "chunks")


@pytest.mark.parametrize("precision", REDUCED)
@settings(max_examples=15)
@given(kind=STREAMED, seed=st.integers(0, 1000), batch=st.sampled_from([1, 2, 5, 17]), steps=st.integers(1, 12))
def test_streams_and_pools_give_what_the_whole_gives(
    precision: str, kind: Kind, seed: int, batch: int, steps: int
) -> None:
    """Steps, chunks, a dump in a new stream, a copy, and a pool in which every row is a stream of its own."""
    net = build(kind, seed, "packed").quantize(precision)
    x = draw_input(kind, batch, steps, seed)
    whole, end = net.run(x)
    last_only = whole.ndim == 2
    stream, pool = net.stream(batch=batch), net.pool(capacity=batch + 3)
    sids = [pool.open() for _ in range(batch + 3)][::-1][:batch]
    twin = stream.copy()
    for t in range(steps):
        y = stream.step(x[:, t])
        pooled = np.empty_like(y)
        order = np.random.default_rng((seed, t)).permutation(batch)
        for rows in np.array_split(order, 2):
            if len(rows):
                pooled[rows] = pool.step([sids[row] for row in rows], x[rows, t])
        bits(pooled, y, f"pool, step {t}")
        if not last_only:
            bits(y, whole[:, t], f"step {t}")
        if t == steps // 2:
            other = net.stream(batch=batch)
            other.restore(stream.dump())
            stream = other
    if last_only:
        bits(y, whole, "the last step")
    bits(stream._data, end.data, "state")
    fed = twin.feed(x)
    bits(fed, whole, "one chunk")
    bits(twin._data, end.data, "state of one chunk")


@pytest.mark.parametrize("precision", REDUCED)
@pytest.mark.parametrize(("batch", "steps"), [(1, 600), (2, 300), (140, 5)])
def test_step_by_step_is_whole(precision: str, batch: int, steps: int) -> None:
    """Beyond a chunk of time and a block of rows, and one step at a time, which runs another way."""
    case = Case(7, 33, 2, 1, True, batch, steps, seed=steps)
    net = big.network("head", case, RESETS[batch % 2], "concat").quantize(precision)
    state = big.begin(net, case)
    want, want_state = net.run(case.x, state)
    for t in range(steps):
        y, state = net.run(case.x[:, t : t + 1], state)
        bits(y[:, 0], want[:, t], f"step {t}")
    bits(state.data, want_state.data, "state")


@pytest.mark.parametrize("precision", REDUCED)
def test_backwards_and_last_output(precision: str) -> None:
    case = Case(24, 96, 1, 1, True, 3, 30, seed=5, lengths=(30, 0, 11), masked=True)
    for sequences in (True, False):
        layer = case.gru(go_backwards=True, return_sequences=sequences)
        net = cgru.Model([layer, big.dense(4, 96, "linear")], backend="packed").quantize(precision)
        want, _ = net.run(case.x, None, case.lengths, case.mask)
        near, _ = net.run(case.x, None, case.lengths, case.mask, backend="reference")
        np.testing.assert_allclose(want, near, rtol=0, atol=0.03)
        for threads in (2, 3):
            bits(net.run(case.x, None, case.lengths, case.mask, threads=threads)[0], want)


@pytest.mark.parametrize("layers", [{"gru": "int8"}, {"gru": "bf16", "dense": "int8x16"}, {"dense": "fp16"}])
def test_layers_of_several_precisions_are_each_by_itself(layers: dict[str, str]) -> None:
    """A network of them gives what they give one after the other."""
    case = Case(7, 33, 2, 2, True, 5, 9, seed=3)
    parts = [case.gru(), big.dense(19, 66, "tanh")]
    net = cgru.Model(parts, backend="packed").quantize(layers)
    assert [layer.precision for layer in net.layers] == [layers.get(name, "float32") for name in ("gru", "dense")]
    gru, dense = (
        cgru.Model([part], backend="packed").quantize({part.name: layers.get(part.name, "float32")}) for part in parts
    )
    y, state = gru.run(case.x, {"gru.h": case.h0})
    got, got_state = net.run(case.x, {"gru.h": case.h0})
    bits(got, dense(y))
    bits(got_state.data, state.data)


# ---- what is not a number, or hardly one --------------------------------------------------------------------------


@pytest.mark.parametrize("precision", REDUCED)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_bad_number_stays_in_its_row(precision: str, value: float) -> None:
    """Through a whole network, in rows at every place of a tile: NaN comes out as NaN, the others keep their bits."""
    case = Case(5, 37, 2, 1, True, 19, 4, seed=6)
    for reset in RESETS:
        net = big.network("head", case, reset, "concat").quantize(precision)
        clean, clean_end = net.run(case.x)
        for row in range(case.batch):
            x = case.x.copy()
            x[row, 1, 2] = value
            got, end = net.run(x)
            others = np.arange(case.batch) != row
            bits(got[others], clean[others], f"beside row {row}")
            bits(end.data[others], clean_end.data[others], f"states beside row {row}")
            bits(got[row, :1], clean[row, :1], f"row {row} before the bad number")
            if np.isnan(value) or precision.startswith("int8"):
                assert np.isnan(got[row, 1:]).all()


@pytest.mark.parametrize("precision", REDUCED)
@pytest.mark.parametrize("threads", [1, 2])
def test_subnormals_are_flushed(precision: str, threads: int) -> None:
    """A state that halves at each step keeps its bits down to the smallest normal number and then is zero."""
    hidden, batch, steps = 65, 40, 140
    net = cgru.Model([big.halving(hidden)], backend="packed").quantize(precision)
    state = net.state({"gru.h": np.ones((1, batch, hidden), np.float32)}, batch=batch)
    y, _ = net.run(np.zeros((batch, steps, 1), np.float32), state, threads=threads)
    want = np.ldexp(np.float32(1), -np.arange(1, steps + 1)).astype(np.float32)
    want[126:] = 0
    bits(y, np.broadcast_to(want[:, None], y.shape))


# ---- the error -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", HALVES)
@settings(max_examples=20)
@given(kind=NETWORKS, case=big.big(), reset=st.sampled_from(RESETS))
def test_halves_compute_with_their_weights(precision: str, kind: str, case: Case, reset: str) -> None:
    """As float64 does with the same weights; where activations are rounded to bf16, within their rounding."""
    net, x = big.network(kind, case, reset, "concat").quantize(precision), big.inputs_of(kind, case)
    state = big.begin(net, case)
    got, got_state = net.run(x, state, case.lengths, case.mask)
    want, want_state = net.run(x, state, case.lengths, case.mask, backend="reference")
    most = 2e-2 if rounds_activations(precision) else 2e-6
    np.testing.assert_allclose(got, want, rtol=0, atol=most)
    np.testing.assert_allclose(got_state.data[:, : case.hidden], want_state.data[:, : case.hidden], rtol=0, atol=most)


@pytest.mark.parametrize("precision", REDUCED)
@settings(max_examples=20)
@given(net=nets())
def test_every_cell_is_near_float64(precision: str, net: Net) -> None:
    layer = net.layer()
    model = cgru.Model([layer], backend="packed").quantize(precision)
    state = model.state({f"{layer.name}.{key}": array for key, array in net.begin.items()}, batch=net.batch)
    got, _ = model.run(net.x, state, net.lengths, net.mask)
    want, _, _ = net.run()
    most = {"int8": 0.05, "int8x16": 0.02, "bf16": 0.02, "fp16": 2e-3}[precision]
    scale = max(1.0, float(np.abs(want).max(initial=0)))
    np.testing.assert_allclose(got, want, rtol=0, atol=most * scale)


EACH = """
import numpy as np
import cgru
from cell_oracle import KINDS, Net
from strategies import Case

found = {}
for precision in ("bf16", "fp16"):
    for number, (inputs, hidden, layers, directions, batch, steps) in enumerate([
        (1, 1, 1, 1, 1, 3), (3, 7, 2, 2, 5, 9), (17, 16, 1, 2, 9, 12), (63, 65, 2, 1, 2, 20), (10, 154, 1, 2, 7, 6),
        (250, 128, 1, 1, 130, 2), (5, 250, 1, 1, 1, 20),
    ]):
        rows = tuple(int(n) for n in np.random.default_rng(number).integers(0, steps + 1, batch))
        sizes = dict(inputs=inputs, hidden=hidden, layers=layers, directions=directions, bias=True, batch=batch,
                     steps=steps, seed=number, lengths=rows, masked=True)
        nets = [(name, Net(**sizes, name=name)) for name in KINDS] if number in (1, 3) else []
        for name, net in [("after", Case(**sizes)), ("before", Case(**sizes)), *nets]:
            gru = isinstance(net, Case)
            layer = net.gru(reset=name) if gru else net.layer()
            begin = {"h": net.h0} if gru else net.begin
            model = cgru.Model([layer], backend="packed").quantize(precision)
            state = model.state({f"{layer.name}.{key}": array for key, array in begin.items()}, batch=batch)
            y, end = model.run(net.x, state, rows, net.mask)
            near, _ = model.run(net.x, state, rows, net.mask, backend="reference")
            what = f"{precision} {number} {name}"
            found[what] = y
            found[what + " near"] = near
            for b in range(0, batch, 3):
                own = {key: array[:, [b]] for key, array in state.arrays().items()}
                alone, last = model.run(net.x[b], own, rows[b], net.mask[b])
                assert np.array_equal(alone, y[b]) and np.array_equal(last.data[0], end.data[b]), ("row", what, b)
            again, last = model.run(net.x, state, rows, net.mask, threads=2)
            assert np.array_equal(again, y) and np.array_equal(last.data, end.data), ("threads", what)
"""


@cache
def each(name: str) -> dict[str, Any]:
    return isa.arrays(EACH, name)


@pytest.mark.parametrize("name", ISAS)
def test_halves_on_every_instruction_set(name: str) -> None:
    """Near float64 on the same weights; rows and threads keep their bits there too (asserted in that process)."""
    found = each(name)
    for key, near in found.items():
        if key.endswith(" near"):
            y, precision = found[key.removesuffix(" near")], key.split()[0]
            most = 2e-2 if rounds_activations(precision, name) else 2e-6
            np.testing.assert_allclose(y, near, rtol=0, atol=most * max(1.0, np.abs(near).max()), err_msg=key)


def accuracy() -> ModuleType:
    """bench/accuracy.py, which knows the networks and the columns."""
    if "accuracy" not in sys.modules:
        sys.path.insert(0, str(BENCH))
        try:
            importlib.import_module("accuracy")
        finally:
            sys.path.remove(str(BENCH))
    return sys.modules["accuracy"]


#: What reduced precision may cost at most, and how it stands to another column.
LIMITS = {"int8": 1.3e-2, "bf16": 4e-3, "fp16": 6e-4}
RATIOS = {"int8": (0.6, "PyTorch int8"), "int8x16": (1.1, "weights only")}


def beyond(found: dict[str, float]) -> list[str]:
    """What a row does not keep of the limits, in words."""
    said = [f"{name} > {limit:g}" for name, limit in LIMITS.items() if found.get(name, 0) > limit]
    for name, (most, other) in RATIOS.items():
        if name in found and other in found and found[name] > most * found[other]:
            said.append(f"{name} > {most:g} × {other}")
    return said


def check_limits(work: Any) -> None:
    """Every figure of a row is within what is asked of it; PyTorch's int8 beside it where there is a PyTorch."""
    bench = accuracy()
    runs = bench.columns("packed")
    if "PyTorch int8" not in runs:
        print("PyTorch is not installed: int8 is not compared with its int8")
    found = bench.measure(work, runs)
    print(work.name, {name: f"{value:.2e}" for name, value in found.items()})
    assert beyond(found) == []
    # What a column cannot be below, or it measures something else.
    assert found["weights only"] > 1e-3
    assert found["int8x16"] > 0.9 * found["weights only"]
    assert found["int8"] > found["int8x16"]
    assert found["bf16"] > found["fp16"] > 1e-5


@pytest.mark.parametrize("place", [0, 1])
def test_random_networks_err_as_little_as_promised(place: int) -> None:
    """H=192, 120 steps, weights as they begin and 2.5 times those."""
    if not BENCH.is_dir():
        pytest.skip("bench/, which measures the error, is not beside the tests")
    check_limits(list(accuracy().random_work())[place])


@pytest.mark.parametrize("precision", REDUCED)
def test_the_demo_does_its_tasks_as_well(precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The forecaster's RMSE and MAE and the classifier's accuracy are within 1 % of float32's."""
    load = cgru.load
    full = demo.forecast()
    monkeypatch.setattr(cgru, "load", lambda path: load(path).quantize(precision))
    small = demo.forecast()
    assert not np.array_equal(small.network, full.network)
    for error in (co2.rmse, co2.mae):
        assert error(small.network, full.truth) <= 1.01 * error(full.network, full.truth)
    small_words = demo.classify()
    monkeypatch.undo()
    full_words = demo.classify()
    right = [(found.probability.argmax(1) == found.words.stress).mean() for found in (small_words, full_words)]
    print(f"{precision}: {right[0]:.4f} of the words, float32 {right[1]:.4f}")
    assert right[0] >= 0.99 * right[1]
    assert not np.array_equal(small_words.probability, full_words.probability)
