"""What does another compiler, or other flags, cost the kernels?

    python bench/compilers.py gcc clang
    python bench/compilers.py gcc "gcc -O2 -D_FORTIFY_SOURCE=2 -fstack-protector-strong -fcf-protection"
    python bench/compilers.py gcc clang --isa avx2 avx512 --hidden 64 128 256 512 --batch 1 3 64

Builds the package once for each command, in a folder of its own that is kept for the next call (--fresh builds anew);
as in a distribution's build, setup.py's -O3 comes after the command's flags. Then the builds take turns: one process
each, one thread, a GRU over a sequence. A figure is processor time, not the clock's, the least over all rounds, so that
others on the machine disturb it little; beside it stands its ratio to the first build's.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PRECISIONS = ["float32", "int8", "int8x16", "bf16", "fp16"]
BLOCK_S = 0.02

# One build's process: a line of JSON with a cell in, a line with the least seconds a step out.
WORKER = """
import json, sys, time
import numpy as np
import cgru
nets = {}
def network(precision, hidden):
    if (precision, hidden) not in nets:
        rng = np.random.default_rng(0)
        shapes = [(3 * hidden, hidden), (3 * hidden, hidden), (3 * hidden,), (3 * hidden,)]
        arrays = [rng.uniform(-1, 1, shape).astype(np.float32) / hidden**0.5 for shape in shapes]
        net = cgru.Model([cgru.GRU.from_arrays(*arrays)])
        nets[precision, hidden] = net if precision == "float32" else net.quantize(precision)
    return nets[precision, hidden]
for line in sys.stdin:
    precision, batch, hidden, block = json.loads(line)
    net = network(precision, hidden)
    steps = max(4, 200_000_000 // (batch * hidden * hidden * 60))
    x = np.random.default_rng(1).standard_normal((batch, steps, hidden), np.float32)
    net(x, backend="packed")
    least, begun = float("inf"), time.process_time()
    while time.process_time() - begun < block:
        start = time.process_time()
        net(x, backend="packed")
        least = min(least, time.process_time() - start)
    print(least / steps, flush=True)
"""


def build(command: str, fresh: bool) -> Path:
    """The package as ``command`` compiles it; the folder to put on the path."""
    folder = Path(tempfile.gettempdir(), "cgru-compilers", hashlib.sha256(command.encode()).hexdigest()[:12])
    if fresh:
        shutil.rmtree(folder, ignore_errors=True)
    print(f"building with {command} in {folder}", file=sys.stderr)
    settings = os.environ | {"CC": command, "CGRU_NO_OPENMP": "1"}
    steps = ["build", "-b", str(folder / "base"), "--build-lib", str(folder / "lib"), "-t", str(folder / "temp")]
    done = subprocess.run(
        [sys.executable, "setup.py", "-q", *steps], cwd=ROOT, env=settings, capture_output=True, text=True
    )
    if done.returncode:
        raise SystemExit(f"{done.stdout}{done.stderr}\n{command}: the build failed")
    return folder / "lib"


def worker(path: Path, isa: str) -> subprocess.Popen[str]:
    settings = os.environ | {"PYTHONPATH": str(path), "CGRU_NUM_THREADS": "1"} | ({"CGRU_ISA": isa} if isa else {})
    return subprocess.Popen(
        [sys.executable, "-c", WORKER], cwd="/", env=settings, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )


def ask(process: subprocess.Popen[str], cell: tuple[object, ...]) -> float:
    assert process.stdin
    assert process.stdout
    process.stdin.write(json.dumps(cell) + "\n")
    process.stdin.flush()
    return float(process.stdout.readline())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("commands", nargs="+", metavar="COMPILER")
    parser.add_argument("--isa", nargs="+", default=[""], help="instruction sets; default: the best of this machine")
    parser.add_argument("--precision", nargs="+", default=["float32", "int8"], choices=PRECISIONS)
    parser.add_argument("--batch", nargs="+", type=int, default=[1, 3, 64])
    parser.add_argument("--hidden", nargs="+", type=int, default=[64, 128, 256, 512])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--fresh", action="store_true")
    options = parser.parse_args()
    paths = [build(command, options.fresh) for command in options.commands]
    print(f"| set | precision | B | H | {' | '.join(f'`{command}`, µs a step' for command in options.commands)} |")
    print("|---" * (4 + len(paths)) + "|", flush=True)
    for isa in options.isa:
        processes = [worker(path, isa) for path in paths]
        for precision in options.precision:
            for batch in options.batch:
                for hidden in options.hidden:
                    least = [float("inf")] * len(paths)
                    for _ in range(options.rounds):
                        for place, process in enumerate(processes):
                            least[place] = min(least[place], ask(process, (precision, batch, hidden, BLOCK_S)))
                    figures = [f"{least[0] * 1e6:.2f}"]
                    figures += [f"{one * 1e6:.2f} ({one / least[0]:.2f}×)" for one in least[1:]]
                    print(f"| {isa or 'best'} | {precision} | {batch} | {hidden} | {' | '.join(figures)} |", flush=True)
        for process in processes:
            process.communicate()


if __name__ == "__main__":
    main()
