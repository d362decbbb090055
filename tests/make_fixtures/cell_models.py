"""Makes tests/fixtures/cells: LSTM and RNN networks as PyTorch and Keras files, and what the frameworks make of them.

Run ``KERAS_BACKEND=torch python tests/make_fixtures/cell_models.py`` with PyTorch 2.13.0 and Keras 3. ``golden.npz``
holds ``<file>:<name>``: the input x, the initial states h0 and c0 where the file is PyTorch's, and the outputs.
"""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
import torch
from torch import nn

FOLDER = Path(__file__).resolve().parent.parent / "fixtures" / "cells"


class Net(nn.Module):
    """A recurrent body and a head, as a state_dict is usually saved."""

    def __init__(self, body: nn.RNNBase, width: int) -> None:
        super().__init__()
        self.rnn = body
        self.head = nn.Linear(width, 2)

    def forward(self, x: torch.Tensor, state: object) -> tuple[torch.Tensor, object]:
        out, after = self.rnn(x, state)
        return self.head(out), after


def torch_files(golden: dict[str, np.ndarray]) -> None:
    bodies: dict[str, tuple[nn.RNNBase, int, int]] = {
        "lstm": (nn.LSTM(3, 7, 2, batch_first=True, bidirectional=True), 14, 7),
        "lstm_projected": (nn.LSTM(3, 7, 2, batch_first=True, proj_size=4), 4, 4),
        "rnn_relu": (nn.RNN(3, 5, batch_first=True, nonlinearity="relu", bias=False), 5, 5),
        "rnn_tanh": (nn.RNN(3, 5, batch_first=True), 5, 5),
    }
    for name, (body, width, emitted) in bodies.items():
        net = Net(body, width).eval()
        rows = body.num_layers * (2 if body.bidirectional else 1)
        x, h0, c0 = torch.randn(4, 6, 3), torch.randn(rows, 4, emitted), torch.randn(rows, 4, body.hidden_size)
        y, after = net(x, (h0, c0) if body.mode == "LSTM" else h0)
        arrays = {"x": x, "h0": h0, "y": y}
        if isinstance(after, tuple):
            arrays |= {"c0": c0, "h_n": after[0], "c_n": after[1]}
        else:
            arrays["h_n"] = after
        torch.save(net.state_dict(), FOLDER / f"{name}.pt")
        golden |= {f"{name}.pt:{key}": array.detach().numpy() for key, array in arrays.items()}


def keras_files(golden: dict[str, np.ndarray]) -> None:
    L = keras.layers
    models = {
        "lstm": [L.LSTM(5, return_sequences=True), L.LSTM(4, activation="relu", recurrent_activation="hard_sigmoid")],
        "bidirectional": [L.Masking(), L.Bidirectional(L.LSTM(4, return_sequences=True)), L.Dense(2)],
        "simple_rnn": [L.Bidirectional(L.SimpleRNN(4, return_sequences=True), "sum"), L.SimpleRNN(3, use_bias=False)],
        "cells": [L.RNN([L.LSTMCell(3), L.GRUCell(4), L.SimpleRNNCell(5), L.LSTMCell(2)], return_sequences=True)],
    }
    for name, layers in models.items():
        model = keras.Sequential([keras.Input((None, 3)), *layers])
        rng = np.random.default_rng(len(name))
        model.set_weights([rng.uniform(-0.5, 0.5, array.shape).astype(np.float32) for array in model.get_weights()])
        x = rng.standard_normal((3, 7, 3)).astype(np.float32)
        x[1, 2:5] = 0
        for ending in ("keras", "h5"):
            model.save(FOLDER / f"{name}.{ending}")
            golden |= {f"{name}.{ending}:x": x, f"{name}.{ending}:y": np.asarray(model(x).detach())}


if __name__ == "__main__":
    FOLDER.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(30)
    keras.utils.set_random_seed(30)
    found: dict[str, np.ndarray] = {}
    torch_files(found)
    keras_files(found)
    np.savez_compressed(FOLDER / "golden.npz", **found)  # type: ignore[arg-type]
