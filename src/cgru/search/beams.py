"""The beams of a search between its steps, in numpy: the meaning of the core's, which runs where there is one."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .ranking import Scores


class Complete(NamedTuple):
    """A sequence that is complete: its score, and where its last token stands."""

    score: float
    step: int
    row: int  #: of the beams of that step, which the last token continues
    token: int


class Beams:
    """The best sequences, ``width`` at most, of each of ``inputs``; one that chooses ``stop`` is complete (−1: none).

    ``divisor`` float64 (N + 1) is what a sum of n log-probabilities is divided by; step N completes what is left. Beams
    of an input are a group; groups lie one after the other, best beam first. A group leaves when it is used up, or
    nothing left in it can be among the ``best`` complete ones of its input.
    """

    def __init__(self, inputs: int, width: int, best: int, stop: int, divisor: np.ndarray) -> None:
        self.width, self.best, self.stop, self.divisor = width, best, stop, divisor
        self.found: list[list[Complete]] = [[] for _ in range(inputs)]
        self.groups = list(range(inputs))  # the input of each
        self.bounds = np.arange(inputs + 1)
        self.total = np.zeros(inputs)
        self.history: list[tuple[np.ndarray, np.ndarray]] = []
        self.moved = False  #: whether the last step left a group with more beams or fewer than it had

    @property
    def rows(self) -> int:
        """Beams that go into the next step; none: the search is over."""
        return len(self.total)

    @property
    def steps(self) -> int:
        """Steps so far."""
        return len(self.history)

    @property
    def parents(self) -> np.ndarray:
        """Which of the beams before it each of the beams continues, int64 (rows,)."""
        return self.history[-1][0]

    @property
    def tokens(self) -> np.ndarray:
        """By what token, int64 (rows,)."""
        return self.history[-1][1]

    def step(self, scores: Scores) -> None:
        """A step by the scores of all beams."""
        n = self.steps + 1  # tokens of a sequence
        want = np.array([self.width - len(self.found[i]) for i in self.groups])
        parent, token, gained, counts = scores.continuations(self.total, self.bounds, want)
        alive: list[int] = []
        groups, sizes, at = [], [], 0
        for i, count in zip(self.groups, counts, strict=True):
            going = []
            for k in range(at, at + count):
                if token[k] == self.stop or n + 1 == len(self.divisor):
                    self.found[i].append(Complete(gained[k] / self.divisor[n], n - 1, parent[k], token[k]))
                else:
                    going.append(k)
            at += count
            if going and not self._decided(self.found[i], gained[going[0]], n):
                alive += going
                groups.append(i)
                sizes.append(len(going))
        self.moved = groups != self.groups or sizes != np.diff(self.bounds).tolist()
        self.groups, self.bounds = groups, np.cumsum([0, *sizes])
        self.total = np.array(gained)[alive]
        self.history.append((np.array(parent, np.int64)[alive], np.array(token, np.int64)[alive]))

    def _decided(self, complete: list[Complete], left: float, n: int) -> bool:
        """Whether nothing that goes on can still be among the best: log-probabilities only fall."""
        reach = left / max(self.divisor[n + 1], self.divisor[-1])
        return sum(c.score >= reach for c in complete) >= self.best

    def path(self, step: int, row: int) -> tuple[np.ndarray, np.ndarray]:
        """How beam ``row`` of a step came about: the tokens (step,) before it, and of each step up to this one the beam
        (step + 1,) that leads to it."""
        tokens, rows = np.zeros(step, np.int64), np.zeros(step + 1, np.int64)
        for s in range(step, 0, -1):
            rows[s] = row
            parent, token = self.history[s - 1]
            tokens[s - 1], row = token[row], int(parent[row])
        rows[0] = row
        return tokens, rows

    def complete(self, i: int) -> list[Complete]:
        """The sequences of input i that are complete, as they were found."""
        return self.found[i]
