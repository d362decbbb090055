"""What a network's output says of the next value of a forecast, in numpy: the meaning of the core's, which runs where
there is one, and the errors of both."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from ..arrays import Float32
from ..errors import CgruError
from . import variates
from .choices import choices

#: How many numbers of the network's output each number of a value takes.
HEADS = {"value": 1, "gaussian": 2, "student": 3}
#: What makes a scale of the network's number for it.
SCALES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "linear": lambda x: x,
    "log": variates.exp,
    "softplus": variates.softplus,
}


class Head(NamedTuple):
    """How an output of the network is read: ``size`` numbers of a value; ``seed`` None where nothing is drawn."""

    name: str
    scale: str
    size: int
    seed: int | None

    def values(self, y: Float32, t: int) -> np.ndarray:
        """The values (B, D) float64 that follow step t, by outputs y (B, 1, 2 or 3 · D)."""
        if not np.isfinite(y).all():
            raise CgruError(f"forecast: at step {t} the network gives NaN or infinity")
        parts = np.split(y.astype(np.float64), HEADS[self.name], axis=1)
        if self.seed is None:
            return parts[0]
        spread = SCALES[self.scale](parts[1])
        if not (spread > 0).all():
            raise CgruError(
                f"forecast: at step {t} the network gives the scale {spread.min():g}, which is not above zero; say "
                'scale="log" or "softplus" where it gives a logarithm or the input of a softplus'
            )
        if self.name == "gaussian":
            made = parts[0] + spread * choices().normal(self._uniforms(len(y), 2 * t))
        else:
            freedom = SCALES[self.scale](parts[2])
            if not (freedom > 0).all():
                raise CgruError(f"forecast: at step {t} the network gives {freedom.min():g} degrees of freedom")
            u, v = (self._uniforms(len(y), 2 * t + i) for i in range(2))
            made = parts[0] + spread * variates.student(u, v, freedom)
        if not (np.abs(made) <= np.finfo(np.float32).max).all():
            raise CgruError(f"forecast: at step {t} a value is drawn that is beyond float32: its tails are too heavy")
        return made

    def _uniforms(self, rows: int, index: int) -> np.ndarray:
        """(rows, size) numbers: those of a value come of as many streams of their own."""
        assert self.seed is not None
        stream = np.arange(rows, dtype=np.uint64)
        parts = [choices().uniforms(self.seed, stream | np.uint64(i << 40), index) for i in range(self.size)]
        return np.stack(parts, axis=1)
