"""Building graphs: by operations, by layers, or in words that read like the network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from .absorption import absorb
from .arrays import positive
from .errors import CgruError, ShapeError
from .html_tables import table
from .spec.graph import MASK, Node
from .spec.graph import Graph as Specification
from .spec.joining import narrow_joins
from .spec.operation import checked_options, operation
from .spec.padding import absorb_padding
from .spec.values import EVERY_STEP, Clock, Value
from .weights import Weights, weights_from

if TYPE_CHECKING:
    from .layers import Layer


class Graph:
    """A network under construction: nodes are added in the order data passes them.

    ::

        g = cgru.Graph()
        x = g.input(40)
        h = g.layer(cgru.GRU.from_torch(tensors, "rnn."), x)
        g.output(g.layer(cgru.Dense(w, b), g.concat(h, x)))
        net = cgru.Model(g)

    Every method that adds something returns the name of the value it yields, which others take as input. A method for
    every operation of the table is there by its name: ``g.add(a, b)``, ``g.slice(x, start=0, stop=8)``,
    ``g.conv1d(x, units=64, width=5, left=2, right=2, weights={"weight": w, "bias": b})``.
    """

    def __init__(self) -> None:
        self.inputs: dict[str, Value] = {}
        self.nodes: list[Node] = []
        self.outputs: list[str] = []
        self.store: dict[str, Weights] = {}
        self.values: dict[str, Value] = {}
        #: Which mask says what frames of a value count.
        self.masks: dict[str, str] = {}
        #: What the model made of it shall say of itself: sentences, for ``print``.
        self.notes: list[str] = []
        self._layers: set[str] = set()

    # ---- inputs and outputs -----------------------------------------------------------------------------------

    def input(
        self,
        features: int | Sequence[int] = (),
        *,
        name: str | None = None,
        dtype: str = "float32",
        time: bool | str = True,
    ) -> str:
        """An input of so many features (or feature axes) at each step; ids with ``dtype="int64"``.

        ``time=False``: without a time axis, (B, F), given once; a text: with a time axis of its own of that name (a
        memory that is attended to).
        """
        shape = tuple(positive(f, "features") for f in ((features,) if isinstance(features, int) else features))
        clock = None if time is False else EVERY_STEP if time is True else Clock(str(time))
        return self.declare(name or self._free("x"), Value(shape, clock, dtype))

    def declare(self, name: str, value: Value) -> str:
        """An input of that name and type."""
        if name in self.values:
            raise CgruError(f"a second value is named {name!r}")
        self.inputs[name] = self.values[name] = value
        return name

    def mask_of_input(self, name: str) -> str:
        """The input, left out of a call or given as ``mask=``, that says which frames of the input ``name`` count."""
        mask = name + MASK
        if mask not in self.values:
            self.declare(mask, Value((), self.inputs[name].clock, "bool"))
            self.masks[name] = mask
        return mask

    def output(self, *names: str, **named: str) -> None:
        """The values that the network gives, in this order; ``output(memory=h)`` gives the value h by that name."""
        for name in names:
            self._known(name)
            self.outputs.append(name)
        for wanted, name in named.items():
            value = self.values[self._known(name)]
            if wanted in self.values:
                raise CgruError(f"output: a second value is named {wanted!r}")
            if value.dtype != "float32":
                raise ShapeError(f"output: {name!r} is {value.describe()}; only features are given another name")
            self.outputs.append(self.node("activation", name, name=wanted, activation="linear"))

    # ---- nodes --------------------------------------------------------------------------------------------------

    def node(
        self,
        op: str,
        *inputs: str,
        name: str | None = None,
        layer: str | None = None,
        weights: Weights | Mapping[str, Any] | str | None = None,
        **options: Any,
    ) -> str:
        """An operation of the table on values named; ``weights`` are its arrays, or the key of some given before.

        Raises :class:`~cgru.ShapeError` where something does not fit.
        """
        name = self._free(name or op)
        kind = operation(op, name)
        checked = checked_options(kind, options, name)
        values = [self.values[self._known(given)] if given else None for given in inputs]
        value = kind.infer(checked, values, name)
        infos = kind.arrays(checked, values)
        key = ""
        if isinstance(weights, str):
            key = weights
            if key not in self.store:
                raise CgruError(f"{name}: there are no weights named {key!r}")
        elif weights is not None:
            key = name
            self.store[key] = weights if isinstance(weights, Weights) else weights_from(weights, infos, name)
        elif infos and not any(info.optional is False for info in infos.values()):
            key = name
            self.store[key] = Weights({}, set())
        elif infos:
            raise ShapeError(f"{name}: {op} needs weights: {', '.join(infos)}")
        self.nodes.append(Node(name, op, tuple(inputs), checked, key, layer or name))
        self.values[name] = value
        return name

    def layer(self, layer: Layer, *inputs: str, mask: str = "") -> Any:
        """A layer on values named; its result's name (a pair where two directions are not merged).

        A recurrent layer takes its initial states behind x, values without a time axis: h0, or h0 and c0, of each
        layer and direction in torch's order. ``g.constant(weights={"value": h0}, features=(H,))`` makes one that the
        network holds; a state that a caller gives wins over it.
        The mask of its input follows the data as Keras has it, or is the one named.
        """
        from .layers.lowering import lower

        for given in inputs:
            self._known(given)
        return lower(self, self._unused(layer), inputs, mask or self.masks.get(inputs[0], ""))

    def _unused(self, layer: Layer) -> Layer:
        """The layer, under a name that no other layer of the graph has."""
        name, count = layer.name, 2
        while name in self._layers:
            name, count = f"{layer.name}_{count}", count + 1
        self._layers.add(name)
        return layer if name == layer.name else layer.renamed(name)

    def _free(self, wanted: str) -> str:
        name, count = wanted, 2
        while name in self.values:
            name, count = f"{wanted}_{count}", count + 1
        return name

    def _known(self, name: Any) -> str:
        if not isinstance(name, str) or name not in self.values:
            raise CgruError(f"{name!r} is no value of this graph; there are {', '.join(list(self.values)[:12])}")
        return name

    def __getattr__(self, name: str) -> Any:
        from .spec.operation import OPERATIONS

        if name.startswith("_") or name not in OPERATIONS:
            raise AttributeError(f"a Graph has no {name!r}; operations are {', '.join(sorted(OPERATIONS))}")

        def add(*inputs: str, **options: Any) -> str:
            return self.node(name, *inputs, **options)

        add.__name__, add.__doc__ = name, OPERATIONS[name].__doc__
        return add

    def __repr__(self) -> str:
        return f"<cgru.Graph {', '.join(self.inputs)} → {len(self.nodes)} nodes → {', '.join(self.outputs)}>"

    def _repr_html_(self) -> str:
        """The values in order, as a table for notebooks."""
        rows = [(name, "input", "", value.describe()) for name, value in self.inputs.items()]
        rows += [
            (node.name, node.op, ", ".join(filter(None, node.inputs)), self.values[node.name].describe())
            for node in self.nodes
        ]
        return table(("value", "operation", "of", "shape"), rows, f"outputs: {', '.join(self.outputs) or 'none yet'}")

    def build(self) -> Specification:
        """The finished graph, checked as a whole."""
        return self._specified(self._wanted(), self.store)

    def finish(self) -> tuple[Specification, dict[str, Weights]]:
        """The finished graph as a network runs it, and its weights: neighbours have taken over what they do as well."""
        nodes, store = absorb(self._wanted(), self.outputs, self.values, self.store)
        return self._specified(nodes, store), store

    def _wanted(self) -> list[Node]:
        if not self.outputs:
            raise CgruError("the graph has no outputs; name them with g.output(…)")
        return narrow_joins(absorb_padding(self.nodes, self.outputs))

    def _specified(self, nodes: Sequence[Node], store: Mapping[str, Weights]) -> Specification:
        shapes = {key: weights.shapes for key, weights in store.items()}
        return Specification(self.inputs, nodes, self.outputs, shapes=shapes)
