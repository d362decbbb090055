"""``.npz`` archives: a zip of ``.npy`` members, never pickled.

Layout of a member (numpy/lib/format.py): ``\\x93NUMPY``, a version, the header length, a header that is a
Python dict literal with ``descr``, ``fortran_order`` and ``shape``, then the raw elements. The literal is
matched by a pattern, never evaluated.
"""

from __future__ import annotations

import math
import re
import struct

import numpy as np

from ...errors import FormatError, UnsupportedError
from .file_bytes import Source
from .tensorfile import TensorFile
from .zip_members import ZipMembers

MAX_HEADER = 4096
MAX_AXES = 32

_MAGIC = b"\x93NUMPY"
_ITEM = re.compile(
    r"""\s*(['"])(?P<key>\w{1,16})\1\s*:\s*
    (?:(['"])(?P<text>[<>|=]?\w{1,16})\3 | (?P<flag>True|False) | \((?P<shape>[0-9L,\ ]*)\))
    \s*(?:,\s*|(?=\}))""",
    re.VERBOSE,
)
_STRUCTURED = re.compile(r"""\{\s*(['"])descr\1\s*:\s*\[""")
_SHAPE = re.compile(r"|\d{1,19}L?,|\d{1,19}L?(?:, ?\d{1,19}L?)+,?", re.ASCII)
_NUMBER = re.compile(r"[<>|=]?(?:b1|[iu][1248]|f[248])", re.ASCII)


def looks_like(head: bytes) -> bool:
    """Whether a file that begins with ``head`` may be an npz: a zip, even an empty one.

    Zips of other kinds begin alike; :func:`cgru.formats.containers.zip_members.zip_kind` tells them apart.
    """
    return head[:4] in (b"PK\x03\x04", b"PK\x05\x06")


def read(source: Source) -> TensorFile:
    """The arrays of an npz file by name, read-only, in C order and the machine's byte order.

    ``source`` is a path or the bytes of a file. Raises :class:`FormatError` for a damaged or hostile file
    (pickled arrays among them) and :class:`UnsupportedError` for arrays that are no real numbers.
    """
    members = ZipMembers(source)
    tensors: dict[str, np.ndarray] = {}
    for name in members.names:
        if not name.endswith(".npy") or name == ".npy":
            raise FormatError(f"{members.shown}: member {name!r} is no .npy array; expected an npz file")
        tensors[name.removesuffix(".npy")] = array(members.read(name), f"{members.shown}: array {name!r}")
    return TensorFile(members.shown, "npz", tensors)


def array(data: memoryview, where: str) -> np.ndarray:
    """The array of a whole ``.npy`` file; ``where`` names it in messages."""
    header, start = _header(data, where)
    dtype, is_fortran, shape = _fields(header, where)
    expected = math.prod(shape) * dtype.itemsize
    if len(shape) > MAX_AXES or math.prod(size for size in shape if size) >= 2**48:
        raise FormatError(f"{where} has an impossible shape of {len(shape)} axes")
    if expected != len(data) - start:
        raise FormatError(
            f"{where}, {dtype} of shape {shape}, takes {expected} bytes; the member has {len(data) - start}"
        )
    if not expected:
        values = np.zeros(shape, dtype.newbyteorder("="))
    else:
        if dtype.kind == "b" and np.frombuffer(data, np.uint8, offset=start).max() > 1:
            raise FormatError(f"{where} is boolean but holds other bytes than 0 and 1")
        flat = np.frombuffer(data, dtype, offset=start)
        # Copied, so that the array outlives whatever happens to the file.
        values = np.array(
            flat.reshape(shape, order="F" if is_fortran else "C"),
            dtype.newbyteorder("="),
            order="C",
            copy=True,
        )
    values.flags.writeable = False
    return values


def _header(data: memoryview, where: str) -> tuple[str, int]:
    """The header's text and where the elements start."""
    if bytes(data[:6]) != _MAGIC or len(data) < 12:
        raise FormatError(f"{where} does not begin as a .npy array; it begins with {bytes(data[:8])!r}")
    major, minor = data[6], data[7]
    if (major, minor) not in ((1, 0), (2, 0), (3, 0)):
        raise FormatError(f"{where} has .npy version {major}.{minor}; 1.0, 2.0 and 3.0 are known")
    layout = struct.Struct("<H" if major == 1 else "<I")
    (length,) = layout.unpack_from(data, 8)
    start = 8 + layout.size
    if length > MAX_HEADER or start + length > len(data):
        raise FormatError(f"{where} declares a header of {length} bytes; at most {MAX_HEADER} are read")
    try:
        return bytes(data[start : start + length]).decode("latin-1" if major < 3 else "utf-8"), start + length
    except UnicodeDecodeError:
        raise FormatError(f"{where} has a header that is not UTF-8") from None


def _fields(header: str, where: str) -> tuple[np.dtype, bool, tuple[int, ...]]:
    body = header.strip(" \n")
    if _STRUCTURED.match(body):
        raise UnsupportedError(f"{where} is a structured array; expected plain numbers")
    found: dict[str, re.Match[str]] = {}
    at = 1
    while (item := _ITEM.match(body, at)) and item["key"] not in found:
        found[item["key"]] = item
        at = item.end()
    if body[:1] != "{" or body[at:] != "}" or found.keys() != {"descr", "fortran_order", "shape"}:
        raise FormatError(f"{where} has a malformed header: {header[:80]!r}")
    descr, flag, shape = found["descr"]["text"], found["fortran_order"]["flag"], found["shape"]["shape"]
    if descr is None or flag is None or shape is None or not _SHAPE.fullmatch(shape):
        raise FormatError(f"{where} has a malformed header: {header[:80]!r}")
    if descr.lstrip("<>|=").startswith("O"):
        raise FormatError(f"{where} holds pickled Python objects, which are never opened; save plain numbers")
    if not _NUMBER.fullmatch(descr):
        raise UnsupportedError(f"{where} has dtype {descr!r}; expected booleans, integers or floats up to 64 bits")
    sizes = tuple(int(size.rstrip("L")) for size in shape.replace(" ", "").split(",") if size)
    return np.dtype(descr), flag == "True", sizes
