"""Protocol Buffers' wire format, parsed strictly as data: no generated code, bounded time and memory.

A message is a sequence of fields: a varint key (field number · 8 + wire type), then a varint (type 0), 8 bytes
(type 1), a length and that many bytes (type 2), or 4 bytes (type 5). The wire does not say whether a run of bytes
is a string, a packed array or a nested message: a :data:`Schema` does, one small table per message kind.
Source: protobuf.dev/programming-guides/encoding.

Stricter than the format asks: a field that is declared once and stands twice, a known field of another wire type,
text that is not UTF-8, a number outside its type and groups (types 3 and 4, which proto2 deprecated) are errors,
where other parsers merge, skip or truncate. Unknown fields are skipped, as later versions of a format add some.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from ...errors import FormatError

#: Message kind → field number → (name, type). A type is a scalar of :data:`SCALARS`, ``string``, ``bytes`` or
#: the name of another message kind; with ``*`` after it the field is repeated.
Schema: TypeAlias = Mapping[str, Mapping[int, "tuple[str, str]"]]

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5

#: Scalar type → its wire type, and the dtype of an array of them.
SCALARS: Mapping[str, tuple[int, str]] = {
    "bool": (_VARINT, "?"),
    "int32": (_VARINT, "<i4"),
    "int64": (_VARINT, "<i8"),
    "uint32": (_VARINT, "<u4"),
    "uint64": (_VARINT, "<u8"),
    "enum": (_VARINT, "<i4"),
    "float": (_FIXED32, "<f4"),
    "double": (_FIXED64, "<f8"),
}
_RANGES = {"bool": (0, 1), "int32": (-(2**31), 2**31 - 1), "enum": (-(2**31), 2**31 - 1), "uint32": (0, 2**32 - 1)}
# Packed varints are decoded this many bytes at a time, so that intermediate arrays stay small beside the file.
_BLOCK = 1 << 18
# Below this many bytes, a varint after the other costs less than numpy does.
_FEW = 64


@dataclass(frozen=True)
class Limits:
    """Bounds of one file. ``fields`` bounds time and the number of objects; packed arrays count as one field."""

    fields: int = 500_000
    depth: int = 100


class Message:
    """A parsed message: its kind, and the fields that stood in it by name.

    A repeated scalar field is one array of numpy's, any other repeated field a list. ``bytes`` fields are views of
    the file. Nothing is converted further.
    """

    __slots__ = ("fields", "kind")

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.fields: dict[str, Any] = {}

    def get(self, name: str, default: Any = None) -> Any:
        """A field declared once, or ``default`` where it does not stand in the file."""
        return self.fields.get(name, default)

    def many(self, name: str) -> Any:
        """A repeated field; empty where it does not stand in the file."""
        return self.fields.get(name, ())

    def __contains__(self, name: str) -> bool:
        return name in self.fields

    def __repr__(self) -> str:
        return f"<{self.kind}: {', '.join(self.fields)}>"


def parse(data: bytes | memoryview, kind: str, schema: Schema, *, shown: str, limits: Limits | None = None) -> Message:
    """The message of ``kind`` that all of ``data`` is.

    ``shown`` names the file in messages. Raises :class:`FormatError` for whatever breaks the wire format or the
    schema, and for a file beyond ``limits``; the message gives the byte at which it stands.
    """
    return _Parser(memoryview(data).cast("B"), schema, shown, limits or Limits()).message(kind, 0, len(data), 0)


class _Parser:
    def __init__(self, data: memoryview, schema: Schema, shown: str, limits: Limits) -> None:
        self.data = data
        self.schema = schema
        self.shown = shown
        self.limits = limits
        self.fields = 0

    def message(self, kind: str, at: int, end: int, depth: int) -> Message:
        if depth > self.limits.depth:
            raise self.wrong(at, f"{kind} nests deeper than {self.limits.depth} messages")
        table = self.schema[kind]
        found = Message(kind)
        arrays: dict[str, tuple[str, bytearray]] = {}
        while at < end:
            self.fields += 1
            if self.fields > self.limits.fields:
                raise self.wrong(at, f"more than {self.limits.fields} fields, which is all that are read")
            start = at
            key, at = self.varint(at, end)
            number, wire = key >> 3, key & 7
            if not 0 < number < 1 << 29:
                raise self.wrong(start, f"{kind} has field number {number}; expected 1 to {(1 << 29) - 1}")
            begin, at, whole = self.payload(kind, wire, at, end, start)
            entry = table.get(number)
            if entry is None:
                continue
            name, type_ = entry
            if type_[-1] != "*":
                if name in found.fields:
                    raise self.wrong(start, f"{kind} has two fields {name!r}; expected one")
                found.fields[name] = self.value(kind, name, type_, wire, begin, at, whole, depth)
            elif type_[:-1] in SCALARS:
                _, numbers = arrays.setdefault(name, (type_[:-1], bytearray()))
                self.append(numbers, kind, name, type_[:-1], wire, begin, at, whole)
            else:
                value = self.value(kind, name, type_[:-1], wire, begin, at, whole, depth)
                found.fields.setdefault(name, []).append(value)
        for name, (scalar, numbers) in arrays.items():
            found.fields[name] = np.frombuffer(bytes(numbers), SCALARS[scalar][1])
        return found

    def payload(self, kind: str, wire: int, at: int, end: int, start: int) -> tuple[int, int, int]:
        """Where a field's bytes begin and end, and the number of one that is a varint."""
        if wire == _VARINT:
            number, after = self.varint(at, end)
            return at, after, number
        if wire == _BYTES:
            size, at = self.varint(at, end)
        elif wire in (_FIXED32, _FIXED64):
            size = 4 if wire == _FIXED32 else 8
        else:
            raise self.wrong(start, f"{kind} has a field of wire type {wire}; expected 0, 1, 2 or 5")
        if size > end - at:
            raise self.wrong(start, f"{kind} has a field of {size} bytes where {end - at} are left: truncated")
        return at, at + size, 0

    def value(self, kind: str, name: str, type_: str, wire: int, at: int, end: int, number: int, depth: int) -> Any:
        scalar = SCALARS.get(type_)
        if wire != (scalar[0] if scalar else _BYTES):
            raise self.wrong(at, f"{kind}.{name} has wire type {wire}; expected {type_}")
        if scalar:
            if wire == _VARINT:
                return self.whole(kind, name, type_, number, at)
            return struct.unpack_from("<f" if wire == _FIXED32 else "<d", self.data, at)[0]
        if type_ == "bytes":
            return self.data[at:end]
        if type_ == "string":
            try:
                return str(self.data[at:end], "utf-8")
            except UnicodeDecodeError:
                raise self.wrong(at, f"{kind}.{name} is not UTF-8") from None
        return self.message(type_, at, end, depth + 1)

    def append(
        self, out: bytearray, kind: str, name: str, type_: str, wire: int, at: int, end: int, number: int
    ) -> None:
        """One more number of a repeated field, or a packed run of them, as the bytes of their dtype."""
        wanted, code = SCALARS[type_]
        dtype = np.dtype(code)
        if wire == wanted == _VARINT:
            out += dtype.type(self.whole(kind, name, type_, number, at)).tobytes()
        elif wire != wanted and wire != _BYTES:
            raise self.wrong(at, f"{kind}.{name} has wire type {wire}; expected {type_}")
        elif wanted != _VARINT:
            if (end - at) % dtype.itemsize:
                raise self.wrong(at, f"{kind}.{name} packs {end - at} bytes; expected a multiple of {dtype.itemsize}")
            out += self.data[at:end]
        elif end - at > _FEW:
            self.packed_varints(out, kind, name, type_, at, end)
        else:
            while at < end:
                start = at
                number, at = self.varint(at, end)
                out += dtype.type(self.whole(kind, name, type_, number, start)).tobytes()

    def varint(self, at: int, end: int) -> tuple[int, int]:
        """The varint at ``at``, at most 64 bits, and where the next byte stands."""
        data = self.data
        value = shift = 0
        start = at
        while at < end:
            byte = data[at]
            at += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                if value >> 64:
                    break
                return value, at
            shift += 7
            if shift > 63:
                break
        else:
            raise self.wrong(start, "a varint is truncated")
        raise self.wrong(start, "a varint is longer than 64 bits")

    def whole(self, kind: str, name: str, type_: str, value: int, at: int) -> int:
        """The number of type ``type_`` that a varint holds: negative ones as 64 bits in two's complement."""
        if type_ not in ("uint64", "uint32", "bool") and value >> 63:
            value -= 1 << 64
        low, high = _RANGES.get(type_, (value, value))
        if not low <= value <= high:
            raise self.wrong(at, f"{kind}.{name} is {value}; expected {type_}")
        return value

    def packed_varints(self, out: bytearray, kind: str, name: str, type_: str, at: int, end: int) -> None:
        """Varints end to end, decoded together: the k-th byte of each gives bits 7k to 7k + 6."""
        raw = np.frombuffer(self.data[at:end], np.uint8)
        dtype = np.dtype(SCALARS[type_][1])
        if raw[-1] >= 0x80:
            raise self.wrong(at, f"{kind}.{name} ends within a varint: truncated")
        begin = 0
        while begin < len(raw):
            stop = min(begin + _BLOCK, len(raw))
            last = np.flatnonzero(raw[begin:stop] < 0x80)
            if len(last) == 0:
                raise self.wrong(at + begin, f"{kind}.{name}: a varint is longer than 64 bits")
            stop = begin + int(last[-1]) + 1
            numbers = self.varint_block(kind, name, type_, raw[begin:stop], last, at + begin)
            out += numbers.astype(dtype).tobytes()
            begin = stop

    def varint_block(self, kind: str, name: str, type_: str, raw: np.ndarray, last: np.ndarray, at: int) -> np.ndarray:
        first = np.concatenate([[0], last[:-1] + 1])
        sizes = last - first + 1
        longest = int(sizes.max())
        if longest > 10 or np.any(raw[last[sizes == 10]] > 1):
            raise self.wrong(at, f"{kind}.{name}: a varint is longer than 64 bits")
        values = (raw[first] & 0x7F).astype(np.uint64)
        for byte in range(1, longest):
            which = np.flatnonzero(sizes > byte)
            values[which] |= (raw[first[which] + byte] & 0x7F).astype(np.uint64) << np.uint64(7 * byte)
        numbers = values if type_ in ("uint64", "uint32", "bool") else values.view(np.int64)
        if type_ in _RANGES:
            low, high = _RANGES[type_]
            outside = (numbers < low) | (numbers > high)
            if outside.any():
                raise self.wrong(at, f"{kind}.{name} holds {numbers[outside][0]}; expected {type_}")
        return numbers

    def wrong(self, at: int, what: str) -> FormatError:
        return FormatError(f"{self.shown}: byte {at}: {what}")
