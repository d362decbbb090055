"""Measure what one core of this machine can do at most: `python bench/ceiling.py [--json FILE]`.

Arithmetic peaks (GFLOP/s, GOP/s; a multiply-add counts as two) per instruction set, and read bandwidth
(GB/s, 10⁹ bytes) for working sets from half the L1 to main memory. Compiles ceiling.c with the C compiler
that builds cgru (`CC`, else cc). Each figure is the best of several runs: a ceiling, not a median.
"""

from __future__ import annotations

import argparse
import ctypes
import functools
import json
import os
import platform
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

KIB = 1024
SIZES_KIB = (16, 24, 48, 128, 256, 512, 768, 1024, 1536, 2048, 4096, 8192, 12288, 16384, 24576, 65536, 262144)
PREFETCH_BYTES = (0, 1024, 4096)
PEAKS = {  # name in the report: (function, the question it depends on)
    "fma_avx512": ("fma_avx512", "has_avx512"),
    "fma_avx2": ("fma_avx2", "has_avx2"),
    "muladd_sse2": ("muladd_sse2", None),
    "fma_neon": ("fma_neon", "has_neon"),
    "int8_avx512_vnni": ("int8_vnni512", "has_vnni"),
    "int8_avx2": ("int8_avx2", "has_avx2"),
    "int8_dotprod": ("int8_dotprod", "has_dotprod"),
    "bf16_avx512": ("bf16_avx512", "has_bf16"),
}
READERS = (("read_avx512", "has_avx512"), ("read_avx2", "has_avx2"), ("read_neon", "has_neon"))


def build(folder: str) -> ctypes.CDLL:
    """Compile ceiling.c into `folder` and load it."""
    source, library = Path(__file__).with_name("ceiling.c"), Path(folder, "ceiling.so")
    compiler = os.environ.get("CC", "cc").split()
    subprocess.run([*compiler, "-O2", "-shared", "-fPIC", str(source), "-o", str(library)], check=True)
    loaded = ctypes.CDLL(str(library))
    loaded.now_s.restype = ctypes.c_double
    loaded.make_buffer.restype = ctypes.c_void_p
    loaded.make_buffer.argtypes = [ctypes.c_int64]
    loaded.free_buffer.argtypes = [ctypes.c_void_p]
    return loaded


def best_rate(library: ctypes.CDLL, run: Callable[[int], float], seconds: float, repeats: int = 7) -> float:
    """Units per second of `run(rounds)`, which returns the units it did: the best of `repeats` runs."""
    rounds = 1
    while True:
        start = library.now_s()
        run(rounds)
        spent = library.now_s() - start
        if spent > seconds / 4:
            break
        rounds *= 2
    rounds = max(1, int(rounds * seconds / spent))
    best = 0.0
    for _ in range(repeats):
        start = library.now_s()
        units = run(rounds)
        best = max(best, units / (library.now_s() - start))
    return best


def measure(core: int | None = None, seconds: float = 0.02) -> dict[str, Any]:
    """All ceilings of one core (pinned to `core` while it lasts), as the JSON report has them."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(before) if core is None else core})
    try:
        with tempfile.TemporaryDirectory() as folder:
            library = build(folder)
            report: dict[str, Any] = {"machine": machine(), "unit": "10^9 per second", "peak": {}}

            def function(name: str) -> Callable[..., float]:
                found = getattr(library, name)
                found.restype = ctypes.c_double
                return found

            def there(question: str | None) -> bool:
                return question is None or (hasattr(library, question) and bool(getattr(library, question)()))

            chain = functools.partial(_counted, function("clock_chain"))
            report["clock_GHz"] = round(best_rate(library, chain, seconds) / 1e9, 3)
            for label, (name, question) in PEAKS.items():
                if hasattr(library, name) and there(question):
                    rate = best_rate(library, functools.partial(_counted, function(name)), seconds)
                    report["peak"][label] = round(rate / 1e9, 1)
            report["read"] = _bandwidth(library, function, there, seconds)
            return report
    finally:
        os.sched_setaffinity(0, before)


class Probe:
    """Tells whether a core is at full speed now, by a few milliseconds of arithmetic on it.

    A neighbour on the other hardware thread of the core, on this system or on another guest of the same host,
    takes up to half of its speed and shows in no processor time.
    """

    SECONDS = 0.002

    def __init__(self, core: int) -> None:
        self.core = core
        self._folder = tempfile.TemporaryDirectory()
        self._library = build(self._folder.name)
        self._run: Callable[..., float] | None = None
        for name, question in PEAKS.values():
            if hasattr(self._library, name) and (question is None or getattr(self._library, question)()):
                function = getattr(self._library, name)
                function.restype = ctypes.c_double
                self._run = function
                break
        self._rounds, self._best = 1000, 0.0
        if self._run is not None:
            while self._spent() < self.SECONDS:
                self._rounds *= 2
            for _ in range(20):
                self.share()

    def _spent(self) -> float:
        assert self._run is not None
        before = os.sched_getaffinity(0)
        os.sched_setaffinity(0, {self.core})
        start = self._library.now_s()
        self._run(ctypes.c_int64(self._rounds))
        spent = self._library.now_s() - start
        os.sched_setaffinity(0, before)
        return spent

    def share(self) -> float:
        """Present speed over the best this probe has seen; 1 where there is nothing to measure with."""
        if self._run is None:
            return 1.0
        rate = 1 / self._spent()
        self._best = max(self._best, rate)
        return rate / self._best


def _counted(function: Callable[..., float], rounds: int) -> float:
    return function(ctypes.c_int64(rounds))


def _bandwidth(
    library: ctypes.CDLL,
    function: Callable[[str], Callable[..., float]],
    there: Callable[[str | None], bool],
    seconds: float,
) -> list[dict[str, float]]:
    """GB/s per working-set size with the widest loads: plain, and at the best prefetch distance."""
    names = [name for name, question in READERS if hasattr(library, name) and there(question)]
    if not names:
        return []
    read = function(names[0])
    buffer = library.make_buffer(max(SIZES_KIB) * KIB)
    if not buffer:
        raise MemoryError(f"no {max(SIZES_KIB)} KiB for the bandwidth measurement")
    rows = []
    for size in SIZES_KIB:
        rates = {}
        for ahead in PREFETCH_BYTES:
            fixed = (ctypes.c_void_p(buffer), ctypes.c_int64(size * KIB), ctypes.c_int64(ahead))
            run = functools.partial(_counted, functools.partial(read, *fixed))
            rates[ahead] = round(best_rate(library, run, seconds, 5) / 1e9, 1)
        ahead = max(rates, key=lambda key: rates[key])
        rows.append({"KiB": size, "plain": rates[0], "best": rates[ahead], "prefetch_bytes": ahead})
    library.free_buffer(buffer)
    return rows


def machine() -> dict[str, Any]:
    """What the figures belong to: processor, caches, cores, system, compiler."""
    found: dict[str, Any] = {"processor": platform.processor() or platform.machine()}
    found["system"] = platform.system() + " " + platform.release()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        first = cpuinfo.read_text().split("\n\n")[0].splitlines()
        pairs = [line.split(":", 1) for line in first if ":" in line]
        fields = {name.strip(): value.strip() for name, value in pairs}
        found["processor"] = fields.get("model name", found["processor"])
        if "cpu family" in fields:
            found["family_model"] = f"{fields['cpu family']}/{fields['model']}"
    for cache in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        kind = (cache / "type").read_text().strip()
        if kind != "Instruction":
            found[f"L{(cache / 'level').read_text().strip()}"] = (cache / "size").read_text().strip()
    found["cores"] = os.cpu_count()
    command = [*os.environ.get("CC", "cc").split(), "--version"]
    compiler = subprocess.run(command, capture_output=True, text=True)
    found["compiler"] = compiler.stdout.splitlines()[0] if compiler.stdout else ""
    return found


def read_rate(report: dict[str, Any], size: float) -> float:
    """Read bandwidth in GB/s for a working set of `size` bytes, between the measured sizes."""
    rows = report["read"]
    previous = rows[0]
    for row in rows:
        if row["KiB"] * KIB >= size:
            if row is previous:
                return row["best"]
            share = (size / KIB - previous["KiB"]) / (row["KiB"] - previous["KiB"])
            return previous["best"] + share * (row["best"] - previous["best"])
        previous = row
    return previous["best"]


def float32_peak(report: dict[str, Any], isa: str | None = None) -> float:
    """The float32 peak in GFLOP/s of `isa` ("avx2", "avx512", "generic", "neon"), or of the widest."""
    names = {"avx512": "fma_avx512", "avx2": "fma_avx2", "generic": "muladd_sse2", "neon": "fma_neon"}
    if isa in names and names[isa] in report["peak"]:
        return report["peak"][names[isa]]
    return max(rate for name, rate in report["peak"].items() if name in names.values())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--core", type=int, help="core to pin to (default: the last one allowed)")
    parser.add_argument("--seconds", type=float, default=0.05, help="length of one timed run (default 0.05)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there as well")
    arguments = parser.parse_args()
    report = measure(arguments.core, arguments.seconds)
    about = report["machine"]
    print(f"{about['processor']}, {report['clock_GHz']} GHz (measured), {about['compiler']}")
    for name, rate in report["peak"].items():
        print(f"  {name:18} {rate:9.1f} {'GOP/s' if name.startswith('int8') else 'GFLOP/s'}")
    print("  read, working set    plain   best (GB/s)   prefetched ahead")
    for row in report["read"]:
        ahead = row["prefetch_bytes"]
        print(f"  {row['KiB']:10} KiB  {row['plain']:9.1f}  {row['best']:9.1f}       {ahead:6} bytes")
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
