"""What is chosen from the scores of a step, in numpy: the meaning of the core's, which runs where there is one."""

from __future__ import annotations

import numpy as np

from ..errors import CgruError

_ROUNDS = 10
_MASK = np.uint64(0xFFFFFFFF)


class Scores:
    """Scores (B, V) float32 of a step: logits (log-probabilities are), or probabilities; and what may be chosen.

    ``forbidden`` is a token that may not be, or −1; ``allowed`` (B, V) says which may, or is None. Ties go to the
    earlier row and token. :class:`CgruError` where no token is left, or scores are NaN or infinite.
    """

    def __init__(
        self, scores: np.ndarray, probabilities: bool, forbidden: int = -1, allowed: np.ndarray | None = None
    ) -> None:
        x = scores.astype(np.float64)
        if np.isnan(x).any() or (x == np.inf).any():
            raise CgruError(
                "search: the network's scores hold NaN or infinity; its weights, or what it was given, are not finite"
            )
        with np.errstate(divide="ignore", invalid="ignore"):
            if probabilities:
                self.log = np.log(np.maximum(x, 0))
            else:
                top = x.max(axis=1, keepdims=True)
                self.log = x - (top + np.log(np.exp(x - top).sum(axis=1, keepdims=True)))
        self.open = np.where(np.isnan(self.log), -np.inf, self.log)
        if forbidden >= 0:
            self.open[:, forbidden] = -np.inf
        if allowed is not None:
            self.open[~allowed] = -np.inf
        if (self.open.max(axis=1, initial=-np.inf) == -np.inf).any():
            raise CgruError("search: at a step no token that is allowed has a probability above zero")

    def likeliest(self, token: np.ndarray, score: np.ndarray) -> None:
        """The likeliest token of each row, int64 (B,), and its log-probability, float64 (B,)."""
        token[...] = self.open.argmax(axis=1)
        score[...] = self.open[np.arange(len(token)), token]

    def continuations(
        self, base: np.ndarray, bounds: np.ndarray, want: np.ndarray
    ) -> tuple[list[int], list[int], list[float], list[int]]:
        """Of rows bounds[g] to bounds[g + 1] the want[g] best continuations, which begin with the scores ``base``."""
        rows: list[int] = []
        tokens: list[int] = []
        scores: list[float] = []
        counts = []
        for g, most in enumerate(want):
            total = (base[bounds[g] : bounds[g + 1], None] + self.open[bounds[g] : bounds[g + 1]]).reshape(-1)
            best = np.argsort(-total, kind="stable")[:most]
            best = best[total[best] > -np.inf]
            rows += (bounds[g] + best // self.log.shape[1]).tolist()
            tokens += (best % self.log.shape[1]).tolist()
            scores += total[best].tolist()
            counts.append(len(best))
        return rows, tokens, scores, counts

    def draw(
        self, u: np.ndarray, temperature: float, top_k: int, top_p: float, token: np.ndarray, score: np.ndarray
    ) -> None:
        """A token of each row at u (B,) in [0, 1) of the distribution, and its log-probability without limits."""
        for r, log in enumerate(self.open):
            order = np.flatnonzero(log > -np.inf)
            weight = np.exp((log - log.max()) / temperature)
            if 0 < top_k < len(order) or top_p < 1:
                order = order[np.argsort(-log[order], kind="stable")]
                order = order[: top_k or None]
                sums = np.cumsum(weight[order])
                order = order[: int(np.argmax(sums >= top_p * sums[-1])) + 1] if top_p < 1 else order
            sums = np.cumsum(weight[order])
            token[r] = order[min(int(np.searchsorted(sums, u[r] * sums[-1], side="right")), len(order) - 1)]
            score[r] = self.log[r, token[r]]


def uniforms(seed: int, streams: np.ndarray, index: int) -> np.ndarray:
    """Number ``index`` of each stream (B,) under a seed: float64 in [0, 1), the same on every machine.

    Philox 4×32 with ten rounds (Salmon et al. 2011): key = seed, counter = (index, stream).
    """
    stream = streams.astype(np.uint64)
    first = np.full(len(stream), index, np.uint64)
    c = [first & _MASK, first >> np.uint64(32), stream & _MASK, stream >> np.uint64(32)]
    k0, k1 = seed & 0xFFFFFFFF, seed >> 32
    for _ in range(_ROUNDS):
        a, b = np.uint64(0xD2511F53) * c[0], np.uint64(0xCD9E8D57) * c[2]
        c = [
            (b >> np.uint64(32)) ^ c[1] ^ np.uint64(k0), b & _MASK,
            (a >> np.uint64(32)) ^ c[3] ^ np.uint64(k1), a & _MASK,
        ]  # fmt: skip
        k0, k1 = (k0 + 0x9E3779B9) & 0xFFFFFFFF, (k1 + 0xBB67AE85) & 0xFFFFFFFF
    bits: np.ndarray = ((c[0] << np.uint64(32)) | c[1]) >> np.uint64(11)
    return bits.astype(np.float64) * 2.0**-53
