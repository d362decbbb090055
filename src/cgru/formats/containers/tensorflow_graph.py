"""A frozen TensorFlow graph (``.pb``): the constants of a GraphDef by their nodes' names; its operators are not run.

Sources: tensorflow/core/framework/{graph,node_def,attr_value,tensor,types}.proto. Parsed strictly as data by
:mod:`.protobuf`; neither TensorFlow nor protobuf is needed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NoReturn

import numpy as np

from ...errors import FormatError, UnsupportedError
from .file_bytes import Source, open_bytes
from .file_bytes import shown as shown_name
from .messages import brief
from .protobuf import Message, Schema, parse
from .tensorfile import TensorFile

SCHEMA: Schema = {
    "GraphDef": {1: ("node", "NodeDef*")},
    "NodeDef": {1: ("name", "string"), 2: ("op", "string"), 3: ("input", "string*"), 5: ("attr", "AttrEntry*")},
    "AttrEntry": {1: ("key", "string"), 2: ("value", "AttrValue")},
    "AttrValue": {6: ("type", "enum"), 8: ("tensor", "TensorProto")},
    "TensorProto": {
        1: ("dtype", "enum"), 2: ("tensor_shape", "TensorShapeProto"), 4: ("tensor_content", "bytes"),
        5: ("float_val", "float*"), 6: ("double_val", "double*"), 7: ("int_val", "int32*"), 10: ("int64_val", "int64*"),
        11: ("bool_val", "bool*"), 13: ("half_val", "int32*"), 16: ("uint32_val", "uint32*"),
        17: ("uint64_val", "uint64*"),
    },
    "TensorShapeProto": {2: ("dim", "Dim*"), 3: ("unknown_rank", "bool")},
    "Dim": {1: ("size", "int64")},
}  # fmt: skip

#: DataType → (numpy's dtype of its raw bytes, the field that holds its numbers otherwise); bfloat16 is widened.
_TYPES: Mapping[int, tuple[str, str]] = {
    1: ("<f4", "float_val"), 2: ("<f8", "double_val"), 3: ("<i4", "int_val"), 4: ("u1", "int_val"),
    5: ("<i2", "int_val"), 6: ("i1", "int_val"), 9: ("<i8", "int64_val"), 10: ("?", "bool_val"),
    14: ("bf16", "half_val"), 17: ("<u2", "int_val"), 19: ("<f2", "half_val"), 22: ("<u4", "uint32_val"),
    23: ("<u8", "uint64_val"),
}  # fmt: skip
_STRING = 7
_MAX_AXES = 32
#: One number may stand for a whole tensor: all of them together unfold to at most so much, or so often the file.
_MAX_UNFOLDED_FLOOR, _MAX_UNFOLDED_RATIO = 16 << 20, 8


def looks_like(data: memoryview) -> bool:
    """Whether a file begins as a GraphDef does: a node, in it a name in ASCII, then an operator."""
    head = bytes(data[:600])
    if len(head) < 8 or head[0] != 0x0A:
        return False
    at = 1
    while at < 6 and head[at] & 0x80:
        at += 1
    at += 1
    size = head[at + 1 : at + 2]
    if head[at : at + 1] != b"\x0a" or not b"\0" < size < b"\x80":
        return False
    end = at + 2 + size[0]
    name = head[at + 2 : end]
    return name.isascii() and name.decode("ascii").isprintable() and head[end : end + 1] == b"\x12"


def looks_like_saved_model(data: memoryview) -> bool:
    """A SavedModel's own file: schema version 1, then a MetaGraphDef that reaches to the end, MetaInfoDef first."""
    head = bytes(data[:16])
    if head[:3] != b"\x08\x01\x12":
        return False
    size, at = 0, 3
    while at < 9 and at < len(head):
        size |= (head[at] & 0x7F) << 7 * (at - 3)
        at += 1
        if not head[at - 1] & 0x80:
            break
    return at + size <= len(data) and size > len(data) // 2 and head[at : at + 1] == b"\x0a"


def read(source: Source) -> TensorFile:
    """Every constant that holds numbers; :class:`FormatError` for a damaged or hostile file."""
    shown, data = shown_name(source), open_bytes(source)
    graph = parse(data, "GraphDef", SCHEMA, shown=shown)
    tensors: dict[str, np.ndarray] = {}
    budget = max(_MAX_UNFOLDED_FLOOR, _MAX_UNFOLDED_RATIO * len(data))
    for node in graph.many("node"):
        if node.get("op") != "Const":
            continue
        name = node.get("name", "")
        where = f"{shown}: the constant {brief(name)}"
        value = next((entry.get("value") for entry in node.many("attr") if entry.get("key") == "value"), None)
        message = None if value is None else value.get("tensor")
        if message is None:
            raise FormatError(f"{where} has no value")
        if message.get("dtype") == _STRING:
            continue
        if name in tensors:
            raise FormatError(f"{where} stands twice")
        array = _array(message, where, budget)
        budget -= array.nbytes
        tensors[name] = array
    if not tensors:
        raise UnsupportedError(f"{shown}: a TensorFlow graph without constants: its variables were not frozen into it")
    return TensorFile(shown, "tensorflow", tensors)


def load(source: Source) -> NoReturn:
    """A graph of TensorFlow's operators is none of cgru's."""
    count = len(read(source).tensors)
    raise UnsupportedError(
        f"a frozen TensorFlow graph, whose operators cgru does not run; cgru.read(...) gives its {count} constants, "
        "and cgru.GRU.from_keras and its kin make layers of them; or export it as ONNX: python -m tf2onnx.convert "
        "--graphdef model.pb --inputs … --outputs … --output model.onnx"
    )


def _array(message: Message, where: str, budget: int) -> np.ndarray:
    code = message.get("dtype", 0)
    if code not in _TYPES:
        raise UnsupportedError(f"{where} is of TensorFlow's type {code}, which cgru does not read")
    kind, field = _TYPES[code]
    dtype = np.dtype("<u2" if kind == "bf16" else kind)
    shape = _shape(message, where)
    count = math.prod(shape)
    if count * dtype.itemsize * (2 if kind == "bf16" else 1) > budget:
        raise FormatError(f"{where} of shape {shape} unfolds to far more than the file holds")
    if "tensor_content" in message:
        raw = message.get("tensor_content")
        if len(raw) != count * dtype.itemsize:
            raise FormatError(f"{where} of shape {shape} takes {count * dtype.itemsize} bytes; found {len(raw)}")
        array = np.frombuffer(raw, dtype).reshape(shape)
    else:
        array = _from_field(message.many(field), kind, dtype, count, shape, where)
    if kind == "bf16":
        array = (array.astype(np.uint32) << 16).view(np.float32)
    if kind == "?" and array.size and array.view(np.uint8).max() > 1:
        raise FormatError(f"{where} is boolean but holds other bytes than 0 and 1")
    array = np.array(array, array.dtype.newbyteorder("="))
    array.flags.writeable = False
    return array


def _from_field(
    held: Any, kind: str, dtype: np.dtype[Any], count: int, shape: tuple[int, ...], where: str
) -> np.ndarray:
    """Numbers one by one; where there are fewer than the shape says, the last stands for the rest."""
    values = np.asarray(held) if len(held) else np.zeros(1, dtype)
    if len(values) > max(count, 1):
        raise FormatError(f"{where} of shape {shape} holds {len(values)} numbers")
    if kind in ("bf16", "<f2"):
        values = values.astype(np.uint16).view(dtype)
    elif dtype.kind in "iu" and len(values):
        info = np.iinfo(dtype)
        if int(values.min()) < info.min or int(values.max()) > info.max:
            raise FormatError(f"{where} holds a number beyond its type")
    full = np.empty(count, dtype)
    full[: len(values)] = values[:count]
    full[len(values) :] = values[-1]
    return full.reshape(shape)


def _shape(message: Message, where: str) -> tuple[int, ...]:
    described = message.get("tensor_shape")
    if described is None:
        return ()
    dims = described.many("dim")
    if described.get("unknown_rank") or len(dims) > _MAX_AXES:
        raise FormatError(f"{where} has {len(dims)} axes, or an unknown number of them")
    shape = tuple(int(dim.get("size", 0)) for dim in dims)
    if any(size < 0 for size in shape) or math.prod(size for size in shape if size) > 1 << 40:
        raise FormatError(f"{where} has the impossible shape {brief(shape)}")
    return shape
