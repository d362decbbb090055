"""The layers of a network: specifications with weights, and one table of them by kind."""

from __future__ import annotations

from .base import Layer
from .convolution import Conv1d
from .feedforward import Activation, Dense, Embedding, LastStep, Masking
from .gru import GRU
from .lstm import LSTM
from .normalization import BatchNorm, LayerNorm, RMSNorm
from .recurrent import Recurrent, Scan
from .rnn import RNN
from .separable import SeparableConv1d
from .variants import GENERATED_LAYERS, MinGRU, ThreeGate

_ALL: tuple[type[Layer], ...] = (
    *(GRU, LSTM, RNN, ThreeGate, MinGRU, *GENERATED_LAYERS.values()),
    *(Dense, Embedding, Activation, Masking, LastStep, BatchNorm, Conv1d, LayerNorm, RMSNorm, SeparableConv1d),
)

#: Every layer the native form can hold, by the kind it writes.
LAYERS: dict[str, type[Layer]] = {layer.kind: layer for layer in _ALL}

__all__ = [
    "GENERATED_LAYERS",
    "GRU",
    "LAYERS",
    "LSTM",
    "RNN",
    "Activation",
    "BatchNorm",
    "Conv1d",
    "Dense",
    "Embedding",
    "LastStep",
    "Layer",
    "LayerNorm",
    "Masking",
    "MinGRU",
    "RMSNorm",
    "Recurrent",
    "Scan",
    "SeparableConv1d",
    "ThreeGate",
]
