"""LSTM and RNN against PyTorch and Keras themselves. Runs where the extra ``parity`` is installed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from cell_oracle import Net, nets
from hypothesis import given, settings
from hypothesis import strategies as st
from torch_side import CLOSE, assert_agrees, module, results, run, torch

import cgru

TORCH = ("lstm", "lstm_projected", "rnn", "rnn_relu")


# PyTorch cannot project a single unit to itself, and takes P < H alone.
@settings(max_examples=60)
@given(case=nets(TORCH, steps=50, least=1, masks=False).filter(lambda n: n.name != "lstm_projected" or n.hidden > 1))
def test_same_numbers_as_pytorch(backend: str, case: Net) -> None:
    assert_agrees(results(case.layer(), case, backend), case)


@pytest.mark.parametrize("name", ["lstm", "rnn", "rnn_relu"])
def test_cells_and_live_modules(backend: str, name: str) -> None:
    case = Net(3, 5, 1, 1, True, 4, 6, seed=4, name=name)
    live = module(case)
    want = run(case)[0]
    got, _ = cgru.from_torch(live, backend=backend).run(
        case.x, {f"{live._get_name().lower()}.{key}": array for key, array in case.begin.items()}
    )
    assert np.abs(got - want).max() <= CLOSE
    options = {"nonlinearity": live.nonlinearity} if name.startswith("rnn") else {}
    kind = torch.nn.LSTMCell if name == "lstm" else torch.nn.RNNCell
    cell = kind(3, 5, **options)
    cell.load_state_dict({key.removesuffix("_l0"): torch.from_numpy(a) for key, a in case.arrays.items()})
    layer = cgru.from_torch(cell).layers[0]
    assert np.abs(layer(case.x, case.given(), backend=backend)[0] - want).max() <= CLOSE


def test_an_rnn_inside_a_class_of_ones_own() -> None:
    class Own(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = torch.nn.RNN(3, 5, nonlinearity="relu", batch_first=True)
            self.head = torch.nn.Linear(5, 2)

        def forward(self, x: Any) -> Any:
            return self.head(self.body(x)[0])

    net, x = Own().eval(), torch.randn(2, 7, 3)
    found = cgru.from_torch(net)
    assert found.layers[0].nonlinearity == "relu"  # type: ignore[attr-defined]
    assert np.abs(found(x.numpy()) - net(x).detach().numpy()).max() <= CLOSE


# Keras ----------------------------------------------------------------------------------------------------


def filled(model: Any, seed: int) -> Any:
    """Random weights everywhere, biases too."""
    rng = np.random.default_rng(seed)
    model.set_weights([rng.uniform(-0.4, 0.4, array.shape).astype(np.float32) for array in model.get_weights()])
    return model


@settings(max_examples=25)
@given(
    kind=st.sampled_from(["LSTM", "SimpleRNN"]), units=st.sampled_from([1, 3, 8, 17]), depth=st.integers(1, 2),
    both=st.sampled_from([None, "concat", "sum", "mul", "ave"]), last=st.booleans(), masked=st.booleans(),
    bias=st.booleans(), backwards=st.booleans(), seed=st.integers(0, 2**32 - 1),
)  # fmt: skip
def test_same_numbers_as_keras(keras, backend, kind, units, depth, both, last, masked, bias, backwards, seed) -> None:
    L = keras.layers
    layers = [keras.Input((None, 3))] + ([L.Masking()] if masked else [])
    for k in range(depth):
        top = k == depth - 1
        one = getattr(L, kind)(
            units, use_bias=bias, return_sequences=not (top and last), go_backwards=backwards and top and both is None
        )
        layers.append(one if both is None else L.Bidirectional(one, merge_mode=both))
    model = filled(keras.Sequential(layers), seed)
    rng = np.random.default_rng((seed, 1))
    x = rng.standard_normal((4, 9, 3)).astype(np.float32)
    if masked:
        x[rng.random((4, 9)) < 0.3] = 0
    want = np.asarray(model(x).detach())
    assert np.abs(cgru.from_keras(model, backend=backend)(x) - want).max() <= CLOSE


@settings(max_examples=25)
@given(
    kind=st.sampled_from(["LSTM", "SimpleRNN"]), units=st.sampled_from([1, 3, 8, 17]), both=st.booleans(),
    last=st.booleans(), masked=st.booleans(), backwards=st.booleans(), steps=st.integers(1, 12),
    seed=st.integers(0, 2**32 - 1),
)  # fmt: skip
def test_keras_states(keras, backend, kind, units, both, last, masked, backwards, steps, seed) -> None:
    """From states that are never zero, h and c unlike each other, to the last ones."""
    rng, backwards = np.random.default_rng(seed), backwards and not both
    options = {"return_sequences": not last, "go_backwards": backwards}
    layer = getattr(keras.layers, kind)(units, return_state=True, **options)
    layer = keras.layers.Bidirectional(layer) if both else layer
    layer.build((None, None, 4))
    filled(layer, seed)
    x = rng.standard_normal((3, steps, 4)).astype(np.float32)
    mask = rng.random((3, steps)) < 0.6 if masked else None
    names, directions = ("h", "c")[: 1 + (kind == "LSTM")], 1 + both
    begin = rng.standard_normal((directions, len(names), 3, units)).astype(np.float32)
    out, *after = (
        np.asarray(part.detach()) for part in layer(x, initial_state=list(begin.reshape(-1, 3, units)), mask=mask)
    )
    arrays = layer.get_weights()
    own: Any = {"LSTM": cgru.LSTM, "SimpleRNN": cgru.RNN}[kind]
    ours = own.from_keras(
        arrays[:3], backward=arrays[3:] or None, zero_output_for_mask=both and not last, **options
    )
    given = tuple(begin.swapaxes(0, 1))
    got, state = ours(x, given if len(given) > 1 else given[0], mask=mask, backend=backend)
    assert np.abs(got - out).max() <= CLOSE
    for k, array in enumerate(state if isinstance(state, tuple) else (state,)):
        assert np.abs(array - np.stack(after)[k :: len(names)]).max() <= CLOSE


@pytest.mark.parametrize("kind", ["LSTM", "SimpleRNN"])
def test_keras_cells(keras: Any, backend: str, kind: str) -> None:
    L, cell = keras.layers, getattr(keras.layers, kind + "Cell")
    x = np.random.default_rng(5).standard_normal((3, 6, 4)).astype(np.float32)
    model = filled(keras.Sequential([keras.Input((None, 4)), L.RNN([cell(3), cell(6)], return_sequences=True)]), 6)
    assert np.abs(cgru.from_keras(model, backend=backend)(x) - np.asarray(model(x).detach())).max() <= CLOSE


@pytest.mark.parametrize("kind", ["LSTM", "SimpleRNN"])
def test_keras_activations(keras: Any, kind: str) -> None:
    gates = {"recurrent_activation": "hard_sigmoid"} if kind == "LSTM" else {}
    layer = getattr(keras.layers, kind)(6, activation="softsign", return_sequences=True, **gates)
    model = filled(keras.Sequential([keras.Input((None, 3)), layer]), 8)
    x = np.random.default_rng(9).standard_normal((2, 7, 3)).astype(np.float32)
    assert np.abs(cgru.from_keras(model)(x) - np.asarray(model(x).detach())).max() <= CLOSE
