"""Beam search: at every step the best continuations of the best beginnings."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from .. import arrays
from ..engine.model import Model
from ..engine.rows import Rows
from ..errors import CgruError
from .decoder import Decoded, Decoder, Settings, bounded, check_numbers, spread
from .ranking import ranker

#: What a score is divided by for a sequence of n tokens, the stop token among them, under an exponent α.
PENALTIES: dict[str, Callable[[int, float], float]] = {
    "gnmt": lambda n, α: ((5 + n) / 6) ** α,
    "power": lambda n, α: float(n) ** α,
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

    def divisor(n: int) -> float:
        return PENALTIES[penalty](n, exponent)

    search = _Beams(decoder, told, many, best, divisor)
    search.run(decoder.rows(), decoder.allowed(allowed))
    return search.result(decoder.single, n_best is None)


class _Complete(NamedTuple):
    """A sequence that is complete: its score, and where its last token stands."""

    score: float
    step: int
    row: int  # of the beams of that step, which the last token continues
    token: int


class _Step(NamedTuple):
    """The beams after a step: which of the beams before it each continues, and by what token."""

    parent: np.ndarray
    token: np.ndarray


class _Beams:
    def __init__(
        self, decoder: Decoder, told: Settings, width: int, best: int, divisor: Callable[[int], float]
    ) -> None:
        self.decoder, self.told, self.width, self.best, self.divisor = decoder, told, width, best, divisor
        self.complete: list[list[_Complete]] = [[] for _ in range(decoder.batch)]
        self.steps: list[_Step] = []
        self.kept: list[list[np.ndarray]] = []
        self.settled = False  # whether an input that goes on has as many complete sequences as are wanted

    def run(self, rows: Rows, may: Any) -> None:
        told, name, probabilities = self.told, self.decoder.token, self.decoder.probabilities
        places = [self.decoder.plan.outputs.index(output) for output in told.keep]
        scores, _ = ranker()
        inputs = np.arange(self.decoder.batch)  # the input of each group of beams
        owner, token = np.arange(len(rows)), told.start.copy()  # the group of each beam, and what goes into it
        sizes, total = [1] * len(rows), np.zeros(len(rows))
        bounds, want = np.arange(len(rows) + 1), np.full(len(rows), self.width, np.int64)
        for t in range(told.max_steps):
            made = rows.step({name: token})
            if places:
                self.kept.append([made[place].copy() for place in places])
            mask = may(len(token), partial(self._paths, t, len(token))) if may else None
            ranked = scores(made[0], probabilities, told.stop if t < told.min_steps else -1, mask)
            parent, chosen, gained, counts = ranked.continuations(total, bounds, want)
            if counts == sizes and not self.settled and told.stop not in chosen and t + 1 < told.max_steps:
                # As nearly always: nothing is complete, and every input has as many beams as before.
                parents, token, total = np.array(parent), np.array(chosen), np.array(gained)
                self.steps.append(_Step(parents, token))
                rows.reorder(parents)
                continue
            alive, groups = self._sort_out(t, inputs, parent, chosen, gained, counts)
            parents = np.array([parent[i] for i in alive], np.int64)
            token = np.array([chosen[i] for i in alive], np.int64)
            self.steps.append(_Step(parents, token))
            if not alive:
                return
            total = np.array([gained[i] for i in alive])
            before, left = owner, np.unique(groups)
            inputs, owner = inputs[left], np.searchsorted(left, groups)
            sizes = np.bincount(owner).tolist()
            bounds = np.searchsorted(owner, np.arange(len(inputs) + 1)).astype(np.int64)
            want = np.array([self.width - len(self.complete[i]) for i in inputs], np.int64)
            self.settled = any(len(self.complete[i]) >= self.best for i in inputs)
            if len(before) == len(parents) and (before[parents] == before).all():
                rows.reorder(parents)
            else:
                rows.keep(parents)

    def _sort_out(
        self, t: int, inputs: np.ndarray, parent: list[int], chosen: list[int], gained: list[float], counts: list[int]
    ) -> tuple[list[int], np.ndarray]:
        """Puts what is complete aside; the continuations that go on, and the group of each."""
        told, alive, groups, at = self.told, [], [], 0
        for group, count in enumerate(counts):
            complete = self.complete[inputs[group]]
            going = []
            for i in range(at, at + count):
                if chosen[i] == told.stop or t + 1 == told.max_steps:
                    complete.append(_Complete(gained[i] / self.divisor(t + 1), t, parent[i], chosen[i]))
                else:
                    going.append(i)
            at += count
            if going and not self._decided(complete, gained[going[0]], t + 1):
                alive += going
                groups += [group] * len(going)
        return alive, np.array(groups, np.int64)

    def _decided(self, complete: list[_Complete], best_left: float, n: int) -> bool:
        """Whether nothing that goes on can still be among the best: log-probabilities only fall."""
        if len(complete) < self.best:
            return False
        reach = best_left / max(self.divisor(n + 1), self.divisor(self.told.max_steps))
        return sorted((c.score for c in complete), reverse=True)[self.best - 1] >= reach

    def _paths(self, step: int, rows: int) -> list[np.ndarray]:
        return [self._path(step, row) for row in range(rows)]

    def _path(self, step: int, row: int) -> np.ndarray:
        """The tokens that led to a beam as it went into a step."""
        return np.array([self.steps[s].token[r] for s, r in self._walk(step, row)][::-1], np.int64)

    def _walk(self, step: int, row: int) -> list[tuple[int, int]]:
        """Step and beam after it, from the last back to the first."""
        found = []
        for s in range(step - 1, -1, -1):
            found.append((s, row))
            row = int(self.steps[s].parent[row])
        return found

    def _kept_of(self, ended: _Complete, i: int, length: int) -> np.ndarray:
        """Output i at each of the sequence's tokens: it came of the step that chose the token."""
        walked = self._walk(ended.step, ended.row)
        rows = [(ended.step, ended.row), *((s, int(self.steps[s].parent[r])) for s, r in walked)]
        return spread([self.kept[s][i][r] for s, r in rows[::-1]][:length])

    def result(self, single: bool, first_alone: bool) -> Decoded:
        tokens: list[Any] = []
        scores: list[Any] = []
        kept: dict[str, list[Any]] = {name: [] for name in self.told.keep}
        for complete in self.complete:
            ranked = sorted(complete, key=lambda c: -c.score)[: self.best]  # stable: the earlier of two alike
            found = []
            for ended in ranked:
                path = np.append(self._path(ended.step, ended.row), ended.token)
                found.append(path[:-1] if ended.token == self.told.stop else path)
            tokens.append(found[0] if first_alone else found)
            scores.append(ranked[0].score if first_alone else np.array([c.score for c in ranked]))
            for i, name in enumerate(self.told.keep):
                frames = [self._kept_of(c, i, len(path)) for c, path in zip(ranked, found, strict=True)]
                kept[name].append(frames[0] if first_alone else frames)
        if single:
            return Decoded(tokens[0], scores[0], {name: rows[0] for name, rows in kept.items()})
        return Decoded(tokens, np.array(scores) if first_alone else scores, kept)
