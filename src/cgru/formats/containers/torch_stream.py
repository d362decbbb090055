"""PyTorch's files from before 1.6 (``_use_new_zipfile_serialization=False``): a stream of pickles and storages.

Layout (torch/serialization.py, ``_legacy_save``): five pickles one after another, namely a magic number, the protocol
1001, a dict that tells the byte order, the object itself, and the list of its storages' keys; then, for each key in
that order, the count of its elements as int64 and their bytes. Pickles of protocol 1 to 5 are read; one of protocol 0
writes the names of its storages as text, which PyTorch itself does not read back.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

from ...errors import FormatError
from .file_bytes import Source, open_bytes, size_on_disk
from .file_bytes import shown as shown_name
from .messages import brief
from .object_tree import MAX_LEAVES
from .pickle_data import read_pickle_at
from .pickle_values import Global, Limits
from .tensorfile import TensorFile
from .torch_tensors import CALLS, Arrays, Storage, storage_named, width_of
from .torch_tree import Tree

_MAGIC = 0x1950A86A20F9469CFC6C
#: How the magic number begins a file: as a line of digits, or in eleven bytes.
_SIGNS = (b"L%dL\n." % _MAGIC, b"\x8a\x0a" + _MAGIC.to_bytes(10, "little") + b".")
_PROTOCOL = 1001
_LITTLE = Limits(size=4096, opcodes=1000, values=100)


def looks_like(head: bytes) -> bool:
    """Whether a file that begins with ``head`` (32 bytes or more) is such a stream."""
    return head.startswith(_SIGNS[0]) or (head[:1] == b"\x80" and 0 < head.find(_SIGNS[1]) <= 16)


def read(source: Source) -> TensorFile:
    """The tensors of an old torch file by their flattened names; what they are is as of :func:`.torch_zip.read`.

    Raises :class:`FormatError` for a damaged or hostile file and :class:`~cgru.errors.UnsupportedError` for tensors
    that are sparse, quantised or complex.
    """
    stream = _Stream(source)
    root = stream.open()
    tree = Tree(stream.shown)
    found = tree.tensors(root)
    tensors, aliases = Arrays(stream, stream.shown, stream.order, len(stream.data)).of(found)
    return TensorFile(stream.shown, "torch", tensors, aliases, modules=tree.modules)


class _Stream:
    """One stream, from its beginning."""

    def __init__(self, source: Source) -> None:
        self.data = open_bytes(source)
        self.shown = shown_name(source)
        self.on_disk = size_on_disk(source)
        self.at = 0
        self.order = "<"
        self.named: dict[str, Storage] = {}
        self.storages: dict[str, memoryview] = {}

    def open(self) -> object:
        """The object of the stream, with its storages found."""
        if self.pickle(_LITTLE) != _MAGIC or self.pickle(_LITTLE) != _PROTOCOL:
            raise FormatError(f"{self.shown}: does not begin as PyTorch's old files do, with its number and 1001")
        system = self.pickle(_LITTLE)
        little = system.get("little_endian") if isinstance(system, dict) else None
        if not isinstance(little, bool):
            raise FormatError(f"{self.shown}: does not say its byte order")
        self.order = "<" if little else ">"
        root = self.pickle(Limits.of_file(self.on_disk), self.persistent)
        keys = self.pickle(Limits.of_file(self.on_disk))
        if not isinstance(keys, list) or len(keys) > MAX_LEAVES:
            raise FormatError(f"{self.shown}: the keys of its storages are no list of at most {MAX_LEAVES:,}")
        for key in keys:
            self.find(key)
        if self.at != len(self.data):
            raise FormatError(f"{self.shown}: has {len(self.data) - self.at} bytes after its storages")
        return root

    def pickle(self, limits: Limits, persistent: Callable[..., Any] | None = None) -> Any:
        value, self.at = read_pickle_at(
            self.data, self.at, shown=self.shown, calls=CALLS, persistent=persistent, limits=limits
        )
        return value

    def persistent(self, identifier: object) -> Storage | Global:
        match identifier:
            case ("module", Global() as cls, *_):
                return cls  # with its source code, which stays text
        storage = storage_named(identifier, self.shown)
        if self.named.setdefault(storage.key, storage) != storage:
            raise FormatError(f"{self.shown}: names the storage {brief(storage.key)} as two different things")
        return storage

    def find(self, key: object) -> None:
        """The storage that comes next, which is ``key``."""
        storage = self.named.get(key) if isinstance(key, str) else None
        if storage is None or storage.key in self.storages:
            raise FormatError(f"{self.shown}: lists the storage {brief(key)}, which no tensor names, or lists it twice")
        width = width_of(storage.type)
        if not width:
            raise FormatError(f"{self.shown}: the storage {brief(key)} is a {storage.type}, whose size is not known")
        if self.at + 8 > len(self.data):
            raise FormatError(f"{self.shown}: ends before the storage {brief(key)}: truncated")
        (count,) = struct.unpack_from("<q" if self.order == "<" else ">q", self.data, self.at)
        end = self.at + 8 + count * width
        if count != storage.numel or end > len(self.data):
            raise FormatError(
                f"{self.shown}: the storage {brief(key)} has {count} elements where {storage.numel} are declared, "
                "or ends early: truncated or damaged"
            )
        self.storages[storage.key] = self.data[self.at + 8 : end]
        self.at = end

    def storage(self, key: str) -> memoryview:
        if key not in self.storages:
            raise FormatError(f"{self.shown}: has no storage {brief(key)}: truncated or damaged")
        return self.storages[key]
