"""Trains tests/fixtures/trained/tagger.keras: a Keras network that tells the language of a line of text.

    pip download --no-deps Django==5.2.8
    KERAS_BACKEND=torch python tests/make_fixtures/trained_tagger.py django-5.2.8-py3-none-any.whl    # three minutes

A second argument ``--golden`` makes only what the network gives of some lines.

The text is that of Django's messages in twenty-two languages, in the .po files that its wheel carries (BSD 3-clause,
tests/fixtures/trained/SOURCES.md). A message stays on one side of the split in every language. Seeds are fixed.
"""

from __future__ import annotations

import re
import sys
import zipfile
import zlib
from pathlib import Path
from typing import Any

import keras
import numpy as np

FOLDER = Path(__file__).resolve().parent.parent / "fixtures" / "trained"

LANGUAGES = [
    "cs", "da", "de", "en", "es", "et", "fi", "fr", "hr", "hu", "it", "lt", "lv", "nb", "nl", "pl", "pt", "ro", "sk",
    "sl", "sv", "tr",
]  # fmt: skip
#: A character is its place in this row plus 2; 1 is any other, 0 is after the end.
LETTERS = " abcdefghijklmnopqrstuvwxyzáàâăäãåąæçćčďđéèêěëęēėģğíìîïīįıķłļľĺńňñņóòôöõőøřŕśšșşťțţúùûüůűūųýžźż.,:;'’\"()-"
STEPS, BATCH, EPOCHS = 48, 256, 24
MESSAGE = re.compile(r'^msgid ((?:".*"\n)+)msgstr ((?:".*"\n)+)', re.MULTILINE)


def messages(wheel: Path, language: str) -> dict[str, str]:
    """English message → translation, of every catalogue of Django in that language; markup and fields left out."""
    found = {}
    with zipfile.ZipFile(wheel) as file:
        for name in sorted(file.namelist()):
            if f"/locale/{language}/" not in name or not name.endswith("django.po"):
                continue
            for pair in MESSAGE.findall(file.read(name).decode()):
                source, made = ("".join(re.findall(r'"(.*)"\n', part)) for part in pair)
                made = source if language == "en" else made
                made = re.sub(r"%\(\w+\)[sd]|%[sd]|\{\w+\}|<[^>]*>|\\[nt]|\\", " ", made)
                if len(made := " ".join(made.split())) >= 12:
                    found[source] = made
    return found


def ids(lines: list[str], steps: int = STEPS) -> np.ndarray:
    """(B, T): a line in lower case, cut or filled with 0 to T characters."""
    made = np.zeros((len(lines), steps), np.int32)
    for row, line in enumerate(lines):
        numbers = [LETTERS.find(letter) + 2 for letter in line.lower()[:steps]]
        made[row, : len(numbers)] = numbers
    return made


def tagger(dtype: str = "float32") -> Any:
    """Characters (B, T) → probabilities of the languages (B, 22)."""
    layers = keras.layers
    x = given = keras.Input((None,), dtype="int32", name="characters")
    for layer in (
        layers.Embedding(len(LETTERS) + 2, 16, dtype=dtype),
        layers.Conv1D(48, 5, padding="same", activation="relu", dtype=dtype),
        layers.MaxPooling1D(2, dtype=dtype),
        layers.Bidirectional(layers.GRU(32, return_sequences=True, dtype=dtype), dtype=dtype),
        layers.GlobalMaxPooling1D(dtype=dtype),
        layers.Dropout(0.3, dtype=dtype),
        layers.Dense(len(LANGUAGES), activation="softmax", dtype=dtype),
    ):
        x = layer(x)
    return keras.Model(given, x, name="tagger")


def corpus(wheel: Path) -> tuple[list[tuple[str, int]], list[tuple[str, int]]]:
    """Lines with their language, for training and for the test."""
    lines: dict[bool, list[tuple[str, int]]] = {False: [], True: []}
    for label, language in enumerate(LANGUAGES):
        for source, made in messages(wheel, language).items():
            lines[zlib.crc32(source.encode()) % 5 == 0].append((made, label))
    return lines[False], lines[True]


def train(wheel: Path) -> None:
    keras.utils.set_random_seed(22)
    known, unseen = ((ids([line for line, _ in one]), np.array([label for _, label in one])) for one in corpus(wheel))
    net = tagger()
    updates = EPOCHS * -(-len(known[0]) // BATCH)
    rate = keras.optimizers.schedules.CosineDecay(1e-2, updates)
    net.compile(keras.optimizers.Adam(rate), "sparse_categorical_crossentropy", metrics=["accuracy"])
    net.fit(*known, batch_size=BATCH, epochs=EPOCHS, verbose=2)
    print(f"of {len(unseen[0])} lines unseen, right: {100 * net.evaluate(*unseen, BATCH, verbose=0)[1]:.1f} %")
    rebuilt(net, "float32").save(FOLDER / "tagger.keras")


def golden(wheel: Path) -> None:
    """A dozen lines of the test and what the network gives of them, in float32 and in float64."""
    net = keras.saving.load_model(FOLDER / "tagger.keras")
    unseen = [one for one in corpus(wheel)[1] if len(one[0]) >= STEPS]
    some = unseen[:: len(unseen) // 12][:12]
    characters = ids([line for line, _ in some])
    made, exact = (keras.ops.convert_to_numpy(one(characters)) for one in (net, rebuilt(net, "float64")))
    right = [label for _, label in some]
    np.savez_compressed(FOLDER / "tagger.npz", characters=characters, made=made, exact=exact, right=right)


def rebuilt(net: Any, dtype: str) -> Any:
    """The same network without what training left beside it."""
    other = tagger(dtype)
    other.set_weights([weight.astype(dtype) for weight in net.get_weights()])
    return other


if __name__ == "__main__":
    if "--golden" not in sys.argv:
        train(Path(sys.argv[1]))
    golden(Path(sys.argv[1]))
