"""The laws of every operation of the table: a row in a batch is the row alone, chunks are the whole, and the values are
those of the formula that ``operation_cases`` writes out."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from operation_cases import CASES, Case, Given

import cgru
from cgru.engine.graph_model import GraphModel
from cgru.spec.graph import graph_from_json
from cgru.spec.operation import OPERATIONS

STEPS = 13
LENGTHS = [13, 0, 1, 6, 12]


def graph_of(case: Case) -> cgru.Graph:
    g = cgru.Graph()
    names = [
        g.input(given.features, name="abcd"[i], time=given.timed, dtype="int64" if given.vocabulary else "float32")
        for i, given in enumerate(case.inputs)
    ]
    g.output(case.build(g, *names, *([g.mask_of_input(names[0])] if case.mask else [])))
    return g


def array_of(given: Given, rng: np.random.Generator, batch: int) -> np.ndarray:
    shape = (batch, *((STEPS,) if given.timed else ()), *given.features)
    if given.vocabulary:
        return rng.integers(0, given.vocabulary, shape)
    if given.positive:
        return rng.uniform(0.1, 0.9, shape).astype(np.float32)
    return rng.standard_normal(shape).astype(np.float32)


def drawn(case: Case, batch: int = len(LENGTHS)) -> tuple[dict[str, np.ndarray], np.ndarray | None]:
    rng = np.random.default_rng(3)
    inputs = {"abcd"[i]: array_of(given, rng, batch) for i, given in enumerate(case.inputs)}
    return inputs, rng.random((batch, STEPS)) < 0.6 if case.mask else None


def cut(case: Case, inputs: dict[str, np.ndarray], row: int, length: int) -> dict[str, np.ndarray]:
    return {
        name: array[row, :length] if given.timed else array[row]
        for (name, array), given in zip(inputs.items(), case.inputs, strict=True)
    }


NAMED = [pytest.param(case, id=f"{op}-{i}") for op, cases in CASES.items() for i, case in enumerate(cases)]
TOLERANCE: Any = {"rtol": 3e-7, "atol": 3e-7}  # the equations run in float64 and end in float32


def test_every_operation_has_a_case() -> None:
    assert sorted(CASES) == sorted(OPERATIONS)


@pytest.mark.parametrize("case", NAMED)
def test_values_and_rows_of_any_length(case: Case) -> None:
    """Every row of a ragged batch against the formula on that row alone, and zeros behind it."""
    inputs, mask = drawn(case)
    net = GraphModel(graph_of(case))
    masked: Any = {} if mask is None else {"mask": mask}
    timed = any(given.timed for given in case.inputs)
    together = net(inputs, lengths=LENGTHS, **masked) if timed else net(inputs)
    value = net.graph.values[net.graph.outputs[0]]
    for row, length in enumerate(LENGTHS):
        alone = cut(case, inputs, row, length)
        more = [] if mask is None else [mask[row, :length]]
        wanted = case.formula(*(a if a.dtype.kind == "i" else a.astype(float) for a in alone.values()), *more)
        if value.clock is None:
            np.testing.assert_allclose(together[row], wanted, **TOLERANCE)
            continue
        frames = value.clock.count(length)
        assert len(wanted) == frames
        np.testing.assert_allclose(together[row, :frames], wanted.reshape(frames, *value.features), **TOLERANCE)
        assert not together[row, frames:].any()


@pytest.mark.parametrize("case", NAMED)
@pytest.mark.parametrize("cuts", [[1, 2, 3], [0, 5, 5, 11]])
def test_chunks_equal_the_whole(case: Case, cuts: list[int]) -> None:
    """Where there is a mask, every frame counts here: streams take none."""
    inputs, _ = drawn(case, 2)
    net = GraphModel(graph_of(case))
    if case.whole:
        with pytest.raises(cgru.UnsupportedError, match="whole sequence"):
            net.stream(2)
        return
    stream = net.stream(2)
    bounds = [0, *cuts, STEPS]
    parts = []
    for a, b in zip(bounds, bounds[1:], strict=False):
        parts.append(
            stream.feed(
                {
                    name: array[:, a:b] if given.timed else array
                    for (name, array), given in zip(inputs.items(), case.inputs, strict=True)
                }
            )
        )
    if all(given.timed for given in case.inputs):
        parts.append(stream.flush())
    np.testing.assert_allclose(np.concatenate(parts, axis=1), net(inputs), **TOLERANCE)


@pytest.mark.parametrize("case", NAMED)
def test_inputs_and_state_are_left_alone_and_graphs_survive_json(case: Case) -> None:
    inputs, _ = drawn(case, 2)
    before = {name: array.copy() for name, array in inputs.items()}
    net = GraphModel(graph_of(case))
    first = net(inputs)
    for name, array in inputs.items():
        np.testing.assert_array_equal(array, before[name])
    np.testing.assert_array_equal(net(inputs), first)
    again = graph_from_json(json.loads(json.dumps(net.graph.to_json())))
    assert again.nodes == net.graph.nodes
    assert again.values == net.graph.values
