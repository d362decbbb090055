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
from collections import Counter
from typing import NamedTuple

from machine_code import ISA, disassemble, innermost_loops

DOTPROD = ["-march=armv8.2-a+dotprod"]
FUNCTIONS = ["project3_tile", "gru_after_tile", "linear_tile", "product1", "product3"]
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
    kinds: Counter[str]
    products: int

    @property
    def total(self) -> int:
        return sum(self.kinds.values())


def loops(kernel: str) -> list[Loop]:
    """The innermost loops that multiply and add."""
    flags = DOTPROD if kernel.endswith("neondot") else []
    found = []
    for loop in innermost_loops(disassemble("aarch64-linux-gnu-gcc", kernel, flags, "aarch64-linux-gnu-objdump")):
        products = sum(PRODUCTS.get(op, 0) for op, _ in loop.body)
        if products:
            kinds = Counter(
                next((kind for kind, holds in KINDS.items() if holds(op, rest)), "other") for op, rest in loop.body
            )
            found.append(Loop(loop.function, kinds, products))
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
        for loop in loops(kernel):
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
