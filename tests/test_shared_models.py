"""Somebody else's trained networks, with reference outputs they or ONNX Runtime computed.

The files are no part of this repository: they are read from ``../shared/models`` beside the checkout.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx_wire import initializers

import cgru

MODELS = Path(__file__).resolve().parents[2] / "shared" / "models"
TOLERANCE = 5e-6

pytestmark = pytest.mark.skipif(
    not MODELS.is_dir(), reason="the published models are not here (../shared/models beside the checkout)"
)


def test_g2p_encoder(backend: str) -> None:
    """g2p_en: letters, then </s>, through an embedding and a GRU; the state after each of 20 words."""
    with np.load(MODELS / "g2p_en" / "checkpoint20.npz") as weights, np.load(MODELS / "g2p_en" / "g2p_ref.npz") as ref:
        table, arrays = weights["enc_emb"], [weights[f"enc_{key}"] for key in ("w_ih", "w_hh", "b_ih", "b_hh")]
        words, want = ref["words"].tolist(), ref["enc_last"]
    letters = ["<pad>", "<unk>", "</s>", *"abcdefghijklmnopqrstuvwxyz"]
    spelled = [[letters.index(letter) for letter in word] + [letters.index("</s>")] for word in words]
    lengths = [len(ids) for ids in spelled]
    ids = np.zeros((len(words), max(lengths)), np.int64)
    for row, numbers in zip(ids, spelled, strict=True):
        row[: len(numbers)] = numbers
    net = cgru.Model([cgru.Embedding(table), cgru.GRU.from_arrays(*arrays)], backend=backend)
    assert len(words) == 20
    _, state = net.run(ids, lengths=lengths)
    np.testing.assert_allclose(state.arrays()["gru.h"][0], want, rtol=0, atol=TOLERANCE)
    # The reference takes every word the same way, slowly; the core packs a single word as it does no batch.
    for word, last in list(zip(spelled, want, strict=True))[: 4 if backend == "reference" else None]:
        _, state = net.run(np.array(word))
        np.testing.assert_allclose(state.arrays()["gru.h"][0, 0], last, rtol=0, atol=TOLERANCE)


def nsnet2_gru(tensors: dict[str, np.ndarray], w: str, r: str, b: str) -> cgru.GRU:
    """ONNX stacks z, r, h, puts directions first and both biases in one row; linear_before_reset=1 is reset after."""
    both = np.split(tensors[b][0], 2)
    return cgru.GRU.from_arrays(tensors[w][0], tensors[r][0], *both, gates="zrh", reset="after")


def test_nsnet2_both_grus(backend: str) -> None:
    """NSNet2's two GRUs of 400 on 500 frames of speech in noise, on the slow reference 100: each, and both in a row."""
    tensors = initializers(MODELS / "nsnet2" / "nsnet2.onnx")
    first = nsnet2_gru(tensors, "192", "193", "194")
    second = nsnet2_gru(tensors, "212", "213", "214")
    with np.load(MODELS / "nsnet2" / "nsnet2_ref.npz") as ref:
        frames = slice(100 if backend == "reference" else 500)
        x, y1, y2 = ref["gru1_x"][frames, 0], ref["gru1_y"][frames, 0, 0], ref["gru2_y"][frames, 0, 0]
    np.testing.assert_allclose(first(x, backend=backend)[0], y1, rtol=0, atol=TOLERANCE)
    np.testing.assert_allclose(second(y1, backend=backend)[0], y2, rtol=0, atol=TOLERANCE)
    both = cgru.Model([first, second], backend=backend)
    np.testing.assert_allclose(both(x), y2, rtol=0, atol=TOLERANCE)


def test_nsnet2_whole(backend: str) -> None:
    """From log-power features to the gain of every frequency: Dense, two GRUs, three Dense."""
    tensors = initializers(MODELS / "nsnet2" / "nsnet2.onnx")

    def dense(matrix: str, bias: str, activation: str) -> cgru.Dense:
        return cgru.Dense(tensors[matrix].T, tensors[bias], activation=activation)

    net = cgru.Model(
        [
            dense("172", "fi", "relu"),
            nsnet2_gru(tensors, "192", "193", "194"),
            nsnet2_gru(tensors, "212", "213", "214"),
            dense("215", "fc_out_0_bias", "relu"),
            dense("216", "fc_out_2_bias", "relu"),
            dense("217", "fc_out_4_bias", "sigmoid"),
        ],
        backend=backend,
    )
    with np.load(MODELS / "nsnet2" / "nsnet2_ref.npz") as ref:
        frames = slice(100 if backend == "reference" else 500)
        feat, gain = ref["feat"][:, frames], ref["gain"][:, frames]
    np.testing.assert_allclose(net(feat), gain, rtol=0, atol=TOLERANCE)
