"""PyTorch 2.13.0's answers, committed: the comparison that needs no PyTorch (see make_fixtures/golden.py)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import oracle
import pytest

import cgru

GOLDEN = Path(__file__).parent / "fixtures" / "golden"
NAMES = sorted(path.stem for path in GOLDEN.glob("*.npz"))


def load(name: str) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    with np.load(GOLDEN / f"{name}.npz", allow_pickle=False) as file:
        found = {key: file[key] for key in file.files}
    return {key.removeprefix("weights."): found[key] for key in found if key.startswith("weights.")}, found


def test_the_vectors_are_there() -> None:
    assert {"one", "plain", "no_bias", "ragged", "stacked", "ragged_bidirectional", "wide", "long"} <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_golden(backend: str, name: str) -> None:
    weights, found = load(name)
    gru = cgru.GRU.from_torch(weights)
    assert found["h0"].any(axis=-1).all()
    out, h_n = gru(found["x"], found["h0"], found.get("lengths"), backend=backend)
    np.testing.assert_allclose(out, found["out"], rtol=0, atol=2e-6)
    np.testing.assert_allclose(h_n, found["h_n"], rtol=0, atol=2e-6)


@pytest.mark.parametrize("name", NAMES)
def test_the_oracle_agrees_with_torch(name: str) -> None:
    """The judge of the other tests, judged."""
    weights, found = load(name)
    directions = 2 if any(key.endswith("_reverse") for key in weights) else 1
    layers = len(found["h0"]) // directions
    out, h_n = oracle.gru(weights, found["x"], found["h0"], found.get("lengths"), layers=layers, directions=directions)
    np.testing.assert_allclose(out, found["out"], rtol=0, atol=1e-6)
    np.testing.assert_allclose(h_n, found["h_n"], rtol=0, atol=1e-6)
