"""What all recurrent layers share: stacking, directions, and how sequences become outputs.

The canonical weights of one direction of one layer carry torch's names and layout: ``weight_ih_l0`` (G·H, I),
``weight_hh_l0`` (G·H, H), ``bias_ih_l0`` and ``bias_hh_l0`` (G·H,), with ``_reverse`` appended for the second
direction. Whatever order a file uses is put right by its reader.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np

from ..arrays import Float32, brief, flag, float32, mapping, own, positive, text
from ..errors import CgruError, FormatError, ShapeError, UnsupportedError
from ..spec import activations
from ..spec.cells import Cell
from ..spec.precision import Stored, is_matrix
from ..weights import Weights
from .base import Layer, called, only, take
from .conventions import plain, reorder, split_concat, stacked
from .feedforward import pick
from .live import dotted, keras_layer, keras_major, keras_settings, torch_module

#: The operation that joins the outputs of two directions, by Keras' word for it; the order is the C core's.
MERGES = {"concat": "concat", "sum": "add", "mul": "mul", "ave": "average"}
MERGE_MODES = (*MERGES, None)

# Not compiled here: that takes a millisecond of every import, and only reading torch's names needs it.
_TORCH_NAME = r"(weight_ih|weight_hh|bias_ih|bias_hh|weight_hr)(?:_l(\d{1,3})(_reverse)?)?\Z"


class Scan(NamedTuple):
    """One direction of one layer of a stack: what a kernel runs over time."""

    layer: int
    reverse: bool
    input_size: int

    @property
    def suffix(self) -> str:
        return f"_l{self.layer}" + ("_reverse" if self.reverse else "")

    @property
    def label(self) -> str:
        return f"l{self.layer}" + (".reverse" if self.reverse else "")


class Recurrent(Layer):
    """A stack of one recurrent cell over time: (B, T, I) → (B, T, D·H).

    ``return_sequences=False`` gives the last output alone, (B, D·H). ``merge_mode`` joins the two directions
    of the last layer ("concat", "sum", "mul", "ave", or None for a pair). ``go_backwards`` (one layer, one
    direction) processes time from its end and gives the outputs in that order, as Keras does.
    ``zero_output_for_mask`` makes masked steps emit zeros instead of repeating the last output.
    """

    OPTIONS: ClassVar[tuple[str, ...]] = (
        "activation",
        "bidirectional",
        "go_backwards",
        "merge_mode",
        "num_layers",
        "recurrent_activation",
        "return_sequences",
        "zero_output_for_mask",
    )
    #: The gates in canonical order, and what the letters that files and texts use stand for.
    GATES: ClassVar[tuple[str, ...]]
    #: torch's module classes of this kind.
    TORCH: ClassVar[tuple[str, ...]] = ()
    LETTERS: ClassVar[Mapping[str, str]]
    cell: Cell

    def __init__(
        self,
        arrays: Mapping[str, Any],
        *,
        activation: str = "tanh",
        recurrent_activation: str = "sigmoid",
        num_layers: int = 1,
        bidirectional: bool = False,
        merge_mode: str | None = "concat",
        return_sequences: bool = True,
        go_backwards: bool = False,
        zero_output_for_mask: bool = False,
        name: str | None = None,
    ) -> None:
        where = called(name, self.kind)
        self.num_layers = positive(num_layers, f"{where}: num_layers")
        self.bidirectional = flag(bidirectional, f"{where}: bidirectional")
        self.activation = activations.check(activation, where, gate=True)
        self.recurrent_activation = activations.check(recurrent_activation, where, gate=True)
        self.return_sequences = flag(return_sequences, f"{where}: return_sequences")
        self.go_backwards = flag(go_backwards, f"{where}: go_backwards")
        self.merge_mode = merge_mode
        self.zero_output_for_mask = flag(zero_output_for_mask, f"{where}: zero_output_for_mask")
        if not isinstance(merge_mode, str | None) or merge_mode not in MERGE_MODES:
            raise UnsupportedError(f"{where}: merge_mode {brief(merge_mode)} is not one of concat, sum, mul, ave, None")
        if self.go_backwards and (self.bidirectional or num_layers > 1):
            raise UnsupportedError(f"{where}: go_backwards is for a single layer of one direction")
        checked = self._check(mapping(arrays, where), where)
        super().__init__(name, checked)

    @classmethod
    def from_torch(cls, tensors: Any, prefix: str = "", *, name: str | None = None, **options: Any) -> Self:
        """From a torch module of this kind or its cell, their ``state_dict()``, or one that holds it at ``prefix``.

        ``tensors`` is the module or the mapping; the dot behind a prefix may be left away. Raises :class:`FormatError`
        where a tensor below the prefix is missing or is nothing of such a module's.
        """
        where = called(name, text(prefix, "prefix").rstrip(".") or cls.kind)
        if (module := torch_module(tensors, cls.TORCH, where)) is not None:
            if getattr(module, "nonlinearity", None) is not None:
                options.setdefault("nonlinearity", module.nonlinearity)
            tensors = module.state_dict()
        arrays, layers, both = torch_stack(tensors, prefix, where)
        return cls(arrays, num_layers=layers, bidirectional=both, name=name, **options)

    @classmethod
    def _keras(cls, weights: Any, kinds: Sequence[str], passed: Sequence[str]) -> Self | None:
        """The layer of a live Keras one, or of a Bidirectional of one; None where ``weights`` are arrays."""
        given = keras_layer(weights, (*kinds, "Bidirectional"))
        if given is None:
            return None
        where, backward, more = str(given.name), None, {}
        layer = given
        if type(given).__name__ == "Bidirectional":
            layer, other = keras_layer(given.forward_layer, kinds), keras_layer(given.backward_layer, kinds)
            if {**layer.get_config(), "name": 0, "go_backwards": 0} != {
                **other.get_config(), "name": 0, "go_backwards": 0
            } or layer.go_backwards or not other.go_backwards:  # fmt: skip
                raise UnsupportedError(f"{where}: its two directions differ in more than their direction")
            backward, more = other.get_weights(), {"merge_mode": given.merge_mode}
        passed = ("activation", "return_sequences", *(() if backward else ("go_backwards",)), *passed)
        options = keras_settings(layer, where, passed=passed, inert={"return_state": False, "stateful": False})
        options |= {"keras_version": keras_major(layer), "name": where, "backward": backward, **more}
        made: Self = cls.from_keras(layer.get_weights(), **options)  # type: ignore[attr-defined]
        return made

    @classmethod
    def from_arrays(
        cls,
        w_ih: Any,
        w_hh: Any = None,
        b_ih: Any = None,
        b_hh: Any = None,
        *,
        gates: str = "canonical",
        update: str = "keep",
        bidirectional: bool = False,
        **options: Any,
    ) -> Self:
        """From arrays in any of the field's conventions.

        ``w_ih`` (G·H, I), ``w_hh`` (G·H, H), ``b_ih`` and ``b_hh`` (G·H,) or None; for a stack, a list of each in
        the order layer·D + direction. ``gates`` is the order of the blocks of rows by their letters. For a
        cell with an update gate z, ``update="keep"`` means h' = z·h + (1−z)·n, ``"write"`` the opposite,
        h' = (1−z)·h + z·n; a write gate is turned into a keep gate here, by negating its weights and biases, since
        σ(−a) = 1 − σ(a).
        """
        where = called(options.get("name"), cls.kind)
        cls._check_update(update, options.get("recurrent_activation", "sigmoid"), where)
        bidirectional = flag(bidirectional, f"{where}: bidirectional")
        given = {"weight_ih": (w_ih, 2), "weight_hh": (w_hh, 2), "bias_ih": (b_ih, 1), "bias_hh": (b_hh, 1)}
        arrays, layers = stacked(given, 2 if bidirectional else 1, where)
        arrays = cls._in_order(arrays, gates, where)
        if update == "write":
            for key, rows in arrays.items():
                blocks = dict(zip(cls.GATES, np.split(rows, len(cls.GATES)), strict=True))
                arrays[key] = np.concatenate(list((blocks | {"z": -blocks["z"]}).values()))
        return cls(arrays, num_layers=layers, bidirectional=bidirectional, **options)

    @classmethod
    def from_concat(
        cls,
        matrices: Mapping[str, Any],
        biases: Mapping[str, Any] | None = None,
        *,
        order: str = "hx",
        **options: Any,
    ) -> Self:
        """From the textbook form: for each gate by its letter one matrix (H, H + I) on the concatenation [h, x].

        ``biases`` (H,) by the same letters, or None; ``order="xh"`` where the matrices multiply [x, h]. A candidate on
        [r ⊙ h, x] is reset="before", for GRU. ``options`` as for :meth:`from_arrays`: texts differ in ``update=`` too.
        """
        where = called(options.get("name"), cls.kind)
        what = "a mapping from a gate's letter to its array"
        mapping(matrices, f"{where}: matrices", what)
        if biases is not None:
            mapping(biases, f"{where}: biases", what)
        if not all(len(gate) == 1 for gate in matrices):
            letters = ", ".join(cls.GATES)
            raise CgruError(f"{where}: expected a mapping from a gate's letter to its matrix; gates are {letters}")
        w_ih, w_hh, bias = split_concat(matrices, biases, order, where)
        return cls.from_arrays(w_ih, w_hh, bias, gates="".join(matrices), **options)

    @classmethod
    def _in_order(cls, arrays: Mapping[str, np.ndarray], gates: str, where: str) -> dict[str, np.ndarray]:
        """Every array with its blocks of rows in canonical order."""
        if isinstance(gates, str) and gates == "canonical":
            return dict(arrays)
        return {key: reorder(rows, gates, cls.GATES, cls.LETTERS, f"{where}: {key}") for key, rows in arrays.items()}

    @classmethod
    def _check_update(cls, update: str, rate: str, where: str) -> None:
        if not isinstance(update, str) or update not in ("keep", "write"):
            raise UnsupportedError(f"{where}: update={brief(update)} is neither 'keep' nor 'write'")
        if update == "write" and "z" not in cls.GATES:
            raise UnsupportedError(f"{where}: a {cls.__name__} has no update gate; leave update= away")
        if update == "write" and activations.check(rate, where) not in activations.COMPLEMENTARY:
            raise UnsupportedError(
                f"{where}: update='write' needs a gate activation with f(−a) = 1 − f(a), and {rate!r} is none"
            )

    @property
    def directions(self) -> int:
        """2 where it reads the sequence from both ends, else 1."""
        return 2 if self.bidirectional else 1

    def scans(self) -> Iterator[Scan]:
        """The stack's directions in torch's order of h_n: layer·D + direction."""
        size = self.input_size or 0
        for k in range(self.num_layers):
            for d in range(self.directions):
                yield Scan(k, bool(d), size)
            size = self.directions * self.emitted_size

    def _shapes(self, input_size: int) -> dict[str, tuple[int, ...]]:
        """The shape of every array of one direction of a layer with so many inputs, in the cell's order."""
        rows = len(self.cell.gates) * self.hidden_size
        shapes = {
            "weight_ih": (rows, input_size),
            "weight_hh": (rows, self.emitted_size),
            "weight_hr": (self.emitted_size, self.hidden_size),
            "weight_ph": (3 * self.hidden_size,),
            "bias_ih": (rows,),
            "bias_hh": (rows,),
        }
        return {stem: shapes[stem] for stem in self.cell.arrays}

    def _check(self, arrays: Mapping[str, Any], where: str) -> dict[str, Float32]:
        """The arrays as float32 of this layer's own, every shape checked, in canonical order."""
        self.hidden_size, self.emitted_size = self._sizes(arrays, where)
        self.input_size = float32(pick_shape(arrays, where, "weight_ih_l0"), f"{where}: weight_ih_l0", 2).shape[1]
        if self.input_size < 1:
            raise ShapeError(f"{where}: weight_ih_l0 has no input features")
        self.output_size = self.emitted_size * (self.directions if self.merge_mode in ("concat", None) else 1)
        checked: dict[str, Float32] = {}
        for scan in self.scans():
            for stem, shape in self._shapes(scan.input_size).items():
                key = stem + scan.suffix
                if key not in arrays:
                    if stem.startswith("bias"):
                        continue
                    raise FormatError(f"{where}: the tensor {key} is missing")
                array = own(arrays[key], f"{where}: {key}", len(shape))
                if array.shape != shape:
                    raise ShapeError(f"{where}: {key} has shape {array.shape}, expected {shape}")
                checked[key] = array
        left = sorted(set(arrays) - set(checked))
        if left:
            raise FormatError(f"{where}: nothing uses the tensor{'s' * (len(left) > 1)} {', '.join(left)}")
        return checked

    def _sizes(self, arrays: Mapping[str, Any], where: str) -> tuple[int, int]:
        """Units, and numbers emitted: the same but where the cell projects."""
        gates = len(self.cell.gates)
        key = next(stem for stem in ("weight_hr", "weight_hh", "weight_ih") if stem in self.cell.arrays) + "_l0"
        shape = float32(pick_shape(arrays, where, key), f"{where}: {key}", 2).shape
        if key == "weight_hr_l0":
            emitted, hidden = shape
            fits = min(shape) > 0
        else:
            hidden = shape[0] // gates
            emitted = hidden
            fits = hidden > 0 and shape[0] == gates * hidden and (key == "weight_ih_l0" or shape[1] == hidden)
        if not fits:
            wanted = "any size" if key == "weight_hr_l0" else f"({gates}·H, {'I' if key == 'weight_ih_l0' else 'H'})"
            raise ShapeError(
                f"{where}: {key} has shape {shape}; a {type(self).__name__} of H units needs {wanted.replace('1·', '')}"
            )
        return hidden, emitted

    def options(self) -> dict[str, Any]:
        return {key: getattr(self, key) for key in self.OPTIONS}

    @classmethod
    def from_parts(cls, name: str, options: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Self:
        only(options, cls.OPTIONS, name)
        kinds: dict[str, type | tuple[type, ...]] = {"num_layers": int, "merge_mode": (str, type(None))}
        text = ("activation", "recurrent_activation", "reset")
        known = {
            key: take(options, key, kinds.get(key, str if key in text else bool), name)
            for key in cls.OPTIONS
            if key in options
        }
        if not 1 <= known.get("num_layers", 1) <= 1000:
            raise FormatError(f"{name}: num_layers is {known['num_layers']}")
        return cls(arrays, name=name, **known)

    def _parts(self, arrays: Mapping[str, Float32 | Stored], precision: str) -> dict[str, Weights]:
        parts = {}
        for scan in self.scans():
            held = {stem: arrays[stem + scan.suffix] for stem in self.cell.arrays if stem + scan.suffix in arrays}
            parts[scan.suffix] = Weights(held, {stem for stem in held if is_matrix(stem)}, precision)
        return parts

    def __call__(  # type: ignore[override]
        self,
        x: Any,
        h0: Any = None,
        lengths: Any = None,
        mask: Any = None,
        *,
        threads: int | str | None = None,
        backend: str | None = None,
    ) -> tuple[Any, Any]:
        """Run the layer by itself, with torch's meaning: ``out, h_n = gru(x, h0)``.

        ``x`` (B, T, I) or (T, I); ``h0`` (L·D, B, H), or (L·D, H) beside a (T, I) input, zero where None; for a
        cell with two state arrays a pair, as torch.nn.LSTM takes it. Gives out (B, T, D·H) and h_n shaped as h0.
        """
        return (self._alone or self._made_alone())(x, h0, lengths, mask, threads, backend)

    def describe(self) -> str:
        words = [f"{self.input_size} → {self.hidden_size}"]
        if self.num_layers > 1:
            words.append(f"{self.num_layers} layers")
        if self.bidirectional:
            words.append(f"bidirectional ({self.merge_mode or 'two outputs'})")
        if self.go_backwards:
            words.append("backwards")
        if not self.return_sequences:
            words.append("last output")
        if (self.activation, self.recurrent_activation) != ("tanh", "sigmoid"):
            words.append(f"{self.activation} / {self.recurrent_activation}")
        return ", ".join(words)


def pick_shape(arrays: Mapping[str, Any], where: str, key: str) -> Any:
    if key not in arrays:
        found = ", ".join(sorted(map(str, arrays))[:8]) or "nothing"
        raise FormatError(f"{where}: the tensor {key} is missing; found {found}")
    return pick(arrays, where, key)


def torch_stack(tensors: Mapping[str, Any], prefix: str, where: str) -> tuple[dict[str, Any], int, bool]:
    """The tensors of one torch RNN module below ``prefix``: canonical names, number of layers, bidirectional.

    A ``GRUCell``'s names (``weight_ih``) are those of a stack of one.
    """
    if not isinstance(tensors, Mapping):
        raise CgruError(f"{where}: expected a mapping from tensor name to array, such as module.state_dict()")
    prefix = dotted(tensors, prefix)
    found: dict[str, Any] = {}
    layers, reverse = 0, False
    for key, value in mapping(tensors, where).items():
        if not key.startswith(prefix):
            continue
        rest = key[len(prefix) :]
        match = re.match(_TORCH_NAME, rest)
        if match is None:
            raise FormatError(
                f"{where}: the tensor {key!r} is no part of a torch recurrent module; "
                "pass prefix= to say which module is meant"
            )
        stem, k, back = match.groups()
        found[f"{stem}_l{k or 0}{back or ''}"] = plain(value)
        layers, reverse = max(layers, int(k or 0) + 1), reverse or bool(back)
    if not found:
        some = ", ".join(map(str, list(tensors)[:8])) or "none"
        raise FormatError(f"{where}: no tensor begins with {prefix!r}; there are {some}")
    return found, layers, reverse
