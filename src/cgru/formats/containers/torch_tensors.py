"""Tensors of a torch pickle: what its calls stand for, and arrays out of the storages that they name.

A tensor is a call of ``torch._utils._rebuild_tensor_v2`` on a storage, which is a persistent id
``('storage', <type>, key, location, element count)``, with an offset, a size and strides in elements. Nothing that
the pickle says of a tensor is believed before it is proved to lie inside its storage.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol, TypeGuard

import numpy as np

from ...errors import FormatError, UnsupportedError
from .messages import brief
from .pickle_data import Call, fits
from .pickle_values import Global, Record, describe

MAX_NAME = 1024
MAX_AXES = 32
# Expanded tensors (stride 0) show more elements than are stored; beyond this they are a bomb.
MAX_UNFOLDED_RATIO = 8
MAX_UNFOLDED_FLOOR = 64 << 20

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
class Storage:
    key: str
    type: str
    numel: int


@dataclass(frozen=True, slots=True)
class Tensor:
    """A tensor as the pickle describes it; nothing in it has been checked against the storage yet."""

    storage: object
    offset: object
    shape: object
    stride: object
    dtype: object
    metadata: object


class Storages(Protocol):
    """Where the bytes of a file's storages come from."""

    def storage(self, key: str) -> memoryview:
        """The bytes of the storage ``key``; raises :class:`FormatError` where the file has none."""
        ...


def width_of(type_name: str) -> int:
    """Bytes an element of a storage of this type; 0 for a type that is not known."""
    code = _STORAGES.get(type_name)
    return 0 if code is None else 2 if code == "bf16" else np.dtype(code).itemsize


def storage_named(identifier: object, shown: str) -> Storage:
    """The storage that a persistent id stands for; only looked up once a tensor of it is wanted."""
    match identifier:
        case ("storage", Global("torch" | "torch.storage", type_name), str(key), _, int(numel), *rest) if numel >= 0:
            # The sixth part of old files, a view of another storage, is None in all that were written since 0.4.
            if len(key) <= MAX_NAME and rest in ([], [None]):
                return Storage(key, type_name, numel)
    raise FormatError(f"{shown}: the pickle refers to something that is no storage of this file")


class Arrays:
    """The arrays of one file's tensors; views of one part of one storage share an array."""

    def __init__(self, storages: Storages, shown: str, order: str, file_size: int) -> None:
        """``order`` is the byte order of the storages, ``<`` or ``>``."""
        self.storages = storages
        self.shown = shown
        self.order = order
        self.budget = max(MAX_UNFOLDED_FLOOR, MAX_UNFOLDED_RATIO * file_size)
        self.raw: dict[str, memoryview] = {}

    def of(self, found: dict[str, Tensor]) -> tuple[dict[str, np.ndarray], dict[str, str]]:
        """The arrays by name, and for each name that shows an earlier one's memory the earlier name."""
        tensors: dict[str, np.ndarray] = {}
        aliases: dict[str, str] = {}
        seen: dict[str, str] = {}
        for name, tensor in found.items():
            code, storage, offset, shape, stride = self.checked(name, tensor)
            # As text, whose hash Python salts: a file can make tuples of integers collide.
            view = f"{storage.key} {code} {offset} {shape} {stride}"
            if view in seen:
                aliases[name] = seen[view]
                tensors[name] = tensors[seen[view]]
            else:
                seen[view] = name
                tensors[name] = self.array(name, code, storage, offset, shape, stride)
        return tensors, aliases

    def checked(self, name: str, tensor: Tensor) -> tuple[str, Storage, int, tuple[int, ...], tuple[int, ...]]:
        """The parts of ``tensor``, proved to lie inside its storage. Equation: the last element's index."""
        storage = tensor.storage
        if not isinstance(storage, Storage):
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

    def dtype_code(self, name: str, storage: Storage, dtype: object) -> str:
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
        storage: Storage,
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

    def storage_bytes(self, name: str, storage: Storage, width: int) -> memoryview:
        if storage.key not in self.raw:
            self.raw[storage.key] = self.storages.storage(storage.key)
        raw = self.raw[storage.key]
        if len(raw) != storage.numel * width:
            raise FormatError(
                f"{self.shown}: {name!r} declares {storage.numel} elements of {width} bytes; its storage "
                f"{storage.key[:80]!r} has {len(raw)} bytes"
            )
        return raw


def _are_sizes(values: object) -> TypeGuard[tuple[int, ...]]:
    return isinstance(values, tuple) and all(type(value) is int and 0 <= value < 2**62 for value in values)


# What the globals of a state_dict stand for. Arguments come from the file and are checked in `checked`.


def _ordered_dict(pairs: object = ()) -> object:
    if isinstance(pairs, (list, tuple)) and not pairs:
        return {}
    return Record(Global("collections", "OrderedDict"), (pairs,))


def _size(values: object = ()) -> object:
    return tuple(values) if isinstance(values, (list, tuple)) else values


def _tensor_v1(storage: object, offset: object, shape: object, stride: object) -> Tensor:
    return Tensor(storage, offset, shape, stride, None, None)


def _tensor_v2(
    storage: object, offset: object, shape: object, stride: object, grad: object, hooks: object,
    metadata: object = None,
) -> Tensor:  # fmt: skip
    return Tensor(storage, offset, shape, stride, None, metadata)


def _tensor_v3(
    storage: object, offset: object, shape: object, stride: object, grad: object, hooks: object,
    dtype: object, metadata: object = None,
) -> Tensor:  # fmt: skip
    return Tensor(storage, offset, shape, stride, dtype, metadata)


def _parameter(data: object, grad: object = None, hooks: object = None, state: object = None) -> object:
    return data


def _typed(function: object, cls: object, args: object, state: object) -> object:
    """A tensor of a class of its own or with attributes: the tensor, without them."""
    known = CALLS.get(function) if isinstance(function, Global) and cls in _TENSOR_CLASSES else None
    if known in (_tensor_v1, _tensor_v2, _tensor_v3) and isinstance(args, tuple) and fits(known, args):
        return known(*args)
    return Record(function, args)


_TENSOR_CLASSES = (Global("torch", "Tensor"), Global("torch.nn.parameter", "Parameter"))

CALLS: dict[Global, Call] = {
    Global("collections", "OrderedDict"): _ordered_dict,
    Global("collections", "defaultdict"): lambda factory=None: {},
    Global("torch", "Size"): _size,
    Global("torch._utils", "_rebuild_tensor"): _tensor_v1,
    Global("torch._utils", "_rebuild_tensor_v2"): _tensor_v2,
    Global("torch._utils", "_rebuild_tensor_v3"): _tensor_v3,
    Global("torch._utils", "_rebuild_parameter"): _parameter,
    Global("torch._utils", "_rebuild_parameter_with_state"): _parameter,
    Global("torch._tensor", "_rebuild_from_type_v2"): _typed,
    Global("torch.nn.parameter", "Parameter"): _parameter,
}
