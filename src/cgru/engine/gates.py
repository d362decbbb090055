"""What every gate of every recurrence did: a pass of its own through the equations, so that running costs nothing."""

from __future__ import annotations

import numpy as np

from ..arrays import Float32
from ..spec.graph import Graph, Node
from ..weights import Store
from .inputs import Given
from .interpreter import Interpreter, gate_label
from .state import StateLayout

Record = dict[str, dict[str, Float32]]


def record_gates(
    graph: Graph, store: Store, layout: StateLayout, given: Given, state: Float32, lengths: np.ndarray | None
) -> Record:
    """``"gru.l0"``, … → gate → (B, T, size) from ``state`` (B, width), which moves.

    At a step beyond a row's length z is 1, the state is the one held there, and other gates are 0.
    """
    if lengths is None or given.steps is None or (lengths == given.steps).all():
        return _recorded(graph, store, layout, given.arrays, state)
    made: Record = {}
    scans = {gate_label(node): node for node in graph.nodes if node.op == "scan"}
    for length in np.unique(lengths):
        rows = np.flatnonzero(lengths == length)
        begin = state[rows]
        # Of rows without a step one is run all the same: it says which gates there are.
        seen = max(int(length), 1)
        part = {
            name: array[rows, :seen] if name in graph.optional or name in graph.timed_inputs else array[rows]
            for name, array in given.arrays.items()
        }
        for label, gates in _recorded(graph, store, layout, part, begin.copy()).items():
            held = _held(scans[label], layout, begin)
            for gate, values in gates.items():
                shape = (given.batch, given.steps, values.shape[-1])
                whole = made.setdefault(label, {}).setdefault(gate, np.zeros(shape, np.float32))
                whole[rows, :length] = values[:, :length]
                if gate == "z":
                    whole[rows, length:] = 1
                elif gate in held:
                    # Time's end comes first where a scan is reversed: the row's own has not begun there.
                    after = held[gate] if scans[label].options["reverse"] or not length else values[:, length - 1]
                    whole[rows, length:] = after[:, None]
    return made


def _recorded(
    graph: Graph, store: Store, layout: StateLayout, inputs: dict[str, np.ndarray], state: Float32
) -> Record:
    found: Record = {}
    Interpreter(graph, store, layout, found).run(inputs, state)
    return found


def _held(scan: Node, layout: StateLayout, state: Float32) -> dict[str, Float32]:
    """The state arrays that a scan's rows begin with."""
    (block,) = layout.blocks[scan.name]
    return dict(zip(block.arrays, block.views(state), strict=True))
