"""Initial states that a network holds: every row begins with them, unless its caller gives a state."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import cgru

RNG = np.random.default_rng(11)
UNITS, INPUTS = 7, 5


def arr(*shape: int) -> np.ndarray:
    return (RNG.standard_normal(shape) * 0.4).astype(np.float32)


LAYERS = {
    "gru": cgru.GRU.from_arrays(arr(3 * UNITS, INPUTS), arr(3 * UNITS, UNITS), arr(3 * UNITS), arr(3 * UNITS)),
    "lstm": cgru.LSTM.from_arrays(arr(4 * UNITS, INPUTS), arr(4 * UNITS, UNITS), arr(4 * UNITS), arr(4 * UNITS)),
}
H0, C0 = arr(UNITS), arr(UNITS)


def given(kind: str, batch: int) -> np.ndarray | tuple[np.ndarray, np.ndarray]:
    """The states as a layer by itself takes them: (1, B, H)."""
    h, c = (np.repeat(array[None, None], batch, axis=1) for array in (H0, C0))
    return (h, c) if kind == "lstm" else h


def network(kind: str, backend: str | None = None) -> cgru.Model:
    g = cgru.Graph()
    x = g.input(INPUTS)
    values = (H0, C0) if kind == "lstm" else (H0,)
    begin = [g.constant(weights={"value": value}, features=(UNITS,)) for value in values]
    g.output(g.layer(LAYERS[kind], x, *begin))
    return cgru.Model(g, backend=backend)


@pytest.fixture(params=["gru", "lstm"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.mark.parametrize("backend", ["packed", "reference"])
def test_one_row_begins_every_row_of_a_batch(kind: str, backend: str) -> None:
    x = arr(4, 9, INPUTS)
    want, _ = LAYERS[kind](x, given(kind, 4), backend="reference")
    np.testing.assert_allclose(network(kind, backend)(x), want, rtol=0, atol=2e-6)


@pytest.mark.parametrize("backend", ["packed", "reference"])
def test_lengths(kind: str, backend: str) -> None:
    """A row without steps carries nothing on; the others end where they do alone."""
    x, lengths = arr(3, 8, INPUTS), np.array([8, 0, 3])
    net = network(kind, backend)
    y, state = net.run(x, lengths=lengths)
    want, _ = LAYERS[kind](x, given(kind, 3), lengths, backend="reference")
    np.testing.assert_allclose(y, want, rtol=0, atol=2e-6)
    after, _ = net.run(x, state)
    for row, length in enumerate(lengths):
        joined = np.concatenate([x[row, :length], x[row]])
        # The reference computes in float64, and rounds the states between two calls alone.
        np.testing.assert_allclose(after[row], net(joined)[length:], rtol=0, atol=0 if backend == "packed" else 1e-6)


def test_streams_and_pools(kind: str) -> None:
    net, x = network(kind), arr(12, INPUTS)
    want = net(x)
    stream = net.stream()
    first = stream.feed(x[:5])
    blob = stream.dump()
    rest = np.stack([stream.step(row) for row in x[5:]])
    assert np.array_equal(np.concatenate([first, rest]), want)
    other = net.stream()
    other.restore(blob)
    assert np.array_equal(other.feed(x[5:]), want[5:])
    pool = net.pool(capacity=2)
    a, b = pool.open(), pool.open()
    assert np.array_equal(np.stack([pool.step([a, b], x[[t, t]])[1] for t in range(len(x))]), want)
    pool.close(b)
    again = pool.open()
    assert np.array_equal(pool.step([again], x[:1])[0], want[0])


@pytest.mark.parametrize("backend", ["packed", "reference"])
def test_what_the_caller_gives_wins(kind: str, backend: str) -> None:
    """Zeros too, which a state's bytes alone do not tell from none; and through a row without steps."""
    net, x = network(kind, backend), arr(6, INPUTS)
    (key, *_) = net.state().arrays()
    for start in (np.zeros((1, UNITS), np.float32), arr(1, UNITS)):
        state = net.state({key: start})
        want = LAYERS[kind](x, (start, 0 * start) if kind == "lstm" else start, backend="reference")[0]
        np.testing.assert_allclose(net.run(x, state)[0], want, rtol=0, atol=2e-6)
        _, same = net.run(x[:0], state)
        assert np.array_equal(net.run(x, same)[0], net.run(x, state)[0])
    np.testing.assert_array_equal(net.run(x, net.state())[0], net(x))


@pytest.mark.parametrize("backend", ["packed", "reference", "blas"])
def test_a_given_state_is_no_output(backend: str) -> None:
    """A masked step repeats the last output; where there was none it is zero, whatever the row began with."""
    net = cgru.Model([LAYERS["gru"]], backend=backend)
    x, mask = arr(1, 4, INPUTS), np.array([[False, False, True, False]])
    y, _ = net.run(x, {"gru.h": H0[None, None]}, mask=mask)
    want, _ = LAYERS["gru"](x[:, 2:3], H0[None, None], backend="reference")
    assert not y[0, :2].any()
    np.testing.assert_allclose(y[0, 2:], np.repeat(want[0], 2, axis=0), rtol=0, atol=2e-6)


def test_saved_and_loaded(kind: str, tmp_path: Path) -> None:
    net, x = network(kind), arr(2, 6, INPUTS)
    net.save(tmp_path / "net.safetensors")
    assert np.array_equal(cgru.load(tmp_path / "net.safetensors")(x), net(x))


def test_reduced(kind: str) -> None:
    net, x = network(kind), arr(3, 6, INPUTS)
    assert np.abs(net.quantize("int8")(x) - net(x)).max() < 0.05


def test_states_of_a_stack_come_for_each_layer_and_direction() -> None:
    torch = pytest.importorskip("torch")
    module = torch.nn.GRU(INPUTS, UNITS, num_layers=2, bidirectional=True, batch_first=True)
    tensors = {name: tensor.detach().numpy() for name, tensor in module.state_dict().items()}
    h0 = arr(4, UNITS)
    g = cgru.Graph()
    x = g.input(INPUTS)
    begin = [g.constant(weights={"value": value}, features=(UNITS,)) for value in h0]
    g.output(g.layer(cgru.GRU.from_torch(tensors), x, *begin))
    given = arr(3, 6, INPUTS)
    with torch.no_grad():
        start = torch.from_numpy(np.repeat(h0[:, None], 3, axis=1))
        want = module(torch.from_numpy(given), start)[0].numpy()
    np.testing.assert_allclose(cgru.Model(g)(given), want, rtol=0, atol=2e-6)
    with pytest.raises(cgru.CgruError, match="expected 4 initial states"):
        g.layer(cgru.GRU.from_torch(tensors), x, begin[0])
