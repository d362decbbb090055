"""What all tests share: the backends there are to run, frameworks to compare with, and how hypothesis behaves."""

from __future__ import annotations

import os
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from cgru.engine import backends

# threads= is capped at the cores there are, and the suite wants several threads on any machine.
os.environ.setdefault("CGRU_CORES", "64")

# A machine that does something else at the same time makes no test fail: no deadlines. The suite runs the same
# examples every time; CGRU_EXPLORE=1 looks for new ones.
settings.register_profile("explore", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("same", settings.get_profile("explore"), derandomize=True, database=None)
settings.load_profile("explore" if os.environ.get("CGRU_EXPLORE") else "same")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test that takes ``backend`` runs on each of them, and says why where one cannot run."""
    own = any("backend" in str(mark.args[0]).split(",") for mark in metafunc.definition.iter_markers("parametrize"))
    if "backend" not in metafunc.fixturenames or own:
        return
    params = []
    for name in backends.BACKENDS:
        reason = backends.backend(name).unavailable()
        marks = [pytest.mark.skip(reason=f"backend {name}: {reason}")] if reason else []
        params.append(pytest.param(name, marks=marks))
    metafunc.parametrize("backend", params)


@pytest.fixture(scope="module")
def torch() -> Any:
    found = pytest.importorskip("torch", reason="PyTorch is not installed: pip install cgru[parity]")
    found.manual_seed(4)
    return found


@pytest.fixture(scope="module")
def keras() -> Any:
    os.environ.setdefault("KERAS_BACKEND", "torch")
    return pytest.importorskip("keras", reason="Keras is not installed: pip install cgru[parity]")
