"""cgru: trained GRU, LSTM and RNN networks on a CPU, from PyTorch and Keras files, without either."""

from __future__ import annotations

from .errors import CgruError, FormatError, ShapeError, UnsupportedError
from .layers import GRU, Activation, Dense, Embedding, Masking
from .model import Model
from .state import State

__version__ = "0.1.0"

__all__ = [
    "GRU",
    "Activation",
    "CgruError",
    "Dense",
    "Embedding",
    "FormatError",
    "Masking",
    "Model",
    "ShapeError",
    "State",
    "UnsupportedError",
]
