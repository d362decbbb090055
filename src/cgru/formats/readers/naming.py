"""Errors about a file begin with the file's name, whoever found them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from ...errors import CgruError, FormatError, UnsupportedError


@contextmanager
def error_prefix(shown: str, *, from_file: bool = False) -> Iterator[None]:
    """Put ``shown`` before the message of a :class:`CgruError` that does not begin with it.

    ``from_file`` says that everything checked inside came from the file itself, so what does not fit is a
    :class:`FormatError` (what is well-formed but unknown stays an :class:`UnsupportedError`).
    """
    try:
        yield
    except CgruError as error:
        text = str(error)
        text = text if text.startswith(f"{shown}: ") else f"{shown}: {text}"
        if from_file and not isinstance(error, (FormatError, UnsupportedError)):
            raise FormatError(text).with_traceback(error.__traceback__) from None
        # The same error with another message: a second one would double the traceback.
        error.args = (text,)
        raise
