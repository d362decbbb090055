"""Recurrences over time: one direction of one layer, and the state it ends in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from ...errors import ShapeError
from ..activations import ACTIVATIONS, GATE_ACTIVATIONS
from ..cells import CELLS, Cell
from ..operation import Array, ArrayInfo, Operation, Option, Options, at_least, features, register, timed
from ..values import Value

#: Bookkeeping of a row beside a scan's arrays: what it has begun with, and a scale that reduced precision carries.
BOOKKEEPING = 2
#: The first of it: nothing yet; given a state, and no frame that counted since; a frame that counted.
FRESH, GIVEN, EMITTED = 0.0, 2.0, 1.0


@register
class Scan(Operation):
    """One recurrent cell over time, in one direction: (B, n, I) → what the cell emits at each frame.

    The equations are :mod:`cgru.reference`'s, the arrays those of :mod:`cgru.spec.cells` under torch's names. Where
    ``mask`` is False the state holds, and the output repeats the last one (``repeat``) or is zero. A row begins with
    ``h0`` and ``c0`` where they are given, else with zeros. ``reverse`` walks time from a row's end; the outputs stay
    at their frame's time unless ``flip`` puts them in the order of processing (Keras' go_backwards).
    """

    name = "scan"
    roles = ("x", "mask?", "h0?", "c0?")
    options: ClassVar[Mapping[str, Option]] = {
        "cell": Option(str, ..., tuple(CELLS)),
        "units": Option(int, ..., at_least(1)),
        "emitted": Option(int, 0, at_least(0)),
        "activation": Option(str, "tanh", tuple(sorted(GATE_ACTIVATIONS))),
        "recurrent_activation": Option(str, "sigmoid", tuple(sorted(GATE_ACTIVATIONS))),
        "reverse": Option(bool, False),
        "flip": Option(bool, False),
        "repeat": Option(bool, True),
    }

    def is_whole(self, options: Options) -> bool:
        return options["reverse"]

    def infer(self, options: Options, inputs: Sequence[Value | None], where: str) -> Value:
        value, cell = timed(features(inputs[0], where, axes=1), where), CELLS[options["cell"]]
        emitted = emitted_size(options)
        if emitted != options["units"] and "weight_hr" not in cell.arrays:
            raise ShapeError(f"{where}: {cell.name} emits its {options['units']} units, not {emitted}")
        mask = inputs[1] if len(inputs) > 1 else None
        if mask is not None and (mask.dtype != "bool" or mask.clock != value.clock):
            raise ShapeError(
                f"{where}: its mask must have the frames of x, {value.describe()}; found {mask.describe()}"
            )
        for array, given in zip(cell.state, inputs[2:], strict=False):
            wanted = Value((emitted if array == cell.state[0] else options["units"],), None)
            if given is not None and given != wanted:
                raise ShapeError(f"{where}: {array}0 must be {wanted.describe()}, found {given.describe()}")
        return Value((emitted,), value.clock)

    def arrays(self, options: Options, inputs: Sequence[Value | None]) -> dict[str, ArrayInfo]:
        value = inputs[0]
        assert value is not None
        return cell_arrays(CELLS[options["cell"]], value.features[0], options["units"], emitted_size(options))

    def state(self, options: Options, inputs: Sequence[Value | None]) -> list[tuple[str, int]]:
        first, *others = CELLS[options["cell"]].state
        return [(first, emitted_size(options)), *((name, options["units"]) for name in others)]


def emitted_size(options: Options) -> int:
    return options["emitted"] or options["units"]


def cell_arrays(cell: Cell, size: int, units: int, emitted: int) -> dict[str, ArrayInfo]:
    """The arrays of one direction of a layer with ``size`` inputs, in the cell's order."""
    rows = len(cell.gates) * units
    known = {
        "weight_ih": ArrayInfo((rows, size), matrix=True),
        "weight_hh": ArrayInfo((rows, emitted), matrix=True),
        "weight_hr": ArrayInfo((emitted, units), matrix=True),
        "weight_ph": ArrayInfo((3 * units,)),
        "bias_ih": ArrayInfo((rows,), optional=True),
        "bias_hh": ArrayInfo((rows,), optional=True),
    }
    return {stem: known[stem] for stem in cell.arrays}


def scan_frames(
    options: Options,
    x: Array,
    state: list[Array],
    flag: Array,
    valid: Array | None,
    arrays: Mapping[str, Array],
    record: dict[str, Any] | None = None,
) -> tuple[Array, list[Array]]:
    """The equation: emitted (B, n, H) and the new state, from states (B, size) and the bookkeeping ``flag`` (B,).

    ``flag`` moves on in place. ``record`` receives, for every gate, what it did: (B, n, size).
    """
    cell = CELLS[options["cell"]]
    σ, φ = ACTIVATIONS[options["recurrent_activation"]], ACTIVATIONS[options["activation"]]
    shapes = cell_arrays(cell, x.shape[-1], options["units"], emitted_size(options))
    weights = [arrays[key] if key in arrays else np.zeros(info.shape, x.dtype) for key, info in shapes.items()]
    batch, steps = x.shape[:2]
    h, y = list(state), np.zeros((batch, steps, emitted_size(options)), x.dtype)
    with np.errstate(over="ignore", invalid="ignore", under="ignore"):
        for t in reversed(range(steps)) if options["reverse"] else range(steps):
            *new, gates = cell.step(x[:, t], *h, *weights, σ, φ)
            ok = np.ones(batch, bool) if valid is None else valid[:, t]
            h = [np.where(ok[:, None], a, b) for a, b in zip(new, h, strict=True)]
            if record is not None:
                held = dict(zip(cell.state, h, strict=True)) | {"z": 1.0}
                for name, value in gates.items():
                    kept = record.setdefault(name, np.zeros((batch, steps, value.shape[-1]), np.float32))
                    kept[:, t] = np.where(ok[:, None], value, held.get(name, 0.0))
            flag[ok] = EMITTED
            shown = flag == EMITTED if options["repeat"] else ok
            y[:, t] = np.where(shown[:, None], h[0], 0)
    return y[:, ::-1] if options["flip"] else y, h


@register
class LastState(Operation):
    """A state array that a scan ends in: (B, size). ``array`` is the cell's name for it ("h", "c").

    ``as_output``: as the scan's last output has it, which is zero for a row without a frame that counted, and, where
    the scan does not repeat, for one whose last frame did not count. Its input must be a scan's result.
    """

    name = "last_state"
    roles = ("scan", "mask?")
    options: ClassVar[Mapping[str, Option]] = {
        "array": Option(str, "h"),
        "size": Option(int, ..., at_least(1)),
        "as_output": Option(bool, False),
    }
    whole = as_of_now = True

    def infer(self, options: Options, inputs: Sequence[Value | None], where: str) -> Value:
        timed(features(inputs[0], where, "scan", axes=1), where, "scan")
        return Value((options["size"],), None)
