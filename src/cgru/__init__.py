"""cgru: trained GRU, LSTM and RNN networks on a CPU, from PyTorch and Keras files, without either."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

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

if TYPE_CHECKING:
    from .archive import map
    from .builder import Graph
    from .engine.model import Model
    from .engine.state import State
    from .engine.verification import Difference, verify
    from .formats import load, read
    from .layers import (
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
        RMSNorm,
        SeparableConv1d,
        ThreeGate,
    )
    from .live.keras import from_keras
    from .live.torch import from_torch
    from .reports.comparison import Comparison, compare
    from .reports.config import show_config
    from .search import beam, ctc_greedy, forecast, greedy, sample
    from .search.decoder import Decoded

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
    "RMSNorm",
    "SeparableConv1d",
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

#: Where the names live that are imported when first used, so that ``import cgru`` is quick and each program loads what
#: it runs; :mod:`.layers` has those that follow from the table of cells as well.
_LATE = {
    ".archive": ("map",),
    ".builder": ("Graph",),
    ".engine.model": ("Model",),
    ".engine.state": ("State",),
    ".engine.verification": ("Difference", "verify"),
    ".formats": ("load", "read"),
    ".layers": (
        *("GRU", "LSTM", "RNN", "ThreeGate", "MinGRU", "Dense", "Embedding", "Activation", "Masking", "LastStep"),
        *("BatchNorm", "Conv1d", "LayerNorm", "RMSNorm", "SeparableConv1d"),
    ),
    ".live.keras": ("from_keras",),
    ".live.torch": ("from_torch",),
    ".reports.comparison": ("Comparison", "compare"),
    ".reports.config": ("show_config",),
    ".search": ("beam", "ctc_greedy", "forecast", "greedy", "sample"),
    ".search.decoder": ("Decoded",),
}
_HOMES = {name: module for module, names in _LATE.items() for name in names}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        value = getattr(importlib.import_module(_HOMES[name], __name__), name)
    # Packages below ask for their modules this way too, whose names are small, while the layers are being imported.
    elif name[:1].isupper() and name in (generated := _generated_layers()):
        value = generated[name]
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES, *_generated_layers()})


def _generated_layers() -> dict[str, Any]:
    from .layers import GENERATED_LAYERS

    return dict(GENERATED_LAYERS)
