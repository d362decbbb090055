"""What does each of cgru's recurrent cells cost beside a GRU of the same sizes? `python bench/units.py [B,T,I,H …]`

One process on one core, the cells taking turns. Medians of a whole sequence; the ratio is the GRU's median over the
cell's, so above 1 the cell is faster than the GRU. `--precision` gives all of them reduced weights.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
from cells import Cell, make_inputs

import cgru

UNITS: dict[str, tuple[type[Any], dict[str, Any]]] = {
    "GRU": (cgru.GRU, {}),
    "GRU, reset before": (cgru.GRU, {"reset": "before"}),
    "LSTM": (cgru.LSTM, {}),
    "RNN": (cgru.RNN, {}),
    "three-gate": (cgru.ThreeGate, {}),
    "MGU": (cgru.MGU, {}),
    "minGRU": (cgru.MinGRU, {}),
}
BLOCK_S = 0.02


def network(unit: str, cell: Cell, precision: str) -> cgru.Model:
    """One layer with random weights in ±1/√H."""
    layer, options = UNITS[unit]
    rng, rows = np.random.default_rng(0), len(layer.GATES) * cell.H
    shapes = {"weight_ih": (rows, cell.I), "weight_hh": (rows, cell.H), "bias_ih": (rows,), "bias_hh": (rows,)}
    if unit == "minGRU":  # no gate depends on h
        shapes = {name: shape for name, shape in shapes.items() if name.endswith("ih")}
    arrays = {f"{name}_l0": rng.uniform(-1, 1, shape) / cell.H**0.5 for name, shape in shapes.items()}
    net = cgru.Model([layer({name: array.astype(np.float32) for name, array in arrays.items()}, **options)])
    return net if precision == "float32" else net.quantize(precision)


def measure(cell: Cell, precision: str, rounds: int) -> dict[str, float]:
    """Median seconds of a sequence, by cell."""
    xs, _ = make_inputs(cell, 2)
    nets = {unit: network(unit, cell, precision) for unit in UNITS}
    calls: dict[str, int] = {}

    def block(net: cgru.Model, count: int) -> float:
        start = time.perf_counter()
        for k in range(count):
            net(xs[k % 2])
        return (time.perf_counter() - start) / count

    for unit, net in nets.items():
        block(net, 1)
        calls[unit] = max(1, int(BLOCK_S / block(net, 1)))
    seconds: dict[str, list[float]] = {unit: [] for unit in nets}
    names = list(nets)
    for turn in range(rounds):
        for unit in names[turn % len(names) :] + names[: turn % len(names)]:
            seconds[unit].append(block(nets[unit], calls[unit]))
    return {unit: statistics.median(times) for unit, times in seconds.items()}


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cells", nargs="*", default=["1,1000,256,256", "64,1000,256,256"], metavar="B,T,I,H")
    parser.add_argument("--precision", choices=("float32", "int8", "int8x16", "bf16", "fp16"), default="float32")
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--json", type=Path, help="write the seconds here as well")
    options = parser.parse_args(argv)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    found = {}
    for text in options.cells:
        cell = Cell.parse(text)
        if (cell.L, cell.D) != (1, 1):
            raise SystemExit("one layer, one direction: B,T,I,H")
        found[text] = times = measure(cell, options.precision, options.rounds)
        print(f"{cell}, {options.precision}")
        for unit, seconds in times.items():
            print(f"  {unit:18} {1e3 * seconds:10.3f} ms {1e6 * seconds / cell.T:10.3f} µs a step "
                  f"{times['GRU'] / seconds:6.2f}×")  # fmt: skip
    if options.json:
        options.json.write_text(json.dumps({"precision": options.precision, "seconds": found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
