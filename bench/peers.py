"""Compare cgru with the libraries that run the same GRU or LSTM: `python bench/peers.py [--grid small]`.

Each library is measured in a process of its own, pinned to one core, on the same weights and inputs; the
processes take turns, round after round, so that what disturbs the machine disturbs them alike. Every
output is first compared with float64. bench/README.md says how to read the table.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import ceiling
import report
from cells import GATES, Cell, grid
from runners import RUNNERS

BLOCK_S = 0.03  # a timed block lasts about this long, or one call
UNDISTURBED = 0.97  # least share of its core's time a one-thread block must have had
FULL_SPEED = 0.92  # … and least share of its speed the core must have before and after it
ATTEMPTS = 6  # … or the block is measured again, at most so often, and not for longer than
ATTEMPTS_S = 2.0
ENOUGH = 3  # undisturbed rounds that suffice without the others
NOISY = 0.05  # quartile distance over median above which a cell gets further rounds
# Beyond it, an output is wrong.
TOLERANCE = {"float32": 5e-6, "fp16": 2e-2, "bf16": 1e-1, "int8": 3e-1, "int8x16": 1e-1}
SLOW = 8  # a peer so many times slower than the fastest takes part in SLOW_ROUNDS rounds only
SLOW_ROUNDS = 3

# What holds a library to AVX2. The others cannot be held.
AVX2_ENVIRONMENT = {
    "cgru": {"CGRU_ISA": "avx2"},
    "before": {"CGRU_ISA": "avx2"},
    "torch": {"MKL_ENABLE_INSTRUCTIONS": "AVX2"},
    "openvino": {"ONEDNN_MAX_CPU_ISA": "AVX2"},
}
DEFAULT_PEERS = {
    ("sequence", "float32"): "cgru,torch,onnxruntime,openvino,tract,mnn",
    ("sequence", "int8"): "cgru:int8,cgru:int8x16,cgru,torch:int8,openvino:bf16,onnxruntime,tract,litert:int8",
    ("sequence", "int8x16"): "cgru:int8x16,cgru,torch:int8,openvino:bf16,onnxruntime,tract,litert:int8",
    ("sequence", "bf16"): "cgru:bf16,cgru:fp16,cgru,torch:bf16,openvino:bf16,onnxruntime,tract",
    ("sequence", "fp16"): "cgru:fp16,cgru,torch:bf16,openvino:bf16,onnxruntime,tract",
    ("step", "float32"): "cgru,torch,onnxruntime,openvino,tract,mnn,litert,numpy",
    ("step", "int8"): "cgru:int8,cgru:int8x16,cgru,torch:int8,openvino:bf16,onnxruntime,litert:int8",
    ("step", "int8x16"): "cgru:int8x16,cgru,torch:int8,openvino:bf16,onnxruntime,litert:int8",
    ("step", "bf16"): "cgru:bf16,cgru:fp16,cgru,torch:bf16,openvino:bf16,onnxruntime",
    ("step", "fp16"): "cgru:fp16,cgru,torch:bf16,openvino:bf16,onnxruntime",
    ("lstm", "float32"): "cgru,torch,onnxruntime,openvino,tract",
    ("lstm", "int8"): "cgru:int8,cgru:int8x16,cgru,onnxruntime:int8,torch:int8,openvino:bf16,onnxruntime",
    ("lstm", "int8x16"): "cgru:int8x16,cgru,onnxruntime:int8,torch:int8,openvino:bf16,onnxruntime",
    ("lstm", "bf16"): "cgru:bf16,cgru:fp16,cgru,torch:bf16,openvino:bf16,onnxruntime",
    ("lstm", "fp16"): "cgru:fp16,cgru,torch:bf16,openvino:bf16,onnxruntime",
}


class Gone(Exception):
    """The measuring process ended without an answer."""


class Worker:
    """One library in its own process, at one precision, and what it measured on the present cell."""

    def __init__(self, label: str, cores: list[int], isa: str | None, threads: int, before: Path | None) -> None:
        self.label = label
        self.name, _, precision = label.partition(":")
        self.precision = precision or "float32"
        if self.name not in RUNNERS:
            raise SystemExit(f"no peer is called {self.name!r}; there are {', '.join(RUNNERS)}")
        if self.precision not in TOLERANCE:
            raise SystemExit(f"no precision is called {self.precision!r}; there are {', '.join(TOLERANCE)}")
        self.refusal: str | None = None
        self.environment = os.environ | dict.fromkeys(
            ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(threads)
        )
        if isa == "avx2" and self.name not in AVX2_ENVIRONMENT:
            self.refusal = "cannot be held to AVX2"
        elif isa == "avx2":
            self.environment |= AVX2_ENVIRONMENT[self.name]
        elif isa and self.name in ("cgru", "before"):
            self.environment["CGRU_ISA"] = isa
        if self.name == "before":
            if before is None:
                raise SystemExit("the column 'before' needs --before SRC")
            self.environment["PYTHONPATH"] = str(before.resolve())
        self.cores = cores
        self.process: subprocess.Popen[str] | None = None
        self.version = ""
        self.rate = 0.0  # flop/s on the last cell: what tells a hopeless cell beforehand

    def ask(self, **command: Any) -> dict[str, Any]:
        """Send one command; return the reply; raise Gone if the process dies over it."""
        if self.process is None:
            self.process = subprocess.Popen(
                [sys.executable, str(Path(__file__).with_name("worker.py")), self.name,
                 ",".join(map(str, self.cores))],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
                env=self.environment,
            )  # fmt: skip
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        try:
            self.process.stdin.write(json.dumps(command) + "\n")
            self.process.stdin.flush()
            line = self.process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            status = self.process.wait()
            self.process = None
            raise Gone(f"its process ended with status {status}")
        return json.loads(line)

    def stop(self) -> None:
        if self.process is not None and self.process.stdin:
            self.process.stdin.close()
            self.process.wait()
            self.process = None


@dataclass
class Entry:
    """What one library did on one cell: its errors, and the seconds per call of every round."""

    refusal: str | None = None
    error: float = 0.0
    rms_error: float = 0.0
    calls: int = 1
    warm: int = 0
    call_s: float = 0.0
    clean: list[float] = field(default_factory=list)
    disturbed: list[float] = field(default_factory=list)  # something else used the core meanwhile

    @property
    def usable(self) -> bool:
        return self.refusal is None

    @property
    def samples(self) -> list[float]:
        """The undisturbed rounds where there are enough of them, else all."""
        return self.clean if len(self.clean) >= ENOUGH else self.clean + self.disturbed

    def median(self) -> float:
        return statistics.median(self.samples)

    def quartiles(self) -> tuple[float, float]:
        if len(self.samples) < 2:
            return self.samples[0], self.samples[0]
        low, _, high = statistics.quantiles(self.samples, n=4, method="inclusive")
        return low, high

    def spread(self) -> float:
        low, high = self.quartiles()
        return (high - low) / self.median()

    def as_json(self) -> dict[str, Any]:
        if not self.usable:
            return {"refusal": self.refusal}
        low, high = self.quartiles()
        return {
            "median_s": self.median(), "q1_s": low, "q3_s": high, "min_s": min(self.samples),
            "rounds": len(self.samples), "calls_per_round": self.calls, "disturbed_rounds": len(self.disturbed),
            "max_abs_error": self.error, "rms_error": self.rms_error,
        }  # fmt: skip


def load(worker: Worker, cell: Cell, options: argparse.Namespace) -> Entry:
    """Have the worker build its network; decide how many calls make a block."""
    if worker.refusal:
        return Entry(refusal=worker.refusal)
    if worker.rate and cell.flop / worker.rate > options.longest:
        return Entry(refusal=f"about {cell.flop / worker.rate:.0f} s a call expected")
    settings = {name: getattr(options, name) for name in ("reset", "kind", "threads")}
    settings["precision"] = worker.precision
    sizes = ",".join(str(size) for size in (cell.B, cell.T, cell.I, cell.H, cell.L, cell.D))
    try:
        reply = worker.ask(do="load", cell=sizes, unit=cell.unit, settings=settings)
    except Gone as problem:
        return Entry(refusal=str(problem))
    if "unusable" in reply:
        return Entry(refusal=reply["unusable"])
    worker.version = reply["version"]
    worker.rate = cell.flop / reply["call_s"]
    if not reply["error"] <= TOLERANCE[worker.precision]:
        return Entry(refusal=f"wrong numbers: off by {reply['error']:.1e}")
    calls = max(1, int(BLOCK_S / reply["call_s"]))
    # A cold cache and a cold predictor matter where calls are short.
    warm = 0 if reply["call_s"] > BLOCK_S else max(1, calls // 5)
    errors = {"error": reply["error"], "rms_error": reply["rms_error"]}
    return Entry(**errors, calls=calls, warm=warm, call_s=reply["call_s"])


def one_block(worker: Worker, entry: Entry, probe: ceiling.Probe | None) -> None:
    """Time one block; with a probe, again when the process did not have the whole core to itself."""
    best, quality, spent = 0.0, -1.0, 0.0
    speed = probe.share() if probe else 1.0
    for _ in range(ATTEMPTS if probe else 1):
        try:
            reply = worker.ask(do="block", calls=entry.calls, warm=entry.warm)
        except Gone as problem:
            reply = {"unusable": str(problem)}
        if "unusable" in reply:
            entry.refusal = reply["unusable"]
            return
        before, speed = speed, probe.share() if probe else 1.0
        present = min(reply["cpu_s"] / reply["wall_s"] / UNDISTURBED, before / FULL_SPEED, speed / FULL_SPEED)
        if present > quality:
            best, quality = reply["wall_s"], present
        spent += reply["wall_s"]
        if quality >= 1 or spent > ATTEMPTS_S:
            break
    (entry.disturbed if probe and quality < 1 else entry.clean).append(best / entry.calls)


def measure(
    cell: Cell, workers: list[Worker], probe: ceiling.Probe | None, options: argparse.Namespace
) -> dict[str, Entry]:
    """All workers on one cell, in turns."""
    entries = {worker.label: load(worker, cell, options) for worker in workers}
    running = [worker for worker in workers if entries[worker.label].usable]
    fastest = min((entries[worker.label].call_s for worker in running), default=0.0)
    done, rounds = 0, options.rounds
    while done < rounds:
        # Each round begins with another one, so that nobody always follows the same neighbour.
        shift = done % len(running) if running else 0
        for worker in running[shift:] + running[:shift]:
            entry = entries[worker.label]
            slow = entry.call_s > SLOW * fastest and entry.call_s > 0.1
            if entry.usable and not (slow and done >= SLOW_ROUNDS):
                one_block(worker, entry, probe)
                if options.threads > 1:
                    time.sleep(0.05)  # let the threads of the last one finish spinning
        done += 1
        if done == rounds and rounds < 3 * options.rounds and fastest < 0.5:
            shown = [entry for entry in entries.values() if entry.usable and entry.call_s <= 3 * fastest]
            if any(entry.spread() > NOISY for entry in shown):
                rounds += options.rounds
    for worker in running:
        with contextlib.suppress(Gone):
            worker.ask(do="drop")
    return entries


def choose_cores(count: int, core: int | None) -> list[int]:
    """The cores to measure on; the coordinator moves to another one where there is one."""
    allowed = sorted(os.sched_getaffinity(0))
    if count > len(allowed):
        raise SystemExit(f"--threads {count}: this process may use {len(allowed)} cores")
    cores = allowed[-count:] if core is None else [core, *(c for c in allowed if c != core)][:count]
    others = set(allowed) - set(cores)
    if others:
        os.sched_setaffinity(0, others)
    return cores


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("cells", nargs="*", metavar="B,T,I,H[,L[,D]]", help="cells to measure instead of a grid")
    add("--grid", choices=("table", "small", "odd", "step"), help="a named set of cells")
    add("--kind", choices=("sequence", "step"), default="sequence", help="step: one step a call")
    add("--cell", choices=tuple(GATES), default="gru", help="lstm: whole sequences only")
    add("--reset", choices=("after", "before"), default="after")
    add("--precision", choices=tuple(TOLERANCE), default="float32", help="with float32 beside it")
    add("--peers", help=f"comma-separated, NAME or NAME:PRECISION; names: {', '.join(RUNNERS)}")
    add("--rivals", help="the columns the ratio is taken with (default: all that are not cgru)")
    add("--before", type=Path, metavar="SRC", help="src folder of another build of cgru: the column 'before'")
    add("--rounds", type=int, default=11, help="rounds per cell (default 11)")
    add("--threads", type=int, default=1)
    add("--isa", help="CGRU_ISA for cgru; avx2 also holds PyTorch and OpenVINO to AVX2")
    add("--core", type=int, help="the core to measure on (default: the last one allowed)")
    add("--longest", type=float, default=5.0, metavar="S", help="leave out longer calls (default 5 s)")
    add("--ceiling", type=Path, metavar="FILE", help="what ceiling.py wrote, instead of measuring")
    add("--json", type=Path, metavar="FILE", help="write everything there")
    return parser.parse_args()


def main() -> None:
    options = parse_arguments()
    try:
        cells = [Cell.parse(text) for text in options.cells]
        cells = cells or grid(options.grid or ("step" if options.kind == "step" else "small"))
        cells = [replace(cell, unit=options.cell) for cell in cells]
    except ValueError as problem:
        raise SystemExit(str(problem)) from problem
    if options.kind == "step" and any((cell.T, cell.L, cell.D) != (1, 1, 1) for cell in cells):
        raise SystemExit("--kind step wants cells of one step (T=1), one layer, one direction")
    if options.cell == "lstm" and (options.kind, options.reset) != ("sequence", "after"):
        raise SystemExit("--cell lstm is compared on whole sequences, and has no reset gate")
    kind = "lstm" if options.cell == "lstm" else options.kind
    labels = (options.peers or DEFAULT_PEERS[kind, options.precision]).split(",")
    if options.isa and not options.peers:
        labels = [label for label in labels if label.partition(":")[0] in AVX2_ENVIRONMENT]
    strangers = set(options.rivals.split(",")) - set(labels) if options.rivals else set()
    if strangers:
        raise SystemExit(f"--rivals: {', '.join(sorted(strangers))} not among the columns {', '.join(labels)}")
    cores = choose_cores(options.threads, options.core)
    ceilings = json.loads(options.ceiling.read_text()) if options.ceiling else ceiling.measure(cores[0])
    probe = ceiling.Probe(cores[0]) if options.threads == 1 else None
    workers = [Worker(label, cores, options.isa, options.threads, options.before) for label in labels]
    table = report.Table(labels, ceilings, options)
    print(table.heading())
    rows = []
    try:
        for cell in cells:
            entries = measure(cell, workers, probe, options)
            rows.append(table.as_json(cell, entries))
            print(table.row(cell, entries), flush=True)
    finally:
        for worker in workers:
            worker.stop()
    print(table.footing())
    if options.json:
        apart = ("json", "ceiling", "cells", "before")
        settings = {name: value for name, value in vars(options).items() if name not in apart}
        versions = {worker.name: worker.version for worker in workers if worker.version}
        versions["python"] = sys.version.split()[0]
        whole = {"ceilings": ceilings, "settings": settings, "versions": versions, "cells": rows}
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(whole, indent=1) + "\n")


if __name__ == "__main__":
    main()
