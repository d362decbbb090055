"""The recurrent cells cgru runs: one table entry each.

A cell is an equation over stacked gates. The table says which gates are stacked and in which canonical order, which
arrays hold them, what a row's state is made of, and where the equation stands in the oracle. The kernels know the
same cells by ``name``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import NamedTuple

from .. import reference

#: The arrays of most cells, in the order the equations take them.
_ARRAYS = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")


class Cell(NamedTuple):
    """One recurrent cell.

    ``gates`` names the blocks of H rows stacked in ``weight_ih`` and ``weight_hh``, in canonical order; ``arrays``
    the arrays of one direction, in the order the equation takes them (biases may be absent: they are zero then);
    ``state`` the arrays a row carries from step to step, the emitted one first; ``carried`` those of them that a
    caller gives and takes. ``step`` is the equation in :mod:`cgru.reference`. ``separate_candidate_bias``: the reset
    gate multiplies the candidate's recurrent bias, so it cannot be added to the input's. A cell with a ``title`` is a
    layer class of that name by itself, and ``letters`` say what else its gates may be called; the others have classes
    with switches of their own.
    """

    name: str
    gates: tuple[str, ...]
    step: Callable
    arrays: tuple[str, ...] = _ARRAYS
    state: tuple[str, ...] = ("h",)
    carried: tuple[str, ...] = ("h",)
    separate_candidate_bias: bool = False
    title: str = ""
    letters: Mapping[str, str] = MappingProxyType({})


_RZN = ("r", "z", "n")
_IFGO = ("i", "f", "g", "o")
_FIOC = ("f", "i", "o", "c")

CELLS: dict[str, Cell] = {
    cell.name: cell
    for cell in (
        Cell("gru_reset_after", _RZN, reference.gru_reset_after, separate_candidate_bias=True),
        Cell("gru_reset_before", _RZN, reference.gru_reset_before),
        Cell("rnn", ("h",), reference.rnn),
        Cell("lstm", _IFGO, reference.lstm, state=("h", "c"), carried=("h", "c")),
        Cell(
            "lstm_peephole",
            _IFGO,
            reference.lstm_peephole,
            arrays=(*_ARRAYS, "weight_ph"),
            state=("h", "c"),
            carried=("h", "c"),
        ),
        Cell(
            "lstm_projected",
            _IFGO,
            reference.lstm_projected,
            arrays=(*_ARRAYS, "weight_hr"),
            state=("h", "c"),
            carried=("h", "c"),
        ),
        Cell(
            "lstm_peephole_projected",
            _IFGO,
            reference.lstm_peephole_projected,
            arrays=(*_ARRAYS, "weight_ph", "weight_hr"),
            state=("h", "c"),
            carried=("h", "c"),
        ),
        Cell("three_gate", _FIOC, reference.three_gate),
        Cell("three_gate_output", _FIOC, reference.three_gate_output, state=("y", "h")),
        Cell("min_gru", ("z", "n"), reference.min_gru, arrays=("weight_ih", "bias_ih")),
        Cell("mgu", ("z", "n"), reference.mgu, title="MGU", letters={"f": "z", "u": "z", "h": "n", "c": "n"}),
    )
}
