"""A file as read-only bytes: mapped rather than copied, and never anything but a regular file."""

from __future__ import annotations

import mmap
import os
import stat
from typing import TypeAlias

from ...errors import FormatError

Source: TypeAlias = "str | os.PathLike[str] | bytes"


def shown(source: Source) -> str:
    """How messages name ``source``: its path, or that it came as bytes."""
    return "<bytes>" if isinstance(source, bytes) else os.fspath(source)


def open_bytes(source: Source) -> memoryview:
    """The bytes of ``source`` as a read-only view.

    A path is mapped into memory: the view (and every array made from it) shows the file as it is on disk, so
    a program that rewrites the file in place changes what the view shows; one that replaces it does not.

    Raises ``OSError`` when the path cannot be opened, :class:`FormatError` when it is no regular file.
    """
    if isinstance(source, bytes):
        return memoryview(source)
    # O_NONBLOCK: opening a FIFO must not wait for a writer that may never come.
    descriptor = os.open(source, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise FormatError(f"{shown(source)}: expected a regular file, found a directory, pipe or device")
        if status.st_size == 0:
            return memoryview(b"")
        return memoryview(mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ))
    finally:
        os.close(descriptor)
