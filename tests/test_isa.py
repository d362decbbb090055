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
