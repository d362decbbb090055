"""What is known of a value of an ONNX graph before it runs: its numbers, or where its axes come from.

A network's rows and frames are as many as a caller gives, so shapes hold :class:`Count`, whole numbers that depend on
them. A :class:`Known` is an array; shapes that the graph computes with are arrays of numbers and counts. A
:class:`Tensor` is a value of the cgru graph under construction, with what each of its ONNX axes is made of.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import mul
from typing import Any, TypeAlias

import numpy as np

from ...errors import UnsupportedError
from ...spec.values import Clock

#: Rows and frames among what an axis is made of; feature axes are there as their numbers.
BATCH, TIME = "B", "T"
Atom: TypeAlias = "str | int"
Size: TypeAlias = "int | Count"


#: The type of whole numbers that count frames; they are held in float32.
INDEX = "index"


class Unfolded(Exception):
    """A number is wanted that depends on how many rows or frames a caller gives."""


@dataclass(frozen=True)
class Step:
    """The index of a loop's iterations: from 0 to ``count`` − 1 − ``before_end``."""

    count: Any
    before_end: int = 0


@dataclass(frozen=True)
class Count:
    """``factor`` · the product of ``symbols`` + ``offset``. A symbol is ``"B"`` or a clock, at least 1 each; or, alone
    and with a factor of 1, a :class:`Step`."""

    factor: int
    symbols: tuple[Any, ...]
    offset: int = 0

    def __mul__(self, other: Any) -> Any:
        if isinstance(other, Count):
            if self.offset or other.offset:
                raise Unfolded
            return Count(self.factor * other.factor, _sorted(self.symbols + other.symbols))
        other = _whole(other)
        return _made(self.factor * other, self.symbols, self.offset * other)

    __rmul__ = __mul__

    def __add__(self, other: Any) -> Any:
        if isinstance(other, Count):
            if self.symbols != other.symbols:
                a, b = _unrolled(self), _unrolled(other)
                if a.symbols != b.symbols:
                    raise Unfolded
                return a + b
            return _made(self.factor + other.factor, self.symbols, self.offset + other.offset)
        return Count(self.factor, self.symbols, self.offset + _whole(other))

    __radd__ = __add__

    def __neg__(self) -> Any:
        return Count(-self.factor, self.symbols, -self.offset)

    def __sub__(self, other: Any) -> Any:
        return self + (-other)

    def __rsub__(self, other: Any) -> Any:
        return -self + other

    def __floordiv__(self, other: Any) -> Any:
        if isinstance(other, Count):
            if self == other:
                return 1
            left = list(self.symbols)
            for symbol in other.symbols:
                if symbol not in left:
                    raise Unfolded
                left.remove(symbol)
            if self.offset or other.offset or self.factor % other.factor:
                raise Unfolded
            return _made(self.factor // other.factor, tuple(left), 0)
        other = _whole(other)
        if self.factor % other or self.offset % other:
            if other < 1 or self.factor < 1 or len(self.symbols) != 1 or not isinstance(self.symbols[0], Clock):
                raise Unfolded
            return Count(1, (self.symbols[0].then(self.factor, self.offset, other),))
        return Count(self.factor // other, self.symbols, self.offset // other)

    def __mod__(self, other: Any) -> Any:
        if isinstance(other, Count) or self.factor % _whole(other):
            raise Unfolded
        return self.offset % _whole(other)

    def __rfloordiv__(self, other: Any) -> Any:
        if isinstance(other, int) and other == 0:
            return 0
        raise Unfolded

    @property
    def least(self) -> int:
        if self.factor < 0:
            raise Unfolded
        return self.factor + self.offset

    def __int__(self) -> int:
        raise Unfolded

    def __repr__(self) -> str:
        """The formula as messages have it: 2·B, T − 1."""
        names = [s if isinstance(s, str) else s.describe() if isinstance(s, Clock) else "step" for s in self.symbols]
        text = "·".join([*([str(self.factor)] if self.factor != 1 else []), *names])
        return text + (f" {'+' if self.offset > 0 else '−'} {abs(self.offset)}" if self.offset else "")


def _whole(number: Any) -> int:
    """A whole number; a count times or by any other has none that is known."""
    if int(number) != number:
        raise Unfolded
    return int(number)


def _made(factor: int, symbols: tuple[Any, ...], offset: int) -> Size:
    return Count(factor, symbols, offset) if factor and symbols else factor * (not symbols) + offset


def _sorted(symbols: Iterable[Any]) -> tuple[Any, ...]:
    return tuple(sorted(symbols, key=str))


def _unrolled(count: Count) -> Count:
    """Frames that are so many more or less than another clock's, or a multiple of them, as a count of that one's."""
    while len(count.symbols) == 1 and isinstance(count.symbols[0], Clock) and count.symbols[0].maps:
        root, (*rest, (multiply, add, divide)) = count.symbols[0]
        if divide != 1:
            break
        count = Count(count.factor * multiply, (Clock(root, tuple(rest)),), count.factor * add + count.offset)
    return count


def divided(whole: Size, part: Size) -> Size | None:
    """whole / part where it is a size for any number of rows and frames."""
    try:
        return whole // part if isinstance(part, Count) or whole % part == 0 else None
    except (Unfolded, ZeroDivisionError):
        return None


def product(sizes: Iterable[Size]) -> Size:
    return reduce(mul, sizes, 1)


def step_of(size: Any) -> tuple[Step, int] | None:
    """The loop whose iteration a number tells, and what is added to it."""
    if isinstance(size, Count) and size.factor == 1 and len(size.symbols) == 1 and isinstance(size.symbols[0], Step):
        return size.symbols[0], size.offset
    return None


def _compared_step(kind: str, a: Any, b: Any) -> bool | None:
    """The answer where one of the two is the index of a loop's iterations, and it is the same in all of them."""
    if (step_of(a) is None) == (step_of(b) is None):
        return None
    ((step, offset), other) = (step_of(a), b) if step_of(a) is not None else (step_of(b), a)  # type: ignore[misc]
    lowest, highest = offset, step.count - 1 - step.before_end + offset
    if kind == "equal":
        raise Unfolded
    left = step_of(a) is not None
    # The iteration at which it is the least likely, and the one at which it is the likeliest.
    hardest, easiest = ((highest, other), (lowest, other)) if left else ((other, lowest), (other, highest))
    for pair, answer in ((hardest, True), (easiest, False)):
        try:
            if compared(kind, *pair) is answer:
                return answer
        except Unfolded:
            pass
    raise Unfolded


def compared(kind: str, a: Any, b: Any) -> bool:
    """a == b, a < b or a <= b of sizes, where they are so for every number of rows and frames; else Unfolded."""
    found = _compared_step(kind, a, b)
    if found is not None:
        return found
    if isinstance(a, Count) or isinstance(b, Count):
        difference = a - b
        if not isinstance(difference, Count):
            a, b = difference, 0
        elif difference.factor > 0 and difference.least > 0:
            return False
        elif difference.factor < 0 and (-difference).least > 0:
            return kind != "equal"
        else:
            raise Unfolded
    return bool(a == b if kind == "equal" else a < b if kind == "less" else a <= b)


@dataclass(frozen=True, eq=False)
class Known:
    """An array. ``sizes`` are its axes' where one depends on rows or frames: the array has 1 along it then.

    ``real``: sizes among its numbers were cast to floating point, so that arithmetic may go on from them as numbers.
    """

    array: np.ndarray
    sizes: tuple[Size, ...] = ()
    real: bool = False

    @property
    def shape(self) -> tuple[Size, ...]:
        return self.sizes or self.array.shape

    @property
    def open(self) -> bool:
        """Whether an axis is as long as rows or frames are many."""
        return bool(self.sizes)

    @property
    def is_shape(self) -> bool:
        """Whether among its numbers are some that depend on rows or frames."""
        return self.array.dtype == object


@dataclass(frozen=True)
class Tensor:
    """A value of the cgru graph: which of its axes each ONNX axis consists of, the outermost first.

    ``axes`` holds for each ONNX axis a tuple of "B", "T" and numbers of feature axes; a size of 1 may be of none.
    ``dtype`` is float32, int64 (ids), bool, which is held as 0 and 1 in float32, or :data:`INDEX`.
    """

    name: str
    axes: tuple[tuple[Atom, ...], ...]
    dtype: str = "float32"

    @property
    def rank(self) -> int:
        return len(self.axes)


@dataclass(frozen=True)
class Scores:
    """How well frames of ``query`` match those of ``key``: q · k · ``factor`` of every pair; ``weights``: its softmax.

    No such matrix is a value of the graph: it is followed until it weights a sequence. query and key are values of
    the features (heads …, d). ``lead`` says of the ONNX axes in front of those of the two sequences' frames what they
    are, of rows and heads; ``shape`` are the sizes of all. ``causal``: frames behind the query's own have no weight.
    """

    query: str
    key: str
    lead: tuple[tuple[Atom, ...], ...]
    shape: tuple[Size, ...]
    factor: float = 1.0
    causal: bool = False
    weights: bool = False


@dataclass(frozen=True)
class Triangle:
    """A constant with a number for each pair of frames (…, T, T): one where the second is ``later``, else another."""

    later: Known
    earlier: Known

    @property
    def shape(self) -> tuple[Size, ...]:
        return self.later.shape


#: What handlers take and give; those of pairs of frames alone see the two above too.
Value: TypeAlias = "Known | Tensor"


def normalised(array: np.ndarray) -> np.ndarray:
    """An array of sizes as whole numbers where none depends on rows or frames."""
    if array.dtype == object and not any(isinstance(item, Count) for item in array.flat):
        return array.astype(np.int64)
    return array


def shape_array(sizes: Sequence[Size]) -> np.ndarray:
    made = np.empty(len(sizes), object)
    made[:] = list(sizes)
    return normalised(made)


def whole_numbers(value: Value | None, where: str) -> list[Any]:
    """A list of sizes that must be known; counts among them."""
    if not isinstance(value, Known):
        raise UnsupportedError(f"{where} is computed from the input; cgru wants it fixed")
    return [item if isinstance(item, Count) else int(item) for item in value.array.reshape(-1)]


def frames_of(clock: Clock, steps: int | None) -> Size:
    """Frames of a value: a number where the file fixes the steps of the input, else a count."""
    return Count(1, (clock,)) if steps is None or clock.root else clock.count(steps)
