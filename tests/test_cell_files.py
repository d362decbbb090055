"""LSTM and RNN files of PyTorch 2.13.0 and Keras 3 (tests/make_fixtures/cell_models.py), opened without either."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cgru
from cgru.errors import UnsupportedError

FIXTURES = Path(__file__).parent / "fixtures" / "cells"
GOLDEN = np.load(FIXTURES / "golden.npz")
CLOSE = 2e-6


@pytest.mark.parametrize(
    ("name", "layers"),
    [
        ("lstm", None),
        ("lstm_projected", None),
        ("rnn_relu", [{"rnn": "rnn", "nonlinearity": "relu"}, "head"]),
        ("rnn_tanh", [{"rnn": "rnn", "nonlinearity": "tanh"}, "head"]),
    ],
)
def test_pytorch_files(backend: str, name: str, layers: Any) -> None:
    net = cgru.load(FIXTURES / f"{name}.pt", layers=layers, backend=backend)
    begin = {f"rnn.{key}": GOLDEN[f"{name}.pt:{key}0"] for key in "hc" if f"{name}.pt:{key}0" in GOLDEN}
    y, state = net.run(GOLDEN[f"{name}.pt:x"], begin)
    assert np.abs(y - GOLDEN[f"{name}.pt:y"]).max() <= CLOSE
    after = state.arrays()
    assert set(after) == set(begin)
    for key, array in after.items():
        assert np.abs(array - GOLDEN[f"{name}.pt:{key[-1]}_n"]).max() <= CLOSE, key
    wrong = {key: begin[key] * 0 for key in begin}
    assert np.abs(net.run(GOLDEN[f"{name}.pt:x"], wrong)[0] - y).max() > 1e-3


def test_an_rnns_nonlinearity_is_asked_for_and_matters() -> None:
    with pytest.raises(UnsupportedError, match=r"rnn_relu\.pt.*tanh or relu"):
        cgru.load(FIXTURES / "rnn_relu.pt")
    x, want = GOLDEN["rnn_relu.pt:x"], GOLDEN["rnn_relu.pt:y"]
    tanh = cgru.load(FIXTURES / "rnn_relu.pt", layers=[{"rnn": "rnn", "nonlinearity": "tanh"}, "head"])
    assert np.abs(tanh.run(x, {"rnn.h": GOLDEN["rnn_relu.pt:h0"]})[0] - want).max() > 1e-2


@pytest.mark.parametrize("ending", ["keras", "h5"])
@pytest.mark.parametrize("name", ["lstm", "bidirectional", "simple_rnn", "cells"])
def test_keras_files(backend: str, name: str, ending: str) -> None:
    net = cgru.load(FIXTURES / f"{name}.{ending}", backend=backend)
    assert np.abs(net(GOLDEN[f"{name}.{ending}:x"]) - GOLDEN[f"{name}.{ending}:y"]).max() <= CLOSE
