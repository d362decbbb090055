"""JSON files of weights: nested lists of numbers by name, as RTNeural, GuitarML and many a script of one's own write.

A leaf is a list of numbers, or of such lists of one length. Names join keys and positions with dots: those of a
``state_dict`` stand by themselves, as PyTorch has them, and a layer's are ``layers.0.weights.1``.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from typing import Any

import numpy as np

from ...errors import FormatError, UnsupportedError
from .file_bytes import Source, open_bytes
from .file_bytes import shown as shown_name
from .json_text import parsed
from .messages import brief
from .tensorfile import TensorFile

#: Memory that the values of a file may take: so much, and so much for each of its bytes.
_VALUES_FLOOR, _VALUES_RATIO = 32 << 20, 14
_MAX_ARRAYS = 20_000
_MAX_NAME = 1024
_MAX_AXES = 8


def looks_like(head: bytes) -> bool:
    return head.lstrip(b" \t\r\n\xef\xbb\xbf")[:1] in (b"{", b"[")


def read(source: Source) -> TensorFile:
    """Every array of the file; :class:`UnsupportedError` where it is JSON that holds none."""
    root = document(source)
    shown = shown_name(source)
    if isinstance(root.get("state_dict"), dict):
        root = root["state_dict"]
    tensors: dict[str, np.ndarray] = {}
    for name, value in _leaves(root):
        if len(name) > _MAX_NAME or not name.isprintable() or name in tensors or len(tensors) >= _MAX_ARRAYS:
            raise FormatError(f"{shown}: {brief(name)} is no name that an array can have, or one too many")
        tensors[name] = array(value, f"{shown}: {brief(name)}")
    if not tensors:
        raise UnsupportedError(
            f"{shown}: JSON without weights, such as a model's configuration; beside a .weights.h5 that is "
            "cgru.load('model.weights.h5', config='model.json')"
        )
    return TensorFile(shown, "json", tensors)


def document(source: Source) -> dict[str, Any]:
    """The object that the file is; :class:`FormatError` for a damaged or hostile one."""
    shown, data = shown_name(source), open_bytes(source)
    try:
        text = bytes(data).decode().removeprefix("\ufeff")
    except UnicodeDecodeError:
        raise FormatError(f"{shown}: is not UTF-8 text") from None
    found = parsed(text, shown, values=_VALUES_FLOOR + _VALUES_RATIO * len(data))
    if not isinstance(found, dict):
        raise UnsupportedError(f"{shown}: a JSON {type(found).__name__}; expected an object of names and weights")
    return found


def array(value: Any, where: str) -> np.ndarray:
    """A list of numbers, or of lists of one length, as float32; its shape is proved before anything is made."""
    shape: list[int] = []
    level: Any = value
    flat = value
    while isinstance(level, list):
        shape.append(len(level))
        if len(shape) > _MAX_AXES:
            raise FormatError(f"{where} has more than {_MAX_AXES} axes")
        if not level or not isinstance(level[0], list):
            break
        size = len(level[0])
        if any(not isinstance(part, list) or len(part) != size for part in flat):
            raise FormatError(f"{where}: its lists are of different lengths")
        flat = list(chain.from_iterable(flat))
        level = level[0]
    if not isinstance(flat, list) or any(type(number) not in (int, float) for number in flat):
        raise FormatError(f"{where}: expected lists of numbers")
    try:
        with np.errstate(over="ignore"):
            made = np.asarray(flat, np.float64).astype(np.float32).reshape(shape)
    except OverflowError:
        raise FormatError(f"{where} holds a number beyond float32") from None
    if not np.isfinite(made).all():
        raise FormatError(f"{where} holds a number beyond float32")
    made.flags.writeable = False
    return made


def _leaves(root: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Lists of numbers by name. What holds a null or a word, such as a shape, is no array."""
    layers = root.get("layers")
    if isinstance(layers, list) and any(isinstance(layer, dict) and "weights" in layer for layer in layers):
        # RTNeural's: kernel and bias side by side may have lengths that look like one array.
        for i, layer in enumerate(layers):
            held = layer.get("weights") if isinstance(layer, dict) else None
            for j, value in enumerate(held if isinstance(held, list) else ()):
                yield f"layers.{i}.weights.{j}", value
        return
    stack: list[tuple[str, Any]] = [("", root)]
    while stack:
        name, value = stack.pop()
        if isinstance(value, dict):
            parts = list(value.items())
        elif isinstance(value, list) and _shape(value) is None:
            parts = [(str(i), part) for i, part in enumerate(value)]
        else:
            if isinstance(value, list) and value:
                yield name, value
            continue
        stack += [(f"{name}.{key}" if name else str(key), part) for key, part in reversed(parts)]


def _shape(value: Any) -> tuple[int, ...] | None:
    """The shape of nested lists of numbers; None where they are ragged, or hold something else."""
    if type(value) in (int, float):
        return ()
    if not isinstance(value, list):
        return None
    inner: tuple[int, ...] | None = ()
    for i, part in enumerate(value):
        found = _shape(part)
        if found is None or (i and found != inner):
            return None
        inner = found
    return None if inner is None else (len(value), *inner)
