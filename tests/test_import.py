"""`import cgru` brings in numpy and itself, nothing else that is heavy."""

from __future__ import annotations

import subprocess
import sys

import pytest

import cgru

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


def test_import_loads_what_is_always_needed_and_nothing_else() -> None:
    """The errors: a program loads the rest where it first uses it, numpy too."""
    code = "import sys, cgru; print(*sorted(name for name in sys.modules if name.startswith(('cgru', 'numpy'))))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["cgru", "cgru.errors"]


def test_a_first_output_needs_no_more_than_the_layer() -> None:
    """Nothing of files, reports, searches or graphs' lowerings, and none of Python's slow modules for small jobs."""
    code = """
import sys, numpy as np
before = set(sys.modules)
import cgru
w = np.ones((3, 1), np.float32)
cgru.GRU.from_arrays(w, w)(np.ones((1, 1), np.float32))
print(*(name for name in set(sys.modules) - before))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert "cgru.engine.alone" in loaded
    rooms = {name.split(".")[1] for name in loaded if name.startswith("cgru.")}
    assert not rooms & {"formats", "live", "reports", "search", "cli", "archive", "serve", "ray"}
    assert not loaded & {"fractions", "decimal", "dataclasses", "json", "hashlib", "pathlib", "inspect"}
    assert "cgru.engine.backends.packed_graph" not in loaded


def test_every_public_name_comes_alone() -> None:
    """As an attribute and as what is imported from the package, whatever was used before: each in a fresh package."""
    code = """
import sys
import cgru
assert {*cgru.__all__, "MGU"} <= set(dir(cgru))
for name in [*cgru.__all__, "MGU"]:
    for loaded in [loaded for loaded in sys.modules if loaded.partition(".")[0] == "cgru"]:
        del sys.modules[loaded]
    import cgru
    first = getattr(cgru, name)
    exec(f"from cgru import {name} as second")
    assert first is second, name
    print(name)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [*cgru.__all__, "MGU"]


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
