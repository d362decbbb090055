"""Protocol Buffers' wire format, written: the same schemas as the parser's, plain dicts and lists in."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from .protobuf import SCALARS, Schema


def encode(kind: str, values: Mapping[str, Any], schema: Schema) -> bytes:
    """The message of ``kind`` whose fields are ``values``, in the order of their numbers.

    A repeated field takes any iterable, a nested message a mapping; repeated numbers are packed. Raises
    ``KeyError`` for a field that the schema lacks, which is a mistake in cgru itself.
    """
    numbers = {name: (number, type_) for number, (name, type_) in schema[kind].items()}
    out = bytearray()
    for name in sorted(values, key=lambda name: numbers[name][0]):
        number, type_ = numbers[name]
        if type_[-1] != "*":
            _put(out, number, type_, values[name], schema)
        elif type_[:-1] in SCALARS:
            _put(out, number, "bytes", _packed(type_[:-1], values[name]), schema)
        else:
            for value in values[name]:
                _put(out, number, type_[:-1], value, schema)
    return bytes(out)


def _put(out: bytearray, number: int, type_: str, value: Any, schema: Schema) -> None:
    if type_ in SCALARS:
        wire, code = SCALARS[type_]
        out += varint(number << 3 | wire)
        out += varint(int(value)) if wire == 0 else np.asarray(value, code).tobytes()
        return
    if type_ == "string":
        value = value.encode()
    elif type_ != "bytes":
        value = encode(type_, value, schema)
    out += varint(number << 3 | 2)
    out += varint(len(value))
    out += value


def _packed(type_: str, values: Iterable[Any]) -> bytes:
    wire, code = SCALARS[type_]
    if wire == 0:
        return b"".join(varint(int(value)) for value in values)
    return np.asarray(list(values), code).tobytes()


def varint(value: int) -> bytes:
    """``value`` as a varint; a negative one as its 64 bits in two's complement."""
    value &= (1 << 64) - 1
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
