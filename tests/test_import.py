"""`import cgru` brings in numpy and itself, nothing else that is heavy."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = ("scipy", "h5py", "safetensors", "torch", "keras", "tensorflow", "matplotlib", "onnx", "hypothesis")


def loaded_after(code: str) -> set[str]:
    code += "\nimport sys; print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


@pytest.fixture(scope="module")
def modules() -> set[str]:
    return loaded_after("import cgru")


@pytest.mark.parametrize("name", HEAVY)
def test_import_leaves_out(modules: set[str], name: str) -> None:
    assert "cgru" in modules
    assert name not in modules


def test_import_adds_nothing_foreign_to_numpy(modules: set[str]) -> None:
    """Whatever comes along beside numpy's own imports belongs to Python or is cgru."""
    new = modules - loaded_after("import numpy") - set(sys.stdlib_module_names) - {"cgru"}
    assert {name for name in new if not name.startswith("_")} == set()


def test_reference_and_packed_run_without_scipy() -> None:
    """SciPy comes with the BLAS backend alone, and only when that is used."""
    code = """
import numpy as np, cgru
g = cgru.GRU.from_arrays(np.ones((3, 1), np.float32), np.ones((3, 1), np.float32))
g(np.ones((2, 1), np.float32), backend="reference")
if cgru.engine.backends.backend("packed").unavailable() is None:
    g(np.ones((2, 1), np.float32), backend="packed")
"""
    assert "scipy" not in loaded_after(code)
