"""Published networks that others trained, each with an input and what it gives of it: the rows of docs/networks.md.

The files are no part of this repository: they are read from ``../shared/models`` beside the checkout, and Silero's from
the package ``silero-vad``.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

import cgru

MODELS = Path(__file__).resolve().parents[2] / "shared" / "models"

PHONEMES = [
    "<pad>", "<unk>", "<s>", "</s>", "AA0", "AA1", "AA2", "AE0", "AE1", "AE2", "AH0", "AH1", "AH2", "AO0", "AO1",
    "AO2", "AW0", "AW1", "AW2", "AY0", "AY1", "AY2", "B", "CH", "D", "DH", "EH0", "EH1", "EH2", "ER0", "ER1", "ER2",
    "EY0", "EY1", "EY2", "F", "G", "HH", "IH0", "IH1", "IH2", "IY0", "IY1", "IY2", "JH", "K", "L", "M", "N", "NG",
    "OW0", "OW1", "OW2", "OY0", "OY1", "OY2", "P", "R", "S", "SH", "T", "TH", "UH0", "UH1", "UH2", "UW", "UW0", "UW1",
    "UW2", "V", "W", "Y", "Z", "ZH",
]  # fmt: skip


class Example(NamedTuple):
    """A network, an input without rows, and the outputs published with it or computed by the program it came with."""

    net: cgru.Model
    x: np.ndarray
    outputs: list[np.ndarray]


def arrays(path: str) -> dict[str, np.ndarray]:
    with np.load(MODELS / path) as file:
        return dict(file)


def made(net: cgru.Model, x: np.ndarray) -> list[np.ndarray]:
    """The network's outputs as a list, whether it has one or several."""
    y: Any = net(x)
    return list(y.values()) if isinstance(y, dict) else [y]


def rnnoise(backend: str | None = None) -> Example:
    """RNNoise of August 2017: three GRUs on joined inputs, gains of 22 bands and the probability of a voice."""
    tensors = arrays("rnnoise17/rnnoise17_ref.npz")

    def gru(name: str, activation: str) -> cgru.GRU:
        weights = [tensors[f"{name}/{key}"] for key in ("W", "U", "b")]
        return cgru.GRU.from_keras(weights, reset_after=False, activation=activation, name=name)

    def dense(name: str, activation: str) -> cgru.Dense:
        return cgru.Dense.from_keras([tensors[f"{name}/W"], tensors[f"{name}/b"]], activation=activation, name=name)

    g = cgru.Graph()
    x = g.input(42, name="features")
    d = g.layer(dense("input_dense", "tanh"), x)
    v = g.layer(gru("vad_gru", "tanh"), d)
    n = g.layer(gru("noise_gru", "relu"), g.concat(d, v, x))
    h = g.layer(gru("denoise_gru", "tanh"), g.concat(v, n, x))
    g.output(g.layer(dense("denoise_output", "sigmoid"), h), g.layer(dense("vad_output", "sigmoid"), v))
    outputs = [tensors["real_gains"], tensors["real_vad"]]
    return Example(cgru.Model(g, backend=backend), tensors["real_features"], outputs)


def nsnet2() -> Example:
    known = arrays("nsnet2/nsnet2_ref.npz")
    return Example(cgru.load(MODELS / "nsnet2" / "nsnet2.onnx"), known["feat"][0], [known["gain"][0]])


def gtcrn() -> Example:
    known = arrays("gtcrn/gtcrn_ref.npz")
    net = cgru.load(MODELS / "gtcrn" / "gtcrn_simple.onnx")
    return Example(net, known["mix_stft"], [known["enh_stft"]])


def silero() -> Example:
    """Windows of 512 samples at 16 kHz with the 64 before each → the probability of speech."""
    spec = importlib.util.find_spec("silero_vad")
    if spec is None or spec.origin is None:
        pytest.skip("silero-vad is not installed; pip install silero-vad==6.2.3")
    known = arrays("silero/silero_ref.npz")
    sound = np.concatenate([np.zeros(64, np.float32), known["audio"].astype(np.float32) / 32768])
    windows = np.stack([sound[at : at + 576] for at in range(0, 400 * 512, 512)])
    path = Path(spec.origin).parent / "data" / "silero_vad_16k_op15.onnx"
    return Example(cgru.load(path, inputs={"input": (None, 576), "sr": 16000}), windows, [known["prob"][:, None]])


def rtneural(name: str) -> Example:
    """Sound effects; the two from PyTorch are state_dicts, whose modules' order is told."""
    cell, _, kind = name.partition("_")
    layers = [cell, f"{cell}2", "dense"] if kind == "torch" else None
    folder = MODELS / "rtneural"
    x, y = (np.loadtxt(folder / f"{name}_{which}_python.csv", dtype=np.float32).reshape(-1, 1) for which in "xy")
    return Example(cgru.load(folder / f"{name}.json", layers=layers), x, [y])


#: Name in docs/networks.md → the network; whether its own file opens, or its arrays were put together by hand.
NETWORKS: dict[str, tuple[Callable[[], Example], bool]] = {
    "RNNoise 2017": (rnnoise, False),
    "NSNet2": (nsnet2, True),
    "GTCRN": (gtcrn, True),
    "Silero VAD 6.2.3": (silero, True),
    **{f"RTNeural {name}": (partial(rtneural, name), True)
       for name in ("gru", "gru_1d", "gru_torch", "lstm", "lstm_1d", "lstm_torch")},
}  # fmt: skip
