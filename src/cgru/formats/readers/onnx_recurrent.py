"""ONNX' GRU, LSTM and RNN: over the network's time, or along an inner axis of each frame.

Source of the equations and layouts: onnx/docs/Operators.md, GRU, LSTM and RNN.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ...errors import FormatError
from ..containers.onnx_records import Node
from .onnx_arithmetic import output_name
from .onnx_draft import Group, plain_axes
from .onnx_framing import unmixed
from .onnx_lowering import Lowering, handles, renamed
from .onnx_movement import sliced
from .onnx_values import BATCH, TIME, Known, Tensor, Value

#: Operator → gates as ONNX stacks them, and their places in cgru's order.
_ORDER = {"GRU": (1, 0, 2), "LSTM": (0, 2, 3, 1), "RNN": (0,)}
_DEFAULTS = {"GRU": ("Sigmoid", "Tanh"), "LSTM": ("Sigmoid", "Tanh", "Tanh"), "RNN": ("Tanh",)}
_PLAIN = {
    "relu": "relu", "tanh": "tanh", "sigmoid": "sigmoid", "softsign": "softsign", "softplus": "softplus", "elu": "elu",
}  # fmt: skip
#: ONNX' activations with α and β, their defaults, and cgru's names for the general ones.
_PARAMETERS = {
    "affine": ("affine", 1.0, 0.0), "leakyrelu": ("leaky_relu", 0.01, 0.0),
    "thresholdedrelu": ("thresholded_relu", 1.0, 0.0), "scaledtanh": ("scaled_tanh", 1.0, 1.0),
    "hardsigmoid": ("hard_sigmoid_line", 0.2, 0.5), "elu": ("elu_alpha", 1.0, 0.0),
}  # fmt: skip


class Direction(NamedTuple):
    """One direction of the operator in cgru's layout."""

    arrays: dict[str, np.ndarray]
    activations: tuple[str, ...]
    alphas: tuple[float, ...]
    betas: tuple[float, ...]
    reverse: bool


class Operands(NamedTuple):
    """The operator's inputs by name; what is left out is None."""

    x: Tensor
    w: np.ndarray
    r: np.ndarray
    b: np.ndarray | None
    lengths: Value | None
    h: Value | None
    c: Value | None
    p: np.ndarray | None


@handles("GRU", "LSTM", "RNN")
def _recurrent(low: Lowering, node: Node, inputs: list[Value | None]) -> Sequence[Value]:
    x, w, r, b, lengths, h, c, p = (inputs[i] if i < len(inputs) else None for i in range(8))
    operands = Operands(
        unmixed(low, low.tensor(x, node)),
        low.known(w, node, "W"),
        low.known(r, node, "R"),
        None if b is None else low.known(b, node, "B"),
        lengths, h, c,
        None if p is None else low.known(p, node, "P"),
    )  # fmt: skip
    return lowered(low, node, operands)


def lowered(low: Lowering, node: Node, given: Operands) -> Sequence[Value]:
    directions = _directions(low, node, given)
    hidden = given.r.shape[-1]
    x, h0, c0 = given.x, given.h, given.c
    layout = int(node.attributes.get("layout", 0))
    if x.rank != 3:
        raise FormatError(f"{node}: an input of {x.rank} axes; expected 3")
    if layout:
        x = renamed(x, [x.axes[1], x.axes[0], x.axes[2]])
        h0, c0 = (_batch_second(low, value) for value in (h0, c0))
    _check_lengths(low, node, given.lengths, low.draft.axis_size(x, 0))
    groups = _axes_of(low, node, x)
    steps = low.draft.segments(x, 0)
    if any(isinstance(atom, str) for atom in x.axes[2]):
        raise low.unsupported(node, "its features are rows or frames")
    run: type[_Run] = _OverTime if x.axes[0] == (TIME,) or steps == [TIME] else _Inside
    if BATCH in x.axes[0] or (run is _Inside and TIME in x.axes[2]):
        raise low.unsupported(node, "it runs along the axis of rows")
    for name, value in (("initial_h", h0), ("initial_c", c0)):
        if value is not None and low.draft.shape(value)[::2] != (len(directions), hidden):
            raise FormatError(
                f"{node}: {name} has the shape {low.draft.shape(value)}; expected {(len(directions), 'rows', hidden)}"
            )
    made = run(low, node, x, groups, hidden)
    starts = [[made.start(value, k, len(directions)) for value in (h0, c0)] for k in range(len(directions))]
    parts = [made.run(direction, h, c) for direction, (h, c) in zip(directions, starts, strict=True)]
    if low.lengths and given.lengths is None and run is _OverTime:
        if any(direction.reverse for direction in directions) or any(name in low.readers for name in node.outputs[1:]):
            raise low.unsupported(
                node, "its end, without sequence_lens, beside recurrences with them: it goes on behind a row's end"
            )
        low.endless.update(part["h"] for part in parts)
    found: list[Value | None] = []
    for place, name in enumerate(node.outputs):
        if not name or (place > 0 and name not in low.readers):
            found.append(None)
        elif place == 0:
            y = made.sequence(parts)  # (S, D, N, H)
            found.append(renamed(y, [y.axes[2], y.axes[0], y.axes[1], y.axes[3]]) if layout else y)
        else:
            last = made.last(parts, directions, "h" if place == 1 else "c")  # (D, N, H)
            found.append(renamed(last, [last.axes[1], last.axes[0], last.axes[2]]) if layout else last)
    return found  # type: ignore[return-value]


def _axes_of(low: Lowering, node: Node, x: Tensor) -> list[Group]:
    """The feature axes of steps, rows and features; rows may be the network's own (B, T) and then a frame's."""
    found: list[Group] = []
    for axis in range(x.rank):
        segments = low.draft.segments(x, axis)
        runs = [part for part in segments if isinstance(part, tuple)]
        if len(runs) > 1 or (axis != 1 and len(segments) > 1) or (runs and segments[-1] != runs[0]):
            raise low.unsupported(node, "an axis mixes rows, frames and features in an order that it does not take")
        found.append(runs[0] if runs else ())
    return found


def _batch_second(low: Lowering, value: Value | None) -> Value | None:
    if isinstance(value, Tensor):
        return renamed(value, [value.axes[1], value.axes[0], value.axes[2]])
    if isinstance(value, Known):
        sizes = value.shape
        return Known(value.array.transpose(1, 0, 2), (sizes[1], sizes[0], sizes[2]) if value.open else ())
    return None


def _check_lengths(low: Lowering, node: Node, lengths: Value | None, steps: Any) -> None:
    if lengths is None or (isinstance(lengths, Tensor) and lengths.name in low.lengths):
        return
    if (
        isinstance(lengths, Known)
        and not lengths.is_shape
        and (lengths.array == (steps if isinstance(steps, int) else -1)).all()
    ):
        return
    if isinstance(lengths, Known) and all(length == steps for length in lengths.array.reshape(-1)):
        return
    raise low.unsupported(node, "sequence_lens other than the network's own; pass lengths= when it runs")


# Weights and activations ------------------------------------------------------------------------------------------


def in_order(op: str, array: np.ndarray) -> np.ndarray:
    """Rows (gates · H, …) of ONNX' operator in cgru's order of gates."""
    return np.concatenate([np.split(array, len(_ORDER[op]))[i] for i in _ORDER[op]])


def _directions(low: Lowering, node: Node, given: Operands) -> list[Direction]:
    attributes, op = node.attributes, node.op
    names = {"forward": [False], "reverse": [True], "bidirectional": [False, True]}
    direction = attributes.get("direction", "forward")
    if direction not in names:
        raise FormatError(f"{node}: direction {direction!r}")
    reverses = names[direction]
    gates, hidden = len(_ORDER[op]), given.r.shape[-1]
    count = len(reverses)
    if given.r.shape != (count, gates * hidden, hidden) or given.w.shape[:2] != (count, gates * hidden):
        raise FormatError(f"{node}: W {given.w.shape} and R {given.r.shape} do not fit {count} directions of {op}")
    if attributes.get("hidden_size", hidden) != hidden:
        raise FormatError(f"{node}: hidden_size {attributes['hidden_size']}, but R is {given.r.shape}")
    if given.b is not None and given.b.shape != (count, 2 * gates * hidden):
        raise FormatError(f"{node}: B is {given.b.shape}, expected {(count, 2 * gates * hidden)}")
    if given.p is not None and given.p.shape != (count, 3 * hidden):
        raise FormatError(f"{node}: P is {given.p.shape}, expected {(count, 3 * hidden)}")

    def ordered(array: np.ndarray) -> np.ndarray:
        return in_order(op, array).astype(np.float32)

    wanted = len(_DEFAULTS[op])
    functions = list(attributes.get("activations") or _DEFAULTS[op] * count)
    if len(functions) == wanted and count == 2:
        functions = functions * 2
    if len(functions) != wanted * count:
        raise FormatError(f"{node}: {len(functions)} activations for {count} directions of {op}")
    alphas, betas = list(attributes.get("activation_alpha") or ()), list(attributes.get("activation_beta") or ())
    made = []
    for k, reverse in enumerate(reverses):
        arrays = {"weight_ih": ordered(given.w[k]), "weight_hh": ordered(given.r[k])}
        if given.b is not None:
            both = np.split(given.b[k], 2)
            arrays |= {"bias_ih": ordered(both[0]), "bias_hh": ordered(both[1])}
        if given.p is not None:
            # ONNX: i, o, f; cgru: i, f, o.
            i, o, f = np.split(given.p[k], 3)
            arrays["weight_ph"] = np.concatenate([i, f, o]).astype(np.float32)
        chosen = [_activation(low, node, name, alphas, betas) for name in functions[k * wanted : (k + 1) * wanted]]
        called, first, second = zip(*chosen, strict=True)
        made.append(Direction(arrays, called, first, second, reverse))
    return made


def _activation(
    low: Lowering, node: Node, name: str, alphas: list[float], betas: list[float]
) -> tuple[str, float, float]:
    """cgru's name of a gate's activation, α and β; each that takes parameters uses up the next ones given."""
    lower = name.lower()
    if lower in _PARAMETERS and lower not in ("elu",):
        general, alpha, beta = _PARAMETERS[lower]
        alpha = alphas.pop(0) if alphas else alpha
        if lower in ("affine", "scaledtanh", "hardsigmoid"):
            beta = betas.pop(0) if betas else beta
        if lower == "hardsigmoid" and abs(alpha - 0.2) < 1e-7 and beta == 0.5:
            return "hard_sigmoid_keras2", 0.0, 0.0
        if lower == "hardsigmoid" and abs(alpha - 1 / 6) < 1e-7 and beta == 0.5:
            return "hard_sigmoid", 0.0, 0.0
        return general, alpha, beta
    if lower == "elu":
        alpha = alphas.pop(0) if alphas else 1.0
        return ("elu", 0.0, 0.0) if alpha == 1 else ("elu_alpha", alpha, 0.0)
    if lower not in _PLAIN:
        raise low.unsupported(node, f"the activation {name[:40]!r}")
    return _PLAIN[lower], 0.0, 0.0


def _general(low: Lowering, node: Node, direction: Direction, hidden: int) -> dict[str, Any]:
    """Options of the operations that know every switch of ONNX'."""
    cell = {"GRU": "gru_before", "LSTM": "lstm", "RNN": "rnn"}[node.op]
    if node.op == "GRU" and node.attributes.get("linear_before_reset", 0):
        cell = "gru_after"
    return {
        "cell": cell, "units": hidden, "activations": direction.activations, "alphas": direction.alphas,
        "betas": direction.betas, "clip": float(node.attributes.get("clip", 0.0)),
        "coupled": bool(node.attributes.get("input_forget", 0)), "reverse": direction.reverse,
    }  # fmt: skip


# Along time, and inside a frame -------------------------------------------------------------------------------------


class _Run(ABC):
    """A recurrence along one axis: what it begins with, its run, and its outputs under ONNX' axes."""

    @abstractmethod
    def __init__(self, low: Lowering, node: Node, x: Tensor, groups: list[Group], hidden: int) -> None: ...

    @abstractmethod
    def start(self, value: Value | None, k: int, count: int) -> str:
        """What direction ``k`` of ``count`` begins with: the name of a value (*R, H), "" for zeros."""

    @abstractmethod
    def run(self, direction: Direction, h0: str, c0: str) -> dict[str, str]:
        """The nodes that give the output ("h") and, where it is asked for, the memory ("c")."""

    @abstractmethod
    def sequence(self, parts: Sequence[Mapping[str, str]]) -> Tensor:
        """Every step of every direction: (S, D, N, H)."""

    @abstractmethod
    def last(self, parts: Sequence[Mapping[str, str]], directions: Sequence[Direction], array: str) -> Tensor:
        """The state that each direction ends in: (D, N, H)."""


class _OverTime(_Run):
    """The sequence axis is the network's time: rows of a frame are recurrences of their own."""

    def __init__(self, low: Lowering, node: Node, x: Tensor, groups: list[Group], hidden: int) -> None:
        self.low, self.node, self.x, self.hidden = low, node, x, hidden
        low.scans += 1
        self.rows = low.draft.segments(x, 1)
        self.row_axes = groups[1]
        self.frame = low.draft.arranged(x, [*([self.row_axes] if self.row_axes else []), groups[2]])

    def start(self, value: Value | None, k: int, count: int) -> str:
        low = self.low
        if value is None or (isinstance(value, Known) and not value.is_shape and not value.array.any()):
            return ""
        rows = low.draft.type(self.frame).features[:-1]
        if isinstance(value, Known):
            array = value.array
            if array.shape[1] > 1 and not self.row_axes:
                if (array != array[:, :1]).any():
                    raise low.unsupported(self.node, "an initial state that differs from row to row")
                array = array[:, :1]
            return low.draft.constant(
                np.broadcast_to(array[k], (*(rows or (1,)), self.hidden)).reshape(*rows, self.hidden)
            )
        if low.draft.type(value.name).clock is not None:
            raise low.unsupported(self.node, "an initial state that has a time axis")
        return _direction_of(low, self.node, value, k, count, self.row_axes, rows, self.hidden)

    def run(self, direction: Direction, h0: str, c0: str) -> dict[str, str]:
        low, node = self.low, self.node
        simple = _simple(node, direction) if not self.row_axes else None
        name = output_name(node) + (".reverse" if direction.reverse else "")
        states = [h0, c0] if node.op == "LSTM" else [h0]
        inputs = [self.frame, "", *states] if any(states) else [self.frame]
        if simple is not None:
            options = {**simple, "units": self.hidden, "reverse": direction.reverse, "repeat": False}
            return {"h": low.draft.emit("scan", *inputs, name=name, weights=direction.arrays, **options)}
        options = _general(low, node, direction, self.hidden)
        return {"h": low.draft.emit("scan_rows", *inputs, name=name, weights=direction.arrays, **options)}

    def _axes(self, lead: tuple[Any, ...]) -> list[tuple[Any, ...]]:
        """Rows and features of a value (D, *R, H) or (*R, H), as ONNX has them; ``lead`` is the axis of D."""
        first = len(lead)
        rows = tuple(part for part in self.rows if isinstance(part, str)) + ((first,) if self.row_axes else ())
        return [rows, (first + bool(self.row_axes),)]

    def sequence(self, parts: Sequence[Mapping[str, str]]) -> Tensor:
        name, lead = _stacked(self.low, [part["h"] for part in parts])
        return Tensor(name, ((TIME,), lead, *self._axes(lead)))

    def last(self, parts: Sequence[Mapping[str, str]], directions: Sequence[Direction], array: str) -> Tensor:
        low = self.low
        if self.row_axes:
            raise low.unsupported(self.node, "the final state of rows of a frame, as an output of a whole sequence")
        made = [low.draft.emit("last_state", part["h"], array=array, size=self.hidden) for part in parts]
        name, lead = _stacked(low, made)
        return Tensor(name, (lead, *self._axes(lead)))


class _Inside(_Run):
    """The sequence axis lies inside a frame: every frame is a sequence of its own."""

    def __init__(self, low: Lowering, node: Node, x: Tensor, groups: list[Group], hidden: int) -> None:
        self.low, self.node, self.x, self.hidden = low, node, x, hidden
        self.rows = low.draft.segments(x, 1)
        self.row_axes = groups[1]
        self.frame = low.draft.arranged(x, [*([groups[1]] if groups[1] else []), groups[0], groups[2]])

    def start(self, value: Value | None, k: int, count: int) -> str:
        low = self.low
        if value is None or (isinstance(value, Known) and not value.is_shape and not value.array.any()):
            return ""
        rows = low.draft.type(self.frame).features[:-2]
        if isinstance(value, Known):
            array = value.array[k]
            if len(array) > 1 and not self.row_axes:
                if (array != array[:1]).any():
                    raise low.unsupported(self.node, "an initial state that differs from row to row")
                array = array[:1]
            return low.draft.constant(
                np.broadcast_to(array, (*(rows or (1,)), self.hidden)).reshape(*rows, self.hidden)
            )
        return _direction_of(low, self.node, value, k, count, self.row_axes, rows, self.hidden)

    def run(self, direction: Direction, h0: str, c0: str) -> dict[str, str]:
        low, node = self.low, self.node
        states = [h0, c0] if node.op == "LSTM" else [h0]
        inputs = [self.frame, *states] if any(states) else [self.frame]
        options = _general(low, node, direction, self.hidden)
        name = output_name(node) + (".reverse" if direction.reverse else "")
        h = low.draft.emit("scan_inner", *inputs, name=name, weights=direction.arrays, **options)
        made = {"h": h}
        if node.op == "LSTM" and len(node.outputs) > 2 and node.outputs[2]:
            # The memory at every step: the same recurrence, looked at inside.
            made["c"] = low.draft.emit("scan_inner", *inputs, name=f"{name}.c", weights=h, emit="c", **options)
        return made

    def _axes(self, lead: tuple[Any, ...], steps: bool) -> tuple[list[tuple[Any, ...]], tuple[Any, ...]]:
        first = len(lead)
        rows = tuple(part for part in self.rows if isinstance(part, str)) + ((first,) if self.row_axes else ())
        at = first + bool(self.row_axes)
        return [rows, (at + steps,)], (at,)

    def sequence(self, parts: Sequence[Mapping[str, str]]) -> Tensor:
        name, lead = _stacked(self.low, [part["h"] for part in parts])
        (rows, features), steps = self._axes(lead, True)
        return Tensor(name, (steps, lead, rows, features))

    def last(self, parts: Sequence[Mapping[str, str]], directions: Sequence[Direction], array: str) -> Tensor:
        draft = self.low.draft
        made = []
        for part, direction in zip(parts, directions, strict=True):
            features = draft.type(part[array]).features
            at = 0 if direction.reverse else features[-2] - 1
            one = part[array]
            if features[-2] > 1:
                one = draft.emit("slice", one, start=at, stop=at + 1, axis=len(features) - 2)
            made.append(draft.emit("reshape", one, features=(*features[:-2], features[-1])))
        name, lead = _stacked(self.low, made)
        rows, features_ = self._axes(lead, False)[0]
        return Tensor(name, (lead, rows, features_))


def _simple(node: Node, direction: Direction) -> dict[str, Any] | None:
    """Options of ``scan``, which has kernels, where the operator uses no switch that it lacks."""
    attributes = node.attributes
    if (
        attributes.get("clip", 0.0)
        or attributes.get("input_forget", 0)
        or any(direction.alphas)
        or any(direction.betas)
    ):
        return None
    functions = direction.activations
    if node.op == "RNN":
        return {"cell": "rnn", "activation": functions[0]}
    if node.op == "LSTM" and functions[1] != functions[2]:
        return None
    if node.op == "GRU":
        cell = "gru_reset_after" if attributes.get("linear_before_reset", 0) else "gru_reset_before"
    else:
        cell = "lstm_peephole" if "weight_ph" in direction.arrays else "lstm"
    return {"cell": cell, "recurrent_activation": functions[0], "activation": functions[1]}


def _stacked(low: Lowering, parts: Sequence[str]) -> tuple[str, tuple[Any, ...]]:
    """One value of both directions, (D, …), and the axis of D; of a single one itself, and no axis."""
    if len(parts) == 1:
        return parts[0], ()
    features = low.draft.type(parts[0]).features
    return low.draft.emit(
        "concat", *(low.draft.emit("reshape", part, features=(1, *features)) for part in parts), axis=0
    ), (0,)


def _direction_of(
    low: Lowering, node: Node, value: Tensor, k: int, count: int, row_axes: Group, rows: Sequence[int], hidden: int
) -> str:
    """Direction ``k`` of a state (D, N, H) that is computed, as (*R, H)."""

    part = sliced(low, node, value, 0, slice(k, k + 1, 1)) if count > 1 else value
    groups = plain_axes(low.draft, part, str(node))
    if prod_of(low, part, groups[1]) not in (1, prod_rows(rows)):
        raise low.unsupported(node, "an initial state of other rows than its input")
    name = low.draft.arranged(part, [*([groups[1]] if row_axes else []), groups[2]])
    wanted = (*rows, hidden)
    if low.draft.type(name).features != wanted:
        name = low.draft.emit("broadcast", name, features=wanted)
    return name


def prod_of(low: Lowering, value: Tensor, group: Group) -> int:
    return int(np.prod([low.draft.features(value)[i] for i in group], dtype=np.int64))


def prod_rows(rows: Sequence[int]) -> int:
    return int(np.prod(rows, dtype=np.int64))
