"""The process in which one library is measured: `python worker.py NAME CORES`, commands as JSON lines.

Commands come on standard input and each is answered by one line on standard output, which the libraries
cannot reach (what they print goes to standard error):

    {"do": "load", "cell": "8,100,64,64,1,1", "unit": "gru", "settings": {…}}
                                            → {"version": …, "error": …, "rms_error": …, "call_s": …}
    {"do": "block", "calls": n, "warm": m}  → {"wall_s": …, "cpu_s": …}
    {"do": "drop"}                          → {}
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import sys
import time
from dataclasses import replace
from typing import Any

# Inputs a measurement rotates through, even because ONNX Runtime's step alternates two state buffers.
INPUTS = 4
# Steps of a stream that are compared with the exact answer.
CHECKED_STEPS = 12


class Differences:
    """How far answers are from the exact ones: the largest difference, and the outputs' relative RMS."""

    def __init__(self) -> None:
        self.largest = self.squares = self.size = 0.0

    def add(self, got: Any, want: Any, output: bool = True) -> None:
        import numpy as np  # not before the process is pinned

        difference = got - want
        self.largest = float(np.maximum(self.largest, np.abs(difference).max()))  # max() would lose a NaN
        if output:
            self.squares += float((difference**2).sum())
            self.size += float((want**2).sum())

    def reply(self) -> dict[str, float]:
        return {"error": self.largest, "rms_error": (self.squares / self.size) ** 0.5}


def load(name: str, cell: Any, options: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Build the runner, compare its outputs with the exact ones, and time one call."""
    import numpy as np
    from cells import Cell, exact, make_c0, make_inputs, make_tensors
    from runners import RUNNERS, Settings, Work

    settings, differences = Settings(**options), Differences()
    tensors = make_tensors(cell)
    xs, h0 = make_inputs(cell, INPUTS)
    c0 = make_c0(cell) if cell.unit == "lstm" else None
    runner = importlib.import_module(RUNNERS[name]).Runner(Work(cell, tensors, xs, h0, c0, settings))
    if settings.kind == "step":
        long = Cell(cell.B, CHECKED_STEPS, cell.I, cell.H)
        order = [k % INPUTS for k in range(CHECKED_STEPS)]
        x = np.concatenate([xs[k] for k in order], axis=1)
        y = exact(long, tensors, x, np.zeros_like(h0), reset=settings.reset)[0]
        runner.restart()
        for t, k in enumerate(order):
            runner.call(k)
            differences.add(runner.result()[0][:, 0], y[:, t])
        return runner, differences.reply() | {"call_s": _time_call(runner)}
    # A long batch is judged by its first rows: rows are independent, and float64 takes its time.
    rows = min(cell.B, 4) if cell.T * cell.H > 50_000 else cell.B
    judged = replace(cell, B=rows)
    runner.call(0)  # the input that is judged comes second: a state kept by mistake shows
    runner.call(1)
    begin = h0[:, :rows], None if c0 is None else c0[:, :rows]
    y, *states = exact(judged, tensors, xs[1][:rows], *begin, settings.reset)
    got_y, *got_states = runner.result()
    shapes = [array.shape for array in (got_y, *got_states)]
    if shapes != [(cell.B, cell.T, cell.D * cell.H), *[h0.shape] * len(states)]:
        raise ValueError(f"outputs of shapes {shapes}")
    differences.add(got_y[:rows], y)
    for got, state in zip(got_states, states, strict=True):
        differences.add(got[:, :rows], state, output=False)
    return runner, differences.reply() | {"call_s": _time_call(runner)}


def _time_call(runner: Any) -> float:
    """Seconds of one call, the shorter of two."""
    times = []
    for k in (2, 3):
        start = time.perf_counter()
        runner.call(k)
        times.append(time.perf_counter() - start)
    return min(times)


def block(runner: Any, calls: int, warm: int) -> dict[str, float]:
    """Time `calls` calls after `warm` untimed ones, over rotating inputs; CPU time is the whole process's."""
    call = runner.call
    order = [k % INPUTS for k in range(calls)]
    for k in range(warm):
        call(k % INPUTS)
    gc.disable()
    cpu = time.process_time()
    start = time.perf_counter()
    for k in order:
        call(k)
    wall = time.perf_counter() - start
    cpu = time.process_time() - cpu
    gc.enable()
    return {"wall_s": wall, "cpu_s": cpu}


def main() -> None:
    from cells import Cell

    name, cores = sys.argv[1], {int(core) for core in sys.argv[2].split(",")}
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, cores)
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    runner = None
    for line in sys.stdin:
        command = json.loads(line)
        try:
            if command["do"] == "load":
                runner = None
                gc.collect()
                cell = Cell.parse(command["cell"], command["unit"])
                runner, reply = load(name, cell, command["settings"])
                reply["version"] = str(runner.version)
            elif command["do"] == "block":
                reply = block(runner, command["calls"], command["warm"])
            else:
                runner, reply = None, {}
                gc.collect()
        except Exception as problem:  # the coordinator prints the reason and goes on without this peer
            from runners import Unusable

            told = isinstance(problem, Unusable)
            reply = {"unusable": str(problem) if told else f"{type(problem).__name__}: {problem}"[:300]}
        replies.write(json.dumps(reply) + "\n")
        replies.flush()


if __name__ == "__main__":
    main()
