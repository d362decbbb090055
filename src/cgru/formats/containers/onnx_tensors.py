"""ONNX' tensors as read-only arrays, from the file itself or from data files beside it.

Types that numpy lacks are widened, exactly: bfloat16 and the floats of 8, 6 and 4 bits to float32, integers of 4 and
2 bits to 8. Source of the layouts: onnx/onnx.proto (TensorProto) and the ONNX documents "External Data" and
"Float stored in 8 bits".
"""

from __future__ import annotations

import math
import os
import stat
from functools import cache

import numpy as np

from ...errors import FormatError, UnsupportedError
from .file_bytes import Source, folder_of
from .onnx_schema import TENSOR_TYPES
from .protobuf import Message

MAX_AXES = 32
MAX_ELEMENTS = 1 << 40
_EXTERNAL = 1

#: Floats that numpy lacks: bits of the exponent and of the mantissa, the exponent's bias, and which codes are
#: special. "ieee": the highest exponent is infinity or NaN; "fn": all ones is NaN; "fnuz": minus zero is NaN;
#: "finite": none.
_SMALL_FLOATS = {
    "FLOAT8E4M3FN": (4, 3, 7, "fn"), "FLOAT8E4M3FNUZ": (4, 3, 8, "fnuz"), "FLOAT8E5M2": (5, 2, 15, "ieee"),
    "FLOAT8E5M2FNUZ": (5, 2, 16, "fnuz"), "FLOAT6E2M3": (2, 3, 1, "finite"), "FLOAT6E3M2": (3, 2, 3, "finite"),
    "FLOAT4E2M1": (2, 1, 1, "finite"),
}  # fmt: skip
_BITS = {"UINT4": 4, "INT4": 4, "FLOAT4E2M1": 4, "UINT2": 2, "INT2": 2, "FLOAT6E2M3": 6, "FLOAT6E3M2": 6}
# In int32_data each number stands for itself, but for the types of 4 and 2 bits for a byte of them.
_ONE_EACH = ("FLOAT6E2M3", "FLOAT6E3M2")


class DataFolder:
    """The folder of an ONNX file, out of which its tensors may take bytes, and nothing beyond it.

    Each file is opened as a regular file inside the folder, after all links are followed. No byte is read for two
    tensors unless they name the very same range, so that what is read is bounded by what lies there.
    """

    def __init__(self, source: Source, shown: str) -> None:
        self.folder = folder_of(source)
        self.shown = shown
        self._ranges: dict[tuple[str, int, int], bytes] = {}
        self._taken: dict[str, int] = {}

    def read(self, location: str, offset: int, size: int, where: str) -> bytes:
        """``size`` bytes from ``offset`` of the file ``location``, for the tensor ``where``."""
        path = self._inside(location, where)
        known = self._ranges.get((path, offset, size))
        if known is not None:
            return known
        flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
        try:
            descriptor = os.open(path, flags)
        except OSError as error:
            raise FormatError(
                f"{self.shown}: {where} is in the file {location!r} beside the model, which cannot be read: "
                f"{error.strerror}; keep both together"
            ) from error
        try:
            self._check_range(os.fstat(descriptor), path, location, offset, size, where)
            with os.fdopen(descriptor, "rb", closefd=False) as file:
                file.seek(offset)
                data = file.read(size)
        finally:
            os.close(descriptor)
        if len(data) != size:
            raise FormatError(f"{self.shown}: {where}: {location!r} changed while it was read")
        self._ranges[path, offset, size] = data
        return data

    def _check_range(
        self, status: os.stat_result, path: str, location: str, offset: int, size: int, where: str
    ) -> None:
        if not stat.S_ISREG(status.st_mode):
            raise FormatError(f"{self.shown}: {where} is in {location!r}, which is no regular file")
        if offset + size > status.st_size:
            raise FormatError(
                f"{self.shown}: {where} takes bytes {offset} to {offset + size} of {location!r}, which has "
                f"{status.st_size}: truncated"
            )
        self._taken[path] = self._taken.get(path, 0) + size
        if self._taken[path] > status.st_size:
            raise FormatError(f"{self.shown}: {where} overlaps other tensors in {location!r}")

    def _inside(self, location: str, where: str) -> str:
        if self.folder is None:
            raise UnsupportedError(
                f"{self.shown}: {where} is in the file {location[:80]!r} beside the model; load the model by its path"
            )
        parts = location.replace("\\", "/").split("/")
        if not location or "\0" in location or os.path.isabs(location) or ":" in parts[0] or ".." in parts:
            raise FormatError(
                f"{self.shown}: {where} is said to be in {location[:80]!r}; expected a path within the model's folder"
            )
        path = os.path.realpath(os.path.join(self.folder, *parts))
        if os.path.commonpath([path, os.path.realpath(self.folder)]) != os.path.realpath(self.folder):
            raise FormatError(
                f"{self.shown}: {where} is in {location[:80]!r}, a link out of the model's folder; "
                "put the file itself there"
            )
        return path


def array_of(message: Message, folder: DataFolder, where: str) -> np.ndarray:
    """The array of a TensorProto, which ``where`` names in messages.

    Nothing is allocated from the declared shape before that many numbers are known to be there. Raises
    :class:`FormatError` for a tensor whose type, shape and data do not agree.
    """
    shown = folder.shown
    shape = _shape(message, shown, where)
    count = math.prod(shape)
    code = message.get("data_type", 0)
    if code not in TENSOR_TYPES:
        raise FormatError(f"{shown}: {where} has data type {code}; expected one of {min(TENSOR_TYPES)} to 28")
    if "segment" in message:
        raise UnsupportedError(f"{shown}: {where} is split into segments, which no exporter writes")
    kind, dtype, field = TENSOR_TYPES[code]
    held = [name for name in _DATA_FIELDS if len(message.many(name))]
    external = message.get("data_location", 0) == _EXTERNAL
    if external and (held or "raw_data" in message):
        raise FormatError(f"{shown}: {where} has data both in the file and outside")
    if "raw_data" in message or external:
        if held:
            raise FormatError(f"{shown}: {where} has both raw_data and {held[0]}")
        if kind == "STRING":
            raise FormatError(f"{shown}: {where} holds text as raw data; expected string_data")
        size = math.ceil(count * _BITS[kind] / 8) if kind in _BITS else count * np.dtype(dtype).itemsize
        raw = _external(message, folder, size, where) if external else message.get("raw_data")
        if len(raw) != size:
            raise FormatError(f"{shown}: {where}, {kind} of shape {shape}, takes {size} bytes; found {len(raw)}")
        array = np.frombuffer(raw, dtype) if size else np.empty(0, dtype)
        if kind == "BOOL" and array.size and array.view(np.uint8).max() > 1:
            raise FormatError(f"{shown}: {where} is BOOL but holds other bytes than 0 and 1")
        packed = kind in _BITS
    else:
        if any(name != field for name in held):
            raise FormatError(f"{shown}: {where} is {kind} but holds {held[0]}; expected {field}")
        array = _from_field(message.many(field), kind, dtype, count, shape, shown, where)
        packed = kind in _BITS and kind not in _ONE_EACH
    if packed:
        array = _unpacked(array, _BITS[kind], count)
    array = np.require(_widened(array, kind).reshape(shape), requirements="A")
    if array.dtype.byteorder not in "=|":
        array = array.astype(array.dtype.newbyteorder("="))
    array.flags.writeable = False
    return array


_DATA_FIELDS = ("float_data", "int32_data", "string_data", "int64_data", "double_data", "uint64_data")


def _shape(message: Message, shown: str, where: str) -> tuple[int, ...]:
    dims = message.many("dims")
    if len(dims) > MAX_AXES:
        raise FormatError(f"{shown}: {where} has {len(dims)} axes; at most {MAX_AXES} are read")
    shape = tuple(int(size) for size in dims)
    if any(size < 0 for size in shape) or math.prod(size for size in shape if size) > MAX_ELEMENTS:
        raise FormatError(f"{shown}: {where} has the impossible shape {shape}")
    return shape


def _from_field(
    values: object, kind: str, dtype: str, count: int, shape: tuple[int, ...], shown: str, where: str
) -> np.ndarray:
    """The numbers of a typed field, checked to fit the tensor's type."""
    if kind == "STRING":
        assert isinstance(values, (list, tuple))
        wanted, array = count, np.empty(len(values), object)
        try:
            array[:] = [str(value, "utf-8") for value in values]
        except UnicodeDecodeError:
            raise FormatError(f"{shown}: {where} holds text that is not UTF-8") from None
    else:
        array = np.asarray(values) if len(values) else np.empty(0, dtype)  # type: ignore[arg-type]
        wanted = count
        if kind in _BITS and kind not in _ONE_EACH:
            wanted = math.ceil(count * _BITS[kind] / 8)
        elif dtype[1:2] == "c":
            wanted = 2 * count
    if len(array) != wanted:
        raise FormatError(f"{shown}: {where}, {kind} of shape {shape}, takes {wanted} numbers; found {len(array)}")
    target = np.dtype(dtype)
    if target.kind == "c":
        return array.astype(target.str.replace("c8", "f4").replace("c16", "f8")).view(target)
    if target.kind in "iu" and array.size:
        info = np.iinfo(target)
        low, high = int(array.min()), int(array.max())
        top = 63 if kind in _ONE_EACH else info.max
        if low < info.min or high > top:
            raise FormatError(f"{shown}: {where} is {kind} but holds {low if low < info.min else high}")
    if kind == "BOOL" and array.size and not 0 <= array.min() <= array.max() <= 1:
        raise FormatError(f"{shown}: {where} is BOOL but holds other numbers than 0 and 1")
    if kind == "FLOAT16":
        if array.size and not 0 <= array.min() <= array.max() < 1 << 16:
            raise FormatError(f"{shown}: {where} is FLOAT16 but holds numbers beyond 16 bits")
        return array.astype(np.uint16).view(np.float16)
    return array.astype(target, copy=False)


def _external(message: Message, folder: DataFolder, size: int, where: str) -> bytes:
    """The bytes of a tensor outside the file: keys ``location``, ``offset`` and ``length``; others say nothing here."""
    keys: dict[str, str] = {}
    for entry in message.many("external_data"):
        key = entry.get("key", "")
        if key in keys:
            raise FormatError(f"{folder.shown}: {where} gives {key[:40]!r} of its external data twice")
        keys[key] = entry.get("value", "")
    if "location" not in keys:
        raise FormatError(f"{folder.shown}: {where} is outside the file, but it does not say where")
    numbers = {"offset": 0, "length": size}
    for key in numbers:
        text = keys.get(key, str(numbers[key]))
        if not (text.isascii() and text.isdigit() and len(text) < 19):
            raise FormatError(f"{folder.shown}: {where} gives {text[:40]!r} as {key} of its external data")
        numbers[key] = int(text)
    if numbers["length"] != size:
        raise FormatError(
            f"{folder.shown}: {where} takes {size} bytes; its external data is said to have {numbers['length']}"
        )
    return folder.read(keys["location"], numbers["offset"], size, where)


def _unpacked(data: np.ndarray, bits: int, count: int) -> np.ndarray:
    """The first ``count`` numbers of ``bits`` bits each, the lowest bits first, as bytes."""
    flat = np.unpackbits(data.astype(np.uint8, copy=False), bitorder="little")[: count * bits].reshape(count, bits)
    return np.add.reduce(flat << np.arange(bits, dtype=np.uint8), axis=1, dtype=np.uint8)


def _widened(array: np.ndarray, kind: str) -> np.ndarray:
    if kind == "BFLOAT16":
        return (array.astype(np.uint32) << 16).view(np.float32)
    if kind in _SMALL_FLOATS:
        return _codes(kind)[array]
    if kind == "FLOAT8E8M0":
        return np.where(array == 255, np.float32(np.nan), np.ldexp(np.float32(1), array.astype(np.int32) - 127))
    if kind in ("INT4", "INT2"):
        half = 1 << (_BITS[kind] - 1)
        return (array.astype(np.int8) ^ half) - np.int8(half)
    return array


@cache
def _codes(kind: str) -> np.ndarray:
    """What each code of a small float stands for: (2^bits,) float32."""
    exponent_bits, mantissa_bits, bias, special = _SMALL_FLOATS[kind]
    code = np.arange(1 << (1 + exponent_bits + mantissa_bits))
    exponent = code >> mantissa_bits & (1 << exponent_bits) - 1
    mantissa = code & (1 << mantissa_bits) - 1
    negative = code >> (exponent_bits + mantissa_bits)
    whole = mantissa + (exponent > 0) * (1 << mantissa_bits)
    value = np.ldexp(whole.astype(np.float32), np.maximum(exponent, 1) - bias - mantissa_bits)
    value *= np.where(negative, np.float32(-1), np.float32(1))
    highest = exponent == (1 << exponent_bits) - 1
    if special == "ieee":
        value[highest] = np.where(mantissa[highest] > 0, np.nan, np.copysign(np.inf, value[highest]))
    elif special == "fn":
        value[highest & (mantissa == (1 << mantissa_bits) - 1)] = np.nan
    elif special == "fnuz":
        value[1 << (exponent_bits + mantissa_bits)] = np.nan
    return value
