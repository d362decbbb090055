"""The errors cgru raises on purpose.

Every one is a :class:`CgruError`, and a ``ValueError`` too, so that a service can catch bad input in one
place. A message names the file or argument, the tensor or layer, what was expected, what was found, and
what to do about it.
"""


#: Characters of a message at most: what was passed may be long, and a log has to hold it.
LONGEST = 2000


def shortened(text: str) -> str:
    """``text``, or its beginning and end where it is longer than a message may be."""
    return text if len(text) <= LONGEST else f"{text[: LONGEST * 3 // 4]} … {text[-LONGEST // 5 :]}"


class CgruError(ValueError):
    """Something the caller passed cannot be used as it is; nothing was changed."""

    def __str__(self) -> str:
        return shortened(super().__str__())


class FormatError(CgruError):
    """A file is damaged, hostile, or not what it says it is."""


class UnsupportedError(CgruError):
    """Well-formed, but not something cgru runs; the message names exactly what."""


class ShapeError(CgruError):
    """An array has the wrong number of axes, the wrong size along one, or the wrong kind of numbers."""


class ArgumentTypeError(CgruError, TypeError):
    """An argument is of a type that cannot be used there at all."""


class MissingFileError(FormatError, FileNotFoundError):
    """There is no file of that name, or no directory to write one in."""


class TooLargeError(CgruError, MemoryError):
    """A call would need more memory than there is."""


class CgruWarning(UserWarning):
    """Something works, but hardly as the caller would wish."""
