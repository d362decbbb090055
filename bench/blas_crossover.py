"""The ways to take a recurrent product, over the number of rows: what the BLAS backend's rule rests on.

    OPENBLAS_NUM_THREADS=1 python bench/blas_crossover.py

Prints, for each H and number of rows, the µs of a GRU step's recurrent product (3H outputs, H inputs) by one
sgemm, by one sgemv a row, and by sgemm in small tiles, and which is fastest. Medians of blocks that alternate
between the ways, so that a slow spell of the machine falls on all.
"""

from __future__ import annotations

import argparse
import statistics
import time

import numpy as np

from cgru.engine.backends import _blas

ROWS = (1, 2, 4, 8, 12, 16, 32, 64, 256)
WAYS = ("sgemm", "sgemv", "tiles")  # in the order of _blas.product's numbers


def measure(hidden: int, rows: int, blocks: int, seconds: float) -> list[float]:
    """µs of one product by each way: medians over ``blocks`` blocks of about ``seconds`` each."""
    rng = np.random.default_rng(0)
    w = rng.standard_normal((3 * hidden, hidden), dtype=np.float32)
    x = rng.standard_normal((rows, hidden), dtype=np.float32)
    y = np.empty((rows, 3 * hidden), np.float32)
    calls = []
    for way in range(len(WAYS)):
        start = time.perf_counter()
        _blas.product(w, x, y, way, 3)
        calls.append(max(1, int(seconds / (time.perf_counter() - start) * 3)))
    took: list[list[float]] = [[] for _ in WAYS]
    for _ in range(blocks):
        for way, times in enumerate(took):
            start = time.perf_counter()
            _blas.product(w, x, y, way, calls[way])
            times.append((time.perf_counter() - start) / calls[way] * 1e6)
    return [statistics.median(times) for times in took]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hidden", type=int, nargs="+", default=[16, 32, 64, 128, 256, 512, 1024])
    parser.add_argument("--blocks", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=0.01, help="length of a block")
    arguments = parser.parse_args()
    print(f"{'H':>5} {'rows':>5}" + "".join(f"{way:>9}" for way in WAYS) + "  fastest")
    for hidden in arguments.hidden:
        for rows in ROWS:
            times = measure(hidden, rows, arguments.blocks, arguments.seconds)
            text = "".join(f"{value:9.2f}" for value in times)
            print(f"{hidden:5} {rows:5}{text}  {WAYS[times.index(min(times))]}", flush=True)


if __name__ == "__main__":
    main()
