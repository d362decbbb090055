"""What a name of a traced program stands for: known numbers, or a value of the graph whose axes are followed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ....errors import UnsupportedError

#: What a tensor's axis is: rows, frames, rows and frames in one (either first), a feature axis of the graph's value by
#: number, or None for an axis of 1 that the value does not have.
Axis = str | int | None
B, T, BT, TB = "B", "T", "BT", "TB"
#: The frames of the other sequence, in scores of every frame with every other.
S = "S"


#: Behind a row's length there is nothing: the sequence is packed.
PACKED = "packed"


class Misread(UnsupportedError):
    """An operator cannot mean this where the axes are what they are taken for: another reading may do."""


@dataclass(frozen=True)
class Growing:
    """How a constant is for other numbers of frames: ``at(n)``, of up to ``limit`` of them; it was traced with
    ``frames``."""

    at: Callable[[int], np.ndarray]
    frames: int
    limit: int


@dataclass(frozen=True)
class Known:
    """An array that does not depend on the inputs. ``growing``: it is longer where there are more frames."""

    array: np.ndarray
    growing: Growing | None = None


@dataclass(frozen=True)
class Tensor:
    """A value of the graph as torch sees it: ``axes`` says what each axis of ``shape`` is.

    ``at``: it is that frame of the value alone, and then has no axis of frames. ``memory`` names the state array of a
    scan that it shows instead of the scan's output. ``beyond``: the value it was said of, and what torch has there in
    frames behind a row's length: a number, or :data:`PACKED` where it has none. cgru's frames there never count.
    ``column``: of ids, several a frame, it is this one alone.
    """

    name: str
    axes: tuple[Axis, ...]
    shape: tuple[int, ...] = ()
    at: int | None = None
    memory: str = ""
    beyond: tuple[str, float | str] | None = None
    column: int = -1

    @property
    def behind(self) -> float | str | None:
        """What is behind a row's length; None: whatever forward() computes there."""
        return self.beyond[1] if self.beyond is not None and self.beyond[0] == self.name else None

    def followed_by(self, behind: float | str | None) -> Tensor:
        return replace(self, beyond=None if behind is None else (self.name, behind))

    @property
    def feature_positions(self) -> list[int]:
        return [p for p, axis in enumerate(self.axes) if isinstance(axis, int)]


@dataclass(frozen=True)
class Complex:
    """Complex numbers: two values of the graph with the same axes."""

    real: Tensor
    imag: Tensor
    described = "complex numbers"


@dataclass(frozen=True)
class Heads:
    """A tensor of which torch has rows and the axis behind them, ``place``, in one: rows and heads of an attention.

    ``tensor`` has them apart.
    """

    tensor: Tensor
    place: int
    described = "rows and heads in one axis"

    @property
    def shape(self) -> tuple[int, ...]:
        sizes, p = self.tensor.shape, self.place
        return (*sizes[:p], sizes[p] * sizes[p + 1], *sizes[p + 2 :])


@dataclass(frozen=True)
class Scores:
    """How well frames of ``query`` match those of ``key``, q · k · factor, of every pair; ``weights``: their softmax.

    query and key have the features (heads …, d). ``axes`` end in T, the query's frames, and :data:`S`, the key's.
    ``place``: rows and heads are one axis there. ``causal``: keys behind the query's frame have no weight;
    ``within``: nor have those behind the row's length. ``bias``: what is added to the scores of each key.
    """

    query: Tensor
    key: Tensor
    axes: tuple[Axis, ...]
    place: int | None = None
    factor: float = 1.0
    causal: bool = False
    within: bool = False
    bias: Tensor | None = None
    weights: bool = False
    shape: tuple[int, ...] = ()
    described = "a matrix of every frame with every other"


@dataclass(frozen=True)
class States:
    """The final states of a stack, (layers · directions, B, H): each a value of the graph by itself."""

    parts: tuple[str, ...]
    shape: tuple[int, ...] = ()


@dataclass(frozen=True)
class Lengths:
    """The number of frames of each row, or what sorting made of it; the network's own ``lengths`` when it runs.

    ``order``: it is a permutation of the rows. ``offset``: it is that number more.
    """

    order: bool = False
    offset: int = 0


@dataclass(frozen=True)
class Within:
    """Which frames are within their row's length, as a mask of rows and frames; ``negated``: those that are not.

    ``scale``: what it is where it is not 0.
    """

    axes: tuple[Axis, ...]
    negated: bool = False
    scale: float = 1.0
    shape: tuple[int, ...] = ()


@dataclass(frozen=True)
class Withheld:
    """A result that cgru has no equal of; ``why`` is said where somebody reads it."""

    why: str


@dataclass(frozen=True)
class Assembled:
    """A constant with parts written into it: entries of axis ``dim`` by number."""

    base: Known
    dim: int
    parts: Mapping[int, Any]


def constant_along(array: np.ndarray, axis: int) -> bool:
    first = array.take([0], axis=axis)
    return bool(
        np.all((array == first) | (np.isnan(array) & np.isnan(first)))
        if array.dtype.kind == "f"
        else np.all(array == first)
    )
