"""cgru imported late, or beside other users of OpenMP: it loads, is right and does not hang, in either order.

Each case is a process of its own; one that hangs is stopped and fails.
"""

from __future__ import annotations

import importlib.util
import os
import struct
import subprocess
from pathlib import Path

import pytest
from isa import PYTHON

from cgru.engine import backends

#: Extension modules of Python's own and numpy's: together more than a loader has room for, if each wanted some.
OTHERS = (
    "_bz2", "_ctypes", "_decimal", "_hashlib", "_json", "_lzma", "_multiprocessing", "_socket", "_sqlite3", "_ssl",
    "_struct", "array", "cmath", "math", "mmap", "pyexpat", "select", "unicodedata", "zlib",
    "numpy.linalg", "numpy.fft", "numpy.random",
)  # fmt: skip

#: Uses of OpenMP: every thread of each has work.
USES = {
    "torch": """
def torch_works():
    a = torch.arange(360000.0).reshape(600, 600) / 360000
    torch.testing.assert_close((a @ a).double(), a.double() @ a.double(), rtol=1e-4, atol=0)
    gru = torch.nn.GRU(8, 32, batch_first=True)
    assert gru(torch.ones(16, 20, 8))[0].shape == (16, 20, 32)
""",
    "sklearn": """
def sklearn_works():
    from sklearn.cluster import KMeans
    points = numpy.random.default_rng(3).standard_normal((4000, 8))
    assert KMeans(4, n_init=1, random_state=0).fit(points).labels_.shape == (4000,)
""",
    "cgru": """
def cgru_works():
    for backend in BACKENDS:
        net = cgru.Model([cgru.GRU.from_arrays(*arrays)], backend=backend)
        for threads in 1, 2:
            assert abs(net(x, threads=threads) - expected).max() < 2e-6, (backend, threads)
""",
}
START = """
import numpy
BACKENDS = {backends!r}
def cgru_sets_up():
    global arrays, x, expected
    rng = numpy.random.default_rng(1)
    shapes = ((600, 10), (600, 200), (600,), (600,))
    arrays = [rng.uniform(-.07, .07, shape).astype(numpy.float32) for shape in shapes]
    x = rng.standard_normal((32, 20, 10), numpy.float32)
    expected = cgru.Model([cgru.GRU.from_arrays(*arrays)], backend="reference")(x)
"""


def usable() -> list[str]:
    return [name for name in ("packed", "blas") if backends.backend(name).unavailable() is None]


def run(code: str) -> None:
    variables = os.environ | {"OMP_NUM_THREADS": "2"}
    done = subprocess.run([PYTHON, "-c", code], env=variables, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "finished"


def test_after_a_dozen_other_extension_modules() -> None:
    found = [name for name in OTHERS if importlib.util.find_spec(name)]
    assert len(found) >= 12
    loads = "\n".join(f"import {name}" for name in found)
    finish = "cgru_sets_up(); cgru_works(); print('finished')"
    run("\n".join([loads, START.format(backends=usable()), USES["cgru"], "import cgru", finish]))


@pytest.mark.parametrize("order", [("torch", "cgru"), ("cgru", "torch"), ("sklearn", "cgru"), ("cgru", "sklearn")])
def test_beside_another_openmp(order: tuple[str, str]) -> None:
    """Imported one after the other and used in turn, the first one again once the second has started its threads."""
    for name in order:
        if importlib.util.find_spec(name) is None:
            pytest.skip(f"{name} is not installed")
    first, second = order
    steps = [START.format(backends=usable()), USES[first], USES[second], f"import {first}"]
    steps += ["cgru_sets_up()"] if first == "cgru" else []
    steps += [f"{first}_works()", f"import {second}"]
    steps += ["cgru_sets_up()"] if second == "cgru" else []
    steps += [f"{name}_works()" for name in (second, first, second)]
    run("\n".join([*steps, "print('finished')"]))


@pytest.mark.parametrize("name", ["_packed", "_blas"])
def test_no_thread_local_storage(name: str) -> None:
    """What has no PT_TLS segment needs no room in the loader's static block, which late modules find used up."""
    spec = importlib.util.find_spec(f"cgru.engine.backends.{name}")
    if spec is None or spec.origin is None:
        pytest.skip(f"{name} is not built")
    data = Path(spec.origin).read_bytes()
    if data[:6] != b"\x7fELF\x02\x01":
        pytest.skip("not a 64-bit little-endian ELF file")
    (offset,), (size, count) = struct.unpack_from("<Q", data, 32), struct.unpack_from("<HH", data, 54)
    kinds = [struct.unpack_from("<I", data, offset + size * k)[0] for k in range(count)]
    load, tls = 1, 7
    assert load in kinds
    assert tls not in kinds
