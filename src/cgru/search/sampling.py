"""Sampling: a token drawn at every step from what the network gives it."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np

from .. import arrays
from ..engine.model import Model
from ..errors import CgruError
from .decoder import Decoded, Decoder, check_numbers, so_far
from .ranking import ranker


def sample(
    net: Model,
    x: Any = None,
    *,
    start: Any,
    stop: int | None = None,
    max_steps: int,
    min_steps: int = 0,
    count: int | None = None,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    seed: int = 0,
    lengths: Any = None,
    inputs: Mapping[str, Any] | None = None,
    state: Any = None,
    batch: int | None = None,
    allowed: Any = None,
) -> Decoded:
    """Sequences drawn from the network, ``count`` for each input, and the log-probabilities that it gives them.

    Each token is drawn from p^(1 / ``temperature``), made to sum to 1; of the ``top_k`` likeliest tokens alone (0: of
    all), and of those the fewest that together have ``top_p`` of the probability (Holtzman et al. 2020). Scores are
    without temperature and limits. The other arguments are :func:`greedy`'s.

    Draw d of input i takes its random numbers from stream i · count + d of a generator that is cgru's own (Philox 4×32
    under ``seed``): they are the same on every machine and whatever else is in the batch. A token can differ between
    machines only where its border lies within the rounding of the network's scores.

    Returns :class:`Decoded` as :func:`greedy` does, or with ``count`` a list of so many token arrays for each input and
    an array of their scores.
    """
    decoder = Decoder(net, x, lengths, inputs, state, batch)
    told = decoder.settings(start, stop, max_steps, min_steps, ())
    draws = 1 if count is None else arrays.positive(count, "count")
    check_numbers(decoder.batch * draws, told.max_steps)
    heat, share = arrays.number(temperature, "temperature"), arrays.number(top_p, "top_p")
    if not 0 < heat < np.inf:
        raise CgruError(f"temperature: expected a number above 0, found {heat}; cgru.greedy takes the likeliest")
    if not 0 < share <= 1:
        raise CgruError(f"top_p: expected a number in (0, 1], found {share}")
    most, root = arrays.whole(top_k, "top_k"), arrays.whole(seed, "seed")
    if root >= 1 << 64:
        raise CgruError("seed: expected a number below 2^64")
    may, name, probabilities = decoder.allowed(allowed), decoder.token, decoder.probabilities
    most = min(most, decoder.vocabulary)
    scores, uniforms = ranker()
    rows = decoder.rows(draws)
    which = np.arange(len(rows))
    token, gained = np.repeat(told.start, draws), np.zeros(len(rows))
    chosen, total = np.zeros((len(rows), told.max_steps), np.int64), np.zeros(len(rows))
    tokens: list[Any] = [None] * len(rows)
    found = np.zeros(len(rows))
    for t in range(told.max_steps):
        made = rows.step({name: token})
        mask = may(len(which), partial(so_far, chosen, t)) if may else None
        ranked = scores(made[0], probabilities, told.stop if t < told.min_steps else -1, mask)
        ranked.draw(uniforms(root, which.astype(np.uint64), t), heat, most, share, token, gained)
        chosen[:, t], total = token, total + gained
        ended = (token == told.stop) | (t + 1 == told.max_steps)
        for i in np.flatnonzero(ended):
            tokens[which[i]] = chosen[i, : t + (token[i] != told.stop)].copy()
            found[which[i]] = total[i]
        if ended.any():
            left = np.flatnonzero(~ended)
            if not len(left):
                break
            rows.keep(left)
            which, chosen, total, token = which[left], chosen[left], total[left], token[left].copy()
            gained = np.zeros(len(left))
    if count is None:
        return Decoded(tokens[0], float(found[0])) if decoder.single else Decoded(tokens, found)
    each = [tokens[at : at + draws] for at in range(0, len(tokens), draws)]
    return Decoded(each[0], found) if decoder.single else Decoded(each, list(found.reshape(-1, draws)))
