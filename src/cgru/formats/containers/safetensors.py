"""safetensors, read and written with numpy alone.

Layout (the format section of the safetensors README): a little-endian u64 header length; the header, a JSON
object that maps each name to ``dtype``, ``shape`` and ``data_offsets`` counted from the end of the header,
with ``__metadata__`` mapping strings to strings; then the data, little-endian in C order, without gaps or
overlaps. The header may end in spaces.
"""

from __future__ import annotations

import json
import math
import os
import struct
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import chain
from typing import Any, BinaryIO, NamedTuple, NoReturn

import numpy as np

from ...errors import CgruError, FormatError, ShapeError, UnsupportedError
from .file_bytes import Source, open_bytes, size_on_disk
from .file_bytes import shown as shown_name
from .messages import brief
from .tensorfile import TensorFile

MAX_HEADER = 16 << 20
MAX_TENSORS = 100_000
MAX_AXES = 32
ALIGNMENT = 64

# BF16 is held as its bit pattern.
_CODES = {
    "BOOL": "?", "U8": "u1", "I8": "i1", "U16": "<u2", "I16": "<i2", "F16": "<f2", "BF16": "<u2",
    "U32": "<u4", "I32": "<i4", "F32": "<f4", "U64": "<u8", "I64": "<i8", "F64": "<f8",
}  # fmt: skip
_NAMES = {np.dtype(code): name for name, code in _CODES.items() if name != "BF16"}


class _Entry(NamedTuple):
    """One tensor of the header; ``begin`` and ``end`` count from the start of the data."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


def looks_like(head: bytes) -> bool:
    """Whether a file that begins with ``head`` (9 bytes or more) may be a safetensors file."""
    return len(head) > 8 and head[8:9] == b"{" and 2 <= int.from_bytes(head[:8], "little") <= MAX_HEADER


def read(source: Source, *, widen: bool = True) -> TensorFile:
    """The tensors of a safetensors file, in the header's order, as read-only arrays.

    The arrays show the bytes that were read (of a mapped file, the file). BF16 becomes float32, exactly; with
    ``widen=False`` it stays as uint16 bit patterns, which :func:`dtypes`, or :func:`read_as_held`, tells from U16.

    Raises :class:`FormatError` for a file that breaks any rule of the format, :class:`UnsupportedError` for
    dtypes numpy has no counterpart of.
    """
    return _read(source, widen)[0]


def read_as_held(source: Source) -> tuple[TensorFile, dict[str, str]]:
    """:func:`read` without widening, and the format's own dtype name of every tensor, of one opening of the file."""
    return _read(source, False)


def _read(source: Source, widen: bool) -> tuple[TensorFile, dict[str, str]]:
    shown = shown_name(source)
    data = open_bytes(source)
    entries, metadata, start = _header(source)
    tensors = {name: _array(name, entry, data, start, widen, shown) for name, entry in entries.items()}
    kinds = {name: entry.dtype for name, entry in entries.items()}
    return TensorFile(shown, "safetensors", tensors, metadata=metadata), kinds


def read_metadata(source: Source) -> dict[str, str]:
    """The file's own notes, and nothing else of it; no check of its tensors."""
    header, _ = _parsed(source)
    return _metadata(header.get("__metadata__", {}), shown_name(source))


def dtypes(source: Source) -> dict[str, str]:
    """The format's own dtype name (``F32``, ``BF16`` …) of every tensor; reads only the header."""
    entries, _, _ = _header(source)
    return {name: entry.dtype for name, entry in entries.items()}


def write(
    path: str | os.PathLike[str],
    tensors: Mapping[str, np.ndarray],
    metadata: Mapping[str, str] | None = None,
    *,
    dtypes: Mapping[str, str] | None = None,
) -> None:
    """Write ``tensors`` to ``path`` as a safetensors file; equal input gives equal bytes.

    The data starts at a multiple of 64. The format allows no gaps, so tensors whose size is a multiple of 64
    come first, then those of 32, 16 and so on: each starts at the largest power of two (up to 64) that
    divides its own size, hence always at a multiple of its item size. The header keeps the order of
    ``tensors``. ``dtypes={"name": "BF16"}`` marks a uint16 array of bit patterns as bfloat16.

    The file appears complete or not at all: it is written beside ``path`` and moved over it, and what stood
    there before is lost only then. Raises :class:`ShapeError` or :class:`CgruError` for what the format
    cannot hold, before anything is written.
    """
    shown = os.fspath(path)
    parts = pieces(tensors, metadata, dtypes=dtypes, shown=shown)
    with _replacing(shown) as file:
        for part in parts:
            file.write(part)


def pieces(
    tensors: Mapping[str, np.ndarray],
    metadata: Mapping[str, str] | None = None,
    *,
    dtypes: Mapping[str, str] | None = None,
    shown: str = "<bytes>",
) -> Iterator[bytes | memoryview]:
    """What :func:`write` writes, one part after the other; raises as it does, before the first."""
    notes = _checked_metadata(metadata or {}, shown)
    overrides = dict(dtypes or {})
    for name in overrides.keys() - tensors.keys():
        raise CgruError(f"{shown}: dtypes names {name!r}, which is not among the tensors")
    kinds = {name: _kind(name, array, overrides.get(name), shown) for name, array in tensors.items()}
    order = sorted(tensors, key=lambda name: (-_divisor(tensors[name].nbytes), name))
    offsets: dict[str, list[int]] = {}
    position = 0
    for name in order:
        offsets[name] = [position, position + tensors[name].nbytes]
        position += tensors[name].nbytes
    header: dict[str, Any] = {"__metadata__": notes} if notes else {}
    for name, array in tensors.items():
        header[name] = {"dtype": kinds[name], "shape": list(array.shape), "data_offsets": offsets[name]}
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % ALIGNMENT)
    if len(text) > MAX_HEADER:
        raise CgruError(f"{shown}: names and metadata take {len(text)} bytes; at most {MAX_HEADER} can be read back")
    data = (np.ascontiguousarray(tensors[name], _CODES[kinds[name]]).reshape(-1).view(np.uint8).data for name in order)
    return chain([struct.pack("<Q", len(text)) + text], data)


def _divisor(size: int) -> int:
    """The largest power of two, up to the alignment wanted, that divides ``size``."""
    return math.gcd(size, ALIGNMENT)


def _kind(name: str, array: np.ndarray, override: str | None, shown: str) -> str:
    _check_text(name, "tensor name", shown)
    if name == "__metadata__":
        raise CgruError(f"{shown}: a tensor cannot be named '__metadata__', which the format reserves")
    if not isinstance(array, np.ndarray):
        raise ShapeError(f"{shown}: tensor {name!r} is a {type(array).__name__}; expected a numpy array")
    kind = _NAMES.get(array.dtype.newbyteorder("<"))
    if kind is None:
        raise ShapeError(f"{shown}: tensor {name!r} is {array.dtype}; expected one of {', '.join(_CODES)}")
    if array.ndim > MAX_AXES:
        raise ShapeError(f"{shown}: tensor {name!r} has {array.ndim} axes; at most {MAX_AXES} can be read back")
    if override is None or override == kind:
        return kind
    if override != "BF16" or kind != "U16":
        raise ShapeError(
            f"{shown}: tensor {name!r} is {array.dtype} and cannot be marked {override}; only uint16 bit "
            "patterns can be marked, as BF16"
        )
    return override


def _checked_metadata(metadata: Mapping[str, str], shown: str) -> dict[str, str]:
    for key, value in metadata.items():
        _check_text(key, "metadata key", shown)
        _check_text(value, f"metadata {key!r}", shown)
    return dict(metadata)


def _check_text(text: object, what: str, shown: str) -> None:
    if not isinstance(text, str):
        raise CgruError(f"{shown}: {what} is a {type(text).__name__}; expected a string")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise CgruError(f"{shown}: {what} {text[:80]!r} has lone surrogates, which UTF-8 cannot hold") from None


@contextmanager
def _replacing(path: str) -> Iterator[BinaryIO]:
    """A new file beside ``path`` that takes its place if the block succeeds and vanishes if it does not."""
    target = os.path.realpath(path)
    folder, base = os.path.split(target)
    beside = os.path.join(folder, f".{base[:100]}.{os.urandom(8).hex()}.tmp")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
    # os.open rather than tempfile: the new file gets the permissions any new file gets.
    file = os.fdopen(os.open(beside, flags, 0o666), "wb")
    try:
        with file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, target)
    except BaseException:
        os.unlink(beside)
        raise


def _header(source: Source) -> tuple[dict[str, _Entry], dict[str, str], int]:
    """The entries by name in the header's order, the metadata, and where the data starts."""
    data, shown = open_bytes(source), shown_name(source)
    header, start = _parsed(source)
    metadata = _metadata(header.pop("__metadata__", {}), shown)
    if len(header) > MAX_TENSORS:
        raise FormatError(f"{shown}: holds {len(header):,} tensors, more than the {MAX_TENSORS:,} that are read")
    entries = {name: _entry(name, value, shown) for name, value in header.items()}
    end = 0
    for name, entry in sorted(entries.items(), key=lambda item: (item[1].begin, item[1].end)):
        if entry.begin != end:
            what = "overlaps the tensor before it" if entry.begin < end else "leaves a gap before it"
            raise FormatError(f"{shown}: tensor {brief(name)} starts at {entry.begin} of the data and {what} ({end})")
        end = entry.end
    if end != len(data) - start:
        raise FormatError(
            f"{shown}: the tensors take {end} bytes, the file has {len(data) - start} after its header: "
            "truncated, or with something appended"
        )
    return entries, metadata, start


def _parsed(source: Source) -> tuple[dict[str, Any], int]:
    """The header as JSON, and where the data starts."""
    data, shown = open_bytes(source), shown_name(source)
    # Out of a compressed archive a header may be a thousand times what was read.
    most = MAX_HEADER if size_on_disk(source) == len(data) else min(MAX_HEADER, (4 << 20) + size_on_disk(source))
    if len(data) < 8:
        raise FormatError(f"{shown}: {len(data)} bytes; a safetensors file has at least 10")
    (length,) = struct.unpack_from("<Q", data)
    if length > most or length > len(data) - 8:
        raise FormatError(
            f"{shown}: declares a header of {length} bytes; the file has {len(data) - 8} after the length "
            f"and at most {most} are read: truncated, or not safetensors"
        )
    raw = data[8 : 8 + length]
    if raw[:1] != b"{":
        raise FormatError(f"{shown}: the header begins with {bytes(raw[:8])!r}; expected '{{'")
    return _parse(raw, shown), 8 + length


def _parse(raw: memoryview, shown: str) -> dict[str, Any]:
    def refuse(found: str) -> NoReturn:
        raise FormatError(f"{shown}: the header has the number {found[:40]}; only whole ones are in the format")

    def integer(digits: str) -> int:
        return int(digits) if len(digits) <= 20 else refuse(digits)

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        values = dict(pairs)
        if len(values) != len(pairs):
            twice = next(name for name, count in Counter(name for name, _ in pairs).items() if count > 1)
            raise FormatError(f"{shown}: the header names {brief(twice)} twice")
        return values

    try:
        header = json.loads(
            str(raw, "utf-8"),
            object_pairs_hook=unique,
            parse_int=integer,
            parse_float=refuse,
            parse_constant=refuse,
        )
    except CgruError:
        raise
    except RecursionError:
        raise FormatError(f"{shown}: the header nests too deep; a tensor's entry is two levels") from None
    except ValueError as error:
        raise FormatError(f"{shown}: the header is not valid JSON ({error})") from None
    if not isinstance(header, dict):
        raise FormatError(f"{shown}: the header is not a JSON object")
    return header


def _metadata(value: Any, shown: str) -> dict[str, str]:
    if not isinstance(value, dict) or not all(isinstance(item, str) for item in value.values()):
        raise FormatError(f"{shown}: __metadata__ must map strings to strings")
    for key, item in value.items():
        _check_encodable(key + item, shown)
    return value


def _check_encodable(text: str, shown: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise FormatError(f"{shown}: the header has text with lone surrogates: {brief(text)}") from None


def _entry(name: str, value: Any, shown: str) -> _Entry:
    _check_encodable(name, shown)
    if not isinstance(value, dict) or value.keys() != {"dtype", "shape", "data_offsets"}:
        raise FormatError(f"{shown}: tensor {brief(name)} must have exactly dtype, shape and data_offsets")
    dtype, shape, offsets = value["dtype"], value["shape"], value["data_offsets"]
    if not isinstance(dtype, str) or not _are_sizes(shape) or not _are_sizes(offsets) or len(offsets) != 2:
        raise FormatError(f"{shown}: tensor {brief(name)} has a malformed dtype, shape or data_offsets")
    if dtype not in _CODES:
        raise UnsupportedError(f"{shown}: tensor {brief(name)} has dtype {dtype[:20]!r}; read are {', '.join(_CODES)}")
    if len(shape) > MAX_AXES or math.prod(size for size in shape if size) >= 2**48:
        raise FormatError(f"{shown}: tensor {brief(name)} has an impossible shape of {len(shape)} axes")
    begin, end = offsets
    expected = math.prod(shape) * np.dtype(_CODES[dtype]).itemsize
    if end - begin != expected:
        raise FormatError(
            f"{shown}: tensor {brief(name)}, {dtype} of shape {brief(shape)}, takes {expected} bytes; its offsets "
            f"{begin} to {end} do not agree"
        )
    return _Entry(dtype, tuple(shape), begin, end)


def _are_sizes(values: Any) -> bool:
    return isinstance(values, list) and all(type(value) is int and 0 <= value < 2**62 for value in values)


def _array(name: str, entry: _Entry, data: memoryview, start: int, widen: bool, shown: str) -> np.ndarray:
    dtype = np.dtype(_CODES[entry.dtype])
    if entry.begin == entry.end:
        array = np.zeros(entry.shape, dtype)
    else:
        array = np.frombuffer(data[start + entry.begin : start + entry.end], dtype).reshape(entry.shape)
    if entry.dtype == "BOOL" and array.size and array.view(np.uint8).max() > 1:
        raise FormatError(f"{shown}: tensor {brief(name)} is BOOL but holds other bytes than 0 and 1")
    if entry.dtype == "BF16" and widen:
        array = (array.astype(np.uint32) << 16).view(np.float32)
    # Native and aligned, which costs a copy only on a big-endian machine or in a file with an odd header.
    array = np.require(array, dtype=array.dtype.newbyteorder("="), requirements="A")
    array.flags.writeable = False
    return array
