"""What a model runs: a graph over weights, and the layers by which people know its nodes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, Self

from .. import arrays
from ..builder import Graph as Builder
from ..errors import ArgumentTypeError, CgruError, ShapeError, UnsupportedError
from ..layers import Conv1d, LastStep, Layer, Recurrent
from ..layers.normalization import fold
from ..spec.graph import Graph, Node
from ..spec.precision import check as check_precision
from ..weights import Store, Weights
from .fingerprint import fingerprint, graph_fingerprint


class Network:
    """A graph, its weights by key, and its layers: immutable.

    ``chain``: made of a list of layers, each of which reads the one before; ``layers`` are those then, else
    :class:`Part`. ``open_width``: a chain for any number of features (activations alone); its graph is of one then, and
    :meth:`at_width` gives that of another number.
    """

    chain = False
    open_width = False

    def __init__(self, graph: Graph, store: Store, layers: Sequence[Layer] | None = None) -> None:
        self.graph, self.store = graph, dict(store)
        self.layers = _parts(graph, self.store) if layers is None else tuple(layers)

    @cached_property
    def inputs(self) -> list[str]:
        """The inputs a call must bring, in order."""
        return [name for name in self.graph.inputs if name not in self.graph.optional]

    @property
    def takes_ids(self) -> bool:
        return bool(self.inputs) and self.graph.inputs[self.inputs[0]].dtype == "int64"

    def vocabulary(self, name: str) -> int:
        """How many ids an input has: the smallest table that it is looked up in; 0 for features."""
        return min(self.tables(name).values(), default=0)

    def tables(self, name: str) -> dict[int, int]:
        """The smallest table that each of an input's ids is looked up in, by its place in a frame; −1 is every one."""
        found: dict[int, int] = {}
        for node in self.graph.nodes:
            if node.op == "embedding" and node.inputs[0] == name:
                column, size = node.options["column"], node.options["vocabulary"]
                found[column] = min(size, found.get(column, size))
        return found

    def fingerprint(self) -> bytes:
        """Sixteen bytes that another network, in layers, sizes or weights, does not share."""
        return graph_fingerprint(self.graph, self.store)

    def at_width(self, features: int) -> Graph:
        """The graph for so many features, where any number will do."""
        return self.graph

    def with_layers(self, layers: Sequence[Layer]) -> Network:
        """The same network with other weights in its layers."""
        store = dict(self.store)
        for layer in layers:
            store.update(layer.weights)
        return Network(self.graph, store)


class Chain(Network):
    """The network of a list of layers, in the order data passes them.

    ``ends`` are the values that every layer gives: one, or two of directions that are not merged.
    """

    chain = True
    ends: list[tuple[str, ...]]

    def __init__(self, layers: Sequence[Layer]) -> None:
        named = _named_apart(layers)
        _check_chain(named)
        named = tuple(fold(named))
        sizes = (layer.input_size for layer in named if layer.input_size is not None)
        width = next(sizes, 0)
        made, self.ends = _lowered(named, width or 1)
        super().__init__(made.build(), made.store, named)
        self.open_width = not width
        #: Which mask says what frames of a value count.
        self.masks = made.masks

    def fingerprint(self) -> bytes:
        return fingerprint(self.layers)

    def at_width(self, features: int) -> Graph:
        return _lowered(self.layers, features)[0].build() if self.open_width and features != 1 else self.graph

    def with_layers(self, layers: Sequence[Layer]) -> Network:
        return Chain(layers)


class Part(Layer):
    """The nodes of a graph that came of one layer, as ``print(net)`` and ``quantize`` know them."""

    kind = "part"

    def __init__(self, name: str, nodes: Sequence[Node], graph: Graph, store: Store) -> None:
        self.name, self.nodes = name, tuple(nodes)
        self.weights = {node.weights: store[node.weights] for node in nodes if node.weights}
        main = next((node for node in nodes if node.weights), nodes[-1])
        text = graph.operations[main.name].describe(main.options, graph.input_values(main), graph.values[main.name])
        self._text = text if len(text) <= 100 else f"{text[:97]}…"
        self.input_size = self.output_size = None
        self._op = main.op

    @property
    def title(self) -> str:
        return self._op

    def describe(self) -> str:
        return self._text

    @property
    def reducible(self) -> bool:
        return any(part.matrices for part in self.weights.values())

    @property
    def precision(self) -> str:
        found = (part.precision for part in self.weights.values() if part.matrices)
        return next(found, "float32")

    def quantized(self, precision: str) -> Self:
        if check_precision(precision) == self.precision:
            return self
        if not self.reducible:
            raise CgruError(f"{self.name}: {self.title} has no weights to hold as {precision}")
        twin = self.renamed(self.name)
        twin.weights = {
            key: part.reduced(precision, key) if part.matrices else part for key, part in self.weights.items()
        }
        return twin


def network_of(given: Any) -> Network:
    """The network of a list of layers or of a graph under construction."""
    if isinstance(given, Network):
        return given
    return Network(*given.finish()) if isinstance(given, Builder) else Chain(given)


def _parts(graph: Graph, store: Mapping[str, Weights]) -> tuple[Layer, ...]:
    groups: dict[str, list[Node]] = {}
    for node in graph.nodes:
        groups.setdefault(node.layer, []).append(node)
    return tuple(Part(name, nodes, graph, store) for name, nodes in groups.items())


def _named_apart(given: Sequence[Layer]) -> tuple[Layer, ...]:
    """The layers with names made unique, as Keras does: gru, gru_1, …"""
    try:
        layers = list(given)
    except Exception:
        raise ArgumentTypeError(f"layers: expected a list of layers, found {arrays.brief(given)}") from None
    if not layers:
        raise CgruError("a Model needs at least one layer")
    seen: set[str] = set()
    named = []
    for layer in layers:
        if not isinstance(layer, Layer):
            raise CgruError(f"a Model is made of layers, found {type(layer).__name__}")
        name, count = layer.name, 0
        while name in seen:
            count += 1
            name = f"{layer.name}_{count}"
        seen.add(name)
        named.append(layer if name == layer.name else layer.renamed(name))
    return tuple(named)


def _lowered(layers: Sequence[Layer], features: int) -> tuple[Builder, list[tuple[str, ...]]]:
    """The layers as a graph under construction, its input of so many features, or of ids; and what each gives."""
    g, name, taken = Builder(), "x", {layer.name for layer in layers}
    while name in taken:
        name += "_"
    x = g.input(dtype="int64", name=name) if layers[0].takes_ids else g.input(features, name=name)
    if _mask_is_read(layers):
        g.mask_of_input(x)
    y: Any = x
    ends = []
    for layer in layers:
        y = g.layer(layer, y)
        ends.append(y if isinstance(y, tuple) else (y,))
    g.output(*ends[-1])
    return g, ends


def _mask_is_read(layers: Sequence[Layer]) -> bool:
    """Whether a caller may give a mask. A convolution ends it: with no recurrence before one, it would say nothing."""
    ends = next((i for i, layer in enumerate(layers) if isinstance(layer, Conv1d)), None)
    return ends is None or any(isinstance(layer, Recurrent) for layer in layers[:ends])


def _check_chain(layers: Sequence[Layer]) -> None:
    """Every layer's input must be what the one before gives."""
    size: int | None = None
    before, collapsed = "", False
    for position, layer in enumerate(layers):
        if position and layer.takes_ids:
            raise UnsupportedError(f"{layer.name}: an embedding takes token ids and can only come first")
        if size is not None and layer.input_size is not None and layer.input_size != size:
            raise ShapeError(f"{layer.name} takes {layer.input_size} features, but {before} gives {size}")
        if isinstance(layer, (Recurrent, LastStep, Conv1d)) and collapsed:
            raise UnsupportedError(f"{layer.name}: it needs a sequence, but {before} gives only the last output")
        splits = isinstance(layer, Recurrent) and layer.bidirectional and layer.merge_mode is None
        if splits and position < len(layers) - 1:
            raise UnsupportedError(f"{layer.name}: merge_mode=None gives two arrays, so it can only come last")
        collapsed = (
            collapsed or isinstance(layer, LastStep) or (isinstance(layer, Recurrent) and not layer.return_sequences)
        )
        size = layer.output_size if layer.output_size is not None else size
        before = layer.name
