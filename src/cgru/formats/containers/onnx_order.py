"""The rules by which the names of an ONNX graph hang together, and its nodes in an order that keeps them.

Every name is produced once (static single assignment), everything read is produced, and nothing reads what comes
from itself. Source: onnx/docs/IR.md, "Graphs" and "Names Within a Graph".
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from ...errors import FormatError
from .onnx_records import Graph, Node, ValueInfo, shortened


def ordered_graph(
    name: str,
    inputs: Sequence[ValueInfo],
    outputs: Sequence[ValueInfo],
    nodes: Sequence[Node],
    initializers: Mapping[str, np.ndarray],
    declared: Mapping[str, ValueInfo],
    shown: str,
) -> Graph:
    """The graph, its names checked and its nodes sorted; what it reads without producing it are its captures."""
    where = f"{shown}: graph {shortened(name)}"
    producer: dict[str, int] = {}
    for what, infos in (("input", inputs), ("output", outputs)):
        seen: set[str] = set()
        for info in infos:
            if not info.name:
                raise FormatError(f"{where} has an {what} without a name")
            if info.name in seen:
                raise FormatError(f"{where} has the {what} {shortened(info.name)} twice")
            seen.add(info.name)
    given = {info.name for info in inputs} | initializers.keys()
    for index, node in enumerate(nodes):
        for output in node.outputs:
            if output and (output in given or output in producer):
                raise FormatError(f"{where}: {node} produces {shortened(output)}, which there is already")
            if output:
                producer[output] = index
    order = _sorted(nodes, producer, where)
    captures = {read: None for node in order for read in node.reads() if read not in producer and read not in given}
    captures.update((info.name, None) for info in outputs if info.name not in producer and info.name not in given)
    return Graph(
        name,
        tuple(info for info in inputs if info.name not in initializers),
        tuple(outputs),
        tuple(order),
        dict(initializers),
        dict(declared),
        tuple(captures),
    )


def _sorted(nodes: Sequence[Node], producer: Mapping[str, int], where: str) -> list[Node]:
    """Each node after those it reads from; files mostly are so, and then the order stays."""
    needs = [sorted({producer[name] for name in node.reads() if name in producer}) for node in nodes]
    if all(all(need < index for need in row) for index, row in enumerate(needs)):
        return list(nodes)
    # 0: not seen; 1: on the way down from here; 2: placed. An explicit stack, as a file may chain any number.
    state = [0] * len(nodes)
    order: list[Node] = []
    for root in range(len(nodes)):
        stack = [(root, 0)]
        while stack:
            index, at = stack.pop()
            if at == 0:
                if state[index] == 2:
                    continue
                if state[index] == 1:
                    raise FormatError(f"{where}: {nodes[index]} reads what comes from itself; a graph has no cycles")
                state[index] = 1
            if at < len(needs[index]):
                stack.append((index, at + 1))
                stack.append((needs[index][at], 0))
            else:
                state[index] = 2
                order.append(nodes[index])
    return order


def check_names(graph: Graph, shown: str) -> None:
    """Refuse a whole graph that reads what nothing produces, or hides a name of a graph around it."""
    for name in graph.captures:
        reader = next((str(node) for node in graph.nodes if name in node.reads()), "the graph's outputs")
        raise FormatError(f"{shown}: {reader} takes {shortened(name)}, which nothing in the file produces")
    _check_shadows(graph, [], shown)


def _check_shadows(graph: Graph, around: list[set[str]], shown: str) -> None:
    own = set(_produced(graph.nodes))
    if around:
        for name in own:
            if any(name in names for names in around):
                raise FormatError(
                    f"{shown}: {shortened(name)} is produced in the subgraph {shortened(graph.name)} "
                    "and in a graph around it"
                )
    inside = [*around, own | {info.name for info in graph.inputs} | graph.initializers.keys()]
    for node in graph.nodes:
        for _, subgraph in node.subgraphs():
            _check_shadows(subgraph, inside, shown)


def _produced(nodes: Iterable[Node]) -> Iterable[str]:
    return (output for node in nodes for output in node.outputs if output)
