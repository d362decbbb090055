"""An installed cgru does what it should: run by tools/build_wheels.py on each wheel, outside any checkout.

Needs pytest and numpy alone. Elsewhere the same tests run on whatever cgru is installed.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cgru

#: Set by the script that builds wheels: what is tested must be a wheel's installation.
INSTALLED = os.environ.get("CGRU_TEST_INSTALLED")
SCIPY = importlib.util.find_spec("scipy") is not None
PACKED = cgru.show_config().backends["packed"]
needs_packed = pytest.mark.skipif(PACKED is not None, reason=f"the packed backend cannot run: {PACKED}")


def gru(x: Any, w_ih: Any, w_hh: Any, b_ih: Any, b_hh: Any) -> Any:
    """PyTorch's equations in float64, from zeros: x (T, I) → (T, H)."""
    hidden = w_hh.shape[1]
    h, out = np.zeros(hidden), []
    for x_t in x.astype(np.float64):
        gi, gh = w_ih @ x_t + b_ih, w_hh @ h + b_hh
        r, z = 1 / (1 + np.exp(-(gi + gh)[: 2 * hidden])).reshape(2, hidden)
        n = np.tanh(gi[2 * hidden :] + r * gh[2 * hidden :])
        h = (1 - z) * n + z * h
        out.append(h)
    return np.array(out)


def weights(inputs: int, hidden: int) -> list[Any]:
    rng = np.random.default_rng(hidden)
    shapes = ((3 * hidden, inputs), (3 * hidden, hidden), (3 * hidden,), (3 * hidden,))
    return [(rng.uniform(-1, 1, shape) / np.sqrt(hidden)).astype(np.float32) for shape in shapes]


def python(code: str, *arguments: str, **rest: Any) -> str:
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=300, **rest)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.skipif(not INSTALLED, reason="CGRU_TEST_INSTALLED is not set: this need not be a wheel")
def test_the_files_are_those_of_the_wheel() -> None:
    assert Path(cgru.__file__).is_relative_to(sys.prefix)
    distribution = importlib.metadata.distribution("cgru")
    assert distribution.version == cgru.__version__
    names = {str(path) for path in distribution.files or []}
    assert {"cgru/py.typed", "cgru/demo/co2_gru.pt"} <= names
    assert any("licenses/LICENSE" in name for name in names)
    assert {Path(name).name.split(".")[0] for name in names if name.endswith((".so", ".pyd"))} == {"_packed", "_blas"}
    assert not [name for name in names if name.endswith((".c", ".h", ".pyx")) or name.startswith("tests")]
    assert [script.name for script in distribution.entry_points] == ["cgru"]


def test_every_instruction_set_of_this_processor_is_built() -> None:
    built = set(cgru.show_config().isa_built)
    if platform.machine().lower() in ("x86_64", "amd64"):
        assert {"generic", "avx2", "avx512"} <= built
    elif platform.machine().lower() in ("aarch64", "arm64"):
        assert {"generic", "neon"} <= built
    else:
        assert "generic" in built


@needs_packed
def test_the_right_backends_run() -> None:
    config = cgru.show_config()
    assert config.backends["packed"] is config.backends["reference"] is None
    if SCIPY:
        assert config.backends["blas"] is None
    else:
        assert "pip install" in str(config.backends["blas"])
        with pytest.raises(cgru.UnsupportedError, match="pip install"):
            cgru.Model([cgru.GRU.from_arrays(*weights(2, 3))], backend="blas")


@pytest.mark.parametrize("backend", ["packed", "reference", pytest.param("blas", marks=pytest.mark.skipif(
    not SCIPY, reason="SciPy is not installed"))])
@pytest.mark.parametrize(("inputs", "hidden"), [(1, 1), (3, 7), (5, 33), (10, 128), (4, 154)])
def test_numbers(backend: str, inputs: int, hidden: int) -> None:
    if backend == "packed" and PACKED:
        pytest.skip(f"the packed backend cannot run: {PACKED}")
    arrays = weights(inputs, hidden)
    x = np.random.default_rng(7).standard_normal((20, inputs), np.float32)
    y = cgru.Model([cgru.GRU.from_arrays(*arrays)], backend=backend)(x)
    assert y.dtype == np.float32
    np.testing.assert_allclose(y, gru(x, *arrays), rtol=0, atol=2e-6)


@needs_packed
@pytest.mark.parametrize("isa", cgru.show_config().isa_available)
def test_each_instruction_set(isa: str, tmp_path: Path) -> None:
    arrays = weights(6, 48)
    x = np.random.default_rng(8).standard_normal((3, 30, 6), np.float32)
    np.savez(tmp_path / "in.npz", x, *arrays)
    code = """
import sys, numpy as np, cgru
x, *arrays = np.load(sys.argv[1]).values()
np.save(sys.argv[2], cgru.Model([cgru.GRU.from_arrays(*arrays)], backend="packed")(x))
print(cgru.show_config().isa_in_use)
"""
    where = str(tmp_path / "in.npz"), str(tmp_path / "out.npy")
    assert python(code, *where, env=os.environ | {"CGRU_ISA": isa}).strip() == isa
    for y, row in zip(np.load(where[1]), x, strict=True):
        np.testing.assert_allclose(y, gru(row, *arrays), rtol=0, atol=2e-6)


@needs_packed
def test_saved_loaded_stepped_and_threaded_to_the_same_bits(tmp_path: Path) -> None:
    net = cgru.Model([cgru.GRU.from_arrays(*weights(4, 65))])
    net.save(tmp_path / "net.safetensors")
    again = cgru.load(tmp_path / "net.safetensors")
    x = np.random.default_rng(9).standard_normal((5, 12, 4), np.float32)
    whole = net(x)
    np.testing.assert_array_equal(again(x), whole)
    np.testing.assert_array_equal(again(x, threads=3), whole)
    stream = again.stream()
    np.testing.assert_array_equal([stream.step(x_t).copy() for x_t in x[0]], whole[0])


def test_command_line(tmp_path: Path) -> None:
    cgru.Model([cgru.GRU.from_arrays(*weights(4, 16))]).save(tmp_path / "net.safetensors")
    np.save(tmp_path / "x.npy", np.zeros((3, 4), np.float32))
    for arguments, expected in [
        (["--version"], cgru.__version__),
        (["info", "net.safetensors"], "GRU"),
        (["run", "net.safetensors", "x.npy", "-o", "y.npy"], ""),
        (["demo"], "co2"),
    ]:
        done = subprocess.run([sys.executable, "-m", "cgru", *arguments], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert expected.lower() in done.stdout.lower()
    assert np.load(tmp_path / "y.npy").shape == (3, 16)


# Counts what a process opens after numpy: for writing, or below /proc or /sys.
WATCHED = """
import sys
import numpy
import os
opened = []
def watch(event, arguments):
    if event == "open":
        path, mode, flags = arguments
        writes = flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        if writes or str(path).startswith(("/proc", "/sys")):
            opened.append(str(path))
sys.addaudithook(watch)
import cgru
net = cgru.load(sys.argv[1])
y = net(numpy.ones((4, 4), numpy.float32), threads=2)
print(opened, float(abs(y).sum()) > 0)
"""


@pytest.fixture
def shelf(tmp_path: Path) -> Any:
    """A folder that holds a network and cannot be written to."""
    folder = tmp_path / "shelf"
    folder.mkdir()
    cgru.Model([cgru.GRU.from_arrays(*weights(4, 16))]).save(folder / "net.safetensors")
    folder.chmod(stat.S_IRUSR | stat.S_IXUSR)
    yield folder
    folder.chmod(stat.S_IRWXU)


def test_opens_nothing_to_write_and_nothing_of_the_system(shelf: Path) -> None:
    variables = os.environ | {"PYTHONDONTWRITEBYTECODE": "1"}
    assert python(WATCHED, "net.safetensors", cwd=shelf, env=variables) == "[] True\n"


def test_without_a_home_or_an_environment(shelf: Path) -> None:
    kept = {name: os.environ[name] for name in ("PYTHONPATH", "SYSTEMROOT") if name in os.environ}
    bare = kept | {"HOME": "/nonexistent", "PYTHONDONTWRITEBYTECODE": "1"}
    assert python(WATCHED, "net.safetensors", cwd=shelf, env=bare) == "[] True\n"
