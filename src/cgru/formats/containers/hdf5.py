"""HDF5 files read as data: the numeric arrays, and the few text attributes Keras writes.

The HDF5 library parses the file; what it then offers is taken only in the plain form that trained weights
have: hard links, numbers, contiguous or chunked storage inside the file, filters that are built in (any other
one would load a plug-in), sizes in proportion to the file. External and soft links, external and virtual
datasets, compound and object types are refused before anything behind them is opened.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ...errors import CgruError, FormatError, UnsupportedError

SIGNATURE = b"\x89HDF\r\n\x1a\n"
MAX_OBJECTS = 100_000
MAX_DEPTH = 32
MAX_NAME = 1024
MAX_AXES = 32
MAX_TEXT = 64 << 20
MAX_HEAPS = 1024
#: Bytes that the items of one list could take if all of them were the longest text of the file.
MAX_LIST = 1 << 30
# As for zip members: trained weights hardly compress, small files get room to spare.
MAX_INFLATED_RATIO = 100
MAX_INFLATED_FLOOR = 16 << 20

#: The attributes that are read; a list longer than an object header holds is split under numbered names.
_TEXTS = re.compile(r"(?:model_config|keras_version|name|dtype|(?:layer|weight)_names\d{0,5})\Z")
#: HDF5's numbers of deflate, shuffle and fletcher32.
_FILTERS = {1, 2, 3}


@dataclass(frozen=True)
class Contents:
    """What a file holds: arrays by path, paths that show the same array, and text attributes by object path.

    The root is the path "". A one-dimensional attribute is a list.
    """

    tensors: dict[str, np.ndarray] = field(default_factory=dict)
    aliases: dict[str, str] = field(default_factory=dict)
    texts: dict[str, dict[str, str | list[str]]] = field(default_factory=dict)

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


def read(data: memoryview, shown: str) -> Contents:
    """Everything in the HDF5 file ``data``, which messages call ``shown``.

    Arrays are read-only, in C order and the machine's byte order; bfloat16 (Keras stores two opaque bytes)
    becomes float32, exactly. Raises :class:`FormatError` for a damaged or hostile file and
    :class:`UnsupportedError` for one that is fine but no plain file of weights, or where h5py is missing.
    """
    if not looks_like(bytes(data[:8])):
        raise FormatError(f"{shown}: begins with {bytes(data[:8])!r}; an HDF5 file begins with {SIGNATURE!r}")
    try:
        import h5py
    except ImportError:
        raise UnsupportedError(
            f'{shown}: reading an HDF5 file needs h5py, which is not installed: pip install "cgru[keras]"'
        ) from None
    raw = bytes(data)
    with _library_errors(shown), h5py.File(io.BytesIO(raw), "r") as file:
        reader = _Reader(h5py, shown, raw)
        reader.group(file, "", 0)
    return reader.contents


@contextmanager
def _library_errors(shown: str) -> Iterator[None]:
    """Whatever the HDF5 library says about a damaged file, as a :class:`FormatError`."""
    try:
        yield
    except CgruError:
        raise
    except Exception as error:
        what = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
        raise FormatError(f"{shown}: the HDF5 structure is damaged or truncated ({what})") from None


def _longest_text(raw: bytes, shown: str) -> int:
    """Bytes of the longest text of variable length, after a check of the heaps where they all lie.

    The library walks these heaps before anything can be asked about them: an entry of size zero keeps it going
    for ever, and a reference that declares gigabytes makes it allocate them. A heap begins with "GCOL" and
    version 1; a reference is a length, the heap's address and the number of an entry (HDF5 File Format
    Specification 3.0, III.E and IV.A.2.d). What only looks like a heap, among weights, is referred to by nothing.
    """
    # The superblock's versions 0, 1, and 2 or 3.
    sizes, start = ((raw[13:15], 24), (raw[13:15], 28), (raw[9:11], 12))[min(raw[8], 2)]
    base = raw[start : start + 8]
    if sizes != b"\x08\x08" or any(base):
        raise FormatError(
            f"{shown}: its addresses are not of 8 bytes from the start of the file, as programs write them"
        )
    longest = 0
    for count, at in enumerate(_finds(raw, b"GCOL\x01")):
        if count == MAX_HEAPS:
            raise FormatError(f"{shown}: holds more than {MAX_HEAPS} heaps of text")
        places = list(_finds(raw, at.to_bytes(8, "little")))
        if not places:
            continue
        entries = _heap(raw, at)
        if entries is None:
            raise FormatError(f"{shown}: the heap of texts at byte {at} is damaged")
        longest = max([longest, *entries.values()])
        for place in places:
            length, number = _number(raw, max(place - 4, 0), 4), _number(raw, place + 8, 4)
            if number in entries and length > len(raw):
                raise FormatError(f"{shown}: byte {place} declares a text of {length} bytes; the file has {len(raw)}")
    return longest


def _heap(raw: bytes, at: int) -> dict[int, int] | None:
    """The sizes of a heap's entries by number, or None where they do not fill it.

    After 8 bytes and the heap's size come the entries: number, count and size, then that many bytes padded to
    8. Number 0 is the rest that is free, its header included.
    """
    end = at + _number(raw, at + 8, 8)
    entry = at + 16
    entries: dict[int, int] = {}
    while entry + 16 <= end <= len(raw):
        number, size = _number(raw, entry, 2), _number(raw, entry + 8, 8)
        step = size if number == 0 else 16 + (size + 7 & ~7)
        if step < 16 or entry + step > end:
            return None
        if number:
            entries[number] = size
        entry += step
    return entries if entry <= end <= len(raw) else None


def _number(raw: bytes, at: int, size: int) -> int:
    return int.from_bytes(raw[at : at + size], "little")


def _finds(raw: bytes, wanted: bytes) -> Iterator[int]:
    at = raw.find(wanted)
    while at >= 0:
        yield at
        at = raw.find(wanted, at + 1)


class _Reader:
    """One walk through a file, counting what it has opened."""

    def __init__(self, h5py: Any, shown: str, raw: bytes) -> None:
        self.h5py = h5py
        self.shown = shown
        self.raw = raw
        self.size = len(raw)
        self.budget = max(MAX_INFLATED_FLOOR, MAX_INFLATED_RATIO * self.size)
        self.text_budget = min(MAX_TEXT, max(MAX_INFLATED_FLOOR, self.size))
        self.longest = _longest_text(raw, shown)
        self.objects = 0
        self.seen: dict[Any, str] = {}
        self.contents = Contents()

    def group(self, group: Any, path: str, depth: int) -> None:
        where = f"{self.shown}: group {path or '/'!r}"
        if depth > MAX_DEPTH:
            raise FormatError(f"{where} lies more than {MAX_DEPTH} groups deep; Keras' files never do")
        if self._again(group, path) is not None:
            raise FormatError(f"{where} is linked twice: the file's groups do not form a tree")
        self._texts(group, path, where)
        for name in group:
            self.objects += 1
            if self.objects > MAX_OBJECTS:
                raise FormatError(f"{self.shown}: holds more than {MAX_OBJECTS} objects")
            if not isinstance(name, str) or not 0 < len(name) <= MAX_NAME or not name.isprintable():
                raise FormatError(f"{where} holds a malformed name: {name[:80]!r}")
            inner = f"{path}/{name}" if path else name
            link = group.get(name, getlink=True)
            if not isinstance(link, self.h5py.HardLink):
                kind = "an external" if isinstance(link, self.h5py.ExternalLink) else "a soft"
                raise FormatError(f"{self.shown}: {inner!r} is {kind} link, which is never followed")
            child = group[name]
            if isinstance(child, self.h5py.Group):
                self.group(child, inner, depth + 1)
            elif isinstance(child, self.h5py.Dataset):
                self._dataset(child, inner)
            else:
                raise FormatError(f"{self.shown}: {inner!r} is neither a group nor an array")

    def _again(self, thing: Any, path: str) -> str | None:
        """The path under which ``thing`` was met before, if it was."""
        number = self.h5py.h5g.get_objinfo(thing.id).objno
        first = self.seen.setdefault(number, path)
        return None if first == path else first

    def _texts(self, thing: Any, path: str, where: str) -> None:
        found: dict[str, str | list[str]] = {}
        for name in thing.attrs:
            if _TEXTS.match(name):
                value = self._text(thing.attrs.get_id(name), f"{where}: attribute {name!r}")
                if value is not None:
                    found[name] = value
        if found:
            self.contents.texts[path] = found

    def _text(self, attribute: Any, where: str) -> str | list[str] | None:
        dtype, shape = attribute.dtype, attribute.shape
        count = math.prod(shape)
        if count == 0:
            return []
        kind = self.h5py.check_string_dtype(dtype)
        if kind is None:
            return None
        if len(shape) > 1 or count > MAX_OBJECTS:
            raise FormatError(f"{where} has shape {shape}; expected one text or a list of them")
        # Items of variable length are references, and every one may point to the same text.
        longest = self.longest if kind.length is None else kind.length
        if longest * count > (MAX_LIST if shape else MAX_TEXT):
            raise FormatError(f"{where} may take {longest * count} bytes, out of proportion to the file")
        values = np.empty(shape, dtype)
        attribute.read(values)
        texts = [value if isinstance(value, bytes) else str(value).encode() for value in values.reshape(-1)]
        self.text_budget -= sum(map(len, texts))
        if self.text_budget < 0:
            raise FormatError(f"{where}: the file's texts are out of proportion to its size")
        try:
            decoded = [text.decode() for text in texts]
        except UnicodeDecodeError:
            raise FormatError(f"{where} is not UTF-8") from None
        return decoded if shape else decoded[0]

    def _dataset(self, dataset: Any, path: str) -> None:
        where = f"{self.shown}: array {path!r}"
        if (first := self._again(dataset, path)) is not None:
            self.contents.tensors[path] = self.contents.tensors[first]
            self.contents.aliases[path] = first
            return
        dtype, shape = dataset.dtype, dataset.shape
        is_bf16 = dtype == np.dtype("V2")
        if is_bf16:
            # Keras notes the type beside the array in .keras files; in legacy ones the two bytes stand alone.
            self._texts(dataset, path, where)
            is_bf16 = self.contents.text(path, "dtype") in ("bfloat16", None)
        if not is_bf16 and (dtype.kind not in "biuf" or dtype.itemsize > 8):
            raise UnsupportedError(f"{where} has dtype {dtype}; expected booleans, integers or floats up to 64 bits")
        if shape is None or len(shape) > MAX_AXES or math.prod(size for size in shape if size) >= 2**48:
            raise FormatError(f"{where} has an impossible shape: {shape}")
        self._check_storage(dataset, math.prod(shape) * dtype.itemsize, where)
        values = np.asarray(dataset[()])
        if is_bf16:
            values = (np.frombuffer(values.tobytes(), "<u2").astype(np.uint32) << 16).view(np.float32).reshape(shape)
        values = np.require(values, dtype=values.dtype.newbyteorder("="), requirements=("C", "A"))
        values.flags.writeable = False
        self.contents.tensors[path] = values

    def _check_storage(self, dataset: Any, expected: int, where: str) -> None:
        """Refuse what lies outside the file, needs a plug-in, or unpacks to far more than the file holds."""
        plan = dataset.id.get_create_plist()
        layout, h5d = plan.get_layout(), self.h5py.h5d
        if layout not in (h5d.COMPACT, h5d.CONTIGUOUS, h5d.CHUNKED) or plan.get_external_count():
            raise FormatError(f"{where} is stored in another file or put together from other arrays")
        stored = dataset.id.get_storage_size()
        if layout == h5d.CHUNKED:
            filters = {plan.get_filter(index)[0] for index in range(plan.get_nfilters())}
            if filters - _FILTERS:
                raise UnsupportedError(f"{where} is packed with a filter other than gzip; save it without")
            chunk = math.prod(plan.get_chunk()) * dataset.dtype.itemsize
            if chunk > max(expected * 2, MAX_INFLATED_FLOOR) or (expected and not stored):
                raise FormatError(f"{where} of {expected} bytes has chunks of {chunk} and stores {stored}")
        elif stored != expected or stored > self.size:
            raise FormatError(f"{where} takes {expected} bytes; the file stores {stored} of {self.size} for it")
        self.budget -= expected
        if self.budget < 0:
            raise FormatError(
                f"{where} unpacks to {expected} bytes, out of proportion to a file of {self.size}: "
                "a compression bomb, or not a model"
            )


def names_of(contents: Contents, below: str) -> Mapping[str, str]:
    """The ``name`` attribute of every object below the path ``below`` (the root where empty)."""
    prefix = f"{below}/" if below else ""
    found = {}
    for path in contents.texts:
        if path.startswith(prefix) and (name := contents.text(path, "name")) is not None:
            found[path.removeprefix(prefix)] = name
    return found
