"""What runs a network: a plan that a backend makes of it, immutable and shared between threads."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np

from ..arrays import Float32
from ..spec.graph import Graph


class Plan(Protocol):
    """A network made ready by a backend.

    There are four: the straight line of C for chains (:mod:`.backends.packed`), the graph of C
    (:mod:`.backends.packed_graph`), the equations in float64 (:mod:`.interpreter`), and those with products by BLAS
    (:mod:`.backends.blas`).
    """

    @property
    def graph(self) -> Graph: ...

    @property
    def in_place(self) -> bool:
        """Whether a run that fails leaves the state as it was."""
        ...

    @property
    def core(self) -> Any:
        """The C network that single steps go straight to; None where they take :meth:`run`."""
        ...

    def run(
        self,
        inputs: Mapping[str, np.ndarray],
        state: Float32,
        lengths: np.ndarray | None = None,
        *,
        ended: bool = True,
        threads: int = 1,
        out: Float32 | None = None,
    ) -> dict[str, np.ndarray]:
        """Outputs by name, (B, frames, *features) or (B, *features), from inputs shaped likewise; ``state`` (B, width)
        moves in place. ``ended``: the sequences end here, so what lookahead kept back comes out. A plan may write an
        only output to ``out``, of its shape, and gives just that array then. No output is the caller's own input.
        """
        ...
