"""Functions of an ONNX file, written out where they are called.

A function (FunctionProto) is a named body of nodes. A call of it becomes its nodes, with every name of the body made
unique, its formal inputs and outputs replaced by the call's, and its attribute references by the call's attributes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from ...errors import FormatError
from .onnx_order import ordered_graph
from .onnx_records import Graph, Node, Reference, ValueInfo, shortened

#: Bounds of what calls of calls can grow to: nodes of a file when all are written out, calls, and their depth.
MAX_NODES = 200_000
MAX_CALLS = 20_000
MAX_DEPTH = 50


@dataclass(frozen=True, slots=True)
class Function:
    domain: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: tuple[str, ...]
    defaults: Mapping[str, Any]
    nodes: tuple[Node, ...]


Key = tuple[str, str, str]


class Inliner:
    """Writes calls out. One object a file, as it counts the nodes and numbers the calls."""

    def __init__(self, functions: Mapping[Key, Function], shown: str) -> None:
        self.functions = functions
        self.shown = shown
        self.nodes = 0
        self.calls = 0

    def expanded(self, nodes: Iterable[Node], active: tuple[Key, ...] = ()) -> list[Node]:
        """``nodes`` with every call written out; ``active`` are the functions this stands in."""
        out: list[Node] = []
        for node in nodes:
            key = (node.domain, node.op, node.overload)
            function = self.functions.get(key)
            if function is None:
                self.nodes += 1
                if self.nodes > MAX_NODES:
                    raise FormatError(f"{self.shown}: more than {MAX_NODES} nodes, which is all that are read")
                out.append(node)
                continue
            if key in active:
                raise FormatError(f"{self.shown}: function {shortened(node.op)} calls itself")
            if len(active) >= MAX_DEPTH:
                raise FormatError(f"{self.shown}: functions call each other more than {MAX_DEPTH} deep")
            out += self._body(node, function, (*active, key))
        return out

    def _body(self, call: Node, function: Function, active: tuple[Key, ...]) -> list[Node]:
        if len(call.inputs) > len(function.inputs) or len(call.outputs) > len(function.outputs):
            raise FormatError(
                f"{self.shown}: {call} has {len(call.inputs)} inputs and {len(call.outputs)} outputs; its function "
                f"takes {len(function.inputs)} and gives {len(function.outputs)}"
            )
        unknown = [name for name in call.attributes if name not in (*function.attributes, *function.defaults)]
        if unknown:
            what = f"attribute {shortened(unknown[0])}, which its function has not"
            raise FormatError(f"{self.shown}: {call} gives {what}")
        self.calls += 1
        if self.calls > MAX_CALLS:
            raise FormatError(f"{self.shown}: more than {MAX_CALLS} calls of functions, which is all that are read")
        prefix = f"{call.op}#{self.calls}/"
        names = dict.fromkeys(function.inputs, "")
        names.update(zip(function.inputs, call.inputs, strict=False))
        # An output that is an input, or stands twice, is no name of the body's own: an Identity gives it one.
        produced = {output for node in function.nodes for output in node.outputs}
        aliases: list[tuple[str, str]] = []
        for formal, actual in zip(function.outputs, call.outputs, strict=False):
            if actual and formal in produced and formal not in names:
                names[formal] = actual
            elif actual:
                aliases.append((formal, actual))

        def renamed(name: str) -> str:
            return names.get(name, prefix + name) if name else ""

        renaming = _Renaming(self, renamed, {**function.defaults, **call.attributes}, prefix, active)
        # What an output of the call is named is not renamed again.
        ends = [Node("", "Identity", "", 1, (renamed(formal),), (actual,), {}) for formal, actual in aliases]
        return self.expanded(map(renaming.node, function.nodes), active) + ends


@dataclass(frozen=True, slots=True)
class _Renaming:
    """The body of a function as one call of it has it."""

    inliner: Inliner
    renamed: Callable[[str], str]
    given: Mapping[str, Any]
    prefix: str
    active: tuple[Key, ...]

    def node(self, node: Node) -> Node:
        attributes: dict[str, Any] = {}
        for name, value in node.attributes.items():
            if isinstance(value, Reference):
                # An attribute that the call leaves out is left out here as well.
                if value.name in self.given:
                    attributes[name] = self.given[value.name]
            elif isinstance(value, Graph):
                attributes[name] = self.graph(value)
            elif isinstance(value, tuple) and any(isinstance(item, Graph) for item in value):
                attributes[name] = tuple(map(self.graph, value))
            else:
                attributes[name] = value
        inputs, outputs = tuple(map(self.renamed, node.inputs)), tuple(map(self.renamed, node.outputs))
        name = self.prefix + node.name if node.name else ""
        return Node(name, node.op, node.domain, node.version, inputs, outputs, attributes, node.overload)

    def graph(self, graph: Graph) -> Graph:
        return ordered_graph(
            graph.name,
            tuple(map(self.value, graph.inputs)),
            tuple(map(self.value, graph.outputs)),
            self.inliner.expanded(map(self.node, graph.nodes), self.active),
            {self.renamed(name): array for name, array in graph.initializers.items()},
            {self.renamed(name): self.value(info) for name, info in graph.declared.items()},
            self.inliner.shown,
        )

    def value(self, info: ValueInfo) -> ValueInfo:
        return replace(info, name=self.renamed(info.name))
