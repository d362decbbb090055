"""Networks, layers, states and streams across pickle, copy and other processes: the same bits on the other side."""

from __future__ import annotations

import copy
import multiprocessing
import pickle
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import numpy as np
import pytest

import cgru
from cgru.layers import LAYERS, Recurrent


def recurrent(kind: str, **options: Any) -> Any:
    rng = np.random.default_rng(0)
    cls: Any = LAYERS[kind]
    gates = len(cls.GATES)
    given: list[Any] = [
        rng.standard_normal((gates * 5, 4)),
        rng.standard_normal((gates * 5, 5)),
        rng.standard_normal(gates * 5),
    ]
    if kind == "min_gru":
        return cls.from_arrays(given[0], None, given[2], **options)
    return cls.from_arrays(*given, **options)


def network(precision: str = "float32", backend: str | None = None) -> cgru.Model:
    rng = np.random.default_rng(1)
    layers = [
        cgru.Embedding(rng.standard_normal((7, 4)), mask_zero=True),
        recurrent("gru", reset="before"),
        cgru.Dense(rng.standard_normal((3, 5)), rng.standard_normal(3), activation="softmax"),
    ]
    net = cgru.Model(layers, backend=backend)
    return net if precision == "float32" else net.quantize(precision)


IDS = np.array([[1, 2, 0, 6], [3, 0, 0, 5]])


@pytest.mark.parametrize("precision", ["float32", "int8", "int8x16", "bf16", "fp16"])
@pytest.mark.parametrize("way", ["pickle", "copy", "deepcopy"])
def test_networks(precision: str, way: str) -> None:
    net = network(precision)
    ways: dict[str, Any] = {"copy": copy.copy, "deepcopy": copy.deepcopy}
    twin = ways.get(way, lambda value: pickle.loads(pickle.dumps(value)))(net)
    want, state = net.run(IDS)
    assert twin is not net
    assert np.array_equal(twin(IDS), want)
    assert str(twin) == str(net)
    assert np.array_equal(twin.run(IDS, state)[0], net.run(IDS, state)[0])


def test_the_backend_and_the_report_go_along(backend: str) -> None:
    net = network(backend=backend).quantize("int8", sample=IDS)
    twin = pickle.loads(pickle.dumps(net))
    assert twin.backends == net.backends
    assert twin.report == net.report


@pytest.mark.parametrize("precision", ["float32", "bf16"])
@pytest.mark.parametrize("kind", sorted(kind for kind, cls in LAYERS.items() if issubclass(cls, Recurrent)))
def test_layers(kind: str, precision: str) -> None:
    layer = recurrent(kind).quantized(precision)
    x = np.random.default_rng(2).standard_normal((2, 3, 4)).astype(np.float32)
    fresh = pickle.dumps(layer)
    want = layer(x)[0]  # and now it is packed
    for twin in (pickle.loads(fresh), pickle.loads(pickle.dumps(layer)), copy.copy(layer), copy.deepcopy(layer)):
        assert type(twin) is type(layer)
        assert twin.name == layer.name
        assert twin.precision == precision
        assert np.array_equal(twin(x)[0], want)


def test_states_and_streams(backend: str) -> None:
    net = network(backend=backend)
    _, state = net.run(IDS)
    there = pickle.loads(pickle.dumps(state))
    assert np.array_equal(net.run(IDS, there)[0], net.run(IDS, state)[0])
    with pytest.raises(cgru.CgruError, match="another network"):
        net.quantize("bf16").run(IDS, there)
    stream = net.stream(2)
    stream.feed(IDS)
    twin = pickle.loads(pickle.dumps(stream))
    assert twin.dump() == stream.dump()
    assert np.array_equal(twin.feed(IDS), stream.feed(IDS))


def test_a_pool_says_why_not() -> None:
    pool = network().pool(3)
    with pytest.raises(TypeError, match="a pool is not copied or pickled: its ids"):
        pickle.dumps(pool)


def test_another_process_by_spawn() -> None:
    """The network itself is what is called there, with a state; and a stream's own method."""
    net = network("int8")
    _, state = net.run(IDS)
    stream = net.stream(2)
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as executor:
        y, final = executor.submit(net.run, IDS, state).result()
        fed = executor.submit(stream.feed, IDS).result()
    want, last = net.run(IDS, state)
    assert np.array_equal(y, want)
    assert np.array_equal(final.data, last.data)
    assert np.array_equal(fed, stream.feed(IDS))
