"""The members of a zip archive, read strictly: .pt, .npz and .keras files are zips.

A model file has no use for most of what the zip format allows, and hostile files live on exactly that, so
everything outside the plain case is refused: several disks, encryption, methods other than stored and
deflate, members that overlap or share a name, names that leave the archive, bytes before the first member,
and archives that inflate to far more than they hold. The central directory rules; each local header must
agree with it. Layout: PKWARE APPNOTE 6.3, sections 4.3.7 to 4.3.16 and 4.5.3.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable
from typing import NamedTuple

from ...errors import FormatError
from .file_bytes import Source, open_bytes, size_on_disk
from .file_bytes import shown as shown_name

MAX_MEMBERS = 100_000
MAX_NAME = 1024
# Trained weights hardly compress; pruned or zero-filled ones may, so small archives get room to spare.
MAX_INFLATED_RATIO = 100
MAX_INFLATED_FLOOR = 16 << 20

_LOCAL = struct.Struct("<4s5H3I2H")
_CENTRAL = struct.Struct("<4s6H3I5H2I")
_END = struct.Struct("<4s4H2IH")
_END64 = struct.Struct("<4sQ2H2I4Q")
_LOCATOR64 = struct.Struct("<4sIQI")
_STORED, _DEFLATED = 0, 8
_PIECE = 1 << 20
_ENCRYPTED, _UTF8 = 0x0001 | 0x0040 | 0x2000, 0x0800


class Member(NamedTuple):
    """One entry of the central directory; ``start`` is where its local header begins."""

    name: str
    raw_name: bytes
    method: int
    crc: int
    packed: int
    size: int
    start: int


class ZipMembers:
    """The members of one archive by name; every :meth:`read` is bounded and checked against the CRC."""

    def __init__(self, source: Source) -> None:
        """Read the central directory of ``source``; raises :class:`FormatError` when it is not sound."""
        self.shown = shown_name(source)
        self._data = open_bytes(source)
        self._budget = max(MAX_INFLATED_FLOOR, MAX_INFLATED_RATIO * size_on_disk(source))
        self._on_disk = size_on_disk(source)
        self._members = {member.name: member for member in self._directory()}
        # torch.serialization.set_crc32_options(False) leaves every CRC 0: such a file has none to check.
        self._has_checksums = any(member.crc for member in self._members.values())
        self._check_layout()

    @property
    def names(self) -> tuple[str, ...]:
        """The member names in the order of the central directory."""
        return tuple(self._members)

    @property
    def file_size(self) -> int:
        """Bytes of the archive itself."""
        return len(self._data)

    def __contains__(self, name: object) -> bool:
        return name in self._members

    def size(self, name: str) -> int:
        """Declared bytes of member ``name`` once unpacked; not yet verified."""
        return self._find(name).size

    def packed_size(self, name: str) -> int:
        """Bytes that member ``name`` takes in the archive."""
        return min(self._find(name).packed, self._on_disk)

    def read(self, name: str, limit: int | None = None) -> memoryview:
        """The bytes of member ``name`` (a view into the archive where it is stored uncompressed).

        Raises :class:`FormatError` when the member is missing, larger than ``limit`` bytes, does not inflate
        to its declared size, or fails its CRC.
        """
        member = self._find(name)
        if limit is not None and member.size > limit:
            raise self._error(f"member {name!r} declares {member.size} bytes, more than the {limit} that can be right")
        begin = self._payload_start(member)
        packed = self._data[begin : begin + member.packed]
        unpacked = packed if member.method == _STORED else self._inflate(member, packed)
        if self._has_checksums and zlib.crc32(unpacked) != member.crc:
            raise self._error(f"member {name!r} fails its CRC check: the file is damaged, fetch it again")
        return unpacked

    def _error(self, what: str) -> FormatError:
        return FormatError(f"{self.shown}: {what}")

    def _find(self, name: str) -> Member:
        try:
            return self._members[name]
        except KeyError:
            raise self._error(f"has no member {name[:200]!r}: the archive is incomplete") from None

    def _inflate(self, member: Member, packed: memoryview) -> memoryview:
        if member.size > self._budget:
            raise self._error(
                f"member {member.name!r} inflates to {member.size} bytes, out of proportion to a file of "
                f"{len(self._data)}: a zip bomb, or not a model"
            )
        self._budget -= member.size
        inflater = zlib.decompressobj(-zlib.MAX_WBITS)
        # In pieces, into bytes that are allocated once: zlib would hold the whole twice at its end.
        unpacked = bytearray(member.size)
        done = at = 0
        try:
            while not inflater.eof and done <= member.size:
                piece = packed[at : at + _PIECE]
                # One byte more than declared tells a longer stream from an exact one (and 0 would mean no limit).
                part = inflater.decompress(piece, min(_PIECE, member.size - done) + 1)
                if not piece and not part:
                    break
                at += len(piece) - len(inflater.unconsumed_tail)
                unpacked[done : done + len(part)] = part
                done += len(part)
        except zlib.error as error:
            raise self._error(f"member {member.name!r} is not valid deflate data ({error})") from None
        if done != member.size or not inflater.eof or inflater.unused_data or at != len(packed):
            raise self._error(
                f"member {member.name!r} does not inflate to the {member.size} bytes it declares: the file is damaged"
            )
        return memoryview(unpacked).toreadonly()

    def _payload_start(self, member: Member) -> int:
        fields = _LOCAL.unpack_from(self._data, member.start)
        method: int = fields[3]
        name_length: int = fields[9]
        extra_length: int = fields[10]
        name_start = member.start + _LOCAL.size
        begin = name_start + name_length + extra_length
        if (
            fields[0] != b"PK\x03\x04"
            or method != member.method
            or bytes(self._data[name_start : name_start + name_length]) != member.raw_name
            or fields[2] & _ENCRYPTED
            or begin + member.packed > len(self._data)
        ):
            raise self._error(f"the local header of {member.name!r} does not agree with the directory")
        return begin

    def _directory(self) -> Iterable[Member]:
        position, count, end = self._end_record()
        data = self._data
        seen: set[str] = set()
        for _ in range(count):
            if position + _CENTRAL.size > end:
                raise self._error("the zip directory ends early: the file is truncated or damaged")
            fields = _CENTRAL.unpack_from(data, position)
            signature, flags, method, crc = fields[0], fields[3], fields[4], fields[7]
            name_length, extra_length, comment_length, disk = fields[10:14]
            name_start = position + _CENTRAL.size
            extra_start = name_start + name_length
            position = extra_start + extra_length + comment_length
            if signature != b"PK\x01\x02" or position > end or disk not in (0, 0xFFFF):
                raise self._error("the zip directory is damaged")
            raw_name = bytes(data[name_start:extra_start])
            name = self._safe_name(raw_name, bool(flags & _UTF8))
            if name in seen:
                raise self._error(f"has two members named {name!r}; only one can be meant")
            seen.add(name)
            if flags & _ENCRYPTED:
                raise self._error(f"member {name!r} is encrypted; save the model without a password")
            if method not in (_STORED, _DEFLATED):
                raise self._error(f"member {name!r} uses zip method {method}; only stored and deflate are read")
            extra = bytes(data[extra_start : extra_start + extra_length])
            size, packed, start = self._sizes64(extra, fields[9], fields[8], fields[16], name)
            if method == _STORED and size != packed:
                raise self._error(f"member {name!r} is stored but declares {packed} bytes as {size}")
            yield Member(name, raw_name, method, crc, packed, size, start)
        if position != end:
            raise self._error("the zip directory holds more than its members: the file is damaged")

    def _end_record(self) -> tuple[int, int, int]:
        """Where the central directory starts, how many entries it has, and where it ends."""
        data = self._data
        tail = max(0, len(data) - _END.size - 0xFFFF)
        found = bytes(data[tail:]).rfind(b"PK\x05\x06")
        if found < 0 or tail + found + _END.size > len(data):
            raise self._error("has no zip directory at its end: not a zip archive, or a truncated one")
        at = tail + found
        _, disk, start_disk, here, count, size, start, comment = _END.unpack_from(data, at)
        if at + _END.size + comment != len(data):
            raise self._error("has bytes after its zip directory: damaged, or not one plain archive")
        end = at
        locator = at - _LOCATOR64.size
        if locator >= 0 and bytes(data[locator : locator + 4]) == b"PK\x06\x07":
            _, disk, record, disks = _LOCATOR64.unpack_from(data, locator)
            if disks > 1 or record + _END64.size > locator:
                raise self._error("the zip64 directory locator is damaged")
            signature, _, _, _, disk, start_disk, here, count, size, start = _END64.unpack_from(data, record)
            if signature != b"PK\x06\x06":
                raise self._error("the zip64 directory record is damaged")
            end = record
        if disk or start_disk or here != count:
            raise self._error("is one part of a multi-part archive")
        if start + size != end:
            raise self._error("the zip directory is not where the file says: truncated or damaged")
        if count > MAX_MEMBERS:
            raise self._error(f"declares {count} members, more than the {MAX_MEMBERS} that are read")
        return start, count, end

    def _sizes64(self, extra: bytes, size: int, packed: int, start: int, name: str) -> tuple[int, int, int]:
        """The three fields that zip64 may move into the extra field, in APPNOTE's order (4.5.3)."""
        values = [size, packed, start]
        if 0xFFFFFFFF not in values:
            return size, packed, start
        at = 0
        while at + 4 <= len(extra):
            kind, length = struct.unpack_from("<HH", extra, at)
            field = extra[at + 4 : at + 4 + length]
            at += 4 + length
            if kind != 1:
                continue
            for index, value in enumerate(values):
                if value == 0xFFFFFFFF and len(field) >= 8:
                    values[index] = struct.unpack_from("<Q", field)[0]
                    field = field[8:]
            break
        if 0xFFFFFFFF in values:
            raise self._error(f"member {name!r} lacks the zip64 sizes it refers to")
        return values[0], values[1], values[2]

    def _safe_name(self, raw: bytes, is_utf8: bool) -> str:
        if not raw or len(raw) > MAX_NAME:
            raise self._error(f"has a member name of {len(raw)} bytes; 1 to {MAX_NAME} are read")
        try:
            name = raw.decode("utf-8" if is_utf8 or raw.isascii() else "cp437")
        except UnicodeDecodeError:
            raise self._error(f"has a member name that is not UTF-8: {raw[:80]!r}") from None
        parts = name.removesuffix("/").split("/")
        is_drive = len(parts[0]) == 2 and parts[0][1] == ":"
        if ".." in parts or "" in parts or is_drive or "\\" in name or not name.isprintable():
            raise self._error(f"member name {name[:200]!r} points outside the archive or is malformed")
        return name

    def _check_layout(self) -> None:
        """Members lie one after another from byte 0, none inside another: overlapping ones make bombs."""
        position, end = 0, self._end_record()[0]
        for member in sorted(self._members.values(), key=lambda member: member.start):
            # miniz and zipfile put at most a data descriptor (24 bytes) behind a member.
            if member.start < position or (position == 0 and member.start != 0):
                raise self._error(f"member {member.name!r} overlaps another or does not start the file")
            position = member.start + _LOCAL.size + len(member.raw_name) + member.packed
            if position > end:
                raise self._error(f"member {member.name!r} reaches past the end: truncated or damaged")


def zip_kind(source: Source | ZipMembers) -> str:
    """What a zip archive holds, by its member list alone.

    ``"torch"`` (torch.save), ``"torchscript"``, ``"pt2"`` (torch.export), ``"npz"``, ``"keras"`` or
    ``"unknown"``. Raises :class:`FormatError` when ``source`` is no sound zip archive.
    """
    members = source if isinstance(source, ZipMembers) else ZipMembers(source)
    names = set(members.names)
    tops = {name.removesuffix("data.pkl") for name in names if name.endswith("/data.pkl") and name.count("/") == 1}
    if {"config.json", "metadata.json"} <= names:
        return "keras"
    for top in tops:
        if top + "constants.pkl" in names or any(name.startswith(top + "code/") for name in names):
            return "torchscript"
    if tops:
        return "torch"
    leaves = {name.rpartition("/")[2] for name in names}
    if leaves & {"archive_format", "serialized_exported_program.json"}:
        return "pt2"
    if names and all(name.endswith(".npy") for name in names):
        return "npz"
    return "unknown"
