"""What flows between layers: the features, and which steps of which rows count."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


class Flow:
    """``x`` is (B, T, F), ids (B, T) before an embedding, (B, F) once ``last`` (the time axis is gone), or a
    pair of such where two directions are not merged. ``lengths`` (B,) has torch's meaning, ``mask`` (B, T)
    Keras'; both None where every step counts. A plain class: one is made in every call, and anything more clever
    costs there or when cgru is imported."""

    __slots__ = ("last", "lengths", "mask", "x")

    def __init__(
        self,
        x: Any,
        lengths: NDArray[np.int64] | None = None,
        mask: NDArray[np.bool_] | None = None,
        last: bool = False,
    ) -> None:
        self.x = x
        self.lengths = lengths
        self.mask = mask
        self.last = last

    def with_x(self, x: Any) -> Flow:
        return Flow(x, self.lengths, self.mask, self.last)

    def within(self) -> NDArray[np.bool_] | None:
        """(B, T): True before each row's length; None without lengths."""
        if self.lengths is None or self.last:
            return None
        return np.arange(self.x.shape[1]) < self.lengths[:, None]

    def valid(self) -> NDArray[np.bool_] | None:
        """(B, T): True at the steps that count, or None where all do."""
        within = self.within()
        if within is None or self.mask is None:
            return self.mask if within is None else within
        return within & self.mask

    def masked_by(self, mask: NDArray[np.bool_]) -> Flow:
        return Flow(self.x, self.lengths, mask if self.mask is None else self.mask & mask, self.last)
