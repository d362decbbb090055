"""Reduced precision on somebody else's trained networks: the error against float64, and what it does to their work.

The files are no part of this repository: they are read from ``../shared/models`` beside the checkout.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import isa
import numpy as np
import pytest
from onnx_wire import initializers
from test_reduced import BENCH, REDUCED, accuracy, check_limits
from test_shared_models import MODELS, nsnet2_gru

import cgru

isa.require()

pytestmark = pytest.mark.skipif(
    not MODELS.is_dir(), reason="the published models are not here (../shared/models beside the checkout)"
)

NETWORKS = ("nsnet2, first GRU", "nsnet2, second GRU", "nsnet2, both in a row", "g2p_en, encoder")


@pytest.mark.parametrize("name", NETWORKS)
def test_trained_networks_err_as_little_as_promised(name: str) -> None:
    if not BENCH.is_dir():
        pytest.skip("bench/, which measures the error, is not beside the tests")
    works = {}
    for work in accuracy().trained_work(MODELS):
        works[work.name] = work
        if work.name.startswith("g2p_en"):
            break
    first, second = works["nsnet2, first GRU"], works["nsnet2, second GRU"]
    works["nsnet2, both in a row"] = type(first)("nsnet2, both in a row", [*first.layers, *second.layers], first.inputs)
    check_limits(works[name])


# ---- NSNet2: the gains it gives to each frequency ------------------------------------------------------------------


@cache
def nsnet2() -> tuple[cgru.Model, np.ndarray, np.ndarray]:
    """The whole network, 500 frames of speech in noise and the gains (1, 500, 161) that ONNX Runtime gave."""
    tensors = initializers(MODELS / "nsnet2" / "nsnet2.onnx")
    dense = [
        cgru.Dense(tensors[matrix].T, tensors[bias], activation=activation)
        for matrix, bias, activation in (
            ("172", "fi", "relu"),
            ("215", "fc_out_0_bias", "relu"),
            ("216", "fc_out_2_bias", "relu"),
            ("217", "fc_out_4_bias", "sigmoid"),
        )
    ]
    grus = [nsnet2_gru(tensors, "192", "193", "194"), nsnet2_gru(tensors, "212", "213", "214")]
    with np.load(MODELS / "nsnet2" / "nsnet2_ref.npz") as ref:
        return cgru.Model([dense[0], *grus, *dense[1:]], backend="packed"), ref["feat"], ref["gain"]


@pytest.mark.parametrize("precision", REDUCED)
def test_nsnet2_gains(precision: str) -> None:
    """All six layers reduced: gains between 0 and 1 stay within what a listener would not notice."""
    net, features, gain = nsnet2()
    error = net.quantize(precision)(features) - gain
    print(f"{precision}: gains err by {np.abs(error).max():.2e} at most, {np.sqrt(np.square(error).mean()):.2e} RMS")
    assert np.sqrt(np.square(error).mean()) <= {"int8": 1e-2, "int8x16": 5e-3, "bf16": 2e-3, "fp16": 2e-4}[precision]


# ---- g2p_en: letters to phonemes, the decoder fed with its own output ------------------------------------------------

LETTERS = ["<pad>", "<unk>", "</s>", *"abcdefghijklmnopqrstuvwxyz"]
_VOWELS = ["AA", "AE", "AH", "AO", "AW", "AY", "EH", "ER", "EY", "IH", "IY", "OW", "OY", "UH", "UW"]
_OTHERS = ["B", "CH", "D", "DH", "F", "G", "HH", "JH", "K", "L", "M", "N", "NG", "P", "R", "S", "SH", "T", "TH"]
_STRESSED = [vowel + stress for vowel in _VOWELS for stress in "012"]
#: The decoder's symbols, in the order of its table.
SYMBOLS = ["<pad>", "<unk>", "<s>", "</s>", *sorted([*_OTHERS, *_STRESSED, "UW", "V", "W", "Y", "Z", "ZH"])]

#: What is said otherwise. After "TH AH0 N OW1" float32 puts IH0 before K by 0.16 of a logit, and the rounding of the
#: int8 weights alone, in the encoder's and the decoder's GRU together, puts it 0.05 behind.
CHTHONIC = {"chthonic": "TH AH0 N OW1 K IH0 K"}
DIFFERENT = {"int8": CHTHONIC, "int8x16": CHTHONIC}


@cache
def g2p() -> tuple[cgru.Model, cgru.Model, dict[str, str]]:
    """Encoder and decoder, and the phonemes of each reference word."""
    with np.load(MODELS / "g2p_en" / "checkpoint20.npz") as held, np.load(MODELS / "g2p_en" / "g2p_ref.npz") as ref:
        encoder, decoder = (
            cgru.GRU.from_arrays(*(held[f"{part}_{key}"] for key in ("w_ih", "w_hh", "b_ih", "b_hh")))
            for part in ("enc", "dec")
        )
        words = dict(zip(ref["words"].tolist(), ref["phones"].tolist(), strict=True))
        return (
            cgru.Model([cgru.Embedding(held["enc_emb"]), encoder], backend="packed"),
            cgru.Model(
                [cgru.Embedding(held["dec_emb"]), decoder, cgru.Dense(held["fc_w"], held["fc_b"])], backend="packed"
            ),
            words,
        )


def spoken(encoder: cgru.Model, decoder: cgru.Model, word: str) -> str:
    """Greedy: the likeliest symbol goes back in, until the end is said or 20 have been."""
    _, state = encoder.run(np.array([LETTERS.index(letter) for letter in (*word, "</s>")]))
    state, symbol, said = decoder.state(state.arrays()), SYMBOLS.index("<s>"), []
    for _ in range(20):
        y, state = decoder.run(np.array([symbol]), state)
        symbol = int(y[0].argmax())
        if SYMBOLS[symbol] == "</s>":
            break
        said.append(SYMBOLS[symbol])
    return " ".join(said)


@pytest.mark.parametrize("precision", ["float32", *REDUCED])
def test_g2p_says_the_same(precision: str) -> None:
    """Every matrix and both tables reduced: the phonemes are those of float32, but for the one word named above."""
    encoder, decoder, words = g2p()
    assert len(words) == 20
    if precision != "float32":
        encoder, decoder = encoder.quantize(precision), decoder.quantize(precision)
        assert all(layer.precision == precision for net in (encoder, decoder) for layer in net.layers)
    said = {word: spoken(encoder, decoder, word) for word in words}
    different = {word: phonemes for word, phonemes in said.items() if phonemes != words[word]}
    print(f"{precision}: {20 - len(different)} of 20 words as in float32", different)
    assert different == DIFFERENT.get(precision, {})


@pytest.mark.parametrize("precision", ["float32", *REDUCED])
def test_g2p_in_one_call(precision: str) -> None:
    """All twenty words as one batch of a network with two entries, and each alone: the same phonemes, equal scores."""
    _, _, words = g2p()
    with np.load(MODELS / "g2p_en" / "checkpoint20.npz") as held:
        arrays = {name: held[name] for name in held.files}

    def gru(part: str) -> cgru.GRU:
        return cgru.GRU.from_arrays(*(arrays[f"{part}_{key}"] for key in ("w_ih", "w_hh", "b_ih", "b_hh")))

    e, d = cgru.Graph(), cgru.Graph()
    letters = e.input(name="letters", dtype="int64")
    h = e.layer(gru("enc"), e.layer(cgru.Embedding(arrays["enc_emb"]), letters))
    e.output(h0=e.last_state(h, size=256))
    symbol, h0 = d.input(name="symbol", dtype="int64"), d.input(256, name="h0", time=False)
    y = d.layer(gru("dec"), d.layer(cgru.Embedding(arrays["dec_emb"]), symbol), h0)
    d.output(d.layer(cgru.Dense(arrays["fc_w"], arrays["fc_b"]), y))
    net = cgru.Model({"encode": e, "decode": d})
    net = net if precision == "float32" else net.quantize(precision)
    spelled = [[LETTERS.index(letter) for letter in (*word, "</s>")] for word in words]
    lengths = [len(row) for row in spelled]
    batch = np.array([row + [0] * (max(lengths) - len(row)) for row in spelled])
    told: Any = {"start": SYMBOLS.index("<s>"), "stop": SYMBOLS.index("</s>"), "max_steps": 20}
    found = cgru.greedy(net, batch, lengths=lengths, **told)
    said = {word: " ".join(SYMBOLS[i] for i in row) for word, row in zip(words, found.tokens, strict=True)}
    different = {word: phonemes for word, phonemes in said.items() if phonemes != words[word]}
    assert different == DIFFERENT.get(precision, {})
    for row, tokens, score in zip(spelled, *found, strict=True):
        alone = cgru.greedy(net, np.array(row), **told)
        np.testing.assert_array_equal(alone.tokens, tokens)
        assert alone.scores == score
