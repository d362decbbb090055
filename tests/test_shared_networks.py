"""Somebody else's trained networks that are no chains, whole and as streams, against what they or their program gave.

The files are no part of this repository: they are read from ``../shared/models`` beside the checkout.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import cgru

MODELS = Path(__file__).resolve().parents[2] / "shared" / "models"

pytestmark = pytest.mark.skipif(
    not MODELS.is_dir(), reason="the published models are not here (../shared/models beside the checkout)"
)


def rnnoise(tensors: dict[str, np.ndarray]) -> cgru.Graph:
    """RNNoise of August 2017: three GRUs on joined inputs, gains of 22 bands and the probability of a voice."""

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
    return g


@pytest.mark.parametrize("backend", ["packed", "reference"])
def test_rnnoise_of_2017(backend: str) -> None:
    """The C program looks its activations up in tables: float32 agrees with it to 5e-5."""
    with np.load(MODELS / "rnnoise17" / "rnnoise17_ref.npz") as file:
        tensors = dict(file)
    net = cgru.Model(rnnoise(tensors), backend=backend)
    assert set(net.backends) == {backend}
    made = net(tensors["real_features"])
    np.testing.assert_allclose(made["denoise_output"], tensors["real_gains"], rtol=0, atol=5e-5)
    np.testing.assert_allclose(made["vad_output"], tensors["real_vad"], rtol=0, atol=5e-5)


def test_rnnoise_streams_to_the_bit() -> None:
    with np.load(MODELS / "rnnoise17" / "rnnoise17_ref.npz") as file:
        tensors = dict(file)
    net = cgru.Model(rnnoise(tensors))
    features = tensors["real_features"][:200]
    whole, stream = net(features), net.stream()
    assert stream.delay == 0
    for cut in (slice(0, 1), slice(1, 120), slice(120, 200)):
        made: dict[str, np.ndarray] = dict(stream.feed(features[cut]))
        for name, part in made.items():
            np.testing.assert_array_equal(part, whole[name][cut])


@pytest.mark.parametrize(("precision", "most"), [("int8", 0.05), ("int8x16", 0.05), ("bf16", 0.02), ("fp16", 2e-3)])
def test_rnnoise_in_fewer_bits(precision: str, most: float) -> None:
    """Its weights are whole numbers of 8 bits to begin with."""
    with np.load(MODELS / "rnnoise17" / "rnnoise17_ref.npz") as file:
        tensors = dict(file)
    net = cgru.Model(rnnoise(tensors))
    want, made = net(tensors["real_features"]), net.quantize(precision)(tensors["real_features"])
    for name in want:
        error = np.sqrt(np.mean((made[name] - want[name]) ** 2) / np.mean(want[name] ** 2))
        assert error < most, (name, error)
