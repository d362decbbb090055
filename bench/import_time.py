"""What does `import cgru` cost beyond `import numpy`? Fresh processes in turn: wall time and processor time, in ms."""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time

CASES = {"nothing": "pass", "numpy": "import numpy", "cgru": "import cgru"}
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
        wall, cpu = (statistics.median(column) for column in zip(*values, strict=True))
        print(f"{CASES[name]:32} {wall:9.1f} {cpu:8.1f}")
    # Of neighbours in time, so that a change of the machine's load meets both.
    pairs = [[a - b for a, b in zip(*pair, strict=True)] for pair in zip(times["cgru"], times["numpy"], strict=True)]
    wall, cpu = (statistics.median(column) for column in zip(*pairs, strict=True))
    print(f"{'cgru beyond numpy':32} {wall:9.1f} {cpu:8.1f}")


if __name__ == "__main__":
    main()
