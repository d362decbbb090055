"""Runs code under a forced instruction set, in a process of its own, since the choice is made once for each."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest

from cgru.engine import backends

#: The interpreter for processes of their own; an emulated one is not what sys.executable says.
PYTHON = os.environ.get("CGRU_TEST_PYTHON", sys.executable)


def require() -> None:
    """Skips the whole module where the C core is not built."""
    if reason := backends.backend("packed").unavailable():
        pytest.skip(f"the packed backend cannot run: {reason}", allow_module_level=True)


def available() -> list[str]:
    """The instruction sets this machine can run; empty where the C core is not built."""
    try:
        from cgru.engine.backends._packed import isa_available
    except ImportError:
        return []
    return list(isa_available())


def float32_kernels() -> dict[str, str]:
    """Of each instruction set in the core's table, the one whose float32 kernels it runs: several share them."""
    table = Path(__file__).parents[1].joinpath("src/cgru/core/dispatch.c").read_text()
    return dict(re.findall(r"^ +KERNELS\((\w+), \d+, (\w+),", table, re.MULTILINE))


def process(code: str, isa: str | None, **environment: str) -> subprocess.CompletedProcess[str]:
    """``code`` in a new Python that imports what these tests import; ``isa`` None is that of this process."""
    variables = dict(os.environ) | environment
    if isa is not None:
        variables["CGRU_ISA"] = isa
    here = str(Path(__file__).parent)
    variables["PYTHONPATH"] = os.pathsep.join(filter(None, [here, os.environ.get("PYTHONPATH", "")]))
    return subprocess.run([PYTHON, "-c", code], env=variables, capture_output=True, text=True, timeout=300)


def arrays(code: str, isa: str | None, **environment: str) -> dict[str, np.ndarray]:
    """What ``code`` leaves in its dictionary ``found``: arrays by name."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "found.npz")
        ending = f"\nimport numpy\nnumpy.savez({str(path)!r}, **found)\n"
        done = process(code + ending, isa, **environment)
        assert done.returncode == 0, f"CGRU_ISA={isa}: {done.stderr}"
        with np.load(path) as file:
            return dict(file)
