"""A file as read-only bytes: read once, or mapped where the caller asks; a path is that of a regular file."""

from __future__ import annotations

import mmap
import os
import stat
from typing import Any, BinaryIO, NamedTuple, TypeAlias

import numpy as np

from ...errors import CgruError, FormatError

_ALIGNMENT = 64


class FileBytes(NamedTuple):
    """The bytes of one file, how messages name it, and where it lies: what is opened once is passed on so."""

    data: memoryview
    shown: str
    folder: str | None = None
    #: Of what came out of a compressed archive, the bytes of the archive: what it may cost is counted from them.
    packed: int | None = None


Source: TypeAlias = "str | os.PathLike[str] | bytes | bytearray | memoryview | BinaryIO | FileBytes"


def shown(source: Source) -> str:
    """How messages name ``source``: its path, or that it came as bytes or as an open file."""
    if isinstance(source, FileBytes):
        return source.shown
    if isinstance(source, (str, os.PathLike)):
        return os.fsdecode(source)
    if isinstance(source, (bytes, bytearray, memoryview)):
        return "<bytes>"
    name = getattr(source, "name", None)
    return name if isinstance(name, str) and name else "<open file>"


def open_bytes(source: Source) -> memoryview:
    """The bytes of ``source`` as a read-only view; see :func:`opened`."""
    return opened(source).data


def opened(source: Source, *, mapped: bool = False) -> FileBytes:
    """``source`` read once: a path, the bytes of a file, or a file open for reading, from where it stands.

    What a program does to the file afterwards changes nothing; a file that changes while it is read is a
    :class:`FormatError`. With ``mapped`` a path is mapped into memory instead: pages are read when they are used,
    and a program that rewrites or truncates the file meanwhile changes the view or ends this process (SIGBUS).

    Raises ``OSError`` when the path cannot be opened, :class:`FormatError` when it is no regular file, and
    :class:`CgruError` when ``source`` is none of these.
    """
    if isinstance(source, FileBytes):
        return source
    name = shown(source)
    if isinstance(source, (str, os.PathLike)):
        return FileBytes(_from_path(source, name, mapped), name, folder_of(source))
    if mapped:
        raise CgruError("mmap: only a file given by its path can be mapped; leave mmap= away")
    if isinstance(source, bytes):
        return FileBytes(memoryview(source), name)
    if isinstance(source, (bytearray, memoryview)):
        # Copied: arrays show these bytes for as long as they live, and the caller may write to them.
        return FileBytes(memoryview(bytes(source)), name)
    return FileBytes(_from_open_file(source), name)


def folder_of(source: Source) -> str | None:
    """The folder that a file lies in, where it was given by its path."""
    if isinstance(source, FileBytes):
        return source.folder
    return os.path.dirname(os.path.abspath(os.fsdecode(source))) if isinstance(source, (str, os.PathLike)) else None


def size_on_disk(source: Source) -> int:
    """The bytes of the file as it lies there, which are fewer than those of its content where it is compressed."""
    if isinstance(source, FileBytes) and source.packed is not None:
        return min(source.packed, len(source.data))
    return len(open_bytes(source))


def is_source(source: Any) -> bool:
    """Whether ``source`` is of a type that :func:`opened` takes."""
    known = (str, os.PathLike, bytes, bytearray, memoryview, FileBytes)
    return isinstance(source, known) or callable(getattr(source, "read", None))


def _from_path(path: str | os.PathLike[str], name: str, mapped: bool) -> memoryview:
    # O_NONBLOCK: opening a FIFO must not wait for a writer that may never come.
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    try:
        before = os.fstat(descriptor)
        if not stat.S_ISREG(before.st_mode):
            raise FormatError(f"{name}: expected a regular file, found a directory, pipe or device")
        if before.st_size == 0:
            return memoryview(b"")
        if mapped:
            return memoryview(mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ))
        data = _aligned(before.st_size)
        done = _read_into(descriptor, data)
        after = os.fstat(descriptor)
        if done != len(data) or (after.st_size, after.st_mtime_ns) != (before.st_size, before.st_mtime_ns):
            raise FormatError(f"{name}: changed while it was read; try again once it is written")
        return data.toreadonly()
    finally:
        os.close(descriptor)


def _aligned(size: int) -> memoryview:
    """``size`` bytes that begin at a multiple of 64, so that arrays in an aligned file are aligned too."""
    room = np.empty(size + _ALIGNMENT, np.uint8)
    start = -room.ctypes.data % _ALIGNMENT
    return room[start : start + size].data


def _read_into(descriptor: int, data: memoryview) -> int:
    """Fill ``data`` from where the file stands; the bytes that were there."""
    done = 0
    while done < len(data):
        count = os.readv(descriptor, [data[done:]]) if hasattr(os, "readv") else _read_part(descriptor, data[done:])
        if not count:
            break
        done += count
    return done


def _read_part(descriptor: int, data: memoryview) -> int:
    part = os.read(descriptor, min(len(data), 1 << 24))
    data[: len(part)] = part
    return len(part)


def _from_open_file(source: BinaryIO) -> memoryview:
    content = source.read()
    if not isinstance(content, (bytes, bytearray, memoryview)):
        found = type(content).__name__
        raise CgruError(f"path: a file open for reading must give bytes, found {found}; open it with mode 'rb'")
    return memoryview(bytes(content))
