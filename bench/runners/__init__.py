"""One module per library that can run a GRU or an LSTM: cgru and its peers, behind one small interface.

A module is imported only in the process that measures with it. Each has a class `Runner`:

    Runner(work)       loads the weights and prepares the inputs; raises `Unusable`
    runner.call(k)     the timed call, on input k: afterwards a complete output exists
    runner.result()    y (B, T, D·H) and h_n (L·D, B, H) of the last call, as numpy; of an LSTM also c_n
    runner.restart()   kind "step" only: back to a state of zeros
    runner.version     what was measured

For kind "sequence" a call runs all T steps from h0, and every call gives all outputs. For kind "step"
a call runs one step on `xs[k]` from the state the last call left, as somebody does who processes a live
stream; `result()` then gives that state as y (B, 1, H) as well.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from cells import Cell

RUNNERS = {
    "cgru": "runners.run_cgru",
    "before": "runners.run_cgru",  # another build of cgru, where peers.py --before says
    "torch": "runners.run_torch",
    "onnxruntime": "runners.run_onnxruntime",
    "openvino": "runners.run_openvino",
    "tract": "runners.run_tract",
    "mnn": "runners.run_mnn",
    "litert": "runners.run_litert",
    "numpy": "runners.run_numpy",
}


@dataclass(frozen=True)
class Settings:
    """How to run: `reset` "after" | "before"; `kind` "sequence" | "step"; `precision` "float32" | …"""

    reset: str = "after"
    kind: str = "sequence"
    precision: str = "float32"
    threads: int = 1


@dataclass(frozen=True)
class Work:
    """A network and what it is run on: tensors under PyTorch's names, inputs (B, T, I), h0 and c0 (L·D, B, H)."""

    cell: Cell
    tensors: dict[str, np.ndarray]
    xs: list[np.ndarray]
    h0: np.ndarray
    c0: np.ndarray | None  # of an LSTM alone
    settings: Settings


class Unusable(Exception):
    """The library cannot do this work here; the message says why, and the table shows it."""


def need_float32(settings: Settings, name: str) -> None:
    """Refuse a precision that the library does not have."""
    if settings.precision != "float32":
        raise Unusable(f"{name} has no {settings.precision} for this")


def need_gru(cell: Cell, name: str) -> None:
    """Refuse an LSTM where nobody wrote that runner."""
    if cell.unit != "gru":
        raise Unusable(f"{name} is compared on the GRU alone")


def need_reset_after(settings: Settings, name: str) -> None:
    """Refuse reset-before where the library has only PyTorch's form."""
    if settings.reset != "after":
        raise Unusable(f"{name} has reset-after only")
