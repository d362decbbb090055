"""No attribute, private or not, brings the C core to memory that nobody checked: an error, never a crash."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest

import cgru
from cgru import CgruError
from cgru.engine.state import StateLayout
from cgru.spec.graph import Graph as GraphSpecification
from cgru.spec.values import Value


def net(inputs: int = 4, hidden: int = 40) -> cgru.Model:
    rng = np.random.default_rng(0)
    shapes = {
        "weight_ih_l0": (3 * hidden, inputs), "weight_hh_l0": (3 * hidden, hidden),
        "bias_ih_l0": (3 * hidden,), "bias_hh_l0": (3 * hidden,),
    }  # fmt: skip
    arrays = {key: rng.standard_normal(shape).astype(np.float32) for key, shape in shapes.items()}
    return cgru.Model([cgru.GRU(arrays)], backend="packed")


X = np.ones((2, 3, 4), np.float32)

SMALL: dict[str, Any] = {
    "rows": np.zeros((1, 48), np.float32),
    "width": np.zeros((2, 16), np.float32),
    "type": np.zeros((2, 48), np.float16),
    "read-only": np.broadcast_to(np.float32(0), (2, 48)),
    "axes": np.zeros(96, np.float32),
}


@pytest.mark.parametrize("kind", SMALL)
def test_a_state_of_other_memory(kind: str) -> None:
    model, array = net(), SMALL[kind]
    state = model.run(X)[1]
    with pytest.raises(AttributeError):
        state.data = array  # type: ignore[misc]
    if kind != "rows":
        with pytest.raises(CgruError):
            cgru.State(state.layout, array)
    state._data = array
    if kind == "read-only":  # run copies it
        model.run(X, state)
    else:
        with pytest.raises(CgruError):
            model.run(X, state)
    with pytest.raises(CgruError):
        model._plan(None).run({"x": X}, array)


def test_a_state_is_not_resized_in_place() -> None:
    state = net().run(X)[1]
    with pytest.raises(ValueError, match="resize"):
        state.data.resize((1, 1), refcheck=False)
    state.data[...] = 2.0  # its numbers may be written
    assert (state.arrays()["gru.h"] == 2).all()


def test_a_state_without_a_network() -> None:
    other = StateLayout(GraphSpecification({"x": Value((3,))}, [], ["x"]), bytes)
    for make in (lambda: cgru.State(None, X), lambda: cgru.State(other, X)):  # type: ignore[arg-type]
        with pytest.raises(CgruError):
            make()
    with pytest.raises(TypeError):
        cgru.State.__new__(cgru.State)  # type: ignore[call-arg]


def test_streams_and_pools_that_were_never_made() -> None:
    model = net()
    stream: Any = type(model.stream()).__new__(type(model.stream()))
    pool: Any = type(model.pool(2)).__new__(type(model.pool(2)))
    for call in (
        lambda: stream.step(X[0, 0]),
        lambda: stream._enter(),
        lambda: pool.step([1], X[0, :1]),
        lambda: pool.step([], X[0, :0]),
        lambda: pool._enter(),
    ):
        with pytest.raises(CgruError, match="never made"):
            call()


def test_made_twice() -> None:
    model, other = net(), net(7, 90)
    stream: Any = model.stream()
    pool: Any = model.pool(2)
    core: Any = other._plan(None).core
    sid = pool.open()
    want = stream.step(X[0, 0])
    for call in (
        lambda: stream.__init__(other, 5),
        lambda: pool.__init__(other, 5),
        lambda: stream._bind(core, np.zeros((1, 96), np.float32)),
        lambda: pool._bind(core, np.zeros((1, 96), np.float32)),
        lambda: pool._name(np.zeros(9, np.int64), np.zeros(9, np.int64), 16),
    ):
        with pytest.raises(CgruError, match="made already"):
            call()
    stream.reset()
    assert np.array_equal(stream.step(X[0, 0]), want)
    assert np.array_equal(pool.step([sid], X[0, :1])[0], want)


@pytest.mark.parametrize("attribute", ["_net", "_batch", "_data"])
def test_attributes_of_a_stream_exchanged(attribute: str) -> None:
    model = net()
    stream: Any = model.stream(3)
    setattr(stream, attribute, {"_net": net(2, 9), "_batch": 1, "_data": np.zeros((1, 1), np.float32)}[attribute])
    for call in (lambda: stream.step(np.ones((1, 2), np.float64)), lambda: stream.feed(np.ones((1, 2, 2)))):
        with pytest.raises(CgruError):
            call()
    for name in ("net", "batch"):
        with pytest.raises(AttributeError):
            setattr(stream, name, 1)


def test_attributes_of_a_pool_exchanged() -> None:
    pool: Any = net().pool(2)
    sid = pool.open()
    pool._rows = lambda sids: np.array([10**6])
    with pytest.raises(CgruError):
        pool.step([sid + 1], np.ones((1, 4), np.float32))
    pool._input = lambda x, n: np.ones((n, 1), np.float32)
    with pytest.raises(CgruError):
        pool.step([sid], np.ones((1, 4), np.float64))


def test_a_network_whose_sizes_are_written_over() -> None:
    model = net()
    model.input_size = 2
    with pytest.raises(CgruError):
        model(X[..., :2])
    layer = net().layers[0]
    for name, value in (("hidden_size", 4000), ("emitted_size", 4000), ("num_layers", 3)):
        twin: Any = copy.copy(cgru.GRU(layer.arrays()))
        setattr(twin, name, value)
        with pytest.raises((CgruError, KeyError)):
            cgru.Model([twin], backend="packed")
    twin = cgru.GRU(layer.arrays())
    twin.weights["_l0"]._held["weight_hh"] = np.zeros((3, 1), np.float32)
    with pytest.raises(CgruError):
        cgru.Model([twin], backend="packed")(X)
    dense: Any = cgru.Dense(np.ones((30, 40), np.float32), np.ones(30, np.float32))
    dense.weights[""]._held["bias"] = np.ones(2, np.float32)
    with pytest.raises(CgruError):
        cgru.Model([dense], backend="packed")(np.ones((2, 3, 40), np.float32))


def test_copies_share_nothing() -> None:
    model = net()
    state = model.run(X)[1]
    for twin in (copy.copy(state), copy.deepcopy(state)):
        twin.data[...] = 0
        assert (state.arrays()["gru.h"] != 0).any()
    stream = model.stream(2)
    stream.feed(X)
    for other in (copy.copy(stream), copy.deepcopy(stream)):
        other.reset()
        assert stream.dump() != other.dump()
    pool = model.pool(2)
    for way in (copy.copy, copy.deepcopy):
        with pytest.raises(CgruError, match="a pool is not copied"):
            way(pool)
