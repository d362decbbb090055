"""The report on two networks: errors recomputed here from their outputs, and times from a clock of our own."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from strategies import Case

import cgru
from cgru.errors import CgruError, ShapeError
from cgru.reports import comparison


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comparison, "SECONDS", 0.0)
    monkeypatch.setattr(comparison, "TURNS", 1)


def network(softmax: bool = True, **options: Any) -> cgru.Model:
    rng = np.random.default_rng(5)
    gru = Case(4, 6, 1, 2, True, 1, 1, seed=2).gru(**options)
    head = cgru.Dense(rng.normal(size=(3, gru.output_size or 0)).astype("f4"), name="head")
    return cgru.Model([gru, head, *[cgru.Activation("softmax")] * softmax], backend="reference")


def sample(*shape: int, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def check(error: cgru.reports.comparison.Error, name: str, a: np.ndarray, b: np.ndarray) -> None:
    """Against the definitions, number by number."""
    pairs = list(zip(a.astype(float).ravel(), b.astype(float).ravel(), strict=True))
    apart = [abs(one - other) for one, other in pairs]
    rms = (sum(d * d for d in apart) / sum(one * one for one, _ in pairs)) ** 0.5
    assert error.name == name
    assert error.max_abs == pytest.approx(max(apart))
    assert error.mean_abs == pytest.approx(sum(apart) / len(apart))
    assert error.relative_rms == pytest.approx(rms)


def test_errors_after_every_layer_and_at_the_end() -> None:
    net, x = network(), sample(3, 7, 4)
    q = net.quantize("int8")
    found = cgru.compare(net, q, x)
    assert [error.name for error in found.layers] == ["gru", "head", "softmax"]
    for count, error in enumerate(found.layers, 1):
        a, b = (cgru.Model(one.layers[:count], backend="reference")(x) for one in (net, q))
        check(error, net.layers[count - 1].name, a, b)
    check(found.output, "the network", net(x), q(x))
    assert found.output.max_abs > 0
    assert (found.first.precision, found.second.precision) == ("float32", "int8")
    assert found.first.parameters == found.second.parameters == net.parameters
    assert (found.first.nbytes, found.second.nbytes) == (net.nbytes, q.nbytes)
    assert found.size == q.nbytes / net.nbytes
    assert found.shape == (3, 7, 4)


def test_steps_that_do_not_count_are_left_out() -> None:
    net, x = network(softmax=False), sample(3, 7, 4)
    q = net.quantize("int8")
    lengths, mask = np.array([7, 2, 0]), np.random.default_rng(0).random((3, 7)) < 0.6
    counted = mask & (np.arange(7) < lengths[:, None])
    found = cgru.compare(net, q, x, lengths, mask)
    a, b = net(x, lengths, mask), q(x, lengths, mask)
    check(found.output, "the network", a[counted], b[counted])
    check(found.layers[-1], "head", a[counted], b[counted])


def test_a_last_output_counts_whatever_the_lengths() -> None:
    net, x = network(softmax=False, return_sequences=False), sample(3, 7, 4)
    q, lengths = net.quantize("int8"), np.array([7, 2, 1])
    check(cgru.compare(net, q, x, lengths).output, "the network", net(x, lengths), q(x, lengths))


def test_a_pair_of_outputs_and_a_single_sequence() -> None:
    gru = Case(4, 6, 1, 2, True, 1, 1, seed=2).gru(merge_mode=None)
    net, x = cgru.Model([gru], backend="reference"), sample(7, 4)
    q = net.quantize("fp16")
    found = cgru.compare(net, q, x)
    check(found.output, "the network", np.stack(net(x)), np.stack(q(x)))
    assert found.agreement is None


def test_ids_and_masks_of_their_own() -> None:
    rng = np.random.default_rng(5)
    embedding = cgru.Embedding(rng.normal(size=(9, 4)).astype("f4"), mask_zero=True)
    net = cgru.Model([embedding, Case(4, 6, 1, 1, True, 1, 1, seed=2).gru()], backend="reference")
    ids = np.array([[3, 0, 5], [8, 1, 0]])
    q = net.quantize("int8")
    check(cgru.compare(net, q, ids).output, "the network", net(ids)[ids != 0], q(ids)[ids != 0])


def test_top_1_agreement_is_that_of_distributions_alone() -> None:
    x = np.eye(4, dtype=np.float32)[None]
    flipped = np.eye(4, dtype=np.float32)[[0, 1, 3, 2]]
    for activation, want in (("softmax", 0.5), ("linear", None)):
        a = cgru.Model([cgru.Dense(np.eye(4), activation=activation)], backend="reference")
        b = cgru.Model([cgru.Dense(flipped, activation=activation)], backend="reference")
        assert cgru.compare(a, b, x).agreement == want
        assert cgru.compare(a, b, x, mask=np.array([[True, True, True, False]])).agreement == (want and 2 / 3)


def dense(*weights: float) -> cgru.Model:
    return cgru.Model([cgru.Dense(np.array([weights], np.float32).T)], backend="reference")


def test_numbers_that_are_not_finite() -> None:
    one = np.ones((1, 1), np.float32)
    alike = cgru.compare(dense(np.nan, np.inf, 2), dense(np.nan, np.inf, 3), one).output
    assert (alike.max_abs, alike.mean_abs) == (1, pytest.approx(1 / 3))
    for other in (np.nan, np.inf, -np.inf):
        apart = cgru.compare(dense(1, 2), dense(1, other), one)
        assert apart.output.max_abs == apart.output.mean_abs == apart.output.relative_rms == np.inf
        assert apart.to_dict()["output"]["max_abs"] is None
        json.dumps(apart.to_dict(), allow_nan=False)


def test_a_network_that_gives_nothing_but_zeros() -> None:
    one = np.ones((1, 1), np.float32)
    assert cgru.compare(dense(0, 0), dense(0, 0), one).output.relative_rms == 0
    assert cgru.compare(dense(0, 0), dense(0, 1), one).output.relative_rms == np.inf


def test_what_is_printed_and_what_programs_read() -> None:
    net, x = network(), sample(3, 7, 4)
    found = cgru.compare(net, net.quantize("bf16"), x)
    text = str(found)
    for part in ("max abs error", "head", "the network", "top-1 agreement", "first, float32", "second, bf16"):
        assert part in text
    assert f"{net.nbytes:,}" in text
    assert "x (3, 7, 4)" in text
    assert len({len(line) for line in text.splitlines()[:5]}) == 1
    told = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert [error["name"] for error in told["layers"]] == ["gru", "head", "softmax"]
    assert told["output"]["relative_rms"] == found.output.relative_rms
    assert told["second"] == {
        "precision": "bf16",
        "parameters": net.parameters,
        "nbytes": found.second.nbytes,
        "microseconds": found.second.microseconds,
    }
    assert told.keys() == {
        "layers", "output", "agreement", "first", "second", "shape", "threads", "speedup", "size",
    }  # fmt: skip


def test_times_are_medians_of_calls_in_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    now, order = [0.0], []

    class Clocked:
        def __init__(self, name: str, *takes: float) -> None:
            self.name, self.takes = name, list(takes)

        def __call__(self, x: str, threads: int) -> None:
            assert (x, threads) == ("x", 2)
            order.append(self.name)
            now[0] += self.takes.pop(0)

    monkeypatch.setattr(comparison.time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(comparison, "SECONDS", 30.0)
    monkeypatch.setattr(comparison, "TURNS", 3)
    pair: Any = (Clocked("a", 1, 50, 2, 9), Clocked("b", 4, 4, 5, 9))
    assert comparison._times(pair, ("x",), 2) == [2, 4]
    assert order == ["a", "b"] * 3
    monkeypatch.setattr(comparison, "SECONDS", 100.0)
    pair = (Clocked("a", *[20.0] * 9), Clocked("b", *[5.0] * 9))
    assert comparison._times(pair, ("x",), 2) == [20, 5]
    assert len(order) == 6 + 8


@pytest.mark.parametrize(
    ("other", "says"),
    [
        (cgru.Model([cgru.Dense(np.ones((2, 3)))]), "the networks have 3 and 1 layers"),
        (network(reset="before"), r"layer 0 .* gru is gru 4 → 6.*reset after, gru is gru 4 → 6.*reset before"),
        (network(return_sequences=False), "layer 0 of the networks differs"),
        (network(merge_mode="sum"), "layer 0 of the networks differs"),
        (np.ones(3), "expected two cgru.Model, found ndarray"),
    ],
)
def test_networks_that_are_not_alike_are_refused(other: Any, says: str) -> None:
    with pytest.raises(CgruError, match=f"^compare: .*{says}"):
        cgru.compare(network(), other, sample(3, 7, 4))


def test_input_that_does_not_fit_is_refused() -> None:
    net = network()
    with pytest.raises(ShapeError, match="x: the network takes 4 features"):
        cgru.compare(net, net, sample(3, 7, 5))
    with pytest.raises(CgruError, match=r"x: there is nothing to compare on in shape \(3, 0, 4\)"):
        cgru.compare(net, net, sample(3, 0, 4))


def test_the_function_is_there_after_its_module_was_imported_by_the_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comparison, "_times", lambda *_: [1.0, 1.0])
    net = network()
    net.quantize("int8", sample=sample(1, 2, 4))
    assert callable(cgru.compare)
