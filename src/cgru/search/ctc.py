"""Greedy decoding of networks trained with connectionist temporal classification (Graves et al. 2006)."""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import arrays
from ..errors import CgruError


def ctc_greedy(scores: Any, *, blank: int = 0, lengths: Any = None) -> Any:
    """The labels of the best path: the likeliest of each frame, repeats merged, then ``blank`` left out.

    ``scores`` (B, T, V) or (T, V) are what a transcriber gives: logits, log-probabilities or probabilities; ``lengths``
    (B,) says how many frames of each row count. Returns int64 (n,), or a list of them of a batch. Of equals the lowest
    label counts. :class:`CgruError` where scores are NaN, or ``blank`` is no label.
    """
    array = arrays.float32(scores, "scores", (2, 3))
    single = array.ndim == 2
    rows = array[None] if single else array
    if rows.shape[2] == 0:
        raise CgruError(f"scores: expected (B, T, V) with labels to choose from, found shape {array.shape}")
    gap = arrays.whole(blank, "blank")
    if gap >= rows.shape[2]:
        raise CgruError(f"blank: label {arrays.brief(gap)} is outside the labels [0, {rows.shape[2]})")
    ends = arrays.lengths(lengths, len(rows), rows.shape[1])
    found = []
    for i, row in enumerate(rows):
        row = row if ends is None else row[: ends[i]]
        if np.isnan(row).any():
            raise CgruError(f"scores: those of row {i} hold NaN")
        path = row.argmax(axis=1).astype(np.int64) if len(row) else np.zeros(0, np.int64)
        changed = np.ones(len(path), bool)
        changed[1:] = path[1:] != path[:-1]
        found.append(path[changed & (path != gap)])
    return found[0] if single else found
