"""A model over any graph: named inputs and outputs, branches, changed rates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from .. import arrays
from ..arrays import Float32
from ..builder import Graph as Builder
from ..errors import CgruError, ShapeError, UnsupportedError
from ..layers.base import Layer
from ..spec.graph import MASK, Graph, Node, refuse_unstreamable
from ..spec.operations.attention import check_memory_frames
from ..spec.precision import check as check_precision
from ..threads import resolve as resolve_threads
from ..weights import Store, Weights
from . import backends
from .fingerprint import graph_fingerprint
from .given_once import frames_given, lengths_as_masks
from .interpreter import Interpreter
from .model import Model, check_receives
from .state import State, StateLayout

if TYPE_CHECKING:
    from .graph_pool import GraphPool


class Runner(Protocol):
    """A graph made ready by a backend; shared between threads."""

    def run(
        self,
        inputs: Mapping[str, np.ndarray],
        state: Float32,
        lengths: np.ndarray | None = None,
        *,
        ended: bool = True,
        threads: int = 1,
    ) -> dict[str, np.ndarray]:
        """See :meth:`cgru.engine.interpreter.Interpreter.run`."""
        ...


class Part(Layer):
    """The nodes that came of one layer, as ``print(net)`` and ``quantize`` know them."""

    kind = "part"

    def __init__(self, name: str, nodes: Sequence[Node], graph: Graph, store: Store) -> None:
        self.name, self.nodes = name, tuple(nodes)
        self.weights = {node.weights: store[node.weights] for node in nodes if node.weights}
        main = next((node for node in nodes if node.weights), nodes[-1])
        self._text = graph.operations[main.name].describe(
            main.options, graph.input_values(main), graph.values[main.name]
        )
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


class GraphModel(Model):
    """A trained network as a graph. Made by ``cgru.Model(g)`` of a :class:`cgru.Graph`, or of a file that holds one.

    With one input it is called as ``net(x)``, with several as ``net({"a": a, "b": b})``; with several outputs it gives
    a mapping by name.
    """

    def __init__(self, given: Builder | tuple[Graph, Store], *, backend: str | None = None) -> None:
        graph, store = (given.build(), given.store) if isinstance(given, Builder) else given
        self.graph, self.store = graph, dict(store)
        groups: dict[str, list[Node]] = {}
        for node in graph.nodes:
            groups.setdefault(node.layer, []).append(node)
        self.layers = tuple(Part(name, nodes, graph, self.store) for name, nodes in groups.items())
        self._layout = StateLayout(graph, lambda: graph_fingerprint(graph, self.store))
        self._backend = backends.choose(backend)
        self.report = None
        self.notes = tuple(given.notes) if isinstance(given, Builder) else ()
        self._runners: dict[str, Runner] = {}
        self.backends = [self._resolved(self._backend)] * len(self.layers)
        self._given = [name for name in graph.inputs if name not in graph.optional]
        first = graph.inputs[self._given[0]] if self._given else None
        self.input_size = (self.vocabulary_of(self._given[0]) or first.size) if first is not None else 0
        self.output_size = sum(graph.values[name].size for name in graph.outputs)

    def __deepcopy__(self, memo: Any) -> GraphModel:
        """Another Model on the same weights, which are immutable."""
        twin = GraphModel((self.graph, self.store), backend=self._backend)
        twin.report, twin.notes = self.report, self.notes
        return twin

    # ---- what it is -------------------------------------------------------------------------------------------

    @property
    def nbytes(self) -> int:
        return sum(weights.nbytes for weights in self.store.values())

    @property
    def parameters(self) -> int:
        return sum(weights.parameters for weights in self.store.values())

    @property
    def precision(self) -> str:
        found = dict.fromkeys(weights.precision for weights in self.store.values() if weights.matrices)
        return ", ".join(found) or "float32"

    @property
    def gives_last(self) -> bool:
        return all(self.graph.values[name].clock is None for name in self.graph.outputs)

    @property
    def takes_ids(self) -> bool:
        return bool(self._given) and self.graph.inputs[self._given[0]].dtype == "int64"

    def vocabulary_of(self, name: str) -> int:
        """How many ids an input has: the smallest table that it is looked up in; 0 for features."""
        sizes = [n.options["vocabulary"] for n in self.graph.nodes if n.op == "embedding" and n.inputs[0] == name]
        return min(sizes, default=0)

    # ---- running ----------------------------------------------------------------------------------------------

    def run(
        self,
        x: Any,
        state: State | Mapping[str, Any] | None = None,
        lengths: Any = None,
        mask: Any = None,
        out: Float32 | None = None,
        threads: int | str | None = None,
        backend: str | None = None,
    ) -> tuple[Any, State]:
        count = resolve_threads(threads)
        inputs, single, batch, steps = self._inputs(x)
        self._masks(inputs, mask, batch, steps)
        rows = arrays.lengths(lengths, batch, steps) if steps is not None else None
        advanced = self._state(state, batch)
        made = self._runner(backend).run(inputs, advanced._data, rows, threads=count)
        result = self._given_back(made, single)
        if out is not None:
            if isinstance(result, dict):
                raise UnsupportedError("out: the network yields several arrays; leave out= away")
            check_receives(out, result.shape)
            out[...] = result
            result = out
        return result, advanced

    def gates(
        self, x: Any, lengths: Any = None, mask: Any = None, state: State | Mapping[str, Any] | None = None
    ) -> dict[str, dict[str, Float32]]:
        inputs, single, batch, steps = self._inputs(x)
        self._masks(inputs, mask, batch, steps)
        if lengths is not None:
            raise UnsupportedError("lengths: gates() of a graph takes whole sequences; give rows one by one")
        record: dict[str, dict[str, Float32]] = {}
        advanced = self._state(state, batch)
        Interpreter(self.graph, self.store, self._layout, record).run(inputs, advanced._data)
        if single:
            return {name: {gate: values[0] for gate, values in found.items()} for name, found in record.items()}
        return record

    @property
    def input_names(self) -> list[str]:
        """The inputs a call must bring, in order."""
        return self._given

    @cached_property
    def steps_in_core(self) -> bool:
        """Whether single steps go straight to the core: one input, and a frame of every output for each step."""
        from .backends.packed_graph import PackedRunner

        graph, runner = self.graph, self._runner(None)
        values = [graph.values[name] for name in graph.outputs]
        return (
            isinstance(runner, PackedRunner)
            and self._layout.timing.steady
            and len(self._given) == 1
            and not graph.static_inputs
            and runner.plain == list(graph.outputs)
            and len(graph.inputs) <= 8
            and len(values) <= 16
            and all(value.clock is not None and value.dtype == "float32" for value in values)
            and all(len(value.features) == 1 for value in (*values, *graph.inputs.values()) if value.dtype == "float32")
        )

    def _split(self, y: Float32) -> dict[str, Float32]:
        """Outputs that came as one array, by name."""
        made, start = {}, 0
        for name in self.graph.outputs:
            end = start + self.graph.values[name].size
            made[name] = y[..., start:end]
            start = end
        return made

    def stream(
        self,
        batch: int = 1,
        state: State | Mapping[str, Any] | None = None,
        inputs: Mapping[str, Any] | None = None,
    ) -> Any:
        from .given_stream import GivenStream, refuse_inputs
        from .graph_stream import GraphStream

        refuse_unstreamable(self.graph)
        rows = arrays.positive(batch, "batch")
        if inputs is not None and self.graph.static_inputs:
            return GivenStream(self, rows, state, inputs)
        refuse_inputs(inputs)
        if not self.steps_in_core:
            return GraphStream(self, rows, state)
        from .backends.steppers import PackedGraphStream, SplitGraphStream

        return (PackedGraphStream if len(self.graph.outputs) == 1 else SplitGraphStream)(self, rows, state)

    def pool(self, capacity: int) -> GraphPool:
        from .graph_pool import open_pool

        return open_pool(self, capacity)

    def _runner(self, backend: str | None) -> Runner:
        wanted = self._backend if backend is None else backends.checked(backend)
        if wanted not in self._runners:  # two threads may both come here, and then agree on one
            self._runners.setdefault(wanted, self._compiled_for(self._resolved(wanted)))
        return self._runners[wanted]

    def _resolved(self, wanted: str) -> str:
        """The backend that runs the graph: the one asked for, where it has all of the graph's operations."""
        if wanted not in ("auto", "packed"):
            return "reference"
        from .backends import packed_graph

        if reason := backends.backend("packed").unavailable():
            if wanted == "packed":
                raise UnsupportedError(f"backend={wanted!r} cannot run here: {reason}")
            return "reference"
        return "reference" if packed_graph.unsupported(self.graph) else "packed"

    def _compiled_for(self, backend: str) -> Runner:
        if backend == "reference":
            return Interpreter(self.graph, self.store, self._layout)
        from .backends.packed_graph import PackedRunner

        return PackedRunner(self.graph, self.store, self._layout)

    def _inputs(self, x: Any) -> tuple[dict[str, np.ndarray], bool, int, int | None]:
        """The inputs as arrays (B, T, …), whether without a batch axis, B and T (None without a timed input)."""
        names = self._given
        if not isinstance(x, Mapping):
            if len(names) != 1:
                raise CgruError(f"x: the network takes {len(names)} inputs, pass a mapping with {', '.join(names)}")
            x = {names[0]: x}
        x, masks = self._taken_apart(x)
        for name in x:
            if name not in names:
                raise CgruError(f"x: the network has no input {str(name)[:60]!r}; it takes {', '.join(names)}")
        made, singles = {}, set()
        for name in names:
            if name not in x:
                raise CgruError(f"x: the input {name!r} is missing; the network takes {', '.join(names)}")
            made[name], single = self._input_array(name, x[name], "x" if len(names) == 1 else f"x[{name!r}]")
            singles.add(single)
        if len(singles) > 1:
            raise ShapeError("x: some inputs have a batch axis and some have none")
        shapes = {name: made[name].shape for name in names}
        batches = {shape[0] for shape in shapes.values()}
        if len(batches) > 1:
            raise ShapeError(f"x: the inputs differ in rows: {', '.join(f'{n} {s}' for n, s in shapes.items())}")
        steps = {made[name].shape[1] for name in self.graph.timed_inputs}
        if len(steps) > 1:
            raise ShapeError(f"x: the inputs differ in steps: {', '.join(f'{n} {s}' for n, s in shapes.items())}")
        single, batch = singles == {True}, batches.pop() if batches else 1
        for name, mask in masks.items():
            checked = arrays.mask(mask, batch, made[name.removesuffix(MASK)].shape[1])
            assert checked is not None
            made[name] = checked
        check_memory_frames(self.graph, frames_given(self.graph, made))
        return made, single, batch, steps.pop() if steps else None

    def _taken_apart(self, x: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """The inputs of a call, and the masks of its memories, by lengths or as they are."""
        given = lengths_as_masks(self.graph, x)
        held = {name for name in self.graph.static_inputs if name in self.graph.optional and name in given}
        return {name: array for name, array in given.items() if name not in held}, {name: given[name] for name in held}

    def _input_array(self, name: str, given: Any, where: str) -> tuple[np.ndarray, bool]:
        value = self.graph.inputs[name]
        axes = len(value.features) + (value.clock is not None)
        shape = value.describe()
        if value.dtype == "int64":
            tokens = arrays.ids(given, where, self.vocabulary_of(name) or 1 << 31)
            return (tokens[None], True) if tokens.ndim == axes else (tokens, False)
        array = arrays.float32(given, where, (axes, axes + 1))
        if array.shape[array.ndim - len(value.features) :] != value.features:
            raise ShapeError(f"{where}: the network takes {shape}, found shape {array.shape}")
        return (array[None], True) if array.ndim == axes else (array, False)

    def _masks(self, inputs: dict[str, np.ndarray], mask: Any, batch: int, steps: int | None) -> None:
        if mask is None:
            return
        given = mask if isinstance(mask, Mapping) else {self._given[0]: mask}
        for name, value in given.items():
            if f"{name}{MASK}" not in self.graph.optional:
                raise UnsupportedError(f"mask: nothing in the network looks at a mask of its input {str(name)[:60]!r}")
            checked = arrays.mask(value, batch, steps or 0)
            assert checked is not None
            inputs[f"{name}{MASK}"] = checked

    def _given_back(self, made: Mapping[str, np.ndarray], single: bool) -> Any:
        """The outputs as a caller gets them: one array, or a mapping by name."""
        shown = {name: array[0] if single else array for name, array in made.items()}
        return shown[self.graph.outputs[0]] if len(self.graph.outputs) == 1 else shown

    # ---- precision ---------------------------------------------------------------------------------------------

    def quantize(
        self,
        precision: str | Mapping[str, str] = "int8",
        layers: Mapping[str, str] | None = None,
        *,
        sample: Any = None,
    ) -> Model:
        wanted = self._precisions(precision, layers)
        store: dict[str, Weights] = dict(self.store)
        for layer in self.layers:
            asked = check_precision(wanted[layer.name])
            if asked != layer.precision and not layer.reducible:
                raise CgruError(f"{layer.name}: {layer.title} has no weights to hold as {asked}")
            for key, part in layer.weights.items():
                if part.matrices:
                    store[key] = part.reduced(asked, key)
        made = GraphModel((self.graph, store), backend=self._backend)
        made.noting(*self.notes)
        if sample is not None:
            from ..reports.comparison import verify

            made.report = verify(self, made, sample)
        return made
