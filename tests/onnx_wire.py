"""The float32 initialisers of an ONNX file, read straight from the protobuf wire format.

Enough for the tests that take weights from published models; field numbers are those of onnx.proto.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

_GRAPH, _INITIALIZER = 7, 5
_DIMS, _DATA_TYPE, _NAME, _RAW_DATA = 1, 2, 8, 9
_FLOAT = 1


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


def initializers(path: Path) -> dict[str, np.ndarray]:
    """Every float32 initialiser of the graph, by name."""
    found: dict[str, np.ndarray] = {}
    for number, graph in _fields(memoryview(path.read_bytes())):
        if number != _GRAPH or isinstance(graph, int):
            continue
        for part, tensor in _fields(graph):
            if part != _INITIALIZER or isinstance(tensor, int):
                continue
            dims: list[int] = []
            name, kind, raw = "", 0, b""
            for field, value in _fields(tensor):
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
            if kind == _FLOAT and raw:
                found[name] = np.frombuffer(raw, "<f4").reshape(dims)
    return found
