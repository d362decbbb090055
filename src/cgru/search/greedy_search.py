"""Greedy decoding: the likeliest token at every step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from ..engine.model import Model
from ..engine.rows import Rows
from .decoder import Decoded, Decoder, Settings, so_far, spread
from .ranking import ranker


def greedy(
    net: Model,
    x: Any = None,
    *,
    start: Any,
    stop: int | None = None,
    max_steps: int,
    min_steps: int = 0,
    lengths: Any = None,
    inputs: Mapping[str, Any] | None = None,
    state: Any = None,
    batch: int | None = None,
    allowed: Any = None,
    keep: str | Sequence[str] = (),
) -> Decoded:
    """The tokens of which each is the likeliest after those before it, and the sum of their log-probabilities.

    ``net`` has the entries "encode", which reads ``x`` (B, T, …) with ``lengths`` (B,), and "decode", whose inputs
    given once are outputs of the encoder of the same names (a memory has the lengths of its rows); or it is a decoder
    by itself, which takes them as ``inputs``, or ``batch`` rows from ``state``. The decoder takes one token a step and
    its first output scores the next: logits, log-probabilities, or, where it ends in a softmax, probabilities.

    ``start`` is the first token, or one for each row; a row ends when it chooses ``stop``, or after ``max_steps``.
    ``stop`` is not chosen before there are ``min_steps`` tokens. ``allowed`` limits what may be chosen: ids, booleans
    (V,), or a function that is given the tokens so far, a list of arrays, and returns either, or booleans (n, V), or
    None; scores stay those of the network. ``keep`` names other outputs of the decoder, such as attention weights:
    ``result.kept[name]`` is (n, F) of each sequence.

    Returns :class:`Decoded`: ``tokens, scores = …``; int64 (n,) with neither start nor stop, and a float, or a list and
    an array (B,) of a batch. Rows that have ended leave the batch, and each has the bits it would have alone.
    """
    decoder = Decoder(net, x, lengths, inputs, state, batch)
    told = decoder.settings(start, stop, max_steps, min_steps, keep)
    may = decoder.allowed(allowed)
    found = _Found(decoder.batch, told)
    rows = decoder.rows()
    if rows.in_core is not None and may is None and not told.keep:
        _in_core(rows, decoder, told, found)
    else:
        _step_by_step(rows, decoder, told, may, found)
    return found.result(decoder.single)


class _Found:
    """The sequences of all rows, as they end."""

    def __init__(self, batch: int, told: Settings) -> None:
        self.told = told
        self.tokens: list[Any] = [None] * batch
        self.scores = np.zeros(batch)
        self.kept: list[list[Any]] = [[] for _ in range(batch)]

    def put(self, row: int, tokens: np.ndarray, score: float) -> None:
        if len(tokens) and tokens[-1] == self.told.stop:
            tokens = tokens[:-1]
        self.tokens[row], self.scores[row] = tokens.copy(), score

    def result(self, single: bool) -> Decoded:
        kept = {
            name: [spread([frames[i] for frames in row]) for row in self.kept] for i, name in enumerate(self.told.keep)
        }
        if single:
            return Decoded(self.tokens[0], float(self.scores[0]), {name: rows[0] for name, rows in kept.items()})
        return Decoded(self.tokens, self.scores, kept)


def _in_core(rows: Rows, decoder: Decoder, told: Settings, found: _Found) -> None:
    """Many steps a call, until enough rows have ended for the others to go on without them."""
    position = list(decoder.plan.graph.inputs).index(decoder.token)
    probabilities = decoder.probabilities
    which = np.arange(len(rows))
    token = told.start.reshape(-1, 1).copy()
    chosen = np.zeros((len(rows), told.max_steps), np.int64)
    total, done = np.zeros(len(rows)), 0
    while len(which):
        over = np.zeros(len(which), np.uint8)
        leave = len(which) if len(which) < 4 else (len(which) + 3) // 4
        done += rows.in_core.greedy(
            position, rows.out, token, chosen, total, over, done, told.max_steps - done, told.min_steps, told.stop,
            leave, probabilities,
        )  # fmt: skip
        ended = np.ones(len(which), bool) if done == told.max_steps else over != 0
        for i in np.flatnonzero(ended):
            tokens = chosen[i, :done]
            if over[i]:
                tokens = tokens[: int(np.argmax(tokens == told.stop)) + 1]
            found.put(which[i], tokens, total[i])
        left = np.flatnonzero(~ended)
        if len(left):
            rows.keep(left)
        which, token, chosen, total = which[left], token[left].copy(), chosen[left].copy(), total[left].copy()


def _step_by_step(rows: Rows, decoder: Decoder, told: Settings, may: Any, found: _Found) -> None:
    name, probabilities = decoder.token, decoder.probabilities
    places = [decoder.plan.outputs.index(output) for output in told.keep]
    scores, _ = ranker()
    which = np.arange(len(rows))
    chosen = np.zeros((len(rows), told.max_steps), np.int64)
    total, token, gained = np.zeros(len(rows)), told.start.copy(), np.zeros(len(rows))
    for t in range(told.max_steps):
        made = rows.step({name: token})
        mask = may(len(which), partial(so_far, chosen, t)) if may else None
        scores(made[0], probabilities, told.stop if t < told.min_steps else -1, mask).likeliest(token, gained)
        chosen[:, t], total = token, total + gained
        for i in range(len(which)):
            if places:
                found.kept[which[i]].append([made[place][i].copy() for place in places])
        ended = (token == told.stop) | (t + 1 == told.max_steps)
        for i in np.flatnonzero(ended).tolist():
            found.put(which[i], chosen[i, : t + 1], total[i])
            if token[i] == told.stop and places:
                found.kept[which[i]].pop()
        if ended.any():
            left = np.flatnonzero(~ended)
            if not len(left):
                return
            rows.keep(left)
            which, chosen, total, token = which[left], chosen[left], total[left], token[left].copy()
            gained = np.zeros(len(left))
