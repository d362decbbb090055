"""The README's network that is no chain runs as it is written there."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cgru

README = Path(__file__).parents[1] / "README.md"
if not README.exists():
    pytest.skip("the README is not beside these tests", allow_module_level=True)
RNG = np.random.default_rng(3)


def arr(*shape: int) -> np.ndarray:
    return (RNG.standard_normal(shape) * 0.1).astype(np.float32)


def test_the_example_runs_and_streams_to_the_bit() -> None:
    section = README.read_text(encoding="utf-8").split("## Networks that are no chain")[1]
    found = re.search(r"```python\n(.*?)```", section, re.DOTALL)
    assert found
    x = arr(20, 40)
    names: dict[str, Any] = {
        "cgru": cgru,
        "np": np,
        "w": arr(64, 40, 5),
        "b": arr(64),
        "start": arr(128),
        "gru": cgru.GRU.from_arrays(arr(384, 64), arr(384, 128), arr(384), arr(384)),
        "head": cgru.Dense(arr(3, 168), arr(3)),
        "first": x[:7],
        "second": x[7:],
    }
    built, used = found[1].split("\n\n")
    exec(built, names)
    names["x"] = x
    exec(used, names)
    assert names["stream"].delay == 2
    assert names["y"].shape == (20, 3)
    assert np.array_equal(names["y"], names["net"](x))
