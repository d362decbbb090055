"""One sequence a row, token by token: what greedy and sampled decoding share."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import numpy as np

from ..engine.rows import Rows
from .choices import choices
from .decoder import Decoded, Decoder, Settings, so_far, spread


class Draws(NamedTuple):
    """How tokens are drawn: row r of a search takes its random numbers from stream r under the seed."""

    temperature: float
    top_k: int
    top_p: float
    seed: int


class Found:
    """The sequences of all rows, as they end."""

    def __init__(self, rows: int, told: Settings) -> None:
        self.told = told
        self.tokens: list[Any] = [None] * rows
        self.scores = np.zeros(rows)
        self.kept: list[list[Any]] = [[] for _ in range(rows)]

    def put(self, row: int, tokens: np.ndarray, score: float) -> None:
        """Row ends with these tokens, its stop token, which is left out, among them."""
        if len(tokens) and tokens[-1] == self.told.stop:
            tokens = tokens[:-1]
        self.tokens[row], self.scores[row] = tokens.copy(), score
        del self.kept[row][len(tokens) :]

    def result(self, single: bool) -> Decoded:
        kept = {
            name: [spread([frames[i] for frames in row]) for row in self.kept] for i, name in enumerate(self.told.keep)
        }
        if single:
            return Decoded(self.tokens[0], float(self.scores[0]), {name: rows[0] for name, rows in kept.items()})
        return Decoded(self.tokens, self.scores, kept)


def search(decoder: Decoder, told: Settings, repeat: int, allowed: Any, draws: Draws | None = None) -> Found:
    """The sequence of every row, each input ``repeat`` times: of tokens drawn, or, without ``draws``, of the likeliest.

    The core runs the whole of it where nothing is asked of Python between two tokens; the result is the same.
    """
    may = decoder.allowed(allowed)
    rows = decoder.rows(repeat)
    found = Found(len(rows), told)
    start = np.repeat(told.start, repeat)
    if rows.in_core and may is None and not told.keep:
        _in_core(rows, decoder, told, start, draws, found)
    else:
        _step_by_step(rows, decoder, told, start, may, draws, found)
    return found


def _in_core(
    rows: Rows, decoder: Decoder, told: Settings, start: np.ndarray, draws: Draws | None, found: Found
) -> None:
    """Many steps a call, until enough rows have ended for the others to go on without them."""
    name, probabilities = decoder.token, decoder.probabilities
    which = np.arange(len(rows))
    token = start.reshape(-1, 1).copy()
    chosen = np.zeros((len(rows), told.max_steps), np.int64)
    total, done = np.zeros(len(rows)), 0
    while True:
        over = np.zeros(len(which), np.uint8)
        leave = len(which) if len(which) < 4 else (len(which) + 3) // 4
        done += rows.tokens(
            name, token, chosen, total, over, done, told.max_steps - done, told.min_steps, told.stop, leave,
            probabilities, draws, which.astype(np.uint64),
        )  # fmt: skip
        ended = range(len(which)) if done == told.max_steps else np.flatnonzero(over).tolist()
        for i in ended:
            tokens = chosen[i, :done]
            if over[i]:
                tokens = tokens[: int(np.argmax(tokens == told.stop)) + 1]
            found.put(which[i], tokens, total[i])
        if len(ended) == len(which):
            return
        left = np.flatnonzero(over == 0)
        rows.keep(left)
        which, token, chosen, total = which[left], token[left], chosen[left], total[left]


def _step_by_step(
    rows: Rows, decoder: Decoder, told: Settings, start: np.ndarray, may: Any, draws: Draws | None, found: Found
) -> None:
    name, probabilities = decoder.token, decoder.probabilities
    places = [decoder.plan.outputs.index(output) for output in told.keep]
    choose = choices()
    which = np.arange(len(rows))
    token, gained = start.copy(), np.zeros(len(rows))
    chosen, total = np.zeros((len(rows), told.max_steps), np.int64), np.zeros(len(rows))
    for t in range(told.max_steps):
        made = rows.step({name: token})
        mask = may(len(which), partial(so_far, chosen, t)) if may else None
        ranked = choose.scores(made[0], probabilities, told.stop if t < told.min_steps else -1, mask)
        if draws is None:
            ranked.likeliest(token, gained)
        else:
            u = choose.uniforms(draws.seed, which.astype(np.uint64), t)
            ranked.draw(u, draws.temperature, draws.top_k, draws.top_p, token, gained)
        chosen[:, t], total = token, total + gained
        if places:
            for i, row in enumerate(which):
                found.kept[row].append([made[place][i].copy() for place in places])
        ended = (token == told.stop) | (t + 1 == told.max_steps)
        if ended.any():
            for i in np.flatnonzero(ended).tolist():
                found.put(which[i], chosen[i, : t + 1], total[i])
            left = np.flatnonzero(~ended)
            if not len(left):
                return
            rows.keep(left)
            which, chosen, total, token = which[left], chosen[left], total[left], token[left]
            gained = np.zeros(len(left))
