"""What every container reader returns: the arrays of one file, by name, and nothing that could run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np


class Module(NamedTuple):
    """A module as a file names it: ``cls`` is the full name of a class, ``options`` its plain attributes."""

    cls: str
    options: Mapping[str, object]


class TensorFile(NamedTuple):
    """The named arrays of one file.

    ``tensors`` keeps the file's order. ``aliases`` maps a name to an earlier name that shows the very same
    memory (tied weights, TorchScript's ``_flat_weights``): an alias of a used tensor counts as used.
    ``metadata`` is the file's own string-to-string notes, empty where the container has none.
    ``modules`` are those of a whole pickled module by their paths, its root under ``""``, in the order of their
    definition. ``shown`` is how messages name the file.
    """

    shown: str
    kind: str
    tensors: Mapping[str, np.ndarray]
    aliases: Mapping[str, str] = {}
    metadata: Mapping[str, str] = {}
    modules: Mapping[str, Module] = {}
