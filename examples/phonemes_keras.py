"""How English words are said, from their letters: Keras' textbook pair of GRUs, searched by cgru from its file.

    python examples/phonemes_keras.py recurrent spectrogram      # by phonemes.keras, of train_phonemes_keras.py
    KERAS_BACKEND=torch python examples/phonemes_keras.py --test 500     # error rates, beside Keras' own decoding

phonemes.keras holds the model as it was trained, Model([letters, spoken], scores), whose encoder's last state is the
decoder's initial_state. The words of `--test` are of the part of the dictionary that training never saw.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from phonemes import LETTERS, MOST, PHONEMES, START, STOP, distance, spelled

import cgru

WEIGHTS = Path(__file__).with_name("phonemes.keras")


def network(path: str | Path = WEIGHTS) -> cgru.Model:
    """The entries "encode" and "decode" of the model in the file."""
    return cgru.load(path).encoder_decoder()


def backwards(words: list[str]) -> np.ndarray:
    """Letters (B, S), the last first, so that the decoder begins where the encoder ended (Sutskever et al. 2014)."""
    return spelled([word[::-1] for word in words])[0].astype(np.int32)


def by_keras(model: Any, letters: np.ndarray) -> tuple[list[list[int]], np.ndarray]:
    """Greedy decoding with the layers of the Keras model: each word's phonemes, and by how much each choice won."""
    _, state = model.get_layer("encoder")(model.get_layer("letters_table")(letters),
                                          mask=model.get_layer("letters_table").compute_mask(letters))
    token = np.full(len(letters), START)
    chosen, margins = [], []
    for _ in range(MOST):
        y = model.get_layer("decoder")(model.get_layer("phonemes_table")(token[:, None]), initial_state=state)
        state = y[:, 0]
        scores = model.get_layer("scores")(y)[:, 0].detach().cpu().numpy()
        token = scores.argmax(axis=1)
        best = np.partition(scores, -2, axis=1)
        chosen.append(token)
        margins.append(best[:, -1] - best[:, -2])
    words = [[int(t) for t in row[: row.index(STOP) if STOP in row else MOST]] for row in np.stack(chosen, 1).tolist()]
    return words, np.stack(margins, axis=1)


def compare(net: cgru.Model, model: Any, known: Mapping[str, list[int]]) -> None:
    """Phoneme error rates, and that cgru finds what Keras finds, but where two choices tie within 1e-5."""
    words = list(known)
    letters = backwards(words)
    peers, margins = by_keras(model, letters)
    found = {width: cgru.beam(net, letters, start=START, stop=STOP, max_steps=MOST, width=width).tokens
             for width in (1, 5)}
    ties = 0
    for word, got, peer, margin in zip(words, found[1], peers, margins, strict=True):
        if got.tolist() != peer:
            if margin[: len(peer) + 1].min() > 1e-5:
                raise SystemExit(f"{word}: another result than Keras': {got.tolist()} and {peer}")
            ties += 1
    phonemes = sum(map(len, known.values()))
    for name, rows in (("greedy, by cgru", found[1]), ("greedy, by Keras", peers), ("beam of 5, by cgru", found[5])):
        wrong = sum(distance(list(row), known[word]) for row, word in zip(rows, words, strict=True))
        print(f"{name}: phoneme error rate {100 * wrong / phonemes:.2f} %")
    print(f"{ties} of {len(words)} words differ between Keras and cgru (ties)")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("words", nargs="*")
    parser.add_argument("--weights", default=str(WEIGHTS))
    parser.add_argument("--test", type=int, default=0, metavar="N", help="N words of the test part, beside Keras")
    options = parser.parse_args()
    net = network(options.weights)
    words = [word.lower() for word in options.words]
    for word in words:
        if not set(word) <= set(LETTERS):
            parser.error(f"{word}: expected letters a to z and apostrophes")
    if words:
        found = cgru.beam(net, backwards(words), start=START, stop=STOP, max_steps=MOST, width=5)
        for word, tokens in zip(words, found.tokens, strict=True):
            print(word, " ".join(PHONEMES[i - 2] for i in tokens))
    if options.test:
        os.environ.setdefault("KERAS_BACKEND", "torch")
        import keras
        from train_phonemes import dictionary, is_test

        known = {word: [PHONEMES.index(p) + 2 for p in phones]
                 for word, phones in dictionary().items() if is_test(word)}
        compare(net, keras.saving.load_model(options.weights), dict(list(known.items())[: options.test]))


if __name__ == "__main__":
    main()
