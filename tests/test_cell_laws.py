"""What the texts state about the cells, as tests."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import cgru
from cgru.errors import CgruError, ShapeError

H, INPUTS = 11, 6
BIG = 200.0  # σ(±200) is exactly 1 or 0 in float32
RESETS = pytest.mark.parametrize("reset", ["after", "before"])


def drawn(gates: int, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    shapes = {"weight_ih_l0": (gates * H, INPUTS), "weight_hh_l0": (gates * H, H), "bias_ih_l0": (gates * H,)}
    shapes["bias_hh_l0"] = (gates * H,)
    return {key: rng.uniform(-0.6, 0.6, shape).astype(np.float32) for key, shape in shapes.items()}


def sequence(seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return (
        rng.standard_normal((3, 8, INPUTS)).astype(np.float32),
        rng.standard_normal((1, 3, H)).astype(np.float32),
    )


def forced(arrays: dict[str, np.ndarray], block: int, value: float) -> dict[str, np.ndarray]:
    """The gate of that block is σ(value), whatever comes in."""
    rows = slice(block * H, (block + 1) * H)
    out = {key: array.copy() for key, array in arrays.items()}
    for array in out.values():
        array[rows] = 0
    out["bias_ih_l0"][rows] = value
    return out


@RESETS
def test_all_keep_copies_the_state(backend: str, reset: str) -> None:
    x, h0 = sequence()
    gru = cgru.GRU(forced(drawn(3), 1, BIG), reset=reset)
    out, h = gru(x, h0, backend=backend)
    assert np.array_equal(out, np.repeat(h0[0][:, None], 8, axis=1))
    assert np.array_equal(h, h0)
    lstm = cgru.LSTM(forced(forced(drawn(4), 1, BIG), 0, -BIG))
    _, (_, c) = lstm(x, (h0, 0.5 * h0), backend=backend)
    assert np.array_equal(c, 0.5 * h0)
    unit = cgru.ThreeGate(forced(forced(drawn(4), 0, BIG), 1, -BIG))
    assert np.array_equal(unit(x, h0, backend=backend)[1], h0)


@RESETS
def test_all_write_with_reset_one_is_the_simple_rnn(backend: str, reset: str) -> None:
    x, h0 = sequence()
    arrays = forced(forced(drawn(3), 1, -BIG), 0, BIG)
    gru = cgru.GRU(arrays, reset=reset)
    rnn = cgru.RNN({key: array[2 * H :] for key, array in arrays.items()})
    for got, want in zip(gru(x, h0, backend=backend), rnn(x, h0, backend=backend), strict=True):
        np.testing.assert_allclose(got, want, rtol=0, atol=1e-6)


def test_reset_zero_sees_the_input_alone(backend: str) -> None:
    """Reset before the product: with r ≡ 0 and z ≡ 0 the state before leaves no trace."""
    x, h0 = sequence()
    arrays = forced(forced(drawn(3), 0, -BIG), 1, -BIG)
    gru = cgru.GRU(arrays, reset="before")
    out, _ = gru(x, h0, backend=backend)
    assert np.array_equal(out, gru(x, 5 * h0, backend=backend)[0])
    candidate = x @ arrays["weight_ih_l0"][2 * H :].T + (arrays["bias_ih_l0"] + arrays["bias_hh_l0"])[2 * H :]
    np.testing.assert_allclose(out, np.tanh(candidate), rtol=0, atol=1e-6)


@given(hidden=st.integers(1, 40), inputs=st.integers(1, 40), layers=st.integers(1, 3), both=st.booleans())
@settings(max_examples=20)
def test_a_gru_has_three_quarters_of_an_lstms_parameters(hidden: int, inputs: int, layers: int, both: bool) -> None:
    def size(kind: type[cgru.GRU] | type[cgru.LSTM] | type[cgru.RNN]) -> int:
        arrays: dict[str, np.ndarray] = {}
        width, gates = inputs, len(kind.GATES)
        for layer in range(layers):
            for reverse in ("", "_reverse")[: 1 + both]:
                suffix = f"_l{layer}{reverse}"
                arrays["weight_ih" + suffix] = np.zeros((gates * hidden, width))
                arrays["weight_hh" + suffix] = np.zeros((gates * hidden, hidden))
                arrays["bias_ih" + suffix] = arrays["bias_hh" + suffix] = np.zeros(gates * hidden)
            width = hidden * (1 + both)
        return kind(arrays, num_layers=layers, bidirectional=both).parameters

    assert 4 * size(cgru.GRU) == 3 * size(cgru.LSTM) == 12 * size(cgru.RNN)


@RESETS
@pytest.mark.parametrize("update", ["keep", "write"])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("order", ["hx", "xh"])
def test_from_concat_equals_the_split_form(backend: str, reset: str, update: str, bias: bool, order: str) -> None:
    arrays, (x, h0) = drawn(3), sequence()
    w, r = np.split(arrays["weight_ih_l0"], 3), np.split(arrays["weight_hh_l0"], 3)
    b = dict(zip("rzn", np.split(arrays["bias_ih_l0"], 3), strict=True)) if bias else None
    both = [np.hstack((r[k], w[k]) if order == "hx" else (w[k], r[k])) for k in range(3)]
    # In an order of its own: letters count, not places.
    named = {"z": both[1], "n": both[2], "r": both[0]}
    found = cgru.GRU.from_concat(named, b, order=order, reset=reset, update=update)
    split = cgru.GRU.from_arrays(
        arrays["weight_ih_l0"],
        arrays["weight_hh_l0"],
        arrays["bias_ih_l0"] if bias else None,
        reset=reset,
        update=update,
    )
    for got, want in zip(found(x, h0, backend=backend), split(x, h0, backend=backend), strict=True):
        assert np.array_equal(got, want)


def test_from_concat_is_the_textbooks_equation() -> None:
    """z, r = σ(W [h, x] + b); h̃ = tanh(W [r ⊙ h, x] + b); h' = (1 − z) ⊙ h + z ⊙ h̃."""
    rng = np.random.default_rng(4)
    W = {gate: rng.uniform(-0.6, 0.6, (H, H + INPUTS)) for gate in "zrh"}
    b = {gate: rng.uniform(-0.6, 0.6, H) for gate in "zrh"}
    x, h0 = sequence()
    h, want = h0[0].astype(np.float64), []
    for t in range(x.shape[1]):
        hx = np.hstack((h, x[:, t]))
        z, r = (1 / (1 + np.exp(-(hx @ W[gate].T + b[gate]))) for gate in "zr")
        h = (1 - z) * h + z * np.tanh(np.hstack((r * h, x[:, t])) @ W["h"].T + b["h"])
        want.append(h)
    gru = cgru.GRU.from_concat(W, b, reset="before", update="write")
    np.testing.assert_allclose(gru(x, h0)[0], np.stack(want, axis=1), rtol=0, atol=2e-6)


def test_from_concat_refuses_what_does_not_fit() -> None:
    good = {gate: np.ones((H, H + INPUTS)) for gate in "rzn"}
    with pytest.raises(ShapeError, match="differ in shape"):
        cgru.GRU.from_concat(good | {"z": np.ones((H, H + INPUTS + 1))})
    with pytest.raises(ShapeError, match=r"expected \(H, H \+ I\)"):
        cgru.GRU.from_concat(good | {"z": np.ones((H, H))})
    with pytest.raises(CgruError, match="does not name each block once"):
        cgru.GRU.from_concat({gate: good[gate] for gate in "rz"})
    with pytest.raises(CgruError, match="biases are for r, matrices for r, z, n"):
        cgru.GRU.from_concat(good, {"r": np.ones(H)})
    with pytest.raises(CgruError, match="order='hh'"):
        cgru.GRU.from_concat(good, order="hh")


def test_three_gates_without_the_output_gate_are_an_uncoupled_gru_without_reset(backend: str) -> None:
    """With i = 1 − f the unit is a GRU of all-reset-one; o decides what is seen and nothing else."""
    arrays, (x, h0) = drawn(3), sequence()
    gru = forced(arrays, 0, BIG)
    blocks = {key: np.split(array, 3) for key, array in gru.items()}
    stacked = {key: np.concatenate([z, -z, 7 * z, n]) for key, (_, z, n) in blocks.items()}
    want, last = cgru.GRU(gru, reset="before")(x, h0, backend=backend)
    got, _ = cgru.ThreeGate(stacked)(x, h0, backend=backend)
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-6)
    shown, kept = cgru.ThreeGate(stacked, output_gate=True)(x, h0, backend=backend)
    np.testing.assert_allclose(kept, last, rtol=0, atol=1e-6)
    assert np.abs(shown - got).max() > 0.1
    closed = {key: np.concatenate([z, -z, 0 * z, n]) for key, (_, z, n) in blocks.items()}
    half, _ = cgru.ThreeGate(closed, output_gate=True)(x, h0, backend=backend)
    np.testing.assert_allclose(half, want / 2, rtol=0, atol=1e-6)


def test_min_gru_is_a_weighted_mean_of_the_candidates(backend: str) -> None:
    """h_T = Π z · h_0 + Σ (1 − z_t) Π_{s>t} z_s n_t; from the paper's weights, whose z is the fraction written."""
    rng = np.random.default_rng(2)
    w, b = rng.uniform(-0.6, 0.6, (2 * H, INPUTS)), rng.uniform(-0.6, 0.6, 2 * H)
    x, h0 = sequence()
    layer = cgru.MinGRU.from_arrays(w, b_ih=b, update="write")
    out, _ = layer(x, h0, backend=backend)
    written = 1 / (1 + np.exp(-(x @ w[:H].T + b[:H])))
    candidate, keep = x @ w[H:].T + b[H:], 1 - written
    for t in range(x.shape[1]):
        weights = [written[:, s] * np.prod(keep[:, s + 1 : t + 1], axis=1) for s in range(t + 1)]
        whole = np.prod(keep[:, : t + 1], axis=1)
        np.testing.assert_allclose(sum(weights) + whole, 1, rtol=0, atol=1e-6)
        want = whole * h0[0] + sum(weight * candidate[:, s] for s, weight in enumerate(weights))
        np.testing.assert_allclose(out[:, t], want, rtol=0, atol=2e-6)


def test_an_lstm_with_zero_peepholes_is_an_lstm(backend: str) -> None:
    arrays, (x, h0) = drawn(4), sequence()
    plain = cgru.LSTM(arrays)(x, (h0, 2 * h0), backend=backend)
    with_zero = cgru.LSTM(arrays | {"weight_ph_l0": np.zeros(3 * H)})(x, (h0, 2 * h0), backend=backend)
    assert np.array_equal(plain[0], with_zero[0])
    identity = cgru.LSTM(arrays | {"weight_hr_l0": np.eye(H)})(x, (h0, 2 * h0), backend=backend)
    assert np.array_equal(plain[0], identity[0])
