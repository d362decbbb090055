"""A short, seeded run of the fuzz target over mutations of the committed fixtures."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent / "fuzz"))
import fuzz_onnx
from fuzz_readers import one_input, seeds

# Numbers that sit at the edges of what headers count with.
EDGES = [bytes(n) for n in (1, 2, 4, 8)] + [b"\xff" * n for n in (1, 2, 4, 8)] + [b"\x7f", b"\x80", b"\xff\xff\xff\x7f"]


def mutate(data: bytes, rng: np.random.Generator) -> bytes:
    changed = bytearray(data)
    for _ in range(int(rng.integers(1, 5))):
        at = int(rng.integers(1, len(changed)))
        other = int(rng.integers(1, len(changed)))
        span = int(rng.integers(1, 17))
        match int(rng.integers(6)):
            case 0:
                changed[at] ^= 1 << int(rng.integers(8))
            case 1:
                changed[at] = int(rng.integers(256))
            case 2:
                edge = EDGES[int(rng.integers(len(EDGES)))]
                changed[at : at + len(edge)] = edge
            case 3:
                del changed[at : at + span]
            case 4:
                changed[at:at] = changed[other : other + span]
            case 5:
                changed[at : at + span] = changed[other : other + span]
        if len(changed) < 2:
            return bytes(changed)
    return bytes(changed)


@pytest.mark.parametrize("name", seeds())
def test_mutated_fixture_gives_arrays_or_a_cgru_error(name):
    seed = seeds()[name]
    one_input(seed)
    rng = np.random.default_rng(sum(name.encode()))
    for _ in range(120 if seed[:1] not in (b"Z", b"N", b"S") else 250):
        one_input(mutate(seed, rng))


@pytest.mark.parametrize("name", fuzz_onnx.seeds())
def test_mutated_onnx_model_gives_records_or_a_cgru_error(name):
    seed = fuzz_onnx.seeds()[name]
    fuzz_onnx.one_input(seed)
    rng = np.random.default_rng(sum(name.encode()))
    for _ in range(1000):
        fuzz_onnx.one_input(mutate(seed, rng))
