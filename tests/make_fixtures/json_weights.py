"""Makes tests/fixtures/json: networks as RTNeural's and GuitarML's JSON, and what Keras and PyTorch make of them.

Run ``KERAS_BACKEND=torch python tests/make_fixtures/json_weights.py`` with Keras 3.15 and PyTorch 2.13.0 installed.
``golden.npz`` holds, under ``<file>:x`` and ``<file>:y``, inputs and outputs of the models that the files are of.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import keras
import numpy as np
import torch
from keras import layers as L
from torch import nn

FOLDER = Path(__file__).resolve().parent.parent / "fixtures" / "json"


def listed(value: Any) -> Any:
    """Arrays as nested lists, of the digits that float32 has."""
    return [listed(part) for part in value] if np.ndim(value) else float(f"{float(value):.9g}")


def layer_of(layer: Any, size: int) -> dict[str, Any]:
    kinds = {"Dense": "dense", "GRU": "gru", "LSTM": "lstm", "Conv1D": "conv1d", "BatchNormalization": "batchnorm",
             "PReLU": "prelu", "Activation": "activation"}  # fmt: skip
    activation = getattr(layer, "activation", None)
    word = "" if activation is None or activation.__name__ == "linear" else activation.__name__
    made: dict[str, Any] = {
        "type": kinds[type(layer).__name__], "activation": word, "shape": [None, None, size],
        "weights": [listed(array) for array in layer.get_weights()],
    }  # fmt: skip
    if isinstance(layer, L.Conv1D):
        made |= {"kernel_size": list(layer.kernel_size), "dilation": list(layer.dilation_rate), "groups": layer.groups}
    if isinstance(layer, L.BatchNormalization):
        made["epsilon"] = layer.epsilon
    return made


def rtneural() -> tuple[dict[str, Any], np.ndarray, np.ndarray]:
    rng = np.random.default_rng(4)
    model = keras.Sequential([
        keras.Input((None, 2)), L.Dense(4, activation="tanh"),
        L.Conv1D(6, 3, padding="causal", dilation_rate=2, groups=2, activation="relu"),
        L.BatchNormalization(), L.PReLU(shared_axes=[1]), L.GRU(4, return_sequences=True),
        L.LSTM(3, return_sequences=True), L.Activation("elu"), L.Dense(3, activation="softmax"),
    ])  # fmt: skip
    for layer in model.layers:
        layer.set_weights([rng.uniform(0.2, 1, array.shape) - 0.5 * (array.ndim > 1) for array in layer.get_weights()])
    x = rng.normal(size=(2, 9, 2)).astype(np.float32)
    sizes = [4, 6, 6, 6, 4, 3, 3, 3]
    layers = [layer_of(layer, size) for layer, size in zip(model.layers, sizes, strict=True)]
    return {"in_shape": [None, None, 2], "layers": layers}, x, np.asarray(model.predict(x, verbose=0))


class SimpleRNN(nn.Module):
    """CoreAudioML's network: one recurrent unit, a Linear, and its first input added to its output."""

    def __init__(self) -> None:
        super().__init__()
        self.rec = nn.LSTM(2, 5, batch_first=True)
        self.lin = nn.Linear(5, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.lin(self.rec(x)[0]) + x[:, :, 0:1]


def guitarml() -> tuple[dict[str, Any], np.ndarray, np.ndarray]:
    torch.manual_seed(2)
    module, x = SimpleRNN().eval(), torch.randn(2, 11, 2)
    said = {"model": "SimpleRNN", "input_size": 2, "skip": 1, "output_size": 1, "unit_type": "LSTM", "num_layers": 1,
            "hidden_size": 5, "bias_fl": True}  # fmt: skip
    state = {name: listed(value.numpy()) for name, value in module.state_dict().items()}
    return {"model_data": said, "state_dict": state}, x.numpy(), module(x).detach().numpy()


def main() -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    golden: dict[str, Any] = {}
    for name, make in (("rtneural", rtneural), ("guitarml", guitarml)):
        content, x, y = make()
        (FOLDER / f"{name}.json").write_text(json.dumps(content))
        golden |= {f"{name}.json:x": x, f"{name}.json:y": y}
        if name == "guitarml":
            (FOLDER / "names.json").write_text(json.dumps(content["state_dict"]))
    np.savez_compressed(FOLDER / "golden.npz", **golden)


if __name__ == "__main__":
    main()
