"""What an ONNX file holds, whether or not cgru runs it: its operators, inputs and outputs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

from ..containers.file_bytes import Source
from ..containers.onnx_file import read_model
from ..containers.onnx_records import Graph, Node, ValueInfo
from .onnx_fold import FOLDED
from .onnx_lowering import HANDLERS
from .onnx_network import FAMILIES

#: Operators that are answered while a graph is walked, from shapes or from what is constant.
_WALKED = ("If", "Shape", "Size", "Constant")


def summary(source: Source) -> dict[str, Any]:
    """Plain values: operator sets, producer, inputs and outputs with their shapes, how often each operator stands in
    the file, and ``unknown``, those that cgru has no handler for. That an operator is known does not say that every
    use of it is run."""
    assert FAMILIES  # their handlers are in the table now
    model = read_model(source)
    counts = Counter(_name(node) for node in _nodes(model.graph))
    return {
        "opsets": {domain or "ai.onnx": version for domain, version in model.opsets.items()},
        "producer": model.producer,
        "inputs": {info.name: _shape(info) for info in model.graph.inputs},
        "outputs": {info.name: _shape(info) for info in model.graph.outputs},
        "operators": dict(sorted(counts.items())),
        "unknown": sorted(op for op in counts if op not in HANDLERS and op not in FOLDED and op not in _WALKED),
    }


def _nodes(graph: Graph) -> Iterator[Node]:
    for node in graph.nodes:
        yield node
        for _, inner in node.subgraphs():
            yield from _nodes(inner)


def _name(node: Node) -> str:
    return f"{node.domain}.{node.op}" if node.domain else node.op


def _shape(info: ValueInfo) -> str:
    axes = "?" if info.shape is None else ", ".join("?" if size is None else str(size) for size in info.shape)
    return f"{info.dtype or 'numbers'} ({axes})"


def lines(found: dict[str, Any]) -> str:
    """The summary for people."""
    sets = ", ".join(f"{domain} {version}" for domain, version in found["opsets"].items())
    made = [f"operator sets: {sets}" + (f"; written by {found['producer']}" if found["producer"] else "")]
    for what in ("inputs", "outputs"):
        made.append(f"{what}: " + ", ".join(f"{name[:60]} {shape}" for name, shape in found[what].items()))
    operators = (f"{op} {count}" if count > 1 else op for op, count in found["operators"].items())
    made.append("operators: " + ", ".join(operators))
    if found["unknown"]:
        made.append("operators that cgru does not run: " + ", ".join(found["unknown"]))
    return "\n".join(made)
