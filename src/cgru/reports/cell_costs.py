"""What the same sizes would cost with another cell: parameters, bytes, multiply-adds, and the time of a step."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..engine.model import Model
from ..layers import GRU, LSTM, RNN, Layer, Recurrent
from .tables import aligned

CELLS: tuple[type[Recurrent], ...] = (GRU, LSTM, RNN)
#: Steps of the sequence that is timed, and seconds to go on timing for: the least of several runs counts.
STEPS = 100
SECONDS = 0.02


@dataclass(frozen=True)
class Cost:
    """Of all recurrent layers of a network with one cell: ``bytes`` in float32 as packed, work and time of one step of
    one sequence on one thread."""

    cell: str
    parameters: int
    bytes: int
    multiply_adds: int
    microseconds: float


def costs(layers: Sequence[Layer]) -> list[Cost]:
    """For the sizes of the recurrent layers among ``layers``, what GRU, LSTM and RNN take; [] where there are none."""
    recurrent = [layer for layer in layers if isinstance(layer, Recurrent)]
    return [_cost(cell, recurrent) for cell in CELLS] if recurrent else []


def table(found: Sequence[Cost]) -> str:
    rows = [("cell", "parameters", "bytes", "multiply-adds a step", "µs a step")]
    rows += [
        (cost.cell, f"{cost.parameters:,}", f"{cost.bytes:,}", f"{cost.multiply_adds:,}", f"{cost.microseconds:.2f}")
        for cost in found
    ]
    return "\n".join(aligned(rows))


def _cost(cell: type[Recurrent], layers: Sequence[Recurrent]) -> Cost:
    parameters, held, work, seconds = 0, 0, 0, 0.0
    for layer in layers:
        twin = _twin(cell, layer)
        net = Model([twin])
        parameters += net.parameters
        held += net.nbytes
        work += sum(array.size for array in twin.arrays().values() if array.ndim == 2)
        seconds += _seconds(net, layer.input_size or 1)
    return Cost(cell.__name__, parameters, held, work, seconds * 1e6)


def _twin(cell: type[Recurrent], layer: Recurrent) -> Recurrent:
    """A layer of ``cell`` in the sizes of ``layer``, with random weights: zeros would be no fair work."""
    rng = np.random.default_rng(0)
    hidden, gates, arrays = layer.hidden_size, len(cell.GATES), {}
    width = layer.input_size or 1
    for k in range(layer.num_layers):
        for reverse in ("", "_reverse")[: layer.directions]:
            shapes: dict[str, tuple[int, ...]] = {
                "weight_ih": (gates * hidden, width),
                "weight_hh": (gates * hidden, hidden),
                "bias_ih": (gates * hidden,),
                "bias_hh": (gates * hidden,),
            }
            for stem, shape in shapes.items():
                arrays[f"{stem}_l{k}{reverse}"] = rng.uniform(-1, 1, shape).astype(np.float32) / hidden**0.5
        width = layer.directions * hidden
    options: dict[str, Any] = {"num_layers": layer.num_layers, "bidirectional": layer.bidirectional}
    return cell(arrays, **options)


def _seconds(net: Model, features: int) -> float:
    """The least time of a step over sequences of STEPS steps."""
    x = np.random.default_rng(1).standard_normal((STEPS, features)).astype(np.float32)
    net(x)
    least, end = float("inf"), time.perf_counter() + SECONDS
    while time.perf_counter() < end:
        start = time.perf_counter()
        net(x)
        least = min(least, time.perf_counter() - start)
    return (least if least < float("inf") else SECONDS) / STEPS
