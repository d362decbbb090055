"""What a lowering is: the function that says which node of the core an operation becomes. Walks over a frame's axes.

:data:`LOWERINGS` has one function an operation: what the core's node is, as a dictionary for
:class:`~cgru.engine.backends._packed.GraphNet`. A graph with an operation that is not there runs by its equations.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from ...arrays import Float32
from ...spec.graph import Graph, Node, passes_of
from ...spec.timing import Timing
from ...spec.values import Value
from ...weights import Weights
from ..state import StateLayout

#: Axes of a walk, CGRU_AXES of the core.
AXES = 4


class Context(NamedTuple):
    """What a lowering may look at."""

    graph: Graph
    node: Node
    values: list[Value | None]
    result: Value
    weights: Weights | None
    layout: StateLayout


Lowering = Callable[[Context], dict[str, Any]]
LOWERINGS: dict[str, Lowering] = {}


def lowers(*names: str, where: Limit | None = None) -> Callable[[Lowering], Lowering]:
    """Put the lowering of these operations into the table; ``where``: for such nodes alone."""

    def put(function: Lowering) -> Lowering:
        LOWERINGS.update(dict.fromkeys(names, function))
        if where is not None:
            LIMITS.update(dict.fromkeys(names, where))
        return function

    return put


def few_axes(node: Node, result: Value, inputs: list[Value | None]) -> bool:
    """Whether every frame has no more axes than a walk, those of size 1 left out."""
    return all(sum(size > 1 for size in value.features) <= AXES for value in (result, *inputs) if value is not None)


#: What a node of an operation must be like for the core to run it, where not every one is: its type and its inputs'.
Limit = Callable[[Node, Value, list[Value | None]], bool]
LIMITS: dict[str, Limit] = {}


def unsupported(graph: Graph) -> str | None:
    """The first operation of the graph that the core lacks, or None."""
    if not _carries_within_passes(graph):
        return "carry"
    for node in graph.nodes:
        limit = LIMITS.get(node.op)
        fits = limit is None or limit(node, graph.values[node.name], graph.input_values(node))
        if node.op not in LOWERINGS or not fits:
            return node.op
    return None


def _carries_within_passes(graph: Graph) -> bool:
    """Whether the core can take a graph with carried states a step at a time: each step gives a frame of everything,
    and a state is read and written in the same pass over the sequence, of which operations on the whole make several.
    """
    pairs = [(node.name, node.inputs[1]) for node in graph.nodes if node.op == "carry"]
    if not pairs:
        return True
    passes = passes_of(graph)
    return Timing(graph).steady and all(passes[carry] == passes[carried] for carry, carried in pairs)


def first(c: Context) -> Value:
    value = c.values[0]
    assert value is not None
    return value


def weights_of(c: Context) -> dict[str, Float32]:
    assert c.weights is not None
    return c.weights.arrays()


def broadcast(c: Context) -> dict[str, Any]:
    """Where the numbers of every input lie for the walk over the result."""
    shape = c.result.features
    size, strides = merged(shape, [strides_of(value.features, shape) for value in c.values if value is not None])
    return {"size": size} | dict(zip(("stride", "stride_b", "stride_c"), strides, strict=False))


def strides_of(own: tuple[int, ...], shape: tuple[int, ...]) -> list[int]:
    """How far a value's numbers lie apart along the axes of a result it is broadcast to."""
    made, step = [0] * len(shape), 1
    for i in range(1, len(own) + 1):
        made[len(shape) - i] = step if own[-i] > 1 else 0
        step *= own[-i]
    return made


def merged(shape: tuple[int, ...], strides: list[list[int]]) -> tuple[list[int], list[list[int]]]:
    """The same walk over at most four axes, the last as long as may be: neighbours that can be are one."""
    size, kept = [1], [[0] for _ in strides]
    for i in reversed(range(len(shape))):
        n = shape[i]
        if n == 1:
            continue
        if size[0] == 1:
            size[0] = n
            for k, s in enumerate(strides):
                kept[k][0] = s[i]
        elif all(s[i] == kept[k][0] * size[0] for k, s in enumerate(strides)):
            size[0] *= n
        else:
            size.insert(0, n)
            for k, s in enumerate(strides):
                kept[k].insert(0, s[i])
    pad = AXES - len(size)
    return [1] * pad + size, [[0] * pad + k for k in kept]
