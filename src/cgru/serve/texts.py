"""Bodies of whole-sequence requests to arrays, and arrays to answers.

Runs in the translating process where a text is long, and so imports nothing that a server needs besides.
"""

from __future__ import annotations

import io
import json
from typing import Any

import numpy as np

from ..cli.files import Input, parse_input
from ..errors import CgruError
from ..json_numbers import nested, no_number


def file_input(body: bytes, ids: bool, features: int) -> Input:
    return parse_input(io.BytesIO(body), "the request's body", ids=ids, features=features)


def json_input(body: bytes, ids: bool) -> tuple[np.ndarray, np.ndarray | None]:
    try:
        asked = json.loads(body, parse_constant=no_number)
        x = asked["x"]
        if asked.keys() - {"x", "lengths"}:
            raise KeyError
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise CgruError('expected a JSON object {"x": numbers, "lengths": numbers or absent}') from None
    try:
        array = np.array(x, np.int64 if ids else np.float32)
        if ids and np.asarray(x).dtype.kind == "f" and array.size:
            raise TypeError
        lengths = None if asked.get("lengths") is None else np.array(asked["lengths"], np.int64)
    except (ValueError, TypeError, OverflowError):
        wanted = "whole numbers" if ids else "numbers"
        raise CgruError(f"x: expected {wanted} in lists nested as (B, T, I) or (T, I), all rows alike") from None
    return array, lengths


def json_output(y: Any) -> bytes:
    plain = [nested(part) for part in y] if isinstance(y, tuple) else nested(y)
    return json.dumps({"y": plain}).encode()
