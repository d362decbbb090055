"""The objects of an HDF5 file: the messages of their headers, the links of groups, the attributes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ....errors import FormatError, UnsupportedError
from .source import UNDEFINED, Fields, File
from .trees import FractalHeap, tree_v1, tree_v2

# Numbers of header messages (IV.A.2).
DATASPACE, LINK_INFO, DATATYPE, LINK, EXTERNAL, LAYOUT = 0x01, 0x02, 0x03, 0x06, 0x07, 0x08
FILTERS, ATTRIBUTE, CONTINUATION, SYMBOL_TABLE, ATTRIBUTE_INFO = 0x0B, 0x0C, 0x10, 0x11, 0x15


@dataclass(frozen=True)
class Message:
    """A header message: what kind, whether it stands elsewhere in the file, and its fields."""

    kind: int
    is_shared: bool
    body: memoryview


class Header:
    """The messages of the object at ``address`` (IV.A)."""

    def __init__(self, file: File, address: int) -> None:
        self.file, self.address = file, address
        start = file.fields(address, 4, "an object header")
        self.messages: list[Message] = []
        if bytes(start.data) == b"OHDR":
            self._second()
        else:
            self._first()

    def all(self, kind: int) -> list[Message]:
        return [message for message in self.messages if message.kind == kind]

    def one(self, kind: int, what: str, where: str) -> Fields | None:
        """The one message of that kind, None where there is none."""
        found = self.all(kind)
        if not found:
            return None
        if len(found) > 1:
            raise FormatError(f"{where} has {len(found)} messages of its {what}")
        if found[0].is_shared:
            raise UnsupportedError(f"{where}: its {what} is stored apart, for several objects at once; save it without")
        return Fields(found[0].body, f"{where}: its {what}")

    def _first(self) -> None:
        head = self.file.fields(self.address, 16, "an object header")
        if (version := head.number(1)) != 1:
            raise FormatError(f"{head.what} has version {version}; the file is damaged, or it is of no known kind")
        head.at = 8
        blocks = [(self.address + 16, head.number(4))]
        while blocks:
            block = self.file.fields(*blocks.pop(), "an object header")
            while block.left >= 8:
                kind, size, flags, _ = (block.number(n) for n in (2, 2, 1, 3))
                self._add(kind, flags, block.raw(size), blocks)

    def _second(self) -> None:
        flags = self.file.fields(self.address + 4, 2, "an object header").data[1]
        prefix = 6 + (16 if flags & 0x20 else 0) + (4 if flags & 0x10 else 0)
        width = 1 << (flags & 3)
        size = self.file.fields(self.address + prefix, width, "an object header").number(width)
        block = self.file.signed(self.address, prefix + width + size + 4, b"OHDR", 2, "an object header")
        block.at = prefix + width
        blocks: list[tuple[int, int]] = []
        shortest = 6 if flags & 4 else 4
        while True:
            while block.left >= shortest:
                kind, size, own = block.number(1), block.number(2), block.number(1)
                block.at += shortest - 4
                self._add(kind, own, block.raw(size), blocks)
            if not blocks:
                break
            at, size = blocks.pop()
            whole = self.file.fields(at, size, "an object header")
            if bytes(whole.data[:4]) != b"OCHK" or size < 8:
                raise FormatError(f"{whole.what} does not begin with OCHK: the file is damaged")
            self.file.verify(whole)
            block = Fields(whole.data[:-4], whole.what, 4)

    def _add(self, kind: int, flags: int, body: memoryview, blocks: list[tuple[int, int]]) -> None:
        if kind == CONTINUATION:
            where = Fields(body, f"{self.file.shown}: an object header")
            blocks.append((where.address(), where.number(8)))
        elif kind > 0x18 and flags & 0x80:
            raise UnsupportedError(f"{self.file.shown}: message {kind} of an object must be understood and is not")
        elif kind:
            self.messages.append(Message(kind, bool(flags & 2), body))

    @property
    def is_group(self) -> bool:
        return any(message.kind in (SYMBOL_TABLE, LINK_INFO, LINK) for message in self.messages)

    def links(self, where: str) -> Iterator[tuple[bytes, int | str]]:
        """What a group holds: names with the address of an object, or with what other kind of link it is."""
        if (table := self.one(SYMBOL_TABLE, "symbol table", where)) is not None:
            yield from _symbols(self.file, table.address(), table.address())
        for message in self.all(LINK):
            yield _link(Fields(message.body, f"{where}: a link"))
        if (info := self.one(LINK_INFO, "link info", where)) is not None:
            for body in _dense(self.file, info, 8, 5, (4, 7)):
                yield _link(Fields(body, f"{where}: a link"))

    def attributes(self, where: str) -> Iterator[memoryview]:
        """The body of each attribute message, wherever it stands; one that is shared is left out."""
        for message in self.all(ATTRIBUTE):
            if not message.is_shared:
                yield message.body
        if (info := self.one(ATTRIBUTE_INFO, "attribute info", where)) is not None:
            yield from _dense(self.file, info, 2, 8, (0, 8))


def _symbols(file: File, tree: int, heap: int) -> Iterator[tuple[bytes, int | str]]:
    """The links of a group in the old form: a B-tree of symbol tables, and a heap of names (III.A.1, C and D)."""
    head = file.signed(heap, 32, b"HEAP", 0, "the heap of names", summed=False)
    head.at = 8
    size, _, at = head.number(8), head.number(8), head.address()
    names = bytes(file.fields(at, size, "the heap of names").data)
    for _, address in tree_v1(file, tree, 0, 8):
        count = file.signed(address, 8, b"SNOD", 1, "a symbol table", summed=False).data[6:8]
        table = file.fields(address + 8, 40 * int.from_bytes(count, "little"), "a symbol table")
        while table.left:
            offset, target, kind, _ = (table.number(n) for n in (8, 8, 4, 20))
            end = names.find(0, offset, offset + 1100)
            if end < 0:
                raise FormatError(f"{table.what}: a name has no end, or more than 1000 letters")
            yield names[offset:end], "a soft link" if kind == 2 else target


def _link(body: Fields) -> tuple[bytes, int | str]:
    """A link message (IV.A.2.g)."""
    version, flags = body.number(1), body.number(1)
    if version != 1:
        raise UnsupportedError(f"{body.what} is of version {version}; cgru reads 1")
    kind = body.number(1) if flags & 8 else 0
    body.raw((8 if flags & 4 else 0) + (1 if flags & 16 else 0))
    name = bytes(body.raw(body.number(1 << (flags & 3))))
    return name, body.address() if kind == 0 else "a soft link" if kind == 1 else "an external link"


def _dense(file: File, info: Fields, order_size: int, kind: int, ids: tuple[int, int]) -> Iterator[memoryview]:
    """Messages that are kept in a fractal heap and found by a B-tree; ``ids`` is where a record holds its heap id."""
    version, flags = info.number(1), info.number(1)
    if version:
        raise UnsupportedError(f"{info.what} is of version {version}; cgru reads 0")
    info.raw(order_size if flags & 1 else 0)
    heap, tree = info.address(), info.address()
    if heap == UNDEFINED:
        return
    held = FractalHeap(file, heap)
    begin, size = ids
    for record in tree_v2(file, tree, kind):
        yield held.object(record[begin : begin + size])
