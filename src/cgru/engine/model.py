"""A network ready to run: layers in order, immutable, shared between threads; the caller owns all state."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from .. import arrays
from ..arrays import Float32
from ..builder import Graph
from ..errors import ArgumentTypeError, CgruError, ShapeError, UnsupportedError
from ..layers import Embedding, LastStep, Layer, Recurrent
from ..spec.graph import Graph as Specification
from ..spec.precision import check as check_precision
from ..threads import resolve as resolve_threads
from . import backends
from .backends.flow import Flow
from .fingerprint import fingerprint
from .state import State, StateLayout

if TYPE_CHECKING:
    from ..reports.comparison import Comparison
    from .pool import Pool
    from .stream import Stream


class Model:
    """A trained network: the layers in the order data passes them, a :class:`cgru.Graph`, or several by name.

    ``Model({"encode": g1, "decode": g2})`` has entries: ``net["encode"]`` and ``net["decode"]`` are models of their own
    over one set of weights, in one file. ``input_size`` is the number of features wanted at each step (the vocabulary
    where the network begins with an embedding), ``output_size`` the number it gives; 0 where any number will do.
    ``backend`` is "auto", "packed", "blas" or "reference", settled per layer here and now. Raises
    :class:`ShapeError` where one layer's output does not fit the next one's input, and
    :class:`UnsupportedError` for an order of layers that cannot run.
    """

    def __new__(
        cls, layers: Sequence[Layer] | Graph | Mapping[str, Graph], *, backend: str | None = None
    ) -> Model:
        if isinstance(layers, Graph):
            from .graph_model import GraphModel

            return object.__new__(GraphModel)
        if isinstance(layers, Mapping):
            from .entries import Entries

            return object.__new__(Entries)
        return object.__new__(cls)

    def __init__(
        self, layers: Sequence[Layer] | Graph | Mapping[str, Graph], *, backend: str | None = None
    ) -> None:
        assert not isinstance(layers, Graph | Mapping)
        self.layers = _named_apart(layers)
        _check_chain(self.layers)
        self._layout = StateLayout(_chain(self.layers), lambda: fingerprint(self.layers))
        self._backend = backends.choose(backend)
        #: What :meth:`quantize` found on its sample; None where there was none. Not saved.
        self.report: Comparison | None = None
        #: What was taken for granted when the network was made, and what was verified: sentences, for ``print``.
        self.notes: tuple[str, ...] = ()
        self.input_size: int = next((layer.input_size for layer in self.layers if layer.input_size is not None), 0)
        self.output_size: int = next(
            (layer.output_size for layer in reversed(self.layers) if layer.output_size is not None), 0
        )
        self._compiled: dict[str, list[backends.Stage]] = {}
        stages, self.backends = backends.compile_stages(self.layers, self._layout, self._backend)
        self._compiled[self._backend] = stages

    # ---- what it is -------------------------------------------------------------------------------------

    @property
    def parameters(self) -> int:
        return sum(layer.parameters for layer in self.layers)

    @property
    def nbytes(self) -> int:
        """Bytes of weights held in memory, padding included."""
        return sum(layer.nbytes for layer in self.layers)

    @property
    def precision(self) -> str:
        """What the weights are held in: one precision, or several with commas between."""
        found = dict.fromkeys(layer.precision for layer in self.layers if layer.reducible)
        return ", ".join(found) or "float32"

    @property
    def gives_last(self) -> bool:
        """Whether the result is one output a sequence, the last, rather than one a step."""
        return any(_collapses(layer) for layer in self.layers)

    @property
    def takes_ids(self) -> bool:
        return self.layers[0].takes_ids

    def __str__(self) -> str:
        rows = [
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
        header = ("layer", "kind", "sizes", "parameters", "precision", "backend")
        widths = [max(len(row[i]) for row in (header, *rows)) for i in range(len(header))]
        lines = ["  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip()
                 for row in (header, *rows)]
        total = f"{self.parameters:,} parameters, {self.nbytes:,} bytes, {self.precision}"
        return "\n".join((lines[0], "-" * len(lines[0]), *lines[1:], "-" * len(lines[0]), total, *self.notes))

    def __getitem__(self, name: str) -> Model:
        """An entry of a network that has several, by its name; of one graph there is none."""
        raise CgruError(f"the network has no entries, so none named {str(name)[:60]!r}; it runs as it is: net(x)")

    def __copy__(self) -> Model:
        return self.__deepcopy__({})

    def __deepcopy__(self, memo: Any) -> Model:
        """Another Model on the same layers, which are immutable: no second copy of the weights."""
        twin = Model(self.layers, backend=self._backend)
        twin.report = self.report
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
        return self.run(x, lengths=lengths, mask=mask, threads=threads, backend=backend)[0]

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
        embedding. ``lengths`` (B,) and ``mask`` (B, T) say which steps count (torch's and Keras' meanings).
        ``out`` receives the outputs if given: float32 of their exact shape. Nothing else is written to.
        Where a signal's handler raises during the call, as Ctrl-C's does, what ``out`` then holds is undefined.

        Raises :class:`ShapeError` or :class:`CgruError` before anything runs.
        """
        x3, single = self._input(x)
        advanced = self._state(state, x3.shape[0])
        return self._advance(x3, single, advanced, lengths, mask, out, threads, backend), advanced

    def _advance(
        self,
        x: np.ndarray,
        single: bool,
        state: State,
        lengths: Any,
        mask: Any,
        out: Float32 | None,
        threads: int | str | None,
        backend: str | None,
    ) -> Any:
        """:meth:`run` on input that is checked, (B, T, …), and a state that is its own and advanced in place."""
        count = resolve_threads(threads)
        flow = self._flow(x, lengths, mask)
        room = None
        if out is not None:
            self._check_out(out, x, single)
            room = out[None] if single else out
        stages = self._stages(backend)
        for stage in stages:
            flow = stage.run(flow, state._data, count, room if stage is stages[-1] else None)
        if room is not None and flow.x is room:
            return out
        y = _finish(flow.x, x, single)
        if out is not None:
            out[...] = y
            return out
        return y

    def gates(
        self, x: Any, lengths: Any = None, mask: Any = None, state: State | Mapping[str, Any] | None = None
    ) -> dict[str, dict[str, Float32]]:
        """What every gate of every recurrent layer did: ``"gru.l0"``, ``"gru.l0.reverse"``, … → gate → (B, T, H).

        The gates are the cell's own (a GRU has r, z and n), with the new state ``h`` and, for every cell, ``z``, the
        fraction of the old state that was kept. Stacks are numbered by layer. Without a batch axis in ``x`` there is
        none in the result. At a step that does not count z is 1, the state holds and the other gates are 0.

        A pass of its own in the reference's float64, slow, so that running a network costs nothing for it.
        """
        from .backends import reference

        x3, single = self._input(x)
        flow = self._flow(x3, lengths, mask)
        advanced = self._state(state, x3.shape[0])
        record: dict[str, dict[str, Float32]] = {}
        for stage in reference.compile(self.layers, self._layout, record):
            flow = stage.run(flow, advanced._data, 1)
        if single:
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
        from .given_stream import refuse_inputs
        from .stream import open_stream

        refuse_inputs(inputs)
        return open_stream(self, batch, state)

    def pool(self, capacity: int) -> Pool:
        """Room for ``capacity`` independent streams. :class:`UnsupportedError` where a layer cannot stream."""
        from .pool import open_pool

        return open_pool(self, capacity)

    def _fingerprint(self) -> bytes:
        return self._layout.fingerprint()

    def _stages(self, backend: str | None) -> list[backends.Stage]:
        wanted = self._backend if backend is None else backends.checked(backend)
        stages = self._compiled.get(wanted)
        if stages is None:  # two threads may both come here, and then agree on the stages of one of them
            stages = backends.compile_stages(self.layers, self._layout, wanted)[0]
            stages = self._compiled.setdefault(wanted, stages)
        return stages

    def _flow(self, x: np.ndarray, lengths: Any, mask: Any) -> Flow:
        """What enters the first stage: checked input (B, T, …), and which steps count as the caller says it."""
        batch, steps = x.shape[:2]
        return Flow(x, arrays.lengths(lengths, batch, steps), arrays.mask(mask, batch, steps))

    def _input(self, x: Any) -> tuple[np.ndarray, bool]:
        first = self.layers[0]
        if isinstance(first, Embedding):
            tokens = arrays.ids(x, "x", first.vocabulary)
            return (tokens[None], True) if tokens.ndim == 1 else (tokens, False)
        array = arrays.float32(x, "x", (2, 3))
        if self.input_size and array.shape[-1] != self.input_size:
            raise ShapeError(
                f"x: the network takes {self.input_size} features at each step, found shape {array.shape} "
                f"with {array.shape[-1]}; x is (B, T, {self.input_size}) or (T, {self.input_size})"
            )
        return (array[None], True) if array.ndim == 2 else (array, False)

    def _state(self, state: State | Mapping[str, Any] | None, batch: int) -> State:
        if state is None:
            return State(self._layout, self._layout.zeros(batch))
        if not isinstance(state, State):
            if not isinstance(state, Mapping):
                raise CgruError(
                    f"state: expected a cgru.State or a mapping from name to array, found {type(state).__name__}"
                )
            return State.from_arrays(self._layout, state, batch)
        if not self._layout.fits(state.layout):
            mine = State(self._layout, self._layout.zeros(batch))
            raise CgruError(
                f"state: it belongs to another network (other layers, sizes or weights); this one carries {mine}, "
                f"found {state}; to take its numbers over all the same, pass state.arrays()"
            )
        if state.batch != batch:
            raise ShapeError(f"state: expected {batch} rows, as x has, found {state.batch}")
        return state.copy()

    def _check_out(self, out: Any, x: np.ndarray, single: bool) -> None:
        final = self.layers[-1]
        if isinstance(final, Recurrent) and final.bidirectional and final.merge_mode is None:
            raise UnsupportedError("out: the network yields several arrays (merge_mode=None); leave out= away")
        features = self.output_size or x.shape[-1]
        shape = (x.shape[0], features) if self.gives_last else (*x.shape[:2], features)
        shape = shape[1:] if single else shape
        check_receives(out, shape)

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
        made = Model([layer.quantized(wanted[layer.name]) for layer in self.layers], backend=self._backend)
        made.noting(*self.notes)
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
        if isinstance(path, (str, PurePath)) and str(path).endswith(".onnx"):
            from ..formats.writers import onnx

            onnx.save(self, path)
            return
        from ..formats.readers import native

        native.save(self, path)


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


def _finish(y: Any, x: np.ndarray, single: bool) -> Any:
    """What left the last stage as the caller's own float32 array (or a tuple of them), none of it ``x``."""
    if isinstance(y, tuple):
        return tuple(_finish(part, x, single) for part in y)
    if y is x or y.dtype != np.float32 or not (y.flags.c_contiguous and y.flags.owndata):
        with np.errstate(over="ignore"):
            y = np.ascontiguousarray(y, dtype=np.float32)
        if np.may_share_memory(y, x):
            y = y.copy()
    return y[0] if single else y


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


def _collapses(layer: Layer) -> bool:
    """Whether one output a sequence goes on, rather than one a step."""
    return isinstance(layer, LastStep) or (isinstance(layer, Recurrent) and not layer.return_sequences)


def _chain(layers: Sequence[Layer]) -> Specification:
    """The layers as a graph; where any number of features will do, of one."""
    g = Graph()
    first = next((layer.input_size for layer in layers if layer.input_size is not None), 1)
    x = g.input(dtype="int64") if layers[0].takes_ids else g.input(first)
    g.mask_of_input(x)
    y: Any = x
    for layer in layers:
        y = g.layer(layer, y)
    g.output(*(y if isinstance(y, tuple) else (y,)))
    return g.build()


def _check_chain(layers: Sequence[Layer]) -> None:
    """Every layer's input must be what the one before gives."""
    size: int | None = None
    before, collapsed = "", False
    for position, layer in enumerate(layers):
        if position and layer.takes_ids:
            raise UnsupportedError(f"{layer.name}: an embedding takes token ids and can only come first")
        if size is not None and layer.input_size is not None and layer.input_size != size:
            raise ShapeError(f"{layer.name} takes {layer.input_size} features, but {before} gives {size}")
        if isinstance(layer, (Recurrent, LastStep)) and collapsed:
            raise UnsupportedError(f"{layer.name}: it needs a sequence, but {before} gives only the last output")
        splits = isinstance(layer, Recurrent) and layer.bidirectional and layer.merge_mode is None
        if splits and position < len(layers) - 1:
            raise UnsupportedError(f"{layer.name}: merge_mode=None gives two arrays, so it can only come last")
        collapsed = collapsed or _collapses(layer)
        size = layer.output_size if layer.output_size is not None else size
        before = layer.name
