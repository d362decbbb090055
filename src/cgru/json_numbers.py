"""Arrays as JSON has them: it knows neither NaN nor infinity, which Python's own module writes and reads."""

from __future__ import annotations

from typing import Any, NoReturn

import numpy as np


def nested(array: np.ndarray) -> Any:
    """The numbers as nested lists, with None, JSON's null, for NaN and infinity."""
    if np.isfinite(array).all():
        return array.tolist()
    plain: np.ndarray = array.astype(object)
    plain[~np.isfinite(array)] = None
    return plain.tolist()


def no_number(text: str) -> NoReturn:
    """For ``json.loads(parse_constant=)``: raises ``ValueError`` at NaN and Infinity."""
    raise ValueError(f"{text} is no JSON number")
