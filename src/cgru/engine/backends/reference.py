"""The reference backend: every operation by its equation in float64. Slow, and always there."""

from __future__ import annotations

from ...spec.graph import Graph
from ..interpreter import Interpreter
from ..network import Network
from ..state import StateLayout


def unavailable() -> None:
    return None


def unsupported(network: Network) -> None:
    return None


def names(network: Network) -> list[str]:
    return ["reference"] * len(network.layers)


def plan(network: Network, graph: Graph, layout: StateLayout) -> Interpreter:
    return Interpreter(graph, network.store, layout)
