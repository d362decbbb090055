"""Plain pickles (``.pkl``) of numpy arrays in dicts, lists and objects, protocols 0 to 5; nothing in one is executed.

An array is pickled as a call of ``numpy._core.multiarray._reconstruct`` with the state ``(version, shape, dtype,
is_fortran, bytes)``, or since protocol 5 of ``numpy._core.numeric._frombuffer``; a scalar of ``multiarray.scalar``
(numpy/_core/src/multiarray/methods.c, ``array_reduce``). An object of any class is a tree of its attributes.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np

from ...errors import FormatError, UnsupportedError
from .file_bytes import Source, open_bytes, size_on_disk
from .file_bytes import shown as shown_name
from .messages import brief
from .object_tree import ObjectTree
from .pickle_data import Call, read_pickle
from .pickle_values import Global, Limits, Record, describe
from .tensorfile import TensorFile

MAX_AXES = 32
_PROTOCOL = 0x80
#: With what a pickle of protocol 0 or 1 begins: a mark, a name, a list, a dict.
_OLD = b"(c]}"
_MULTIARRAY = ("numpy.core.multiarray", "numpy._core.multiarray")
_NUMERIC = ("numpy.core.numeric", "numpy._core.numeric")
_NUMBER = re.compile(r"[<>|=]?(b1|[iu][1248]|f[248])", re.ASCII)


def looks_like(data: memoryview) -> bool:
    """Whether ``data`` may be a whole pickle: of protocol 2 and up by its first bytes, of older ones by both ends."""
    if len(data) < 2 or data[-1:] != b".":
        return len(data) > 2 and data[0] == _PROTOCOL and data[1] <= 5
    return (data[0] == _PROTOCOL and data[1] <= 5) or data[0] in _OLD


def read(source: Source) -> TensorFile:
    """The arrays of a pickle by name: keys, positions and attributes joined with dots, ``layers.0.cell.weights``.

    Numbers of numpy are arrays without axes; Python's own numbers, texts and arrays of texts are left out. Raises
    :class:`FormatError` for a damaged or hostile pickle and :class:`UnsupportedError` for complex numbers.
    """
    data, shown = open_bytes(source), shown_name(source)
    limits = replace(Limits.of_file(size_on_disk(source)), size=1 << 32)  # its arrays are inside
    root = read_pickle(data, shown=shown, calls=_CALLS, limits=limits)
    tree = _Tree(shown)
    found = {"": root} if tree.is_leaf(root) else tree.flatten(root)
    tensors: dict[str, np.ndarray] = {}
    aliases: dict[str, str] = {}
    first: dict[int, str] = {}
    for name, value in found.items():
        if id(value) in first:
            aliases[name] = first[id(value)]
            tensors[name] = tensors[first[id(value)]]
        elif (array := tree.array(name or "the array", value)) is not None:
            first[id(value)] = name
            tensors[name or "array"] = array
    if not tensors:
        raise FormatError(f"{shown}: a pickle without arrays (a {describe(root)}); expected a network's weights")
    return TensorFile(shown, "pickle", tensors, aliases)


class _Tree(ObjectTree):
    """Arrays in dicts, lists and objects."""

    def is_leaf(self, value: object) -> bool:
        return isinstance(value, Record) and _array_parts(value) is not None

    def members(self, value: object) -> Iterable[tuple[object, object]] | None:
        if not isinstance(value, Record):
            return super().members(value)
        return None if self.is_leaf(value) else _attributes(value)

    def array(self, name: str, value: object) -> np.ndarray | None:
        """The array of a leaf, None where it holds no numbers; every size is checked against the bytes."""
        parts = _array_parts(value)
        assert parts is not None
        shape, dtype, fortran, data = parts
        where = f"{self.shown}: array {brief(name)}"
        code = _dtype_code(dtype)
        if code is None or code.lstrip("<>|=")[:1] in ("O", "U", "S", "M", "m", "V"):
            return None
        if not _NUMBER.fullmatch(code):
            raise UnsupportedError(f"{where} has dtype {brief(code)}; expected booleans, integers or floats")
        if isinstance(data, str):
            # Python 2 pickled bytes as text, which the reader took for Latin-1.
            try:
                data = data.encode("latin-1")
            except UnicodeEncodeError:
                raise FormatError(f"{where} has text where its bytes should be") from None
        if not _are_sizes(shape) or len(shape) > MAX_AXES or not isinstance(data, bytes):
            raise FormatError(f"{where} has a malformed shape or no bytes")
        kind = np.dtype(code)
        if math.prod(size for size in shape if size) >= 2**48 or math.prod(shape) * kind.itemsize != len(data):
            raise FormatError(f"{where}, {kind} of shape {brief(shape)}, has {len(data)} bytes, which does not fit")
        if kind.kind == "b" and data and max(data) > 1:
            raise FormatError(f"{where} is boolean but holds other bytes than 0 and 1")
        flat = np.frombuffer(data, kind) if data else np.zeros(0, kind)
        values = np.array(flat.reshape(shape, order="F" if fortran else "C"), kind.newbyteorder("="), order="C")
        values.flags.writeable = False
        return values


def _array_parts(value: object) -> tuple[Any, object, bool, object] | None:
    """Shape, dtype, Fortran order and bytes of a record that is one of numpy's arrays or numbers."""
    if not isinstance(value, Record) or not isinstance(value.cls, Global) or not isinstance(value.args, tuple):
        return None
    module, name = value.cls.module, value.cls.name
    if name == "_reconstruct" and module in _MULTIARRAY:
        match value.state:
            case (_, shape, dtype, fortran, data) if not isinstance(data, list):
                return shape, dtype, bool(fortran), data
    if name == "scalar" and module in _MULTIARRAY and len(value.args) == 2:
        return (), value.args[0], False, value.args[1]
    if name == "_frombuffer" and module in _NUMERIC and len(value.args) == 4:
        data, dtype, shape, order = value.args
        return shape, dtype, order == "F", data
    return None


def _dtype_code(dtype: object) -> str | None:
    """``<f4`` of the record of a ``numpy.dtype``; None for structured ones and what is no dtype."""
    if not isinstance(dtype, Record) or dtype.cls != Global("numpy", "dtype"):
        return None
    code: object = dtype.args[0] if isinstance(dtype.args, tuple) and dtype.args else None
    state = dtype.state
    order: object = state[1] if isinstance(state, tuple) and len(state) > 3 else "="
    if not isinstance(code, str) or not isinstance(order, str) or not 2 <= len(code) < 16 or code[0] in "<>|=":
        return None
    return order + code if order in ("<", ">", "|", "=") else None


def _attributes(value: Record) -> list[tuple[object, object]]:
    """What an object of a foreign class holds: attributes, slots, and the items of a dict or list of its own class."""
    held: list[tuple[object, object]] = []
    states = value.state if isinstance(value.state, tuple) else (value.state,)
    for state in states:
        if isinstance(state, dict):
            held += state.items()
        elif isinstance(state, (list, Record)):
            held.append(("state", state))
    held += value.items
    held += enumerate(value.elements)
    if not held and isinstance(value.args, tuple) and value.cls not in _NO_DATA:
        held += ((f"args.{index}", item) for index, item in enumerate(value.args) if not isinstance(item, Global))
    return held


_NO_DATA = (Global("copyreg", "_reconstructor"), Global("copy_reg", "_reconstructor"), Global("numpy", "dtype"))


def _are_sizes(values: object) -> bool:
    return isinstance(values, tuple) and all(type(value) is int and 0 <= value < 2**62 for value in values)


def _encoded(text: object, encoding: object = "utf-8") -> object:
    """``bytes`` as protocols before 3 write it: a text, and that it is Latin-1."""
    if isinstance(text, str) and encoding in ("latin1", "latin-1"):
        try:
            return text.encode("latin-1")
        except UnicodeEncodeError:
            pass
    return Record(Global("_codecs", "encode"), (text, encoding))


def _bytes(data: object = b"", encoding: object = None) -> object:
    """``bytes()``, as protocols before 3 write what is empty, and ``bytearray`` of bytes."""
    return _encoded(data, encoding) if isinstance(data, str) else data


def _ordered(pairs: object = ()) -> object:
    if not isinstance(pairs, (list, tuple)):
        return Record(Global("collections", "OrderedDict"), (pairs,))
    if all(isinstance(pair, (list, tuple)) and len(pair) == 2 and isinstance(pair[0], str) for pair in pairs):
        return {pair[0]: pair[1] for pair in pairs}
    return Record(Global("collections", "OrderedDict"), (pairs,))


_CALLS: dict[Global, Call] = {
    Global("_codecs", "encode"): _encoded,
    **{Global(module, name): _bytes for module in ("builtins", "__builtin__") for name in ("bytes", "bytearray")},
    Global("collections", "OrderedDict"): _ordered,
    Global("collections", "defaultdict"): lambda factory=None: {},
}
