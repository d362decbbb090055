"""The types and shapes that HDF5 messages declare (File Format Specification 3.0, IV.A.2.b and d)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from ....errors import FormatError
from .source import Fields

MAX_AXES = 32
_CLASSES = ("integer", "float", "time", "text", "bit field", "opaque", "compound", "reference", "enumeration",
            "text or list of variable length", "array", "complex")  # fmt: skip
#: Offset, precision, and of exponent and mantissa where they begin and their bits; the exponent's bias.
_FLOATS: dict[tuple[int, ...], str] = {
    (0, 16, 10, 5, 0, 10, 15): "f2",
    (0, 32, 23, 8, 0, 23, 127): "f4",
    (0, 64, 52, 11, 0, 52, 1023): "f8",
    (0, 16, 7, 8, 0, 7, 127): "bfloat16",
}


@dataclass(frozen=True)
class Datatype:
    """A declared type; ``name`` is what messages call it.

    ``dtype`` is None where numpy has no such numbers: for texts, where ``text`` is set, and for all that is not
    read. bfloat16, and the two opaque bytes that Keras writes for it, are uint16 with ``is_bfloat16``.
    """

    name: str
    size: int
    dtype: np.dtype | None = None
    text: Literal["", "fixed", "variable"] = ""
    padding: int = 0
    is_opaque: bool = False
    is_bfloat16: bool = False


def datatype(body: Fields) -> Datatype:
    """The type that a datatype message declares."""
    head, bits, size = body.number(1), body.number(3), body.number(4)
    kind, version = head & 15, head >> 4
    name = _CLASSES[kind] if kind < len(_CLASSES) else f"class {kind}"
    unread = Datatype(f"{name} of {size} bytes", size)
    if kind in (0, 1) and not 1 <= size <= 8:
        return unread
    order = ">" if bits & 1 else "<"
    if kind == 0:
        if (body.number(2), body.number(2)) != (0, 8 * size) or size not in (1, 2, 4, 8):
            return unread
        return _number(f"{order}{'i' if bits & 8 else 'u'}{size}")
    if kind == 1:
        layout = tuple(body.number(width) for width in (2, 2, 1, 1, 1, 1, 4))
        found = _FLOATS.get(layout)
        is_plain = bits & 0x70 == 0x20 and bits >> 8 == 8 * size - 1 and layout[1] == 8 * size
        if found is None or not is_plain:
            return unread
        if found == "bfloat16":
            return Datatype(found, size, np.dtype(f"{order}u2"), is_bfloat16=True)
        return _number(order + found)
    if kind == 3:
        return Datatype(f"text of {size} bytes", size, text="fixed", padding=bits & 15)
    if kind == 5 and size == 2:
        return Datatype("two opaque bytes", size, np.dtype("<u2"), is_opaque=True, is_bfloat16=True)
    if kind == 8:
        return _enumeration(body, bits & 0xFFFF, version, unread)
    if kind == 9 and bits & 15 == 1:
        return Datatype("text", size, text="variable")
    return unread


def _number(code: str) -> Datatype:
    dtype = np.dtype(code)
    return Datatype(dtype.name, dtype.itemsize, dtype)


def _enumeration(body: Fields, count: int, version: int, unread: Datatype) -> Datatype:
    """Named integers; FALSE and TRUE are how h5py writes booleans."""
    base = datatype(body)
    if base.dtype is None or base.dtype.kind not in "iu" or base.size != unread.size:
        return unread
    names = []
    for _ in range(count):
        begin = body.at
        names.append(body.text())
        if version < 3:
            body.raw(-(body.at - begin) % 8)
    values = np.frombuffer(body.raw(count * base.size), base.dtype).tolist()
    is_bool = base.size == 1 and dict(zip(names, values, strict=True)) == {b"FALSE": 0, b"TRUE": 1}
    return Datatype("bool", 1, np.dtype(bool)) if is_bool else base


def dataspace(body: Fields) -> tuple[tuple[int, ...] | None, tuple[int, ...]]:
    """The shape, None where there is nothing, and what each axis may grow to."""
    version, rank, flags = (body.number(1) for _ in range(3))
    kind = body.number(1)
    if version == 1:
        body.raw(4)
        kind = 1
    elif version != 2:
        raise FormatError(f"{body.what} is of version {version}, which no file has")
    if kind == 2:
        return None, ()
    if rank > MAX_AXES or kind > 1 or (kind == 0 and rank):
        raise FormatError(f"{body.what} has {rank} axes and is of kind {kind}: the file is damaged")
    shape = tuple(body.number(8) for _ in range(rank))
    limits = tuple(body.number(8) for _ in range(rank)) if flags & 1 else shape
    if any(size > limit for size, limit in zip(shape, limits, strict=True)):
        raise FormatError(f"{body.what} is of shape {shape}, more than its limits {limits}: the file is damaged")
    return shape, limits
