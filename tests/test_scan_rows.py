"""Recurrences of the lines of a frame in the core: a line is a row of a chain, to the bit, whatever runs beside it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import cgru
from cgru.engine import backends
from cgru.engine.network import Network

if reason := backends.backend("packed").unavailable():
    pytest.skip(f"the packed backend cannot run: {reason}", allow_module_level=True)

RNG = np.random.default_rng(41)
INPUTS, UNITS = 5, 18

#: The cell of ONNX' operators, the same cell of a chain, its gates, and the activations of both.
CELLS: dict[str, tuple[str, int, tuple[str, ...], dict[str, str]]] = {
    "gru_after": ("gru_reset_after", 3, ("sigmoid", "tanh"), {}),
    "gru_before": ("gru_reset_before", 3, ("hard_sigmoid", "softsign"),
                   {"recurrent_activation": "hard_sigmoid", "activation": "softsign"}),
    "lstm": ("lstm", 4, ("sigmoid", "tanh", "tanh"), {}),
    "peephole": ("lstm_peephole", 4, ("sigmoid", "tanh", "tanh"), {}),
    "rnn": ("rnn", 1, ("relu",), {"activation": "relu"}),
}  # fmt: skip


def arr(*shape: int) -> np.ndarray:
    return (RNG.standard_normal(shape) * 0.4).astype(np.float32)


def arrays(cell: str, units: int = UNITS) -> dict[str, np.ndarray]:
    rows = CELLS[cell][1] * units
    made = {"weight_ih": arr(rows, INPUTS), "weight_hh": arr(rows, units), "bias_ih": arr(rows), "bias_hh": arr(rows)}
    return made | ({"weight_ph": arr(3 * units)} if cell == "peephole" else {})


def lines(cell: str, weights: dict[str, np.ndarray], count: int, *, mask: bool = False, **options: Any) -> cgru.Graph:
    units = weights["weight_hh"].shape[1]
    g = cgru.Graph()
    x = g.input((count, INPUTS), name="x")
    given = [g.mask_of_input(x) if mask else "", *options.pop("given", ())]
    kind = "lstm" if cell == "peephole" else cell
    g.output(g.scan_rows(x, *given, cell=kind, units=units, activations=CELLS[cell][2], weights=weights, **options))
    return g


def model(g: cgru.Graph, precision: str = "float32", backend: str = "packed") -> cgru.Model:
    net: cgru.Model = cgru.Model(g, backend=backend)
    net = net if precision == "float32" else net.quantize(precision)
    assert set(net.backends) == {backend}
    return net


@pytest.mark.parametrize("precision", ["float32", "int8", "int8x16", "bf16", "fp16"])
@pytest.mark.parametrize("cell", CELLS)
def test_one_line_is_a_chain(cell: str, precision: str) -> None:
    weights = arrays(cell)
    chain = cgru.Graph()
    name, _, _, options = CELLS[cell]
    chain.output(chain.scan(chain.input(INPUTS), cell=name, units=UNITS, weights=weights, **options))
    wanted, found = model(chain, precision), model(lines(cell, weights, 1), precision)
    x = arr(3, 70, INPUTS)
    np.testing.assert_array_equal(found(x[:, :, None])[:, :, 0], wanted(x))
    lengths = [70, 0, 9]
    np.testing.assert_array_equal(found(x[:, :, None], lengths=lengths)[:, :, 0], wanted(x, lengths=lengths))
    stream, other = found.stream(3), wanted.stream(3)
    for part in np.split(x, [1, 2, 30], axis=1):
        np.testing.assert_array_equal(stream.feed(part[:, :, None])[:, :, 0], other.feed(part))


@pytest.mark.parametrize("cell", CELLS)
def test_more_lines_than_a_batch_are_the_lines_alone(cell: str) -> None:
    weights = arrays(cell, 6)
    x = arr(2, 3, 300, INPUTS)
    made, one = model(lines(cell, weights, 300))(x), model(lines(cell, weights, 1))
    for line in (0, 1, 127, 255, 256, 299):
        np.testing.assert_array_equal(made[:, :, line : line + 1], one(x[:, :, line : line + 1]))


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("cell", CELLS)
def test_masks_given_states_and_both_directions(cell: str, reverse: bool) -> None:
    """Against the equations: what a mask leaves out holds the state and gives zero; h0 and c0 begin a row."""
    weights, states = arrays(cell), 2 if CELLS[cell][1] == 4 else 1

    def net(backend: str) -> cgru.Model:
        g = cgru.Graph()
        x = g.input((4, INPUTS), name="x")
        given = [g.input((4, UNITS), name=f"s{i}", time=False) for i in range(states)]
        kind = "lstm" if cell == "peephole" else cell
        g.output(
            g.scan_rows(x, g.mask_of_input(x), *given, cell=kind, units=UNITS, activations=CELLS[cell][2],
                        weights=weights, reverse=reverse)
        )  # fmt: skip
        return model(g, backend=backend)

    inputs = {"x": arr(3, 9, 4, INPUTS)} | {f"s{i}": arr(3, 4, UNITS) for i in range(states)}
    mask = RNG.random((3, 9)) < 0.7
    for lengths in (None, [9, 0, 5]):
        found, wanted = (net(backend)(inputs, mask=mask, lengths=lengths) for backend in ("packed", "reference"))
        np.testing.assert_allclose(found, wanted, rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize("options", [{"clip": 0.5}, {"activations": ("tanh", "tanh", "sigmoid")}])
def test_switches_that_the_core_lacks_run_by_the_equations(options: dict[str, Any]) -> None:
    g = cgru.Graph()
    x = g.input((2, INPUTS))
    given = {"activations": ("sigmoid", "tanh", "tanh"), **options}
    g.output(g.scan_rows(x, cell="lstm", units=UNITS, weights=arrays("lstm"), **given))
    assert set(cgru.Model(g).backends) == {"reference"}


def test_weights_shared_under_other_activations_are_packed_apart() -> None:
    """Two nodes over one set of arrays, each with activations of its own: neither takes the other's."""
    weights, x = arrays("rnn"), arr(2, 5, 1, INPUTS)
    nets = []
    for activation in ("relu", "tanh"):
        g = cgru.Graph()
        g.output(g.scan_rows(g.input((1, INPUTS)), cell="rnn", units=UNITS, activations=(activation,), weights=weights))
        nets.append((activation, g))
    (_, first), (_, second) = nets
    relu, tanh = cgru.Model(first), cgru.Model(second)
    wanted = tanh(x)
    shared = cgru.Model(Network(tanh.graph, relu.store), backend="packed")
    relu(x)  # packs the arrays with its own activation
    np.testing.assert_array_equal(shared(x), wanted)
