"""PyTorch checkpoints as written by ``torch.save`` since 1.6: a zip of one pickle and one member per storage.

Layout (torch/serialization.py and caffe2/serialize/inline_container.cc): below one top folder stand
``data.pkl``, ``data/<key>`` with the raw bytes of each storage, ``version`` and, in newer files, ``byteorder``.
The pickle is read as data by :mod:`.pickle_data`: nothing in the file is imported or called.
"""

from __future__ import annotations

from ...errors import FormatError, UnsupportedError
from .file_bytes import Source, open_bytes
from .file_bytes import shown as shown_name
from .pickle_data import read_pickle
from .pickle_values import Limits
from .tensorfile import TensorFile
from .torch_tensors import CALLS, Arrays, storage_named
from .torch_tree import Tree
from .zip_members import ZipMembers, zip_kind

_ZIP = b"PK\x03\x04"
_REEXPORT = "save its weights alone, torch.save(model.state_dict(), 'model.pt'), and load that"


def looks_like(head: bytes) -> bool:
    """Whether a file that begins with ``head`` may be a torch file of this kind: a zip.

    Zips of other kinds begin alike; :func:`cgru.formats.containers.zip_members.zip_kind` tells them apart.
    """
    return head[:4] == _ZIP


def read(source: Source) -> TensorFile:
    """The tensors of a torch checkpoint by their flattened names, e.g. ``gru.weight_ih_l0``.

    ``source`` is a path or the bytes of a file. Nested dicts are joined with ``.``; a checkpoint is entered
    where its model lies (Lightning's ``state_dict``, or the one state dict or module among its values under a
    customary key); the wrappers' prefixes ``module.`` and ``_orig_mod.`` go. Of a whole module the tensors are those
    of its state_dict, and ``modules`` names its parts. bfloat16 becomes float32, exactly; every other dtype stays.
    Optimizer state and values that are no tensors are left out. Two names of one view of one storage share an array,
    and ``aliases`` names the first.

    Raises :class:`FormatError` for a damaged or hostile file and :class:`UnsupportedError` for TorchScript,
    torch.export, and tensors that are sparse, quantised, complex or float8.
    """
    shown = shown_name(source)
    head = bytes(open_bytes(source)[:8])
    if head[:2] != b"PK":
        raise FormatError(f"{shown}: expected a torch.save file, which is a zip, found first bytes {head!r}")
    members = ZipMembers(source)
    kind = zip_kind(members)
    if kind == "torchscript":
        raise UnsupportedError(f"{shown}: a TorchScript archive, not a state_dict; {_REEXPORT}")
    if kind == "pt2":
        raise UnsupportedError(f"{shown}: a torch.export archive, not a state_dict; {_REEXPORT}")
    if kind != "torch":
        raise FormatError(f"{shown}: a zip without data.pkl (it looks like: {kind}); expected a torch.save file")
    archive = _Archive(members)
    root = archive.pickle()
    tree = Tree(shown)
    found = tree.tensors(root)
    tensors, aliases = Arrays(archive, shown, byte_order(members, archive.top), members.file_size).of(found)
    return TensorFile(shown, "torch", tensors, aliases, modules=tree.modules)


class _Archive:
    """The members of one archive by what they are."""

    def __init__(self, members: ZipMembers) -> None:
        self.members = members
        self.shown = members.shown
        self.top = top_folder(members)

    def pickle(self) -> object:
        name = self.top + "data.pkl"
        return read_pickle(
            self.members.read(name, limit=64 << 20),
            shown=self.shown,
            calls=CALLS,
            persistent=lambda identifier: storage_named(identifier, self.shown),
            limits=Limits.of_file(self.members.packed_size(name)),
        )

    def storage(self, key: str) -> memoryview:
        return self.members.read(f"{self.top}data/{key}")


def top_folder(members: ZipMembers) -> str:
    """The one folder that everything lies in, with its slash."""
    tops = [name for name in members.names if name.endswith("/data.pkl") and name.count("/") == 1]
    if len(tops) != 1:
        raise FormatError(f"{members.shown}: has {len(tops)} members data.pkl; expected one")
    return tops[0].removesuffix("data.pkl")


def byte_order(members: ZipMembers, top: str) -> str:
    """``<`` or ``>``; files from before the member existed are little-endian."""
    name = top + "byteorder"
    if name not in members:
        return "<"
    said = bytes(members.read(name, limit=16))
    if said not in (b"little", b"big"):
        raise FormatError(f"{members.shown}: byteorder is {said!r}; expected little or big")
    return "<" if said == b"little" else ">"
