"""Somebody else's trained networks, whole and as streams, against what they or their program gave: docs/networks.md.

The files are no part of this repository: they are read from ``../shared/models`` beside the checkout.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from shared_networks import MODELS, NETWORKS, PHONEMES, Example, arrays, made, rnnoise

import cgru

pytestmark = pytest.mark.skipif(
    not MODELS.is_dir(), reason="the published models are not here (../shared/models beside the checkout)"
)


def table() -> dict[str, dict[str, str]]:
    """The rows of the first table of docs/networks.md, by name."""
    text = (Path(__file__).parents[1] / "docs" / "networks.md").read_text(encoding="utf-8")
    lines = [line.strip("| ").split(" | ") for line in text.partition("\n## ")[0].splitlines() if line.startswith("|")]
    return {row[0]: dict(zip(lines[0], row, strict=True)) for row in lines[2:]}


def test_the_documented_networks_are_these() -> None:
    assert list(table()) == [*NETWORKS, "g2p_en"]


@pytest.mark.parametrize("name", NETWORKS)
def test_whole_and_streamed_as_documented(name: str) -> None:
    make, opens = NETWORKS[name]
    net, x, outputs = make()
    row = table()[name]
    assert row["opens from its file"].startswith("yes" if opens else "no")
    stated = re.match(r"([\d.e−]+)( of the largest)?", row["largest error"])
    assert stated
    most = float(stated[1].replace("−", "-"))
    whole = made(net, x)
    for y, want in zip(whole, outputs, strict=True):
        error = float(np.abs(y - want).max()) / (float(np.abs(want).max()) if stated[2] else 1)
        print(f"{name}: {error:.1e}")
        assert error <= most
    assert row["streams"] == "yes"
    stream, some = net.stream(), x[:40]
    assert stream.delay == 0
    found = [stream.feed(some[cut]) for cut in (slice(0, 1), slice(1, 2), slice(2, None))]
    parts = [list(part.values()) if isinstance(part, dict) else [part] for part in found]
    # A network with an operation that the core lacks runs on the reference, which promises a tolerance.
    most = 0 if set(net.backends) == {"packed"} else 1e-6
    for y, chunks in zip(made(net, some), zip(*parts, strict=True), strict=True):
        np.testing.assert_allclose(np.concatenate(chunks), y, rtol=0, atol=most)


def test_what_does_not_open_says_what_it_found() -> None:
    for path in ("rnnoise17/rnnoise17_ref.npz", "g2p_en/checkpoint20.npz"):
        with pytest.raises(cgru.UnsupportedError, match="nothing uses"):
            cgru.load(MODELS / path)


def test_g2p_spells_twenty_words() -> None:
    """Letters through an encoder, whose last state begins a decoder that is fed what it chose, a phoneme a step."""
    tensors, known = arrays("g2p_en/checkpoint20.npz"), arrays("g2p_en/g2p_ref.npz")

    def gru(part: str) -> cgru.GRU:
        held = [tensors[f"{part}_{key}"] for key in ("w_ih", "w_hh", "b_ih", "b_hh")]
        return cgru.GRU.from_arrays(*held, name="gru")

    head = cgru.Dense(tensors["fc_w"], tensors["fc_b"])
    encoder = cgru.Model([cgru.Embedding(tensors["enc_emb"]), gru("enc")])
    decoder = cgru.Model([cgru.Embedding(tensors["dec_emb"]), gru("dec"), head])
    letters = ["<pad>", "<unk>", "</s>", *"abcdefghijklmnopqrstuvwxyz"]
    for word, phones in zip(known["words"].tolist(), known["phones"].tolist(), strict=True):
        _, state = encoder.run(np.array([*map(letters.index, word), letters.index("</s>")]))
        stream, token, said = decoder.stream(1, state.arrays()), PHONEMES.index("<s>"), []
        for _ in range(20):
            token = int(stream.step(np.array([token])).argmax())
            if PHONEMES[token] == "</s>":
                break
            said.append(PHONEMES[token])
        assert " ".join(said) == phones


def test_rnnoise_on_the_reference() -> None:
    net, x, outputs = rnnoise("reference")
    assert set(net.backends) == {"reference"}
    for y, want in zip(made(net, x[:300]), outputs, strict=True):
        np.testing.assert_allclose(y, want[:300], rtol=0, atol=5e-5)


@pytest.fixture(scope="module")
def noise() -> Example:
    return rnnoise()


@pytest.mark.parametrize(("precision", "most"), [("int8", 0.05), ("int8x16", 0.05), ("bf16", 0.02), ("fp16", 2e-3)])
def test_rnnoise_in_fewer_bits(noise: Example, precision: str, most: float) -> None:
    """Its weights are whole numbers of 8 bits to begin with."""
    for want, y in zip(made(noise.net, noise.x), made(noise.net.quantize(precision), noise.x), strict=True):
        error = np.sqrt(np.mean((y - want) ** 2) / np.mean(want**2))
        assert error < most
