"""Single layers from live torch modules and Keras layers: what runs is what the framework computes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import cgru
from cgru.errors import CgruError, FormatError, UnsupportedError

RNG = np.random.default_rng(5)
X = RNG.standard_normal((3, 7, 8)).astype(np.float32)


def test_modules_of_torch(torch: Any) -> None:
    nn = torch.nn
    cases: list[tuple[Any, ...]] = [
        (cgru.GRU.from_torch, nn.GRU(8, 5, 2, bidirectional=True, batch_first=True), lambda m, x: m(x)[0]),
        (cgru.LSTM.from_torch, nn.LSTM(8, 5, proj_size=3, batch_first=True), lambda m, x: m(x)[0]),
        (cgru.RNN.from_torch, nn.RNN(8, 5, nonlinearity="relu", batch_first=True), lambda m, x: m(x)[0]),
        (cgru.Dense.from_torch, nn.Linear(8, 4, bias=False), lambda m, x: m(x)),
        (cgru.Dense.from_torch, nn.Conv1d(8, 4, 1), lambda m, x: m(x.mT).mT),
        (cgru.Activation.from_torch, nn.GELU(), lambda m, x: m(x)),
    ]
    for made, module, run in cases:
        with torch.no_grad():
            want = run(module, torch.from_numpy(X)).numpy()
        got = made(module)(X)
        assert np.abs((got[0] if isinstance(got, tuple) else got) - want).max() <= 2e-6
    table, ids = nn.Embedding(9, 4), np.array([[0, 8, 3]])
    np.testing.assert_array_equal(cgru.Embedding.from_torch(table)(ids), table.weight.detach().numpy()[ids])


@pytest.mark.parametrize("prefix", ["a.gru_r", "a.gru_r."])
def test_a_prefix_is_given_with_its_dot_or_without(torch: Any, prefix: str) -> None:
    module = torch.nn.GRU(8, 5)
    tensors = {f"a.gru_r.{key}": value for key, value in module.state_dict().items()}
    tensors["a.gru_rest.weight"] = torch.zeros(2, 2)
    made = cgru.GRU.from_torch(tensors, prefix)
    np.testing.assert_array_equal(made.arrays()["weight_ih_l0"], module.weight_ih_l0.detach().numpy())
    dense = cgru.Dense.from_torch(tensors, "a.gru_rest")
    assert dense.input_size == 2


def test_other_modules_of_torch_are_named(torch: Any) -> None:
    nn = torch.nn
    cases: list[tuple[Any, ...]] = [
        (cgru.GRU.from_torch, nn.LSTM(2, 3), r"expected a torch\.nn\.GRU or GRUCell, found a LSTM"),
        (cgru.Dense.from_torch, nn.Conv1d(2, 3, 1, stride=2), "stride"),
        (cgru.Dense.from_torch, nn.Conv1d(2, 3, 3), "2 axes"),
        (cgru.Activation.from_torch, nn.ELU(0.5), "alpha"),
        (cgru.Embedding.from_torch, nn.Embedding(4, 2, max_norm=1.0), "max_norm"),
        (cgru.Dense.from_torch, 3, "expected a torch.nn.Linear or Conv1d or a mapping"),
        (cgru.Dense.from_torch, {"weight": X[0], "more": X[0]}, "none of weight, bias"),
        (cgru.Dense.from_torch, {"bias": X[0]}, "'weight' is missing"),
        (cgru.Activation.from_torch, {}, "has no tensors"),
    ]
    for made, given, says in cases:
        with pytest.raises(CgruError, match=says):
            made(given)
    assert issubclass(FormatError, CgruError)


def test_layers_of_keras(keras: Any) -> None:
    layers = keras.layers
    bias = {"bias_initializer": "uniform"}
    cases: list[tuple[Any, Any]] = [
        (cgru.GRU.from_keras, layers.GRU(5, return_sequences=True, **bias)),
        (cgru.GRU.from_keras, layers.GRU(5, reset_after=False, recurrent_activation="hard_sigmoid", **bias)),
        (cgru.LSTM.from_keras, layers.Bidirectional(layers.LSTM(4, return_sequences=True, **bias), merge_mode="sum")),
        (cgru.RNN.from_keras, layers.SimpleRNN(5, activation="relu", go_backwards=True, **bias)),
        (cgru.Dense.from_keras, layers.Dense(4, activation="softmax", **bias)),
        (cgru.Dense.from_keras, layers.Conv1D(4, 1, use_bias=False)),
        (cgru.Activation.from_keras, layers.Activation("hard_sigmoid")),
    ]
    for made, layer in cases:
        want = keras.ops.convert_to_numpy(layer(X))
        got = cgru.Model([made(layer)])(X)
        assert np.abs(got - want).max() <= 2e-6, layer
        assert made(layer, name="own").name == "own"
    table, ids = layers.Embedding(9, 4, mask_zero=True), np.array([[0, 8, 3]])
    want = keras.ops.convert_to_numpy(table(ids))
    np.testing.assert_array_equal(cgru.Embedding.from_keras(table)(ids), want)
    assert cgru.Embedding.from_keras(table).mask_zero
    assert cgru.Masking.from_keras(layers.Masking(0.5)).mask_value == 0.5


def test_other_layers_of_keras_are_named(keras: Any) -> None:
    layers = keras.layers
    cases: list[tuple[Any, ...]] = [
        (cgru.GRU.from_keras, layers.LSTM(2), "expected a Keras GRU or GRUCell or Bidirectional, found a LSTM"),
        (cgru.GRU.from_keras, layers.GRU(2, return_state=True), "return_state=True"),
        (cgru.Dense.from_keras, layers.Conv1D(2, 3), "kernel_size"),
        (cgru.Masking.from_keras, 0.5, "expected a Keras Masking"),
    ]
    for made, given, says in cases:
        if not getattr(given, "built", True):
            given(X)
        with pytest.raises((CgruError, UnsupportedError), match=says):
            made(given)
