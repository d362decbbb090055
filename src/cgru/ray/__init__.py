"""Networks on many machines, by Ray: datasets (:func:`predict`, :class:`Predictor`) and streams (:func:`streams`).

Needs ``pip install "cgru[ray]"``; nothing of it is imported before it is asked for. docs/ray.md shows both.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from ..errors import UnsupportedError

if TYPE_CHECKING:
    from .predictor import Predictor, predict
    from .session import Session
    from .shipping import ship
    from .streams import streams

__all__ = ["Predictor", "Session", "predict", "ship", "streams"]

_LATE = {
    "Predictor": ".predictor",
    "Session": ".session",
    "predict": ".predictor",
    "ship": ".shipping",
    "streams": ".streams",
}


def __getattr__(name: str) -> Any:
    if name not in _LATE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        return getattr(importlib.import_module(_LATE[name], __name__), name)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("cgru"):
            raise
        raise UnsupportedError(f'Ray needs {error.name}: pip install "cgru[ray]"') from error
