"""A network ready to run: immutable, shared between threads; the caller owns all state."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from ..arrays import Float32
from ..builder import Graph
from ..errors import CgruError, ShapeError, UnsupportedError
from ..html_tables import table
from ..layers import Layer
from ..spec.graph import Graph as Specification
from ..spec.precision import check as check_precision
from ..threads import resolve as resolve_threads
from . import backends
from .inputs import Given, Inputs
from .network import Network, network_of
from .plan import Plan
from .state import State, StateLayout

_HEADER = ("layer", "kind", "sizes", "parameters", "precision", "backend")

#: Outputs that a plan in C takes: fewer than its limit of 64.
_VALUES_AT_ONCE = 32

if TYPE_CHECKING:
    from ..reports.comparison import Comparison
    from .entries import Entries
    from .pool import Pool
    from .stream import Stream


class Model:
    """A trained network: layers in the order data passes them, a :class:`cgru.Graph` of any form, or several by name.

    ``input_size`` is the number of features wanted at each step (the vocabulary where the network begins with an
    embedding), ``output_size`` the number it gives; 0 where any number will do. With one input a network is called as
    ``net(x)``, with several as ``net({"a": a, "b": b})``; with several outputs a graph gives a mapping by name.
    ``Model({"encode": g1, "decode": g2})`` has entries: ``net["encode"]`` and ``net["decode"]`` are models of their own
    over one set of weights, in one file. ``backend`` is "auto", "packed", "blas" or "reference", settled here and now.
    Raises :class:`ShapeError` where one layer's output does not fit the next one's input, and
    :class:`UnsupportedError` for an order of layers that cannot run.
    """

    def __new__(
        cls, layers: Sequence[Layer] | Graph | Mapping[str, Graph] | Network, *, backend: str | None = None
    ) -> Model:
        if isinstance(layers, Mapping):
            from .entries import Entries

            return object.__new__(Entries)
        return object.__new__(cls)

    def __init__(
        self, layers: Sequence[Layer] | Graph | Mapping[str, Graph] | Network, *, backend: str | None = None
    ) -> None:
        network = self._network = network_of(layers)
        self.graph, self.store = network.graph, network.store
        #: The layers of a chain; of any other graph the parts by which its nodes are known.
        self.layers: tuple[Layer, ...] = network.layers
        self._layout = StateLayout(network.graph, network.fingerprint)
        self._inputs = Inputs(network)
        self._backend = backends.choose(backend)
        #: For each layer, the backend that runs it.
        self.backends: list[str] = backends.backend(backends.resolve(network, self._backend)).names(network)
        #: What :meth:`quantize` found on its sample; None where there was none. Not saved.
        self.report: Comparison | None = None
        #: What was taken for granted when the network was made, and what was verified: sentences, for ``print``.
        self.notes: tuple[str, ...] = tuple(layers.notes) if isinstance(layers, Graph) else ()
        self.input_size, self.output_size = 0, 0
        if not network.open_width:
            first = next(iter(self._inputs.all), None)
            self.input_size = (first.vocabulary or first.value.size) if first is not None else 0
            self.output_size = sum(self.graph.values[name].size for name in self.graph.outputs)
        #: The plans made so far by what was asked for, each with the number of features it is for (0: the network's).
        self._plans: dict[str, tuple[int, Plan]] = {}
        #: The network's own plan, once made, where that does not depend on what comes in.
        self._settled: Plan | None = None

    # ---- what it is -------------------------------------------------------------------------------------

    @property
    def is_chain(self) -> bool:
        """Whether it was made of a list of layers, each of which reads the one before."""
        return self._network.chain

    @property
    def parameters(self) -> int:
        """How many numbers the weights are."""
        return sum(weights.parameters for weights in self.store.values())

    @property
    def nbytes(self) -> int:
        """Bytes of weights held in memory, padding included."""
        return sum(weights.nbytes for weights in self.store.values())

    @property
    def precision(self) -> str:
        """What the weights are held in: one precision, or several with commas between."""
        found = dict.fromkeys(layer.precision for layer in self.layers if layer.reducible)
        return ", ".join(found) or "float32"

    @property
    def gives_last(self) -> bool:
        """Whether the result is one output a sequence, the last, rather than one a step."""
        return all(self.graph.values[name].clock is None for name in self.graph.outputs)

    @property
    def takes_ids(self) -> bool:
        """Whether its first input is token ids, int64 (B, T), rather than features (B, T, I)."""
        return self._network.takes_ids

    @property
    def input_names(self) -> list[str]:
        """The inputs a call must bring, in order."""
        return self._inputs.names

    def vocabulary_of(self, name: str) -> int:
        """How many ids an input has: the smallest table that it is looked up in; 0 for features."""
        return self._inputs.of(name).vocabulary

    def __str__(self) -> str:
        rows = self._rows()
        widths = [max(len(row[i]) for row in (_HEADER, *rows)) for i in range(len(_HEADER))]
        lines = ["  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip()
                 for row in (_HEADER, *rows)]
        rule = "-" * len(lines[0])
        return "\n".join((lines[0], rule, *lines[1:], rule, self._total(), *self.notes))

    def _repr_html_(self) -> str:
        """What ``print`` shows, as a table for notebooks."""
        return table(_HEADER, self._rows(), self._total(), *self.notes)

    def _rows(self) -> list[tuple[str, ...]]:
        return [
            (
                layer.name,
                layer.title,
                layer.describe(),
                f"{layer.parameters:,}",
                layer.precision if layer.reducible else "",
                backend,
            )
            for layer, backend in zip(self.layers, self.backends, strict=True)
        ]

    def _total(self) -> str:
        return f"{self.parameters:,} parameters, {self.nbytes:,} bytes, {self.precision}"

    def __getitem__(self, name: str) -> Model:
        """An entry of a network that has several, by its name; of one graph there is none."""
        raise CgruError(f"the network has no entries, so none named {str(name)[:60]!r}; it runs as it is: net(x)")

    def __copy__(self) -> Model:
        return self.__deepcopy__({})

    def __deepcopy__(self, memo: Any) -> Model:
        """Another Model on the same weights, which are immutable: no second copy of them."""
        twin = Model(self._network, backend=self._backend)
        twin.report, twin.notes = self.report, self.notes
        return twin

    def __reduce__(self) -> tuple[Any, ...]:
        from ..formats.readers import native

        return _model_from, (native.to_bytes(self), self._backend, self.report)

    def __repr__(self) -> str:
        return f"<cgru.Model {' → '.join(layer.name for layer in self.layers)}, {self.parameters:,} parameters>"

    def noting(self, *notes: str) -> Self:
        """This network, just made, saying so in :attr:`notes`."""
        self.notes = (*self.notes, *notes)
        return self

    # ---- running ----------------------------------------------------------------------------------------

    def __call__(
        self,
        x: Any,
        lengths: Any = None,
        mask: Any = None,
        *,
        threads: int | str | None = None,
        backend: str | None = None,
    ) -> Any:
        """Whole sequences from a zero state: (B, T, I) → (B, T, O), or (T, I) → (T, O). See :meth:`run`."""
        given = self._inputs.admit(x)
        return self._run(given, self._layout.zeros(given.batch), lengths, mask, None, threads, backend)

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
        """Run sequences from ``state`` (zero where None) and return the outputs and the new state.

        ``x`` is (B, T, I) or (T, I) of real numbers, or ids (B, T) or (T,) where the network begins with an
        embedding; a mapping by name where it takes several inputs. ``lengths`` (B,) and ``mask`` (B, T) say which steps
        count (torch's and Keras' meanings). ``out`` receives the outputs if given: float32 of their exact shape.
        Nothing else is written to. Where a signal's handler raises during the call, as Ctrl-C's does, what ``out`` then
        holds is undefined.

        Raises :class:`ShapeError` or :class:`CgruError` before anything runs.
        """
        given = self._inputs.admit(x)
        advanced = self._state(state, given.batch)
        return self._run(given, advanced._data, lengths, mask, out, threads, backend), advanced

    def _run(
        self,
        given: Given,
        state: Float32,
        lengths: Any,
        mask: Any,
        out: Float32 | None,
        threads: int | str | None,
        backend: str | None,
    ) -> Any:
        """:meth:`run` on inputs that are checked, and the rows of a state, which are advanced in place."""
        count = resolve_threads(threads)
        if mask is not None:
            self._inputs.add_masks(given, mask)
        rows = None if lengths is None else self._inputs.lengths(given, lengths)
        plan = self._plan_for(given.arrays, backend)
        if out is None:
            return self._shown(plan.run(given.arrays, state, rows, threads=count), given.single)
        room = self._room(out, plan, given)
        (y,) = plan.run(given.arrays, state, rows, threads=count, out=room).values()
        if y is not room:
            room[...] = y
        return out

    def _room(self, out: Any, plan: Plan, given: Given) -> Float32:
        """``out`` with a batch axis, if it can receive the only output."""
        graph = plan.graph
        if len(graph.outputs) > 1:
            why = " (merge_mode=None)" if self.is_chain else ""
            raise UnsupportedError(f"out: the network yields several arrays{why}; leave out= away")
        value = graph.values[graph.outputs[0]]
        shape: tuple[int, ...] = value.features
        if value.clock is not None:
            first = given.arrays.get(value.clock.root)
            steps = (given.steps or 0) if first is None else first.shape[1]
            shape = (value.clock.count(steps), *shape)
        shape = shape if given.single else (given.batch, *shape)
        check_receives(out, shape)
        return out[None] if given.single else out

    def _shown(self, made: Mapping[str, np.ndarray], single: bool) -> Any:
        """Outputs as a caller gets them: one array, a mapping by name, or a chain's pair of directions."""
        if len(made) == 1:
            for y in made.values():
                return y[0] if single else y
        shown = {name: array[0] if single else array for name, array in made.items()}
        return tuple(shown.values()) if self.is_chain else shown

    def top_k(self, x: Any, k: int, lengths: Any = None) -> tuple[Float32, np.ndarray]:
        """The ``k`` largest outputs at every step, best first, and which they are: (B, T, k) float32 and int64.

        For an output layer over a great many items: scores and choice are worked out together a block of items at a
        time, so that memory holds the best alone, and they are exactly those of the whole. The network must end in a
        dense layer without an activation; of equals the earlier item comes first. ``x`` and ``lengths`` are as for
        calling it. Raises :class:`CgruError` where k is more than the items.
        """
        from .top_k import top_k

        return top_k(self, x, k, lengths)

    def gates(
        self, x: Any, lengths: Any = None, mask: Any = None, state: State | Mapping[str, Any] | None = None
    ) -> dict[str, dict[str, Float32]]:
        """What every gate of every recurrent layer did: ``"gru.l0"``, ``"gru.l0.reverse"``, … → gate → (B, T, H).

        The gates are the cell's own (a GRU has r, z and n), with the new state ``h`` and, for every cell, ``z``, the
        fraction of the old state that was kept. Stacks are numbered by layer. Without a batch axis in ``x`` there is
        none in the result. At a step that does not count z is 1, the state holds and the other gates are 0.

        A pass of its own in the reference's float64, slow, so that running a network costs nothing for it.
        """
        from .gates import record_gates

        given = self._inputs.admit(x)
        self._inputs.add_masks(given, mask)
        rows = self._inputs.lengths(given, lengths)
        graph = self._graph_for(given.arrays)
        data = self._state(state, given.batch)._data
        record = record_gates(graph, self.store, self._layout, given, data, rows)
        if given.single:
            return {name: {gate: values[0] for gate, values in found.items()} for name, found in record.items()}
        return record

    def state(self, arrays_by_name: Mapping[str, Any] | None = None, *, batch: int = 1) -> State:
        """A state for ``batch`` rows: zero, or from arrays named and shaped as :meth:`State.arrays` gives them."""
        return State.from_arrays(self._layout, {} if arrays_by_name is None else arrays_by_name, batch)

    def stream(
        self,
        batch: int = 1,
        state: State | Mapping[str, Any] | None = None,
        inputs: Mapping[str, Any] | None = None,
    ) -> Stream:
        """A stream of ``batch`` rows, in a copy of ``state``, as :meth:`run` takes it, or in the zero state.

        ``inputs`` are those that are given once, for all its steps: ``{"memory": m, "memory_lengths": n}``, arrays
        (B, S, F) or (B, F). :class:`UnsupportedError` where a layer cannot stream.
        """
        from .stream import open_stream

        return open_stream(self, batch, state, inputs)

    def pool(self, capacity: int) -> Pool:
        """Room for ``capacity`` independent streams. :class:`UnsupportedError` where a layer cannot stream."""
        from .pool import open_pool

        return open_pool(self, capacity)

    def encoder_decoder(self) -> Entries:
        """The network as the entries "encode" and "decode", as :func:`cgru.greedy` and :func:`cgru.beam` take it.

        For a network of source and target as it is trained, whose decoder is shown the token before at every step: what
        the source alone decides becomes the encoder, the rest the decoder. Both together give the bits of the whole.
        The weights are shared. :class:`UnsupportedError` where no input has a time axis of its own, or several have.
        """
        from .encoder_decoder import encoder_decoder
        from .entries import Entries

        made = Entries(encoder_decoder(self.graph, self.store), backend=self._backend)
        return made.noting(*self.notes)

    def _fingerprint(self) -> bytes:
        return self._layout.fingerprint()

    def _plan(self, backend: str | None, width: int = 0) -> Plan:
        """The plan for a backend, the network's own where None, made at first use; ``width`` where that is open."""
        wanted = self._backend if backend is None else backends.checked(backend)
        found = self._plans.get(wanted)
        if found is None or found[0] != width:  # two threads may both come here, and then each has one that runs
            engine = backends.backend(backends.resolve(self._network, wanted))
            graph = self._network.at_width(width) if width else self.graph
            found = self._plans[wanted] = (width, engine.plan(self._network, graph, self._layout))
            if backend is None and not self._network.open_width:
                self._settled = found[1]
        return found[1]

    def _plan_for(self, inputs: Mapping[str, np.ndarray], backend: str | None = None) -> Plan:
        if backend is None and self._settled is not None:
            return self._settled
        return self._plan(backend, self._width(inputs) if self._network.open_width else 0)

    def _graph_for(self, inputs: Mapping[str, np.ndarray]) -> Any:
        return self._network.at_width(self._width(inputs)) if self._network.open_width else self.graph

    def _width(self, inputs: Mapping[str, np.ndarray]) -> int:
        return inputs[self._inputs.names[0]].shape[-1]

    @property
    def _steps_in_core(self) -> bool:
        """Whether streams and pools hand single steps straight to the core."""
        return not self._network.open_width and self._plan(None).core is not None

    def _values(
        self, names: Sequence[str], given: Given, lengths: Any, threads: int
    ) -> dict[str, np.ndarray]:
        """Values inside the network by name, of sequences from a zero state, on the network's backend."""
        rows, graph = self._inputs.lengths(given, lengths), self._graph_for(given.arrays)
        made: dict[str, np.ndarray] = {}
        features = [name for name in names if graph.values[name].dtype == "float32"]
        masks = [name for name in names if name not in features]
        parts = [(features[i : i + _VALUES_AT_ONCE], self._backend) for i in range(0, len(features), _VALUES_AT_ONCE)]
        for some, backend in (*parts, *([(masks, "reference")] if masks else ())):
            probe = Network(Specification(graph.inputs, graph.nodes, some), self.store, self.layers)
            engine = backends.backend(backends.resolve(probe, backend))
            plan, state = engine.plan(probe, probe.graph, self._layout), self._layout.zeros(given.batch)
            made |= plan.run(given.arrays, state, rows, threads=threads)
        return made

    def _split(self, y: Float32) -> dict[str, Float32]:
        """Outputs that came as one array, by name."""
        made, start = {}, 0
        for name in self.graph.outputs:
            end = start + self.graph.values[name].size
            made[name] = y[..., start:end]
            start = end
        return made

    def _state(self, state: State | Mapping[str, Any] | None, batch: int) -> State:
        if state is None:
            return State._of(self._layout, self._layout.zeros(batch))
        if not isinstance(state, State):
            if not isinstance(state, Mapping):
                raise CgruError(
                    f"state: expected a cgru.State or a mapping from name to array, found {type(state).__name__}"
                )
            return State.from_arrays(self._layout, state, batch)
        if not self._layout.fits(state.layout):
            mine = State._of(self._layout, self._layout.zeros(batch))
            raise CgruError(
                f"state: it belongs to another network (other layers, sizes or weights); this one carries {mine}, "
                f"found {state}; to take its numbers over all the same, pass state.arrays()"
            )
        if state.batch != batch:
            raise ShapeError(f"state: expected {batch} rows, as x has, found {state.batch}")
        return state.copy()

    # ---- precision --------------------------------------------------------------------------------------

    def quantize(
        self,
        precision: str | Mapping[str, str] = "int8",
        layers: Mapping[str, str] | None = None,
        *,
        sample: Any = None,
    ) -> Model:
        """The network with its matrices in reduced precision: a new Model; this one stays as it is.

        ``precision`` is "int8", "int8x16", "bf16" or "fp16" for every layer that has a matrix, and ``layers`` gives
        single layers another one by name; or it is such a mapping itself, ``{"gru": "int8", "head": "float32"}``,
        and the layers not named stay as they are. Biases, gates and states are float32 always. ``int8`` rounds the
        activations to 8 bits as well, ``int8x16`` to 16 bits: slower, and as exact as the weights allow.

        With a ``sample``, an ``x`` as for calling the network, the two are compared on it: the result's ``report`` is
        the :class:`~cgru.reports.comparison.Comparison`, and a :class:`~cgru.CgruWarning` says so where the reduced
        network is slower than this one on this machine with input of that shape.

        Raises :class:`CgruError` for a name or precision that is unknown, weights that the precision cannot hold, and
        a layer that is in another reduced precision already.
        """
        wanted = self._precisions(precision, layers)
        reduced = [layer.quantized(wanted[layer.name]) for layer in self.layers]
        made = Model(self._network.with_layers(reduced), backend=self._backend).noting(*self.notes)
        if sample is not None:
            from ..reports.comparison import verify

            made.report = verify(self, made, sample)
        return made

    def _precisions(self, precision: str | Mapping[str, str], layers: Mapping[str, str] | None) -> dict[str, str]:
        """The precision asked for of every layer by its name."""
        named: dict[str, str] = {}
        found = {layer.name: layer.precision for layer in self.layers}
        if isinstance(precision, Mapping):
            named.update(precision)
        else:
            check_precision(precision)
            found.update({layer.name: precision for layer in self.layers if layer.reducible})
        if not isinstance(layers, Mapping | None):
            raise CgruError(f"layers: expected a mapping from name to precision, found {type(layers).__name__}")
        named.update(layers or {})
        for name, value in named.items():
            if name not in found:
                raise CgruError(f"layers: no layer is named {name!r}; there are {', '.join(found)}")
            found[name] = check_precision(value, f"layers: {name}")
        return found

    # ---- files ------------------------------------------------------------------------------------------

    def save(self, path: Any) -> None:
        """Write the native form: a safetensors file with the specification in its metadata (docs/format.md).

        A name that ends in ``.onnx`` gets an ONNX file instead, for other libraries: float32, sequences from a zero
        state. :class:`UnsupportedError` names the layer that cannot be said in ONNX.
        """
        if isinstance(path, (str, os.PathLike)) and str(path).endswith(".onnx"):
            self._save_onnx(path)
            return
        from ..formats.readers import native

        native.save(self, path)

    def _save_onnx(self, path: Any) -> None:
        from ..formats.writers import onnx

        onnx.save(self, path)


def _model_from(saved: bytes, backend: str, report: Comparison | None) -> Model:
    """A network from what it is pickled as: its native form, and the backend it was asked to run on."""
    from ..formats.readers import native

    net = Model(native.load(saved), backend=backend)
    net.report = report
    return net


def check_receives(out: Any, shape: tuple[int, ...]) -> None:
    """Raise :class:`ShapeError` unless ``out`` is a float32 array of just that shape that can be written to."""
    if isinstance(out, np.ndarray) and hasattr(out, "mask"):
        raise ShapeError("out: it is a masked array, whose mask would hide results; pass its .data")
    if not isinstance(out, np.ndarray) or out.dtype != np.float32 or out.shape != shape:
        found = f"{out.dtype} of shape {out.shape}" if isinstance(out, np.ndarray) else type(out).__name__
        raise ShapeError(f"out: expected a float32 array of shape {shape}, found {found}")
    if not out.flags.writeable:
        raise ShapeError("out: expected an array that can be written to, found a read-only one")
