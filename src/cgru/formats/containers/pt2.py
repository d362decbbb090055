"""The archive of torch.export (.pt2), without torch: its program from JSON, its weights from raw bytes.

A zip: ``models/model.json`` is the program, ``data/weights`` and ``data/constants`` are tensors with a JSON index.
Source: torch/_export/serde/schema.py, schema version 8. Nothing is unpickled: the sample inputs are left alone.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ...errors import FormatError, UnsupportedError
from .file_bytes import Source, shown
from .json_text import parsed
from .tensorfile import TensorFile
from .zip_members import ZipMembers

#: torch's ScalarType by number in the schema → numpy's dtype; "bf16" is widened.
_DTYPES = {1: "u1", 2: "i1", 3: "<i2", 4: "<i4", 5: "<i8", 6: "<f2", 7: "<f4", 8: "<f8", 12: "?", 13: "bf16"}
_MAJOR = 8

#: Memory that a JSON member may take once parsed: a program's takes 5 kB a node.
MAX_PROGRAM = 256 << 20


def read(source: Source) -> TensorFile:
    """The parameters, buffers and constants by their names in the module."""
    members = ZipMembers(source)
    found = tensors(members)
    return TensorFile(shown(source), "pt2", found)


def document(members: ZipMembers) -> dict[str, Any]:
    """The program's JSON; :class:`FormatError` or :class:`UnsupportedError` where it is not one that cgru knows."""
    names = [name for name in members.names if name.endswith("models/model.json")]
    if len(names) != 1:
        raise UnsupportedError("a torch.export archive of an older layout, without models/model.json; export it anew")
    found = _json(members, names[0])
    version = found.get("schema_version")
    if not isinstance(version, dict) or version.get("major") != _MAJOR:
        raise UnsupportedError(f"a program of schema version {str(version)[:60]}; cgru reads {_MAJOR}")
    return found


def tensors(members: ZipMembers) -> dict[str, np.ndarray]:
    orders = [bytes(members.read(name)) for name in members.names if name.rpartition("/")[2] == "byteorder"]
    if orders not in ([], [b"little"]):
        raise UnsupportedError(f"its bytes are {orders[0][:10]!r} endian; cgru reads little")
    made: dict[str, np.ndarray] = {}
    for kind in ("weights", "constants"):
        for name in members.names:
            if not name.endswith(f"data/{kind}/model_{kind}_config.json"):
                continue
            config = _json(members, name).get("config")
            if not isinstance(config, dict):
                raise FormatError(f"{name}: expected an object config")
            folder = name.rpartition("/")[0]
            for title, entry in config.items():
                made[title] = _tensor(members, folder, title, entry)
    return made


def _json(members: ZipMembers, name: str) -> dict[str, Any]:
    try:
        text = str(members.read(name), "utf-8")
    except UnicodeDecodeError as error:
        raise FormatError(f"{name} is not text in UTF-8 ({error})") from None
    found = parsed(text, name, values=MAX_PROGRAM)
    if not isinstance(found, dict):
        raise FormatError(f"{name}: expected a JSON object")
    return found


def _tensor(members: ZipMembers, folder: str, title: str, entry: Any) -> np.ndarray:
    try:
        meta, path = entry["tensor_meta"], f"{folder}/{entry['path_name']}"
        pickled, code = entry["use_pickle"], meta["dtype"]
        sizes = [size["as_int"] for size in meta["sizes"]]
        strides = [stride["as_int"] for stride in meta["strides"]]
        offset = meta["storage_offset"]["as_int"]
    except (KeyError, TypeError):
        raise FormatError(f"{title[:80]}: its entry does not say where and what the tensor is") from None
    if pickled:
        raise UnsupportedError(f"{title[:80]}: a tensor that is pickled; cgru reads plain ones")
    numbers = [*sizes, *strides, offset]
    if any(type(n) is not int or not 0 <= n < 1 << 40 for n in numbers) or len(sizes) != len(strides):
        raise FormatError(f"{title[:80]}: sizes {str(sizes)[:60]} and strides {str(strides)[:60]}")
    if code not in _DTYPES:
        raise UnsupportedError(f"{title[:80]}: a tensor of type {str(code)[:20]}, which cgru does not read")
    if path not in members:
        raise FormatError(f"{title[:80]}: its data {path[:80]} is missing")
    data = members.read(path)
    dtype = np.dtype("<u2" if _DTYPES[code] == "bf16" else _DTYPES[code])
    count = math.prod(sizes)
    reach = offset + sum((n - 1) * s for n, s in zip(sizes, strides, strict=True)) + 1 if count else 0
    if reach * dtype.itemsize > len(data) or count > reach or len(sizes) > 16:
        raise FormatError(f"{title[:80]}: shape {sizes} does not fit the {len(data)} bytes of {path[:80]}")
    flat = np.frombuffer(data, dtype, len(data) // dtype.itemsize)
    steps = [stride * dtype.itemsize for stride in strides]
    array = np.lib.stride_tricks.as_strided(flat[offset:], sizes, steps) if count else np.zeros(sizes, dtype)
    if _DTYPES[code] == "bf16":
        array = (array.astype(np.uint32) << 16).view(np.float32)
    made = np.ascontiguousarray(array).reshape(sizes)
    made.flags.writeable = False
    return made
