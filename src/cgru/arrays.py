"""The edge: everything a caller passes is checked and cast here, once, and never written to."""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING, Any

import numpy as np

from .errors import CgruError, ShapeError

if TYPE_CHECKING:
    from numpy.typing import NDArray

# NDArray[np.float32], without the milliseconds that importing numpy.typing takes
Float32 = np.ndarray[tuple[Any, ...], np.dtype[np.float32]]


def _plain(value: Any, where: str, what: str) -> NDArray[Any]:
    """``value`` as an array; whatever numpy or the value itself says against that becomes a ShapeError."""
    try:
        return np.asarray(value)
    except Exception as error:
        raise ShapeError(f"{where}: not an array of {what} ({error})") from error


def real(value: Any, where: str) -> NDArray[Any]:
    """``value`` as an array of real floating numbers, or a :class:`ShapeError` that says why not."""
    array = _plain(value, where, "numbers")
    if array.dtype.kind != "f":
        advice = "cast it with .astype('float32')" if array.dtype.kind in "iub" else "pass real floating-point numbers"
        raise ShapeError(f"{where}: expected real floating-point numbers, found dtype {array.dtype}; {advice}")
    return array


def float32(value: Any, where: str, ndim: int | tuple[int, ...]) -> Float32:
    """``value`` cast once to float32, with one of the numbers of axes given."""
    array = real(value, where)
    axes = (ndim,) if isinstance(ndim, int) else ndim
    if array.ndim not in axes:
        wanted = " or ".join(map(str, axes))
        raise ShapeError(f"{where}: expected {wanted} axes, found {array.ndim} (shape {array.shape})")
    if array.dtype == np.float32:  # native byte order too: a foreign one compares unequal
        return array
    with np.errstate(over="ignore"):
        return array.astype(np.float32)


def own(value: Any, where: str, ndim: int | tuple[int, ...]) -> Float32:
    """A read-only float32 array that is C-ordered, aligned and shares memory with nothing a caller can write."""
    array = float32(value, where, ndim)
    if _writable(array) or not (array.flags.c_contiguous and array.flags.aligned):
        array = np.array(array, dtype=np.float32, order="C", copy=True)
        array.flags.writeable = False
    return array


def _writable(array: NDArray[Any]) -> bool:
    """Whether anything can write to the memory of ``array``: itself, an array it is a view of, or a buffer."""
    owner: Any = array
    while isinstance(owner, np.ndarray):
        if owner.flags.writeable:
            return True
        owner = owner.base
    try:
        return owner is not None and not memoryview(owner).readonly
    except TypeError:
        return True


def ids(value: Any, where: str, vocabulary: int) -> NDArray[np.int64]:
    """Token ids (B, T) or (T,): integers in [0, vocabulary)."""
    array = _plain(value, where, "integers")
    if array.dtype.kind not in "iu":
        raise ShapeError(f"{where}: expected integer token ids, found dtype {array.dtype}; cast with .astype('int64')")
    if array.ndim not in (1, 2):
        raise ShapeError(f"{where}: expected ids of shape (B, T) or (T,), found shape {array.shape}")
    if array.size:
        low, high = int(array.min()), int(array.max())
        if low < 0 or high >= vocabulary:
            bad = low if low < 0 else high
            raise CgruError(f"{where}: token id {bad} is outside the vocabulary [0, {vocabulary})")
    return array.astype(np.int64, copy=False)


def lengths(value: Any, batch: int, steps: int) -> NDArray[np.int64] | None:
    """Row lengths (B,) in [0, T], in any order; a scalar stands for a batch of one."""
    if value is None:
        return None
    array = _plain(value, "lengths", "integers")
    if array.dtype.kind not in "iu" and not (isinstance(value, (list, tuple)) and array.shape == (0,)):
        raise ShapeError(f"lengths: expected integers, found dtype {array.dtype}; cast with .astype('int64')")
    if array.ndim == 0:
        array = array[None]
    if array.shape != (batch,):
        raise ShapeError(f"lengths: expected shape ({batch},), one per row of x, found {array.shape}")
    if array.size and (array.min() < 0 or array.max() > steps):
        bad = int(array.min()) if array.min() < 0 else int(array.max())
        raise CgruError(f"lengths: {bad} is outside [0, T], where x has T = {steps} time steps")
    return array.astype(np.int64)


def mask(value: Any, batch: int, steps: int) -> NDArray[np.bool_] | None:
    """Step mask (B, T), or (T,) for a batch of one: True where a step counts."""
    if value is None:
        return None
    array = _plain(value, "mask", "booleans")
    if array.dtype.kind != "b":
        raise ShapeError(f"mask: expected booleans, found dtype {array.dtype}; pass mask != 0")
    if array.ndim == 1 and batch == 1:
        array = array[None]
    if array.shape != (batch, steps):
        raise ShapeError(f"mask: expected shape ({batch}, {steps}), one for each step of x, found {array.shape}")
    return np.ascontiguousarray(array)


def positive(value: Any, where: str) -> int:
    """``value`` as an int of at least 1."""
    try:
        number = operator.index(value)
    except TypeError:
        raise CgruError(f"{where}: expected a whole number, found {value!r}") from None
    if number < 1:
        raise CgruError(f"{where}: expected at least 1, found {number}")
    return number
