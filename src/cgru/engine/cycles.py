"""Which nodes of a graph read, a step later, what they gave: they run frame by frame, and all others at once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from ..spec.graph import Graph, Node


def cycles(graph: Graph) -> list[list[Node]]:
    """The graph's nodes in an order in which they can run, those of one cycle together.

    A ``carried`` node reads what its ``carry`` node gave at the frame before: with that edge, the nodes of a cycle are
    a strongly connected component. Source: S. R. Kosaraju's algorithm, in A. V. Aho et al., Data Structures and
    Algorithms, 1983.
    """
    back = {node.inputs[1]: node.name for node in graph.nodes if node.op == "carry"}
    if not back:
        return [[node] for node in graph.nodes]
    names = {node.name: place for place, node in enumerate(graph.nodes)}
    reads = {
        node.name: [name for name in (*node.inputs, back.get(node.name, "")) if name in names] for node in graph.nodes
    }
    readers: dict[str, list[str]] = {name: [] for name in names}
    for name, sources in reads.items():
        for source in sources:
            readers[source].append(name)
    finished = [name for tree in _trees(names, readers, set()) for name in tree]
    found = [list(tree) for tree in _trees(reversed(finished), reads, set())]
    # Each component is found before those that it reads.
    return [[graph.nodes[place] for place in sorted(names[name] for name in part)] for part in _sorted(found, reads)]


def _trees(roots: Iterable[str], edges: Mapping[str, Sequence[str]], seen: set[str]) -> Iterable[list[str]]:
    """What each root reaches that none before it did, in the order in which a walk leaves it."""
    for root in roots:
        if root in seen:
            continue
        seen.add(root)
        stack, left = [(root, iter(edges[root]))], []
        while stack:
            rest = stack[-1][1]
            other = next((other for other in rest if other not in seen), None)
            if other is None:
                left.append(stack.pop()[0])
            else:
                seen.add(other)
                stack.append((other, iter(edges[other])))
        yield left


def _sorted(parts: Sequence[Sequence[str]], reads: Mapping[str, Sequence[str]]) -> list[Sequence[str]]:
    """The components, each behind those that it reads."""
    home = {name: i for i, part in enumerate(parts) for name in part}
    needs = {
        str(i): [str(home[other]) for name in part for other in reads[name] if home[other] != i]
        for i, part in enumerate(parts)
    }
    return [parts[int(i)] for tree in _trees(map(str, range(len(parts))), needs, set()) for i in tree]
