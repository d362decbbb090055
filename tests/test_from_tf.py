"""TensorFlow 1's cells, from their variables, against their equations written out in float64.

Source of the equations: tensorflow/python/ops/rnn_cell_impl.py, GRUCell.call, BasicLSTMCell.call and LSTMCell.call.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import cgru
from cgru.errors import CgruError

RNG = np.random.default_rng(17)
INPUTS, H, P, ROWS, STEPS = 4, 6, 3, 3, 9


def arr(*shape: int) -> Any:
    return (RNG.standard_normal(shape) * 0.6).astype(np.float32)


X = arr(ROWS, STEPS, INPUTS)


def sigmoid(x: Any) -> Any:
    return 1 / (1 + np.exp(-x))


def gru_cell(x: Any, kernel: Any, bias: Any, candidate: Any, candidate_bias: Any, activation: Any) -> Any:
    """GRUCell over a sequence."""
    state, found = np.zeros((len(x), H)), []
    for t in range(x.shape[1]):
        value = sigmoid(np.concatenate([x[:, t], state], 1) @ kernel + bias)
        r, u = np.split(value, 2, axis=1)
        c = activation(np.concatenate([x[:, t], r * state], 1) @ candidate + candidate_bias)
        state = u * state + (1 - u) * c
        found.append(state)
    return np.stack(found, 1)


def lstm_cell(x: Any, kernel: Any, bias: Any, forget_bias: float, diagonals: Any = None, projection: Any = None) -> Any:
    """LSTMCell, or BasicLSTMCell, over a sequence."""
    c_prev, m_prev, found = np.zeros((len(x), H)), np.zeros((len(x), H if projection is None else P)), []
    w_i, w_f, w_o = np.zeros((3, H)) if diagonals is None else diagonals
    for t in range(x.shape[1]):
        i, j, f, o = np.split(np.concatenate([x[:, t], m_prev], 1) @ kernel + bias, 4, axis=1)
        c = sigmoid(f + forget_bias + w_f * c_prev) * c_prev + sigmoid(i + w_i * c_prev) * np.tanh(j)
        m = sigmoid(o + w_o * c) * np.tanh(c)
        m = m if projection is None else m @ projection
        c_prev, m_prev = c, m
        found.append(m)
    return np.stack(found, 1)


@pytest.mark.parametrize("activation", ["tanh", "relu"])
def test_gru(backend: str, activation: str) -> None:
    kernel, bias, candidate, more = arr(INPUTS + H, 2 * H), arr(2 * H), arr(INPUTS + H, H), arr(H)
    layer = cgru.GRU.from_tf(kernel, bias, candidate, more, activation=activation)
    function = {"tanh": np.tanh, "relu": lambda x: np.maximum(x, 0)}[activation]
    w, b, cw, cb = (a.astype(float) for a in (kernel, bias, candidate, more))
    want = gru_cell(X.astype(float), w, b, cw, cb, function)
    assert np.abs(cgru.Model([layer], backend=backend)(X) - want).max() <= 2e-6


@pytest.mark.parametrize("forget_bias", [1.0, 0.0, 2.5])
@pytest.mark.parametrize("peepholes", [False, True])
@pytest.mark.parametrize("projected", [False, True])
def test_lstm(backend: str, forget_bias: float, peepholes: bool, projected: bool) -> None:
    emitted = P if projected else H
    kernel, bias = arr(INPUTS + emitted, 4 * H), arr(4 * H)
    diagonals, projection = [arr(H) for _ in "ifo"] if peepholes else None, arr(H, P) if projected else None
    layer = cgru.LSTM.from_tf(kernel, bias, forget_bias=forget_bias, peepholes=diagonals, projection=projection)
    wide = [None if a is None else np.asarray(a, float) for a in (diagonals, projection)]
    want = lstm_cell(X.astype(float), kernel.astype(float), bias.astype(float), forget_bias, wide[0], wide[1])
    net = cgru.Model([layer], backend=backend)
    assert np.abs(net(X) - want).max() <= 2e-6
    stream = net.stream(ROWS)
    stepped = np.stack([stream.step(X[:, t]) for t in range(STEPS)], 1)
    np.testing.assert_allclose(stepped, net(X), rtol=0, atol=0 if backend == "packed" else 1e-6)


def test_letters_and_forget_bias_of_arrays() -> None:
    kernel, bias = arr(INPUTS + H, 4 * H), arr(4 * H)
    made = cgru.LSTM.from_arrays(kernel[:INPUTS].T, kernel[INPUTS:].T, bias, gates="ijfo", forget_bias=1.0)
    for key, array in cgru.LSTM.from_tf(kernel, bias).arrays().items():
        np.testing.assert_array_equal(made.arrays()[key], array)
    bare = cgru.LSTM.from_tf(kernel)
    want = lstm_cell(X.astype(float), kernel.astype(float), np.zeros(4 * H), 1.0)
    assert np.abs(cgru.Model([bare])(X) - want).max() <= 2e-6


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: cgru.LSTM.from_tf(arr(3, 4 * H)), r"kernel has shape \(3, 24\), expected \(I \+ 6, 4 · H\)"),
        (lambda: cgru.LSTM.from_tf(arr(INPUTS + H, 4 * H), projection=arr(5, 3)), "projection has shape"),
        (lambda: cgru.LSTM.from_tf(arr(INPUTS + H, 4 * H), peepholes=[arr(H)]), "expected w_i_diag, w_f_diag and"),
        (lambda: cgru.LSTM.from_tf(arr(INPUTS + H, 4 * H), forget_bias=float("nan")), "forget_bias"),
        (lambda: cgru.GRU.from_tf(arr(INPUTS + H, H), arr(H), arr(INPUTS + H, H), arr(H)), "gate_kernel has shape"),
        (lambda: cgru.GRU.from_tf(arr(5, 2 * H), arr(2 * H), arr(5, H), arr(H)), "gate_kernel has shape"),
    ],
)
def test_what_does_not_fit_is_named(call: Any, says: str) -> None:
    with pytest.raises(CgruError, match=says):
        call()
