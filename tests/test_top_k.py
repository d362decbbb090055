"""The best of a large output layer: exactly those of the whole."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from seq2seq import arr

import cgru

ITEMS = 5003


def recommender(items: int = ITEMS, **options: Any) -> cgru.Model:
    rng = np.random.default_rng(3)
    gru = cgru.GRU.from_arrays(*(rng.standard_normal(s) * 0.5 for s in ((48, 4), (48, 16), 48, 48)))
    return cgru.Model([gru, cgru.Dense(rng.standard_normal((items, 16)), rng.standard_normal(items))], **options)


def best(y: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    order = np.argsort(-y, axis=-1, kind="stable")[..., :k]
    return np.take_along_axis(y, order, -1), order


@pytest.mark.parametrize("precision", ["float32", "int8", "bf16"])
@pytest.mark.parametrize("k", [1, 20, 2500])
def test_they_are_exactly_the_best_of_the_whole(precision: str, k: int) -> None:
    net = recommender() if precision == "float32" else recommender().quantize(precision)
    x = arr(5, 9, 4)
    scores, items = net.top_k(x, k)
    assert (scores.shape, scores.dtype, items.dtype) == ((5, 9, k), np.float32, np.int64)
    wanted, which = best(net(x), k)
    np.testing.assert_array_equal(scores, wanted)
    np.testing.assert_array_equal(items, which)


def test_the_matrix_is_packed_once_for_every_use(monkeypatch: pytest.MonkeyPatch) -> None:
    core = pytest.importorskip("cgru.engine.backends._packed")
    matrix = core.Matrix
    made: list[Any] = []

    def counted(*given: Any) -> Any:
        made.append(given)
        return matrix(*given)

    monkeypatch.setattr(core, "Matrix", counted)
    net, x = recommender(backend="packed"), arr(2, 3, 4)
    for _ in range(2):
        net(x)
        net.top_k(x, 3)
    assert len(made) == 1


def test_rows_alone_and_more_than_a_block_of_them() -> None:
    net, x = recommender(), arr(70, 2, 4)
    scores, items = net.top_k(x, 7)
    for row in (0, 31, 32, 69):
        one, which = net.top_k(x[row], 7)
        np.testing.assert_array_equal(one, scores[row])
        np.testing.assert_array_equal(which, items[row])


@pytest.mark.parametrize("items", [1, 15, 16, 17, 2047, 2048, 2049])
def test_sizes_around_the_blocks(items: int) -> None:
    net, x = recommender(items), arr(3, 4)
    k = min(items, 9)
    wanted, which = best(net(x), k)
    scores, found = net.top_k(x, k)
    np.testing.assert_array_equal(scores, wanted)
    np.testing.assert_array_equal(found, which)


def test_of_equals_the_earlier_comes_first_and_nan_last() -> None:
    weight = np.ones((6, 2), np.float32)
    weight[4] = np.nan
    net = cgru.Model([cgru.Dense(weight)])
    scores, items = net.top_k(np.ones((1, 2)), 6)
    assert items[0].tolist() == [0, 1, 2, 3, 5, 4]
    assert scores[0, -1] == -np.inf


def test_only_the_last_step_and_lengths() -> None:
    rng = np.random.default_rng(3)
    gru = cgru.GRU.from_arrays(*(rng.standard_normal(s) for s in ((9, 4), (9, 3), 9, 9)))
    net = cgru.Model([gru, cgru.LastStep(), cgru.Dense(rng.standard_normal((50, 3)))])
    x, lengths = arr(3, 6, 4), [6, 2, 4]
    wanted, which = best(net(x, lengths=lengths), 5)
    scores, items = net.top_k(x, 5, lengths=lengths)
    np.testing.assert_array_equal(scores, wanted)
    np.testing.assert_array_equal(items, which)


def test_the_reference_has_the_same() -> None:
    x = arr(2, 3, 4)
    scores, items = recommender(backend="reference").top_k(x, 5)
    wanted, which = recommender().top_k(x, 5)
    np.testing.assert_allclose(scores, wanted, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(items, which)


def test_what_cannot_be() -> None:
    net, x = recommender(40), arr(2, 3, 4)
    for k, message in ((41, "scores 40 items, found 41"), (0, "at least 1"), ("all", "whole number")):
        with pytest.raises(cgru.CgruError, match=message):
            net.top_k(x, k)  # type: ignore[arg-type]
    with pytest.raises(cgru.CgruError, match="takes 4 features"):
        net.top_k(arr(2, 3, 5), 3)
    for layers in ([cgru.Dense(np.eye(3)), cgru.Activation("relu")], [cgru.Dense(np.eye(3), activation="softmax")]):
        with pytest.raises(cgru.UnsupportedError, match="one dense layer without an activation"):
            cgru.Model(layers).top_k(arr(2, 3), 1)
