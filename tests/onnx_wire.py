"""The initialisers of an ONNX file, and tensors by themselves, read straight from the protobuf wire format.

Enough for the tests that take weights from published models; field numbers are those of onnx.proto.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

_GRAPH, _INITIALIZER = 7, 5
_DIMS, _DATA_TYPE, _NAME, _RAW_DATA = 1, 2, 8, 9
_TYPES = {1: "<f4", 6: "<i4", 7: "<i8"}


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at


def _fields(data: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """(field number, value) of a message: varints as numbers, everything else as bytes."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        kind = key & 7
        if kind == 0:
            value, at = _varint(data, at)
            yield key >> 3, value
            continue
        size = {1: 8, 5: 4}.get(kind)
        if size is None:
            assert kind == 2, f"wire type {kind}"
            size, at = _varint(data, at)
        yield key >> 3, data[at : at + size]
        at += size


def _tensor(data: memoryview) -> tuple[str, np.ndarray | None]:
    """A TensorProto's name and its numbers where they are raw ones of a known type."""
    dims: list[int] = []
    name, kind, raw = "", 0, b""
    for field, value in _fields(data):
        if field == _DIMS and isinstance(value, int):
            dims.append(value)
        elif field == _DIMS and not isinstance(value, int):  # packed
            at = 0
            while at < len(value):
                dim, at = _varint(value, at)
                dims.append(dim)
        elif field == _DATA_TYPE and isinstance(value, int):
            kind = value
        elif field == _NAME and not isinstance(value, int):
            name = bytes(value).decode()
        elif field == _RAW_DATA and not isinstance(value, int):
            raw = bytes(value)
    return name, np.frombuffer(raw, _TYPES[kind]).reshape(dims) if kind in _TYPES and raw else None


def tensor(path: Path) -> tuple[str, np.ndarray]:
    """The tensor of a .pb file, and its name."""
    name, array = _tensor(memoryview(path.read_bytes()))
    assert array is not None, path
    return name, array


def initializers(path: Path) -> dict[str, np.ndarray]:
    """Every initialiser of the graph that is held as raw numbers, by name."""
    found: dict[str, np.ndarray] = {}
    for number, graph in _fields(memoryview(path.read_bytes())):
        if number != _GRAPH or isinstance(graph, int):
            continue
        for part, data in _fields(graph):
            if part == _INITIALIZER and not isinstance(data, int):
                name, array = _tensor(data)
                if array is not None:
                    found[name] = array
    return found
