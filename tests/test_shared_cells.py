"""RTNeural's published networks and the ONNX conformance tests of GRU, LSTM and RNN, by their arrays alone.

The files are no part of this repository: they are read from ``../shared/models`` beside the checkout.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx_wire import tensor

import cgru

MODELS = Path(__file__).resolve().parents[2] / "shared" / "models"
TOLERANCE = 5e-6

pytestmark = pytest.mark.skipif(
    not MODELS.is_dir(), reason="the published models are not here (../shared/models beside the checkout)"
)


def layer(entry: dict[str, Any]) -> cgru.layers.Layer:
    """One layer of RTNeural's JSON: Keras' arrays, and Keras' order of the gates."""
    arrays = [np.array(weight) for weight in entry["weights"]]
    if entry["type"] == "gru":
        return cgru.GRU.from_keras(arrays, reset_after=True)
    if entry["type"] == "lstm":
        return cgru.LSTM.from_keras(arrays)
    return cgru.Dense(arrays[0].T, arrays[1], activation=entry["activation"] or "linear")


@pytest.mark.parametrize("name", ["gru", "gru_1d", "lstm", "lstm_1d"])
def test_rtneural(backend: str, name: str) -> None:
    spec = json.loads((MODELS / "rtneural" / f"{name}.json").read_text())
    net = cgru.Model([layer(entry) for entry in spec["layers"]], backend=backend)
    x, y = (np.loadtxt(MODELS / "rtneural" / f"{name}_{which}_python.csv", ndmin=2) for which in "xy")
    np.testing.assert_allclose(net(x), y, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize(("name", "kind"), [("gru", cgru.GRU), ("lstm", cgru.LSTM)])
def test_rtneural_from_torch(backend: str, name: str, kind: type[cgru.GRU] | type[cgru.LSTM]) -> None:
    spec = json.loads((MODELS / "rtneural" / f"{name}_torch.json").read_text())
    tensors = {key: np.array(value) for key, value in spec.items()}
    parts = {stem: {k: v for k, v in tensors.items() if k.startswith(f"{stem}.")} for stem in (name, f"{name}2")}
    first, second = (kind.from_torch(held, prefix=f"{stem}.") for stem, held in parts.items())
    head = cgru.Dense(tensors["dense.weight"], tensors["dense.bias"])
    x, y = (np.loadtxt(MODELS / "rtneural" / f"{name}_torch_{which}_python.csv", ndmin=2) for which in "xy")
    got = cgru.Model([first, second, head], backend=backend)(x)
    np.testing.assert_allclose(got, y, rtol=0, atol=TOLERANCE)


# ONNX: gates z r h and i o f c by rows; the default reset is before; B holds both biases end to end ---------

FOLDERS = sorted(path.name for path in (MODELS / "onnx_node").glob("test_*")) if MODELS.is_dir() else []


def onnx_layer(kind: str, held: dict[str, np.ndarray], name: str) -> Any:
    both = len(held["W"]) == 2
    options: dict[str, Any] = {"bidirectional": both}
    arrays: dict[str, Any] = {"w_ih": list(held["W"]), "w_hh": list(held["R"])}
    if "B" in held:
        arrays["b_ih"], arrays["b_hh"] = ([np.split(row, 2)[k] for row in held["B"]] for k in range(2))
    if name.endswith("_activations"):
        options |= {"activation": "relu"} | ({"recurrent_activation": "relu"} if kind != "rnn" else {})
    if name.endswith("_reverse"):
        options["go_backwards"] = True
    if kind == "gru":
        return cgru.GRU.from_arrays(**arrays, gates="zrh", reset="before", **options)
    if kind == "lstm":
        peepholes = list(held["P"]) if "P" in held else None
        return cgru.LSTM.from_arrays(**arrays, gates="iofc", peepholes=peepholes, **options)
    return cgru.RNN.from_arrays(**arrays, **options)


@pytest.mark.parametrize("name", FOLDERS or ["none"])
def test_onnx_node(backend: str, name: str) -> None:
    if name.endswith("_clip"):
        pytest.skip("clip bounds what goes into an activation, and no cell of cgru has a switch for that")
    folder = MODELS / "onnx_node" / name / "test_data_set_0"
    held = dict(map(tensor, folder.glob("input_*.pb")))
    kind = "gru" if "gru" in name else "lstm" if "lstm" in name else "rnn"
    # layout 1 has the batch first, and the directions after it.
    x = held["X"] if name.endswith("_batchwise") else held["X"].swapaxes(0, 1)
    made = onnx_layer(kind, held, name)
    state: Any = held.get("initial_h")
    if kind == "lstm" and {"initial_h", "initial_c"} & held.keys():
        zero = np.zeros_like(held.get("initial_h", held.get("initial_c")))
        state = held.get("initial_h", zero), held.get("initial_c", zero)
    out, after = made(x, state, held.get("sequence_lens"), backend=backend)
    last = after if isinstance(after, tuple) else (after,)
    found = {"Y": out.reshape(*out.shape[:2], len(held["W"]), held["R"].shape[2])}  # (B, T, D, H)
    found |= {key: array.swapaxes(0, 1) for key, array in zip(("Y_h", "Y_c"), last, strict=False)}
    if not name.endswith("_batchwise"):
        found = {key: np.moveaxis(array, 0, -2) for key, array in found.items()}
    wanted = dict(map(tensor, folder.glob("output_*.pb")))
    assert wanted
    for key, want in wanted.items():
        # One file has the outputs of every step under the name of the last.
        np.testing.assert_allclose(found["Y" if want.ndim == 4 else key], want, rtol=0, atol=TOLERANCE, err_msg=key)
