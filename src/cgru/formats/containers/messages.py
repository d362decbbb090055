"""What files say, cut to what a reader takes in: every message about a file is at most 2,000 characters."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

from ...errors import CgruError

#: The longest message about a file, its name included.
MAX_MESSAGE = 2000

_SOME_LETTERS = 700
_CUT = " […] "


def brief(value: object, letters: int = 80) -> str:
    """``value`` as Python writes it, cut to about ``letters`` characters: for one name, shape or text of a file."""
    if isinstance(value, (str, bytes)):
        return repr(value) if len(value) <= letters else repr(value[:letters]) + "…"
    if isinstance(value, (list, tuple)) and len(value) > 8:
        return f"[{', '.join(brief(item, 20) for item in value[:8])}, … {len(value) - 8:,} more]"
    if isinstance(value, tuple):
        value = list(value)
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


def bounded(message: str, limit: int = MAX_MESSAGE) -> str:
    """``message`` with its middle left out where it is longer than ``limit``: what is wrong, and what to do."""
    if len(message) <= limit:
        return message
    room = limit - len(_CUT)
    return message[: room * 2 // 3] + _CUT + message[len(message) - room // 3 :]


@contextmanager
def bounded_errors() -> Iterator[None]:
    """Cut the message of a :class:`CgruError` that is longer than a reader takes in."""
    try:
        yield
    except CgruError as error:
        if len(str(error)) <= MAX_MESSAGE:
            raise
        raise type(error)(bounded(str(error))) from None
