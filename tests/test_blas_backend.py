"""What is the BLAS backend's own: its products, chunks, activations, threads and memory.

The equations, masks and layouts are tested on every backend together, in test_model.py and test_laws.py.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import Case, cases

import cgru
from cgru.engine.backends import blas
from cgru.spec.activations import ACTIVATIONS, CODES, GATE_ACTIVATIONS

_missing = blas.unavailable()
pytestmark = pytest.mark.skipif(_missing is not None, reason=f"backend blas: {_missing}")

if _missing is None:
    from cgru.engine.backends import _blas

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="reads what Linux says about a process")


def difference(case: Case, threads: int = 1, **options: object) -> float:
    """The largest difference from the float64 backend, over outputs and last states.

    Unbounded activations leave [-1, 1]; there it is relative to the largest number.
    """
    gru = case.gru(**options)
    out, h_n = gru(case.x, case.h0, case.lengths, case.mask, backend="blas", threads=threads)
    want, want_h = gru(case.x, case.h0, case.lengths, case.mask, backend="reference")
    assert out.shape == want.shape
    return max(
        float(np.abs(a - b).max(initial=0)) / max(1.0, float(np.abs(b).max(initial=0)))
        for a, b in ((out, want), (h_n, want_h))
    )


def child(code: str) -> str:
    """What a fresh interpreter prints when it runs ``code``."""
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


# For the tests in child processes; the network is so large that its gates are worth a team of OpenMP threads.
LARGE = """
import os, numpy as np, cgru
rng = np.random.default_rng(0)
gru = cgru.GRU.from_arrays(*(rng.uniform(-.05, .05, (960, n)).astype("f") for n in (8, 320)))
x = rng.standard_normal((64, 3, 8)).astype("f")
def run(threads):
    return gru(x, backend="blas", threads=threads)[0]
def peak():  # bytes; getrusage would begin with the parent's
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith("VmHWM"))
def members():
    return len(os.listdir("/proc/self/task"))
"""


@settings(max_examples=60)
@given(
    case=cases(steps=50, masks=None),
    reset=st.sampled_from(["after", "before"]),
    threads=st.integers(1, 2),
    zero=st.booleans(),
    gate=st.sampled_from(["sigmoid", "hard_sigmoid", "hard_sigmoid_keras2"]),
    candidate=st.sampled_from(["tanh", "softsign", "linear"]),
)
def test_agrees_with_float64(case: Case, reset: str, threads: int, zero: bool, gate: str, candidate: str) -> None:
    options = {"reset": reset, "zero_output_for_mask": zero, "recurrent_activation": gate, "activation": candidate}
    assert difference(case, threads, **options) <= 2e-6


@pytest.mark.parametrize("reset", ["after", "before"])
@pytest.mark.parametrize("name", sorted(GATE_ACTIVATIONS))
def test_every_activation_as_gate_and_as_candidate(name: str, reset: str) -> None:
    case = Case(7, 131, 1, 2, True, 3, 5, seed=4)
    assert difference(case, reset=reset, recurrent_activation="sigmoid", activation=name) <= 2e-6
    # Gates far outside [0, 1] make the state grow: few steps, and weights that keep it near 1.
    short = Case(7, 131, 1, 2, True, 3, 2, seed=5, scale=0.3)
    assert difference(short, reset=reset, recurrent_activation=name) <= 2e-6


@pytest.mark.parametrize("name", sorted(CODES))
def test_activation_layers(name: str) -> None:
    """Over the whole range of float32, to 3 units in the last place; next to zero to 1e-7."""
    steps = np.linspace(-30, 30, 20001), np.logspace(-30, 38, 2000), -np.logspace(-30, 38, 2000)
    x = np.concatenate([*steps, [0.0]]).astype(np.float32)
    x = x.reshape(1, -1, 1) if name != "softmax" else np.resize(x, (1, 350, 68))
    y = cgru.Model([cgru.Activation(name)])(x, backend="blas").astype(np.float64)
    np.testing.assert_allclose(y, ACTIVATIONS[name](x.astype(np.float64)), rtol=4e-7, atol=1e-7)


@pytest.mark.parametrize("name", sorted(set(CODES) - {"softmax"}))
def test_nan_stays_nan_and_infinity_saturates(name: str) -> None:
    x = np.array([[[np.nan], [np.inf], [-np.inf], [1.0]]], np.float32)
    y = cgru.Model([cgru.Activation(name)])(x, backend="blas")
    with np.errstate(invalid="ignore"):
        want = ACTIVATIONS[name](x.astype(np.float64))
    np.testing.assert_allclose(y, want, rtol=1e-6, atol=1e-7)


@given(
    rows=st.integers(1, 70),
    outputs=st.integers(1, 200),
    inputs=st.integers(1, 150),
    way=st.integers(0, 2),
    seed=st.integers(0, 99),
)
def test_every_way_to_a_product_is_the_product(rows: int, outputs: int, inputs: int, way: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    w, x = (rng.standard_normal((n, inputs), dtype=np.float32) for n in (outputs, rows))
    y = np.full((rows + 1, outputs), np.nan, np.float32)
    y[rows] = 7
    _blas.product(w, x, y, way, 1)
    np.testing.assert_allclose(y[:rows], x.astype(np.float64) @ w.T.astype(np.float64), rtol=0, atol=1e-4)
    assert np.all(y[rows] == 7), "written past the last row"


@pytest.mark.parametrize("inputs", [976, 1000, 31251, 62501])
@pytest.mark.parametrize("rows", [2, 33])
def test_tiles_of_very_long_products(inputs: int, rows: int) -> None:
    """A tile gets smaller as its products get longer."""
    rng = np.random.default_rng(1)
    w, x = (rng.standard_normal((n, inputs), dtype=np.float32) for n in (37, rows))
    y = np.full((rows, 37), np.nan, np.float32)
    _blas.product(w, x, y, 2, 1)
    np.testing.assert_allclose(y, x.astype(np.float64) @ w.T.astype(np.float64), rtol=0, atol=1e-5 * inputs)


@pytest.mark.parametrize("reset", ["after", "before"])
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_several_chunks_and_a_team(reset: str, threads: int) -> None:
    """More steps than one chunk of the input projection holds, and gates enough for a team: batched, and alone."""
    lengths = tuple(int(n) for n in np.random.default_rng(0).integers(0, 21, 61))
    many = Case(5, 300, 1, 2, True, 61, 20, seed=6, lengths=lengths, masked=True)
    assert difference(many, threads, reset=reset) <= 2e-6
    for steps in (24, 25):
        few = Case(300, 300, 1, 2, True, 9, steps, seed=7)
        assert difference(few, threads, reset=reset) <= 2e-6
    wide = Case(3, 300, 1, 1, True, 400, 3, seed=12)  # more rows than a chunk has
    assert difference(wide, threads, reset=reset) <= 2e-6


def test_rows_divided_between_threads() -> None:
    """With more threads than rows a row's units are shared out, the odd one too."""
    assert difference(Case(5, 901, 1, 1, True, 13, 3, seed=13), threads=16) <= 2e-6


@pytest.mark.parametrize("activation", ["linear", "relu", "softmax"])
@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (5, 70), (3, 1100)])
@pytest.mark.parametrize("threads", [1, 2])
def test_dense(activation: str, shape: tuple[int, int], threads: int) -> None:
    rng = np.random.default_rng(8)
    weight = rng.uniform(-0.124, 0.124, (333, 65)).astype(np.float32)
    x = rng.standard_normal((*shape, 65)).astype(np.float32)
    for bias in (None, rng.uniform(-0.124, 0.124, 333).astype(np.float32)):
        net = cgru.Model([cgru.Dense(weight, bias, activation=activation)])
        got, want = (net(x, backend=name, threads=threads) for name in ("blas", "reference"))
        np.testing.assert_allclose(got, want, rtol=0, atol=2e-6)


def test_nan_in_one_row_stays_there() -> None:
    """Whatever the number of rows does to the way products are taken, gathered rows included."""
    for batch in (2, 5, 40):
        case = Case(70, 70, 1, 2, True, batch, 6, seed=9, masked=True)
        x = case.x.copy()
        x[1] = np.nan
        gru = case.gru()
        got, clean = gru(x, mask=case.mask, backend="blas")[0], gru(case.x, mask=case.mask, backend="blas")[0]
        others = np.arange(batch) != 1
        np.testing.assert_array_equal(got[others], clean[others])
        assert np.isnan(got[1]).any()


def test_python_threads_share_a_model() -> None:
    case = Case(33, 65, 2, 2, True, 9, 30, seed=10, masked=True)
    gru = case.gru()
    inputs = [case.x * scale for scale in np.linspace(0.5, 1.5, 8, dtype=np.float32)]
    alone = [gru(x, case.h0, mask=case.mask, backend="blas")[0] for x in inputs]
    with ThreadPoolExecutor(4) as pool:
        found = pool.map(lambda x: gru(x, case.h0, mask=case.mask, backend="blas", threads=2)[0], inputs * 3)
        for got, want in zip(found, alone * 3, strict=True):
            np.testing.assert_allclose(got, want, rtol=0, atol=1e-6)


def test_the_gil_is_released() -> None:
    """One thread scans again and again until another tells it to stop, which needs the GIL in between.

    The interpreter's own switching is off, so that the kernel alone can give the GIL away.
    """
    rng = np.random.default_rng(11)
    w, bias = rng.uniform(-0.1, 0.1, (384, 128)).astype(np.float32), np.zeros(384, np.float32)
    kernel = _blas.ScanKernel("gru_reset_after", w, w, None, bias, bias[:128], CODES["sigmoid"], CODES["tanh"])
    x, h = rng.standard_normal((8, 100, 128)).astype(np.float32), np.zeros((8, 128), np.float32)
    started, stop = threading.Event(), threading.Event()
    scans: list[bool] = []

    def work() -> None:
        started.set()
        while len(scans) < 100 and not stop.is_set():
            kernel(x, [h], h[:, 0].copy(), None, False, True, 1)
            scans.append(True)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1000)
    try:
        worker = threading.Thread(target=work)
        worker.start()
        started.wait()
        stop.set()
        worker.join()
    finally:
        sys.setswitchinterval(interval)
    assert len(scans) < 100


@LINUX
@pytest.mark.parametrize("masked", [False, True])
def test_scratch_does_not_grow_with_time(masked: bool) -> None:
    """Three times the steps raise the peak by the input and the output, and by less than 2 MB more."""
    code = (
        LARGE
        + """
gru = cgru.GRU.from_arrays(*(rng.uniform(-.1, .1, (384, n)).astype("f") for n in (4, 128)))
def grown(steps):
    x = np.zeros((4, steps, 4), "f")
    mask = np.ones((4, steps), bool) if MASKED else None
    gru(x, mask=mask, backend="blas")
    return peak()
def outside(steps):
    return 4 * steps * (4 * 4 + 128 * 4 + MASKED)
grown(2000)
first = grown(20000)
print(grown(60000) - first - (outside(60000) - outside(20000)))
""".replace("MASKED", str(masked))
    )
    assert int(child(code)) < 2 << 20


@LINUX
def test_calls_leave_no_memory_behind() -> None:
    code = (
        LARGE
        + """
def many():
    for _ in range(150): run(1)
    return peak()
first = many()
print(many() - first)
"""
    )
    assert int(child(code)) < 4 << 20


@LINUX
def test_one_thread_starts_no_team_and_two_do() -> None:
    code = LARGE + (
        "gru(x[:1, :1], backend='blas'); before = members(); run(1); gru(x[:2], backend='blas', threads=2); "
        "middle = members(); run(2); print(before, middle, members())"
    )
    before, middle, after = map(int, child(code).split())
    assert before == middle, "one thread, or too little work for two"
    if after == before:
        pytest.skip("this build has no OpenMP")
    assert after == before + 1


@LINUX
def test_fork_after_a_team() -> None:
    """GNU OpenMP's team does not come along: the child computes the same on its own."""
    code = (
        LARGE
        + """
want = run(2)
child = os.fork()
if not child:
    os._exit(0 if np.allclose(run(2), want, rtol=0, atol=1e-6) else 3)
print(os.waitpid(child, 0)[1], np.allclose(run(2), want, rtol=0, atol=1e-6))
"""
    )
    assert child(code) == "0 True"


def test_scipy_is_imported_by_use_alone() -> None:
    code = (
        LARGE
        + """
import sys
from cgru.engine import backends
print("scipy" in sys.modules, backends.backend("blas").unavailable(), "scipy.linalg" in sys.modules)
gru(x, backend="reference")
print("scipy.linalg" in sys.modules); run(1); print("scipy.linalg" in sys.modules)
"""
    )
    assert child(code).split() == ["False", "None", "False", "False", "True"]


@pytest.mark.parametrize(("module", "says"), [("scipy", "pip install scipy"), ("._blas", "was not built")])
def test_what_is_missing_is_said(monkeypatch: pytest.MonkeyPatch, module: str, says: str) -> None:
    found = blas.find_spec
    monkeypatch.setattr(blas, "find_spec", lambda name, package=None: None if name == module else found(name, package))
    blas.unavailable.cache_clear()
    try:
        with pytest.raises(cgru.UnsupportedError, match=says):
            cgru.Model([cgru.Activation("relu")], backend="blas")
    finally:
        blas.unavailable.cache_clear()


def test_a_cell_without_a_kernel_is_refused() -> None:
    one = np.ones((3, 1), np.float32)
    with pytest.raises(ValueError, match="no cell named 'none'"):
        _blas.ScanKernel("none", one, one, None, one[:, 0], one[:1, 0], 1, 2)
