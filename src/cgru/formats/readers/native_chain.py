"""Version 1 of the native form: layers in the order data passes them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ...arrays import Float32
from ...errors import FormatError
from ...layers import LAYERS, Layer
from ...spec.precision import PRECISIONS, Stored, is_matrix
from ..containers.messages import some
from ..containers.tensorfile import TensorFile
from .native_parts import SCALE, parse, plain_number, put, take

VERSION = "1"

_LAYER_KEYS = {"kind", "name", "options"}


def contents(layers: Sequence[Layer]) -> tuple[dict[str, np.ndarray], str, dict[str, str]]:
    """The tensors, the specification, and what the reduced tensors are called."""
    tensors: dict[str, np.ndarray] = {}
    dtypes: dict[str, str] = {}
    for layer in layers:
        for key, held in layer.stored().items():
            put(tensors, dtypes, f"{layer.name}.{key}", held, layer.precision)
    return tensors, json.dumps({"layers": [_entry(layer) for layer in layers]}, default=plain_number), dtypes


def load(file: TensorFile, dtypes: Mapping[str, str]) -> list[Layer]:
    """The layers of a file of version 1."""
    entries = _specification(file.metadata)
    arrays = _arrays_by_layer(file, dtypes, {entry["name"]: entry for entry in entries})
    return [_layer(entry, arrays[entry["name"]]) for entry in entries]


def _entry(layer: Layer) -> dict[str, Any]:
    entry = {"kind": layer.kind, "name": layer.name, "options": layer.options()}
    return entry if layer.precision == "float32" else entry | {"precision": layer.precision}


def _specification(metadata: Mapping[str, str]) -> list[dict[str, Any]]:
    """The layers' entries, each with a kind, a name of its own and options that are plain JSON values."""
    spec = parse(metadata["spec"])
    if not isinstance(spec, dict) or spec.keys() != {"layers"} or not isinstance(spec["layers"], list):
        raise FormatError("the specification must be an object with exactly one key, 'layers', a list")
    if not spec["layers"]:
        raise FormatError("the specification has no layers")
    names: set[str] = set()
    for position, entry in enumerate(spec["layers"]):
        where = f"layer {position} of the specification"
        if not isinstance(entry, dict) or entry.keys() - {"precision"} != _LAYER_KEYS:
            raise FormatError(f"{where}: expected exactly kind, name and options, and precision where it is reduced")
        kind, name, options = entry["kind"], entry["name"], entry["options"]
        if not isinstance(name, str) or not name or not isinstance(options, dict):
            raise FormatError(f"{where}: name must be a text that is not empty, and options an object")
        if not isinstance(kind, str) or kind not in LAYERS:
            known = ", ".join(LAYERS)
            raise FormatError(f"{where}: {name[:80]!r} is of kind {str(kind)[:40]!r}; known are {known}")
        precision = entry.get("precision", "float32")
        if precision not in PRECISIONS:
            known = ", ".join(PRECISIONS)
            raise FormatError(f"{where}: {name[:80]!r} has precision {str(precision)[:40]!r}; known are {known}")
        for key, value in options.items():
            if not isinstance(value, (str, int, float, type(None))):
                raise FormatError(f"{where}: option {key[:40]!r} of {name[:80]!r} is no plain value")
        if name in names:
            raise FormatError(f"{where}: a second layer is named {name[:80]!r}")
        names.add(name)
    return spec["layers"]


def _arrays_by_layer(
    file: TensorFile, dtypes: Mapping[str, str], entries: Mapping[str, Mapping[str, Any]]
) -> dict[str, dict[str, Float32 | Stored]]:
    """The tensors, named ``<layer>.<array>``, of each layer in its precision; every tensor belongs to one."""
    found: dict[str, dict[str, Float32 | Stored]] = {name: {} for name in entries}
    scales = {tensor for tensor in file.tensors if tensor.endswith(SCALE)}
    for tensor in file.tensors:
        layer, dot, key = tensor.rpartition(".")
        if tensor.endswith(SCALE):
            continue
        if not dot or layer not in found:
            known = some(name[:40] for name in entries)
            raise FormatError(f"nothing uses the tensor {tensor[:80]!r}; the layers are {known}")
        precision = entries[layer].get("precision", "float32") if is_matrix(key) else "float32"
        held = take(file, dtypes, tensor, precision)
        if isinstance(held, Stored):
            axes = LAYERS[entries[layer]["kind"]].matrix_axes
            if held.values.ndim != axes:
                raise FormatError(f"tensor {tensor[:80]!r} has shape {held.values.shape}; expected {axes} axes")
            if held.scale is not None:
                scales.discard(tensor + SCALE)
        found[layer][key] = held
    if scales:
        raise FormatError(f"nothing uses the tensor {min(scales)[:80]!r}: no int8 matrix has that name without the end")
    return found


def _layer(entry: Mapping[str, Any], stored: Mapping[str, Float32 | Stored]) -> Layer:
    name, precision = entry["name"], entry.get("precision", "float32")
    arrays = {key: _blank(held.values.shape) if isinstance(held, Stored) else held for key, held in stored.items()}
    layer = LAYERS[entry["kind"]].from_parts(name, entry["options"], arrays)
    known = layer.arrays()
    left = sorted(arrays.keys() - known.keys())
    if left:
        raise FormatError(f"nothing uses the tensor {f'{name}.{left[0]}'[:80]!r}: {name[:80]!r} is a {entry['kind']}")
    if precision == "float32":
        return layer
    if not layer.reducible:
        raise FormatError(f"{name[:80]!r} has precision {precision!r}, but a {entry['kind']} has no weights to reduce")
    return layer.holding(precision, {key: stored[key] for key in known})


def _blank(shape: tuple[int, ...]) -> Float32:
    """Stands for a reduced matrix while its shape is checked; memory never touched, which the system never gives."""
    zeros = np.zeros(shape, np.float32)
    zeros.flags.writeable = False
    return zeros
