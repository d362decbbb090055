"""How HDF5 finds things: B-trees of both versions, fractal heaps (File Format Specification 3.0, III.A and III.G)."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from functools import cached_property

from ....errors import FormatError, UnsupportedError
from .source import UNDEFINED, Fields, File


def tree_v1(file: File, address: int, kind: int, key_size: int) -> Iterator[tuple[memoryview, int]]:
    """The keys and addresses of the leaves' entries in a version 1 B-tree (III.A.1)."""
    pending: list[tuple[int, int | None]] = [(address, None)]
    while pending:
        at, level = pending.pop()
        head = file.signed(at, 8, b"TREE", kind, "a node of a B-tree", summed=False)
        found, count = head.number(1), head.number(2)
        if level not in (None, found):
            raise FormatError(f"{head.what} is of level {found}; expected {level}: the file is damaged")
        body = file.fields(at + 24, count * (key_size + 8), "a node of a B-tree")
        entries = [(body.raw(key_size), body.address()) for _ in range(count)]
        if found:
            pending += [(child, found - 1) for _, child in reversed(entries)]
        else:
            yield from entries


def tree_v2(file: File, address: int, kind: int) -> Iterator[memoryview]:
    """The records of a version 2 B-tree (III.A.2)."""
    head = file.signed(address, 38, b"BTHD", 0, "a B-tree")
    found, node_size, size, depth = (head.number(n) for n in (1, 4, 2, 2))
    head.raw(2)
    root, count, total = head.address(), head.number(2), head.number(8)
    if found != kind or not size or node_size < 10 + size or depth > 16:
        raise FormatError(f"{head.what} is of kind {found}, depth {depth}, with records of {size} bytes: damaged")
    # How many records a node of each level holds at most, and the bytes of the numbers beside a child's address.
    most = [(node_size - 10) // size]
    own, below = _bytes_for(most[0]), [0]
    beneath = most[0]
    for _ in range(depth):
        pointer = 8 + own + below[-1]
        most.append((node_size - 10 - pointer) // (size + pointer))
        beneath = (most[-1] + 1) * beneath + most[-1]
        below.append(_bytes_for(max(beneath, 1)))
    pending = [(root, count, depth)] if total else []
    seen = 0
    while pending:
        at, count, level = pending.pop()
        if count > most[level]:
            raise FormatError(f"{head.what} has a node of {count} records, at most {most[level]} fit: damaged")
        pointer = 8 + own + below[level - 1] if level else 0
        whole = 10 + count * size + (count + 1) * pointer
        node = file.signed(at, whole, b"BTIN" if level else b"BTLF", 0, "a node of a B-tree")
        node.raw(1)
        seen += count
        for _ in range(count):
            yield node.raw(size)
        for _ in range(count + 1 if level else 0):
            pending.append((node.address(), node.number(own), level - 1))
            node.raw(below[level - 1])
    if seen != total:
        raise FormatError(f"{head.what} declares {total} records and has {seen}: the file is damaged")


def _bytes_for(limit: int) -> int:
    return (limit.bit_length() + 7) // 8


class FractalHeap:
    """A heap whose blocks double in size row by row (III.G)."""

    def __init__(self, file: File, address: int) -> None:
        self.file, self.address = file, address
        filters = file.fields(address + 7, 2, "a fractal heap").number(2)
        if filters:
            raise UnsupportedError(f"{file.shown}: the fractal heap at byte {address} is packed; save the file without")
        head = file.signed(address, 146, b"FRHP", 0, "a fractal heap")
        self.id_size, _, flags, max_managed, _ = (head.number(n) for n in (2, 2, 1, 4, 8))
        self.huge_tree = head.address()
        head.at = 110
        self.width, self.start, self.max_direct, bits = (head.number(n) for n in (2, 8, 8, 2))
        head.raw(2)
        self.root, self.rows = head.address(), head.number(2)
        powers = (self.width, self.start, self.max_direct)
        if any(n <= 0 or n & (n - 1) for n in powers) or self.start > self.max_direct or not 0 < bits <= 64:
            raise FormatError(f"{head.what} declares blocks of impossible sizes: the file is damaged")
        self.offset_size = (bits + 7) // 8
        self.length_size = min(_bytes_for(self.max_direct), _bytes_for(max_managed))
        #: Bytes before the first object of a direct block.
        self.is_summed = bool(flags & 2)
        self.prefix = 13 + self.offset_size + (4 if self.is_summed else 0)
        self.blocks: dict[tuple[int, int], memoryview] = {}

    def object(self, heap_id: memoryview) -> memoryview:
        """The bytes that a heap id stands for."""
        found = Fields(heap_id, f"{self.file.shown}: an object of the fractal heap at byte {self.address}")
        if (kind := found.number(1)) == 0x00:
            return self._managed(found.number(self.offset_size), found.number(self.length_size), found.what)
        if kind == 0x10:
            at, size = self._huge.get(found.number(min(self.id_size - 1, 8)), (UNDEFINED, 0))
            return self.file.fields(at, size, "a huge object").data
        raise UnsupportedError(f"{found.what} is of kind {kind:#x}; cgru reads managed and huge ones")

    @cached_property
    def _huge(self) -> dict[int, tuple[int, int]]:
        if self.id_size > 16:
            raise UnsupportedError(f"{self.file.shown}: a fractal heap has ids of {self.id_size} bytes")
        found = [struct.unpack("<3Q", record) for record in tree_v2(self.file, self.huge_tree, 1)]
        return {number: (at, size) for at, size, number in found}

    def _managed(self, offset: int, size: int, what: str) -> memoryview:
        """Walk down the indirect blocks to the direct block that holds ``offset``."""
        at, rows, base, block_size = self.root, self.rows, 0, self.start
        row_size = self.width * self.start
        while rows:
            inside = offset - base
            row = (inside // row_size).bit_length()
            block_size = self.start << max(row - 1, 0)
            row_begin = row_size << (row - 1) if row else 0
            if row >= rows:
                raise FormatError(f"{what} lies past its blocks: the file is damaged")
            column = (inside - row_begin) // block_size
            block = self._block(at, base, 17 + self.offset_size + 8 * self.width * rows, b"FHIB")
            place = 13 + self.offset_size + 8 * (row * self.width + column)
            at = int.from_bytes(block[place : place + 8], "little")
            base += row_begin + column * block_size
            rows = 0 if block_size <= self.max_direct else (block_size // row_size).bit_length()
        begin = offset - base
        block = self._block(at, base, block_size, b"FHDB")
        if begin < self.prefix or begin + size > len(block):
            raise FormatError(f"{what} lies outside its block: the file is damaged")
        return block[begin : begin + size]

    def _block(self, at: int, base: int, size: int, signature: bytes) -> memoryview:
        """The block at ``at``, which holds the heap's bytes from ``base``."""
        if (at, base) in self.blocks:
            return self.blocks[at, base]
        is_indirect = signature == b"FHIB"
        found = self.file.signed(at, size, signature, 0, "a block of a fractal heap", is_indirect)
        whole = found.data
        if not is_indirect and self.is_summed:
            # Its sum stands before the objects and is taken as if it were zero there.
            end = self.prefix
            zeroed = bytes(whole[: end - 4]) + bytes(4) + bytes(whole[end:]) + bytes(whole[end - 4 : end])
            self.file.verify(Fields(memoryview(zeroed), found.what))
        if (found.address(), found.number(self.offset_size)) != (self.address, base):
            raise FormatError(f"{found.what} belongs elsewhere: the file is damaged")
        self.blocks[at, base] = whole
        return whole
