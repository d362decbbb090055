"""How late is a short call that comes every 10 ms, and what does waiting for it cost?

`python bench/paced.py [--threads 2]` calls one GRU layer on a clock, as sound or control does, and prints the
latencies and the processor time. Threads that spin between calls show in the second, threads that sleep too
deeply in the first.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import time
from typing import Any

from cells import Cell, make_inputs, make_tensors


def paced(cell: Cell, threads: int, period_s: float, calls: int) -> dict[str, float]:
    """Latency in µs of the calls on the clock and back to back, and processor use."""
    import cgru

    layer = cgru.GRU.from_torch(make_tensors(cell))
    xs, h0 = make_inputs(cell, 4)
    inputs = itertools.cycle(xs)

    def timed() -> float:
        x = next(inputs)
        start = time.perf_counter()
        layer(x, h0, threads=threads)
        return time.perf_counter() - start

    for _ in range(50):
        timed()
    cpu = time.process_time()
    work_s = statistics.median(timed() for _ in range(200))
    cpu_per_call = (time.process_time() - cpu) / 200
    latencies = []
    cpu, began = time.process_time(), time.perf_counter()
    due = began
    for _ in range(calls):
        due += period_s
        time.sleep(max(0.0, due - time.perf_counter()))
        latencies.append(timed())
    wall = time.perf_counter() - began
    cpu = time.process_time() - cpu
    # Idle time is what no call occupied; its processor time is all that back-to-back calls do not need.
    idle = wall - sum(latencies)
    tenths = statistics.quantiles(latencies, n=10)
    return {
        "back_to_back_us": 1e6 * work_s,
        "median_us": 1e6 * statistics.median(latencies),
        "p90_us": 1e6 * tenths[8],
        "p90_above_back_to_back_us": 1e6 * (tenths[8] - work_s),
        "max_us": 1e6 * max(latencies),
        "cpu_percent_of_wall": 100 * cpu / wall,
        "cpu_percent_of_idle": 100 * max(0.0, cpu - calls * cpu_per_call) / idle,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cell", nargs="?", default="1,10,512,512", metavar="B,T,I,H[,L[,D]]")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--period", type=float, default=10, metavar="MS")
    parser.add_argument("--calls", type=int, default=300)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    cell = Cell.parse(options.cell)
    figures: dict[str, Any] = paced(cell, options.threads, options.period / 1e3, options.calls)
    if options.json:
        print(json.dumps(figures))
        return
    print(f"{cell}, {options.threads} threads, a call every {options.period:g} ms, {options.calls} calls")
    for name, value in figures.items():
        print(f"  {name:28} {value:10.1f}")


if __name__ == "__main__":
    main()
