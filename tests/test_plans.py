"""One Model, one Stream, one Pool: what holds whatever a network was made of and whichever plan runs it."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from networks import noise

import cgru
from cgru import UnsupportedError
from cgru.engine.pool import Pool
from cgru.engine.stream import Stream


def gru(inputs: int = 3, units: int = 5, seed: int = 0, **options: Any) -> cgru.GRU:
    names = {"weight_ih": (3 * units, inputs), "weight_hh": (3 * units, units), "bias_ih": (3 * units,)}
    ends = ("", "_reverse") if options.get("bidirectional") else ("",)
    arrays = {f"{n}_l0{end}": noise(s, seed + i) for end in ends for i, (n, s) in enumerate(names.items())}
    return cgru.GRU(arrays, **options)


def head(inputs: int = 5) -> cgru.Dense:
    return cgru.Dense(noise((2, inputs), 7), noise((2,), 8))


def skip(**options: Any) -> cgru.Graph:
    """A GRU with its input beside it."""
    g = cgru.Graph()
    x = g.input(3)
    g.output(g.layer(head(8), g.concat(g.layer(gru(**options), x), x)))
    return g


def ahead() -> cgru.Graph:
    g = cgru.Graph()
    x = g.input(3)
    g.output(g.conv1d(x, units=4, width=5, left=2, right=2, weights={"weight": noise((4, 3, 5), 1)}))
    return g


X = noise((2, 6, 3), 3)


def test_the_type_says_nothing_of_the_form(tmp_path: Path) -> None:
    for made in (cgru.Model([gru(), head()]), cgru.Model(skip())):
        made.save(tmp_path / "net.safetensors")
        loaded = cgru.load(tmp_path / "net.safetensors")
        assert type(made) is type(loaded) is type(made.quantize("int8")) is cgru.Model
        assert loaded.is_chain == made.is_chain
        assert isinstance(made.stream(), Stream)
        assert isinstance(made.pool(1), Pool)


def test_nothing_is_packed_before_the_first_call(tmp_path: Path) -> None:
    def packed(net: cgru.Model) -> list[bool]:
        return [weights._packed is not None for weights in net.store.values()]

    for net in (cgru.Model([gru(), head()], backend="packed"), cgru.Model(skip(), backend="packed")):
        net.save(tmp_path / "net.safetensors")
        assert "gru" in str(net)
        assert net.quantize("int8").nbytes < net.nbytes
        assert not any(packed(net))
        net.pool(1)
        assert all(packed(net))


@pytest.mark.parametrize("lengths", [None, [6, 2], [0, 5]])
def test_blas_runs_graphs(lengths: Any) -> None:
    if cgru.engine.backends.backend("blas").unavailable():
        pytest.skip("backend blas is not here")
    g = skip()
    g.output(g.layer(head(4), g.conv1d("x", units=4, width=2, left=1, weights={"weight": noise((4, 3, 2), 1)})))
    net = cgru.Model(g, backend="blas")
    assert set(net.backends) == {"blas", "reference"}
    want = net(X, lengths, backend="reference")
    for name, y in net(X, lengths).items():
        assert y.dtype == np.float32
        np.testing.assert_allclose(y, want[name], rtol=0, atol=2e-6)
    stream = net.stream(2)
    parts = [stream.feed(X[:, :4]), stream.feed(X[:, 4:])]
    for name, y in net(X, backend="reference").items():
        np.testing.assert_allclose(np.concatenate([part[name] for part in parts], 1), y, rtol=0, atol=2e-6)


@pytest.mark.parametrize(
    "options", [{}, {"bidirectional": True}, {"go_backwards": True}, {"zero_output_for_mask": True}]
)
@pytest.mark.parametrize("last", [False, True])
def test_rows_of_several_lengths_are_as_each_alone(backend: str, options: dict[str, Any], last: bool) -> None:
    layers = [gru(return_sequences=not last, **options), head(10 if "bidirectional" in options else 5)]
    net, lengths = cgru.Model(layers, backend=backend), [4, 0, 6]
    x = noise((3, 6, 3), 9)
    y = net(x, lengths)
    for row, length in enumerate(lengths):
        alone = net(x[row : row + 1, :length])
        np.testing.assert_allclose(y[row] if last else y[row, :length], alone[0], rtol=0, atol=1e-6)
        assert last or not y[row, length:].any()


@pytest.mark.parametrize("make", [lambda: [gru(), head()], skip, ahead])
def test_flush_has_the_shape_of_what_was_fed(backend: str, make: Any) -> None:
    net = cgru.Model(make(), backend=backend)
    for x in (X, X[0], X[:1]):
        stream = net.stream(len(x) if x.ndim == 3 else 1)
        first, rest = stream.feed(x), stream.flush()
        assert first.ndim == rest.ndim == x.ndim
        np.testing.assert_allclose(np.concatenate([first, rest], axis=x.ndim - 2), net(x), rtol=0, atol=1e-6)


def test_a_network_for_any_number_of_features(backend: str) -> None:
    net = cgru.Model([cgru.Activation("tanh"), cgru.Masking()], backend=backend)
    stream, pool = net.stream(2), net.pool(2)
    sids = [pool.open(), pool.open()]
    assert (net.input_size, net.output_size) == (0, 0)
    for width in (3, 1, 5, 3):
        x = noise((2, 4, width), width)
        want = np.tanh(x.astype(np.float64))
        for y in (net(x), stream.feed(x)):
            np.testing.assert_allclose(y, want, rtol=0, atol=1e-6)
        out = np.empty((2, width), np.float32)
        for y in (stream.step(x[:, 0]), stream.step(x[:, 0], out), pool.step(sids, x[:, 0])):
            np.testing.assert_allclose(y, want[:, 0], rtol=0, atol=1e-6)


def test_a_last_output_streams_as_of_now(backend: str) -> None:
    """From layers and from a graph alike: after each step, that of the sequence so far."""
    g, layers = cgru.Graph(), [gru(return_sequences=False), head()]
    g.output(g.layer(layers[1], g.layer(layers[0], g.input(3))))
    chain, graph = cgru.Model(layers, backend=backend), cgru.Model(g, backend=backend)
    streams, pools = [net.stream(2) for net in (chain, graph)], [net.pool(2) for net in (chain, graph)]
    sids = [[pool.open(), pool.open()] for pool in pools]
    for t in range(4):
        want = chain(X[:, : t + 1])
        for stream, pool, named in zip(streams, pools, sids, strict=True):
            np.testing.assert_allclose(stream.step(X[:, t]), want, rtol=0, atol=1e-6)
            np.testing.assert_allclose(pool.step(named, X[:, t]), want, rtol=0, atol=1e-6)


def test_frames_made_of_a_last_output_do_not_stream() -> None:
    g = cgru.Graph()
    x = g.input(3)
    last = g.layer(gru(return_sequences=False), x)
    g.output(g.concat(x, g.expand_time(last, x)))
    with pytest.raises(UnsupportedError, match="last state needs the whole sequence"):
        cgru.Model(g).stream()


@pytest.mark.parametrize("options", [{}, {"go_backwards": True}, {"bidirectional": True}])
def test_gates_of_rows_of_several_lengths(options: dict[str, Any]) -> None:
    net, lengths = cgru.Model([gru(name="x", **options)]), [4, 0, 6]
    x, h0 = noise((3, 6, 3), 4), noise((2 if "bidirectional" in options else 1, 3, 5), 5)
    found = net.gates(x, lengths, state={"x.h": h0})
    assert sorted(found) == (["x.l0", "x.l0.reverse"] if "bidirectional" in options else ["x.l0"])
    for label, gates in found.items():
        backwards = label.endswith("reverse") or "go_backwards" in options
        for row, length in enumerate(lengths):
            begin = h0[:, row : row + 1]
            alone = net.gates(x[row, :length], state={"x.h": begin})[label] if length else {}
            for gate, values in gates.items():
                assert values.shape == (3, 6, 5)
                assert not length or np.array_equal(values[row, :length], alone[gate])
                rest = values[row, length:]
                if gate == "h":
                    held = begin[-1 if label.endswith("reverse") else 0, 0]
                    held = held if backwards or not length else alone["h"][length - 1]
                    assert np.array_equal(rest, np.broadcast_to(held, rest.shape))
                else:
                    assert (rest == (gate == "z")).all()


def test_lengths_want_an_input_with_steps() -> None:
    g = cgru.Graph()
    g.output(g.layer(head(3), g.input(3, time=False)))
    with pytest.raises(UnsupportedError, match="lengths: no input of the network has steps"):
        cgru.Model(g)(noise((2, 3), 0), lengths=[1, 1])


def test_entries_of_models_whose_layers_have_one_name() -> None:
    first, second = cgru.Model([gru(seed=0)]), cgru.Model([gru(seed=40)])
    both: Any = {"a": first, "b": second}
    for net in (cgru.Model(both), pickle.loads(pickle.dumps(cgru.Model(both)))):
        assert np.array_equal(net["a"](X), first(X))
        assert np.array_equal(net["b"](X), second(X))
