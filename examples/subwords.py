"""Words in pieces: byte-pair encoding (Sennrich, Haddow and Birch 2016), learned and applied."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from functools import cache
from heapq import heapify, heappop, heappush
from itertools import pairwise

SPACE = "▁"  # stands for the space before a word
PAD, START, STOP, UNKNOWN = range(4)  # ids that are no pieces

_TOKENS = re.compile(r" ?\w+| ?[^\w\s]")


def _tokens(text: str) -> list[str]:
    """Words and signs, each with the space before it; the pieces of a text cross none of their ends."""
    return [token.replace(" ", SPACE) for token in _TOKENS.findall(" " + text)]


class Pieces:
    """A vocabulary of pieces: single characters, then one for each merge, in the order in which they were learned."""

    def __init__(self, characters: Iterable[str], merges: Iterable[tuple[str, str]]) -> None:
        self.characters, self.merges = list(characters), list(merges)
        self.pieces = [*self.characters, *(a + b for a, b in self.merges)]
        self._ids = {piece: 4 + i for i, piece in enumerate(self.pieces)}
        self._rank = {pair: i for i, pair in enumerate(self.merges)}
        self._split = cache(self._merged)

    def __len__(self) -> int:
        return 4 + len(self.pieces)

    @classmethod
    def learned(cls, texts: Iterable[str], size: int, least: int = 20) -> Pieces:
        """About ``size`` pieces of a text: its characters (those that stand in it ``least`` times), and merges."""
        words = Counter(token for text in texts for token in _tokens(text))
        counts: Counter[str] = Counter()
        for word, times in words.items():
            for character in word:
                counts[character] += times
        characters = sorted(c for c, times in counts.items() if times >= least)
        split = [list(word) for word, times in words.items() if times > 1]
        times_of = [times for times in words.values() if times > 1]
        pairs: Counter[tuple[str, str]] = Counter()
        where: defaultdict[tuple[str, str], set[int]] = defaultdict(set)
        for i, parts in enumerate(split):
            for pair in pairwise(parts):
                pairs[pair] += times_of[i]
                where[pair].add(i)
        heap = [(-times, pair) for pair, times in pairs.items()]  # with counts that may be out of date
        heapify(heap)
        merges: list[tuple[str, str]] = []
        while heap and len(merges) < size - len(characters) - 4:
            less, best = heappop(heap)
            if pairs[best] != -less:
                continue
            merges.append(best)
            changed = set()
            for i in where.pop(best):
                for pair in pairwise(split[i]):
                    pairs[pair] -= times_of[i]
                    changed.add(pair)
                split[i] = _joined(split[i], best)
                for pair in pairwise(split[i]):
                    pairs[pair] += times_of[i]
                    where[pair].add(i)
                    changed.add(pair)
            for pair in changed - {best}:
                if pairs[pair]:
                    heappush(heap, (-pairs[pair], pair))
        return cls(characters, merges)

    def ids(self, text: str) -> list[int]:
        """The pieces of a text, then :data:`STOP`; :data:`UNKNOWN` for a character that training never saw."""
        return [i for token in _tokens(text) for i in self._split(token)] + [STOP]

    def text(self, ids: Iterable[int]) -> str:
        """What pieces say."""
        return "".join(self.pieces[i - 4] if i >= 4 else "" for i in ids).replace(SPACE, " ").strip()

    def unknown(self, text: str) -> list[str]:
        """The characters of a text that are no pieces."""
        return sorted({c for token in _tokens(text) for c in token if c not in self._ids})

    def _merged(self, token: str) -> list[int]:
        parts = list(token)
        while len(parts) > 1:
            pair = min(pairwise(parts), key=lambda p: self._rank.get(p, len(self._rank)))
            if pair not in self._rank:
                break
            parts = _joined(parts, pair)
        return [self._ids.get(part, UNKNOWN) for part in parts]

    # ---- as a file ----------------------------------------------------------------------------------------------

    def dump(self) -> str:
        """Lines of text: the characters, then a merge a line, its parts with a space between."""
        return "\n".join(["".join(self.characters), *(f"{a} {b}" for a, b in self.merges), ""])

    @classmethod
    def load(cls, text: str) -> Pieces:
        characters, *merges = text.splitlines()
        return cls(characters, [(a, b) for a, b in (merge.split(" ") for merge in merges)])


def _joined(parts: list[str], pair: tuple[str, str]) -> list[str]:
    """``parts`` with every occurrence of the pair, from the left, as one."""
    made: list[str] = []
    i = 0
    while i < len(parts):
        if i + 1 < len(parts) and (parts[i], parts[i + 1]) == pair:
            made.append(parts[i] + parts[i + 1])
            i += 2
        else:
            made.append(parts[i])
            i += 1
    return made
