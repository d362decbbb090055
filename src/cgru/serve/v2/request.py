"""An inference request of the V2 protocol, decoded: tensors by name, and what can be wrong with one."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ...errors import CgruError

#: Datatypes of the protocol, little-endian. BF16 and BYTES are none that numpy or a network here knows.
DTYPES = {
    name: np.dtype(kind)
    for name, kind in {
        "BOOL": "?", "INT8": "<i1", "INT16": "<i2", "INT32": "<i4", "INT64": "<i8", "UINT8": "<u1", "UINT16": "<u2",
        "UINT32": "<u4", "UINT64": "<u8", "FP16": "<f2", "FP32": "<f4", "FP64": "<f8",
    }.items()
}  # fmt: skip


class V2Error(CgruError):
    """A request that cannot be served, with its HTTP status (which gRPC's code follows)."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status

    def __reduce__(self) -> tuple[Any, ...]:
        return V2Error, (self.status, str(self))  # it may come from another process


@dataclass(frozen=True)
class Request:
    """An inference request, decoded."""

    inputs: dict[str, np.ndarray]
    id: str = ""
    parameters: dict[str, Any] = field(default_factory=dict)
    #: Names of the outputs wanted; empty: all.
    outputs: tuple[str, ...] = ()


def tensor(name: str, datatype: str, shape: Any, data: Any) -> np.ndarray:
    """An input from its bytes, or from its numbers in (nested) lists."""
    where = f"input {name[:80]!r}"
    if datatype not in DTYPES:
        raise V2Error(400, f"{where}: expected one of {', '.join(DTYPES)} as datatype, found {str(datatype)[:40]!r}")
    dtype = DTYPES[datatype]
    if not isinstance(shape, list) or not all(type(n) is int and 0 <= n < 1 << 40 for n in shape) or len(shape) > 8:
        raise V2Error(400, f"{where}: shape must be a list of at most eight whole numbers, found {str(shape)[:80]}")
    wanted = math.prod(shape)
    if isinstance(data, bytes | bytearray | memoryview):
        if len(data) != wanted * dtype.itemsize:
            size = wanted * dtype.itemsize
            raise V2Error(400, f"{where}: {datatype} of shape {shape} is {size} bytes, found {len(data)}")
        return np.frombuffer(data, dtype).reshape(shape)
    try:
        array = np.asarray(data)
        if array.size and (array.dtype.kind not in "biuf" or (dtype.kind in "biu" and array.dtype.kind == "f")):
            raise TypeError
        with np.errstate(over="raise", invalid="raise"):
            array = np.asarray(data, dtype)
    except (ValueError, TypeError, OverflowError, FloatingPointError):
        said = f"{where}: data must be numbers that {datatype} holds, in one list or nested as the shape"
        raise V2Error(400, said) from None
    if array.size != wanted:
        raise V2Error(400, f"{where}: shape {shape} has {wanted} numbers, found {array.size}")
    return array.reshape(shape)
