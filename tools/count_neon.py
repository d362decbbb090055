"""Count the instructions of the NEON kernels' inner loops: what they are beside the multiply-adds.

    python tools/count_neon.py [FUNCTION…]        default: the GRU's input projection and step, and linear layers

Compiles core/isa/f32_neon.c with aarch64-linux-gnu-gcc and the flags of setup.py, and takes from the disassembly every
loop without another inside it that multiplies and adds: for a tile of R rows by V weight vectors it has R·V FMLA for
each k it advances by. Ideal for that tile are R·V FMLA, V loads of weights (half of them instructions as LDP) and R
loads of inputs; where a loop spills, loads and stores of the stack show it. Needs gcc-aarch64-linux-gnu.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
GCC = ["aarch64-linux-gnu-gcc", "-std=gnu11", "-O3", "-g0", "-ffp-contract=off", "-fvisibility=hidden", "-fPIC"]
LINE = re.compile(r"\s*([0-9a-f]+):\s+(\S+)\s*(.*)")
KINDS = {
    "by element": lambda op, rest: op == "fmla" and re.search(r"\.s\[\d\]$", rest),
    "fmla": lambda op, rest: op == "fmla",
    "spill": lambda op, rest: op in ("ldr", "str", "ldp", "stp") and "[sp" in rest,
    "load": lambda op, rest: op.startswith(("ldr", "ldp", "ldu", "ld1")),
    "copy": lambda op, rest: op in ("mov", "dup", "fmov") and "v" in rest,
}


class Loop(NamedTuple):
    function: str
    address: int
    kinds: Counter[str]

    @property
    def multiplies(self) -> int:
        return self.kinds["fmla"] + self.kinds["by element"]

    @property
    def total(self) -> int:
        return sum(self.kinds.values())


def disassemble() -> str:
    with tempfile.TemporaryDirectory() as folder:
        target = str(Path(folder, "neon.o"))
        includes = ["-Iinclude", "-Isrc/cgru/core"]
        subprocess.run([*GCC, *includes, "-c", "src/cgru/core/isa/f32_neon.c", "-o", target], cwd=ROOT, check=True)
        command = ["aarch64-linux-gnu-objdump", "-d", "--no-show-raw-insn", target]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def loops(text: str) -> list[Loop]:
    """The innermost loops that multiply and add: from the target of a branch backwards to that branch."""
    found = []
    for block in text.split("\n\n"):
        head = re.match(r"[0-9a-f]+ <([^>]+)>:", block.strip())
        lines = [match for line in block.splitlines() if (match := LINE.match(line))]
        if not head or not lines:
            continue
        at = {int(line[1], 16): position for position, line in enumerate(lines)}
        spans = []
        for position, line in enumerate(lines):
            target = re.search(r"\b([0-9a-f]+) <", line[3]) if line[2].startswith(("b.", "cb", "tb")) else None
            if target and int(target[1], 16) in at and at[int(target[1], 16)] <= position:
                spans.append((at[int(target[1], 16)], position))
        for first, last in spans:
            if any(first <= a and b <= last and (a, b) != (first, last) for a, b in spans):
                continue
            body = [(line[2], line[3].split("//")[0].strip()) for line in lines[first : last + 1]]
            if not any(op == "fmla" for op, _ in body):
                continue
            kinds = Counter(
                next((kind for kind, holds in KINDS.items() if holds(op, rest)), "other") for op, rest in body
            )
            found.append(Loop(head[1].partition(".")[0], int(lines[first][1], 16), kinds))
    return found


def main() -> None:
    wanted = sys.argv[1:] or ["project3_tile", "gru_after_tile", "linear_tile"]
    print("| function | FMLA | loads | spills | copies | other | all | per FMLA | per multiply-add |")
    print("|---|---|---|---|---|---|---|---|---|")
    rows = set()
    for loop in loops(disassemble()):
        if loop.function in wanted and loop.kinds["by element"]:  # the others are activations
            counts = [loop.multiplies, *(loop.kinds[name] for name in ("load", "spill", "copy", "other")), loop.total]
            rows.add((wanted.index(loop.function), *counts))
    for place, *counts in sorted(rows):
        each = counts[-1] / counts[0]
        print(f"| {wanted[place]} | {' | '.join(map(str, counts))} | {each:.2f} | {each / 4:.3f} |")


if __name__ == "__main__":
    main()
