"""English words and their main stress: letters to token ids, and the list of test words."""

from __future__ import annotations

import csv
import os
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

LONGEST = 16
CLASSES = ("first", "second", "third", "fourth")
"""The syllable, from the front, that carries the main stress."""


class Words(NamedTuple):
    """N words, the syllable class each has in the dictionary, and the one Keras gave it after training."""

    spelling: list[str]
    stress: NDArray[np.int64]
    keras: NDArray[np.int64]


def encode(spelling: Sequence[str]) -> NDArray[np.int64]:
    """(N, 16) token ids: a = 1 … z = 26, and 0 after the end of the word."""
    ids = np.zeros((len(spelling), LONGEST), np.int64)
    for row, word in zip(ids, spelling, strict=True):
        row[: len(word)] = np.frombuffer(word.encode("ascii"), np.uint8) - (ord("a") - 1)
    return ids


def read(path: str | os.PathLike[str]) -> Words:
    """The test list: ``word,stress,keras``, syllables counted from 1."""
    with open(path, newline="", encoding="ascii") as file:
        rows = list(csv.DictReader(file))
    stress, keras = (np.array([int(row[column]) - 1 for row in rows]) for column in ("stress", "keras"))
    return Words([row["word"] for row in rows], stress, keras)
