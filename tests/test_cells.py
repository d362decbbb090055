"""Every cell beside the GRU: against an oracle of their own, and held to the laws that every route gives one result,
in every precision."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from agreement import assert_same
from cell_oracle import KINDS, Net, nets
from hypothesis import given, settings
from hypothesis import strategies as st

import cgru
from cgru.errors import CgruError, FormatError, ShapeError, UnsupportedError
from cgru.spec.cells import CELLS
from cgru.spec.precision import PRECISIONS

EACH_PRECISION = pytest.mark.parametrize("precision", PRECISIONS)


def error(a: np.ndarray, b: np.ndarray) -> float:
    assert a.shape == b.shape
    return float(np.abs(a - b).max(initial=0) / max(1.0, float(np.abs(b).max(initial=0))))


@settings(max_examples=60)
@given(case=nets())
def test_outputs_and_states_are_the_oracles(backend: str, case: Net) -> None:
    net = cgru.Model([case.layer(name="cell")], backend=backend)
    begin = {f"cell.{name}": array for name, array in case.begin.items()}
    out, state = net.run(case.x, begin, case.lengths, case.mask)
    want, last, _ = case.run()
    # relu grows without bound, so errors are measured against the largest number; the others stay below 1.
    assert error(out, want) <= 2e-6
    for name, array in last.items():
        assert error(state.arrays()[f"cell.{name}"], array) <= 2e-6, name


@pytest.mark.parametrize("name", list(KINDS))
def test_each_kind_at_a_fixed_size(backend: str, name: str) -> None:
    """No kind is left to chance: two layers, both directions, ragged rows with gaps."""
    case = Net(5, 19, 2, 2, True, 4, 9, seed=7, lengths=(9, 0, 4, 7), masked=True, name=name)
    given_state = case.begin | ({"y": np.zeros_like(case.begin["y"])} if "y" in case.begin else {})
    out, state = case.layer()(case.x, case.given(), case.lengths, case.mask, backend=backend)
    want, last, _ = case.run(given_state)
    assert error(out, want) <= 2e-6
    for got, key in zip(state if isinstance(state, tuple) else (state,), case.kind.carried, strict=True):
        assert error(got, last[key]) <= 2e-6
        assert np.abs(last[key]).max() > 0


@settings(max_examples=60)
@given(data=st.data(), case=nets(least=2, directions=1, lengths=False), precision=st.sampled_from(PRECISIONS))
def test_chunked_is_whole(backend: str, data: st.DataObject, case: Net, precision: str) -> None:
    net = cgru.Model([case.layer(name="cell")], backend=backend).quantize(precision)
    begin = net.state({f"cell.{name}": array for name, array in case.begin.items()}, batch=case.batch)
    want, want_state = net.run(case.x, begin, mask=case.mask)
    cut = data.draw(st.integers(1, case.steps - 1))
    first, second = (None, None) if case.mask is None else (case.mask[:, :cut], case.mask[:, cut:])
    a, state = net.run(case.x[:, :cut], begin, mask=first)
    b, state = net.run(case.x[:, cut:], state, mask=second)
    assert_same(backend, np.concatenate([a, b], axis=1), want)
    for key, array in want_state.arrays().items():
        assert_same(backend, state.arrays()[key], array, key)


@settings(max_examples=60)
@given(case=nets(), threads=st.integers(2, 4), precision=st.sampled_from(PRECISIONS))
def test_batch_and_threads_do_not_matter(backend: str, case: Net, threads: int, precision: str) -> None:
    layer = case.layer().quantized(precision)
    want, _ = layer(case.x, case.given(), case.lengths, case.mask, backend=backend)
    got, _ = layer(case.x, case.given(), case.lengths, case.mask, backend=backend, threads=threads)
    assert_same(backend, got, want, f"{threads} threads")
    b = case.batch - 1
    one = {name: array[:, b] for name, array in case.begin.items()}
    alone = tuple(one[name] for name in case.kind.carried)
    length, mask = None if case.lengths is None else case.lengths[b], None if case.mask is None else case.mask[b]
    y, _ = layer(case.x[b], alone if len(alone) > 1 else alone[0], length, mask, backend=backend)
    assert_same(backend, y, want[b], "alone")


@EACH_PRECISION
@pytest.mark.parametrize("name", list(KINDS))
def test_many_rows_on_several_threads_and_many_units(name: str, precision: str) -> None:
    """Large enough that rows, and then units, are really shared out."""
    for batch, hidden in ((40, 65), (1, 300)):
        case = Net(33, hidden, 2, 1, True, batch, 70, seed=batch, name=name)
        net = cgru.Model([case.layer()], backend="packed").quantize(precision)
        want, want_state = net.run(case.x)
        for threads in (2, 3):
            got, state = net.run(case.x, threads=threads)
            assert_same("packed", got, want, f"{threads} threads")
            assert state.data.tobytes() == want_state.data.tobytes()


@EACH_PRECISION
@pytest.mark.parametrize("name", list(KINDS))
def test_streams_and_pools_give_the_same_bits(name: str, precision: str) -> None:
    case = Net(7, 21, 2, 1, True, 3, 6, seed=3, name=name)
    net = cgru.Model([case.layer()], backend="packed").quantize(precision)
    want = net(case.x)
    stream, pool = net.stream(batch=3), net.pool(capacity=5)
    pool.open()
    ids = [pool.open() for _ in range(3)]
    for t in range(case.steps):
        assert_same("packed", stream.step(case.x[:, t]), want[:, t], f"stream, step {t}")
        assert_same("packed", pool.step(ids, case.x[:, t]), want[:, t], f"pool, step {t}")


@EACH_PRECISION
@pytest.mark.parametrize("name", list(KINDS))
def test_saved_and_loaded_equal_to_the_bit(name: str, precision: str, tmp_path: Path) -> None:
    case = Net(4, 9, 2, 2, True, 2, 5, seed=9, name=name)
    net = cgru.Model([case.layer(return_sequences=False), cgru.Dense(np.ones((2, 2 * case.kind.emitted(9)), "f4"))])
    net = net.quantize(precision)
    assert net(case.x).shape == (2, 2)
    net.save(tmp_path / "net.safetensors")
    again = cgru.load(tmp_path / "net.safetensors")
    assert again(case.x).tobytes() == net(case.x).tobytes()
    assert repr(again) == repr(net)
    for key, array in again.layers[0].arrays().items():
        assert np.array_equal(array, net.layers[0].arrays()[key]), key
        if precision == "float32":
            assert np.array_equal(array, case.arrays[key]), key


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@settings(max_examples=60)
@given(case=nets())
def test_16_bit_weights_are_widened_exactly(precision: str, case: Net) -> None:
    """float32 arithmetic with the weights as they were rounded, which is what the reference has. One instruction set
    rounds what they multiply to bf16 as well, by one part in 512 at most."""
    layer = case.layer().quantized(precision)
    want, _ = layer(case.x, case.given(), case.lengths, case.mask, backend="reference")
    got, _ = layer(case.x, case.given(), case.lengths, case.mask, backend="packed")
    both = precision == "bf16" and cgru.show_config().isa_in_use == "avx512bf16"
    assert error(got, want) <= (1e-2 if both else 2e-6)


@settings(max_examples=30)
@given(case=nets(least=1, masks=False, directions=1))
def test_gates_are_the_oracles(case: Net) -> None:
    net = cgru.Model([case.layer(name="cell")])
    _, _, want = case.run({name: np.zeros_like(array) for name, array in case.begin.items()})
    found = net.gates(case.x, case.lengths)
    assert list(found) == [f"cell.l{k}" for k in range(case.layers)]
    for gate, values in want.items():
        got = found[f"cell.l{case.layers - 1}"][gate]
        assert got.dtype == np.float32
        ends = np.full(case.batch, case.steps) if case.lengths is None else np.array(case.lengths)
        within = (np.arange(case.steps) < ends[:, None])[..., None]
        assert error(np.where(within, got, 0), values) <= 2e-6, gate
        if gate == "z":
            assert (np.where(within, 1, got) == 1).all()


LAYERS = {name: Net(2, 3, 1, 1, True, 1, 1, seed=0, name=name).layer() for name in KINDS}


def test_every_cell_is_tested() -> None:
    assert {layer.cell.name for layer in LAYERS.values()} | {"gru_reset_after", "gru_reset_before"} == set(CELLS)


@pytest.mark.parametrize("name", list(KINDS))
def test_every_cell_is_in_every_backend(backend: str, name: str) -> None:
    """What a backend lacks would go to the reference without a word."""
    assert cgru.Model([LAYERS[name]], backend=backend).backends == [backend]


# Constructors ---------------------------------------------------------------------------------------------


def test_onnx_order_and_peepholes() -> None:
    case = Net(3, 5, 1, 1, True, 2, 4, seed=1, name="lstm_peephole")
    held = case.arrays
    i, f, g, o = (slice(k * 5, k * 5 + 5) for k in range(4))
    order = np.r_[i, o, f, g]
    pi, pf, po = np.split(held["weight_ph_l0"], 3)
    lstm = cgru.LSTM.from_arrays(
        *(held[f"{stem}_l0"][order] for stem in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")),
        gates="iofc",
        peepholes=np.concatenate([pi, po, pf]),
    )
    assert np.array_equal(lstm(case.x, case.given())[0], case.layer()(case.x, case.given())[0])


def test_arrays_that_do_not_fit_are_refused() -> None:
    case = Net(3, 5, 1, 1, True, 2, 4, seed=1, name="lstm")
    held = case.arrays
    with pytest.raises(ShapeError, match=r"weight_hh_l0 has shape \(20, 4\).*\(4·H, H\)"):
        cgru.LSTM(held | {"weight_hh_l0": held["weight_hh_l0"][:, :4]})
    with pytest.raises(ShapeError, match=r"weight_ph_l0 has shape \(14,\), expected \(15,\)"):
        cgru.LSTM(held | {"weight_ph_l0": np.ones(14, "f4")})
    with pytest.raises(FormatError, match="weight_hr_l0 is missing"):
        cgru.LSTM(held | {"weight_hr_l0_reverse": np.ones((2, 5), "f4")})
    with pytest.raises(FormatError, match="nothing uses"):
        cgru.MinGRU({"weight_ih_l0": np.ones((4, 3), "f4"), "weight_hh_l0": np.ones((4, 2), "f4")})
    with pytest.raises(UnsupportedError, match="no update gate"):
        cgru.ThreeGate.from_arrays(held["weight_ih_l0"], held["weight_hh_l0"], update="write")
    with pytest.raises(CgruError, match="gates='ifo' does not name"):
        cgru.LSTM.from_arrays(held["weight_ih_l0"], held["weight_hh_l0"], gates="ifo")
    with pytest.raises(CgruError, match="h0: expected a tuple of 2 arrays"):
        case.layer()(case.x, case.begin["h"])
    with pytest.raises(CgruError, match="nonlinearity='relu' and activation='tanh' differ"):
        cgru.RNN({}, nonlinearity="relu", activation="tanh")
    with pytest.raises(UnsupportedError, match="'sine'"):
        cgru.RNN(Net(2, 3, 1, 1, True, 1, 1, seed=0, name="rnn").arrays, nonlinearity="sine")
