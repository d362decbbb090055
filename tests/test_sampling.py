"""Draws: random numbers that are the same on every machine, tokens and values in the frequencies they should have."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from seq2seq import arr, graphs

import cgru
from cgru.engine.rows import Rows
from cgru.search import ranking, variates

X = np.random.default_rng(16).integers(1, 9, (6, 7))
TOLD: dict[str, Any] = {"start": 0, "stop": 3, "max_steps": 9}


def network() -> cgru.Model:
    return cgru.Model(graphs("general", seed=29))


def both_uniforms() -> list[Any]:
    core = pytest.importorskip("cgru.engine.backends._packed")
    return [core.uniforms, ranking.uniforms]


# ---- random numbers ------------------------------------------------------------------------------------------------


def test_the_generator_is_philox() -> None:
    """The known answers that come with the authors' Random123: of zeros, and of all bits set."""
    for uniforms in both_uniforms():
        zero = uniforms(0, np.zeros(1, np.uint64), 0)[0]
        assert zero == (0x6627E8D5E169C58D >> 11) * 2.0**-53
        ones = uniforms((1 << 64) - 1, np.full(1, (1 << 64) - 1, np.uint64), (1 << 64) - 1)[0]
        assert ones == (0x408F276D41C83B0E >> 11) * 2.0**-53


def test_the_core_draws_the_same_numbers_as_numpy() -> None:
    core, plain = both_uniforms()
    streams = np.array([0, 1, 5, 2**32 + 3, 2**63], np.uint64)
    for seed, index in ((0, 0), (7, 3), (2**40 + 1, 2**33)):
        np.testing.assert_array_equal(core(seed, streams, index), plain(seed, streams, index))


def test_variates_against_scipy() -> None:
    stats = pytest.importorskip("scipy.stats")
    u = np.concatenate([[2.0**-53, 1e-12, 1e-5], np.linspace(0.001, 0.999, 999), [1 - 1e-9]])
    np.testing.assert_allclose(variates.normal(u), stats.norm.ppf(u), rtol=1e-12, atol=1e-14)
    x = np.exp(np.linspace(-30, 30, 997))
    np.testing.assert_allclose(variates.log(x), np.log(x), rtol=1e-14, atol=1e-15)
    np.testing.assert_allclose(variates.exp(np.linspace(-30, 30, 997)), x, rtol=1e-14)
    np.testing.assert_allclose(variates.cosine_of_turn(u), np.cos(2 * np.pi * u), atol=1e-14)
    wide = np.linspace(-60, 60, 997)
    np.testing.assert_allclose(variates.softplus(wide), np.logaddexp(0, wide), rtol=1e-14)


def test_the_cores_normal_variates_are_numpys_to_the_bit() -> None:
    core = pytest.importorskip("cgru.engine.backends._packed")
    tails = 2.0 ** -np.arange(1, 60)
    u = np.concatenate([[0.0], tails, 1 - tails[:53], np.linspace(0, 1, 4001)[:-1]]).reshape(1, -1)
    np.testing.assert_array_equal(core.normal(u), variates.normal(u))


@pytest.mark.parametrize("freedom", [1.5, 4.0, 60.0])
def test_students_variates_have_students_distribution(freedom: float) -> None:
    """Kolmogorov and Smirnov's test on 20,000 of a fixed seed: another generator fails by chance once in a million."""
    stats = pytest.importorskip("scipy.stats")
    streams = np.arange(20000, dtype=np.uint64)
    u, v = ranking.uniforms(5, streams, 0), ranking.uniforms(5, streams, 1)
    drawn = variates.student(u, v, np.full(len(u), freedom))
    assert stats.kstest(drawn, stats.t(freedom).cdf).pvalue > 1e-6
    assert stats.kstest(variates.normal(u), stats.norm.cdf).pvalue > 1e-6


# ---- tokens --------------------------------------------------------------------------------------------------------


def frequencies(p: np.ndarray, **limits: Any) -> tuple[np.ndarray, np.ndarray]:
    """Counts of 20,000 first tokens of a network that gives the probabilities p, and what they should be."""
    draws = 20000
    net = cgru.Model([cgru.Embedding(np.zeros((len(p), 1))), cgru.Dense(np.zeros((len(p), 1)), np.log(p))])
    found = cgru.sample(net, start=0, max_steps=1, count=draws, seed=3, **limits)
    return np.bincount(np.concatenate(found.tokens), minlength=len(p)), draws * p


@pytest.mark.parametrize(
    ("limits", "shape"),
    [
        ({}, lambda p: p),
        ({"temperature": 0.5}, lambda p: p**2),
        ({"temperature": 3.0}, lambda p: p ** (1 / 3)),
        ({"top_k": 2}, lambda p: np.where(p >= 0.25, p, 0)),
        ({"top_p": 0.7}, lambda p: np.where(p >= 0.16, p, 0)),
        ({"top_p": 0.7, "top_k": 2}, lambda p: np.where(p >= 0.25, p, 0)),
        ({"top_p": 0.3}, lambda p: np.where(p >= 0.4, p, 0)),
        ({"allowed": [0, 4]}, lambda p: np.where(np.isin(np.arange(5), [0, 4]), p, 0)),
    ],
)
def test_frequencies_are_the_probabilities(limits: dict[str, Any], shape: Any) -> None:
    """χ² of 20,000 draws under a fixed seed: a right sampler under another seed fails by chance once in a million."""
    stats = pytest.importorskip("scipy.stats")
    p = np.array([0.12, 0.41, 0.05, 0.26, 0.16])
    counts, _ = frequencies(p, **limits)
    wanted = shape(p) / shape(p).sum() * counts.sum()
    assert not counts[wanted == 0].any()
    open_ = wanted > 0
    squares = ((counts[open_] - wanted[open_]) ** 2 / wanted[open_]).sum()
    assert open_.sum() == 1 or squares < stats.chi2(open_.sum() - 1).ppf(1 - 1e-6)


def test_draws_are_the_same_whatever_is_beside_them() -> None:
    net = network()
    many = cgru.sample(net, X, count=4, seed=11, **TOLD)
    again = cgru.sample(net, X, count=4, seed=11, **TOLD)
    first = cgru.sample(net, X[0], count=4, seed=11, **TOLD)
    for a, b in zip(many.tokens, again.tokens, strict=True):
        assert [row.tolist() for row in a] == [row.tolist() for row in b]
    assert [row.tolist() for row in first.tokens] == [row.tolist() for row in many.tokens[0]]
    np.testing.assert_array_equal(first.scores, many.scores[0])
    assert len({tuple(row) for rows in many.tokens for row in rows}) > 12
    other = cgru.sample(net, X, count=4, seed=12, **TOLD)
    assert [row.tolist() for row in other.tokens[0]] != [row.tolist() for row in many.tokens[0]]


def test_scores_are_the_networks_without_limits() -> None:
    net: Any = network()
    found = cgru.sample(net, X, count=2, seed=1, temperature=0.3, top_k=4, **TOLD)
    given = net["encode"](X)
    for i in range(len(X)):
        for tokens, score in zip(found.tokens[i], found.scores[i], strict=True):
            path = tokens if len(tokens) == 9 else np.append(tokens, 3)
            fed = {"token": np.append(0, path[:-1]), "h0": given["h0"][i], "memory": given["memory"][i]}
            y = net["decode"](fed).astype(float)
            log = y - np.log(np.exp(y).sum(axis=1, keepdims=True))
            assert score == pytest.approx(log[np.arange(len(path)), path].sum(), abs=1e-5)


def test_nearly_no_temperature_is_greedy() -> None:
    net = network()
    cold = cgru.sample(net, X, temperature=1e-6, **TOLD)
    for a, b in zip(cold.tokens, cgru.greedy(net, X, **TOLD).tokens, strict=True):
        np.testing.assert_array_equal(a, b)


# ---- transcripts ---------------------------------------------------------------------------------------------------


def test_ctc_merges_repeats_and_leaves_blanks_out() -> None:
    rng = np.random.default_rng(2)
    scores = rng.standard_normal((3, 40, 4)).astype(np.float32)
    lengths = [40, 0, 17]
    for blank in (0, 3):
        found = cgru.ctc_greedy(scores, blank=blank, lengths=lengths)
        for row, length, labels in zip(scores, lengths, found, strict=True):
            merged = [label for label, _ in itertools.groupby(row[:length].argmax(axis=1).tolist())]
            assert labels.tolist() == [label for label in merged if label != blank]
    np.testing.assert_array_equal(cgru.ctc_greedy(scores[0]), cgru.ctc_greedy(scores)[0])
    path = np.eye(3, dtype=np.float32)[[1, 1, 0, 1, 2, 2, 0, 0]]
    assert cgru.ctc_greedy(path).tolist() == [1, 1, 2]
    for change, message in (
        ({"blank": 4}, r"label 4 is outside the labels \[0, 4\)"),
        ({"lengths": [41, 0, 0]}, r"outside \[0, T\]"),
        ({"scores": np.full((2, 3), np.nan)}, "NaN"),
        ({"scores": np.zeros((2, 3, 0))}, "labels to choose from"),
    ):
        wrong: dict[str, Any] = {"scores": scores} | dict(change)
        with pytest.raises(cgru.CgruError, match=message):
            cgru.ctc_greedy(**wrong)


# ---- values --------------------------------------------------------------------------------------------------------


def forecaster(outputs: int, known: int = 2) -> cgru.Model:
    rng = np.random.default_rng(8)
    gru = cgru.GRU.from_arrays(*(rng.standard_normal(s) * 0.5 for s in ((18, 1 + known), (18, 6), 18, 18)))
    bias = np.full(outputs, 0.3)
    if outputs % 3 == 0:  # degrees of freedom
        bias[-outputs // 3 :] = 3.0
    return cgru.Model([gru, cgru.Dense(rng.standard_normal((outputs, 6)), bias)])


def softplus(x: np.ndarray) -> np.ndarray:
    return np.log1p(np.exp(x))


def test_values_fed_back_are_those_of_a_loop() -> None:
    net, history, known = forecaster(1), arr(3, 10, 3), arr(3, 6, 2)
    found = cgru.forecast(net, history, steps=6, known=known)
    assert found.shape == (3, 6, 1)
    stream = net.stream(3)
    y = stream.feed(history)[:, -1]
    for t in range(6):
        np.testing.assert_array_equal(found[:, t], y)
        y = stream.step(np.concatenate([y, known[:, t]], axis=1))
    np.testing.assert_array_equal(cgru.forecast(net, history[1], steps=6, known=known[1]), found[1])


@pytest.mark.parametrize(("head", "outputs"), [("gaussian", 2), ("student", 3)])
def test_paths_are_drawn_of_what_the_network_says(head: str, outputs: int) -> None:
    """Each path's values, fed through the network whole, give back the variates they were drawn with."""
    net, history, known, paths = forecaster(outputs), arr(2, 10, 3), arr(6, 2), 50
    found = cgru.forecast(net, history, steps=6, paths=paths, head=head, scale="softplus", known=known, seed=4)
    assert found.shape == (2, paths, 6, 1)
    row, path = 1, 31
    fed = np.concatenate([history[row], np.concatenate([found[row, path], known], axis=1)[:-1]])
    y = net(fed)[-6:].astype(float)
    stream = np.array([row * paths + path], np.uint64)
    for t in range(6):
        spread = softplus(y[t, 1])
        u, v = (ranking.uniforms(4, stream, 2 * t + i) for i in range(2))
        drawn = variates.normal(u) if head == "gaussian" else variates.student(u, v, softplus(y[t, 2]) + np.zeros(1))
        assert found[row, path, t, 0] == pytest.approx(y[t, 0] + spread * drawn[0], rel=1e-4, abs=1e-4)


def test_paths_have_the_mean_and_deviation_of_the_head() -> None:
    """Of 4,000 paths: five standard errors, which chance exceeds once in a million."""
    net, history = forecaster(2, known=0), arr(10, 1)
    y = net(history)[-1]
    found = cgru.forecast(net, history, steps=1, paths=4000, head="gaussian", scale="log", seed=9)[:, 0, 0]
    deviation = np.exp(float(y[1]))
    assert abs(found.mean() - y[0]) < 5 * deviation / 4000**0.5
    assert abs(found.std() / deviation - 1) < 5 / (2 * 4000) ** 0.5


@pytest.mark.parametrize(
    ("head", "outputs", "scale", "paths"),
    [
        ("value", 1, "linear", None),
        ("gaussian", 2, "softplus", None),
        ("gaussian", 2, "softplus", 300),
        ("gaussian", 2, "log", 303),
        ("gaussian", 4, "log", 30),
        ("student", 3, "softplus", 300),
        ("student", 6, "log", 31),
    ],
)
def test_a_forecast_in_the_core_is_that_of_single_steps(
    head: str, outputs: int, scale: str, paths: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To the bit, with several numbers of a value and known ones beside them."""
    size = outputs // {"value": 1, "gaussian": 2, "student": 3}[head]
    net, history, known = forecaster(outputs), arr(2, 10, 3), arr(2, 8, 3 - size)
    told: dict[str, Any] = {"steps": 8, "head": head, "scale": scale, "paths": paths, "known": known, "seed": 3}
    within = cgru.forecast(net, history, **told)
    monkeypatch.setattr(Rows, "in_core", False)
    np.testing.assert_array_equal(within, cgru.forecast(net, history, **told))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": 0}, "steps: expected at least 1"),
        ({"head": "normal"}, "value, gaussian, student"),
        ({"scale": "exp"}, "linear, log, softplus"),
        ({"paths": 3}, "nothing is drawn"),
        ({"head": "gaussian"}, "gaussian takes 2 numbers"),
        ({"known": None}, r"2 numbers of each frame are no value; give them, \(4, 2\)"),
        ({"known": arr(3, 2)}, r"expected \(4, 2\)"),
        ({"history": np.zeros((0, 3))}, "history: it is empty"),
        ({"history": np.zeros((5, 2))}, "history"),
        ({"history": np.full((5, 3), np.nan)}, "NaN or infinity"),
        ({"seed": -1}, "seed"),
    ],
)
def test_forecasts_that_cannot_be(change: dict[str, Any], message: str) -> None:
    with pytest.raises(cgru.CgruError, match=message):
        cgru.forecast(forecaster(1), **{"history": arr(5, 3), "steps": 4, "known": arr(4, 2), **change})


def test_a_scale_below_zero_is_told() -> None:
    net = cgru.Model([cgru.Dense(np.zeros((2, 1)), np.array([0.0, -1.0]))])
    with pytest.raises(cgru.CgruError, match=r"scale -1, which is not above zero; say scale=\"log\""):
        cgru.forecast(net, np.zeros((3, 1)), steps=2, paths=2, head="gaussian")
    with pytest.raises(cgru.CgruError, match="one input of features"):
        cgru.forecast(cgru.Model([cgru.Embedding(np.ones((3, 1)))]), [1, 2], steps=2)
    heavy = cgru.Model([cgru.Dense(np.zeros((3, 1)), np.array([0.0, 1.0, 0.001]))])
    with pytest.raises(cgru.CgruError, match="beyond float32"):
        cgru.forecast(heavy, np.zeros((3, 1)), steps=2, paths=20, head="student")
