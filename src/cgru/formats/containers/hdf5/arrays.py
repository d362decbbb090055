"""An HDF5 dataset as a numpy array: contiguous, compact or in chunks, plain or through gzip and shuffle.

Layouts and filters: File Format Specification 3.0, IV.A.2.i and l. What is stored is checked against what is
declared before anything is allocated.
"""

from __future__ import annotations

import math
import zlib

import numpy as np

from ....errors import FormatError, UnsupportedError
from .chunks import Chunk, Grid, chunks
from .objects import DATASPACE, DATATYPE, EXTERNAL, FILTERS, LAYOUT, Header
from .source import UNDEFINED, Fields, File
from .types import Datatype, dataspace, datatype

_DEFLATE, _SHUFFLE, _FLETCHER32 = 1, 2, 3
_OTHER_FILTERS = {4: "szip", 5: "nbit", 6: "scaleoffset", 32000: "lzf"}


def array(file: File, header: Header, where: str) -> tuple[np.ndarray, Datatype]:
    """The array of a dataset as the file stores it, read-only, and its declared type.

    Raises :class:`UnsupportedError` for a type, layout or filter that is not read.
    """
    space, kind = header.one(DATASPACE, "shape", where), header.one(DATATYPE, "type", where)
    layout = header.one(LAYOUT, "layout", where)
    if space is None or kind is None or layout is None:
        raise FormatError(f"{where} lacks its shape, type or layout: the file is damaged")
    declared = datatype(kind)
    dtype = declared.dtype
    if dtype is None:
        raise UnsupportedError(
            f"{where} has dtype {declared.name}; expected booleans, integers or floats up to 64 bits"
        )
    shape, limits = dataspace(space)
    if shape is None or math.prod(size for size in shape if size) >= 2**48:
        raise FormatError(f"{where} has an impossible shape: {shape}")
    filters = _filters(header.one(FILTERS, "filters", where), where)
    expected = math.prod(shape) * dtype.itemsize
    if header.all(EXTERNAL):
        raise UnsupportedError(f"{where} is stored in another file, which is never opened")
    version, form = layout.number(1), layout.number(1)
    if version not in (3, 4, 5):
        raise UnsupportedError(f"{where}: its layout is of version {version}; cgru reads 3 to 5")
    if form == 2:

        def grid_of(lengths: list[int]) -> Grid:
            if not lengths or lengths[-1] != dtype.itemsize:
                raise FormatError(f"{where} has chunks of items of {lengths[-1:]} bytes; its type has {dtype.itemsize}")
            return Grid(shape, limits, tuple(lengths[:-1]), dtype.itemsize, bool(filters), where)

        held = _together(file, *chunks(file, layout, version, grid_of), dtype, filters)
    elif form in (0, 1):
        if filters:
            raise FormatError(f"{where} has filters, but no chunks for them")
        held = np.frombuffer(_whole(file, layout, form, expected, where), dtype).reshape(shape)
    else:
        raise UnsupportedError(f"{where} is put together from other arrays or another file; save it as a plain array")
    held.flags.writeable = False
    return held, declared


def _whole(file: File, layout: Fields, form: int, expected: int, where: str) -> memoryview:
    """The bytes of an array that lies in one piece: in the header (compact), or somewhere (contiguous)."""
    if form == 0:
        data = layout.raw(layout.number(2))
        stored = len(data)
    else:
        address, stored = layout.address(), layout.number(8)
        if address == UNDEFINED:
            stored = 0
    if stored != expected:
        raise FormatError(f"{where} takes {expected} bytes; the file stores {stored} for it")
    if form == 1:
        data = file.stored(address, expected, where) if expected else memoryview(b"")
    return data


# ---- chunks ------------------------------------------------------------------------------------------------


def _together(file: File, grid: Grid, found: list[Chunk], dtype: np.dtype, filters: list[int]) -> np.ndarray:
    """The array that chunks make; each place of the grid must be there, once."""
    where = grid.where
    listed: dict[tuple[int, ...], Chunk] = {}
    for chunk in found:
        is_inside = all(at < count for at, count in zip(chunk.place, grid.counts, strict=True))
        if not is_inside or chunk.place in listed:
            raise FormatError(f"{where} has a chunk at {chunk.place} twice or outside its shape {grid.shape}")
        listed[chunk.place] = chunk
    total = math.prod(grid.counts)
    if len(listed) != total:
        raise FormatError(f"{where} is made of {total} chunks; the file stores {len(listed)}")
    expected = math.prod(grid.shape) * dtype.itemsize
    if not filters and expected > len(file.data):
        raise FormatError(f"{where} takes {expected} bytes; the file stores {len(file.data)} in all")
    if filters:
        # Before the array is allocated: every chunk is unpacked whole.
        file.unpack(total * grid.chunk_bytes, where)
    held = np.empty(grid.shape, dtype)
    for place, chunk in listed.items():
        stored = file.stored(chunk.address, chunk.size, where)
        raw = _unpacked(stored, filters, chunk.skipped, grid, dtype.itemsize)
        if len(raw) != grid.chunk_bytes:
            raise FormatError(f"{where} has a chunk of {len(raw)} bytes; expected {grid.chunk_bytes}")
        begins = [at * step for at, step in zip(place, grid.chunk, strict=True)]
        target = held[tuple(slice(begin, begin + step) for begin, step in zip(begins, grid.chunk, strict=True))]
        block = np.frombuffer(raw, dtype).reshape(grid.chunk)
        target[...] = block[tuple(slice(0, size) for size in target.shape)]
    return held


# ---- filters -----------------------------------------------------------------------------------------------


def _filters(body: Fields | None, where: str) -> list[int]:
    """The numbers of the filters in the order in which they were applied."""
    if body is None:
        return []
    version, count = body.number(1), body.number(1)
    if version not in (1, 2):
        raise UnsupportedError(f"{where}: its filters are of version {version}; cgru reads 1 and 2")
    body.raw(6 if version == 1 else 0)
    found: list[int] = []
    for _ in range(count):
        number = body.number(2)
        name = body.number(2) if version == 1 or number >= 256 else 0
        _, values = body.number(2), body.number(2)
        body.raw(name + (-name % 8 if version == 1 else 0))
        body.raw(4 * values + (4 if version == 1 and values % 2 else 0))
        found.append(number)
    for number in found:
        if number not in (_DEFLATE, _SHUFFLE, _FLETCHER32):
            called = _OTHER_FILTERS.get(number, "not built in")
            raise UnsupportedError(
                f"{where} is packed with a filter other than gzip (number {number}, {called}); save it without"
            )
    if len(set(found)) != len(found):
        raise FormatError(f"{where} has a filter twice: the file is damaged")
    return found


def _unpacked(stored: memoryview, filters: list[int], skipped: int, grid: Grid, item: int) -> bytes | memoryview:
    data: bytes | memoryview = stored
    for position in reversed(range(len(filters))):
        if skipped >> position & 1:
            continue
        if filters[position] == _DEFLATE:
            data = _inflated(data, grid)
        elif filters[position] == _SHUFFLE:
            whole = len(data) // item * item
            planes = np.frombuffer(data[:whole], np.uint8).reshape(item, -1)
            data = planes.T.tobytes() + bytes(data[whole:])
        else:
            if len(data) < 4 or _fletcher32(data[:-4]) != int.from_bytes(data[-4:], "little"):
                raise FormatError(f"{grid.where}: a chunk fails its checksum: the file is damaged, fetch it again")
            data = data[:-4]
    return data


def _inflated(data: bytes | memoryview, grid: Grid) -> bytes:
    # A checksum before the compression makes 4 bytes more; and a byte more tells a longer stream from an exact one.
    inflater = zlib.decompressobj()
    try:
        found = inflater.decompress(data, grid.chunk_bytes + 5)
    except zlib.error as error:
        raise FormatError(f"{grid.where}: a chunk is not valid deflate data ({error})") from None
    if not inflater.eof or inflater.unused_data:
        raise FormatError(f"{grid.where}: a chunk does not inflate to {grid.chunk_bytes} bytes: the file is damaged")
    return found


def _fletcher32(data: bytes | memoryview) -> int:
    """Fletcher's checksum over 16-bit words, the first byte of each the higher; an odd last byte is one as well."""
    words = np.frombuffer(bytes(data) + bytes(len(data) % 2), ">u2")
    low = high = 0
    for begin in range(0, len(words), 4096):
        part = words[begin : begin + 4096].astype(np.uint64)
        weights = np.arange(len(part), 0, -1, dtype=np.uint64)
        high = _folded(high + low * len(part) + int((part * weights).sum()))
        low = _folded(low + int(part.sum()))
    return high << 16 | low


def _folded(total: int) -> int:
    """Modulo 65535, but what is not zero stays so: the carries of 16-bit sums never make a zero."""
    return (total - 1) % 0xFFFF + 1 if total else 0
