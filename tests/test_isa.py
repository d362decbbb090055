"""One network on every instruction set: near the reference on each, near each other, and a forced one is forced."""

from __future__ import annotations

from functools import cache
from typing import Any

import isa
import numpy as np
import pytest

import cgru

isa.require()

ISAS = isa.available()

# On one instruction set: every shape against float64 and against its own rows, chunks and threads, to the bit.
CHECK = """
import numpy as np
import cgru
from cgru.engine.backends import _packed
from strategies import Case

found = {"isa": np.array(_packed.isa_in_use())}
worst = 0.0
for number, (inputs, hidden, layers, directions, batch, steps) in enumerate([
    (1, 1, 1, 1, 1, 3), (3, 7, 2, 2, 5, 9), (17, 16, 1, 2, 9, 12), (63, 65, 2, 1, 2, 20), (10, 154, 1, 2, 7, 6),
    (250, 128, 1, 1, 130, 2), (5, 250, 1, 1, 1, 50), (4, 17, 1, 1, 2, 300),
]):
    for reset in ("after", "before"):
        rows = tuple(int(n) for n in np.random.default_rng(number).integers(0, steps + 1, batch))
        case = Case(inputs, hidden, layers, directions, True, batch, steps, seed=number, lengths=rows, masked=True)
        gru = case.gru(reset=reset)
        y, h = gru(case.x, case.h0, rows, case.mask, backend="packed")
        found[f"{number} {reset} y"], found[f"{number} {reset} h"] = y, h
        near, near_h = gru(case.x, case.h0, rows, case.mask, backend="reference")
        if steps <= 50:
            worst = max(worst, np.abs(y - near).max(), np.abs(h - near_h).max())
        for b in range(0, batch, 3):
            alone, last = gru(case.x[b], case.h0[:, b], rows[b], case.mask[b], backend="packed")
            assert np.array_equal(alone, y[b]) and np.array_equal(last, h[:, b]), ("row", number, reset, b)
        for threads in (2, 3):
            again, last = gru(case.x, case.h0, rows, case.mask, backend="packed", threads=threads)
            assert np.array_equal(again, y) and np.array_equal(last, h), ("threads", number, reset)
        if directions == 1:
            first, middle = gru(case.x[:, : steps // 3], case.h0, backend="packed")
            rest, last = gru(case.x[:, steps // 3 :], middle, backend="packed")
            whole, end = gru(case.x, case.h0, backend="packed")
            assert np.array_equal(np.concatenate([first, rest], 1), whole), ("chunks", number, reset)
            assert np.array_equal(last, end), ("state", number, reset)
found["worst"] = worst
"""


@cache
def checked(name: str) -> dict[str, Any]:
    return isa.arrays(CHECK, name)


@pytest.mark.parametrize("name", ISAS)
def test_forced_is_used_and_accurate(name: str) -> None:
    found = checked(name)
    assert str(found["isa"]) == name
    assert found["worst"] <= 2e-6


@pytest.mark.parametrize("name", ISAS[1:])
def test_instruction_sets_agree(name: str) -> None:
    """Within 1e-6: generic code rounds a multiply-add twice where the others round it once."""
    mine, generic = checked(name), checked(ISAS[0])
    assert list(mine) == list(generic)
    for key, array in mine.items():
        if key not in ("isa", "worst"):
            np.testing.assert_allclose(array, generic[key], rtol=0, atol=1e-6, err_msg=key)


def test_fused_instruction_sets_agree_to_the_bit() -> None:
    """Those with a fused multiply-add differ in width alone, and width changes no sum.

    Several names share one set of float32 kernels, so one name of each set is compared.
    """
    kernels = isa.float32_kernels()
    assert set(ISAS) <= set(kernels)
    fused = {kernels[name]: name for name in ISAS if name != "generic"}
    if len(fused) < 2:
        pytest.skip(f"this machine has one set of kernels with a fused multiply-add at most, of {', '.join(ISAS)}")
    first, *others = fused.values()
    for other in others:
        for key, array in checked(first).items():
            if key != "isa":
                assert np.array_equal(array, checked(other)[key]), (first, other, key)


# Every operation of graphs that the core has, and loops of all lengths: whole vectors, parts of one, less than one.
GRAPHS = """
import numpy as np
import cgru
from cgru.engine.backends import _packed
from test_operations import CASES, drawn, graph_of, in_core

found = {}

def arr(*shape):
    return (rng.standard_normal(shape) * 0.5).astype(np.float32)

def run(g, backend, inputs, mask):
    made = cgru.Model(g, backend=backend)(inputs, mask=mask)
    return made if isinstance(made, dict) else {"y": made}

def keep(name, g, inputs, mask=None):
    made = run(g, "packed", inputs, mask)
    found.update({f"{name} {key}": y for key, y in made.items()})
    if _packed.isa_in_use() == "generic":  # the others are compared with it
        found.update({f"{name} {key}, near": y for key, y in run(g, "reference", inputs, mask).items()})

for op, cases in CASES.items():
    for i, case in enumerate(cases):
        if in_core(case):
            inputs, mask = drawn(case)
            keep(f"{op} {i}", graph_of(case), inputs, mask)

for n in (1, 2, 7, 8, 15, 17, 33, 48, 65):
    rng = np.random.default_rng(n)
    x = arr(2, 9, n)
    g = cgru.Graph()
    a = g.input(n, name="a")
    b = g.sub(a, g.reduce(a, kind="mean", axes=(0,)))
    g.output(
        g.mul(b, a, name="mul"), g.maximum(a, b, name="max"), g.prelu(a, weights={"slope": arr(n)}, name="prelu"),
        g.scale_shift(a, weights={"scale": arr(n), "shift": arr(n)}, name="scale"),
        g.layer_norm(a, weights={"weight": arr(n), "bias": arr(n)}, name="norm"),
        g.unary(a, kind="abs", name="abs"), g.clip(a, low=-0.5, high=0.5, name="clip"),
        g.activation(a, activation="leaky_relu", alpha=0.1, name="leaky"),
        g.reduce(a, kind="l2", axes=(0,), name="l2"), g.reduce(a, kind="l1", axes=(0,), name="l1"),
        g.conv1d(
            a, units=n, width=3, groups=n, left=2, weights={"weight": arr(n, 1, 3), "bias": arr(n)}, name="depthwise"
        ),
    )
    keep(f"numbers {n}", g, x)
    for channels, units, groups, high, kernel, strides, dilations in (
        (3, 5, 1, 1, (1, 1), (1, 1), (1, 1)), (4, 6, 2, 2, (2, 3), (1, 2), (1, 1)),
        (2, 2, 2, 3, (1, 3), (2, 1), (1, 2)), (1, 7, 1, 2, (2, 2), (1, 3), (1, 1)),
    ):
        g = cgru.Graph()
        a = g.input((channels, high, n), name="a")
        more = {"kernel": kernel, "strides": strides, "dilations": dilations, "groups": groups, "units": units}
        more["pads"] = (1, 2, 0, 2)
        shape = (units, channels // groups, *kernel)
        g.output(g.conv_inner(a, weights={"weight": arr(*shape), "bias": arr(units)}, name="inner", **more))
        shape = (units, channels // groups, 2, *kernel)
        g.output(g.conv2d(a, width=2, dilation=2, left=2, weights={"weight": arr(*shape)}, name="time", **more))
        more |= {"pads": (0,) * 4, "extra": (0, 1)}
        weights = {"weight": arr(channels, units // groups, *kernel), "bias": arr(units)}
        g.output(g.conv_transpose_inner(a, weights=weights, name="up", **more))
        keep(f"plane {n} {channels}", g, arr(2, 5, channels, high, n))
"""


@cache
def graphs(name: str) -> dict[str, Any]:
    return isa.arrays(GRAPHS, name)


#: One instruction set for each build of the loops.
LOOPS = list({isa.float32_kernels()[name]: name for name in ISAS}.values())


@pytest.mark.parametrize("name", LOOPS)
def test_graphs_on_each(name: str) -> None:
    """Near the equations, as generic code is: sums of a few dozen terms in float32."""
    near = {key: array for key, array in graphs(ISAS[0]).items() if key.endswith(", near")}
    assert len(near) > 150
    for key, wanted in near.items():
        np.testing.assert_allclose(graphs(name)[key.removesuffix(", near")], wanted, rtol=4e-6, atol=4e-6, err_msg=key)


def test_graphs_agree_to_the_bit_where_multiply_adds_are_fused() -> None:
    if len(LOOPS) < 3:
        pytest.skip(f"this machine has one set of loops with a fused multiply-add at most, of {', '.join(ISAS)}")
    _, first, *others = LOOPS
    for other in others:
        for key, array in graphs(first).items():
            assert np.array_equal(array, graphs(other)[key], equal_nan=True), (first, other, key)


def test_generic_is_always_there() -> None:
    assert ISAS[0] == "generic"


RUN = "import numpy as np, cgru; cgru.Model([cgru.Activation('tanh')]{})(np.zeros((1, 1, 1), np.float32))"


@pytest.mark.parametrize("backend", ["", ", backend='packed'"])
@pytest.mark.parametrize("name", ["nonsense", "AVX2", "avx2 ", "0", "neon", "avx512"])
def test_an_absent_one_is_an_error(name: str, backend: str) -> None:
    """Never a silent fallback, for "auto" either; the message lists what there is."""
    done = isa.process(RUN.format(backend), name)
    if name in ISAS:
        assert done.returncode == 0
        return
    assert done.returncode == 1
    error = done.stderr.strip().splitlines()[-1]
    assert error.startswith(f"{cgru.UnsupportedError.__module__}.UnsupportedError: CGRU_ISA={name!r}"), error
    assert f"available: {', '.join(ISAS)}" in error


def test_an_empty_one_is_none() -> None:
    """CGRU_ISA set to nothing leaves the choice to cgru: the best there is."""
    code = RUN.format(", backend='packed'") + "\nfrom cgru.engine.backends import _packed; print(_packed.isa_in_use())"
    done = isa.process(code, "")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == ISAS[-1]
