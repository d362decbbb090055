"""Small networks of every kind that streams: hypothesis chooses the kind and a seed, numpy draws the weights."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from hypothesis import strategies as st

import cgru


@dataclass(frozen=True)
class Kind:
    """A stack of GRUs with what may stand before and after it."""

    inputs: int
    hidden: int
    layers: int = 1
    reset: str = "after"
    head: int | None = None  # units of a Dense after it
    softmax: bool = False
    embedded: bool = False  # inputs is then the vocabulary
    masked: bool = False  # Masking, or mask_zero
    zeroed: bool = False  # a masked step gives zero
    last: bool = False  # return_sequences=False


KINDS = st.builds(
    Kind,
    inputs=st.sampled_from([1, 2, 3, 7, 16, 17]),
    hidden=st.sampled_from([1, 2, 5, 8, 15, 16, 17, 33]),
    layers=st.integers(1, 3),
    reset=st.sampled_from(["after", "before"]),
    head=st.sampled_from([None, 1, 4, 17]),
    softmax=st.booleans(),
    embedded=st.booleans(),
    masked=st.booleans(),
    zeroed=st.booleans(),
    last=st.booleans(),
)


def noise(shape: tuple[int, ...], seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def build(kind: Kind, seed: int, backend: str | None) -> cgru.Model:
    """The network of that kind; the same seed gives the same weights."""
    rng = np.random.default_rng((seed, 11))

    def weights(*shape: int) -> np.ndarray:
        return rng.uniform(-1, 1, shape).astype(np.float32) / np.float32(np.sqrt(kind.hidden))

    layers: list[cgru.Layer] = []
    width = kind.inputs
    if kind.embedded:
        width = 6
        layers.append(cgru.Embedding(weights(kind.inputs, width), mask_zero=kind.masked))
    elif kind.masked:
        layers.append(cgru.Masking(0.0))
    for layer in range(kind.layers):
        rows = 3 * kind.hidden
        arrays = {
            "weight_ih_l0": weights(rows, width),
            "weight_hh_l0": weights(rows, kind.hidden),
            "bias_ih_l0": weights(rows),
            "bias_hh_l0": weights(rows),
        }
        sequences = not kind.last or layer < kind.layers - 1
        layers.append(cgru.GRU(arrays, reset=kind.reset, return_sequences=sequences, zero_output_for_mask=kind.zeroed))
        width = kind.hidden
    if kind.head is not None:
        layers.append(cgru.Dense(weights(kind.head, width), weights(kind.head)))
    if kind.softmax:
        layers.append(cgru.Activation("softmax"))
    return cgru.Model(layers, backend=backend)


def draw_input(kind: Kind, batch: int, steps: int, seed: int) -> np.ndarray:
    """Features (B, T, I) or ids (B, T); where the network masks, about a third of the steps are masked."""
    rng = np.random.default_rng((seed, 12))
    if kind.embedded:
        ids = rng.integers(0, kind.inputs, (batch, steps))
        return np.where(rng.random((batch, steps)) < 0.3, 0, ids)
    x = rng.standard_normal((batch, steps, kind.inputs)).astype(np.float32)
    if kind.masked:
        x[rng.random((batch, steps)) < 0.3] = 0
    return x
