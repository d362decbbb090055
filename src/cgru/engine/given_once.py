"""Inputs given once a sequence (a memory, an initial state): their lengths, and what is made of them alone.

A decoder reads its memory at every step, and much of what it does with it (the projection of the keys, an initial
state) is the same at every step. :func:`split` takes a graph apart: what depends on inputs given once alone runs when a
stream opens, the rest at every step.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from .. import arrays
from ..errors import CgruError, ShapeError
from ..spec.graph import MASK, Graph
from ..spec.values import Value

#: What follows the name of a memory in the name of its lengths, (B,), which stand for its mask.
LENGTHS = "_lengths"


class Parts(NamedTuple):
    """A graph in two: ``once`` (None where there is nothing to do) gives values that ``steps`` takes as inputs."""

    once: Graph | None
    steps: Graph
    #: The inputs of ``steps`` that are given once: inputs of the whole graph, and outputs of ``once``.
    given: tuple[str, ...]


def decided_once(graph: Graph) -> set[str]:
    """The inputs given once, and the nodes that read nothing else."""
    found = set(graph.static_inputs)
    for node in graph.nodes:
        if all(name in found for name in node.inputs if name):
            found.add(node.name)
    return found


def split(graph: Graph) -> Parts:
    """The graph as what its inputs given once alone decide, and the rest.

    A mask made of such an input is made at every step, of what it is made of: the core hands out features alone.
    """
    fixed = decided_once(graph)
    early = [node for node in graph.nodes if node.name in fixed]
    at_steps = {node.name for node in graph.nodes if node.name not in fixed}
    read = {name for node in graph.nodes if node.name in at_steps for name in node.inputs}
    for node in reversed(early):
        if node.name in read and graph.values[node.name].dtype == "bool":
            at_steps.add(node.name)
            read.update(node.inputs)
    late = [node for node in graph.nodes if node.name in at_steps]
    crossing = dict.fromkeys(name for node in late for name in node.inputs if name in fixed - at_steps)
    crossing |= dict.fromkeys(name for name in graph.outputs if name in fixed)
    inputs = {name: value for name, value in graph.inputs.items() if name not in fixed}
    inputs |= {name: graph.values[name] for name in crossing}
    made = [name for name in crossing if name not in graph.inputs]
    once = None
    if made:
        needed = set(made)
        for node in reversed(early):
            if node.name in needed:
                needed.update(node.inputs)
        own = {name: value for name, value in graph.inputs.items() if name in needed}
        once = Graph(own, [node for node in early if node.name in needed], made)
    return Parts(once, Graph(inputs, late, graph.outputs), tuple(crossing))


def lengths_as_masks(graph: Graph, given: Mapping[str, Any]) -> dict[str, Any]:
    """``given`` with the lengths of memories (``memory_lengths``, (B,)) as the masks of their frames.

    :class:`CgruError` where lengths fit no memory, or nothing in the network looks at them.
    """
    made = dict(given)
    for key in given:
        name = key.removesuffix(LENGTHS) if isinstance(key, str) else ""
        if key in graph.inputs or name == key or name not in graph.static_inputs or name not in given:
            continue
        value, array = graph.inputs[name], arrays.as_array(given[name], name, "numbers")
        if value.clock is None:
            raise CgruError(f"{key}: the input {name!r} has no time axis, so it has no lengths")
        axes = 1 + len(value.features)
        if array.ndim not in (axes, axes + 1):
            raise ShapeError(f"{name}: the network takes {value.describe()}, found shape {array.shape}")
        batch, frames = (array.shape[0], array.shape[1]) if array.ndim > axes else (1, array.shape[0])
        found = arrays.lengths(made.pop(key), batch, frames)
        if found is None:
            continue
        if name + MASK not in graph.inputs:
            if (found != frames).any():
                raise CgruError(
                    f"{key}: nothing in the network looks at a mask of {name!r} (g.mask_of_input), so its frames past "
                    "a length would count; build it with one, or run the rows one by one"
                )
            continue
        mask = np.arange(frames) < found[:, None]
        made[name + MASK] = mask if array.ndim > axes else mask[0]
    return made


def frames_given(graph: Graph, inputs: Mapping[str, np.ndarray | None]) -> dict[str, int]:
    """Frames of each input with a time axis of its own; a mask left out has those of what it masks."""
    found = {}
    for name, value in graph.inputs.items():
        if value.clock is None or not value.clock.root:
            continue
        array = inputs.get(name)
        array = inputs.get(name.removesuffix(MASK)) if array is None else array
        found[name] = array.shape[1] if array is not None else 0
    return found


def mask_left_out(value: Value, name: str, inputs: Mapping[str, np.ndarray], batch: int, steps: int) -> np.ndarray:
    """A mask under which every frame counts."""
    if value.clock is not None and value.clock.root:
        steps = inputs[name.removesuffix(MASK)].shape[1]
    return np.ones((batch, steps), bool)
