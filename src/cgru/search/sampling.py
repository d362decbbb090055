"""Sampling: a token drawn at every step from what the network gives it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from .. import arrays
from ..engine.model import Model
from ..errors import CgruError
from .decoder import Decoded, Decoder, check_numbers
from .token_by_token import Draws, search


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
    limits = Draws(heat, min(most, decoder.vocabulary), share, root)
    found = search(decoder, told, draws, allowed, limits)
    if count is None:
        return found.result(decoder.single)
    tokens, scores = found.tokens, found.scores
    if decoder.single:
        return Decoded(tokens, scores)
    each = [tokens[at : at + draws] for at in range(0, len(tokens), draws)]
    return Decoded(each, list(scores.reshape(-1, draws)))
