"""TorchScript archives (``torch.jit.save``): the module as a tree of data, its tensors, and its code as text.

The zip of ``torch.save`` (:mod:`.torch_zip`) with three differences: classes in ``data.pkl`` are the module's own,
``__torch__.…``, ``constants.pkl`` holds the tensors that the code names ``CONSTANTS.c0`` and so on, and ``code/`` the
source of every class. Source: torch/csrc/jit/serialization. Nothing of it is imported or run: the code is text here.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...errors import FormatError, UnsupportedError
from .file_bytes import Source
from .object_tree import ObjectTree
from .pickle_data import Call, read_pickle
from .pickle_values import Global, Limits, Record, describe
from .tensorfile import TensorFile
from .torch_tensors import CALLS, Arrays, Tensor, storage_named
from .torch_zip import byte_order, top_folder
from .zip_members import ZipMembers

#: Bytes of source that are read in all, and for each byte that they take in the file: code is deflated.
_MAX_CODE, _MAX_CODE_RATIO = 4 << 20, 16
_CLASSES = "__torch__"


@dataclass(frozen=True)
class Script:
    """One archive. ``root`` is the module: a record whose ``state`` is a dict of its attributes.

    ``tensors`` has every tensor of ``root`` by its path, ``names`` the path of each by the ``id`` of its entry in the
    tree. ``constants`` are those that the code names by number. ``code`` is the source by module, ``__torch__.a.b``.
    """

    shown: str
    root: Record
    tensors: dict[str, np.ndarray]
    aliases: dict[str, str]
    names: dict[int, str]
    constants: list[np.ndarray]
    code: dict[str, str]


def read(source: Source) -> TensorFile:
    """The tensors of the module by their paths; a list that repeats a recurrent module's weights is left out.

    Of a frozen module, which has none, the constants of its code by their names there, ``CONSTANTS.c0``.
    """
    script = opened(source)
    if not script.tensors:
        constants = {f"CONSTANTS.c{i}": array for i, array in enumerate(script.constants)}
        return TensorFile(script.shown, "torchscript", constants)
    repeated = {name for name in script.aliases if "_flat_weights" in name.split(".")}
    return TensorFile(
        script.shown,
        "torchscript",
        {name: array for name, array in script.tensors.items() if name not in repeated},
        {name: first for name, first in script.aliases.items() if name not in repeated},
    )


def opened(source: Source) -> Script:
    """Raises :class:`FormatError` for a damaged or hostile archive, :class:`UnsupportedError` for one of 2019."""
    members = ZipMembers(source)
    shown = members.shown
    if any(name.endswith("/model.json") and name.count("/") == 1 for name in members.names):
        raise UnsupportedError(f"{shown}: a TorchScript archive from before PyTorch 1.4; save it again with a later")
    top = top_folder(members)
    order = byte_order(members, top)
    root = _pickle(members, top + "data.pkl")
    if not isinstance(root, Record) or attributes_of(root) is None:
        raise FormatError(f"{shown}: data.pkl is {describe(root)}; expected a module of a class of the archive's code")
    found = _Tree(shown).flatten(root)
    described = {name: value for name, value in found.items() if isinstance(value, Tensor)}
    tensors, aliases = Arrays(_Storages(members, f"{top}data/"), shown, order, members.file_size).of(described)
    names: dict[int, str] = {}
    for name, value in described.items():
        names.setdefault(id(value), name)
    return Script(shown, root, tensors, aliases, names, _constants(members, top, order), _code(members, top))


def _constants(members: ZipMembers, top: str, order: str) -> list[np.ndarray]:
    name = top + "constants.pkl"
    if name not in members:
        return []
    held = _pickle(members, name)
    if not isinstance(held, (tuple, list)):
        raise FormatError(f"{members.shown}: constants.pkl is {describe(held)}; expected a tuple")
    found = {f"CONSTANTS.c{i}": value for i, value in enumerate(held) if isinstance(value, Tensor)}
    if len(found) != len(held):
        # Objects of classes of their own (quantised weights) shift nothing: they are missing where they are named.
        raise UnsupportedError(f"{members.shown}: a constant of it is no plain tensor; save it without quantisation")
    storages = _Storages(members, f"{top}constants/")
    arrays, _ = Arrays(storages, members.shown, order, members.file_size).of(found)
    return list(arrays.values())


def _code(members: ZipMembers, top: str) -> dict[str, str]:
    head = top + "code/"
    sources = [name for name in members.names if name.startswith(head) and name.endswith(".py")]
    size, packed = sum(map(members.size, sources)), sum(map(members.packed_size, sources))
    if size > min(_MAX_CODE, 65536 + _MAX_CODE_RATIO * packed):
        raise FormatError(f"{members.shown}: {size} bytes of code in {packed}; expected at most {_MAX_CODE}")
    code = {}
    for name in sources:
        try:
            text = bytes(members.read(name)).decode()
        except UnicodeDecodeError:
            raise FormatError(f"{members.shown}: {name} is no UTF-8") from None
        code[name.removeprefix(head).removesuffix(".py").replace("/", ".")] = text
    return code


def _pickle(members: ZipMembers, name: str) -> object:
    return read_pickle(
        members.read(name, limit=64 << 20),
        shown=members.shown,
        calls=_CALLS,
        persistent=lambda identifier: storage_named(identifier, members.shown),
        limits=Limits.of_file(members.packed_size(name)),
    )


@dataclass(frozen=True)
class _Storages:
    members: ZipMembers
    folder: str

    def storage(self, key: str) -> memoryview:
        return self.members.read(self.folder + key)


class _Tree(ObjectTree):
    """Attributes of the module's own classes are branches, whatever they hold."""

    wanted = "tensors"

    def is_leaf(self, value: object) -> bool:
        return isinstance(value, Tensor)

    def members(self, value: object) -> Iterable[tuple[object, object]] | None:
        held = attributes_of(value)
        return super().members(value) if held is None else held.items()

    def passed(self, name: str, value: Record, parent: object) -> None:
        if describe(value).startswith("torch._utils._rebuild"):
            raise UnsupportedError(f"{self.shown}: {name!r} is a {describe(value)}, not a plain dense tensor")


def attributes_of(value: object) -> dict[str, Any] | None:
    """The attributes of an instance of a class of the archive's code; None for anything else."""
    if isinstance(value, Record) and isinstance(value.state, dict) and describe(value).startswith(_CLASSES):
        return value.state
    return None


def _tagged(value: object, kind: object = None) -> object:
    """A list or dict with its type beside it."""
    return value


_PICKLE = "torch.jit._pickle"
_CALLS: dict[Global, Call] = {
    **CALLS,
    Global(_PICKLE, "restore_type_tag"): _tagged,
    **{Global(_PICKLE, f"build_{kind}list"): _tagged for kind in ("int", "double", "bool", "tensor")},
}
