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
    its arithmetic at the peak and of reading the recurrent matrices (for a GRU 12·H² bytes) once at the bandwidth
    measured for a working set of that size. A single step (T = 1) reads W as well. The pointwise part counts as
    nothing.
    """
    peak = 1e9 * threads * ceiling.float32_peak(ceilings, isa)
    total = 0.0
    for width in cell.layer_inputs():
        size = FLOAT_BYTES * cell.gates * cell.H * (cell.H + (width if cell.T == 1 else 0))
        projection = 0.0 if cell.T == 1 else 2 * cell.B * cell.T * cell.gates * cell.H * width / peak
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
        self.reduced = any(":" in label for label in labels)
        self.width = 32 if self.reduced else 15
        # The first column of cgru is compared in the row itself, each other one in a line of its own below.
        self.ours = [label for label in labels if label.partition(":")[0] == "cgru"]
        others = [label for label in labels if label.partition(":")[0] != "cgru"]
        self.rivals = options.rivals.split(",") if options.rivals else others
        self.rival_width = max(map(len, ["best peer", *self.rivals]))

    def heading(self) -> str:
        about, options = self.ceilings["machine"], self.options
        peak = ceiling.float32_peak(self.ceilings, options.isa)
        work = "LSTM" if options.cell == "lstm" else f"reset {options.reset}"
        lines = [
            f"{about['processor']}, {self.ceilings['clock_GHz']} GHz, {options.threads} thread(s), "
            f"{options.kind}, {work}, isa {options.isa or 'auto'}; float32 peak of a core {peak} GFLOP/s"
        ]
        if self.ours and self.rivals:
            lines.append(f"ratio: the fastest of {', '.join(self.rivals)} over {self.ours[0]}")
        if self.reduced:
            lines.append("own f32: float32 cgru over it; in brackets: largest error | relative RMS error")
        columns = "".join(f"{label:>{self.width}}" for label in self.labels)
        own = f" {'own f32':>7}" if self.reduced else ""
        lines.append(
            f"{'median a call, ± half the quartile distance':38}{columns}  {'best peer':{self.rival_width}} "
            f"{'ratio':>6}{own} {'GFLOP/s':>8} {'of peak':>7} {'of floor':>8}"
        )
        return "\n".join(lines)

    def _floor(self, cell: Cell) -> float:
        return floor_s(cell, self.ceilings, self.options.isa, self.options.threads)

    def _compare(self, cell: Cell, entries: dict[str, Entry], ours: str | None) -> dict[str, Any]:
        """The best rival, its time and float32 cgru's over ours, and how near we are to what the core can do."""
        times = {label: entry.median() for label, entry in entries.items() if entry.usable}
        compared: dict[str, Any] = {}
        rivals = [label for label in self.rivals if label in times]
        best = min(rivals, key=lambda label: times[label], default=None)
        if best:
            compared["best_peer"] = best
        if ours in times:
            seconds = times[ours]
            compared["gflops"] = cell.flop / seconds / 1e9
            if ours == "cgru":
                peak = ceiling.float32_peak(self.ceilings, self.options.isa) * self.options.threads
                compared["of_peak"] = compared["gflops"] / peak
                compared["of_floor"] = self._floor(cell) / seconds
            elif "cgru" in times:
                compared["own_float32"] = times["cgru"] / seconds
            if best:
                compared["ratio"] = times[best] / seconds
                compared["ratios"] = {label: times[label] / seconds for label in rivals}
        return compared

    @staticmethod
    def _disturbed(entries: dict[str, Entry]) -> float:
        usable = [entry for entry in entries.values() if entry.usable]
        rounds = sum(len(entry.clean + entry.disturbed) for entry in usable)
        return sum(len(entry.disturbed) for entry in usable) / max(rounds, 1)

    def row(self, cell: Cell, entries: dict[str, Entry]) -> str:
        text = f"{cell!s:38}"
        for label in self.labels:
            entry = entries[label]
            if entry.usable:
                shown = f"{duration(entry.median())} ±{50 * entry.spread():.0f}%"
                if self.reduced:
                    shown += f" ({entry.error:.0e} | {entry.rms_error:.0e})"
            else:
                shown = "–"
                self.reasons.setdefault((label, entry.refusal or ""), []).append(str(cell))
            text += f"{shown:>{self.width}}"
        text += self._figures(cell, entries, self.ours[0] if self.ours else None)
        disturbed = self._disturbed(entries)
        if disturbed > 0.2:
            text += f"  {disturbed:.0%} of the rounds disturbed"
        for label in self.ours[1:]:
            if entries[label].usable:
                text += f"\n{'  ' + label:{38 + self.width * len(self.labels)}}{self._figures(cell, entries, label)}"
        return text

    def _figures(self, cell: Cell, entries: dict[str, Entry], ours: str | None) -> str:
        compared = self._compare(cell, entries, ours)
        text = f"  {compared.get('best_peer', '–'):{self.rival_width}}"
        for name, form, width in (("ratio", "{:.2f}×", 6), ("own_float32", "{:.2f}×", 7), ("gflops", "{:.1f}", 8),
                                  ("of_peak", "{:.0%}", 7), ("of_floor", "{:.0%}", 8)):  # fmt: skip
            if name != "own_float32" or self.reduced:
                text += f" {form.format(compared[name]) if name in compared else '–':>{width}}"
        return text

    def footing(self) -> str:
        lines = []
        for (label, reason), cells in self.reasons.items():
            where = "; ".join(cells) if len(cells) < 3 else f"{len(cells)} cells"
            lines.append(f"  – {label}: {' '.join(reason.split())} ({where})")
        return "\n".join(lines)

    def as_json(self, cell: Cell, entries: dict[str, Entry]) -> dict[str, Any]:
        sizes = {"B": cell.B, "T": cell.T, "I": cell.I, "H": cell.H, "L": cell.L, "D": cell.D, "unit": cell.unit}
        first = self.ours[0] if self.ours else None
        return {
            "cell": sizes, "flop": cell.flop, "floor_s": self._floor(cell),
            **self._compare(cell, entries, first), "disturbed": self._disturbed(entries),
            "others": {label: self._compare(cell, entries, label) for label in self.ours[1:]},
            "peers": {label: entry.as_json() for label, entry in entries.items()},
        }  # fmt: skip
