"""Random networks and inputs: hypothesis chooses the sizes and a seed, numpy draws the numbers.

Weights are drawn as torch.nn.GRU initialises them (uniform within 1/√H); the input is normal; the initial
state is normal too, so it is never zero and no two rows are alike.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from hypothesis import strategies as st

import cgru

#: Around the widths of vectors and tiles, and far from them.
SIZES = (1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 33, 48, 63, 65, 100, 154)


@dataclass(frozen=True)
class Case:
    """A GRU and something to run it on; every array follows from the numbers here."""

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

    @cached_property
    def arrays(self) -> dict[str, np.ndarray]:
        rng = np.random.default_rng(self.seed)
        bound = self.scale / np.sqrt(self.hidden)
        rows, found, size = 3 * self.hidden, {}, self.inputs
        for layer in range(self.layers):
            for reverse in ("", "_reverse")[: self.directions]:
                suffix = f"_l{layer}{reverse}"
                shapes: dict[str, tuple[int, ...]] = {"weight_ih": (rows, size), "weight_hh": (rows, self.hidden)}
                if self.bias:
                    shapes |= {"bias_ih": (rows,), "bias_hh": (rows,)}
                for stem, shape in shapes.items():
                    found[stem + suffix] = rng.uniform(-bound, bound, shape).astype(np.float32)
            size = self.directions * self.hidden
        return found

    @cached_property
    def x(self) -> np.ndarray:
        rng = np.random.default_rng((self.seed, 1))
        return rng.standard_normal((self.batch, self.steps, self.inputs)).astype(np.float32)

    @cached_property
    def h0(self) -> np.ndarray:
        rng = np.random.default_rng((self.seed, 2))
        shape = (self.layers * self.directions, self.batch, self.hidden)
        return rng.standard_normal(shape).astype(np.float32)

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

    def gru(self, **options: Any) -> cgru.GRU:
        return cgru.GRU(self.arrays, num_layers=self.layers, bidirectional=self.directions == 2, **options)


@st.composite
def cases(
    draw: st.DrawFn,
    *,
    steps: int = 50,
    least: int = 0,
    lengths: bool | None = None,
    masks: bool | None = False,
    directions: int | None = None,
    scale: float = 1.0,
) -> Case:
    """Networks and inputs of any kind; ``lengths`` and ``masks``: True always, False never, None either way."""
    batch = draw(st.integers(1, 9))
    length = draw(st.integers(max(least, 0), steps))
    ragged = draw(st.booleans()) if lengths is None else lengths
    rows = draw(st.lists(st.integers(0, length), min_size=batch, max_size=batch)) if ragged else None
    return Case(
        inputs=draw(st.sampled_from(SIZES)),
        hidden=draw(st.sampled_from(SIZES)),
        layers=draw(st.integers(1, 3)),
        directions=draw(st.integers(1, 2)) if directions is None else directions,
        bias=draw(st.booleans()),
        batch=batch,
        steps=length,
        seed=draw(st.integers(0, 2**32 - 1)),
        lengths=tuple(rows) if rows is not None else None,
        masked=draw(st.booleans()) if masks is None else masks,
        scale=scale,
    )


def cuts(steps: int) -> st.SearchStrategy[list[int]]:
    """Places to cut a sequence of ``steps``: the ends included, empty chunks possible."""
    return st.lists(st.integers(0, steps), max_size=5).map(lambda inner: [0, *sorted(inner), steps])
