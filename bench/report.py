"""The printed table and the JSON rows of bench/peers.py."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

import ceiling
from cells import Cell

if TYPE_CHECKING:
    from peers import Entry

FLOAT_BYTES = 4


def floor_s(cell: Cell, ceilings: dict[str, Any], isa: str | None, threads: int) -> float:
    """A lower bound for the seconds of one float32 call on this machine.

    Per layer and direction: the input projection at the arithmetic peak, plus T steps, each the longer of
    its arithmetic at the peak and of reading R_r, R_z, R_n (12·H² bytes) once at the bandwidth measured for
    a working set of that size. A single step (T = 1) reads W as well. The pointwise part counts as nothing.
    """
    peak = 1e9 * threads * ceiling.float32_peak(ceilings, isa)
    total = 0.0
    for width in cell.layer_inputs():
        size = FLOAT_BYTES * 3 * cell.H * (cell.H + (width if cell.T == 1 else 0))
        projection = 0.0 if cell.T == 1 else 2 * cell.B * cell.T * 3 * cell.H * width / peak
        arithmetic = 2 * cell.B * (size // FLOAT_BYTES) / peak
        share = size / threads
        reading = share / (1e9 * ceiling.read_rate(ceilings, share)) if ceilings["read"] else 0.0
        total += cell.D * (projection + cell.T * max(arithmetic, reading))
    return total


def duration(seconds: float) -> str:
    """Seconds as µs or ms with three or four digits."""
    if seconds >= 0.01:
        return f"{seconds * 1e3:.4g} ms"
    return f"{seconds * 1e6:.4g} µs" if seconds >= 1e-4 else f"{seconds * 1e6:.3g} µs"


class Table:
    """Text rows as the cells are measured; reasons for empty places are collected for the end."""

    def __init__(self, labels: list[str], ceilings: dict[str, Any], options: argparse.Namespace) -> None:
        self.labels, self.ceilings, self.options = labels, ceilings, options
        self.reasons: dict[tuple[str, str], list[str]] = {}
        self.reduced = options.precision != "float32" or any(":" in label for label in labels)
        self.width = 24 if self.reduced else 15
        # The column of cgru that is compared: the first one.
        self.ours = next((label for label in labels if label.partition(":")[0] == "cgru"), None)
        self.rivals = [label for label in labels if label.partition(":")[0] != "cgru"]

    def heading(self) -> str:
        about, options = self.ceilings["machine"], self.options
        peak = ceiling.float32_peak(self.ceilings, options.isa)
        first = (
            f"{about['processor']}, {self.ceilings['clock_GHz']} GHz, {options.threads} thread(s), "
            f"{options.kind}, reset {options.reset}, isa {options.isa or 'auto'}; "
            f"float32 peak of a core {peak} GFLOP/s"
        )
        columns = [f"{label:>{self.width}}" for label in self.labels]
        return "\n".join(
            [first, f"{'median a call, ± half the quartile distance':34}" + "".join(columns)
             + f"  {'best peer':12} {'ratio':>6} {'GFLOP/s':>8} {'of peak':>7} {'of floor':>8}"]
        )  # fmt: skip

    def _floor(self, cell: Cell) -> float:
        return floor_s(cell, self.ceilings, self.options.isa, self.options.threads)

    def _compare(self, cell: Cell, entries: dict[str, Entry]) -> dict[str, Any]:
        """The best rival, its time over ours, and how near we are to what the core can do."""
        times = {label: entry.median() for label, entry in entries.items() if entry.usable}
        compared: dict[str, Any] = {}
        rivals = [label for label in self.rivals if label in times]
        best = min(rivals, key=lambda label: times[label], default=None)
        if best:
            compared["best_peer"] = best
        usable = [entry for entry in entries.values() if entry.usable]
        rounds = sum(len(entry.clean + entry.disturbed) for entry in usable)
        compared["disturbed"] = sum(len(entry.disturbed) for entry in usable) / max(rounds, 1)
        if self.ours in times:
            ours = times[self.ours]
            compared["gflops"] = cell.flop / ours / 1e9
            if self.ours == "cgru":
                peak = ceiling.float32_peak(self.ceilings, self.options.isa) * self.options.threads
                compared["of_peak"] = compared["gflops"] / peak
                compared["of_floor"] = self._floor(cell) / ours
            if best:
                compared["ratio"] = times[best] / ours
        return compared

    def row(self, cell: Cell, entries: dict[str, Entry]) -> str:
        text = f"{cell!s:34}"
        for label in self.labels:
            entry = entries[label]
            if entry.usable:
                shown = f"{duration(entry.median())} ±{50 * entry.spread():.0f}%"
                if self.reduced:
                    shown += f" ({entry.error:.0e})"
            else:
                shown = "–"
                self.reasons.setdefault((label, entry.refusal or ""), []).append(str(cell))
            text += f"{shown:>{self.width}}"
        compared = self._compare(cell, entries)
        text += f"  {compared.get('best_peer', '–'):12}"
        for name, form, width in (("ratio", "{:.2f}×", 6), ("gflops", "{:.1f}", 8), ("of_peak", "{:.0%}", 7),
                                  ("of_floor", "{:.0%}", 8)):  # fmt: skip
            text += f" {form.format(compared[name]) if name in compared else '–':>{width}}"
        if compared["disturbed"] > 0.2:
            text += f"  {compared['disturbed']:.0%} of the rounds disturbed"
        return text

    def footing(self) -> str:
        lines = []
        for (label, reason), cells in self.reasons.items():
            where = "; ".join(cells) if len(cells) < 3 else f"{len(cells)} cells"
            lines.append(f"  – {label}: {reason} ({where})")
        return "\n".join(lines)

    def as_json(self, cell: Cell, entries: dict[str, Entry]) -> dict[str, Any]:
        return {
            "cell": {"B": cell.B, "T": cell.T, "I": cell.I, "H": cell.H, "L": cell.L, "D": cell.D},
            "flop": cell.flop, "floor_s": self._floor(cell), **self._compare(cell, entries),
            "peers": {label: entry.as_json() for label, entry in entries.items()},
        }  # fmt: skip
