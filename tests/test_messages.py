"""What an error quotes of a file is short, however the file is made."""

from __future__ import annotations

from typing import Any

import pytest

from cgru.formats.containers.messages import brief


def _of_itself() -> list[Any]:
    held: list[Any] = []
    held.extend([held] * 9)
    return held


def _shared(width: int) -> list[Any]:
    """A list that would take width⁶⁰ words to write."""
    held: list[Any] = [1]
    for _ in range(60):
        held = [held] * width
    return held


VALUES = (_of_itself(), _shared(8), _shared(9), 10**5000, {"a": _shared(8)}, "a" * 5000)


@pytest.mark.parametrize("value", VALUES, ids=range(len(VALUES)))
def test_what_is_quoted_is_short(value: object) -> None:
    assert len(brief(value)) < 600


def test_what_is_short_is_quoted_as_it_is() -> None:
    assert brief((2, 3)) == "[2, 3]"
    assert brief([1, [2, 3]]) == "[1, [2, 3]]"
    assert brief("weight") == "'weight'"
    assert brief(list(range(10))) == "[0, 1, 2, 3, 4, 5, 6, 7, … 2 more]"
