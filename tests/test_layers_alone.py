"""Every layer runs by itself, as a network of nothing else."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest

import cgru

RNG = np.random.default_rng(5)


def arr(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def test_dense_and_activation() -> None:
    weight, bias, x = arr(3, 4), arr(3), arr(2, 5, 4)
    dense = cgru.Dense(weight, bias, activation="relu")
    want = np.maximum(x @ weight.T + bias, 0)
    np.testing.assert_allclose(dense(x), want, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(dense(x[0], backend="reference"), want[0], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(cgru.Activation("tanh")(x), np.tanh(x), rtol=0, atol=1e-6)


def test_embedding() -> None:
    table = arr(6, 3)
    ids = np.array([[1, 5, 0], [2, 2, 4]])
    assert np.array_equal(cgru.Embedding(table)(ids), table[ids])
    assert np.array_equal(cgru.Embedding(table)(ids, lengths=[3, 1])[1, 1:], np.zeros((2, 3)))


def test_masking_and_last_step() -> None:
    x = arr(2, 4, 3)
    x[0, 2] = 7
    want = x.copy()
    want[0, 2] = 0
    assert np.array_equal(cgru.Masking(7)(x), want)
    assert np.array_equal(cgru.LastStep()(x, lengths=[4, 2]), x[[0, 1], [3, 1]])


def test_a_copy_a_pickle_and_another_precision_run_too() -> None:
    dense, x = cgru.Dense(arr(3, 4)), arr(5, 4)
    want = dense(x)
    for twin in (copy.copy(dense), pickle.loads(pickle.dumps(dense)), dense.renamed("head")):
        assert np.array_equal(twin(x), want)
    small = dense.quantized("int8")(x)
    assert 0 < np.abs(small - want).max() < 0.1


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(cgru.ShapeError, match="4"):
        cgru.Dense(arr(3, 4))(arr(5, 3))
