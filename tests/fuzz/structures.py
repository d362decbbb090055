"""Mutations that keep a file's structure: a message without a field, a list with an item twice, a name for another.

What bytes alone seldom reach: a file that is well formed to its last length and says what makes no sense. JSON,
JSON behind its length (safetensors and the native form) and protocol buffers are taken apart, changed in one place
and written again.
"""

from __future__ import annotations

import json
import random
from typing import Any

#: Values that stand where others were.
ODD: tuple[Any, ...] = (
    None,
    True,
    -1,
    0,
    1,
    2,
    7,
    10**9,
    1 << 63,
    -0.5,
    1e30,
    "",
    "a",
    "GRU",
    "../x",
    [],
    {},
    [0],
    [[1, 2]],
    {"a": 1},
)
_VARINTS = (0, 1, 2, 3, 7, 16, 255, 1 << 31, (1 << 64) - 1, 1 << 40)
#: Bytes of a length-delimited field that may be a message of its own.
_LARGEST_MESSAGE = 1 << 16
_DEEPEST = 12


def changed(rng: random.Random, body: bytes) -> bytes | None:
    """``body`` changed in one place of its structure; None where it has none that is known here."""
    text, head = body, b""
    size = int.from_bytes(body[:8], "little")
    if size <= len(body) - 8 and body[8:9] == b"{":
        head, text = body[:8], body[8 : 8 + size]
    if text[:1] in (b"{", b"["):
        try:
            tree = json.loads(text)
        except (ValueError, RecursionError):
            return None
        separators = (", ", ": ") if b'": ' in text[:200] else (",", ":")
        made = json.dumps(_in_json(rng, tree), ensure_ascii=False, separators=separators).encode()
        return len(made).to_bytes(8, "little") + made + body[8 + size :] if head else made
    message = _parsed(body)
    return None if message is None else _written(_in_message(rng, message))


# ---- JSON ------------------------------------------------------------------------------------------------------------


def _in_json(rng: random.Random, tree: Any) -> Any:
    holders = [tree]
    for holder in holders:
        children = holder.values() if isinstance(holder, dict) else holder
        holders += [child for child in children if isinstance(child, (dict, list)) and child]
    holder, other = rng.choice(holders), rng.choice(holders)
    keys = list(holder) if isinstance(holder, dict) else list(range(len(holder)))
    if not keys:
        return rng.choice(ODD)
    key = rng.choice(keys)
    foreign = rng.choice(list(other.values()) if isinstance(other, dict) else other) if other else None
    kind = rng.randrange(6)
    if kind == 0:
        del holder[key]
    elif kind == 1:
        second = rng.choice(keys)
        holder[key], holder[second] = holder[second], holder[key]
    elif kind == 2:
        holder[key] = [holder[key]]
    elif kind == 3 and isinstance(holder, list):
        holder.insert(key, holder[key])
    elif kind == 4:
        # A value that holds itself cannot be written, so it comes as a copy.
        holder[key] = json.loads(json.dumps(foreign))
    else:
        holder[key] = rng.choice(ODD)
    return tree


# ---- protocol buffers ------------------------------------------------------------------------------------------------

#: A field: its number, its wire type and its value (a message as the list of its fields).
_Field = tuple[int, int, Any]


def _in_message(rng: random.Random, message: list[_Field]) -> list[_Field]:
    messages = [message]
    for held in messages:
        messages += [value for _, _, value in held if isinstance(value, list) and value]
    held = rng.choice(messages)
    at = rng.randrange(len(held))
    number, wire, value = held[at]
    alike = [field for each in messages for field in each if field[:2] == (number, wire)]
    kind = rng.randrange(6)
    if kind == 0:
        del held[at]
    elif kind == 1:
        held.insert(at, held[at])
    elif kind == 2:
        second = rng.randrange(len(held))
        held[at], held[second] = held[second], held[at]
    elif kind == 3:
        held[at] = number, wire, _parsed(_written(v)) if isinstance(v := rng.choice(alike)[2], list) else v
    elif kind == 4 and wire == 2:
        held[at] = number, wire, b""
    elif wire == 0:
        held[at] = number, wire, rng.choice(_VARINTS)
    else:
        held[at] = rng.randrange(1, 16), wire, value
    return message


def _parsed(body: bytes, depth: int = 0) -> list[_Field] | None:
    """The fields of a message; None where ``body`` is none to its last byte."""
    fields: list[_Field] = []
    at = 0
    while at < len(body):
        tag, at = _varint(body, at)
        number, wire = tag >> 3, tag & 7
        value: Any
        if wire == 0:
            value, at = _varint(body, at)
        elif wire == 2:
            size, at = _varint(body, at)
            value, at = body[at : at + size], at + size
            is_text = value.isascii() and value.decode("ascii").isprintable()
            if depth < _DEEPEST and 2 <= size <= _LARGEST_MESSAGE and not is_text:
                value = _parsed(value, depth + 1) or value
        elif wire in (1, 5):
            size = 8 if wire == 1 else 4
            value, at = body[at : at + size], at + size
        else:
            return None
        if not 1 <= number < 1 << 29 or at > len(body):
            return None
        fields.append((number, wire, value))
    return fields or None


def _varint(body: bytes, at: int) -> tuple[int, int]:
    """The number at ``at`` and where it ends, beyond ``body`` where it does not."""
    value = shift = 0
    while at < len(body) and shift < 70:
        byte = body[at]
        value, shift, at = value | (byte & 127) << shift, shift + 7, at + 1
        if byte < 128:
            return value, at
    return 0, len(body) + 1


def _written(fields: list[_Field]) -> bytes:
    out = bytearray()
    for number, wire, value in fields:
        out += _as_varint(number << 3 | wire)
        if wire == 0:
            out += _as_varint(value)
        elif wire == 2:
            content = _written(value) if isinstance(value, list) else value
            out += _as_varint(len(content)) + content
        else:
            out += value
    return bytes(out)


def _as_varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)
