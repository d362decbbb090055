"""Recurrences whose frames have rows: over time with a state for every row, and along an inner axis of each frame.

The cells are those of ONNX' operators GRU, LSTM and RNN with all their switches: an activation with parameters for
each gate, ``clip`` on what goes into them, coupled input and forget gates. Source: onnx/docs/Operators.md.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import prod
from typing import Any, ClassVar

import numpy as np

from ...errors import ShapeError
from ..activations import ACTIVATIONS, PARAMETRIC
from ..operation import Array, ArrayInfo, Operation, Option, Options, at_least, features, register, timed
from ..values import Value

#: Gates in canonical order, and how many activations they take: f (and g and h).
_CELLS = {"gru_after": ("r", "z", "n"), "gru_before": ("r", "z", "n"), "lstm": ("i", "f", "g", "o"), "rnn": ("h",)}
_ACTIVATIONS_OF = {"gru_after": 2, "gru_before": 2, "lstm": 3, "rnn": 1}

_OPTIONS: Mapping[str, Option] = {
    "cell": Option(str, ..., tuple(_CELLS)),
    "units": Option(int, ..., at_least(1)),
    "activations": Option(tuple, ..., lambda names: all(name in ACTIVATIONS or name in PARAMETRIC for name in names)),
    "alphas": Option(tuple, (), lambda values: all(isinstance(v, (int, float)) for v in values)),
    "betas": Option(tuple, (), lambda values: all(isinstance(v, (int, float)) for v in values)),
    "clip": Option(float, 0.0, lambda value: value >= 0),
    "coupled": Option(bool, False),
    "reverse": Option(bool, False),
}


def _arrays(options: Options, size: int) -> dict[str, ArrayInfo]:
    units, gates = options["units"], len(_CELLS[options["cell"]])
    made = {
        "weight_ih": ArrayInfo((gates * units, size), matrix=True),
        "weight_hh": ArrayInfo((gates * units, units), matrix=True),
        "bias_ih": ArrayInfo((gates * units,), optional=True),
        "bias_hh": ArrayInfo((gates * units,), optional=True),
    }
    if options["cell"] == "lstm":
        made["weight_ph"] = ArrayInfo((3 * units,), optional=True)
    return made


def _states(options: Options) -> tuple[str, ...]:
    return ("h", "c") if options["cell"] == "lstm" else ("h",)


def _check(options: Options, where: str) -> None:
    wanted = _ACTIVATIONS_OF[options["cell"]]
    if len(options["activations"]) != wanted:
        raise ShapeError(f"{where}: {options['cell']} takes {wanted} activations, found {len(options['activations'])}")
    for name in ("alphas", "betas"):
        if len(options[name]) not in (0, wanted):
            raise ShapeError(f"{where}: {name} must be given for each of the {wanted} activations")


def _step(options: Options, arrays: Mapping[str, Array]) -> Callable[[Array, list[Array]], list[Array]]:
    """One step of the cell: x (N, I) and the state [(N, H), …] to the new state."""
    kind, units = options["cell"], options["units"]
    w, r = arrays["weight_ih"], arrays["weight_hh"]
    zero = np.zeros(len(w), w.dtype)
    wb, rb = arrays.get("bias_ih", zero), arrays.get("bias_hh", zero)
    peephole = arrays.get("weight_ph", np.zeros(3 * units, w.dtype)).reshape(3, units)
    bound = options["clip"]

    def activation(i: int) -> Callable[[Array], Array]:
        name = options["activations"][i]
        plain = ACTIVATIONS.get(name)
        α = options["alphas"][i] if options["alphas"] else 0.0
        β = options["betas"][i] if options["betas"] else 0.0

        def applied(x: Array) -> Array:
            x = np.clip(x, -bound, bound) if bound else x
            return plain(x) if plain is not None else PARAMETRIC[name].function(x, α, β)

        return applied

    f = activation(0)
    if kind == "rnn":
        return lambda x, state: [f(x @ w.T + wb + state[0] @ r.T + rb)]
    g = activation(1)
    if kind == "lstm":
        h_of = activation(2)

        def lstm(x: Array, state: list[Array]) -> list[Array]:
            h, c = state
            i, fg, cand, o = np.split(x @ w.T + wb + h @ r.T + rb, 4, axis=-1)
            i, fg = f(i + peephole[0] * c), f(fg + peephole[1] * c)
            if options["coupled"]:
                fg = 1 - i
            c = fg * c + i * g(cand)
            return [f(o + peephole[2] * c) * h_of(c), c]

        return lstm

    def gru(x: Array, state: list[Array]) -> list[Array]:
        (h,) = state
        from_x = x @ w.T + wb
        if kind == "gru_after":
            from_h = h @ r.T + rb
            gate_r, gate_z = (
                f(from_x[:, k * units : (k + 1) * units] + from_h[:, k * units : (k + 1) * units]) for k in (0, 1)
            )
            n = g(from_x[:, 2 * units :] + gate_r * from_h[:, 2 * units :])
        else:
            both = from_x[:, : 2 * units] + h @ r[: 2 * units].T + rb[: 2 * units]
            gate_r, gate_z = f(both[:, :units]), f(both[:, units:])
            n = g(from_x[:, 2 * units :] + (gate_r * h) @ r[2 * units :].T + rb[2 * units :])
        return [(1 - gate_z) * n + gate_z * h]

    return gru


@register
class ScanRows(Operation):
    """A recurrence over time of every row of a frame: (*R, I) → (*R, H), rows sharing weights, each its own state.

    Where ``mask`` is False the state holds and the output is zero. The arrays are in the order r, z, n or i, f, g, o.
    """

    name = "scan_rows"
    roles = ("x", "mask?", "h0?", "c0?")
    options: ClassVar[Mapping[str, Option]] = _OPTIONS

    def is_whole(self, options: Options) -> bool:
        return options["reverse"]

    def infer(self, options: Options, inputs: Sequence[Value | None], where: str) -> Value:
        value = timed(features(inputs[0], where), where)
        _check(options, where)
        mask = inputs[1] if len(inputs) > 1 else None
        if mask is not None and (mask.dtype != "bool" or mask.clock != value.clock):
            raise ShapeError(f"{where}: its mask must have the frames of x, found {mask.describe()}")
        wanted = Value((*value.features[:-1], options["units"]), None)
        for role, given in zip(_states(options), inputs[2:], strict=False):
            if given is not None and given != wanted:
                raise ShapeError(f"{where}: {role}0 must be {wanted.describe()}, found {given.describe()}")
        return value.with_features(*value.features[:-1], options["units"])

    def arrays(self, options: Options, inputs: Sequence[Value | None]) -> dict[str, ArrayInfo]:
        assert inputs[0] is not None
        return _arrays(options, inputs[0].features[-1])

    def state(self, options: Options, inputs: Sequence[Value | None]) -> list[tuple[str, int]]:
        assert inputs[0] is not None
        size = prod(inputs[0].features[:-1]) * options["units"]
        return [(name, size) for name in _states(options)]


def scan_rows(
    options: Options, x: Array, state: list[Array], valid: Array | None, arrays: Mapping[str, Array]
) -> tuple[Array, list[Array]]:
    """The equation over a chunk: x (B, n, *R, I) and states (B, R · H) to outputs (B, n, *R, H) and the new states."""
    batch, steps, *rows, size = x.shape
    count, units = prod(rows), options["units"]
    step = _step(options, arrays)
    flat = x.reshape(batch, steps, count, size)
    held = [array.reshape(batch * count, units) for array in state]
    y = np.zeros((batch, steps, count, units), x.dtype)
    for t in reversed(range(steps)) if options["reverse"] else range(steps):
        new = step(flat[:, t].reshape(batch * count, size), held)
        if valid is not None:
            ok = np.repeat(valid[:, t], count)[:, None]
            new = [np.where(ok, a, b) for a, b in zip(new, held, strict=True)]
            y[:, t] = np.where(ok, new[0], 0).reshape(batch, count, units)
        else:
            y[:, t] = new[0].reshape(batch, count, units)
        held = new
    return y.reshape(batch, steps, *rows, units), [array.reshape(batch, count * units) for array in held]


@register
class ScanInner(Operation):
    """A recurrence along the last but one feature axis of each frame: (*R, S, I) → (*R, S, H).

    It begins with ``h0`` and ``c0`` (*R, H), zeros where there are none, in every frame anew. ``emit`` says what comes
    out: the cell's output, or its memory c.
    """

    name = "scan_inner"
    roles = ("x", "h0?", "c0?")
    options: ClassVar[Mapping[str, Option]] = {**_OPTIONS, "emit": Option(str, "h", ("h", "c"))}

    def infer(self, options: Options, inputs: Sequence[Value | None], where: str) -> Value:
        value = features(inputs[0], where)
        _check(options, where)
        if len(value.features) < 2 or (options["emit"] == "c" and options["cell"] != "lstm"):
            raise ShapeError(f"{where}: a {options['cell']} along an inner axis cannot give that of {value.describe()}")
        wanted = (*value.features[:-2], options["units"])
        clock = value.clock
        for role, given in zip(("h", "c"), inputs[1:], strict=False):
            if given is not None and given.features != wanted:
                raise ShapeError(f"{where}: {role}0 must have features {wanted}, found {given.describe()}")
            if given is not None and given.clock is not None:
                if clock is not None and given.clock != clock:
                    raise ShapeError(f"{where}: {role}0 has other frames than x: {given.describe()}")
                clock = given.clock
        return Value((*value.features[:-1], options["units"]), clock)

    def arrays(self, options: Options, inputs: Sequence[Value | None]) -> dict[str, ArrayInfo]:
        assert inputs[0] is not None
        return _arrays(options, inputs[0].features[-1])

    def compute(self, options: Options, inputs: Sequence[Any], arrays: Mapping[str, Array]) -> Array:
        x, *given = inputs
        present = [array for array in (x, *given) if array is not None]
        batch, frames = (max(array.shape[i] for array in present) for i in (0, 1))
        frames = 0 if any(array.shape[1] == 0 for array in present) else frames
        x = np.broadcast_to(x, (batch, frames, *x.shape[2:]))
        *rows, steps, size = x.shape
        units = options["units"]
        state = [np.zeros((prod(rows), units), x.dtype) for _ in _states(options)]
        for i, array in enumerate(given):
            if array is not None:
                state[i] = np.broadcast_to(array, (*rows, units)).reshape(-1, units)
        step = _step(options, arrays)
        flat = x.reshape(-1, steps, size)
        y = np.zeros((len(flat), steps, units), x.dtype)
        for t in reversed(range(steps)) if options["reverse"] else range(steps):
            state = step(flat[:, t], state)
            y[:, t] = state[1 if options["emit"] == "c" else 0]
        return y.reshape(*rows, steps, units)
