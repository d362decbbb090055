"""The recurrent cells cgru runs: one table entry each.

A cell is an equation over stacked gates. The table says how many gates are stacked and in which canonical
order, what a row's state is made of, and where the equation stands in the oracle. The kernels know the same
cells by ``code``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from . import reference


@dataclass(frozen=True)
class Cell:
    """One recurrent cell.

    ``gates`` names the blocks of H rows stacked in ``weight_ih`` and ``weight_hh``, in canonical order;
    ``state`` the arrays of H numbers a row carries from step to step, the emitted one first; ``step`` is the
    equation in :mod:`cgru.reference`; ``two_biases`` says whether the recurrent bias must stay apart.
    """

    name: str
    code: int
    gates: tuple[str, ...]
    state: tuple[str, ...]
    step: Callable
    two_biases: bool


GRU_RESET_AFTER = Cell("gru_reset_after", 0, ("r", "z", "n"), ("h",), reference.gru_reset_after, True)
GRU_RESET_BEFORE = Cell("gru_reset_before", 1, ("r", "z", "n"), ("h",), reference.gru_reset_before, False)

CELLS: dict[str, Cell] = {cell.name: cell for cell in (GRU_RESET_AFTER, GRU_RESET_BEFORE)}
