"""What flows between layers: the features, and which steps of which rows count."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(slots=True)
class Flow:
    """``x`` is (B, T, F), ids (B, T) before an embedding, (B, F) once ``last`` (the time axis is gone), or a
    pair of such where two directions are not merged. ``lengths`` (B,) has torch's meaning, ``mask`` (B, T)
    Keras'; both None where every step counts. Not frozen only because that costs a microsecond a call."""

    x: Any
    lengths: NDArray[np.int64] | None = None
    mask: NDArray[np.bool_] | None = None
    last: bool = False

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
        return replace(self, mask=mask if self.mask is None else self.mask & mask)
