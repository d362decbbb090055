"""The layers of a network: specifications with weights, and one table of them by kind."""

from __future__ import annotations

from .base import Layer
from .gru import GRU
from .pointwise import Activation, Dense, Embedding, Masking
from .recurrent import Recurrent, Scan

#: Every layer the native form can hold, by the kind it writes.
LAYERS: dict[str, type[Layer]] = {layer.kind: layer for layer in (GRU, Dense, Embedding, Activation, Masking)}

__all__ = ["GRU", "LAYERS", "Activation", "Dense", "Embedding", "Layer", "Masking", "Recurrent", "Scan"]
