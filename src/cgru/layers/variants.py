"""Variants of the GRU that texts teach beside it, and the layers that follow from the table of cells alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from ..arrays import flag
from ..spec.cells import CELLS, Cell
from .recurrent import Recurrent

_UPDATE = {"z": "z", "u": "z", "f": "z", "n": "n", "h": "n", "c": "n", "a": "n"}


class ThreeGate(Recurrent):
    """The unit with forget, input and output gates and one state: :func:`cgru.reference.three_gate`.

    Stacked f, i, o, c. With ``output_gate=True`` it emits o ⊙ h' (:func:`cgru.reference.three_gate_output`), else h'.
    """

    kind = "three_gate"
    GATES = ("f", "i", "o", "c")
    LETTERS: ClassVar[dict[str, str]] = {"f": "f", "i": "i", "o": "o", "c": "c", "g": "c", "n": "c"}
    OPTIONS = tuple(sorted((*Recurrent.OPTIONS, "output_gate")))

    def __init__(self, arrays: Mapping[str, Any], *, output_gate: bool = False, **options: Any) -> None:
        self.output_gate = flag(output_gate, "output_gate")
        self.cell = CELLS["three_gate_output" if self.output_gate else "three_gate"]
        super().__init__(arrays, **options)

    def describe(self) -> str:
        return super().describe() + (", output gate" if self.output_gate else "")


class MinGRU(Recurrent):
    """minGRU (Feng et al. 2024): :func:`cgru.reference.min_gru`, whose gates read the input alone.

    Stacked z, n, with weight_ih (2H, I) and bias_ih (2H,) only; z is the fraction kept, so the paper's weights come in
    by ``from_arrays(w, b_ih=b, update="write")``. The candidate is linear, as in the paper, but for ``activation``.
    """

    kind = "min_gru"
    GATES = ("z", "n")
    LETTERS: ClassVar[dict[str, str]] = _UPDATE

    def __init__(self, arrays: Mapping[str, Any], *, activation: str = "linear", **options: Any) -> None:
        self.cell = CELLS["min_gru"]
        super().__init__(arrays, activation=activation, **options)


class _Simple(Recurrent):
    """A layer of a cell that needs no switches."""

    def __init__(self, arrays: Mapping[str, Any], **options: Any) -> None:
        self.cell = CELLS[self.kind]
        super().__init__(arrays, **options)


def _layer(cell: Cell) -> type[Recurrent]:
    letters = {gate: gate for gate in cell.gates} | dict(cell.letters)
    members = {"kind": cell.name, "GATES": cell.gates, "LETTERS": letters, "__doc__": cell.step.__doc__}
    return type(cell.title, (_Simple,), members | {"__module__": __name__})


#: The layers of the cells with a title, by that title.
GENERATED_LAYERS: dict[str, type[Recurrent]] = {cell.title: _layer(cell) for cell in CELLS.values() if cell.title}
