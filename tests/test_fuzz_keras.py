"""A short, seeded run of the fuzz target over mutations of the committed Keras and HDF5 files."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent / "fuzz"))
from fuzz_keras import checksums_off, mutate, one_input, seeds


@pytest.mark.parametrize("name", seeds())
def test_mutated_file_is_refused_or_runs_as_the_reference(name: str) -> None:
    seed = seeds()[name]
    outcomes = {one_input(seed)}
    assert outcomes <= {"a network", "arrays, UnsupportedError"}
    rng = np.random.default_rng(sum(name.encode()))
    for _ in range(15):
        outcomes.add(one_input(mutate(seed, rng)))
        with checksums_off():
            outcomes.add(one_input(mutate(seed, rng)))
    assert len(outcomes) > 1
