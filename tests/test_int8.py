"""The int8 kernels against the oracle, to the bit: every cell, every size, every instruction set of this machine."""

from __future__ import annotations

from functools import cache
from typing import Any

import int8_oracle
import isa
import numpy as np
import pytest
from cell_oracle import KINDS, Net, nets
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import Case, cases

import cgru

isa.require()

ISAS = isa.available()
INT8 = ("int8", "int8x16")
RESETS = ("after", "before")
ODD = (1, 3, 7, 15, 16, 17, 63, 154)
#: The cell of each kind, where that is not its name.
CELLS = {"rnn_relu": "rnn", "lstm_hard": "lstm"}


def bits(got: Any, want: Any, what: str = "") -> None:
    """The same bits, but for those that say which NaN it is: instruction sets differ in them."""
    got, want = np.asarray(got), np.asarray(want)
    assert got.dtype == want.dtype == np.float32, what
    assert got.shape == want.shape, what
    apart = (np.ascontiguousarray(got).view(np.uint32) != np.ascontiguousarray(want).view(np.uint32)) & ~(
        np.isnan(got) & np.isnan(want)
    )
    assert not apart.any(), (
        f"{what}: {apart.sum()} of {got.size} differ, the first {got[apart][0]!r} {want[apart][0]!r}"
    )


def reduced(layer: Any, precision: str) -> cgru.Model:
    return cgru.Model([layer], backend="packed").quantize(precision)


def run(net: cgru.Model, begin: dict[str, np.ndarray], x: np.ndarray, *steps: Any) -> tuple[np.ndarray, cgru.State]:
    """From the state whose arrays are ``begin``."""
    layer = net.layers[0].name
    state = net.state({f"{layer}.{name}": array for name, array in begin.items()}, batch=len(x))
    return net.run(x, state, *steps)


def same(net: Any, name: str, begin: dict[str, np.ndarray], precision: str, what: str = "", **options: Any) -> None:
    """What cgru makes of ``net`` (its layer from ``options``) equals the oracle's output and last state."""
    layer = net.gru(**options) if isinstance(net, Case) else net.layer()
    model = reduced(layer, precision)
    y, state = run(model, begin, net.x, net.lengths, net.mask)
    functions: dict[str, Any] = {key: getattr(layer, key) for key in ("activation", "recurrent_activation")}
    want, ends = int8_oracle.recurrent(
        name,
        net.arrays,
        net.x,
        list(begin.values()),
        net.lengths,
        net.mask,
        precision=precision,
        **net.stack,
        **functions,
    )
    bits(y, want, what)
    for key, array in zip(begin, ends, strict=True):
        bits(state.arrays()[f"{layer.name}.{key}"], array, f"{what} {key}")


# ---- the oracle itself ---------------------------------------------------------------------------------------------


def test_the_oracle_is_near_float64() -> None:
    """Within 0.02 with 8-bit activations; with 16, within 1e-4 of a float64 recurrence on the rounded weights."""
    import oracle

    case = Case(17, 63, 2, 2, True, 3, 20, seed=5, lengths=(20, 13, 0), masked=True)
    wide = {k: int8_oracle.widened(v).astype(np.float64) if v.ndim == 2 else v for k, v in case.arrays.items()}
    for reset in RESETS:
        for precision, arrays, most in (("int8", case.arrays, 0.02), ("int8x16", wide, 1e-4)):
            got, ends = int8_oracle.recurrent(
                f"gru_reset_{reset}",
                case.arrays,
                case.x,
                [case.h0],
                case.lengths,
                case.mask,
                precision=precision,
                **case.stack,
            )
            want, h_n = oracle.gru(arrays, case.x, case.h0, case.lengths, case.mask, reset=reset, **case.stack)
            assert np.sqrt(np.square(got - want).mean() / np.square(want).mean()) < most
            assert np.sqrt(np.square(ends[0] - h_n).mean() / np.square(h_n).mean()) < most


# ---- every cell ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("precision", INT8)
@settings(max_examples=20)
@given(data=st.data())
def test_cells_equal_the_oracle(name: str, precision: str, data: st.DataObject) -> None:
    """States begin anywhere, beyond ±1 too."""
    net = data.draw(nets((name,)))
    same(net, CELLS.get(name, name), net.begin, precision)


@pytest.mark.parametrize("reset", RESETS)
@pytest.mark.parametrize("precision", INT8)
@settings(max_examples=20)
@given(case=cases(steps=20, masks=None))
def test_grus_equal_the_oracle(reset: str, precision: str, case: Case) -> None:
    same(case, f"gru_reset_{reset}", {"h": case.h0}, precision, reset=reset)


@pytest.mark.parametrize("hidden", ODD)
def test_odd_sizes_equal_the_oracle(hidden: int) -> None:
    """Hidden units beside inputs beside rows that end every tile and every group of four."""
    for inputs in ODD:
        for batch, precision, reset in ((1, "int8", "after"), (5, "int8x16", "after"), (11, "int8", "before")):
            case = Case(inputs, hidden, 1, 1, True, batch, 3, seed=inputs)
            what = f"I={inputs} B={batch} {precision} {reset}"
            same(case, f"gru_reset_{reset}", {"h": case.h0}, precision, what, reset=reset)


@pytest.mark.parametrize("batch", range(1, 19))
def test_every_tile_of_rows_equals_the_oracle(batch: int) -> None:
    for hidden in (20, 36, 68):
        for precision in INT8:
            case = Case(5, hidden, 1, 1, True, batch, 2, seed=batch)
            same(case, "gru_reset_after", {"h": case.h0}, precision, f"H={hidden} {precision}")
            net = Net(5, hidden, 1, 1, True, batch, 2, seed=batch, name="lstm")
            same(net, "lstm", net.begin, precision, f"LSTM H={hidden} {precision}")


@pytest.mark.parametrize("activation", ["relu", "linear", "softsign", "hard_sigmoid", "sigmoid"])
@pytest.mark.parametrize("gate", ["sigmoid", "hard_sigmoid", "hard_sigmoid_keras2", "relu"])
def test_other_activations_equal_the_oracle(activation: str, gate: str) -> None:
    """Those that bound the state give it a fixed range, the others one for each step."""
    case = Case(7, 33, 1, 1, True, 3, 6, seed=3)
    options = {"activation": activation, "recurrent_activation": gate}
    for reset in RESETS:
        same(case, f"gru_reset_{reset}", {"h": case.h0}, "int8", reset, reset=reset, **options)


def test_the_range_follows_the_state_a_row_began_with() -> None:
    """Rows that begin within ±1, at it and far beyond it, each by itself; -0, zero and the largest alone."""
    case = Case(5, 37, 1, 1, True, 6, 8, seed=4)
    h0 = case.h0.copy()
    h0[0, 0] = 0
    h0[0, 1] = -0.0
    h0[0, 2] *= 1e-20
    h0[0, 3] = np.clip(h0[0, 3], -1, 1)
    h0[0, 4] *= 100
    h0[0, 5, 36] = -1e6
    for precision in INT8:
        for reset in RESETS:
            same(case, f"gru_reset_{reset}", {"h": h0}, precision, f"{precision} {reset}", reset=reset)


# ---- single layers and extreme numbers -----------------------------------------------------------------------------


def extreme_rows(width: int) -> np.ndarray:
    """Rows whose largest number is enormous, ordinary, tiny, too small to divide by, subnormal or zero."""
    rng = np.random.default_rng(width)
    rows = rng.standard_normal((14, width)).astype(np.float32)
    sizes = [1e37, 1e30, 1e9, 1.0, 1e-9, 1e-25, 1.1e-30, 0.9e-30, 1e-37, 1e-40, 0.0, -0.0, 1.0, 1.0]
    with np.errstate(under="ignore"):
        rows *= np.array(sizes, np.float32)[:, None]
    rows[12, 0] = np.finfo(np.float32).max
    rows[13] = 1e-30
    return rows


@pytest.mark.parametrize("width", [1, 3, 17, 64, 154, 1100])
@pytest.mark.parametrize("precision", INT8)
def test_dense_equals_the_oracle(width: int, precision: str) -> None:
    rng = np.random.default_rng(1)
    x = extreme_rows(width)
    for outputs in (1, 5, 16, 37):
        weight = rng.standard_normal((outputs, width)).astype(np.float32)
        weight[0] *= 1e6
        weight[outputs // 2] *= 1e-6
        weight[-1] = 0
        for bias in (None, rng.standard_normal(outputs).astype(np.float32)):
            for activation in ("linear", "tanh", "relu"):
                net = reduced(cgru.Dense(weight, bias, activation=activation), precision)
                with np.errstate(all="ignore"):
                    want = int8_oracle.dense(weight, bias, activation, x, precision)
                assert np.isfinite(want[2:12]).all()
                bits(net(x[None])[0], want, f"{outputs} {activation}")
                bits(net(x[:, None])[:, 0], want, f"{outputs} {activation}, rows of a batch")


@pytest.mark.parametrize("precision", INT8)
def test_embedding_equals_the_oracle(precision: str) -> None:
    table = extreme_rows(17)
    ids = np.random.default_rng(2).integers(0, len(table), (3, 11))
    with np.errstate(all="ignore"):
        bits(reduced(cgru.Embedding(table), precision)(ids), int8_oracle.embedding(table, ids))


@pytest.mark.parametrize("reset", RESETS)
@pytest.mark.parametrize("precision", INT8)
def test_extreme_input_equals_the_oracle(reset: str, precision: str) -> None:
    x = np.stack([extreme_rows(9), extreme_rows(9)[::-1]])
    case = Case(9, 21, 1, 1, True, 2, len(x[0]), seed=1)
    net = reduced(case.gru(reset=reset), precision)
    y, _ = run(net, {"h": case.h0}, x)
    want, _ = int8_oracle.recurrent(f"gru_reset_{reset}", case.arrays, x, [case.h0], precision=precision)
    assert np.isfinite(want).all()
    bits(y, want)


@pytest.mark.parametrize("reset", RESETS)
@pytest.mark.parametrize("precision", INT8)
def test_extreme_weights_equal_the_oracle(reset: str, precision: str) -> None:
    """Rows of zeros, rows 1e20 apart, rows of one number, biases that saturate."""
    case = Case(9, 21, 1, 1, True, 4, 7, seed=2)
    arrays = {key: array.copy() for key, array in case.arrays.items()}
    for key in ("weight_ih_l0", "weight_hh_l0"):
        arrays[key][::5] = 0
        arrays[key][1::5] *= 1e10
        arrays[key][2::5] *= 1e-10
        arrays[key][3::5, 1:] = 0
    arrays["bias_ih_l0"][::4] = 1e4
    net = reduced(cgru.GRU(arrays, reset=reset), precision)
    y, _ = run(net, {"h": case.h0}, case.x)
    want, _ = int8_oracle.recurrent(f"gru_reset_{reset}", arrays, case.x, [case.h0], precision=precision)
    bits(y, want)


@pytest.mark.parametrize("precision", INT8)
@pytest.mark.parametrize(
    "name", ["gru_reset_after", "gru_reset_before", *sorted(set(KINDS) - {"rnn_relu", "lstm_hard"})]
)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_bad_number_makes_its_row_nan(precision: str, name: str, value: float) -> None:
    """From the step it comes in, all units; what went before keeps its bits, and so do the other rows."""
    sizes: dict[str, Any] = {"inputs": 5, "hidden": 19, "layers": 2, "directions": 1, "bias": True, "batch": 7}
    net: Any = Net(**sizes, steps=5, seed=6, name=name) if name in KINDS else Case(**sizes, steps=5, seed=6)
    layer = net.layer() if name in KINDS else net.gru(reset=name.removeprefix("gru_reset_"))
    model, begin = reduced(layer, precision), net.begin if name in KINDS else {"h": net.h0}
    clean, clean_end = run(model, begin, net.x)
    assert np.isfinite(clean).all()
    others = np.arange(7) != 3
    x = net.x.copy()
    x[3, 2, 4] = value
    got, end = run(model, begin, x)
    bits(got[others], clean[others], "the others")
    bits(end.data[others], clean_end.data[others], "the others' states")
    bits(got[3, :2], clean[3, :2], "before it")
    assert np.isnan(got[3, 2:]).all()
    if name != "min_gru":
        # A state that is not finite, in a row of its own.
        first = next(iter(begin))
        spoilt = {key: array.copy() for key, array in begin.items()}
        key = "h" if name == "three_gate_output" else first
        spoilt[key][0, 3, 18 if key != "h" or not name.endswith("_projected") else 8] = value
        got, _ = run(model, spoilt, net.x)
        bits(got[others], clean[others], "the others, by the state")
        assert np.isnan(got[3]).all()


# ---- the promises of float32, where int8 has something of its own to carry ------------------------------------------


@pytest.mark.parametrize("precision", INT8)
@pytest.mark.parametrize("reset", RESETS)
def test_chunks_and_streams_keep_the_range(precision: str, reset: str) -> None:
    """A row that began at 3 has the range of 3 ever after, though its state has long been within 1: through chunks,
    streams, their dumps and copies, and the pool."""
    case = Case(6, 40, 2, 1, True, 3, 60, seed=8)
    net = reduced(case.gru(reset=reset), precision)
    h0 = 3 * case.h0
    whole, end = run(net, {"h": h0}, case.x)
    assert np.abs(end.arrays()["gru.h"]).max() < 1
    # It matters: from the same state without its range the outputs are others.
    middle, state = run(net, {"h": h0}, case.x[:, :40])
    bits(middle, whole[:, :40])
    anew, _ = run(net, {"h": state.arrays()["gru.h"]}, case.x[:, 40:])
    assert not np.array_equal(anew, whole[:, 40:])
    rest, last = net.run(case.x[:, 40:], state)
    bits(rest, whole[:, 40:])
    bits(last.data, end.data)

    # A stream begins at zero, so this state is put into one.
    stream = net.stream(batch=3)
    stream._data[...] = state.data
    bits(stream.feed(case.x[:, 40:45]), whole[:, 40:45])
    other = net.stream(batch=3)
    other.restore(stream.dump())
    copied = stream.copy()
    for t in range(45, 60):
        bits(other.step(case.x[:, t]), whole[:, t])
    bits(copied.feed(case.x[:, 45:]), whole[:, 45:])


# ---- every instruction set -----------------------------------------------------------------------------------------

EVERYWHERE = """
import numpy as np
import cgru
from cell_oracle import KINDS, Net
from strategies import Case
from cgru.engine.backends import _packed

found = {"isa": np.array(_packed.isa_in_use())}
number = 0
def keep(what, *arrays):
    for place, array in enumerate(arrays):
        found[f"{what} {place}"] = np.where(np.isnan(array), np.float32(np.nan), array).view(np.uint32)

SIZES = [(1, 1, 1, 1, 1, 3), (3, 7, 2, 2, 5, 9), (17, 16, 1, 2, 9, 6), (63, 65, 2, 1, 2, 12), (10, 154, 1, 2, 7, 4),
         (250, 128, 1, 1, 130, 2), (5, 250, 1, 1, 1, 9), (4, 17, 1, 1, 2, 120)]
for precision in ("int8", "int8x16"):
    for i, (inputs, hidden, layers, directions, batch, steps) in enumerate(SIZES):
        rows = tuple(int(n) for n in np.random.default_rng(i).integers(0, steps + 1, batch))
        sizes = dict(inputs=inputs, hidden=hidden, layers=layers, directions=directions, bias=True, batch=batch,
                     steps=steps, seed=i, lengths=rows, masked=True)
        nets = [(name, Net(**sizes, name=name)) for name in KINDS] if batch < 100 else []
        for name, net in [("after", Case(**sizes)), ("before", Case(**sizes)), *nets]:
            gru = isinstance(net, Case)
            layer = net.gru(reset=name) if gru else net.layer()
            begin = {"h": net.h0} if gru else net.begin
            model = cgru.Model([layer], backend="packed").quantize(precision)
            state = model.state({f"{layer.name}.{key}": 2 * array for key, array in begin.items()}, batch=batch)
            y, end = model.run(net.x, state, rows, net.mask)
            keep(f"{precision} {i} {name}", y, end.data)
            again, last = model.run(net.x, state, rows, net.mask, threads=2)
            assert np.array_equal(again, y) and np.array_equal(last.data, end.data), ("threads", precision, i, name)
    rng = np.random.default_rng(1)
    for activation in cgru.spec.activations.ACTIVATIONS:
        weight = rng.standard_normal((37, 154)).astype(np.float32)
        model = cgru.Model([cgru.Dense(weight, activation=activation)], backend="packed").quantize(precision)
        keep(f"{precision} {activation}", model(8 * rng.standard_normal((1, 9, 154)).astype(np.float32)))
    # The largest sums of all, of either sign, where 16 bits would overflow at two products; bytes of -128 in int8x16.
    for inner in (2, 4, 64, 1000, 131072):
        ones = np.ones((3, inner), np.float32)
        ones[1] = -1
        ones[2, ::2] = -1
        rows = np.concatenate([ones, 0.99609375 * ones, np.where(np.arange(inner) % 3, ones, 0.49805)])
        rows[3:, 0] = 1  # the range
        model = cgru.Model([cgru.Dense(ones)], backend="packed").quantize(precision)
        keep(f"{precision} largest {inner}", model(rows[None].astype(np.float32)))
"""


@cache
def everywhere(name: str) -> dict[str, Any]:
    return isa.arrays(EVERYWHERE, name)


@pytest.mark.parametrize("name", ISAS[1:])
def test_instruction_sets_agree_to_the_bit(name: str) -> None:
    mine, generic = everywhere(name), everywhere(ISAS[0])
    assert str(mine["isa"]) == name
    assert str(generic["isa"]) == ISAS[0]
    assert list(mine) == list(generic)
    for key, array in mine.items():
        if key != "isa":
            assert np.array_equal(array, generic[key]), f"{key}: {(array != generic[key]).sum()} of {array.size} differ"


@pytest.mark.parametrize("precision", INT8)
@pytest.mark.parametrize("inner", [2, 4, 64, 1000, 131072])
def test_the_largest_sums_are_exact(precision: str, inner: int) -> None:
    """Sums of up to 2,114,060,288, on every instruction set: worked out here in Python's integers."""
    ones = np.ones((3, inner), np.float32)
    ones[1] = -1
    ones[2, ::2] = -1
    rows = np.concatenate([ones, 0.99609375 * ones, np.where(np.arange(inner) % 3, ones, 0.49805)])
    rows[3:, 0] = 1
    want = int8_oracle.dense(ones, None, "linear", rows.astype(np.float32), precision)
    for name in ISAS:
        got = everywhere(name)[f"{precision} largest {inner} 0"][0]
        assert np.array_equal(got, want.view(np.uint32)), name
    # With everything at its largest, the whole number itself comes out, within float32.
    exact = 127 * 127 * inner if precision == "int8" else 32639 * 127 * inner
    unit = float(np.float32(1) / np.float32(127)) * float(
        np.float32(1) / np.float32(127 if precision == "int8" else 32639)
    )
    np.testing.assert_allclose(want[0, 0], exact * unit, rtol=1e-6)
