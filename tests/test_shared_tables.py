"""Facts that stand both in Python and in C: their tables have one order, so that a number means one thing."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from cgru.engine.backends import packed_graph
from cgru.layers.recurrent import MERGES
from cgru.spec.activations import CODES, PARAMETRIC
from cgru.spec.operations.pointwise import UNARY
from cgru.spec.operations.recurrent import BOOKKEEPING, EMITTED, FRESH, GIVEN
from cgru.spec.precision import PRECISIONS

CORE = Path(__file__).parents[1] / "src" / "cgru" / "core"
if not CORE.is_dir():
    pytest.skip("the core's sources are not beside these tests", allow_module_level=True)


def enumerated(file: str, first: str) -> list[str]:
    """The names of the enum in a file of the core that begins with ``first``, in their order."""
    text = re.sub(r"/\*.*?\*/", "", (CORE / file).read_text(), flags=re.DOTALL)
    found = re.search(r"enum(?: \w+)? \{\s*(" + first + r"\b[^}]*)\}", text)
    assert found, f"no enum of {file} begins with {first}"
    return [name.strip().removeprefix("CGRU_").lower() for name in found[1].split(",") if name.strip()]


def test_activations() -> None:
    core = enumerated("kernels.h", "CGRU_LINEAR")
    assert [core.index(name) for name in CODES] == list(CODES.values())
    assert list(CODES) == core


def test_precisions() -> None:
    *core, count = enumerated("kernels.h", "CGRU_FLOAT32")
    assert (core, count) == (list(PRECISIONS), "precisions")


def test_merges() -> None:
    assert list(MERGES) == enumerated("net.h", "CGRU_CONCAT")


def test_joins() -> None:
    core = [name.removeprefix("pair_") for name in enumerated("loops.h", "CGRU_PAIR_ADD")]
    assert {name: core.index(name) for name in packed_graph.BINARY} == packed_graph.BINARY


def test_functions_of_each_number() -> None:
    *unary, last = enumerated("loops.h", "CGRU_ABS")
    assert (unary, last) == (list(UNARY), "unary_kinds")
    *shapes, last = enumerated("loops.h", "CGRU_AFFINE")
    assert (shapes, last) == ([*PARAMETRIC], "parametric_kinds")


def test_poolings() -> None:
    core = enumerated("ops/pooling.c", "LARGEST")
    names = {"max": "largest", "average": "mean", "min": "smallest"}
    assert {kind: core.index(names.get(kind, kind)) for kind in packed_graph.POOLING} == packed_graph.POOLING


def test_types_of_values() -> None:
    assert list(packed_graph._CLOCKS.values()) == [
        enumerated("graph.h", "CGRU_ONCE").index(name) for name in packed_graph._CLOCKS
    ]
    contents = {"float32": "features", "int64": "ids", "bool": "mask"}
    core = enumerated("graph.h", "CGRU_FEATURES")
    assert {dtype: core.index(name) for dtype, name in contents.items()} == packed_graph._CONTENTS


def test_the_state_of_a_scan() -> None:
    """Behind its arrays: what the row has begun with, and a scale."""
    text = (CORE / "net.h").read_text()
    assert re.search(r"enum \{ CGRU_FRESH = 0, CGRU_EMITTED = 1, CGRU_GIVEN = 2, CGRU_BOOKKEEPING = 2 \};", text)
    assert (FRESH, EMITTED, GIVEN, BOOKKEEPING) == (0, 1, 2, 2)
