"""The one model file in a ``.tar``, ``.tar.gz``, ``.gz`` or ``.zip``: found in memory, bounded, never written anywhere.

Tar: the ustar header of 512 bytes (POSIX.1-1988), with GNU's long names and pax' ``path``; links, devices and sparse
members are no model files. A file that opens to far more than it holds is refused, as one of a zip is.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator

from ...errors import FormatError, UnsupportedError
from .file_bytes import FileBytes, size_on_disk
from .messages import some
from .zip_members import MAX_INFLATED_FLOOR, MAX_INFLATED_RATIO, MAX_MEMBERS, ZipMembers

#: Endings of files that may be a model; configurations and texts beside one are not.
MODELS = (
    ".pt", ".pth", ".ckpt", ".safetensors", ".keras", ".h5", ".hdf5", ".npz", ".onnx", ".pkl", ".pb",
)  # fmt: skip
_GZIP = b"\x1f\x8b\x08"
_BLOCK = 512
_ANCIENT = {"sys_info", "pickle", "tensors", "storages"}


def unwrapped(file: FileBytes) -> FileBytes:
    """The model file in ``file`` where that is an archive of one; else ``file`` itself.

    Raises :class:`FormatError` for a damaged or hostile archive and :class:`UnsupportedError` for one that holds no
    model file or several.
    """
    if bytes(file.data[:3]) == _GZIP:
        file = FileBytes(_inflated(file), file.shown, packed=len(file.data))
    if bytes(file.data[257:262]) == b"ustar":
        return _only(file, dict(_tar_members(file)))
    return file


def from_zip(file: FileBytes) -> FileBytes:
    """The one model file in a zip that is none itself."""
    members = ZipMembers(file)
    held = [name for name in members.names if not name.endswith("/")]
    found = _models(held)
    return _only(file, {name: members.read(name) for name in found[:1]} if len(found) == 1 else {}, held)


def _only(file: FileBytes, members: dict[str, memoryview], names: list[str] | None = None) -> FileBytes:
    if members.keys() >= _ANCIENT:
        raise UnsupportedError(f"{file.shown}: a torch file from before 0.1.10; save it again with an old PyTorch")
    names = list(members) if names is None else names
    found = _models(names)
    if len(found) == 1:
        return FileBytes(members[found[0]], file.shown, packed=size_on_disk(file))
    if not found:
        wanted = ", ".join(MODELS)
        raise UnsupportedError(f"{file.shown}: an archive without a model file ({wanted}); it holds {some(names)}")
    raise UnsupportedError(
        f"{file.shown}: an archive of {len(found)} model files, {some(found)}; take the one that is meant out of it, "
        "or pass its bytes"
    )


def _models(names: list[str]) -> list[str]:
    return [name for name in names if name.lower().endswith(MODELS) and not _is_hidden(name)]


def _is_hidden(name: str) -> bool:
    """What macOS puts beside every file (``._model.pt``, ``__MACOSX/``) is no model."""
    return name.rpartition("/")[2].startswith(".") or name.startswith("__MACOSX/")


def _inflated(file: FileBytes) -> memoryview:
    most = max(MAX_INFLATED_FLOOR, MAX_INFLATED_RATIO * len(file.data))
    inflater = zlib.decompressobj(wbits=31)
    try:
        data = inflater.decompress(file.data, most)
    except zlib.error as error:
        raise FormatError(f"{file.shown}: is not valid gzip data ({error})") from None
    if not inflater.eof and len(data) == most:
        raise FormatError(f"{file.shown}: opens to more than {most:,} bytes, out of proportion: a bomb, or not a model")
    if not inflater.eof or inflater.unused_data:
        raise FormatError(f"{file.shown}: gzip data that ends early or goes on after its end: truncated or damaged")
    return memoryview(data)


def _tar_members(file: FileBytes) -> Iterator[tuple[str, memoryview]]:
    """The regular files of a tar in their order, each name once."""
    data, at, seen = file.data, 0, set()
    named: str | None = None
    for _ in range(2 * MAX_MEMBERS):
        head = bytes(data[at : at + _BLOCK])
        if not head.strip(b"\0"):
            return
        name, size, kind = _header(file, head, at)
        begin, at = at + _BLOCK, at + _BLOCK + -(-size // _BLOCK) * _BLOCK
        if begin + size > len(data):
            raise FormatError(f"{file.shown}: the tar member {name[:80]!r} reaches past the end: truncated or damaged")
        content = data[begin : begin + size]
        if kind == b"L":
            named = _text(file, bytes(content[:1024]).rstrip(b"\0"))
        elif kind in (b"x", b"g"):
            named = _pax_path(file, content) or named
        elif kind in (b"0", b"\0"):
            name, named = named or name, None
            if name in seen:
                raise FormatError(f"{file.shown}: has two tar members named {name[:80]!r}; only one can be meant")
            seen.add(name)
            yield name, content
        else:
            named = None
    raise FormatError(f"{file.shown}: has more than {MAX_MEMBERS:,} tar members")


def _header(file: FileBytes, head: bytes, at: int) -> tuple[str, int, bytes]:
    """Name, size and kind of the member whose header is ``head``; its checksum is checked."""
    try:
        wanted, size = int(head[148:156].strip(b" \0") or b"0", 8), int(head[124:136].strip(b" \0") or b"0", 8)
    except ValueError:
        wanted, size = -1, 0
    if len(head) < _BLOCK or wanted != sum(head) - sum(head[148:156]) + 8 * ord(" ") or size < 0:
        raise FormatError(f"{file.shown}: the tar header at byte {at} is damaged")
    name, prefix = head[:100].rstrip(b"\0"), head[345:500].rstrip(b"\0") if head[257:263] == b"ustar\0" else b""
    return _text(file, prefix + b"/" + name if prefix else name), size, head[156:157]


def _pax_path(file: FileBytes, content: memoryview) -> str | None:
    """The path in a pax header, lines of ``<length> <key>=<value>``."""
    at, path = 0, None
    text = bytes(content[: 1 << 16])
    while at < len(text):
        digits = text[at : at + 8].partition(b" ")[0]
        length = int(digits) if digits.isdigit() else 0
        key, equals, value = text[at : at + length].partition(b" ")[2].partition(b"=")
        if not length or not equals:
            raise FormatError(f"{file.shown}: a pax header of the tar is malformed")
        if key == b"path":
            path = _text(file, value.rstrip(b"\n"))
        at += length
    return path


def _text(file: FileBytes, raw: bytes) -> str:
    name = raw.decode("utf-8", "replace")
    if not name.isprintable() or len(name) > 1024:
        raise FormatError(f"{file.shown}: a tar member has a malformed name, {name[:80]!r}")
    return name
