"""What files say, cut to what a reader takes in: one name or shape, or the first few of many and a count.

A message as a whole is cut by :class:`~cgru.errors.CgruError`; here its parts are, so that nothing of use is lost.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

_SOME_LETTERS = 700


def brief(value: object, letters: int = 80, depth: int = 2) -> str:
    """``value`` as Python writes it, cut to about ``letters`` characters: for one name, shape or text of a file.

    Lists that hold themselves, or each other many times over, end ``depth`` lists deep.
    """
    if isinstance(value, (str, bytes)):
        return repr(value) if len(value) <= letters else repr(value[:letters]) + "…"
    if isinstance(value, int) and value.bit_length() > 256:
        return f"a number of {value.bit_length():,} bits"
    if isinstance(value, dict):
        return f"a dict of {len(value):,}"
    if isinstance(value, (list, tuple)):
        if depth == 0:
            return "[…]"
        parts = ", ".join(brief(item, letters if len(value) <= 8 else 20, depth - 1) for item in value[:8])
        if len(value) > 8:
            return f"[{parts}, … {len(value) - 8:,} more]"
        shown = f"[{parts}]"
    else:
        shown = repr(value)
    return shown if len(shown) <= letters else shown[:letters] + "…"


def some(items: Iterable[object], letters: int = _SOME_LETTERS) -> str:
    """The first of ``items`` and how many more there are: ``a, b and 3,998 more``."""
    texts = [str(item) for item in items]
    kept = fitting(texts, letters) or [text[:letters] + "…" for text in texts[:1]]
    more = len(texts) - len(kept)
    return ", ".join(kept) + (f" and {more:,} more" if more else "")


def fitting(texts: Sequence[str], letters: int = _SOME_LETTERS) -> list[str]:
    """The first of ``texts`` that take at most ``letters`` characters together."""
    kept = []
    for text in texts:
        letters -= len(text) + 2
        if letters < 0:
            break
        kept.append(text)
    return kept
