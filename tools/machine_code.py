"""The innermost loops of a C file in the machine code that a compiler makes of it, for tools that count in them."""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
ISA = ROOT / "src" / "cgru" / "core" / "isa"
#: What setup.py compiles every kernel with.
FLAGS = ["-std=gnu11", "-O3", "-g0", "-ffp-contract=off", "-fvisibility=hidden", "-fPIC"]
_INCLUDES = ["-Iinclude", "-Isrc/cgru/core"]
_LINE = re.compile(r"\s*([0-9a-f]+):\s+(?:\{vex\}\s+)?(\S+)\s*(.*)")
#: Jumps of x86-64; conditional branches of AArch64.
_JUMP = re.compile(r"j|b\.|cb|tb")


class Loop(NamedTuple):
    """``body`` holds each instruction's mnemonic and operands; ``address`` is that of the first."""

    function: str
    address: int
    body: list[tuple[str, str]]


def disassemble(compiler: str, kernel: str, flags: list[str], objdump: str = "objdump") -> str:
    """The machine code of core/isa/KERNEL.c by ``compiler`` with :data:`FLAGS` and ``flags``."""
    with tempfile.TemporaryDirectory() as folder:
        target = str(Path(folder, "kernel.o"))
        source = str(ISA / f"{kernel}.c")
        subprocess.run([compiler, *FLAGS, *flags, *_INCLUDES, "-c", source, "-o", target], cwd=ROOT, check=True)
        command = [objdump, "-d", "--no-show-raw-insn", target]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def innermost_loops(text: str) -> Iterator[Loop]:
    """Every loop without another inside it: from the target of a jump backwards to that jump."""
    for block in text.split("\n\n"):
        head = re.match(r"[0-9a-f]+ <([^>]+)>:", block.strip())
        lines = [match for line in block.splitlines() if (match := _LINE.match(line))]
        if not head or not lines:
            continue
        at = {int(line[1], 16): position for position, line in enumerate(lines)}
        spans = []
        for position, line in enumerate(lines):
            target = re.search(r"\b([0-9a-f]+) <", line[3]) if _JUMP.match(line[2]) else None
            first = at.get(int(target[1], 16)) if target else None
            if first is not None and first <= position:
                spans.append((first, position))
        for first, last in spans:
            if not any(first <= a and b <= last and (a, b) != (first, last) for a, b in spans):
                body = [(line[2], line[3].split("//")[0].strip()) for line in lines[first : last + 1]]
                yield Loop(head[1].partition(".")[0], int(lines[first][1], 16), body)
