"""What does `import cgru` cost beyond `import numpy`, and what the first output of a GRU?

Fresh processes in turn: wall time and processor time, in ms. Most of cgru is imported where it is first used, so the
second figure says what a program pays in all.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time

NUMPY = "import numpy"
FIRST_OUTPUT = (
    "import numpy as np, cgru; w = np.ones((3, 1), np.float32); cgru.GRU.from_arrays(w, w)(np.ones((1, 1), np.float32))"
)
CASES = {"nothing": "pass", "numpy": NUMPY, "import": "import numpy, cgru", "first output": FIRST_OUTPUT}
# Without compiled files every process would compile the source again, which no installation does.
ENVIRONMENT = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}


def once(code: str) -> tuple[float, float]:
    """Wall and processor milliseconds (user and system) of one interpreter that runs ``code``."""
    start = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-c", code], env=ENVIRONMENT)
    _, status, used = os.wait4(process.pid, 0)
    wall = time.perf_counter() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{code!r} failed")
    return 1e3 * wall, 1e3 * (used.ru_utime + used.ru_stime)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=40, help="processes for each case (default 40)")
    rounds = parser.parse_args().rounds
    for code in CASES.values():  # compiled files and the page cache
        once(code)
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in CASES}
    for _ in range(rounds):
        for name, code in CASES.items():
            times[name].append(once(code))
    print(f"medians of {rounds} processes each    wall ms   cpu ms")
    for name, values in times.items():
        report(name, values)
    # Of neighbours in time, so that a change of the machine's load meets both.
    for name in ("import", "first output"):
        pairs = zip(times[name], times["numpy"], strict=True)
        report(f"{name} beyond numpy", [(a[0] - b[0], a[1] - b[1]) for a, b in pairs])


def report(name: str, values: list[tuple[float, float]]) -> None:
    wall, cpu = (statistics.median(column) for column in zip(*values, strict=True))
    print(f"{name:32} {wall:9.1f} {cpu:8.1f}")


if __name__ == "__main__":
    main()
