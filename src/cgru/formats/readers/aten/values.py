"""What a name of a traced program stands for: known numbers, or a value of the graph whose axes are followed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ....errors import UnsupportedError

#: What a tensor's axis is: rows, frames, rows and frames in one (either first), a feature axis of the graph's value by
#: number, or None for an axis of 1 that the value does not have.
Axis = str | int | None
B, T, BT, TB = "B", "T", "BT", "TB"


class Misread(UnsupportedError):
    """An operator cannot mean this where the axes are what they are taken for: another reading may do."""


@dataclass(frozen=True)
class Known:
    """An array that does not depend on the inputs."""

    array: np.ndarray


@dataclass(frozen=True)
class Tensor:
    """A value of the graph as torch sees it: ``axes`` says what each axis of ``shape`` is.

    ``at``: it is that frame of the value alone, and then has no axis of frames. ``memory`` names the state array of a
    scan that it shows instead of the scan's output.
    """

    name: str
    axes: tuple[Axis, ...]
    shape: tuple[int, ...] = ()
    at: int | None = None
    memory: str = ""

    @property
    def feature_positions(self) -> list[int]:
        return [p for p, axis in enumerate(self.axes) if isinstance(axis, int)]


@dataclass(frozen=True)
class States:
    """The final states of a stack, (layers · directions, B, H): each a value of the graph by itself."""

    parts: tuple[str, ...]
    shape: tuple[int, ...] = ()


@dataclass(frozen=True)
class Lengths:
    """The number of frames of each row, or what sorting made of it; the network's own ``lengths`` when it runs.

    ``order``: it is a permutation of the rows.
    """

    order: bool = False


def constant_along(array: np.ndarray, axis: int) -> bool:
    first = array.take([0], axis=axis)
    return bool(
        np.all((array == first) | (np.isnan(array) & np.isnan(first)))
        if array.dtype.kind == "f"
        else np.all(array == first)
    )

