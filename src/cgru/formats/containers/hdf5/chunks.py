"""Where the chunks of an HDF5 array lie: every index that the library writes (File Format Specification 3.0, VII).

An index gives for a chunk's place in the grid its address, the bytes it takes and the filters left out for it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, TypeAlias

from ....errors import FormatError, UnsupportedError
from .source import MAX_CHUNKS, MAX_INFLATED_FLOOR, UNDEFINED, Fields, File
from .trees import tree_v1, tree_v2


class Chunk(NamedTuple):
    """One chunk: its place in the grid, its address, its bytes in the file, and a bit for each filter left out."""

    place: tuple[int, ...]
    address: int
    size: int
    skipped: int


@dataclass(frozen=True)
class Grid:
    """The chunks of an array: its shape, what it may grow to, a chunk's shape and bytes, whether they are filtered.

    Raises :class:`FormatError` for chunks that do not suit the array.
    """

    shape: tuple[int, ...]
    limits: tuple[int, ...]
    chunk: tuple[int, ...]
    item: int
    is_filtered: bool
    where: str

    def __post_init__(self) -> None:
        total, expected = self.chunk_bytes, math.prod(self.shape) * self.item
        if len(self.chunk) != len(self.shape) or not self.shape or not total:
            raise FormatError(f"{self.where} of shape {self.shape} has chunks of shape {self.chunk}")
        if total > max(2 * expected, MAX_INFLATED_FLOOR):
            raise FormatError(f"{self.where} of {expected} bytes stores chunks of {total}")

    @cached_property
    def chunk_bytes(self) -> int:
        """Bytes of a chunk, unpacked."""
        return math.prod(self.chunk) * self.item

    @cached_property
    def counts(self) -> tuple[int, ...]:
        """Chunks along each axis."""
        return tuple(-(-size // step) for size, step in zip(self.shape, self.chunk, strict=True))

    def places(self) -> Iterator[tuple[int, ...]]:
        """Every place of the grid, the last axis fastest."""
        place = [0] * len(self.counts)
        for _ in range(math.prod(self.counts)):
            yield tuple(place)
            for axis in reversed(range(len(place))):
                place[axis] += 1
                if place[axis] < self.counts[axis]:
                    break
                place[axis] = 0

    def numbers(self, first: int) -> Callable[[tuple[int, ...]], int]:
        """The number of a place where axis ``first`` is slowest and every other one is as long as it may become."""
        axes = [first, *(axis for axis in range(len(self.chunk)) if axis != first)]
        steps, step = {}, 1
        for axis in reversed(axes):
            steps[axis] = step
            step *= -(-self.limits[axis] // self.chunk[axis])
        return lambda place: sum(steps[axis] * at for axis, at in enumerate(place))


Index: TypeAlias = Callable[[File, int, Grid], Iterator[Chunk]]


def chunks(file: File, layout: Fields, version: int, grid_of: Callable[[list[int]], Grid]) -> tuple[Grid, list[Chunk]]:
    """The grid and every chunk that is stored, from the rest of a layout message (IV.A.2.i, class 2).

    ``grid_of`` makes a grid of the lengths in the message: a chunk's shape, and the bytes of an item.
    """
    if version == 3:
        axes, address = layout.number(1), layout.address()
        grid = grid_of([layout.number(4) for _ in range(axes)])
        return grid, _found(by_tree_v1, file, address, grid)
    flags, axes, width = (layout.number(1) for _ in range(3))
    grid = grid_of([layout.number(width) for _ in range(axes)])
    if flags & 1 and grid.is_filtered:
        raise UnsupportedError(f"{grid.where} leaves the filters out for chunks at its edge")
    kind = layout.number(1)
    if kind == 1:
        size, skipped = (layout.number(8), layout.number(4)) if flags & 2 else (grid.chunk_bytes, 0)
        return grid, [Chunk((0,) * len(grid.chunk), layout.address(), size, skipped)]
    if kind not in _INDEXES:
        raise UnsupportedError(f"{grid.where}: its chunks have an index of kind {kind}; cgru reads 1 to 5")
    parameters, index = _INDEXES[kind]
    layout.raw(parameters)
    return grid, _found(index, file, layout.address(), grid)


def _found(index: Index, file: File, address: int, grid: Grid) -> list[Chunk]:
    file.chunks(math.prod(grid.counts), grid.where)
    if address == UNDEFINED or not all(grid.counts):
        return []
    return [chunk for chunk in index(file, address, grid) if chunk.address != UNDEFINED]


def by_tree_v1(file: File, address: int, grid: Grid) -> Iterator[Chunk]:
    """Keys hold the bytes, the filters left out, and where the chunk begins along each axis (III.A.1)."""
    rank = len(grid.chunk)
    for key, at in tree_v1(file, address, 1, 8 + 8 * (rank + 1)):
        fields = Fields(key, grid.where)
        size, skipped = fields.number(4), fields.number(4)
        begins = [fields.number(8) for _ in range(rank)]
        if any(begin % step for begin, step in zip(begins, grid.chunk, strict=True)):
            raise FormatError(f"{grid.where} has a chunk at {begins}, between those of {grid.chunk}")
        yield Chunk(tuple(begin // step for begin, step in zip(begins, grid.chunk, strict=True)), at, size, skipped)


def by_tree_v2(file: File, address: int, grid: Grid) -> Iterator[Chunk]:
    """Records hold the address and the place, and between them bytes and filters where there are any (types 10, 11)."""
    for record in tree_v2(file, address, 11 if grid.is_filtered else 10):
        fields = Fields(record, grid.where)
        at, size, skipped = _entry(fields, grid, _size_bytes(grid, len(record) - 8 * len(grid.chunk)))
        yield Chunk(tuple(fields.number(8) for _ in grid.chunk), at, size, skipped)


def by_implicit(file: File, address: int, grid: Grid) -> Iterator[Chunk]:
    """Chunks of equal size, one after another."""
    number = grid.numbers(0)
    for place in grid.places():
        yield Chunk(place, address + number(place) * grid.chunk_bytes, grid.chunk_bytes, 0)


def by_fixed_array(file: File, address: int, grid: Grid) -> Iterator[Chunk]:
    """A header, and a block of entries that may be cut into pages."""
    head = file.signed(address, 28, b"FAHD", 0, "an index of chunks")
    _, entry_bytes, page_bits, count, block = (head.number(n) for n in (1, 1, 1, 8, 8))
    size_bytes = _size_bytes(grid, entry_bytes)
    _check_count(count, grid.where)
    if block == UNDEFINED:
        return
    entries = _block(file, block, b"FADB", 14, count, entry_bytes, page_bits, bitmap=True)
    yield from _numbered(entries, grid, 0, size_bytes)


def by_extensible_array(file: File, address: int, grid: Grid) -> Iterator[Chunk]:
    """Entries in an index block, then in data blocks it knows, then in blocks of blocks that grow by powers of two."""
    head = file.signed(address, 72, b"EAHD", 0, "an index of chunks")
    _, entry_bytes, max_bits, own, smallest, min_blocks, page_bits = (head.number(1) for _ in range(7))
    head.raw(48)
    block = head.address()
    growing = [axis for axis, limit in enumerate(grid.limits) if limit == UNDEFINED]
    if len(growing) != 1 or any(n <= 0 or n & (n - 1) for n in (smallest, min_blocks)) or max_bits > 64:
        raise FormatError(f"{head.what} does not fit an array that grows to {grid.limits}: the file is damaged")
    number = grid.numbers(growing[0])
    size_bytes = _size_bytes(grid, entry_bytes)
    wanted = number(tuple(n - 1 for n in grid.counts)) + 1
    _check_count(wanted, grid.where)
    offset_bytes = (max_bits + 7) // 8
    # The first groups of blocks are listed in the index block itself.
    direct_groups, groups = 2 * (min_blocks.bit_length() - 1), max_bits - (smallest.bit_length() - 1) + 1
    listed, nested = 2 * (min_blocks - 1), max(groups - direct_groups, 0)
    if block == UNDEFINED:
        return
    index = file.signed(block, 14 + own * entry_bytes + 8 * (listed + nested) + 4, b"EAIB", 0, "an index of chunks")
    index.raw(9)
    entries: list[memoryview | None] = [index.raw(entry_bytes) for _ in range(own)]
    blocks = [index.address() for _ in range(listed)]
    for group in range(groups):
        count, size = 1 << group // 2, smallest << (group + 1) // 2
        if len(entries) >= wanted:
            break
        if group < direct_groups:
            here, blocks = blocks[:count], blocks[count:]
        else:
            here = _group(file, index.address(), count, size, page_bits, offset_bytes)
        for at in here:
            if len(entries) < wanted:
                _check_count(size, grid.where)
                whole = at != UNDEFINED
                head_bytes = 14 + offset_bytes
                entries += (
                    _block(file, at, b"EADB", head_bytes, size, entry_bytes, page_bits, bitmap=False)
                    if whole
                    else [None] * size
                )
    yield from _numbered(entries, grid, growing[0], size_bytes)


def _group(file: File, address: int, count: int, size: int, page_bits: int, offset_bytes: int) -> list[int]:
    """The addresses of the data blocks that a block of blocks lists."""
    if address == UNDEFINED:
        return [UNDEFINED] * min(count, MAX_CHUNKS)
    pages = size >> page_bits
    bitmap = count * ((pages + 7) // 8) if pages > 1 else 0
    block = file.signed(address, 14 + offset_bytes + bitmap + 8 * count + 4, b"EASB", 0, "an index of chunks")
    block.raw(9 + offset_bytes + bitmap)
    return [block.address() for _ in range(count)]


def _block(
    file: File, address: int, signature: bytes, head: int, count: int, size: int, page_bits: int, bitmap: bool
) -> list[memoryview | None]:
    """``count`` entries, in pages of 2 ** ``page_bits`` with a checksum each where there are more than that."""
    page = 1 << page_bits
    if count <= page:
        block = file.signed(address, head + count * size + 4, signature, 0, "a block of an index of chunks")
        block.at = head
        return [block.raw(size) for _ in range(count)]
    pages = -(-count // page)
    head += (pages + 7) // 8 if bitmap else 0
    file.signed(address, head + 4, signature, 0, "a block of an index of chunks")
    at = address + head + 4
    entries: list[memoryview | None] = []
    for _ in range(pages):
        held = min(page, count - len(entries))
        body = file.fields(at, held * size + 4, "a page of an index of chunks")
        if any(body.data):
            file.verify(body)
        entries += [body.raw(size) for _ in range(held)]
        at += held * size + 4
    return entries


def _numbered(entries: Sequence[memoryview | None], grid: Grid, first: int, size_bytes: int) -> Iterator[Chunk]:
    number = grid.numbers(first)
    for place in grid.places():
        at = number(place)
        entry = entries[at] if at < len(entries) else None
        if entry is not None:
            yield Chunk(place, *_entry(Fields(entry, grid.where), grid, size_bytes))


def _entry(fields: Fields, grid: Grid, size_bytes: int) -> tuple[int, int, int]:
    at = fields.address()
    return (at, fields.number(size_bytes), fields.number(4)) if grid.is_filtered else (at, grid.chunk_bytes, 0)


def _size_bytes(grid: Grid, entry_bytes: int) -> int:
    """How many bytes of an entry say what the chunk takes in the file."""
    found = entry_bytes - 12 if grid.is_filtered else 0
    if not (1 <= found <= 8 if grid.is_filtered else entry_bytes == 8):
        raise FormatError(f"{grid.where}: its index has entries of {entry_bytes} bytes: the file is damaged")
    return found


def _check_count(count: int, where: str) -> None:
    if count > 2 * MAX_CHUNKS:
        raise UnsupportedError(f"{where} has {count} chunks or more; cgru reads up to {MAX_CHUNKS}")


#: Kinds of index in version 4 of the layout message: bytes of parameters, which the index repeats, and its reader.
_INDEXES: dict[int, tuple[int, Index]] = {
    2: (0, by_implicit),
    3: (1, by_fixed_array),
    4: (5, by_extensible_array),
    5: (6, by_tree_v2),
}
