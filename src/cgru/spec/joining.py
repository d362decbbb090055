"""Concatenations of many values are several: a node of the core has room for few inputs."""

from __future__ import annotations

from collections.abc import Sequence

from .graph import Node

#: The values that one node joins, as in core/graph.h.
MOST = 8


def narrow_joins(nodes: Sequence[Node]) -> list[Node]:
    """The nodes with every wider concatenation as one of groups, in their order, which are joined first."""
    taken = {node.name for node in nodes}
    made: list[Node] = []
    for node in nodes:
        while node.op == "concat" and len(node.inputs) > MOST:
            joined = []
            for at in range(0, len(node.inputs), MOST):
                group = node.inputs[at : at + MOST]
                if len(group) > 1:
                    number = next(i for i in range(len(taken) + 1) if f"{node.name}.{i}" not in taken)
                    made.append(node._replace(name=f"{node.name}.{number}", inputs=group))
                    taken.add(made[-1].name)
                joined.append(made[-1].name if len(group) > 1 else group[0])
            node = node._replace(inputs=tuple(joined))
        made.append(node)
    return made
