"""The native form: a safetensors file whose metadata says what the tensors are (docs/format.md).

Version 1 (:mod:`.native_chain`) holds layers in a row, version 2 (:mod:`.native_graph`) a graph or several; a network
is written in the first that can hold it. Reading is strict. Every layer, option and tensor of the file must be one this
version knows, and every tensor must be used: what a file says is never left out in silence.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from ...arrays import brief
from ...builder import Graph
from ...errors import CgruError, FormatError, MissingFileError, UnsupportedError
from ..containers import safetensors
from ..containers.file_bytes import Source
from . import native_chain, native_graph
from .naming import error_prefix

if TYPE_CHECKING:
    from ...engine.model import Model
    from ...layers import Layer

FORMAT = "cgru"
EXTENSION = ".safetensors"


def is_native(metadata: Mapping[str, str]) -> bool:
    """Whether a safetensors file with this metadata is one of cgru's own."""
    return metadata.get("format") == FORMAT


def save(model: Model, path: str | os.PathLike[str]) -> None:
    """Write ``model`` to ``path``: complete, or not at all. :func:`load` gives back equal bits."""
    target = _target(path)
    tensors, metadata, dtypes = _contents(model)
    try:
        safetensors.write(target, tensors, metadata, dtypes=dtypes)
    except FileNotFoundError as error:
        raise MissingFileError(f"{target}: cannot be written: {error.strerror}") from None
    except OSError as error:
        raise CgruError(f"{target}: cannot be written: {error.strerror or error}") from None


def to_bytes(model: Model) -> bytes:
    """What :func:`save` writes, which :func:`load` takes as well as a path."""
    tensors, metadata, dtypes = _contents(model)
    return b"".join(safetensors.pieces(tensors, metadata, dtypes=dtypes))


def _contents(model: Model) -> tuple[dict[str, np.ndarray], dict[str, str], dict[str, str]]:
    """The tensors, the metadata, and what the reduced ones are called."""
    entries = getattr(model, "entries", None) or {native_graph.MAIN: model}
    if model.is_chain:
        version, (tensors, spec, dtypes) = native_chain.VERSION, native_chain.contents(model.layers)
    else:
        graphs = {name: entry.graph for name, entry in entries.items()}
        version, (tensors, spec, dtypes) = native_graph.VERSION, native_graph.contents(graphs, model.store)
    return tensors, {"format": FORMAT, "version": version, "spec": spec}, dtypes


def _target(path: object) -> str:
    """``path`` as text; its name says what is written there."""
    try:
        target = os.fspath(path) if isinstance(path, (str, os.PathLike)) else None
    except Exception:
        target = None
    if not isinstance(target, str) or not target or "\0" in target:
        raise CgruError(f"path: expected the path of a file to write, found {brief(path)}")
    if not target.endswith(EXTENSION):
        stem = os.path.splitext(target)[0]
        raise UnsupportedError(
            f"{target}: networks are written as safetensors, whatever the name says; name the file {stem + EXTENSION}"
        )
    return target


def load(source: Source) -> list[Layer] | Graph | dict[str, Graph]:
    """What a native file holds: layers in the order data passes them, a graph, or several by the name of their entry.

    Raises :class:`FormatError` where the specification or a tensor is missing, left over, unknown or of the
    wrong shape, and :class:`~cgru.errors.UnsupportedError` where it names an activation cgru does not run.
    """
    file, dtypes = safetensors.read_as_held(source)
    with error_prefix(file.shown, from_file=True):
        version = file.metadata.get("version")
        for reader in (native_chain, native_graph):
            if version == reader.VERSION:
                if "spec" not in file.metadata:
                    raise FormatError("the metadata lacks 'spec', the specification of the network")
                made: list[Layer] | Graph | dict[str, Graph] = reader.load(file, dtypes)
                return made
        known = " and ".join(repr(reader.VERSION) for reader in (native_chain, native_graph))
        raise FormatError(f"native form of version {version!r}; this cgru reads {known}; a newer one may read it")
