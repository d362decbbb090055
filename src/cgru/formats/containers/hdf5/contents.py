"""HDF5 files as data: the arrays of numbers, and the few text attributes that Keras writes.

The subset is what h5py and Keras write into one file: every version of the structures, groups and attributes in
headers or heaps, arrays contiguous, compact or in chunks, gzip, shuffle and checksums. Links out of the tree,
arrays in other files, texts and records as arrays, other filters are not read: each is kept as the error that names
it, which is raised where somebody wants the array. Damage is a :class:`FormatError` at once.

From below: :mod:`.source` (what may be read), :mod:`.trees` (indexes and heaps), :mod:`.objects`
(headers, groups), :mod:`.types`, :mod:`.chunks` and :mod:`.arrays`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from ....errors import CgruError, FormatError, UnsupportedError
from .arrays import array
from .objects import LAYOUT, Header
from .source import SIGNATURE, Fields, File
from .types import Datatype, dataspace, datatype

MAX_OBJECTS = 100_000
MAX_DEPTH = 32
MAX_PATH = 1000

#: The attributes that are read; a list longer than an object header holds is split under numbered names.
_TEXTS = re.compile(r"(?:model_config|keras_version|name|dtype|(?:layer|weight)_names\d{0,5})\Z")


@dataclass(frozen=True)
class Contents:
    """What a file holds: arrays by path, paths that show the same array, and text attributes by object path.

    The root is the path "". A one-dimensional attribute is a list. ``unread`` says of what is no plain array of
    numbers why it was left out.
    """

    tensors: dict[str, np.ndarray] = field(default_factory=dict)
    aliases: dict[str, str] = field(default_factory=dict)
    texts: dict[str, dict[str, str | list[str]]] = field(default_factory=dict)
    unread: dict[str, CgruError] = field(default_factory=dict)

    def text(self, path: str, name: str) -> str | None:
        """The text attribute ``name`` of the object at ``path``; None where there is none."""
        value = self.texts.get(path, {}).get(name)
        return value if isinstance(value, str) else None

    def listed(self, path: str, name: str) -> list[str] | None:
        """The list attribute ``name``, put together again where it was split into ``name0``, ``name1`` …"""
        held = self.texts.get(path, {})
        if isinstance(whole := held.get(name), list):
            return whole
        parts: list[str] = []
        count = 0
        while isinstance(part := held.get(f"{name}{count}"), list):
            parts += part
            count += 1
        return parts if count else None


def looks_like(head: bytes) -> bool:
    """Whether a file that begins with ``head`` (8 bytes or more) may be an HDF5 file."""
    return head[:8] == SIGNATURE


def read(data: memoryview, shown: str, file_size: int | None = None) -> Contents:
    """Everything in the HDF5 file ``data``, which messages call ``shown``; ``file_size`` where it came out of a zip.

    Arrays are read-only, in C order and the machine's byte order, and show ``data`` itself where they can;
    bfloat16 (Keras stores two opaque bytes) becomes float32, exactly. Raises :class:`FormatError` for a damaged or
    hostile file and :class:`UnsupportedError` for one that uses what no model does.
    """
    if not looks_like(bytes(data[:8])):
        raise FormatError(f"{shown}: begins with {bytes(data[:8])!r}; an HDF5 file begins with {SIGNATURE!r}")
    walk = _Walk(File(data.toreadonly(), shown, len(data) if file_size is None else file_size))
    walk.group(Header(walk.file, walk.file.root), "", 0)
    return walk.contents


class _Walk:
    """One walk through a file, counting what it meets."""

    def __init__(self, file: File) -> None:
        self.file, self.shown = file, file.shown
        self.objects = 0
        self.seen: dict[int, str] = {}
        self.contents = Contents()

    def group(self, header: Header, path: str, depth: int) -> None:
        where = f"{self.shown}: group {path or '/'!r}"
        if depth > MAX_DEPTH:
            raise FormatError(f"{where} lies more than {MAX_DEPTH} groups deep; Keras' files never do")
        if not header.is_group:
            raise FormatError(f"{where} is no group: the file is damaged")
        self.seen[header.address] = path
        self._texts(header, path, where)
        links: dict[str, int | str] = {}
        for raw, target in header.links(where):
            self.objects += 1
            if self.objects > MAX_OBJECTS:
                raise FormatError(f"{self.shown}: holds more than {MAX_OBJECTS} objects")
            name = self._name(raw, where)
            if name in links:
                raise FormatError(f"{where} holds two things named {name[:80]!r}")
            if len(path) + len(name) >= MAX_PATH:
                raise FormatError(f"{where} holds {name[:80]!r}: a path of more than {MAX_PATH} letters")
            links[name] = target
        for name in sorted(links):
            self._object(links[name], f"{path}/{name}" if path else name, depth)

    def _name(self, raw: bytes, where: str) -> str:
        try:
            name = raw.decode()
        except UnicodeDecodeError:
            name = ""
        if not 0 < len(name) <= MAX_PATH or not name.isprintable() or "/" in name or name == ".":
            raise FormatError(f"{where} holds a malformed name: {raw[:80]!r}")
        return name

    def _object(self, target: int | str, path: str, depth: int) -> None:
        tensors, unread = self.contents.tensors, self.contents.unread
        if isinstance(target, str):
            unread[path] = UnsupportedError(f"{self.shown}: {path!r} is {target}, which is never followed")
            return
        if (first := self.seen.get(target)) is not None:
            if first in tensors:
                tensors[path] = tensors[first]
                self.contents.aliases[path] = first
            elif first in unread:
                unread[path] = unread[first]
            else:
                raise FormatError(f"{self.shown}: group {path!r} is linked twice: the file's groups do not form a tree")
            return
        header = Header(self.file, target)
        if header.is_group:
            self.group(header, path, depth + 1)
            return
        self.seen[target] = path
        if not header.all(LAYOUT):
            unread[path] = UnsupportedError(f"{self.shown}: {path!r} is neither a group nor an array")
            return
        try:
            self._array(header, path, f"{self.shown}: array {path!r}")
        except UnsupportedError as error:
            unread[path] = error

    def _array(self, header: Header, path: str, where: str) -> None:
        values, declared = array(self.file, header, where)
        if declared.is_opaque:
            # Keras notes the type beside the array in .keras files; in legacy ones the two bytes stand alone.
            self._texts(header, path, where)
            if self.contents.text(path, "dtype") not in ("bfloat16", None):
                raise UnsupportedError(f"{where} has dtype {declared.name}; expected booleans, integers or floats")
        if declared.is_bfloat16:
            values = (values.astype(np.uint32) << 16).view(np.float32)
        elif values.dtype.kind == "b":
            values = values.view(np.uint8) != 0
        values = np.require(values, dtype=values.dtype.newbyteorder("="), requirements=("C", "A"))
        values.flags.writeable = False
        self.contents.tensors[path] = values

    def _texts(self, header: Header, path: str, where: str) -> None:
        """The text attributes of an object that mean something to Keras; others are not even looked at."""
        found: dict[str, str | list[str]] = {}
        for body in header.attributes(where):
            name, value = self._attribute(Fields(body, f"{where}: an attribute"), where)
            if value is not None:
                if name in found:
                    raise FormatError(f"{where} has two attributes named {name!r}")
                found[name] = value
        if found:
            self.contents.texts[path] = found

    def _attribute(self, body: Fields, where: str) -> tuple[str, str | list[str] | None]:
        """The name and the text of an attribute message (IV.A.2.m); None where it is no text, or not one we know."""
        version, flags = body.number(1), body.number(1)
        sizes = [body.number(2) for _ in range(3)]
        if version not in (1, 2, 3):
            raise UnsupportedError(f"{body.what} is of version {version}; cgru reads 1 to 3")
        body.raw(1 if version == 3 else 0)
        align = 8 if version == 1 else 1
        raw_name, kind, space = (body.padded(size, align) for size in sizes)
        name = bytes(raw_name.data).partition(b"\0")[0].decode("latin-1")
        if not _TEXTS.match(name):
            return name, None
        body.what = kind.what = space.what = f"{where}: attribute {name!r}"
        if version > 1 and flags & 3:
            raise UnsupportedError(f"{body.what} has a type that is stored apart, for several objects; save it without")
        shape, _ = dataspace(space)
        if shape is None or 0 in shape:
            return name, []
        declared = datatype(kind)
        if not declared.text or len(shape) > 1:
            return name, None
        if math.prod(shape) > MAX_OBJECTS:
            raise FormatError(f"{body.what} is a list of {shape[0]} texts, out of proportion to a model")
        texts = [self._text(body, declared) for _ in range(math.prod(shape))]
        return name, texts if shape else texts[0]

    def _text(self, body: Fields, declared: Datatype) -> str:
        if declared.text == "variable":
            size, address, number = body.number(4), body.address(), body.number(4)
            raw = self.file.heap_object(address, number, size, body.what) if size else b""
            raw = raw.partition(b"\0")[0]
        else:
            raw = bytes(body.raw(declared.size))
            # Ended by a zero, filled with zeros, or filled with blanks.
            raw = raw.partition(b"\0")[0] if declared.padding == 0 else raw.rstrip((b"\0", b" ")[declared.padding > 1])
        try:
            return raw.decode()
        except UnicodeDecodeError:
            raise FormatError(f"{body.what} is not UTF-8") from None


def names_of(contents: Contents, below: str) -> Mapping[str, str]:
    """The ``name`` attribute of every object below the path ``below`` (the root where empty)."""
    prefix = f"{below}/" if below else ""
    found = {}
    for path in contents.texts:
        if path.startswith(prefix) and (name := contents.text(path, "name")) is not None:
            found[path.removeprefix(prefix)] = name
    return found
