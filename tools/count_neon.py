"""Count the instructions of the NEON kernels' inner loops: what they are beside the multiply-adds.

    python tools/count_neon.py [KERNEL…] [--functions NAME…]        default: every core/isa/*_neon*.c;
                                                                    the tiles of one and of three sums to a unit

Compiles the kernels with aarch64-linux-gnu-gcc and the flags of setup.py, and takes from the disassembly every loop
without another inside it that multiplies and adds: a tile of R rows by V weight vectors. `per 16` is its instructions
for 16 products (an SDOT; four FMLA; two SMULL). Where a loop spills, loads and stores of the stack show it; moves are
copies of registers and scalars put into vectors. Needs gcc-aarch64-linux-gnu.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import tempfile
from collections import Counter
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
ISA = ROOT / "src" / "cgru" / "core" / "isa"
GCC = ["aarch64-linux-gnu-gcc", "-std=gnu11", "-O3", "-g0", "-ffp-contract=off", "-fvisibility=hidden", "-fPIC"]
DOTPROD = ["-march=armv8.2-a+dotprod"]
FUNCTIONS = ["project3_tile", "gru_after_tile", "linear_tile", "product1", "product3"]
LINE = re.compile(r"\s*([0-9a-f]+):\s+(\S+)\s*(.*)")
PRODUCTS = {"fmla": 4, "sdot": 16, "smull": 8, "smull2": 8, "smlal": 8, "smlal2": 8}
KINDS = {
    "multiply": lambda op, rest: op in PRODUCTS,
    "add": lambda op, rest: op in ("sadalp", "addp", "saddlp"),
    "widen": lambda op, rest: op in ("fcvtl", "fcvtl2", "shl", "shll", "shll2", "ushll", "and", "sxtl", "bic"),
    "spill": lambda op, rest: op in ("ldr", "str", "ldp", "stp") and "[sp" in rest,
    "load": lambda op, rest: op.startswith(("ldr", "ldp", "ldu", "ld1")),
    "move": lambda op, rest: op in ("mov", "dup", "fmov") and "v" in rest,
}


class Loop(NamedTuple):
    function: str
    address: int
    kinds: Counter[str]
    products: int

    @property
    def total(self) -> int:
        return sum(self.kinds.values())


def disassemble(source: Path) -> str:
    with tempfile.TemporaryDirectory() as folder:
        target = str(Path(folder, "neon.o"))
        flags = [*GCC, *(DOTPROD if source.stem.endswith("neondot") else []), "-Iinclude", "-Isrc/cgru/core"]
        subprocess.run([*flags, "-c", str(source), "-o", target], cwd=ROOT, check=True)
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
            products = sum(PRODUCTS.get(op, 0) for op, _ in body)
            if products:
                kinds = Counter(
                    next((kind for kind, holds in KINDS.items() if holds(op, rest)), "other") for op, rest in body
                )
                found.append(Loop(head[1].partition(".")[0], int(lines[first][1], 16), kinds, products))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    kernels = sorted(path.stem for path in ISA.glob("*_neon*.c"))
    parser.add_argument("kernels", nargs="*", default=[], metavar="KERNEL", help=", ".join(kernels))
    parser.add_argument("--functions", nargs="+", metavar="NAME", default=FUNCTIONS)
    options = parser.parse_args()
    print("| kernel | function | products | multiply | add | widen | loads | spills | moves | other | all | per 16 |")
    print("|---|---|---|---|---|---|---|---|---|---|---|---|")
    for kernel in options.kernels or kernels:
        rows = set()
        for loop in loops(disassemble(ISA / f"{kernel}.c")):
            # Activations have a multiply-add or two by whole vectors, and no loads beside them.
            if loop.function in options.functions and loop.kinds["load"]:
                counts = [loop.kinds[kind] for kind in ("multiply", "add", "widen", "load", "spill", "move", "other")]
                rows.add((options.functions.index(loop.function), loop.products, *counts, loop.total))
        for place, products, *counts in sorted(rows):
            numbers = " | ".join(map(str, counts))
            name = options.functions[place]
            print(f"| {kernel} | {name} | {products} | {numbers} | {16 * counts[-1] / products:.2f} |")


if __name__ == "__main__":
    main()
