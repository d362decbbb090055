"""Greedy decoding: the likeliest token at every step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..engine.model import Model
from .decoder import Decoded, Decoder
from .token_by_token import search


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
    return search(decoder, told, 1, allowed).result(decoder.single)
