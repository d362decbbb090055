"""JSON read strictly and within bounds: no NaN, no endless numbers, no more values or depth than a model file has."""

from __future__ import annotations

import json
from typing import Any, NoReturn

from ...errors import CgruError, FormatError

MAX_DEPTH = 100
_MAX_DIGITS = 40
#: What a value takes once parsed, in bytes, by the letter that begins it or sets it apart.
_COSTS = {"{": 240, "[": 88, ",": 64}


def parsed(text: str, where: str, *, values: int) -> Any:
    """The value of ``text``, which ``where`` names in messages; ``values`` is the memory that it may take, in bytes.

    Raises :class:`FormatError` for what is no JSON, and for what would cost more than that.
    """

    def refuse(found: str) -> NoReturn:
        raise FormatError(f"{where} holds the number {found[:_MAX_DIGITS]}")

    def integer(digits: str) -> int:
        return int(digits) if len(digits) <= _MAX_DIGITS else refuse(digits)

    if sum(cost * text.count(letter) for letter, cost in _COSTS.items()) > values:
        raise FormatError(f"{where} holds more values than the configuration of any model")
    try:
        value = json.loads(text, parse_constant=refuse, parse_int=integer)
    except CgruError:
        raise
    except RecursionError:
        raise FormatError(f"{where} nests too deep") from None
    except ValueError as error:
        raise FormatError(f"{where} is not valid JSON ({error})") from None
    level, depth = [value], 0
    while level:
        depth += 1
        if depth > MAX_DEPTH:
            raise FormatError(f"{where} nests more than {MAX_DEPTH} levels deep")
        level = [
            inner
            for outer in level
            for inner in (outer.values() if isinstance(outer, dict) else outer if isinstance(outer, list) else ())
            if isinstance(inner, (dict, list))
        ]
    return value
