"""Beam search: at every step the best continuations of the best beginnings."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from .. import arrays
from ..engine.model import Model
from ..errors import CgruError
from .choices import choices
from .decoder import Decoded, Decoder, Settings, bounded, check_numbers, spread

#: What a score is divided by for a sequence of n tokens, the stop token among them, under an exponent α.
PENALTIES: dict[str, Callable[[np.ndarray, float], np.ndarray]] = {
    "gnmt": lambda n, α: ((5 + n) / 6) ** α,
    "power": lambda n, α: n**α,
}

#: Sequences that a beam may hold.
MOST_WIDTH = 1 << 16


def beam(
    net: Model,
    x: Any = None,
    *,
    start: Any,
    stop: int | None = None,
    max_steps: int,
    min_steps: int = 0,
    width: int = 5,
    n_best: int | None = None,
    length_penalty: float = 0.0,
    penalty: str = "gnmt",
    lengths: Any = None,
    inputs: Mapping[str, Any] | None = None,
    state: Any = None,
    batch: int | None = None,
    allowed: Any = None,
    keep: str | Sequence[str] = (),
) -> Decoded:
    """The best of the sequences that a beam of ``width`` finds, and their scores.

    At every step each input keeps its ``width`` best sequences by the sum of their log-probabilities. One that chooses
    ``stop`` is complete: it leaves the beam, which is one narrower from then on (Sutskever et al. 2014), so that width
    1 is :func:`greedy`. Complete sequences, and those that ``max_steps`` ends, are ranked by

        score = Σ log p / lp(n)
        lp(n) = ((5 + n) / 6)^α  for penalty="gnmt" (Wu et al. 2016),  n^α  for penalty="power"

    with α = ``length_penalty`` and n tokens, stop included; α = 0 ranks by probability. An input is done when its beam
    is used up, or nothing left in it can still be among the ``n_best``. All beams of all inputs step as one batch, and
    an input gives the bits it would alone. The other arguments are :func:`greedy`'s.

    Returns :class:`Decoded`, the best of each input as :func:`greedy` returns it; with ``n_best`` a list of so many (or
    fewer, where there are fewer) token arrays, best first and none twice, and an array of their scores.
    """
    decoder = Decoder(net, x, lengths, inputs, state, batch)
    told = decoder.settings(start, stop, max_steps, min_steps, keep)
    many = bounded(width, "width", MOST_WIDTH)
    check_numbers(decoder.batch * many, told.max_steps)
    best = 1 if n_best is None else arrays.positive(n_best, "n_best")
    if best > many:
        raise CgruError(f"n_best: a beam of width {many} finds {many} sequences at most, found {arrays.brief(best)}")
    if arrays.text(penalty, "penalty") not in PENALTIES:
        raise CgruError(f"penalty: expected one of {', '.join(PENALTIES)}, found {arrays.brief(penalty)}")
    exponent = arrays.number(length_penalty, "length_penalty")
    if not abs(exponent) <= 100:
        raise CgruError(f"length_penalty: expected a number from -100 to 100, found {exponent}")
    beams = choices().beams(decoder.batch, many, best, told.stop, _divisors(penalty, exponent, told.max_steps))
    kept = _search(decoder, told, beams, decoder.allowed(allowed))
    return _result(beams, decoder, told, kept, best, n_best is None)


def _divisors(penalty: str, exponent: float, steps: int) -> np.ndarray:
    """What the score of a sequence of n tokens is divided by, (steps + 1,)."""
    with np.errstate(all="ignore"):
        made: np.ndarray = PENALTIES[penalty](np.arange(steps + 1.0).clip(1), exponent)
    if not (np.isfinite(made[-1]) and made[-1] > 0):
        raise CgruError(
            f"length_penalty: scores of {steps} tokens under {exponent} leave float64; take an exponent nearer to 0"
        )
    return made


def _search(decoder: Decoder, told: Settings, beams: Any, may: Any) -> list[list[np.ndarray]]:
    """Steps until the beams are used up; the outputs to keep of each.

    The core runs from one change of the number of beams to the next where nothing is asked of Python between two steps;
    the beams are the same.
    """
    name, probabilities = decoder.token, decoder.probabilities
    places = [decoder.plan.outputs.index(output) for output in told.keep]
    scores = choices().scores
    rows, token = decoder.rows(), told.start
    kept: list[list[np.ndarray]] = []
    while True:
        if rows.in_core and may is None and not places:
            rows.beams(name, token.reshape(-1, 1).copy(), beams, told.min_steps, probabilities)
        else:
            t = beams.steps
            made = rows.step({name: token})
            if places:
                kept.append([made[place].copy() for place in places])
            mask = may(len(rows), partial(_paths, beams)) if may else None
            beams.step(scores(made[0], probabilities, told.stop if t < told.min_steps else -1, mask))
        if not beams.rows:
            return kept
        token = beams.tokens
        if beams.moved:
            rows.keep(beams.parents)
        else:
            rows.reorder(beams.parents)


def _paths(beams: Any) -> list[np.ndarray]:
    """The tokens of each beam so far."""
    return [beams.path(beams.steps, row)[0] for row in range(beams.rows)]


def _result(
    beams: Any, decoder: Decoder, told: Settings, kept: list[list[np.ndarray]], best: int, first_alone: bool
) -> Decoded:
    tokens: list[Any] = []
    scores: list[Any] = []
    frames: dict[str, list[Any]] = {name: [] for name in told.keep}
    for i in range(decoder.batch):
        ranked = sorted(beams.complete(i), key=lambda one: -one[0])[:best]  # stable: the earlier of two alike
        found, walked = [], []
        for _, step, row, token in ranked:
            path, rows = beams.path(step, row)
            found.append(path if token == told.stop else np.append(path, token))
            walked.append(rows)
        tokens.append(found[0] if first_alone else found)
        scores.append(ranked[0][0] if first_alone else np.array([one[0] for one in ranked]))
        for place, name in enumerate(told.keep):
            # An output at a token is that of the step that chose it.
            each = [
                spread([kept[t][place][row] for t, row in enumerate(rows[: len(path)])])
                for rows, path in zip(walked, found, strict=True)
            ]
            frames[name].append(each[0] if first_alone else each)
    if decoder.single:
        return Decoded(tokens[0], scores[0], {name: rows[0] for name, rows in frames.items()})
    return Decoded(tokens, np.array(scores) if first_alone else scores, frames)
