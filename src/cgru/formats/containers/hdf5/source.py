"""The bytes of an HDF5 file: what may be read of them and how often, the superblock, and the heaps of texts.

HDF5 File Format Specification 3.0, whose sections the docstrings name. The readers above visit each structure
once; what they take is charged to an account of about the size of the file, so that cycles, overlaps and
structures that refer to one another without end are errors and time stays linear. Checksums are verified.
"""

from __future__ import annotations

import struct
from functools import cached_property

from ....errors import FormatError, UnsupportedError

SIGNATURE = b"\x89HDF\r\n\x1a\n"
#: An address that is not there.
UNDEFINED = 2**64 - 1
#: Bytes under a checksum: the sum takes 0.3 s a megabyte, and real files have kilobytes.
MAX_SUMMED = 8 << 20
#: Chunks of all arrays together: one takes up to 20 µs.
MAX_CHUNKS = 100_000
# As for zip members: trained weights hardly compress, small files get room to spare.
MAX_INFLATED_RATIO = 100
MAX_INFLATED_FLOOR = 16 << 20


class Fields:
    """Fields one after another in ``data``; reading past the end is a :class:`FormatError`."""

    def __init__(self, data: memoryview, what: str, at: int = 0) -> None:
        self.data, self.what, self.at = data, what, at

    @property
    def left(self) -> int:
        return len(self.data) - self.at

    def raw(self, size: int) -> memoryview:
        begin, self.at = self.at, self.at + size
        if self.at > len(self.data):
            raise FormatError(f"{self.what} ends early")
        return self.data[begin : self.at]

    def number(self, size: int) -> int:
        return int.from_bytes(self.raw(size), "little")

    def address(self) -> int:
        return self.number(8)

    def text(self) -> bytes:
        """Bytes up to a zero, which is skipped."""
        rest = bytes(self.data[self.at :])
        end = rest.find(0)
        if end < 0:
            raise FormatError(f"{self.what}: a name has no end")
        self.at += end + 1
        return rest[:end]

    def padded(self, size: int, to: int) -> Fields:
        """Fields of their own in the next ``size`` bytes, which are followed by padding to a multiple of ``to``."""
        inner = Fields(self.raw(size), self.what)
        self.at += -size % to
        return inner


class File:
    """The bytes of a file and what may still be read of them; messages begin with ``shown``."""

    def __init__(self, data: memoryview, shown: str, file_size: int) -> None:
        self.data, self.shown = data, shown
        self._metadata = 2 * len(data) + (64 << 10)
        self._summed = MAX_SUMMED
        self._stored = len(data)
        self._unpacked = max(MAX_INFLATED_FLOOR, MAX_INFLATED_RATIO * file_size)
        self._chunks = MAX_CHUNKS
        self._heaps: dict[int, dict[int, tuple[int, int]]] = {}

    def error(self, what: str) -> FormatError:
        return FormatError(f"{self.shown}: {what}")

    def fields(self, at: int, size: int, what: str) -> Fields:
        """``size`` bytes of metadata from ``at``."""
        self._metadata -= size + 8
        if at + size > len(self.data):
            raise self.error(f"{what} at byte {at} reaches past the end: the file is damaged or truncated")
        if self._metadata < 0:
            raise self.error(f"{what} at byte {at}: the file's structures overlap or refer to one another without end")
        return Fields(self.data[at : at + size], f"{self.shown}: {what} at byte {at}")

    def signed(self, at: int, size: int, signature: bytes, version: int, what: str, summed: bool = True) -> Fields:
        """A structure that begins with a signature and a version and, where ``summed``, ends with a checksum."""
        found = self.fields(at, size, what)
        if bytes(found.raw(4)) != signature:
            raise FormatError(f"{found.what} does not begin with {signature.decode()}: the file is damaged")
        if (number := found.number(1)) != version:
            raise UnsupportedError(f"{found.what} is of version {number}; cgru reads {version}")
        if summed:
            self.verify(found)
            found.data = found.data[:-4]
        return found

    def verify(self, found: Fields) -> None:
        """Check that the last four bytes are the sum of those before."""
        self._summed -= len(found.data)
        if self._summed < 0:
            raise UnsupportedError(f"{self.shown}: has more than {MAX_SUMMED} bytes of metadata under checksums")
        if checksum(bytes(found.data[:-4])) != int.from_bytes(found.data[-4:], "little"):
            raise FormatError(f"{found.what} fails its checksum: the file is damaged, fetch it again")

    def stored(self, at: int, size: int, where: str) -> memoryview:
        """``size`` bytes of an array from ``at``; all arrays together cannot take more than the file has."""
        self._stored -= size
        if at + size > len(self.data):
            raise FormatError(f"{where} takes bytes {at} to {at + size}; the file stores {len(self.data)}")
        if self._stored < 0:
            raise FormatError(f"{where} lies where other arrays lie: the file is damaged, or made to look larger")
        return self.data[at : at + size]

    def unpack(self, size: int, where: str) -> None:
        """Announce ``size`` bytes that will be unpacked."""
        self._unpacked -= size
        if self._unpacked < 0:
            raise FormatError(
                f"{where} unpacks to {size} bytes, out of proportion to the file: a compression bomb, or not a model"
            )

    def chunks(self, count: int, where: str) -> None:
        """Announce ``count`` chunks that will be looked up and unpacked."""
        self._chunks -= count
        if self._chunks < 0:
            raise UnsupportedError(f"{where} has {count} chunks; cgru reads {MAX_CHUNKS} in one file")

    @cached_property
    def root(self) -> int:
        """Address of the root group's object header (II.A)."""
        head = self.fields(0, min(96, len(self.data)), "the superblock")
        head.at = 8
        version = head.number(1)
        if version in (0, 1):
            head.at = 13
            sizes = head.number(1), head.number(1)
            head.at = 24 if version == 0 else 28
            base, _, end, driver, _, root = (head.address() for _ in range(6))
        elif version in (2, 3):
            whole = Fields(head.data[:48], head.what, 9)
            self.verify(whole)
            sizes = whole.number(1), whole.number(1)
            if whole.number(1) & 1:
                raise self.error("was not closed by the program that wrote it")
            base, _, end, root = (whole.address() for _ in range(4))
            driver = UNDEFINED
        else:
            raise UnsupportedError(f"{self.shown}: its superblock is of version {version}; cgru reads 0 to 3")
        if sizes != (8, 8) or base or driver != UNDEFINED:
            raise UnsupportedError(f"{self.shown}: its addresses are not of 8 bytes from the start of this one file")
        if end > len(self.data):
            raise self.error(f"declares {end} bytes and has {len(self.data)}: the file is truncated")
        return root

    def heap_object(self, address: int, number: int, size: int, what: str) -> bytes:
        """The first ``size`` bytes of object ``number`` in the global heap at ``address`` (III.E)."""
        if address not in self._heaps:
            self._heaps[address] = self._global_heap(address)
        begin, has = self._heaps[address].get(number, (0, -1))
        if size > has:
            raise FormatError(f"{what} declares a text of {size} bytes; the heap at byte {address} has {max(has, 0)}")
        return bytes(self.fields(begin, size, "a text").data)

    def _global_heap(self, address: int) -> dict[int, tuple[int, int]]:
        """Where each object of a collection begins and its size. Number 0 is the rest that is free."""
        head = self.signed(address, 16, b"GCOL", 1, "the heap of texts", summed=False)
        head.at = 8
        size = head.number(8)
        held = self.fields(address, max(size, 16), "the heap of texts")
        if size < 32 or size % 8 or any(head.data[5:8]):
            raise FormatError(f"{held.what} declares {size} bytes: the heap is damaged")
        held.at = 16
        objects: dict[int, tuple[int, int]] = {}
        while held.left >= 16:
            begin = held.at
            number, _, _, length = held.number(2), held.number(2), held.number(4), held.number(8)
            if number in objects or (number == 0 and length < 16):
                raise FormatError(f"{held.what} has an object {number} of {length} bytes: the heap is damaged")
            if number == 0:
                held.raw(length - 16)
                continue
            objects[number] = (address + begin + 16, length)
            held.raw(length + (-length % 8))
        return objects


def checksum(data: bytes) -> int:
    """Bob Jenkins' lookup3 of ``data`` with the initial value 0, as the file format uses it (VII.B)."""
    a = b = c = (0xDEADBEEF + len(data)) & 0xFFFFFFFF
    if not data:
        return c
    count = (len(data) + 11) // 12
    words = struct.unpack(f"<{3 * count}I", data.ljust(12 * count, b"\0"))
    mask = 0xFFFFFFFF
    for at in range(0, 3 * count - 3, 3):
        a, b, c = (a + words[at]) & mask, (b + words[at + 1]) & mask, (c + words[at + 2]) & mask
        a = ((a - c) ^ (c << 4 | c >> 28)) & mask
        c = (c + b) & mask
        b = ((b - a) ^ (a << 6 | a >> 26)) & mask
        a = (a + c) & mask
        c = ((c - b) ^ (b << 8 | b >> 24)) & mask
        b = (b + a) & mask
        a = ((a - c) ^ (c << 16 | c >> 16)) & mask
        c = (c + b) & mask
        b = ((b - a) ^ (a << 19 | a >> 13)) & mask
        a = (a + c) & mask
        c = ((c - b) ^ (b << 4 | b >> 28)) & mask
        b = (b + a) & mask
    a, b, c = (a + words[-3]) & mask, (b + words[-2]) & mask, (c + words[-1]) & mask
    c = ((c ^ b) - (b << 14 | b >> 18)) & mask
    a = ((a ^ c) - (c << 11 | c >> 21)) & mask
    b = ((b ^ a) - (a << 25 | a >> 7)) & mask
    c = ((c ^ b) - (b << 16 | b >> 16)) & mask
    a = ((a ^ c) - (c << 4 | c >> 28)) & mask
    b = ((b ^ a) - (a << 14 | a >> 18)) & mask
    return ((c ^ b) - (b << 24 | b >> 8)) & mask
