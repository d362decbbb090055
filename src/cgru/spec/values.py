"""What flows along a graph's edges: typed values, and the clocks that say how many frames they have.

A *step* is one step of a network's input; a *frame* is one entry of a value along its own time axis. Strides, valid
convolutions and upsampling make the two differ: a clock holds the exact count as a formula.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import gcd, prod
from typing import Any, NamedTuple

#: What the numbers of a value are: features, token ids, or a bit that says whether a frame counts.
DTYPES = ("float32", "int64", "bool")


class Clock(NamedTuple):
    """The number of frames of a value, from the number of steps n of the input it follows.

    ``maps`` are applied in order: ``(multiply, add, divide)`` stands for ⌊(multiply · n + add) / divide⌋, never below
    0, and 0 for a sequence without frames. Neighbours that compose to one map are merged, so that equal formulas are
    equal clocks. ``root`` names an input with a time axis of its own (a memory that is attended to); the inputs that
    advance together have the root "".
    """

    root: str = ""
    maps: tuple[tuple[int, int, int], ...] = ()

    def count(self, n: int) -> int:
        """Frames of a whole sequence of ``n`` steps."""
        for multiply, add, divide in self.maps:
            n = max(0, (multiply * n + add) // divide) if n > 0 else 0
        return n

    @property
    def rate(self) -> tuple[int, int]:
        """So many frames for so many steps, in the long run and in lowest terms."""
        frames, steps = prod(m for m, _, _ in self.maps), prod(d for _, _, d in self.maps)
        common = gcd(frames, steps)
        return frames // common, steps // common

    def then(self, multiply: int, add: int, divide: int) -> Clock:
        """The clock of a value that has ⌊(multiply · n + add) / divide⌋ frames for n of this one's."""
        if multiply % divide == 0:
            multiply, add, divide = multiply // divide, add // divide, 1
        maps = self.maps
        if (multiply, add, divide) == (1, 0, 1):
            return self
        if maps:
            m, a, d = maps[-1]
            # ⌊(⌊(m n + a)/d⌋ + add)/divide⌋ = ⌊(m n + a + add d)/(d divide)⌋ for whole numbers.
            if multiply == 1:
                return Clock(self.root, maps[:-1]).then(m, a + add * d, d * divide)
            if d == 1:
                return Clock(self.root, maps[:-1]).then(m * multiply, a * multiply + add, divide)
        return Clock(self.root, (*maps, (multiply, add, divide)))

    def describe(self) -> str:
        """The formula in a few letters: ``T``, ``(T + 1) // 2``."""
        text = f"S({self.root})" if self.root else "T"
        for multiply, add, divide in self.maps:
            text = f"{multiply} · {text}" if multiply > 1 else text
            text = f"{text} {'+' if add > 0 else '−'} {abs(add)}" if add else text
            if divide > 1:
                text = f"({text}) // {divide}" if " " in text else f"{text} // {divide}"
        return text


#: One frame a step.
EVERY_STEP = Clock()


class Value(NamedTuple):
    """The type of a value. Arrays of it are (B, frames, *features), or (B, *features) without a clock.

    ``features`` is (F,) for vectors, (C, W) for a frame with an inner axis (an image's column, a spectrum), () for ids
    and masks.
    """

    features: tuple[int, ...]
    clock: Clock | None = EVERY_STEP
    dtype: str = "float32"

    @property
    def size(self) -> int:
        """Numbers in one frame."""
        return prod(self.features)

    def with_features(self, *features: int) -> Value:
        return self._replace(features=features)

    def describe(self) -> str:
        axes = ["B", *([self.clock.describe()] if self.clock else []), *map(str, self.features)]
        text = f"({', '.join(axes)})"
        return text if self.dtype == "float32" else f"{text} {self.dtype}"

    def to_json(self) -> dict[str, Any]:
        made: dict[str, Any] = {"features": list(self.features), "dtype": self.dtype}
        made["clock"] = (
            None if self.clock is None else {"root": self.clock.root, "maps": [list(m) for m in self.clock.maps]}
        )
        return made


def value_from_json(given: Mapping[str, Any]) -> Value:
    """The inverse of :meth:`Value.to_json`, for what a file says; ``TypeError`` or ``KeyError`` where it is not one."""
    clock = given["clock"]
    if clock is not None:
        clock = Clock(str(clock["root"]), tuple((int(m), int(a), int(d)) for m, a, d in clock["maps"]))
    return Value(tuple(int(f) for f in given["features"]), clock, str(given["dtype"]))
