"""The native form: a safetensors file whose metadata says what the tensors are (docs/format.md).

Reading is strict. Every layer, option and tensor of the file must be one this version knows, and every tensor
must be used: what a file says is never left out in silence.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from ...arrays import Float32, brief
from ...errors import CgruError, FormatError, MissingFileError, UnsupportedError
from ...layers import LAYERS, Layer
from ...spec.precision import KINDS, LARGEST_SCALE, PRECISIONS, Stored, is_matrix, scaled
from ..containers import safetensors
from ..containers.file_bytes import Source
from ..containers.messages import some
from ..containers.tensorfile import TensorFile
from .naming import errors_name

if TYPE_CHECKING:
    from ...engine.model import Model

FORMAT = "cgru"
VERSION = "1"
EXTENSION = ".safetensors"

_LAYER_KEYS = {"kind", "name", "options"}
_SCALE = ".scale"


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
    spec = {"layers": [_entry(layer) for layer in model.layers]}
    tensors: dict[str, np.ndarray] = {}
    dtypes: dict[str, str] = {}
    for layer in model.layers:
        for key, held in layer.stored().items():
            name = f"{layer.name}.{key}"
            if not isinstance(held, Stored):
                tensors[name] = held
                continue
            tensors[name], dtypes[name] = held.values, KINDS[layer.precision]
            if held.scale is not None:
                tensors[name + _SCALE] = held.scale
    return tensors, {"format": FORMAT, "version": VERSION, "spec": json.dumps(spec, default=_plain_number)}, dtypes


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


def load(source: Source) -> list[Layer]:
    """The layers of a native file, in the order data passes them.

    Raises :class:`FormatError` where the specification or a tensor is missing, left over, unknown or of the
    wrong shape, and :class:`~cgru.errors.UnsupportedError` where it names an activation cgru does not run.
    """
    file, dtypes = safetensors.read_as_held(source)
    with errors_name(file.shown, from_file=True):
        entries = _specification(file.metadata)
        arrays = _arrays_by_layer(file, dtypes, {entry["name"]: entry.get("precision", "float32") for entry in entries})
        return [_layer(entry, arrays[entry["name"]]) for entry in entries]


def _entry(layer: Layer) -> dict[str, Any]:
    entry = {"kind": layer.kind, "name": layer.name, "options": layer.options()}
    return entry if layer.precision == "float32" else entry | {"precision": layer.precision}


def _plain_number(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    raise CgruError(f"the specification holds a {type(value).__name__}, which JSON cannot")


def _specification(metadata: Mapping[str, str]) -> list[dict[str, Any]]:
    """The layers' entries, each with a kind, a name of its own and options that are plain JSON values."""
    version = metadata.get("version")
    if version != VERSION:
        raise FormatError(f"native form of version {version!r}; this cgru reads {VERSION!r}; a newer one may read it")
    if "spec" not in metadata:
        raise FormatError("the metadata lacks 'spec', the specification of the layers")
    spec = _parse(metadata["spec"])
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


def _parse(text: str) -> Any:
    def refuse(what: str) -> NoReturn:
        raise FormatError(f"the specification {what}")

    def unique(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
        values = dict(pairs)
        return values if len(values) == len(pairs) else refuse("has an object with the same key twice")

    def integer(digits: str) -> int:
        return int(digits) if len(digits) <= 20 else refuse(f"has the number {digits[:20]}…")

    try:
        return json.loads(text, object_pairs_hook=unique, parse_int=integer)
    except CgruError:
        raise
    except RecursionError:
        refuse("nests too deep")
    except ValueError as error:
        refuse(f"is not valid JSON ({error})")


def _arrays_by_layer(
    file: TensorFile, dtypes: Mapping[str, str], precisions: Mapping[str, str]
) -> dict[str, dict[str, Float32 | Stored]]:
    """The tensors, named ``<layer>.<array>``, of each layer in its precision; every tensor belongs to one."""
    found: dict[str, dict[str, Float32 | Stored]] = {name: {} for name in precisions}
    scales = {tensor for tensor in file.tensors if tensor.endswith(_SCALE)}
    for tensor, array in file.tensors.items():
        layer, dot, key = tensor.rpartition(".")
        if tensor.endswith(_SCALE):
            continue
        if not dot or layer not in found:
            known = some(name[:40] for name in precisions)
            raise FormatError(f"nothing uses the tensor {tensor[:80]!r}; the layers are {known}")
        precision = precisions[layer] if is_matrix(key) else "float32"
        _expect(tensor, dtypes[tensor], KINDS[precision])
        if precision == "float32":
            found[layer][key] = array
            continue
        if array.ndim != 2:
            raise FormatError(f"tensor {tensor[:80]!r} has shape {array.shape}; expected 2 axes")
        scale = None
        if scaled(precision):
            scale = _scale(file, dtypes, tensor, array)
            scales.discard(tensor + _SCALE)
        found[layer][key] = Stored(array, scale)
    if scales:
        raise FormatError(f"nothing uses the tensor {min(scales)[:80]!r}: no int8 matrix has that name without the end")
    return found


def _scale(file: TensorFile, dtypes: Mapping[str, str], tensor: str, values: np.ndarray) -> Float32:
    """The scale of each row of an int8 matrix; values and scales are such as :mod:`cgru.spec.precision` makes."""
    name = tensor + _SCALE
    if name not in file.tensors:
        raise FormatError(f"the tensor {name[:80]!r} is missing: an int8 matrix has a scale for each row")
    scale = file.tensors[name]
    _expect(name, dtypes[name], KINDS["float32"])
    if scale.shape != values.shape[:1]:
        raise FormatError(f"tensor {name[:80]!r} has shape {scale.shape}, expected {values.shape[:1]}")
    if not ((scale >= 0) & (scale <= LARGEST_SCALE)).all():
        bad = scale[~((scale >= 0) & (scale <= LARGEST_SCALE))][0]
        raise FormatError(f"tensor {name[:80]!r} holds the scale {bad:g}; expected 0 to {LARGEST_SCALE:g}")
    if values.size and values.min() < -127:
        raise FormatError(f"tensor {tensor[:80]!r} holds -128; int8 weights go from -127 to 127")
    return scale


def _expect(tensor: str, found: str, wanted: str) -> None:
    if found != wanted:
        raise FormatError(f"tensor {tensor[:80]!r} is held as {found}; expected {wanted}")


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
