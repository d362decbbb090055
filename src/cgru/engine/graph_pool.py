"""Pools over any graph whose every step gives a frame."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ..arrays import Float32
from ..errors import UnsupportedError
from ..spec.graph import refuse_unstreamable
from .pool import Pool

if TYPE_CHECKING:
    from .graph_model import GraphModel


class GraphPool(Pool):
    """Up to ``capacity`` streams of a graph with one input and outputs that have a frame for each step."""

    net: GraphModel

    def _stepped(self, x: np.ndarray, state: Float32, threads: int) -> Float32:
        net = self.net
        name = net.input_names[0]
        value = net.graph.inputs[name]
        steps = x[:, None] if value.dtype == "int64" else x.reshape(len(x), 1, *value.features)
        made = net._runner(None).run({name: steps}, state, ended=False, threads=threads)
        return np.concatenate([made[o].reshape(len(x), -1) for o in net.graph.outputs], axis=1)


def check_poolable(net: GraphModel) -> None:
    """Raise :class:`UnsupportedError` where a step does not give a frame of every output, or takes several inputs."""
    graph, timing = net.graph, net._layout.timing
    refuse_unstreamable(graph, "the network has no pool")
    if not timing.steady:
        raise UnsupportedError("pool: one step of this network does not give one frame; use net.stream(batch)")
    if len(net.input_names) != 1 or graph.static_inputs:
        raise UnsupportedError("pool: the network takes several inputs; use net.stream(batch)")
    for name in graph.outputs:
        if graph.values[name].clock is None or graph.values[name].dtype != "float32":
            raise UnsupportedError(f"pool: its output {name!r} does not have a frame for each step")


def open_pool(net: GraphModel, capacity: Any) -> GraphPool:
    """The pool that suits the network's backend."""
    check_poolable(net)
    if not net.steps_in_core:
        return GraphPool(net, capacity) if len(net.graph.outputs) == 1 else _refuse_several()
    from .backends.steppers import PackedGraphPool, SplitGraphPool

    return (PackedGraphPool if len(net.graph.outputs) == 1 else SplitGraphPool)(net, capacity)


def _refuse_several() -> Any:
    raise UnsupportedError("pool: a network of several outputs has a pool on the packed backend only")
