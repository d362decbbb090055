"""Keras files: the ``.keras`` zip, the legacy ``.h5`` of a whole model, and ``.weights.h5``.

A ``.keras`` file is a zip of ``metadata.json``, ``config.json`` and ``model.weights.h5`` (or ``.npz``). A legacy
file keeps the configuration in the root attribute ``model_config`` and the weights under ``model_weights``. Both
are data here: classes are looked up in cgru's own table (:mod:`.keras_layers`), never imported, and nothing
that a file names is executed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ...builder import Graph
from ...errors import ArgumentTypeError, CgruError, FormatError, UnsupportedError
from ...layers import Layer
from ..containers import hdf5, json_text, npz
from ..containers.file_bytes import Source, is_source, open_bytes
from ..containers.file_bytes import shown as shown_name
from ..containers.tensorfile import TensorFile
from ..containers.zip_members import ZipMembers
from .keras_layers import from_config
from .keras_weights import GroupedWeights, PathWeights, Weights
from .naming import error_prefix

#: A configuration's bytes, and what its values may take once parsed: an object in JSON's three letters has 64 bytes.
MAX_CONFIG = 8 << 20
MAX_CONFIG_VALUES = 64 << 20
#: The weights in a zip inflate to this at most, whatever the zip's own bound: trained ones hardly compress.
MAX_WEIGHTS_FLOOR, MAX_WEIGHTS_RATIO = 64 << 20, 32
_METADATA, _CONFIG, _H5, _NPZ = "metadata.json", "config.json", "model.weights.h5", "model.weights.npz"


@dataclass(frozen=True)
class _KerasFile:
    """The parts of a file, not yet made sense of; ``config`` is JSON text, None in a file of weights alone."""

    shown: str
    kind: str
    contents: hdf5.Contents
    config: str | None
    version: str
    metadata: Mapping[str, str] = field(default_factory=dict)


def read(source: Source) -> TensorFile:
    """Every array of a Keras file by its path in the file, optimizer state included.

    ``metadata`` holds ``keras_version`` and ``config`` (JSON text) where the file has them. Raises
    :class:`FormatError` for a damaged or hostile file, :class:`UnsupportedError` for an array that is no numbers.
    """
    file = _open(source)
    for error in file.contents.unread.values():
        raise error
    notes = {"keras_version": file.version} if file.version else {}
    if file.config is not None:
        notes["config"] = file.config
    return TensorFile(file.shown, file.kind, file.contents.tensors, file.contents.aliases, notes)


def load(source: Source, *, config: Any = None) -> list[Layer] | Graph:
    """The model in a ``.keras`` or legacy ``.h5`` file: its layers where it is a chain of them, else a graph.

    Raises :class:`FormatError` where the file is damaged, or its weights do not fit its configuration or are
    not all used, and :class:`UnsupportedError` for a layer or option that cgru does not run, by its name.
    """
    file = _open(source)
    if file.config is None and config is None:
        raise UnsupportedError(
            f"{file.shown}: holds weights without a configuration, so the layers are not known; pass what "
            "model.to_json() gives as config=, save the model as .keras, or build the layers from cgru.read(...) with "
            "GRU.from_keras and its kin"
        )
    if file.config is not None and config is not None:
        raise CgruError(f"config: {file.shown} has a configuration of its own; leave config= away")
    if file.config is not None:
        said, version = _json(file.config, f"{file.shown}: the model's configuration"), file.version
    else:
        said, version = _given(config)
    weights: Weights
    names = hdf5.names_of(file.contents, "")
    if file.kind == "keras" or (file.config is None and file.contents.listed("", "layer_names") is None):
        for error in file.contents.unread.values():
            raise error
        weights = PathWeights(file.contents.tensors, names, file.contents.aliases)
    else:
        weights = GroupedWeights(_groups(file, "model_weights" if file.config is not None else ""))
    with error_prefix(file.shown, from_file=True):
        return from_config(said, weights, version)


def _given(config: Any) -> tuple[Any, str]:
    """The configuration a caller passes, parsed, and the version of Keras that wrote it.

    It is an object, its JSON text, or a file that holds the text: its path, its bytes, or open for reading.
    """
    where = "config"
    if not isinstance(config, Mapping):
        if isinstance(config, str) and config.lstrip()[:1] == "{":
            text = config
        elif is_source(config):
            where, data = shown_name(config), open_bytes(config)
            if len(data) > MAX_CONFIG:
                raise FormatError(f"{where} has {len(data)} bytes, more than the {MAX_CONFIG} that can be right")
            try:
                text = bytes(data).decode()
            except UnicodeDecodeError:
                raise FormatError(f"{where} is not UTF-8 text, expected the JSON of model.to_json()") from None
        else:
            raise ArgumentTypeError(
                f"config: expected what model.to_json() gives, or the path of a file with it; "
                f"found {type(config).__name__}"
            )
        config = _json(text, where)
    if not isinstance(config, Mapping):
        raise FormatError(f"{where}: expected the object of model.to_json(), found {str(config)[:60]}")
    version = config.get("keras_version", "3.0" if "registered_name" in config else "")
    if not isinstance(version, str):
        raise FormatError(f"{where}: keras_version is {str(version)[:60]}")
    return dict(config), version


def _open(source: Source) -> _KerasFile:
    shown, data = shown_name(source), open_bytes(source)
    if bytes(data[:2]) == b"PK":
        return _open_zip(source, shown)
    contents = hdf5.read(data, shown)
    config = contents.text("", "model_config")
    version = contents.text("", "keras_version") or contents.text("model_weights", "keras_version") or ""
    return _KerasFile(shown, "h5", contents, config, version)


def _open_zip(source: Source, shown: str) -> _KerasFile:
    members = ZipMembers(source)
    left = set(members.names) - {_METADATA, _CONFIG, _H5, _NPZ}
    if left:
        name = min(left)
        what = "sharded weights" if name.endswith(".json") else "a part that cgru does not use"
        raise UnsupportedError(f"{shown}: holds {name!r}, {what}; a .keras file has {_METADATA}, {_CONFIG} and {_H5}")
    metadata = _json(_text(members, _METADATA), f"{shown}: {_METADATA}")
    version = metadata.get("keras_version") if isinstance(metadata, dict) else None
    if not isinstance(version, str):
        raise FormatError(f"{shown}: {_METADATA} does not give a keras_version")
    config = _text(members, _CONFIG)
    if (_H5 in members) == (_NPZ in members):
        raise FormatError(f"{shown}: expected either {_H5} or {_NPZ} inside")
    if _NPZ in members:
        arrays = npz.read(bytes(members.read(_NPZ))).tensors
        contents = hdf5.Contents({name.replace("\\", "/"): array for name, array in arrays.items()})
    else:
        limit = max(MAX_WEIGHTS_FLOOR, MAX_WEIGHTS_RATIO * members.file_size)
        contents = hdf5.read(members.read(_H5, limit), f"{shown}: {_H5}", members.file_size)
    return _KerasFile(shown, "keras", contents, config, version)


def _text(members: ZipMembers, name: str) -> str:
    try:
        return bytes(members.read(name, MAX_CONFIG)).decode()
    except UnicodeDecodeError:
        raise FormatError(f"{members.shown}: {name} is not UTF-8 text") from None


def _json(text: str, where: str) -> Any:
    if len(text) > MAX_CONFIG:
        raise FormatError(f"{where} has {len(text)} letters, more than the {MAX_CONFIG} that can be right")
    return json_text.parsed(text, where, values=MAX_CONFIG_VALUES)


def _groups(file: _KerasFile, top: str) -> dict[str, list[tuple[str, np.ndarray]]]:
    """A legacy file's weights by layer, each list in the order of ``weight_names``.

    Every array under ``model_weights`` must be named there; what lies beside it is somebody else's.
    """
    contents, shown, below = file.contents, file.shown, f"{top}/" if top else ""
    layers = contents.listed(top, "layer_names")
    if layers is None:
        raise FormatError(f"{shown}: the group {top!r} with its attribute 'layer_names' is missing")
    groups: dict[str, list[tuple[str, np.ndarray]]] = {}
    used: set[str] = set()
    for layer in [*layers, "top_level_model_weights"]:
        names = contents.listed(f"{below}{layer}", "weight_names")
        if names is None:
            if layer == "top_level_model_weights":
                continue
            raise FormatError(f"{shown}: layer {layer!r} has no attribute 'weight_names'")
        if layer in groups:
            raise FormatError(f"{shown}: 'layer_names' names {layer!r} twice")
        groups[layer] = []
        for name in names:
            path = f"{below}{layer}/{name}"
            if path in contents.unread:
                raise contents.unread[path]
            # Two names of one array would let a small file grow with every layer.
            first = contents.aliases.get(path, path)
            if path not in contents.tensors or first in used:
                raise FormatError(
                    f"{shown}: layer {layer!r} names the weight {name!r}, which is missing or named twice"
                )
            used.add(first)
            groups[layer].append((name, contents.tensors[path]))
    for path in [*contents.tensors, *contents.unread]:
        if path.startswith(below) and contents.aliases.get(path, path) not in used:
            raise FormatError(f"{shown}: nothing names the array {path!r}")
    return groups
