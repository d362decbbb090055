"""Streams over inputs given once: to the bit what whole runs give, and every misuse told by name."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
import pytest
from seq2seq import HIDDEN, arr, graphs, ids

import cgru
from cgru.engine.given_once import split


def decoder(attention: str = "additive", **options: Any) -> tuple[cgru.Model, dict[str, np.ndarray], np.ndarray]:
    both: Any = cgru.Model(graphs(attention), **options)
    given = both["encode"](ids(3, 7)) | {"memory_lengths": np.array([7, 2, 5])}
    if not attention:
        given = {"h0": given["h0"]}
    return both["decode"], given, ids(3, 6)


@pytest.mark.parametrize("attention", ["", "dot", "general", "additive"])
def test_steps_and_chunks_are_the_whole(attention: str) -> None:
    net, given, tokens = decoder(attention)
    whole = net({"token": tokens, **given})
    stream = net.stream(3, inputs=given)
    np.testing.assert_array_equal(np.stack([stream.step(tokens[:, t]) for t in range(6)], axis=1), whole)
    stream.reset()
    parts = [stream.feed(tokens[:, :2]), stream.step(tokens[:, 2])[:, None], stream.feed(tokens[:, 3:])]
    np.testing.assert_array_equal(np.concatenate(parts, axis=1), whole)
    assert stream.flush().shape == (3, 0, whole.shape[2])
    stream.reset(rows=[1])
    again = stream.step(tokens[:, 0])
    np.testing.assert_array_equal(again[1], whole[1, 0])
    assert (again[0] != whole[0, 0]).any()


def test_the_reference_streams_as_well() -> None:
    net, given, tokens = decoder("general", backend="reference")
    stream = net.stream(3, inputs=given)
    whole = net({"token": tokens, **given})
    steps = np.stack([stream.step(tokens[:, t]) for t in range(6)], axis=1)
    np.testing.assert_allclose(steps, whole, rtol=1e-6, atol=1e-6)


def test_one_row_without_a_batch_axis() -> None:
    net, given, tokens = decoder()
    alone = {"h0": given["h0"][0], "memory": given["memory"][0], "memory_lengths": 7}
    stream = net.stream(inputs=alone)
    y = np.stack([stream.step(token) for token in tokens[0]])
    np.testing.assert_array_equal(y, net({"token": tokens, **given})[0])


@pytest.mark.parametrize("backend", ["packed", "reference"])
def test_out_takes_a_step_and_nothing_else_does(backend: str) -> None:
    net, given, tokens = decoder(backend=backend)
    stream = net.stream(3, inputs=given)
    whole = net({"token": tokens, **given})
    out = np.empty((3, whole.shape[2]), np.float32)
    fixed = out.copy()
    fixed.flags.writeable = False
    for wrong in (out.astype(np.float64), np.empty((2, *out.shape), np.float32), out[:2], out.T.copy().T, fixed, [0.0]):
        with pytest.raises(cgru.ShapeError, match=r"^out: expected a float32 array of shape \(3, "):
            stream.step(tokens[:, 0], out=wrong)  # type: ignore[arg-type]
    assert stream.step(tokens[:, 0], out=out) is out  # the first step: no refusal has moved the state
    np.testing.assert_allclose(out, whole[:, 0], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("backend", ["packed", "reference"])
@pytest.mark.parametrize("attention", ["dot", "general"])
def test_what_was_given_may_change_afterwards(attention: str, backend: str) -> None:
    net, given, tokens = decoder(attention, backend=backend)
    given = {name: np.array(array) for name, array in given.items()}
    whole = net({"token": tokens, **given})
    stream = net.stream(3, inputs=given)
    for array in given.values():
        array[...] = 1
    steps = np.stack([stream.step(tokens[:, t]) for t in range(6)], axis=1)
    np.testing.assert_allclose(steps, whole, rtol=1e-6, atol=1e-6)


def test_a_state_wins_over_what_is_given() -> None:
    net, given, tokens = decoder()
    h = arr(1, 3, HIDDEN)
    first = net.stream(3, inputs={**given, "h0": h[0]}).step(tokens[:, 0])
    np.testing.assert_array_equal(net.stream(3, state={"decoder.h": h}, inputs=given).step(tokens[:, 0]), first)


def test_copies_dumps_and_what_is_not_pickled() -> None:
    net, given, tokens = decoder()
    stream: Any = net.stream(3, inputs=given)
    stream.feed(tokens[:, :3])
    twin, blob = copy.copy(stream), stream.dump()
    rest = stream.feed(tokens[:, 3:])
    np.testing.assert_array_equal(twin.feed(tokens[:, 3:]), rest)
    fresh: Any = net.stream(3, inputs=given)
    fresh.restore(blob)
    np.testing.assert_array_equal(fresh.feed(tokens[:, 3:]), rest)
    with pytest.raises(cgru.CgruError, match="not pickled"):
        pickle.dumps(stream)


def test_the_keys_are_projected_once() -> None:
    """What the memory decides alone is no part of a step."""
    graph = cgru.Model(graphs("additive"))["decode"].graph
    parts = split(graph)
    assert parts.once is not None
    assert [node.op for node in parts.once.nodes] == ["dense"]
    assert "attend" in [node.op for node in parts.steps.nodes]
    assert len(parts.steps.nodes) == len(graph.nodes) - 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"memory": None}, "^memory: the network takes"),
        ({"memory": np.zeros((2, 7, HIDDEN)), "memory_lengths": None}, "expected 3 rows, found 2"),
        ({"memory": np.zeros((3, 7, HIDDEN + 1))}, r"\(B, S\(memory\), 8\)"),
        ({"memory": np.zeros((3, 0, HIDDEN)), "memory_lengths": None}, "nothing to attend to"),
        ({"memory_lengths": [7, 2, 8]}, r"outside \[0, T\]"),
        ({"memory_lengths": [7, 2]}, "one per row"),
        ({"memories": 1}, "takes no input 'memories' once; those given once are h0, memory"),
        ({"h0": np.zeros((3, HIDDEN), complex)}, "real"),
    ],
)
def test_what_does_not_fit(change: dict[str, Any], message: str) -> None:
    net, given, _ = decoder()
    with pytest.raises(cgru.CgruError, match=message):
        net.stream(3, inputs={**given, **change})


def test_misuse() -> None:
    net, given, tokens = decoder()
    with pytest.raises(cgru.CgruError, match="'h0' is missing; those given once are h0, memory"):
        net.stream(3, inputs={"memory": given["memory"]})
    stream = net.stream(3, inputs=given)
    for x, message in ((tokens[:2, 0], "has 3 rows, found 2"), ({"tokens": 1}, "no input 'tokens' advances")):
        with pytest.raises(cgru.CgruError, match=message):
            stream.step(x)
    with pytest.raises(cgru.CgruError, match=r"outside the vocabulary \[0, 9\)"):
        stream.step([0, 9, 1])
    hidden = np.ma.MaskedArray(np.array([1, 2, 3]), mask=[False, True, False])
    for odd, message in ((hidden, "masked array"), ([[1], [2, 3]], "not an array")):
        with pytest.raises(cgru.ShapeError, match=message):
            stream.step(odd)
    plain = cgru.Model([cgru.Dense(np.eye(3))])
    with pytest.raises(cgru.CgruError, match="nothing is given to this network once"):
        plain.stream(inputs={"memory": 1})


@pytest.mark.parametrize("precision", ["float32", "int8", "int8x16", "bf16", "fp16"])
@pytest.mark.parametrize("cell", [cgru.GRU, cgru.LSTM, cgru.RNN])
def test_an_embedding_is_a_table_of_the_same_bits(cell: Any, precision: str, monkeypatch: Any) -> None:
    """What tokens give a recurrence is looked up where it fits the bound, and multiplied where it does not."""
    from cgru.engine.backends import packed_graph

    rng, n = np.random.default_rng(5), 17
    rows = len(cell.GATES) * n
    layer = cell.from_arrays(*(rng.standard_normal(s) * 0.4 for s in ((rows, 6), (rows, n), rows, rows)))
    table = rng.standard_normal((9, 6))

    def made() -> cgru.Model:
        g = cgru.Graph()
        x = g.input(name="token", dtype="int64")
        e = g.layer(cgru.Embedding(table), x)
        g.output(g.concat(g.layer(layer, e), e))
        net = cgru.Model(g)
        return net if precision == "float32" else net.quantize(precision)

    x, lengths = ids(5, 40), [40, 0, 3, 17, 39]
    found = []
    for bound in (1 << 18, 0):
        monkeypatch.setattr(packed_graph, "LOOKUP", bound)
        net = made()
        stream = net.stream()
        steps = np.stack([stream.step(token) for token in x[0]])
        found.append([net(x), net(x, lengths=lengths), net(x[0]), steps, net(x, threads=2)])
    for looked_up, multiplied in zip(*found, strict=True):
        np.testing.assert_array_equal(looked_up, multiplied)
    np.testing.assert_array_equal(found[0][3], found[0][2])
