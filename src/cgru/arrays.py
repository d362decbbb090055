"""The edge: everything a caller passes is checked and cast here, once, and never written to."""

from __future__ import annotations

import operator
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .errors import ArgumentTypeError, CgruError, ShapeError

if TYPE_CHECKING:
    from numpy.typing import NDArray

# NDArray[np.float32], without the milliseconds that importing numpy.typing takes
Float32 = np.ndarray[tuple[Any, ...], np.dtype[np.float32]]

_FLOAT32 = np.dtype(np.float32)


def as_array(value: Any, where: str, what: str) -> NDArray[Any]:
    """``value`` as an array; whatever numpy or the value itself says against that becomes a ShapeError."""
    if type(value) is not np.ndarray and _hides_numbers(value):
        raise ShapeError(
            f"{where}: it is a masked array, and numbers that are masked would be taken for numbers; pass its "
            ".data, or .filled(…), and say by mask= which steps count"
        )
    try:
        return np.asarray(value)
    except Exception as error:
        raise ShapeError(f"{where}: not an array of {what} ({error})") from None


def _hides_numbers(value: Any, depth: int = 4) -> bool:
    """Whether ``value`` is a numpy.ma array with anything masked, or a nest of lists that holds one."""
    ma = sys.modules.get("numpy.ma")  # where nobody has imported it there is no such array
    if ma is None:
        return False
    if isinstance(value, (list, tuple)):
        return depth > 0 and any(_hides_numbers(item, depth - 1) for item in value)
    return isinstance(value, ma.MaskedArray) and bool(ma.is_masked(value))


def real(value: Any, where: str) -> NDArray[Any]:
    """``value`` as an array of real floating numbers, or a :class:`ShapeError` that says why not."""
    array = as_array(value, where, "numbers")
    if array.dtype.kind != "f":
        advice = "cast it with .astype('float32')" if array.dtype.kind in "iub" else "pass real floating-point numbers"
        raise ShapeError(f"{where}: expected real floating-point numbers, found dtype {array.dtype}; {advice}")
    return array


def float32(value: Any, where: str, ndim: int | tuple[int, ...]) -> Float32:
    """``value`` cast once to float32, with one of the numbers of axes given."""
    axes = (ndim,) if isinstance(ndim, int) else ndim
    if type(value) is np.ndarray and value.dtype is _FLOAT32 and value.ndim in axes:
        return value  # at sight: small calls are a few microseconds in all
    array = real(value, where)
    if array.ndim not in axes:
        wanted = " or ".join(map(str, axes))
        raise ShapeError(f"{where}: expected {wanted} axes, found {array.ndim} (shape {array.shape})")
    if array.dtype == _FLOAT32:  # native byte order too: a foreign one compares unequal
        return array
    with np.errstate(over="ignore"):
        cast = array.astype(np.float32)
    infinite = np.isinf(cast)
    if infinite.any() and (beyond := infinite & np.isfinite(array)).any():
        place = tuple(int(i) for i in np.argwhere(beyond)[0])
        raise ShapeError(
            f"{where}: {array[place]!s} at {place} is beyond float32, which ends at ±3.4e38; scale the numbers down"
        )
    return cast


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


def ids(
    value: Any, where: str, vocabulary: int, axes: tuple[int, ...] = (1, 2), shown: str = "(B, T) or (T,)"
) -> NDArray[np.int64]:
    """A copy of token ids (B, T) or (T,), or of so many axes: integers in [0, vocabulary)."""
    array = as_array(value, where, "integers")
    if array.dtype.kind not in "iu":
        raise ShapeError(f"{where}: expected integer token ids, found dtype {array.dtype}; cast with .astype('int64')")
    if array.ndim not in axes:
        raise ShapeError(f"{where}: expected ids of shape {shown}, found shape {array.shape}")
    array = array.copy()  # what is checked is what is used, whoever writes to the caller's meanwhile
    if array.size:
        low, high = int(array.min()), int(array.max())
        if low < 0 or high >= vocabulary:
            bad = low if low < 0 else high
            raise CgruError(f"{where}: token id {bad} is outside the vocabulary [0, {vocabulary})")
    return array.astype(np.int64, copy=False)


def lengths(value: Any, batch: int, steps: int) -> NDArray[np.int64] | None:
    """A copy of row lengths (B,) in [0, T], in any order; a scalar stands for a batch of one."""
    if value is None:
        return None
    array = as_array(value, "lengths", "integers")
    if array.dtype.kind not in "iu" and not (isinstance(value, (list, tuple)) and array.shape == (0,)):
        raise ShapeError(f"lengths: expected integers, found dtype {array.dtype}; cast with .astype('int64')")
    if array.ndim == 0:
        array = array[None]
    if array.shape != (batch,):
        raise ShapeError(f"lengths: expected shape ({batch},), one per row of x, found {array.shape}")
    array = array.copy()
    if array.size and (array.min() < 0 or array.max() > steps):
        bad = int(array.min()) if array.min() < 0 else int(array.max())
        raise CgruError(f"lengths: {bad} is outside [0, T], where x has T = {steps} time steps")
    return array.astype(np.int64, copy=False)


def mask(value: Any, batch: int, steps: int) -> NDArray[np.bool_] | None:
    """Step mask (B, T), or (T,) for a batch of one: True where a step counts."""
    if value is None:
        return None
    array = as_array(value, "mask", "booleans")
    if array.dtype.kind != "b":
        raise ShapeError(f"mask: expected booleans, found dtype {array.dtype}; pass mask != 0")
    if array.ndim == 1 and batch == 1:
        array = array[None]
    if array.shape != (batch, steps):
        raise ShapeError(f"mask: expected shape ({batch}, {steps}), one for each step of x, found {array.shape}")
    # Any byte but 0 is true, and the backends count on 1.
    return np.not_equal(np.ascontiguousarray(array).view(np.uint8), 0)


def positive(value: Any, where: str) -> int:
    """``value`` as an int of at least 1."""
    return whole(value, where, 1)


def whole(value: Any, where: str, least: int = 0) -> int:
    """``value`` as an int of at least ``least``."""
    try:
        number = operator.index(value)
    except Exception:
        raise ArgumentTypeError(f"{where}: expected a whole number, found {brief(value)}") from None
    if number < least:
        raise CgruError(f"{where}: expected at least {least}, found {brief(number)}")
    return number


def flag(value: Any, where: str) -> bool:
    """``value`` as True or False."""
    if isinstance(value, (bool, np.bool_)) or (type(value) is int and value in (0, 1)):
        return bool(value)
    raise ArgumentTypeError(f"{where}: expected True or False, found {brief(value)}")


def text(value: Any, where: str) -> str:
    """``value`` if it is a str."""
    if not isinstance(value, str):
        raise ArgumentTypeError(f"{where}: expected a str, found {brief(value)}")
    return value


def optional_text(value: Any, where: str) -> str | None:
    return None if value is None else text(value, where)


def number(value: Any, where: str) -> float:
    """``value`` as a float that float32 can hold; NaN and infinities are numbers too."""
    try:
        if isinstance(value, (str, bytes, bytearray)):
            raise TypeError
        found = float(value)
    except Exception:
        raise ArgumentTypeError(f"{where}: expected a number, found {brief(value)}") from None
    with np.errstate(over="ignore"):
        if np.isinf(np.float32(found)) and not np.isinf(found):
            raise CgruError(f"{where}: {found} is beyond float32, which ends at ±3.4e38")
    return found


def mapping(value: Any, where: str, what: str = "a mapping from name to array") -> Mapping[str, Any]:
    """``value`` if it is a mapping whose keys are all str."""
    if not isinstance(value, Mapping):
        raise ArgumentTypeError(f"{where}: expected {what}, found {brief(value)}")
    if not all(isinstance(key, str) for key in value):
        raise ArgumentTypeError(f"{where}: expected {what}, found keys that are no str")
    return value


def sequence(value: Any, where: str, what: str) -> Sequence[Any]:
    """``value`` if it is a list, a tuple or an array: something to walk that has a length."""
    if isinstance(value, np.ndarray) and value.ndim:
        return list(value)
    if isinstance(value, (str, bytes, bytearray)) or not isinstance(value, Sequence):
        raise ArgumentTypeError(f"{where}: expected {what}, found {brief(value)}")
    return value


def brief(value: object) -> str:
    """How a message shows a value of any type: short, whatever its own repr does."""
    try:
        shown = repr(value)
    except Exception:
        shown = object.__repr__(value)
    shown = shown if len(shown) <= 60 else shown[:57] + "…"
    literal = (bool, bytes, dict, float, int, list, str, tuple, type(None))
    return shown if type(value) in literal else f"{type(value).__name__} {shown}"
