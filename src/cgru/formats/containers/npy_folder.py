"""A folder of ``.npy`` files, one array each: ``numpy.save`` in a loop. No other file in it is opened."""

from __future__ import annotations

import os

from ...errors import FormatError
from . import npz
from .file_bytes import opened
from .tensorfile import TensorFile

MAX_FILES = 10_000


def read(path: str | os.PathLike[str]) -> TensorFile:
    """The arrays of a folder by the names of their files, in the order of the names.

    Raises ``OSError`` where a file cannot be read and :class:`FormatError` where one is damaged or hostile.
    """
    shown = os.fsdecode(path)
    names = sorted(name for name in os.listdir(path) if name.endswith(".npy") and not name.startswith("."))
    if len(names) > MAX_FILES:
        raise FormatError(f"{shown}: holds {len(names):,} .npy files, more than the {MAX_FILES:,} that are read")
    tensors = {}
    for name in names:
        file = opened(os.path.join(shown, name))
        tensors[name.removesuffix(".npy")] = npz.array(file.data, f"{shown}: array {name!r}")
    return TensorFile(shown, "npy folder", tensors)
