"""Networks as a server or an archive takes them: one array of steps in, one array out."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..errors import UnsupportedError
from .graph_model import GraphModel
from .model import Model


def check(net: Model, who: str) -> None:
    """Raise :class:`UnsupportedError` for a network of several inputs or outputs, or of frames with inner axes."""
    if not isinstance(net, GraphModel):
        return
    graph = net.graph
    if len(net.input_names) != 1 or graph.static_inputs or len(graph.outputs) != 1:
        raise UnsupportedError(
            f"{who} takes networks of one input and one output; this one has the inputs {', '.join(net.input_names)} "
            f"and the outputs {', '.join(graph.outputs)}"
        )
    for name, value in ((net.input_names[0], graph.inputs[net.input_names[0]]), (graph.outputs[0], _output(net))):
        if len(value.features) != (0 if value.dtype == "int64" else 1):
            raise UnsupportedError(f"{who} takes frames of one axis; {name!r} is {value.describe()}")


def admit(net: Model, x: Any) -> tuple[np.ndarray, bool]:
    """``x`` checked and cast, (B, T, I) or ids (B, T), and whether it came without a batch axis."""
    if isinstance(net, GraphModel):
        made, single, _, _ = net._inputs(x)
        return made[net.input_names[0]], single
    return net._input(x)


def keeps_time(net: Model) -> bool:
    """Whether the output has a step for every step of the input, so that ``lengths`` holds for both."""
    if not isinstance(net, GraphModel) or net.gives_last:
        return True
    return bool(_output(net).clock == net.graph.inputs[net.input_names[0]].clock)


def _output(net: GraphModel) -> Any:
    return net.graph.values[net.graph.outputs[0]]
