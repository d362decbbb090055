"""What each Keras layer does with a mask: docs/sequences.md says it, Keras shows it, and cgru does the same."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

os.environ.setdefault("KERAS_BACKEND", "torch")
keras = pytest.importorskip("keras", reason="Keras is not installed; pip install cgru[parity]")
if keras.backend.backend() != "torch":
    pytest.skip(f"Keras runs on {keras.backend.backend()}; the comparison is made on torch", allow_module_level=True)

import cgru  # noqa: E402

L = keras.layers
pytestmark = pytest.mark.filterwarnings("ignore")

Made = Callable[[Any], Any]

#: Each takes a masked (B, T, 4) further; where it joins two values, it joins it with itself.
LAYERS: dict[str, Made] = {
    "GRU": lambda x: L.GRU(3, return_sequences=True)(x),
    "GRU, the last output": lambda x: L.GRU(3)(x),
    "LSTM": lambda x: L.LSTM(3, return_sequences=True)(x),
    "SimpleRNN": lambda x: L.SimpleRNN(3, return_sequences=True)(x),
    "RNN of cells": lambda x: L.RNN([L.GRUCell(3), L.LSTMCell(3)], return_sequences=True)(x),
    "Bidirectional": lambda x: L.Bidirectional(L.GRU(3, return_sequences=True))(x),
    "Dense": lambda x: L.Dense(3)(x),
    "TimeDistributed": lambda x: L.TimeDistributed(L.Dense(3))(x),
    "Activation": lambda x: L.Activation("tanh")(x),
    "LeakyReLU": lambda x: L.LeakyReLU()(x),
    "Dropout": lambda x: L.Dropout(0.5)(x),
    "SpatialDropout1D": lambda x: L.SpatialDropout1D(0.5)(x),
    "LayerNormalization": lambda x: L.LayerNormalization()(x),
    "BatchNormalization": lambda x: L.BatchNormalization()(x),
    "Rescaling": lambda x: L.Rescaling(2.0, 1.0)(x),
    "Add": lambda x: L.Add()([x, x]),
    "Multiply": lambda x: L.Multiply()([x, x]),
    "Average": lambda x: L.Average()([x, x]),
    "Maximum": lambda x: L.Maximum()([x, L.Dense(4)(x)]),
    "Minimum": lambda x: L.Minimum()([x, L.Dense(4)(x)]),
    "Concatenate": lambda x: L.Concatenate()([x, x]),
    "Attention": lambda x: L.Attention()([x, x]),
    "Conv1D": lambda x: L.Conv1D(3, 3, padding="causal")(x),
    "SeparableConv1D": lambda x: L.SeparableConv1D(3, 3, padding="same")(x),
    "MaxPooling1D": lambda x: L.MaxPooling1D(3, 1, padding="same")(x),
    "AveragePooling1D": lambda x: L.AveragePooling1D(3, 1, padding="same")(x),
    "UpSampling1D": lambda x: L.UpSampling1D(2)(x),
    "ZeroPadding1D": lambda x: L.ZeroPadding1D(1)(x),
    "Cropping1D": lambda x: L.Cropping1D(1)(x),
    "GlobalAveragePooling1D": lambda x: L.GlobalAveragePooling1D()(x),
    "GlobalMaxPooling1D": lambda x: L.GlobalMaxPooling1D()(x),
}

STEPS = 9
#: Id 0 is masked: nowhere, behind the fifth step, in gaps, at the first step.
IDS = np.random.default_rng(0).integers(1, 6, (4, STEPS))
IDS[1, 5:] = IDS[2, 2:4] = IDS[2, 7] = IDS[3, 0] = 0


def table() -> dict[str, tuple[str, str]]:
    """Layer → whether masked frames are seen, and where the mask goes, by the table of the documentation."""
    text = (Path(__file__).parents[1] / "docs" / "sequences.md").read_text(encoding="utf-8")
    found = {}
    for row in text.partition("| Keras layer |")[2].partition("\n\n")[0].splitlines()[2:]:
        names, seen, goes = (cell.strip() for cell in row.strip("|").split("|"))
        found.update(dict.fromkeys(names.split("; "), (seen, goes)))
    return found


def model(name: str, behind: Made | None = None) -> tuple[Any, Any]:
    """The layer behind an Embedding that masks, and ``behind`` behind it; with the value that the layer gives."""
    keras.utils.set_random_seed(3)
    i = keras.Input((STEPS,), dtype="int32")
    made = LAYERS[name](L.Embedding(6, 4, mask_zero=True)(i))
    return keras.Model(i, made if behind is None else behind(made)), made


def given(net: Any) -> np.ndarray:
    return np.asarray(keras.ops.convert_to_numpy(net(IDS, training=False)))


#: Which frames of a layer's result stand for frames that count.
FRAMES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "UpSampling1D": lambda seen: seen.repeat(2, axis=1),
    "ZeroPadding1D": lambda seen: np.pad(seen, [(0, 0), (1, 1)]),
    "Cropping1D": lambda seen: seen[:, 1:-1],
}


def test_every_layer_has_a_row() -> None:
    assert set(table()) == set(LAYERS)


@pytest.mark.parametrize("name", LAYERS)
def test_keras_does_what_the_table_says(name: str) -> None:
    """What it gives where a frame counts hangs on what stands in the masked ones, or not; a mask goes on, or not."""
    net, made = model(name)
    embedding = next(layer for layer in net.layers if isinstance(layer, L.Embedding))
    first = given(net)
    vectors = embedding.get_weights()[0]
    vectors[0] += 3
    embedding.set_weights([vectors])
    second = given(net)
    if first.ndim == 3:
        counts = FRAMES.get(name, lambda seen: seen)(IDS != 0)
        first, second = first[counts], second[counts]
    seen = "seen" if np.abs(first - second).max() > 1e-6 else "not seen"
    goes = "on" if getattr(made, "_keras_mask", None) is not None else "no further" if made.ndim == 3 else "—"
    assert (seen, goes) == table()[name]


@pytest.mark.parametrize("name", LAYERS)
def test_cgru_does_what_keras_does(name: str) -> None:
    """Alone, and before a GRU, which a mask that goes on tells what to leave out."""
    net, made = model(name)
    nets = [net] if made.ndim == 2 else [net, model(name, L.GRU(3))[0]]
    for one in nets:
        np.testing.assert_allclose(cgru.from_keras(one)(IDS), given(one), rtol=0, atol=2e-6)
