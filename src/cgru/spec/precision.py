"""Reduced precision of weights: a matrix of float32 as int8 with a scale a row, as bfloat16 or as float16.

Only matrices are reduced; biases and other vectors stay float32. What the reduced numbers are multiplied with is the
backends' matter (docs/format.md has the arithmetic).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ..arrays import Float32, brief
from ..errors import CgruError

#: By the names used everywhere. ``int8x16`` has the weights of ``int8``; its activations have 16 bits rather than 8.
PRECISIONS = ("float32", "int8", "int8x16", "bf16", "fp16")

#: Products summed in 32 bits: 131072 · 127 · 127 is the last that fits.
MOST_INNER = 131072
_LEVELS = np.float32(127)
#: No larger scale: the widened weights would be infinite.
LARGEST_SCALE = np.nextafter(np.finfo(np.float32).max / _LEVELS, np.float32(0))

#: What safetensors calls the numbers that a matrix of each precision is held as.
KINDS = {"float32": "F32", "int8": "I8", "int8x16": "I8", "bf16": "BF16", "fp16": "F16"}


class Stored(NamedTuple):
    """A reduced matrix (rows, inner), or a kernel whose first axis is the rows: int8 beside a float32 scale for each
    row, or float16, or the bit patterns of bfloat16 as uint16, without a scale.
    """

    values: np.ndarray
    scale: Float32 | None = None

    @property
    def nbytes(self) -> int:
        return self.values.nbytes + (0 if self.scale is None else self.scale.nbytes)


def check(precision: object, where: str = "precision") -> str:
    """``precision`` if it is one, else a :class:`CgruError` that lists them."""
    if not isinstance(precision, str) or precision not in PRECISIONS:
        raise CgruError(f"{where}: {brief(precision)} is no precision; there are {', '.join(PRECISIONS)}")
    return precision


def scaled(precision: str) -> bool:
    """Whether a matrix of this precision has a scale for each row."""
    return precision in ("int8", "int8x16")


def is_matrix(name: str) -> bool:
    """Whether a layer's array of this canonical name is one that is reduced: a matrix, no bias and no peephole."""
    return name.startswith("weight") and not name.startswith("weight_ph")


def reduce(array: Float32, precision: str, where: str) -> Stored:
    """A matrix (rows, inner) of float32 in a reduced precision; ``where`` names it in messages.

    int8: ``scale = max|row| / 127`` and ``value = row / scale``, in float32, halves to even. bf16 and fp16: the
    nearest, halves to even. :class:`CgruError` for what is not finite, before or after.
    """
    if not np.isfinite(array).all():
        count = int(array.size - np.count_nonzero(np.isfinite(array)))
        raise CgruError(
            f"{where}: {count} of its numbers are NaN or infinite, which {precision} does not hold; leave it float32"
        )
    if scaled(precision):
        return _int8(array, precision, where)
    if precision == "bf16":
        bits = np.ascontiguousarray(array).view(np.uint32)
        values = ((bits + np.uint32(0x7FFF) + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
        stored = Stored(values)
    else:
        with np.errstate(over="ignore", under="ignore"):
            stored = Stored(array.astype(np.float16))
    if not np.isfinite(widen(stored, precision)).all():
        largest, most = float(np.max(np.abs(array))), "65504" if precision == "fp16" else "3.39e38"
        raise CgruError(
            f"{where}: its largest number is {largest:.6g} and {precision} ends at {most}; use another precision for it"
        )
    return _frozen(stored)


def _int8(array: Float32, precision: str, where: str) -> Stored:
    if array.shape[1] > MOST_INNER:
        raise CgruError(
            f"{where}: rows of {array.shape[1]} numbers are too long for {precision}, whose sums have 32 bits; at most "
            f"{MOST_INNER}: use bf16"
        )
    with np.errstate(under="ignore"):
        scale = np.minimum(np.abs(array).max(axis=1) / _LEVELS, LARGEST_SCALE)
    rows = scale[:, None]
    ratio = np.divide(array, rows, out=np.zeros(array.shape, np.float32), where=rows > 0)
    np.clip(np.rint(ratio, out=ratio), -_LEVELS, _LEVELS, out=ratio)
    return _frozen(Stored(ratio.astype(np.int8), scale))


def widen(stored: Stored, precision: str) -> Float32:
    """The matrix as float32, read-only: for int8 the products value · scale, each rounded once; else exact."""
    values, scale = stored
    if scale is not None:
        with np.errstate(under="ignore"):
            wide = values * scale.reshape(-1, *[1] * (values.ndim - 1))
    elif precision == "bf16":
        wide = (values.astype(np.uint32) << 16).view(np.float32)
    else:
        wide = values.astype(np.float32)
    wide.flags.writeable = False
    return wide


def _frozen(stored: Stored) -> Stored:
    for array in stored:
        if array is not None:
            array.flags.writeable = False
    return stored
