"""Graphs: building, running whole and as streams, against PyTorch where it is installed and against their own law."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import cgru

RNG = np.random.default_rng(7)


def arr(*shape: int) -> np.ndarray:
    return (RNG.standard_normal(shape) * 0.3).astype(np.float32)


def gru(inputs: int, units: int) -> cgru.GRU:
    return cgru.GRU.from_arrays(arr(3 * units, inputs), arr(3 * units, units), arr(3 * units), arr(3 * units))


def conv(g: cgru.Graph, x: str, inputs: int, units: int, width: int, **options: Any) -> str:
    groups = options.get("groups", 1)
    weights = {"weight": arr(units, inputs // groups, width), "bias": arr(units)}
    return g.conv1d(x, units=units, width=width, weights=weights, **options)


def skip() -> cgru.Graph:
    """A causal network with a skip: nothing of it is late."""
    g = cgru.Graph()
    x = g.input(6)
    h = g.layer(gru(6, 8), conv(g, x, 6, 6, 3, left=2, activation="relu"))
    g.output(g.layer(cgru.Dense(arr(3, 14), arr(3)), g.concat(h, x)))
    return g


def centred() -> cgru.Graph:
    """Branches of different lookahead meet."""
    g = cgru.Graph()
    x = g.input(5)
    wide = conv(g, x, 5, 4, 5, left=2, right=2)
    far = conv(g, wide, 4, 4, 3, left=2, right=2, dilation=2, groups=4)
    g.output(g.add(g.layer(gru(5, 4), x), g.mul(wide, far)))
    return g


def strided() -> cgru.Graph:
    """Half the rate, and back."""
    g = cgru.Graph()
    x = g.input(4)
    half = g.pool(conv(g, x, 4, 6, 4, left=1, right=2), kind="max", width=2, stride=2)
    g.output(g.upsample(g.layer(gru(6, 5), half), factor=2))
    return g


GRAPHS = {"skip": skip, "centred": centred, "strided": strided}


@pytest.fixture(params=GRAPHS)
def net(request: pytest.FixtureRequest) -> cgru.Model:
    return cgru.Model(GRAPHS[request.param]())


def test_the_core_runs_it(net: cgru.Model) -> None:
    assert set(net.backends) == {"packed"}
    x, lengths = arr(3, 90, net.input_size), [90, 31, 0]
    for given in (None, lengths):
        np.testing.assert_allclose(net(x, given), net(x, given, backend="reference"), rtol=0, atol=2e-6)


@pytest.mark.parametrize("cuts", [[], [1], [3, 4, 5, 11], [12], [140]])
def test_chunks_equal_the_whole_to_the_bit(net: cgru.Model, cuts: list[int]) -> None:
    x = arr(2, 170 if 140 in cuts else 17, net.input_size)
    whole = net(x)
    stream = net.stream(2)
    parts = [stream.feed(part) for part in np.split(x, cuts, axis=1)]
    np.testing.assert_array_equal(np.concatenate([*parts, stream.flush()], axis=1), whole)


@pytest.mark.parametrize("threads", [2, 3])
def test_threads_and_batches_change_no_bit(net: cgru.Model, threads: int) -> None:
    x = arr(131, 40, net.input_size)
    whole = net(x, threads=threads)
    np.testing.assert_array_equal(whole, net(x))
    for row in (0, 64, 130):
        np.testing.assert_array_equal(whole[row], net(x[row]))


def test_a_stream_is_late_by_its_delay(net: cgru.Model) -> None:
    stream = net.stream()
    given = sum(len(stream.feed(arr(1, net.input_size))) for _ in range(40))
    assert 40 - stream.delay <= given <= 40  # how late a frame is depends on its phase where there are strides
    assert stream.delay or given == 40


def test_rows_of_any_length_equal_themselves_alone(net: cgru.Model) -> None:
    x, lengths = arr(5, 14, net.input_size), [14, 1, 0, 8, 13]
    together = net(x, lengths=lengths)
    for row, length in enumerate(lengths):
        alone = net(x[row, :length])
        np.testing.assert_array_equal(together[row, : len(alone)], alone)
        assert not together[row, len(alone) :].any()


def test_state_goes_on(net: cgru.Model) -> None:
    if net.stream().delay:
        pytest.skip("run() ends a sequence, and this network looks ahead: streams go on instead")
    x = arr(2, 16, net.input_size)
    first, state = net.run(x[:, :8])
    second, _ = net.run(x[:, 8:], state)
    np.testing.assert_array_equal(np.concatenate([first, second], axis=1), net(x))


@pytest.mark.parametrize("stride", [1, 2])
def test_one_output_of_a_sequence_that_is_shorter_than_its_steps(stride: int) -> None:
    """What takes whole sequences carries no frames, however late they are."""
    g = cgru.Graph()
    x = g.input(5)
    h = g.layer(gru(4, 6), conv(g, x, 5, 4, 5, stride=stride))
    g.output(g.pool_whole(h, kind="last", name="end"), g.pool_whole(h, kind="mean", name="mean"))
    net = cgru.Model(g)
    assert set(net.backends) == {"packed"}
    given = arr(4, 30, 5)
    made, wanted = net(given), net(given, backend="reference")
    for name in ("end", "mean"):
        np.testing.assert_allclose(made[name], wanted[name], rtol=0, atol=2e-6)


def test_several_inputs_and_outputs() -> None:
    g = cgru.Graph()
    a, b = g.input(3, name="a"), g.input(3, name="b")
    g.output(g.add(a, b, name="sum"), g.pool_whole(g.mul(a, b), kind="mean", name="mean"))
    net = cgru.Model(g)
    x, y = arr(2, 5, 3), arr(2, 5, 3)
    made = net({"a": x, "b": y})
    np.testing.assert_allclose(made["sum"], x + y)
    np.testing.assert_allclose(made["mean"], (x * y).mean(axis=1), rtol=1e-5, atol=1e-7)
    with pytest.raises(cgru.CgruError, match="'b' is missing"):
        net({"a": x})
    with pytest.raises(cgru.ShapeError, match="differ in steps"):
        net({"a": x, "b": y[:, :3]})
    with pytest.raises(cgru.UnsupportedError, match="whole sequence"):
        net.stream()


def test_what_does_not_fit_is_refused() -> None:
    g = cgru.Graph()
    x = g.input(4)
    with pytest.raises(cgru.ShapeError, match="same features"):
        g.add(x, g.slice(x, start=0, stop=3))
    with pytest.raises(cgru.ShapeError, match="different numbers of frames"):
        g.concat(x, conv(g, x, 4, 4, 3))
    with pytest.raises(cgru.ShapeError, match=r"weight has shape \(4, 4, 3\), expected \(4, 2, 3\)"):
        g.conv1d(x, units=4, width=3, groups=2, weights={"weight": arr(4, 4, 3)})
    with pytest.raises(cgru.FormatError, match="no option"):
        g.slice(x, start=0, stop=1, across=2)


@pytest.mark.parametrize("precision", ["int8", "int8x16", "bf16", "fp16"])
def test_reduced_precision(net: cgru.Model, precision: str) -> None:
    """Near the widened weights' result, by as much as activations of 8 or 16 bits are rounded; streams to the bit."""
    small = net.quantize(precision)
    x = arr(2, 30, net.input_size)
    whole, widened = small(x), small(x, backend="reference")
    error = np.sqrt(np.mean((whole - widened) ** 2) / np.mean(widened**2))
    assert error < {"int8": 2e-2, "bf16": 1e-2}.get(precision, 2e-4)
    stream = small.stream(2)
    parts = [stream.feed(x[:, :11]), stream.feed(x[:, 11:]), stream.flush()]
    np.testing.assert_array_equal(np.concatenate(parts, axis=1), whole)


@pytest.mark.parametrize("backend", ["packed", "reference"])
def test_single_steps_and_pools_equal_the_whole(backend: str) -> None:
    net = cgru.Model(skip(), backend=backend)
    x = arr(4, 12, 6)
    whole, stream, pool = net(x), net.stream(4), net.pool(9)
    ids = [pool.open() for _ in range(5)]
    pool.close(ids.pop(1))
    for t in range(12):
        for made in (stream.step(x[:, t]), pool.step(ids, x[:, t])):
            if backend == "packed":
                np.testing.assert_array_equal(made, whole[:, t])
            else:
                np.testing.assert_allclose(made, whole[:, t], rtol=0, atol=1e-6)
    twin = pool.fork(ids[0])
    np.testing.assert_array_equal(*pool.step([ids[0], twin], x[:1, [0, 0]][0]))
    with pytest.raises(cgru.UnsupportedError, match="does not give one frame"):
        cgru.Model(centred(), backend=backend).pool(2)


def test_several_outputs_a_step() -> None:
    g = cgru.Graph()
    x = g.input(3)
    h = g.layer(gru(3, 5), x)
    g.output(h, g.layer(cgru.Dense(arr(2, 5)), h))
    net = cgru.Model(g)
    data = arr(7, 3)
    whole, stream, pool = net(data), net.stream(), net.pool(2)
    sid = pool.open()
    for t in range(7):
        one, pooled = stream.step(data[t]), pool.step([sid], data[t : t + 1])
        for name, y in whole.items():
            np.testing.assert_array_equal(one[name], y[t])
            np.testing.assert_array_equal(pooled[name][0], y[t])


@pytest.mark.parametrize("backend", ["packed", "reference"])
def test_what_nobody_reads_changes_nothing(backend: str) -> None:
    layer, weight = gru(6, 8), arr(4, 6, 3)
    x = arr(2, 9, 6)
    results = []
    for beside in (False, True):
        g = cgru.Graph()
        name = g.input(6)
        if beside:
            g.constant(weights={"value": np.ones(3, np.float32)}, features=(3,))
            g.conv1d(name, units=4, width=3, left=2, weights={"weight": weight})
            g.pool_whole(g.layer(gru(6, 3), name), kind="max")
        g.output(g.layer(layer, name))
        results.append(cgru.Model(g, backend=backend)(x))
    assert np.array_equal(*results)


def test_what_reducing_a_graph_costs(net: cgru.Model) -> None:
    x = arr(2, 30, net.input_size)
    small = net.quantize("int8")
    report = cgru.compare(net, small, x)
    want = np.abs(net(x) - small(x)).max()
    assert report.output.max_abs == pytest.approx(want, rel=1e-5)
    assert 0 < report.size < 1
    assert "the network" in str(report)
    assert net.quantize("bf16", sample=x).report is not None
    with pytest.raises(cgru.CgruError, match="graphs differ"):
        cgru.compare(net, cgru.Model(GRAPHS["skip" if net.input_size != 6 else "centred"]()), x)


@pytest.mark.parametrize("count", [8, 9, 17, 70])
def test_more_values_are_joined_than_the_core_takes_at_once(count: int) -> None:
    g = cgru.Graph()
    x = g.input(4)
    y = g.concat(*(g.slice(x, start=i % 4, stop=i % 4 + 1) for i in range(count)), name="parts")
    g.output(g.activation(y, activation="relu"), joined=y)
    net = cgru.Model(g)
    given = np.random.default_rng(count).standard_normal((2, 5, 4)).astype(np.float32)
    expected = given[..., np.arange(count) % 4]
    np.testing.assert_array_equal(net(given)["joined"], expected)
    stream = net.stream(batch=2)
    stepped = [stream.step(frame)["joined"] for frame in given.swapaxes(0, 1)]
    np.testing.assert_array_equal(np.stack(stepped, 1), expected)


OVER_TIME = {
    "group_norm": lambda g, x, arr: g.group_norm(
        x, groups=1, over_time=True, weights={"weight": np.ones(3, np.float32), "bias": np.zeros(3, np.float32)}
    ),
    "softmax": lambda g, x, arr: g.softmax_time(x),
    "attention": lambda g, x, arr: g.attend(x, x, x, kind="dot"),
    "backwards": lambda g, x, arr: g.scan(
        x, cell="rnn", units=3, reverse=True,
        weights={"weight_ih": arr(3, 3), "weight_hh": arr(3, 3), "bias_ih": arr(3), "bias_hh": arr(3)},
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", OVER_TIME)
def test_what_is_late_behind_a_whole_sequence_meets_what_is_on_time(kind: str) -> None:
    """Of sequences longer than the chunks that the core takes at once."""
    rng = np.random.default_rng(7)

    def arr(*shape: int) -> np.ndarray:
        return (rng.standard_normal(shape) / 2).astype(np.float32)

    g = cgru.Graph()
    x = g.input(3)
    near = g.activation(x, activation="tanh")
    late = g.conv1d(near, units=3, width=3, left=0, right=2, weights={"weight": arr(3, 3, 3)})
    g.output(g.add(near, OVER_TIME[kind](g, late, arr)))
    given = rng.standard_normal((2, 300, 3)).astype(np.float32)
    for lengths in (None, [300, 170]):
        wanted = cgru.Model(g, backend="reference")(given, lengths=lengths)
        np.testing.assert_allclose(cgru.Model(g, backend="packed")(given, lengths=lengths), wanted, atol=1e-5)


@pytest.mark.parametrize("times", [2, 3])
def test_a_value_may_stand_twice_in_a_concatenation(times: int) -> None:
    g = cgru.Graph()
    y = g.activation(g.input(4), activation="tanh")
    g.output(g.activation(g.concat(*[y] * times, g.unary(y, kind="neg")), activation="relu"))
    x = np.random.default_rng(3).standard_normal((3, 7, 4)).astype(np.float32)
    t = np.tanh(x)
    wanted = np.maximum(np.concatenate([*[t] * times, -t], axis=-1), 0)
    np.testing.assert_allclose(cgru.Model(g)(x), wanted, rtol=0, atol=1e-6)
