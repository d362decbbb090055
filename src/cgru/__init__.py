"""cgru: trained GRU, LSTM and RNN networks on a CPU, from PyTorch and Keras files, without either."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from .builder import Graph
from .engine import alone as _alone
from .engine.model import Model
from .engine.state import State
from .errors import (
    ArgumentTypeError,
    CgruError,
    CgruWarning,
    FormatError,
    MissingFileError,
    ShapeError,
    TooLargeError,
    UnsupportedError,
)
from .layers import (
    GENERATED_LAYERS,
    GRU,
    LSTM,
    RNN,
    Activation,
    BatchNorm,
    Conv1d,
    Dense,
    Embedding,
    LastStep,
    LayerNorm,
    Masking,
    MinGRU,
    ThreeGate,
)
from .layers import base as _base

if TYPE_CHECKING:
    from .archive import map
    from .engine.verification import Difference, verify
    from .formats import load, read
    from .live.keras import from_keras
    from .live.torch import from_torch
    from .reports.comparison import Comparison, compare
    from .reports.config import show_config
    from .search import beam, ctc_greedy, forecast, greedy, sample
    from .search.decoder import Decoded

# Layers are called by themselves, and know nothing of what runs them.
_base.RUNNERS.update(layer=_alone.run_layer, recurrent=_alone.run_recurrent)

__version__ = "0.1.0"

__all__ = [
    "GRU",
    "LSTM",
    "RNN",
    "Activation",
    "ArgumentTypeError",
    "BatchNorm",
    "CgruError",
    "CgruWarning",
    "Comparison",
    "Conv1d",
    "Decoded",
    "Dense",
    "Difference",
    "Embedding",
    "FormatError",
    "Graph",
    "LastStep",
    "LayerNorm",
    "Masking",
    "MinGRU",
    "MissingFileError",
    "Model",
    "ShapeError",
    "State",
    "ThreeGate",
    "TooLargeError",
    "UnsupportedError",
    "beam",
    "compare",
    "ctc_greedy",
    "forecast",
    "from_keras",
    "from_torch",
    "greedy",
    "load",
    "map",
    "read",
    "sample",
    "show_config",
    "verify",
]

#: Where the names live that are imported when first used, so that ``import cgru`` stays quick.
_LATE = {
    "Comparison": ".reports.comparison",
    "compare": ".reports.comparison",
    "Decoded": ".search.decoder",
    "Difference": ".engine.verification",
    "beam": ".search",
    "ctc_greedy": ".search",
    "forecast": ".search",
    "greedy": ".search",
    "sample": ".search",
    "from_keras": ".live.keras",
    "from_torch": ".live.torch",
    "load": ".formats",
    "map": ".archive",
    "read": ".formats",
    "show_config": ".reports.config",
    "verify": ".engine.verification",
}


def __getattr__(name: str) -> Any:
    if name in GENERATED_LAYERS:
        return GENERATED_LAYERS[name]
    if name not in _LATE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_LATE[name], __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_LATE, *GENERATED_LAYERS})
