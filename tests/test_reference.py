"""The recurrences in cgru.reference against the oracle, and the activations against their definitions."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import oracle
import pytest

from cgru import reference
from cgru.spec.activations import ACTIVATIONS, COMPLEMENTARY
from cgru.spec.cells import CELLS

EQUATIONS: dict[str, Callable] = {"after": reference.gru_reset_after, "before": reference.gru_reset_before}


def weights(rng: np.random.Generator, inputs: int, hidden: int) -> dict[str, np.ndarray]:
    return {
        "weight_ih_l0": rng.standard_normal((3 * hidden, inputs)),
        "weight_hh_l0": rng.standard_normal((3 * hidden, hidden)),
        "bias_ih_l0": rng.standard_normal(3 * hidden),
        "bias_hh_l0": rng.standard_normal(3 * hidden),
    }


@pytest.mark.parametrize("reset", ["after", "before"])
@pytest.mark.parametrize(("gate", "candidate"), [("sigmoid", "tanh"), ("hard_sigmoid", "relu")])
@pytest.mark.parametrize(("inputs", "hidden"), [(1, 1), (3, 5), (7, 2)])
def test_step_is_the_equation(reset: str, gate: str, candidate: str, inputs: int, hidden: int) -> None:
    rng = np.random.default_rng(5)
    arrays = weights(rng, inputs, hidden)
    x, h = rng.standard_normal((4, inputs)), rng.standard_normal((4, hidden))
    got, gates = EQUATIONS[reset](x, h, *arrays.values(), ACTIVATIONS[gate], ACTIVATIONS[candidate])
    part = oracle.parts(arrays, "_l0")
    for b in range(4):
        want = oracle.cell(x[b], h[b], part, reset, False, oracle.FUNCTIONS[gate], oracle.FUNCTIONS[candidate])
        np.testing.assert_allclose(got[b], want, rtol=0, atol=1e-13)
    # z is the fraction kept, and the gates tell the whole step
    np.testing.assert_allclose(gates["z"] * h + (1 - gates["z"]) * gates["n"], got, rtol=0, atol=1e-13)
    assert np.array_equal(gates["h"], got)


def test_the_two_resets_differ() -> None:
    rng = np.random.default_rng(6)
    arrays = weights(rng, 3, 4)
    x, h = rng.standard_normal((2, 3)), rng.standard_normal((2, 4))
    after, _ = EQUATIONS["after"](x, h, *arrays.values())
    before, _ = EQUATIONS["before"](x, h, *arrays.values())
    assert np.abs(after - before).max() > 0.01


def test_one_unit_by_hand() -> None:
    """H = I = 1, every number worked out with math alone."""
    x, h = 0.5, -0.25
    W, R = np.array([[0.1], [0.2], [0.3]]), np.array([[0.4], [0.5], [0.6]])
    b, c = np.array([0.01, 0.02, 0.03]), np.array([0.04, 0.05, 0.06])
    r = 1 / (1 + math.exp(-(0.1 * x + 0.01 + 0.4 * h + 0.04)))
    z = 1 / (1 + math.exp(-(0.2 * x + 0.02 + 0.5 * h + 0.05)))
    after = math.tanh(0.3 * x + 0.03 + r * (0.6 * h + 0.06))
    before = math.tanh(0.3 * x + 0.03 + 0.6 * (r * h) + 0.06)
    for equation, n in ((reference.gru_reset_after, after), (reference.gru_reset_before, before)):
        got, _ = equation(np.array([[x]]), np.array([[h]]), W, R, b, c)
        assert got[0, 0] == pytest.approx(z * h + (1 - z) * n, abs=1e-15)


@pytest.mark.parametrize("name", sorted(oracle.FUNCTIONS))
def test_activation_is_its_definition(name: str) -> None:
    a = np.concatenate([np.linspace(-8, 8, 321), [-50.0, 50.0, 0.0]])
    np.testing.assert_allclose(ACTIVATIONS[name](a), oracle.FUNCTIONS[name](a), rtol=1e-14, atol=1e-15)


def test_every_gate_activation_has_an_oracle() -> None:
    assert set(oracle.FUNCTIONS) == set(ACTIVATIONS) - {"softmax"}


@pytest.mark.parametrize("name", sorted(ACTIVATIONS))
def test_activations_are_quiet_far_out(name: str) -> None:
    """±1e4 neither overflows nor warns; only unbounded functions leave [-1, 1]."""
    with np.errstate(all="raise", under="ignore"):
        y = ACTIVATIONS[name](np.array([[-1e4, 1e4]]))
    assert np.isfinite(y).all()


@pytest.mark.parametrize("name", sorted(COMPLEMENTARY))
def test_complementary_means_what_it_says(name: str) -> None:
    a = np.linspace(-6, 6, 101)
    np.testing.assert_allclose(ACTIVATIONS[name](-a), 1 - ACTIVATIONS[name](a), atol=1e-15)


def test_softmax_is_over_the_features() -> None:
    a = np.array([[1.0, 2.0, 3.0], [700.0, 700.0, -700.0]])
    y = ACTIVATIONS["softmax"](a)
    e = [math.exp(v) for v in a[0]]
    np.testing.assert_allclose(y[0], np.array(e) / sum(e), rtol=1e-15)
    np.testing.assert_allclose(y[1], [0.5, 0.5, 0.0], atol=1e-15)


def test_dense_is_an_affine_map() -> None:
    W, b = np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]), np.array([10.0, 20.0, -100.0])
    x = np.array([[[1.0, -1.0]]])
    assert reference.dense(x, W, b, ACTIVATIONS["relu"]).tolist() == [[[9.0, 19.0, 0.0]]]
    assert reference.dense(x, W, None, ACTIVATIONS["linear"]).tolist() == [[[-1.0, -1.0, -1.0]]]


def test_every_cell_names_its_equation() -> None:
    for cell in CELLS.values():
        assert cell.step is getattr(reference, cell.name)
    assert all(cell.name == name for name, cell in CELLS.items())
