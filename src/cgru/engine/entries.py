"""A network of several named graphs over one weight store: an encoder beside its decoder."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NoReturn

from ..builder import Graph as Builder
from ..errors import CgruError, UnsupportedError
from ..spec.graph import Graph
from ..spec.precision import check as check_precision
from ..weights import Weights
from . import backends
from .model import Model
from .network import Network

#: What a model of one graph has, and a network of several has not.
_OF_ONE_GRAPH = ("graph", "_inputs", "_layout", "_network")


class Entries(Model):
    """A trained network with several entries: ``net["encode"]`` and ``net["decode"]`` are models of their own.

    Made by ``cgru.Model({"encode": g1, "decode": g2})`` of :class:`cgru.Graph`s, or of a file that holds several. The
    entries share their weights: a layer that two graphs were built with is held, packed and saved once. What is done
    to a whole network (save, quantize, print, pickle) is done to all entries; what runs is an entry.
    """

    def __init__(self, layers: Mapping[str, Builder] | Mapping[str, Model], *, backend: str | None = None) -> None:
        self._backend = backends.choose(backend)
        store: dict[str, Weights] = {}
        self.entries: dict[str, Model] = {}
        for name, entry in _checked(layers).items():
            given, held = (entry.graph, entry.store) if isinstance(entry, Model) else entry.finish()
            graph, own = _into_store(name, given, held, store)
            self.entries[name] = Model(Network(graph, own), backend=self._backend).noting(*entry.notes)
        self.store = store
        self.layers = tuple(layer for model in self.entries.values() for layer in model.layers)
        self.backends = [name for model in self.entries.values() for name in model.backends]
        self.report = None
        self.notes = ()
        first = next(iter(self.entries.values()))
        self.input_size, self.output_size = first.input_size, first.output_size

    def __getitem__(self, name: str) -> Model:
        """The model of an entry, by name."""
        if not isinstance(name, str) or name not in self.entries:
            raise CgruError(f"the network has no entry {str(name)[:60]!r}; its entries are {', '.join(self.entries)}")
        return self.entries[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.entries)

    def __len__(self) -> int:
        return len(self.entries)

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and name in self.entries

    # ---- what it is -------------------------------------------------------------------------------------------

    @property
    def is_chain(self) -> bool:
        return False

    @property
    def precision(self) -> str:
        found = dict.fromkeys(weights.precision for weights in self.store.values() if weights.matrices)
        return ", ".join(found) or "float32"

    @property
    def takes_ids(self) -> bool:
        return next(iter(self.entries.values())).takes_ids

    @property
    def gives_last(self) -> bool:
        return all(model.gives_last for model in self.entries.values())

    def __str__(self) -> str:
        parts = [f"{name}: {_signature(model.graph)}\n{model}" for name, model in self.entries.items()]
        return "\n\n".join((*parts, "\n".join((f"{self._total()}, held once for all entries", *self.notes))))

    def _repr_html_(self) -> str:
        from html import escape

        parts = [f"<h4>{escape(name)}</h4>{model._repr_html_()}" for name, model in self.entries.items()]
        return "".join((*parts, *(f"<div>{escape(note)}</div>" for note in self.notes)))

    def __repr__(self) -> str:
        return f"<cgru.Model of the entries {', '.join(self.entries)}, {self.parameters:,} parameters>"

    def __deepcopy__(self, memo: Any) -> Entries:
        """Another Model on the same weights, which are immutable."""
        return self._of({name: model.__deepcopy__(memo) for name, model in self.entries.items()})

    def _of(self, models: Mapping[str, Model]) -> Entries:
        twin = Entries(models, backend=self._backend)
        twin.report, twin.notes = self.report, self.notes
        return twin

    # ---- what an entry does -----------------------------------------------------------------------------------

    def __getattr__(self, name: str) -> Any:
        """Whatever runs a network needs its one graph, which an entry has: so it is refused here, in every method."""
        if name not in _OF_ONE_GRAPH or "entries" not in vars(self):
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        first = next(iter(self.entries))
        raise CgruError(
            f"the network has the entries {', '.join(self.entries)}, and each runs by itself: net[{first!r}](x)"
        )

    def encoder_decoder(self) -> Entries:
        """Itself: it has its entries."""
        return self

    def _save_onnx(self, path: Any) -> NoReturn:
        raise UnsupportedError(
            f"{path}: an ONNX file holds one graph; save the entries one by one, net[{next(iter(self.entries))!r}]"
        )

    # ---- precision --------------------------------------------------------------------------------------------

    def quantize(
        self,
        precision: str | Mapping[str, str] = "int8",
        layers: Mapping[str, str] | None = None,
        *,
        sample: Any = None,
    ) -> Entries:
        """All entries with their matrices in reduced precision; ``layers`` names layers as ``"decode.gru"``.

        Weights that two entries share are reduced once, and must be asked for in one precision.
        """
        if sample is not None:
            raise CgruError("sample: a network of several entries is not compared; compare its entries")
        wanted = self._precisions(precision, layers)
        reduced: dict[str, Weights] = {}
        for name, model in self.entries.items():
            for layer in model.layers:
                asked = check_precision(wanted[f"{name}.{layer.name}"])
                if asked != layer.precision and not layer.reducible:
                    raise CgruError(f"{name}.{layer.name}: {layer.title} has no weights to hold as {asked}")
                for key, part in layer.weights.items():
                    if not part.matrices:
                        continue
                    made = reduced.setdefault(key, part.reduced(asked, key))
                    if made.precision != asked:
                        raise CgruError(
                            f"layers: {name}.{layer.name} shares its weights with a layer asked for in "
                            f"{made.precision}; ask for one precision of both"
                        )
        models = {}
        for name, model in self.entries.items():
            models[name] = Model(Network(model.graph, {**model.store, **_among(reduced, model)}), backend=self._backend)
            models[name].noting(*model.notes)
        return self._of(models)

    def _precisions(self, precision: str | Mapping[str, str], layers: Mapping[str, str] | None) -> dict[str, str]:
        made: dict[str, str] = {}
        for name, model in self.entries.items():
            start = f"{name}."

            def own(given: Any, start: str = start) -> Any:
                if not isinstance(given, Mapping):
                    return given
                return {str(k).removeprefix(start): v for k, v in given.items() if str(k).startswith(start)}

            found = model._precisions(own(precision), own(layers))
            made.update({start + layer: value for layer, value in found.items()})
        for given in (precision, layers):
            for key in given if isinstance(given, Mapping) else ():
                if key not in made:
                    raise CgruError(f"layers: no layer is named {str(key)[:60]!r}; there are {', '.join(made)}")
        return made


def _checked(given: Any) -> Mapping[str, Any]:
    """The entries as given, each with a name and a graph."""
    if not given:
        raise CgruError("a Model of entries needs at least one: {'encode': graph, 'decode': graph}")
    for name, entry in given.items():
        if not isinstance(name, str) or not name or "\0" in name:
            raise CgruError(f"entries: a name must be a text that is not empty, found {str(name)[:60]!r}")
        if not isinstance(entry, Builder | Model):
            raise CgruError(f"entries: {name[:60]!r} must be a cgru.Graph, found {type(entry).__name__}")
    return given


def _into_store(
    entry: str, graph: Graph, own: Mapping[str, Weights], store: dict[str, Weights]
) -> tuple[Graph, dict[str, Weights]]:
    """The graph with its weights under keys of the common store: one key for one set of arrays, whoever uses it."""
    known = {id(weights): key for key, weights in store.items()}
    keys: dict[str, str] = {}
    for key, weights in own.items():
        found = known.get(id(weights))
        if found is None:
            found = key
            while found in store:
                found = f"{entry}.{found}"
            store[found] = weights
        keys[key] = found
    nodes = [node._replace(weights=keys[node.weights]) if node.weights else node for node in graph.nodes]
    return Graph(graph.inputs, nodes, graph.outputs), {found: store[found] for found in keys.values()}


def _among(reduced: Mapping[str, Weights], model: Model) -> dict[str, Weights]:
    return {key: weights for key, weights in reduced.items() if key in model.store}


def _signature(graph: Graph) -> str:
    """The inputs and outputs of an entry, with their shapes."""
    left = ", ".join(f"{name} {value.describe()}" for name, value in graph.inputs.items() if name not in graph.optional)
    return f"{left} → {', '.join(f'{name} {graph.values[name].describe()}' for name in graph.outputs)}"
