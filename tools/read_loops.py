"""Read the x86-64 kernels' inner loops in gcc's and clang's machine code: are the sums in registers?

    python tools/read_loops.py [--compiler gcc clang] [KERNEL…]        default: both compilers, the kernels of KERNELS

Compiles core/isa/KERNEL.c with the flags of setup.py and takes from the disassembly every loop without another inside
it that multiplies. A tile's loop holds its sums in registers and reads memory for inputs and weights alone; where sums
are stored to the stack within it, the product runs at a half or a third of its speed. Prints a line a kernel and ends
with an error if a loop stores more than a third of its sums (AVX2 has 16 registers, and both compilers store a few of
the widest tiles'), or if a kernel has fewer loops than tiles, since what is not unrolled has none. Needs objdump.
"""

from __future__ import annotations

import argparse
import ast
import re
from typing import NamedTuple

from machine_code import ROOT, disassemble, innermost_loops

STORE = re.compile(r".*%[xyz]mm\d+,-?(0x[0-9a-f]+)?\(%r[sb]p")
PRODUCT = re.compile(r"vpdpbusd|vdpbf16ps|vpmaddubsw|vfmadd")


class Kernel(NamedTuple):
    """The functions that hold the tiles of three gates, and how many of their loops have four products or more."""

    functions: str
    tiles: int


KERNELS = {
    "f32_avx2": Kernel("gru_after_tile|project3_tile", 4),
    "f32_avx512": Kernel("gru_after_tile|project3_tile", 8),
    "i8_avx512": Kernel("product3", 6),
    "i8_avx512vnni": Kernel("product3", 12),
    "i8_avxvnni": Kernel("product3", 5),
    "bf16_avx512": Kernel("product3", 6),
    "bf16_avx512bf16": Kernel("product3", 6),
    "fp16_avx512": Kernel("product3", 6),
}


class Loop(NamedTuple):
    function: str
    address: int
    products: int
    stores: int  # of vectors, to the stack
    instructions: int


def flags(kernel: str) -> list[str]:
    """setup.py's flags for the kernel's instruction set, from its table, without running it."""
    names: dict[str, ast.expr] = {}
    for node in ast.parse((ROOT / "setup.py").read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            names[node.targets[0].id] = node.value

    def words(node: ast.expr) -> list[str]:
        if isinstance(node, ast.Name):
            return words(names[node.id])
        if isinstance(node, ast.Starred):
            return words(node.value)
        if isinstance(node, ast.List):
            return [word for item in node.elts for word in words(item)]
        return [ast.literal_eval(node)]

    table = names["ISA"]
    assert isinstance(table, ast.Dict)
    sets = dict(zip(map(ast.unparse, filter(None, table.keys)), table.values, strict=True))
    entry = sets[repr(kernel.rpartition("_")[2])]
    assert isinstance(entry, ast.Call)
    return words(entry.args[1])


def loops(text: str) -> list[Loop]:
    """The innermost loops that multiply."""
    found = []
    for loop in innermost_loops(text):
        products = sum(bool(PRODUCT.match(op)) for op, _ in loop.body)
        stores = sum(op.startswith("v") and bool(STORE.match(rest)) for op, rest in loop.body)
        if products:
            found.append(Loop(loop.function, loop.address, products, stores, len(loop.body)))
    return found


def tiles(kernel: Kernel, text: str) -> list[Loop]:
    """The loops of the kernel's tiles. An epilogue's activations multiply by vectors as well, and are long."""
    return [
        loop
        for loop in loops(text)
        if re.fullmatch(kernel.functions, loop.function) and 3 <= loop.products > (loop.instructions - 12) / 6
    ]


def faults(kernel: Kernel, found: list[Loop]) -> list[str]:
    wrong = [
        f"{loop.function} at {loop.address:x}: {loop.stores} of {loop.products} sums go to the stack at every step"
        for loop in found
        if loop.stores * 3 > loop.products
    ]
    large = sum(loop.products >= 4 for loop in found)
    if large < kernel.tiles:
        wrong.append(f"{large} loops of four products or more where {kernel.tiles} tiles have them: not unrolled")
    return wrong


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kernels", nargs="*", metavar="KERNEL", help=", ".join(KERNELS))
    parser.add_argument("--compiler", nargs="+", default=["gcc", "clang"])
    options = parser.parse_args()
    bad = 0
    for name in options.kernels or KERNELS:
        for compiler in options.compiler:
            kernel = KERNELS[name]
            found = tiles(kernel, disassemble(compiler, name, flags(name)))
            wrong = faults(kernel, found)
            most = max((loop.products for loop in found), default=0)
            print(f"{name}, {compiler}: {len(found)} loops of up to {most} products", "" if wrong else "in registers")
            for line in wrong:
                print(f"  {line}")
            bad += len(wrong)
    if bad:
        raise SystemExit(f"{bad} faults")


if __name__ == "__main__":
    main()
