"""The laws of every operation of the table: a row in a batch is the row alone, chunks are the whole, and the values are
those of the formula that ``operation_cases`` writes out."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from operation_cases import CASES, Case, Given

import cgru
from cgru.engine.backends import packed_graph
from cgru.spec.graph import graph_from_json
from cgru.spec.operation import OPERATIONS

STEPS = 13
#: Frames of an input with a time axis of its own.
MEMORY = 5
LENGTHS = [13, 0, 1, 6, 12]


def graph_of(case: Case) -> cgru.Graph:
    g = cgru.Graph()
    names = [
        g.input(
            given.features,
            name="abcd"[i],
            time="memory" if given.memory else given.timed,
            dtype="int64" if given.vocabulary else "float32",
        )
        for i, given in enumerate(case.inputs)
    ]
    g.output(case.build(g, *names, *([g.mask_of_input(names[0])] if case.mask else [])))
    return g


def array_of(given: Given, rng: np.random.Generator, batch: int) -> np.ndarray:
    shape = (batch, *((MEMORY if given.memory else STEPS,) if given.timed else ()), *given.features)
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
        name: array[row, :length] if given.timed and not given.memory else array[row]
        for (name, array), given in zip(inputs.items(), case.inputs, strict=True)
    }


def in_core(case: Case) -> bool:
    return packed_graph.unsupported(cgru.Model(graph_of(case), backend="reference").graph) is None


ALL = [(op, i, case) for op, cases in CASES.items() for i, case in enumerate(cases)]
#: Every case by the equations, and by the core where it has the operation.
BOTH = [
    pytest.param(case, engine, id=f"{op}-{i}-{engine}")
    for op, i, case in ALL
    for engine in ("reference", "packed")
    if engine == "reference" or in_core(case)
]
#: The equations run in float64 and end in float32; the core in float32.
TOLERANCE: dict[str, Any] = {"reference": {"rtol": 3e-7, "atol": 3e-7}, "packed": {"rtol": 3e-6, "atol": 3e-6}}


def test_every_operation_has_a_case() -> None:
    assert sorted(CASES) == sorted(OPERATIONS)


@pytest.mark.parametrize(("case", "engine"), BOTH)
def test_values_and_rows_of_any_length(case: Case, engine: str) -> None:
    """Every row of a ragged batch against the formula on that row alone, and zeros behind it."""
    inputs, mask = drawn(case)
    net = cgru.Model(graph_of(case), backend=engine)
    assert set(net.backends) == {engine}
    masked: Any = {} if mask is None else {"mask": mask}
    timed = any(given.timed for given in case.inputs)
    together = net(inputs, lengths=LENGTHS, **masked) if timed else net(inputs)
    value = net.graph.values[net.graph.outputs[0]]
    for row, length in enumerate(LENGTHS):
        alone = cut(case, inputs, row, length)
        more = [] if mask is None else [mask[row, :length]]
        wanted = case.formula(*(a if a.dtype.kind == "i" else a.astype(float) for a in alone.values()), *more)
        if value.clock is None:
            np.testing.assert_allclose(together[row], wanted, **TOLERANCE[engine])
            continue
        frames = value.clock.count(length)
        assert len(wanted) == frames
        wanted = wanted.reshape(frames, *value.features)
        np.testing.assert_allclose(together[row, :frames], wanted, **TOLERANCE[engine])
        assert not together[row, frames:].any()
        if timed and engine == "packed" and mask is None:
            np.testing.assert_array_equal(together[row, :frames], net(alone), err_msg="bits of a row alone")


@pytest.mark.parametrize(("case", "engine"), BOTH)
@pytest.mark.parametrize("cuts", [[1, 2, 3], [0, 5, 5, 11]])
def test_chunks_equal_the_whole(case: Case, engine: str, cuts: list[int]) -> None:
    """To the bit in the core. Where there is a mask, every frame counts here: streams take none."""
    inputs, _ = drawn(case, 2)
    net = cgru.Model(graph_of(case), backend=engine)
    table = net.graph.operations
    as_of_now = all(table[n.name].as_of_now for n in net.graph.nodes if table[n.name].is_whole(n.options))
    if case.whole and not as_of_now:
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
                    name: array[:, a:b] if given.timed and not given.memory else array
                    for (name, array), given in zip(inputs.items(), case.inputs, strict=True)
                }
            )
        )
    exact: Any = {"rtol": 0, "atol": 0} if engine == "packed" else TOLERANCE[engine]
    if case.whole:  # what a row carries, after each chunk
        for b, part in zip(bounds[1:], parts, strict=True):
            np.testing.assert_allclose(part, net({name: array[:, :b] for name, array in inputs.items()}), **exact)
        np.testing.assert_allclose(stream.flush(), parts[-1], **exact)
        return
    parts.append(stream.flush())
    np.testing.assert_allclose(np.concatenate(parts, axis=1), net(inputs), **exact)


@pytest.mark.parametrize(("case", "engine"), BOTH)
def test_inputs_are_left_alone_and_graphs_survive_json(case: Case, engine: str) -> None:
    inputs, _ = drawn(case, 2)
    before = {name: array.copy() for name, array in inputs.items()}
    net = cgru.Model(graph_of(case), backend=engine)
    first = net(inputs)
    for name, array in inputs.items():
        np.testing.assert_array_equal(array, before[name])
    np.testing.assert_array_equal(net(inputs), first)
    again = graph_from_json(json.loads(json.dumps(net.graph.to_json())))
    assert again.nodes == net.graph.nodes
    assert again.values == net.graph.values


def test_padding_to_whole_windows_in_the_middle_of_a_network() -> None:
    """What comes behind it runs in chunks over other numbers of frames than steps."""
    rng = np.random.default_rng(5)
    g = cgru.Graph()
    x = g.input(3, name="x")
    before = g.conv1d(x, units=3, width=2, left=1, weights={"weight": weights(rng, 3, 3, 2)})
    padded = g.pad_same(before, span=5, stride=3)
    thin = g.conv1d(padded, units=4, width=5, stride=3, weights={"weight": weights(rng, 4, 3, 5)})
    g.output(thin, g.pool_whole(thin, kind="mean"))
    assert packed_graph.unsupported(cgru.Model(g).graph) is None
    for steps in (1, 2, 3, 7, 500):
        data = rng.standard_normal((2, steps, 3)).astype(np.float32)
        for lengths in (None, [steps, steps // 2]):
            found, wanted = (
                cgru.Model(g, backend=backend)(data, lengths=lengths) for backend in ("packed", "reference")
            )
            for name in wanted:
                np.testing.assert_allclose(found[name], wanted[name], rtol=2e-6, atol=2e-6)


def weights(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return (rng.standard_normal(shape) * 0.4).astype(np.float32)


@pytest.mark.parametrize("engine", ["packed", "reference"])
def test_folding_takes_one_length(engine: str) -> None:
    g = cgru.Graph()
    g.output(g.fold_time(g.input((2, 3)), frames=4))
    net = cgru.Model(g, backend=engine)
    assert set(net.backends) == {engine}
    x = np.arange(48, dtype=np.float32).reshape(2, 4, 2, 3)
    np.testing.assert_array_equal(net(x), x)
    np.testing.assert_array_equal(net(x, lengths=[4, 0]), x * [[[[1]]], [[[0]]]])
    for given, lengths, found in ((x[:, :3], None, 3), (x, [4, 3], 3), (x[:, :1], None, 1)):
        with pytest.raises(cgru.ShapeError, match=f"needs 4 frames there, .* found {found}"):
            net(given, lengths=lengths)
