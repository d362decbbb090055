"""PyTorch checkpoints as written by ``torch.save`` since 1.6: a zip of one pickle and one member per storage.

Layout (torch/serialization.py and caffe2/serialize/inline_container.cc): below one top folder stand
``data.pkl``, ``data/<key>`` with the raw bytes of each storage, ``version`` and, in newer files,
``byteorder``. In the pickle a tensor is a call of ``torch._utils._rebuild_tensor_v2`` on a storage, which is
the persistent id ``('storage', <type>, key, location, element count)``, with an offset, a size and strides
in elements.

The pickle is read as data by :mod:`cgru.formats.containers.pickle_data`: nothing in the file is imported or called.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeGuard

import numpy as np

from ...errors import FormatError, UnsupportedError
from .file_bytes import Source, open_bytes
from .file_bytes import shown as shown_name
from .messages import brief
from .pickle_data import Call, Global, Limits, OpaqueKey, Record, describe, read_pickle
from .tensorfile import TensorFile
from .zip_members import ZipMembers, zip_kind

MAX_TENSORS = 100_000
MAX_VISITS = 500_000
MAX_DEPTH = 32
MAX_NAME = 1024
MAX_AXES = 32
# Expanded tensors (stride 0) show more elements than are stored; beyond this they are a bomb.
MAX_UNFOLDED_RATIO = 8
MAX_UNFOLDED_FLOOR = 64 << 20

_ZIP = b"PK\x03\x04"
_PICKLE = 0x80
_LEGACY_MAGIC = b"\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19"
# The first says what it is even where tensors stand beside it.
_MODEL_KEYS = ("model_state_dict", "model_state", "model", "net", "network", "weights")
_REEXPORT = "save its weights alone, torch.save(model.state_dict(), 'model.pt'), and load that"

# Global name below `torch` -> numpy code; bfloat16 is read as its bit pattern and widened.
_DTYPES = {
    "float64": "f8", "double": "f8", "float32": "f4", "float": "f4", "float16": "f2", "half": "f2",
    "bfloat16": "bf16", "int64": "i8", "long": "i8", "int32": "i4", "int": "i4", "int16": "i2", "short": "i2",
    "int8": "i1", "uint8": "u1", "uint16": "u2", "uint32": "u4", "uint64": "u8", "bool": "b1",
}  # fmt: skip
_STORAGES = {
    "DoubleStorage": "f8", "FloatStorage": "f4", "HalfStorage": "f2", "BFloat16Storage": "bf16",
    "LongStorage": "i8", "IntStorage": "i4", "ShortStorage": "i2", "CharStorage": "i1", "ByteStorage": "u1",
    "BoolStorage": "b1", "UntypedStorage": "u1",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Storage:
    key: str
    type: str
    numel: int


@dataclass(frozen=True, slots=True)
class _Tensor:
    """A tensor as the pickle describes it; nothing in it has been checked against the storage yet."""

    storage: object
    offset: object
    shape: object
    stride: object
    dtype: object
    metadata: object


def looks_like(head: bytes) -> bool:
    """Whether a file that begins with ``head`` may be a torch file: a zip, a legacy stream or a pickle.

    Zips of other kinds begin alike; :func:`cgru.formats.containers.zip_members.zip_kind` tells them apart.
    """
    return head[:4] == _ZIP or (len(head) > 1 and head[0] == _PICKLE and head[1] <= 5)


def read(source: Source) -> TensorFile:
    """The tensors of a torch checkpoint by their flattened names, e.g. ``gru.weight_ih_l0``.

    ``source`` is a path or the bytes of a file. Nested dicts are joined with ``.``; a checkpoint is entered
    where its model lies (Lightning's ``state_dict``, or the one state dict among its values under a customary
    key); the wrappers' prefixes ``module.`` and ``_orig_mod.`` go. bfloat16 becomes float32, exactly; every
    other dtype stays. Optimizer state and values that are no tensors are left out. Two names of one view of
    one storage share an array, and ``aliases`` names the first.

    Raises :class:`FormatError` for a damaged or hostile file and :class:`UnsupportedError` for TorchScript,
    torch.export, pre-1.6 files, pickled modules, and tensors that are sparse, quantised, complex or float8.
    """
    shown = shown_name(source)
    _refuse_streams(bytes(open_bytes(source)[:64]), shown)
    members = ZipMembers(source)
    kind = zip_kind(members)
    if kind == "torchscript":
        raise UnsupportedError(f"{shown}: a TorchScript archive, not a state_dict; {_REEXPORT}")
    if kind == "pt2":
        raise UnsupportedError(f"{shown}: a torch.export archive, not a state_dict; {_REEXPORT}")
    if kind != "torch":
        raise FormatError(f"{shown}: a zip without data.pkl (it looks like: {kind}); expected a torch.save file")
    return _Checkpoint(members).read()


def _refuse_streams(head: bytes, shown: str) -> None:
    if _LEGACY_MAGIC in head[:16]:
        raise UnsupportedError(
            f"{shown}: a legacy torch file (before 1.6, or _use_new_zipfile_serialization=False); "
            "open it in PyTorch and torch.save it again with the default settings"
        )
    if len(head) > 1 and head[0] == _PICKLE and head[1] <= 5:
        raise UnsupportedError(f"{shown}: a bare pickle, not a torch.save file; {_REEXPORT}")
    if head[:2] != b"PK":
        raise FormatError(f"{shown}: expected a torch.save file, which is a zip, found first bytes {head[:8]!r}")


class _Checkpoint:
    """One archive while it is being read."""

    def __init__(self, members: ZipMembers) -> None:
        self.members = members
        self.shown = members.shown
        tops = [name for name in members.names if name.endswith("/data.pkl") and name.count("/") == 1]
        if len(tops) != 1:
            raise FormatError(f"{self.shown}: has {len(tops)} members data.pkl; expected one")
        self.top = tops[0].removesuffix("data.pkl")
        self.order = self.byte_order()
        self.budget = max(MAX_UNFOLDED_FLOOR, MAX_UNFOLDED_RATIO * members.file_size)
        self.raw: dict[str, memoryview] = {}
        #: By identity, what has been found out about a dict or list: it may be referred to thousands of times.
        self.parts_of: dict[int, list[tuple[object, object]]] = {}
        self.state_dicts: dict[int, bool] = {}

    def byte_order(self) -> str:
        """``<`` or ``>``; files from before the member existed are little-endian."""
        name = self.top + "byteorder"
        if name not in self.members:
            return "<"
        said = bytes(self.members.read(name, limit=16))
        if said not in (b"little", b"big"):
            raise FormatError(f"{self.shown}: byteorder is {said!r}; expected little or big")
        return "<" if said == b"little" else ">"

    def read(self) -> TensorFile:
        pickle = self.top + "data.pkl"
        root = read_pickle(
            self.members.read(pickle, limit=64 << 20),
            shown=self.shown,
            calls=_CALLS,
            persistent=self.storage,
            limits=Limits.of_file(self.members.packed_size(pickle)),
        )
        found = self.flatten(self.enter(root))
        tensors: dict[str, np.ndarray] = {}
        aliases: dict[str, str] = {}
        seen: dict[str, str] = {}
        for name, tensor in _without_wrappers(found).items():
            code, storage, offset, shape, stride = self.checked(name, tensor)
            # As text, whose hash Python salts: a file can make tuples of integers collide.
            view = f"{storage.key} {code} {offset} {shape} {stride}"
            if view in seen:
                aliases[name] = seen[view]
                tensors[name] = tensors[seen[view]]
            else:
                seen[view] = name
                tensors[name] = self.array(name, code, storage, offset, shape, stride)
        return TensorFile(self.shown, "torch", tensors, aliases)

    def storage(self, identifier: object) -> _Storage:
        """The storage that a persistent id names; only looked up once a tensor of it is wanted."""
        match identifier:
            case ("storage", Global("torch" | "torch.storage", type_name), str(key), _, int(numel)) if numel >= 0:
                if len(key) <= MAX_NAME:
                    return _Storage(key, type_name, numel)
        raise FormatError(f"{self.shown}: the pickle refers to something that is no storage of this file")

    # Which part of the checkpoint

    def enter(self, root: object) -> object:
        """The part of ``root`` that holds the model's tensors."""
        self.refuse_module(root)
        if not isinstance(root, dict):
            if isinstance(root, _Tensor):
                raise UnsupportedError(f"{self.shown}: holds one bare tensor; expected a state_dict")
            if isinstance(root, Record):
                raise UnsupportedError(f"{self.shown}: holds a {describe(root)}, not a state_dict; {_REEXPORT}")
            return root
        if self.is_state_dict(root.get("state_dict")):
            return root["state_dict"]
        states = [key for key, value in root.items() if self.is_state_dict(value)]
        if len(states) == 1 and states[0] in (_MODEL_KEYS[:1] if self.is_state_dict(root) else _MODEL_KEYS):
            return root[states[0]]
        if not states:
            for value in root.values():
                self.refuse_module(value)
        return root

    def refuse_module(self, value: object) -> None:
        if isinstance(value, Record) and isinstance(value.state, dict) and "_parameters" in value.state:
            raise UnsupportedError(
                f"{self.shown}: a whole pickled module ({describe(value)}), which only its own Python code "
                f"can rebuild; {_REEXPORT}"
            )

    def flatten(self, root: object) -> dict[str, _Tensor]:
        """Every tensor below ``root`` by its joined name; bounded, so shared nesting cannot unfold."""
        found: dict[str, _Tensor] = {}
        visits = letters = 0
        stack: list[Iterator[tuple[str, object]]] = [self.children("", root)]
        while stack:
            entry = next(stack[-1], None)
            if entry is None:
                stack.pop()
                continue
            name, value = entry
            visits += 1
            letters += len(name)
            if visits > MAX_VISITS or letters > 100 * MAX_TENSORS or len(found) > MAX_TENSORS:
                raise FormatError(f"{self.shown}: holds more than {MAX_TENSORS} tensors, or nests to that many")
            if isinstance(value, _Tensor):
                if name in found:
                    raise FormatError(f"{self.shown}: two tensors are named {brief(name)} once nested names are joined")
                found[name] = value
            elif isinstance(value, (dict, list, tuple)):
                if len(stack) >= MAX_DEPTH:
                    raise FormatError(
                        f"{self.shown}: nests more than {MAX_DEPTH} deep at {name[:80]!r}, or contains itself"
                    )
                stack.append(self.children(name, value))
        if not found:
            raise FormatError(f"{self.shown}: holds no tensors; expected a state_dict")
        return found

    def children(self, prefix: str, value: object) -> Iterator[tuple[str, object]]:
        if isinstance(value, dict) and "param_groups" in value and "state" in value:
            return  # An optimizer's state is no part of the network.
        is_state_dict = self.is_state_dict(value)
        for key, item in self.parts(value):
            if isinstance(key, OpaqueKey) or not isinstance(key, (str, int)) or not str(key).isprintable():
                if isinstance(item, _Tensor):
                    raise FormatError(f"{self.shown}: a tensor below {prefix!r} has no usable name as its key")
                continue
            name = f"{prefix}.{key}" if prefix else str(key)
            if len(name) > MAX_NAME:
                raise FormatError(f"{self.shown}: a name of more than {MAX_NAME} characters: {name[:80]!r}…")
            if isinstance(item, Record):
                self.refuse_record(name, item, is_state_dict)
            yield name, item

    def parts(self, value: object) -> list[tuple[object, object]]:
        """What of a dict, list or tuple may be or hold a tensor."""
        found = self.parts_of.get(id(value))
        if found is None:
            pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, _ROWS) else ()
            found = [(key, item) for key, item in pairs if isinstance(item, _NODES)]
            self.parts_of[id(value)] = found
        return found

    def is_state_dict(self, value: object) -> bool:
        """Whether ``value`` is a dict that holds tensors itself."""
        found = self.state_dicts.get(id(value))
        if found is None:
            # A lone scalar tensor (a loss, an epoch) does not make its dict a state_dict.
            found = isinstance(value, dict) and any(isinstance(v, _Tensor) and v.shape != () for v in value.values())
            self.state_dicts[id(value)] = found
        return found

    def refuse_record(self, name: str, value: Record, among_tensors: bool) -> None:
        """A record in place of a tensor must not vanish; one among hyper-parameters may."""
        made_from = describe(value)
        if among_tensors or (made_from.startswith("torch.") and "._rebuild" in made_from):
            raise UnsupportedError(
                f"{self.shown}: {name!r} is a {made_from}, not a plain dense tensor; convert it before "
                "saving, or leave it out"
            )

    # One tensor

    def checked(self, name: str, tensor: _Tensor) -> tuple[str, _Storage, int, tuple[int, ...], tuple[int, ...]]:
        """The parts of ``tensor``, proved to lie inside its storage. Equation: the last element's index."""
        storage = tensor.storage
        if not isinstance(storage, _Storage):
            raise FormatError(f"{self.shown}: {name!r} is not built on a storage of this file")
        code = self.dtype_code(name, storage, tensor.dtype)
        shape, stride, start = tensor.shape, tensor.stride, (tensor.offset,)
        if not (_are_sizes(shape) and _are_sizes(stride) and _are_sizes(start)) or len(shape) != len(stride):
            raise FormatError(f"{self.shown}: {name!r} has a malformed size, stride or offset")
        if tensor.metadata:
            raise UnsupportedError(f"{self.shown}: {name!r} is a conjugated or negated view; save it with .clone()")
        (offset,) = start
        width = 2 if code == "bf16" else np.dtype(code).itemsize
        stored = storage.numel if storage.type != "UntypedStorage" else storage.numel // width
        # The axes first: a product over thousands of them would take as long as it is large.
        most = math.prod(size for size in shape if size) if len(shape) <= MAX_AXES else 2**62
        last = offset + sum((size - 1) * step for size, step in zip(shape, stride, strict=True))
        if most >= 2**48 or (0 not in shape and last >= stored):
            raise FormatError(
                f"{self.shown}: {name!r} of shape {brief(shape)} with strides {brief(stride)} from "
                f"{offset} reaches past its storage of {stored} elements"
            )
        return code, storage, offset, shape, stride

    def dtype_code(self, name: str, storage: _Storage, dtype: object) -> str:
        said = dtype.name if isinstance(dtype, Global) and dtype.module == "torch" else None
        code = _STORAGES.get(storage.type) if dtype is None else _DTYPES.get(said or "")
        if code is None or (dtype is not None and storage.type != "UntypedStorage"):
            what = storage.type if dtype is None else describe(dtype)
            raise UnsupportedError(f"{self.shown}: {name!r} is stored as {what}; convert it to float32 before saving")
        return code

    def array(
        self,
        name: str,
        code: str,
        storage: _Storage,
        offset: int,
        shape: tuple[int, ...],
        stride: tuple[int, ...],
    ) -> np.ndarray:
        dtype = np.dtype(self.order + ("u2" if code == "bf16" else code.replace("b1", "u1")))
        self.budget -= math.prod(shape) * (4 if code == "bf16" else dtype.itemsize)
        if self.budget < 0:
            raise FormatError(
                f"{self.shown}: {name!r} of shape {brief(shape)} unfolds to far more than the file holds"
            )
        raw = self.storage_bytes(name, storage, dtype.itemsize if storage.type != "UntypedStorage" else 1)
        if 0 in shape:
            view = np.zeros(shape, dtype)
        else:
            steps = tuple(step * dtype.itemsize for step in stride)
            view = np.ndarray(shape, dtype, raw, offset * dtype.itemsize, steps)
        if code == "bf16":
            values = (view.astype(np.uint32) << 16).view(np.float32)
        elif code == "b1":
            if view.size and view.max() > 1:
                raise FormatError(f"{self.shown}: {name!r} is boolean but holds other bytes than 0 and 1")
            values = view.astype(np.bool_)
        else:
            # Copied, so that the array outlives whatever happens to the file.
            values = np.array(view, dtype.newbyteorder("="), order="C")
        values.flags.writeable = False
        return values

    def storage_bytes(self, name: str, storage: _Storage, width: int) -> memoryview:
        if storage.key not in self.raw:
            self.raw[storage.key] = self.members.read(f"{self.top}data/{storage.key}")
        raw = self.raw[storage.key]
        if len(raw) != storage.numel * width:
            raise FormatError(
                f"{self.shown}: {name!r} declares {storage.numel} elements of {width} bytes; its storage "
                f"data/{storage.key[:80]} has {len(raw)} bytes"
            )
        return raw


def _are_sizes(values: object) -> TypeGuard[tuple[int, ...]]:
    return isinstance(values, tuple) and all(type(value) is int and 0 <= value < 2**62 for value in values)


def _without_wrappers(found: dict[str, _Tensor]) -> dict[str, _Tensor]:
    """Names without what torch.compile (`_orig_mod`, anywhere) and DataParallel (`module`, in front) add."""
    names = [".".join(part for part in name.split(".") if part != "_orig_mod") for name in found]
    while all(name.startswith("module.") for name in names):
        names = [name.removeprefix("module.") for name in names]
    if len(set(names)) != len(names) or "" in names:
        return found
    return dict(zip(names, found.values(), strict=True))


_ROWS = (list, tuple)
_NODES = (_Tensor, dict, list, tuple, Record)

# What the globals of a state_dict stand for. Arguments come from the file and are checked in `checked`.


def _ordered_dict(pairs: object = ()) -> object:
    if isinstance(pairs, (list, tuple)) and not pairs:
        return {}
    return Record(Global("collections", "OrderedDict"), (pairs,))


def _size(values: object = ()) -> object:
    return tuple(values) if isinstance(values, (list, tuple)) else values


def _tensor_v2(
    storage: object, offset: object, shape: object, stride: object, grad: object, hooks: object,
    metadata: object = None,
) -> _Tensor:  # fmt: skip
    return _Tensor(storage, offset, shape, stride, None, metadata)


def _tensor_v3(
    storage: object, offset: object, shape: object, stride: object, grad: object, hooks: object,
    dtype: object, metadata: object = None,
) -> _Tensor:  # fmt: skip
    return _Tensor(storage, offset, shape, stride, dtype, metadata)


def _parameter(data: object, grad: object, hooks: object, state: object = None) -> object:
    return data


_CALLS: dict[Global, Call] = {
    Global("collections", "OrderedDict"): _ordered_dict,
    Global("collections", "defaultdict"): lambda factory=None: {},
    Global("torch", "Size"): _size,
    Global("torch._utils", "_rebuild_tensor_v2"): _tensor_v2,
    Global("torch._utils", "_rebuild_tensor_v3"): _tensor_v3,
    Global("torch._utils", "_rebuild_parameter"): _parameter,
    Global("torch._utils", "_rebuild_parameter_with_state"): _parameter,
}
