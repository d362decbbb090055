"""Random networks and inputs: hypothesis chooses the sizes and a seed, numpy draws the numbers.

Weights are drawn as torch.nn.GRU initialises them (uniform within 1/√H); the input is normal; the initial
state is normal too, so it is never zero and no two rows are alike.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from hypothesis import strategies as st

import cgru

#: Around the widths of vectors and tiles, and far from them.
SIZES = (1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 33, 48, 63, 65, 100, 154)


@dataclass(frozen=True)
class Sized:
    """The sizes of a network and of its input; every array follows from the numbers here."""

    inputs: int
    hidden: int
    layers: int
    directions: int
    bias: bool
    batch: int
    steps: int
    seed: int
    lengths: tuple[int, ...] | None = None
    masked: bool = False
    scale: float = 1.0

    def weights(self, shapes: Callable[[int], dict[str, tuple[int, ...]]], emitted: int) -> dict[str, np.ndarray]:
        """The arrays of every layer and direction; ``shapes`` gives those of one that so many features enter."""
        rng = np.random.default_rng(self.seed)
        bound, size, found = self.scale / np.sqrt(self.hidden), self.inputs, {}
        for layer in range(self.layers):
            for reverse in ("", "_reverse")[: self.directions]:
                for stem, shape in shapes(size).items():
                    found[f"{stem}_l{layer}{reverse}"] = rng.uniform(-bound, bound, shape).astype(np.float32)
            size = self.directions * emitted
        return found

    @cached_property
    def x(self) -> np.ndarray:
        rng = np.random.default_rng((self.seed, 1))
        return rng.standard_normal((self.batch, self.steps, self.inputs)).astype(np.float32)

    def begin_of(self, sizes: Sequence[int]) -> list[np.ndarray]:
        """An initial state (L·D, B, size) for each of ``sizes``."""
        rng = np.random.default_rng((self.seed, 2))
        rows = self.layers * self.directions
        return [rng.standard_normal((rows, self.batch, size)).astype(np.float32) for size in sizes]

    @cached_property
    def mask(self) -> np.ndarray | None:
        if not self.masked:
            return None
        rng = np.random.default_rng((self.seed, 3))
        return rng.random((self.batch, self.steps)) < 0.6

    @property
    def stack(self) -> dict[str, Any]:
        """The shape of the stack, as the oracle takes it."""
        return {"layers": self.layers, "directions": self.directions}


@dataclass(frozen=True)
class Case(Sized):
    """A GRU and something to run it on."""

    @cached_property
    def arrays(self) -> dict[str, np.ndarray]:
        rows = 3 * self.hidden
        biases: dict[str, tuple[int, ...]] = {"bias_ih": (rows,), "bias_hh": (rows,)} if self.bias else {}
        return self.weights(lambda n: {"weight_ih": (rows, n), "weight_hh": (rows, self.hidden)} | biases, self.hidden)

    @cached_property
    def h0(self) -> np.ndarray:
        return self.begin_of([self.hidden])[0]

    def gru(self, **options: Any) -> cgru.GRU:
        return cgru.GRU(self.arrays, num_layers=self.layers, bidirectional=self.directions == 2, **options)


def sizes(
    draw: st.DrawFn,
    *,
    batch: int = 9,
    steps: int = 50,
    least: int = 0,
    lengths: bool | None = None,
    masks: bool | None = False,
    directions: int | None = None,
) -> dict[str, Any]:
    """The numbers of :class:`Sized`; ``lengths`` and ``masks``: True always, False never, None either way."""
    rows = draw(st.integers(1, batch))
    length = draw(st.integers(least, steps))
    ragged = draw(st.booleans()) if lengths is None else lengths
    ends = draw(st.lists(st.integers(0, length), min_size=rows, max_size=rows)) if ragged else None
    return {
        "inputs": draw(st.sampled_from(SIZES)),
        "hidden": draw(st.sampled_from(SIZES)),
        "layers": draw(st.integers(1, 3)),
        "directions": draw(st.integers(1, 2)) if directions is None else directions,
        "bias": draw(st.booleans()),
        "batch": rows,
        "steps": length,
        "seed": draw(st.integers(0, 2**32 - 1)),
        "lengths": None if ends is None else tuple(ends),
        "masked": draw(st.booleans()) if masks is None else masks,
    }


@st.composite
def cases(draw: st.DrawFn, *, scale: float = 1.0, **wanted: Any) -> Case:
    """GRUs and inputs of any kind; ``wanted`` as in :func:`sizes`."""
    return Case(**sizes(draw, **wanted), scale=scale)


def cuts(steps: int) -> st.SearchStrategy[list[int]]:
    """Places to cut a sequence of ``steps``: the ends included, empty chunks possible."""
    return st.lists(st.integers(0, steps), max_size=5).map(lambda inner: [0, *sorted(inner), steps])
