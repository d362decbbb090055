"""Builders of crafted files, and the context in which a reader must refuse one."""

from __future__ import annotations

import io
import os
import struct
import tracemalloc
import zipfile
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from cgru.errors import CgruError

MEGABYTE = 1 << 20


@contextmanager
def refused(path: Path, says: str = "", error: type[CgruError] = CgruError, peak: int = 8 * MEGABYTE):
    """The block raises ``error`` naming ``path``, within ``peak`` bytes, and leaves the folder as it was."""
    before = sorted(os.listdir(path.parent))
    tracemalloc.start()
    try:
        with pytest.raises(error, match=says or None) as caught:
            yield
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert path.name in str(caught.value)
    assert len(str(caught.value)) < 2000
    assert most < peak, f"took {most} bytes"
    assert sorted(os.listdir(path.parent)) == before


def zipped(members: list[tuple[str, bytes]], method: int = zipfile.ZIP_STORED) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return out.getvalue()


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def integer(value: int) -> bytes:
    raw = value.to_bytes(9, "little", signed=True)
    return b"\x8a\x09" + raw


def numbers(values: tuple[int, ...]) -> bytes:
    return b"(" + b"".join(map(integer, values)) + b"t"


def storage(key: str = "0", numel: int = 4, kind: str = "FloatStorage") -> bytes:
    return (
        b"(" + text("storage") + b"ctorch\n" + kind.encode() + b"\n" + text(key) + text("cpu") + integer(numel) + b"tQ"
    )


def tensor(
    shape: tuple[int, ...] = (4,), stride: tuple[int, ...] = (1,), offset: int = 0, held: bytes | None = None
) -> bytes:
    """The opcodes of one ``_rebuild_tensor_v2`` call."""
    held = storage() if held is None else held
    rest = integer(offset) + numbers(shape) + numbers(stride)
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + held + rest + b"\x89}tR"


def mapping(*items: tuple[str, bytes]) -> bytes:
    return b"}(" + b"".join(text(key) + value for key, value in items) + b"u"


def checkpoint(
    program: bytes, storages: dict[str, bytes] | None = None, extra: list[tuple[str, bytes]] | None = None
) -> bytes:
    """A torch zip around ``program``, which is a pickle without PROTO and STOP."""
    held = {"0": np.arange(4, dtype="<f4").tobytes()} if storages is None else storages
    members = [("m/data.pkl", b"\x80\x02" + program + b".")]
    members += [(f"m/data/{key}", content) for key, content in held.items()]
    return zipped(members + (extra or [("m/version", b"3\n")]))


def stream(
    program: bytes,
    storages: list[tuple[str, int, bytes]] | None = None,
    begin: list[bytes] | None = None,
    keys: bytes | None = None,
) -> bytes:
    """A torch file of before 1.6 around ``program``; storages are key, count of elements and bytes."""
    held = [("0", 4, np.arange(4, dtype="<f4").tobytes())] if storages is None else storages
    system = mapping(("protocol_version", b"M\xe9\x03"), ("little_endian", b"\x88"))
    first = [b"\x8a\x0a" + (0x1950A86A20F9469CFC6C).to_bytes(10, "little"), b"M\xe9\x03", system]
    listed = b"](" + b"".join(text(key) for key, _, _ in held) + b"e" if keys is None else keys
    pickles = [*(first if begin is None else begin), program, listed]
    tail = b"".join(struct.pack("<q", count) + content for _, count, content in held)
    return b"".join(b"\x80\x02" + one + b"." for one in pickles) + tail


def write(folder: Path, content: bytes, name: str = "hostile.pt") -> Path:
    path = folder / name
    path.write_bytes(content)
    return path
