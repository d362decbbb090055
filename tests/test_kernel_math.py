"""The vector tanh and sigmoid on every instruction set of this machine, against float64."""

from __future__ import annotations

from functools import cache

import isa
import numpy as np
import pytest

isa.require()

ISAS = isa.available()

# Each precision's file compiles the formulas anew. An activation by itself is in int8's; float32's are inside its
# products (the epilogue of a dense layer) and its cells (a state of h' = φ(x)), where identity matrices leave numbers
# as they are.
BUILDS = ("", " of a product", " of a cell")

# Every 1997th float32 of either sign (a prime, so that all bits of the significand take part), and even steps where the
# functions bend.
EVALUATE = """
import numpy as np
import cgru
from cgru.spec.activations import ACTIVATIONS

UNITS = 16

def of_float32(name, x):
    rows, same = np.zeros((1, -(-x.size // UNITS), UNITS), np.float32), np.eye(UNITS, dtype=np.float32)
    rows.reshape(-1)[: x.size] = x
    cell = {"weight_ih_l0": same, "weight_hh_l0": 0 * same}
    dense, cell = cgru.Dense(same, activation=name), cgru.RNN(cell, activation=name)
    yield " of a product", cgru.Model([dense], backend="packed")(rows).reshape(-1)[: x.size]
    yield " of a cell", cgru.Model([cell], backend="packed")(rows).reshape(-1)[: x.size]

positive = np.arange(0, 0x7F800000, 1997, dtype=np.uint32).view(np.float32)
grid = np.concatenate([positive, -positive, np.linspace(-20, 20, 1_000_001, dtype=np.float32)])
found = {"x": grid}
for name in ACTIVATIONS:
    if name != "softmax":
        layer = cgru.Model([cgru.Activation(name)], backend="packed")
        found[name] = layer(np.resize(grid, (1, grid.size)))[0]
        # The same numbers as the last of a vector that is not full.
        part = grid[:: grid.size // 1000]
        found[name + " alone"] = layer(part[None, :, None])[0, :, 0]
    if name in ("tanh", "sigmoid"):
        for build, y in of_float32(name, grid):
            found[name + build] = y
found["alone"] = part
"""


@cache
def evaluated(name: str) -> dict[str, np.ndarray]:
    return isa.arrays(EVALUATE, name)


def flushed(x: np.ndarray) -> np.ndarray:
    """As the call sees it: subnormals are zero."""
    return np.where(np.abs(x) < np.finfo(np.float32).tiny, np.float32(0), x)


@cache
def tanh(x: bytes) -> tuple[np.ndarray, np.ndarray]:
    """The value in float64 for these float32, the same ones for every instruction set; and an ulp of each."""
    want = np.tanh(np.frombuffer(x, np.float32).astype(np.float64))
    return want, np.spacing(np.abs(want).astype(np.float32))


@pytest.mark.parametrize("build", BUILDS)
@pytest.mark.parametrize("name", ISAS)
def test_tanh_is_within_5_ulp(name: str, build: str) -> None:
    found = evaluated(name)
    x = flushed(found["x"])
    want, spacing = tanh(x.tobytes())
    ulps = np.abs(found["tanh" + build].astype(np.float64) - want) / spacing
    worst = int(np.argmax(ulps))
    print(f"{name}: tanh{build} within {ulps[worst]:.2f} ulp, at {x[worst]!r}")
    assert ulps[worst] <= 5


@pytest.mark.parametrize("build", BUILDS)
@pytest.mark.parametrize("name", ISAS)
def test_sigmoid_is_within_2e_7(name: str, build: str) -> None:
    found = evaluated(name)
    x = found["x"].astype(np.float64)
    e = np.exp(-np.abs(x))
    want = np.where(x >= 0, 1 / (1 + e), e / (1 + e))
    errors = np.abs(found["sigmoid" + build] - want)
    worst = int(np.argmax(errors))
    print(f"{name}: sigmoid{build} within {errors[worst]:.2e}, at {x[worst]!r}")
    assert errors[worst] <= 2e-7


@pytest.mark.parametrize("build", BUILDS)
@pytest.mark.parametrize("name", ISAS)
@pytest.mark.parametrize("function", ["tanh", "sigmoid"])
def test_odd_monotonic_and_bounded(name: str, function: str, build: str) -> None:
    """tanh is odd to the bit; neither leaves its range; neither falls by more than its error where x grows."""
    found = evaluated(name)
    y = found[function + build]
    count = (found["x"].size - 1_000_001) // 2
    if function == "tanh":
        # A product is a sum that begins with +0, so a zero has no sign behind one.
        signed = np.full(count, True) if build == "" else y[:count] != 0
        above, below = y[:count].view(np.uint32) ^ 0x80000000, y[count : 2 * count].view(np.uint32)
        assert np.array_equal(above[signed], below[signed])
    assert y.min() >= (-1 if function == "tanh" else 0)
    assert y.max() == 1
    line = y[2 * count :].astype(np.float64)
    assert (np.diff(line) >= (-6e-7 if function == "tanh" else -4e-7)).all()


@pytest.mark.parametrize("name", ISAS)
def test_the_others_follow_their_definitions(name: str) -> None:
    from cgru.spec.activations import ACTIVATIONS

    found = evaluated(name)
    x = flushed(found["x"])
    with np.errstate(all="ignore"):
        for function, exact in ACTIVATIONS.items():
            if function not in ("softmax", "tanh", "sigmoid"):
                want = exact(x.astype(np.float64)).astype(np.float32)
                np.testing.assert_allclose(found[function], want, rtol=1e-6, atol=3e-7, err_msg=function)


@pytest.mark.parametrize("name", ISAS)
def test_the_last_of_a_vector_is_like_the_others(name: str) -> None:
    """A number's result has the same bits at every place of a vector, full or not."""
    found = evaluated(name)
    place = np.arange(0, found["x"].size, found["x"].size // 1000)
    assert np.array_equal(found["alone"], found["x"][place])
    for key in found:
        if key + " alone" in found:
            assert np.array_equal(found[key + " alone"].view(np.uint32), found[key][place].view(np.uint32)), key


SATURATE = """
import numpy as np
import cgru

def model(name):
    return cgru.Model([cgru.Activation(name)], backend="packed")

at = np.array([[20, -20, 40, -40, 87, -87, 89, -89, 1e30, -1e30, np.inf, -np.inf, np.nan, 0.0, -0.0]], np.float32)
found = {name: model(name)(at)[0] for name in ("tanh", "sigmoid", "relu", "hard_sigmoid", "hard_sigmoid_keras2",
                                               "softsign", "softplus", "elu")}
# A gate at 40 keeps its state, whatever the candidate is, forever.
hidden, steps = 21, 10_000
rng = np.random.default_rng(1)
for reset in ("after", "before"):
    bias = np.concatenate([rng.standard_normal(hidden), np.full(hidden, 40), rng.standard_normal(hidden)])
    small = rng.uniform(-0.2, 0.2, (3 * hidden, hidden))
    small[hidden : 2 * hidden] = 0
    arrays = {"weight_ih_l0": np.zeros((3 * hidden, 1)), "weight_hh_l0": small, "bias_ih_l0": bias,
              "bias_hh_l0": 0 * bias}
    gru = cgru.GRU({key: array.astype(np.float32) for key, array in arrays.items()}, reset=reset)
    h0 = rng.standard_normal((1, 3, hidden)).astype(np.float32)
    y, _ = gru(np.zeros((3, steps, 1), np.float32), h0, backend="packed")
    found[reset] = y.view(np.uint32) != h0.swapaxes(0, 1).view(np.uint32)
"""


@cache
def saturated(name: str) -> dict[str, np.ndarray]:
    return isa.arrays(SATURATE, name)


@pytest.mark.parametrize("name", ISAS)
def test_exact_saturation_and_nan(name: str) -> None:
    found = saturated(name)
    finite = np.array([20, -20, 40, -40, 87, -87, 89, -89, 1e30, -1e30])
    assert np.array_equal(found["tanh"][:12], np.sign([*finite, np.inf, -np.inf]).astype(np.float32))
    assert np.array_equal(found["tanh"][13:].view(np.uint32), np.array([0.0, -0.0], np.float32).view(np.uint32))
    sigmoid = found["sigmoid"]
    assert (sigmoid[[2, 4, 6, 8, 10]] == 1).all()
    assert 0 <= sigmoid[5] < 2e-38
    assert (sigmoid[[7, 9, 11]] == 0).all()
    assert (sigmoid[13:] == 0.5).all()
    for function, y in found.items():
        if y.dtype == np.float32:
            assert np.isnan(y[12]), f"{function}(NaN) is {y[12]}"
            assert not np.isnan(np.delete(y, [12, 10, 11] if function == "softsign" else 12)).any(), function


@pytest.mark.parametrize("name", ISAS)
@pytest.mark.parametrize("reset", ["after", "before"])
def test_a_gate_that_keeps_all_keeps_every_bit(name: str, reset: str) -> None:
    assert not saturated(name)[reset].any()
