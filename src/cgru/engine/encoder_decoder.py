"""A network that reads one sequence and follows another, cut in two: an encoder, and a decoder of what it made.

Trained models are written as one function of source and target, the decoder being shown at every step the token before
(teacher forcing). Of such a graph what the source alone decides is the encoder; the rest runs a step at a time. The cut
changes no arithmetic, so that both entries together give the whole network's bits.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from ..builder import Graph as Builder
from ..errors import UnsupportedError
from ..spec.graph import Graph, Node
from ..spec.values import Value
from ..weights import Store
from .given_once import decided_once

#: What a search calls the two entries.
ENCODE, DECODE = "encode", "decode"


def encoder_decoder(graph: Graph, store: Store) -> dict[str, Builder]:
    """The entries "encode" and "decode" of a graph whose steps follow a sequence that is given once.

    :class:`UnsupportedError` where there is no such sequence, or several, or nothing is made of it before the steps.
    """
    graph, source = _following(graph)
    fixed = decided_once(graph)
    read = {name for node in graph.nodes if node.name not in fixed for name in node.inputs} | set(graph.outputs)
    crossing = [name for name in graph.values if name in fixed and name in read]
    if all(name in graph.inputs for name in crossing):
        raise UnsupportedError(
            f"nothing is made of {source!r} before the steps, so there is no encoder: the network is a decoder by "
            f"itself, and a search takes inputs={{{source!r}: …}}"
        )
    cut = _Cut(graph, store, source, fixed, crossing)
    return {ENCODE: cut.encoder(), DECODE: cut.decoder()}


def _following(graph: Graph) -> tuple[Graph, str]:
    """The graph with its steps those of its outputs, and the input that has a time axis of its own: the source."""
    needed = {name: value for name, value in graph.inputs.items() if name not in graph.optional}
    roots: dict[str, list[str]] = {}
    for name, value in needed.items():
        if value.clock is not None:
            roots.setdefault(value.clock.root, []).append(name)
    clocks = [graph.values[name].clock for name in graph.outputs]
    followed = {clock.root if clock is not None else None for clock in clocks}
    sources = [names for root, names in roots.items() if root not in followed]
    if len(roots) != 2 or len(followed) != 1 or len(sources) != 1 or len(sources[0]) != 1:
        found = ", ".join(f"{name} {value.describe()}" for name, value in needed.items())
        raise UnsupportedError(
            "the network is no encoder and decoder: expected one input with a time axis of its own, which is read, and "
            f"one that the outputs advance with, the tokens so far; it takes {found}"
        )
    (((source,),), (steps,)) = sources, followed
    if not steps:
        return graph, source
    inputs = {
        name: _with_root(value, "", source) if _root(value) == "" else _with_root(value, str(steps), "")
        for name, value in graph.inputs.items()
    }
    return Graph(inputs, graph.nodes, graph.outputs), source


class _Cut:
    """Which values the encoder hands over, and the nodes on either side."""

    def __init__(self, graph: Graph, store: Store, source: str, fixed: set[str], crossing: Sequence[str]) -> None:
        self.graph, self.store, self.source, self.fixed = graph, store, source, fixed
        self.nodes = {node.name: node for node in graph.nodes}
        handed = [name for name in crossing if name in self.nodes]
        #: Nodes that follow of what is handed over (the keys of an attention, of its memory): the decoder's own.
        self.later: set[str] = set()
        for name in reversed(handed):
            others = {other for other in handed if other != name and other not in self.later}
            self.later |= self._cone(name, others) or set()
        self.handed = [name for name in handed if name not in self.later]
        self.given = [name for name in crossing if name in graph.inputs and name not in graph.optional]
        self.masks = {mask: self._memory_of(mask) for mask in crossing if mask in graph.optional}

    def _cone(self, name: str, ends: set[str]) -> set[str] | None:
        """The nodes that make a value of ``ends`` and constants, or None where it takes more, or a whole sequence."""
        node = self.nodes.get(name)
        if node is None or node.op in ("scan", "scan_rows") or self.graph.operations[name].is_whole(node.options):
            return None
        found = {name}
        for given in filter(None, node.inputs):
            if given not in ends:
                more = self._cone(given, ends)
                if more is None:
                    return None
                found |= more
        return found

    def _memory_of(self, mask: str) -> str:
        """What is handed over with the frames of the source: the decoder knows the source's mask as its mask."""
        for name in self.handed:
            value = self.graph.values[name]
            if value.clock == self.graph.values[mask].clock and value.dtype == "float32":
                return name
        raise UnsupportedError(
            f"the steps look at the mask of {self.source!r}, and at nothing that is made of its frames"
        )

    def encoder(self) -> Builder:
        """What is made of the source, whose steps are now the network's own."""
        made = Builder()
        needed = set(self.handed)
        for node in reversed(self.graph.nodes):
            if node.name in needed:
                needed.update(node.inputs)
        for name, value in self.graph.inputs.items():
            if name in needed:
                made.declare(name, _with_root(value, _root(self.graph.inputs[self.source]) or "", ""))
        self._add(made, [node for node in self.graph.nodes if node.name in needed])
        for name in self.handed:
            made.output(_marks(made, name) if self._is_mask(name) else name)
        return made

    def decoder(self) -> Builder:
        """The steps, over what is handed over."""
        made = Builder()
        for name, value in self.graph.inputs.items():
            if value.clock is not None and not value.clock.root:
                made.declare(name, value)
        for name in (*self.handed, *self.given):
            value = self.graph.values[name]
            if self._is_mask(name):
                made.declare(_marked(name), value._replace(features=(1,), dtype="float32"))
            else:
                made.declare(name, value)
        for name in filter(self._is_mask, self.handed):
            made.node("mask_of", _marked(name), name=name)
        known_as = {mask: made.mask_of_input(memory) for mask, memory in self.masks.items()}
        nodes = [node for node in self.graph.nodes if node.name in self.later or node.name not in self.fixed]
        self._add(made, [self._of_a_memory(node)._replace(inputs=_renamed(node.inputs, known_as)) for node in nodes])
        made.output(*self.graph.outputs)
        return made

    def _is_mask(self, name: str) -> bool:
        return self.graph.values[name].dtype == "bool"

    def _of_a_memory(self, node: Node) -> Node:
        """Attention to what is given once as one that streams."""
        if node.op != "attend" or node.options["causal"]:
            return node
        clocks = [self.graph.values[name].clock for name in node.inputs[1:] if name]
        if any(clock is None or not clock.root for clock in clocks):
            return node
        return node._replace(options={**node.options, "memory": True})

    def _add(self, made: Builder, nodes: Iterable[Node]) -> None:
        for node in nodes:
            if node.weights:
                made.store[node.weights] = self.store[node.weights]
            key = node.weights or None
            made.node(node.op, *node.inputs, name=node.name, layer=node.layer, weights=key, **node.options)


def _marks(made: Builder, mask: str) -> str:
    """A mask as a feature, 1 where a frame counts: entries give features alone."""
    one = made.node("constant", name=f"{mask}.one", features=(1,), weights={"value": np.ones(1, np.float32)})
    every = made.node("expand_time", one, mask, name=f"{mask}.every")
    return made.node("apply_mask", every, mask, name=_marked(mask))


def _marked(mask: str) -> str:
    return f"{mask}.counts"


def _renamed(names: Sequence[str], now: Mapping[str, str]) -> tuple[str, ...]:
    return tuple(now.get(name, name) for name in names)


def _root(value: Value) -> str | None:
    return None if value.clock is None else value.clock.root


def _with_root(value: Value, old: str, new: str) -> Value:
    if value.clock is None or value.clock.root != old:
        return value
    return value._replace(clock=value.clock._replace(root=new))
