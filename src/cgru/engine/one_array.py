"""Networks as a server or an archive takes them: one array of steps in, one array out."""

from __future__ import annotations

import numpy as np

from ..errors import UnsupportedError
from .model import Model


def check(net: Model, who: str) -> None:
    """Raise :class:`UnsupportedError` for a network of several inputs or outputs, or of frames with inner axes.

    The two directions that a chain may end in are one output here.
    """
    graph = net.graph
    if net._inputs.only is None or (len(graph.outputs) != 1 and not net.is_chain):
        raise UnsupportedError(
            f"{who} takes networks of one input and one output; this one has the inputs {', '.join(net.input_names)} "
            f"and the outputs {', '.join(graph.outputs)}"
        )
    name, output = net.input_names[0], graph.outputs[0]
    for shown, value in ((name, graph.inputs[name]), (output, graph.values[output])):
        if len(value.features) != (0 if value.dtype == "int64" else 1):
            raise UnsupportedError(f"{who} takes frames of one axis; {shown!r} is {value.describe()}")


def admit(net: Model, x: object) -> tuple[np.ndarray, bool]:
    """``x`` checked and cast, (B, T, I) or ids (B, T), and whether it came without a batch axis."""
    given = net._inputs.admit(x)
    return given.arrays[net.input_names[0]], given.single


def keeps_time(net: Model) -> bool:
    """Whether the output has a step for every step of the input, so that ``lengths`` holds for both."""
    graph = net.graph
    return net.gives_last or graph.values[graph.outputs[0]].clock == graph.inputs[net.input_names[0]].clock
