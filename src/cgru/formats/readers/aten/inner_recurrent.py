"""A recurrent module over something inside each frame: the characters of a word, the bands of a spectrum."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from ....errors import UnsupportedError
from ....layers import Recurrent
from .lowering import Lowering
from .values import Axis, Known, Tensor

_CELLS = {"gru_reset_after": "gru_after", "lstm": "lstm", "rnn": "rnn"}


def inside(lo: Lowering, layer: Recurrent, x: Tensor, rows: int, steps: int, given: Any) -> list[Any]:
    """Outputs and final states of a stack on x, whose rows are rows and frames in one and whose steps are a feature
    axis: each frame's own sequence, from states of zero."""
    states = given if isinstance(given, list) else [given]
    if any(not isinstance(state, Known) or np.any(state.array) for state in states):
        raise UnsupportedError("a recurrence inside a frame that begins with a state")
    if layer.cell.name not in _CELLS or not isinstance(x.axes[2], int):
        raise UnsupportedError(f"a {layer.cell.name} inside a frame")
    kind = _CELLS[layer.cell.name]
    activations = (layer.recurrent_activation, layer.activation, layer.activation)[: {"lstm": 3, "rnn": 1}.get(kind, 2)]
    activations = (layer.activation,) if kind == "rnn" else activations
    name = lo.arranged(x, [steps, 2])
    count, units = lo.features(name)[0], layer.hidden_size
    ends: list[list[str]] = [[] for _ in layer.cell.state]
    made: list[str] = []
    for number, scan in enumerate(layer.scans()):
        if number and not number % layer.directions:
            name = made[0] if len(made) == 1 else lo.emit("concat", *made, axis=1)
            made = []
        arrays = dict(layer.weights[scan.suffix].arrays())
        options: dict[str, Any] = {"cell": kind, "units": units, "activations": activations, "reverse": scan.reverse}
        for place, array in enumerate(layer.cell.state):
            y = lo.emit("scan_inner", name, weights=arrays, emit=array, **options)
            if not place:
                made.append(y)
            last = 0 if scan.reverse else count - 1
            one = lo.emit("slice", y, start=last, stop=last + 1, axis=0)
            ends[place].append(lo.emit("reshape", one, features=(1, units)))
    outputs = made[0] if len(made) == 1 else lo.emit("concat", *made, axis=1)
    axes: list[Axis] = [0, 0, 1]
    axes[rows] = x.axes[rows]
    y_value = replace(x, name=outputs, axes=tuple(axes), shape=())
    finals = [parts[0] if len(parts) == 1 else lo.emit("concat", *parts) for parts in ends]
    return [y_value, *(Tensor(final, (0, x.axes[rows], 1)) for final in finals)]
