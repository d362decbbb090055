"""The state of some rows as bytes: what ``dump`` of a stream or a pool gives and ``restore`` takes."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any

import numpy as np

from ..arrays import Float32
from ..errors import FormatError

if TYPE_CHECKING:
    from .model import Model

#: A dump: this, the network's fingerprint, rows and numbers a row, the rows, and a digest of all before it.
_MAGIC = b"cgru stream 1\n"
_HEADER = struct.Struct("<14s16sQQ")
_DIGEST = 16


def dump(net: Model, data: Float32) -> bytes:
    """``data`` (B, width) and what it belongs to."""
    rows = data.astype("<f4", copy=False).tobytes()
    body = _HEADER.pack(_MAGIC, net._fingerprint(), *data.shape) + rows
    return body + _digest(body)


def restore(net: Model, blob: Any, batch: int) -> Float32:
    """The (B, width) of :func:`dump`; :class:`FormatError` where it is damaged, another network's or of other rows."""
    if not isinstance(blob, (bytes, bytearray, memoryview)):
        raise FormatError(f"restore: expected bytes from dump(), found {type(blob).__name__}")
    blob = bytes(blob)
    if len(blob) < _HEADER.size + _DIGEST or not blob.startswith(b"cgru stream "):
        raise FormatError("restore: these bytes are no dump of a stream")
    magic, mark, rows, width = _HEADER.unpack_from(blob)
    if magic != _MAGIC:
        raise FormatError(f"restore: the dump has the form {magic!r}, this version reads {_MAGIC!r}")
    body, digest = blob[:-_DIGEST], blob[-_DIGEST:]
    if _digest(body) != digest:
        raise FormatError("restore: the dump is damaged: its digest does not match")
    if mark != net._fingerprint():
        raise FormatError("restore: the dump comes from another network (other layers, sizes or weights)")
    if (rows, width) != (batch, net._layout.width) or len(body) != _HEADER.size + 4 * rows * width:
        raise FormatError(f"restore: the dump holds {rows} rows, this stream has {batch}")
    return np.frombuffer(body, "<f4", offset=_HEADER.size).reshape(rows, width).astype(np.float32)


def _digest(body: bytes) -> bytes:
    from hashlib import blake2b  # four milliseconds that a first output need not take

    return blake2b(body, digest_size=_DIGEST).digest()
