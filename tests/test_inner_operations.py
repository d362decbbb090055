"""Operations on frames with inner axes, each against PyTorch in float64, and all under the law of chunks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import cgru

RNG = np.random.default_rng(11)


def arr(*shape: int) -> np.ndarray:
    return (RNG.standard_normal(shape) * 0.5).astype(np.float32)


def kernel(kernel: tuple[int, ...], **changes: tuple[int, ...]) -> dict[str, Any]:
    ones = (1,) * len(kernel)
    return {"kernel": kernel, "strides": ones, "dilations": ones, "pads": (0, 0) * len(kernel), **changes}


CONV = [
    ((6, 9), 4, 1, kernel((3,))),
    ((6, 9), 4, 2, kernel((3,), strides=(2,), dilations=(2,), pads=(3, 1))),
    ((4, 7, 8), 6, 2, kernel((3, 2), strides=(2, 1), dilations=(1, 2), pads=(1, 0, 2, 1))),
    ((4, 7, 8), 4, 4, kernel((1, 5), pads=(0, 2, 0, 2))),
]


@pytest.mark.parametrize(("shape", "units", "groups", "options"), CONV)
def test_conv_inner(torch: Any, shape: tuple[int, ...], units: int, groups: int, options: Any) -> None:
    weight, bias, x = arr(units, shape[0] // groups, *options["kernel"]), arr(units), arr(2, 5, *shape)
    g = cgru.Graph()
    weights = {"weight": weight, "bias": bias}
    g.output(g.conv_inner(g.input(shape), units=units, groups=groups, activation="relu", weights=weights, **options))
    axes = len(options["kernel"])
    functional = torch.nn.functional
    tx = torch.tensor(x).double().flatten(0, 1)
    pads = [pad for i in reversed(range(axes)) for pad in (options["pads"][i], options["pads"][axes + i])]
    conv = functional.conv1d if axes == 1 else functional.conv2d
    wanted = conv(
        functional.pad(tx, pads), torch.tensor(weight).double(), torch.tensor(bias).double(),
        stride=options["strides"], dilation=options["dilations"], groups=groups,
    ).relu()  # fmt: skip
    np.testing.assert_allclose(cgru.Model(g)(x), wanted.unflatten(0, (2, 5)), rtol=0, atol=2e-6)


@pytest.mark.parametrize(("shape", "units", "groups", "options"), CONV)
def test_conv_transpose_inner(torch: Any, shape: tuple[int, ...], units: int, groups: int, options: Any) -> None:
    axes = len(options["kernel"])
    extra = tuple(s - 1 for s in options["strides"])
    options = {**options, "pads": options["pads"][:axes] * 2, "extra": extra}
    weight, bias, x = arr(shape[0], units // groups, *options["kernel"]), arr(units), arr(2, 3, *shape)
    g = cgru.Graph()
    weights = {"weight": weight, "bias": bias}
    g.output(g.conv_transpose_inner(g.input(shape), units=units, groups=groups, weights=weights, **options))
    functional = torch.nn.functional
    conv = functional.conv_transpose1d if axes == 1 else functional.conv_transpose2d
    wanted = conv(
        torch.tensor(x).double().flatten(0, 1), torch.tensor(weight).double(), torch.tensor(bias).double(),
        stride=options["strides"], padding=options["pads"][:axes], output_padding=extra, groups=groups,
        dilation=options["dilations"],
    )  # fmt: skip
    np.testing.assert_allclose(cgru.Model(g)(x), wanted.unflatten(0, (2, 3)), rtol=0, atol=2e-6)


@pytest.mark.parametrize("count_padding", [True, False])
def test_pool_inner(torch: Any, count_padding: bool) -> None:
    x = arr(2, 3, 4, 9, 7)
    options = kernel((3, 2), strides=(2, 1), pads=(1, 1, 1, 1))
    tx = torch.tensor(x).flatten(0, 1)
    functional = torch.nn.functional
    wanted = {
        "max": functional.max_pool2d(tx, (3, 2), (2, 1), (1, 1)),
        "average": functional.avg_pool2d(tx, (3, 2), (2, 1), (1, 1), count_include_pad=count_padding),
    }
    for kind, value in wanted.items():
        g = cgru.Graph()
        g.output(g.pool_inner(g.input((4, 9, 7)), kind=kind, count_padding=count_padding, **options))
        np.testing.assert_allclose(cgru.Model(g)(x), value.unflatten(0, (2, 3)), rtol=0, atol=1e-6)


@pytest.mark.parametrize("mode", ["constant", "reflect", "edge"])
def test_pad_inner(torch: Any, mode: str) -> None:
    x = arr(2, 3, 4, 5)
    g = cgru.Graph()
    g.output(g.pad_inner(g.input((4, 5)), pads=(0, 2, 0, 3), mode=mode, value=7.0 if mode == "constant" else 0.0))
    more = {"value": 7.0} if mode == "constant" else {}
    rows = torch.tensor(x).flatten(0, 1)
    wanted = torch.nn.functional.pad(rows, (2, 3), {"edge": "replicate"}.get(mode, mode), **more)
    np.testing.assert_array_equal(cgru.Model(g)(x), wanted.unflatten(0, (2, 3)))


POINTWISE: dict[str, Callable[[Any, Any], Any]] = {
    "abs": lambda t, x: x.abs(), "ceil": lambda t, x: x.ceil(), "cos": lambda t, x: x.cos(),
    "erf": lambda t, x: x.erf(),
    "exp": lambda t, x: x.exp(), "floor": lambda t, x: x.floor(), "log": lambda t, x: x.log(), "neg": lambda t, x: -x,
    "not": lambda t, x: (x == 0).double(), "reciprocal": lambda t, x: 1 / x, "round": lambda t, x: x.round(),
    "sign": lambda t, x: x.sign(), "sin": lambda t, x: x.sin(), "sqrt": lambda t, x: x.sqrt(),
    "acos": lambda t, x: x.acos(), "acosh": lambda t, x: x.acosh(), "asin": lambda t, x: x.asin(),
    "asinh": lambda t, x: x.asinh(), "atan": lambda t, x: x.atan(), "atanh": lambda t, x: x.atanh(),
    "cosh": lambda t, x: x.cosh(), "sinh": lambda t, x: x.sinh(), "tan": lambda t, x: x.tan(),
    "isnan": lambda t, x: x.isnan().double(),
}  # fmt: skip


@pytest.mark.parametrize("kind", POINTWISE)
def test_unary(torch: Any, kind: str) -> None:
    x = arr(2, 4, 33)
    x[0, 0, :6] = 0, -0.0, 0.5, 1.5, -0.5, 2.5
    if kind != "sign":  # of which torch says 0 for NaN, numpy NaN
        x[1, 0, 0] = np.nan
    g = cgru.Graph()
    g.output(g.unary(g.input(33), kind=kind))
    wanted = POINTWISE[kind](torch, torch.tensor(x).double()).float().numpy()
    np.testing.assert_allclose(cgru.Model(g)(x), wanted, rtol=2e-7, atol=1e-7)


def test_power_compare_where_clip_prelu(torch: Any) -> None:
    x, y = np.abs(arr(2, 3, 4, 5)), arr(2, 3, 1, 5)
    y[0, 0, 0, 0] = x[0, 0, 0, 0]
    slope = arr(4)
    g = cgru.Graph()
    a, b = g.input((4, 5), name="a"), g.input((1, 5), name="b")
    g.output(
        g.power(a, b, name="power"), g.compare(a, b, kind="less", name="less"),
        g.compare(a, b, kind="equal", name="same"),
        g.compare(a, b, kind="less_equal", name="most"), g.clip(a, low=0.2, high=0.4, name="clip"),
        g.where(g.compare(a, b, kind="less"), a, b, name="smaller"),
        g.prelu(g.sub(b, a), axis=0, weights={"slope": slope}, name="prelu"),
    )  # fmt: skip
    found = cgru.Model(g)({"a": x, "b": y})
    np.testing.assert_allclose(found["power"], x.astype(float) ** y, rtol=1e-6)
    np.testing.assert_array_equal(found["less"], x < y)
    np.testing.assert_array_equal(found["most"], x <= y)
    np.testing.assert_array_equal(found["same"], x == y)
    assert found["same"].any()
    np.testing.assert_array_equal(found["clip"], np.clip(x, np.float32(0.2), np.float32(0.4)))
    np.testing.assert_array_equal(found["smaller"], np.minimum(x, y))
    difference = torch.tensor(y - x).flatten(0, 1)
    wanted = torch.nn.functional.prelu(difference, torch.tensor(slope)).unflatten(0, (2, 3))
    np.testing.assert_allclose(found["prelu"], wanted, rtol=0, atol=1e-6)


REDUCED: dict[str, Callable[[Any, Any], Any]] = {
    "mean": lambda x, d: x.mean(d, keepdim=True), "sum": lambda x, d: x.sum(d, keepdim=True),
    "max": lambda x, d: x.amax(d, keepdim=True), "min": lambda x, d: x.amin(d, keepdim=True),
    "prod": lambda x, d: x.prod(d[0], keepdim=True) if len(d) == 1 else x.prod(d[0], True).prod(d[1], True),
    "l1": lambda x, d: x.abs().sum(d, keepdim=True), "l2": lambda x, d: x.norm(dim=d, keepdim=True),
    "sum_square": lambda x, d: (x * x).sum(d, keepdim=True), "log_sum": lambda x, d: x.sum(d, keepdim=True).log(),
    "log_sum_exp": lambda x, d: x.logsumexp(d, keepdim=True),
}  # fmt: skip


@pytest.mark.parametrize("kind", REDUCED)
@pytest.mark.parametrize("axes", [(0,), (2,), (0, 2)])
def test_reduce(torch: Any, kind: str, axes: tuple[int, ...]) -> None:
    x = np.abs(arr(2, 3, 4, 5, 6))
    g = cgru.Graph()
    g.output(g.reduce(g.input((4, 5, 6)), kind=kind, axes=axes))
    wanted = REDUCED[kind](torch.tensor(x).double(), tuple(2 + axis for axis in axes))
    np.testing.assert_allclose(cgru.Model(g)(x), wanted, rtol=1e-6, atol=1e-12)


def test_softmax_take_broadcast_matmul(torch: Any) -> None:
    x, y = arr(2, 3, 4, 5), arr(2, 3, 2, 5, 6)
    g = cgru.Graph()
    a, b = g.input((4, 5), name="a"), g.input((2, 5, 6), name="b")
    g.output(
        g.softmax(a, axes=(0,), name="soft"), g.softmax(a, axes=(0, 1), log=True, name="log"),
        g.take(a, axis=1, indices=(4, 0, 0), name="take"), g.matmul(a, b, name="product"),
        g.broadcast(g.slice(a, start=1, stop=2, axis=0), features=(3, 5), name="three"),
    )  # fmt: skip
    found, tx = cgru.Model(g)({"a": x, "b": y}), torch.tensor(x).double()
    np.testing.assert_allclose(found["soft"], tx.softmax(2), rtol=0, atol=1e-7)
    np.testing.assert_allclose(found["log"], tx.flatten(2).log_softmax(2).unflatten(2, (4, 5)), rtol=0, atol=1e-6)
    np.testing.assert_array_equal(found["take"], x[..., [4, 0, 0]])
    np.testing.assert_allclose(found["product"], tx[:, :, None] @ torch.tensor(y).double(), rtol=0, atol=1e-6)
    np.testing.assert_array_equal(found["three"], np.repeat(x[:, :, 1:2], 3, axis=2))


@pytest.mark.parametrize("axes", [1, 2])
def test_layer_norm(torch: Any, axes: int) -> None:
    x, shape = arr(2, 3, 4, 5), (4, 5)[2 - axes :]
    weight, bias = arr(*shape), arr(*shape)
    g = cgru.Graph()
    g.output(g.layer_norm(g.input((4, 5)), axes=axes, epsilon=1e-3, weights={"weight": weight, "bias": bias}))
    tensors = [torch.tensor(array).double() for array in (x, weight, bias)]
    wanted = torch.nn.functional.layer_norm(tensors[0], shape, *tensors[1:], 1e-3)
    np.testing.assert_allclose(cgru.Model(g)(x), wanted, rtol=0, atol=1e-6)


def test_rms_norm(torch: Any) -> None:
    x, weight = arr(2, 3, 7), arr(7)
    g = cgru.Graph()
    g.output(g.layer_norm(g.input(7), epsilon=1e-4, subtract_mean=False, weights={"weight": weight}))
    wanted = torch.nn.functional.rms_norm(torch.tensor(x).double(), (7,), torch.tensor(weight).double(), 1e-4)
    np.testing.assert_allclose(cgru.Model(g)(x), wanted, rtol=0, atol=1e-6)


# Recurrences of rows ----------------------------------------------------------------------------------------------

CELLS = {
    "gru_after": ("GRU", ("sigmoid", "tanh")),
    "lstm": ("LSTM", ("sigmoid", "tanh", "tanh")),
    "rnn": ("RNN", ("tanh",)),
}


def recurrence(torch: Any, cell: str, inputs: int, units: int) -> tuple[Any, dict[str, np.ndarray], tuple[str, ...]]:
    kind, activations = CELLS[cell]
    module = getattr(torch.nn, kind)(inputs, units, batch_first=True).double()
    weights = {name.removesuffix("_l0"): value.detach().float().numpy() for name, value in module.named_parameters()}
    return module, weights, activations


@pytest.mark.parametrize("cell", CELLS)
def test_scan_rows_is_the_recurrence_of_each_row(torch: Any, cell: str) -> None:
    module, weights, activations = recurrence(torch, cell, 3, 5)
    x = arr(2, 7, 4, 3)
    g = cgru.Graph()
    g.output(g.scan_rows(g.input((4, 3)), cell=cell, units=5, activations=activations, weights=weights))
    net = cgru.Model(g)
    rows = torch.tensor(x).double().transpose(1, 2).flatten(0, 1)
    wanted = module(rows)[0].detach().unflatten(0, (2, 4)).transpose(1, 2)
    np.testing.assert_allclose(net(x), wanted, rtol=0, atol=1e-6)
    stream = net.stream(2)
    parts = [stream.feed(part) for part in np.split(x, [1, 5], axis=1)]
    np.testing.assert_allclose(np.concatenate(parts, axis=1), net(x), rtol=0, atol=1e-7)
    short = net(x, lengths=[3, 7])
    np.testing.assert_allclose(short[0, :3], net(x[0, :3]), rtol=0, atol=1e-7)
    assert not short[0, 3:].any()


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("reverse", [False, True])
def test_scan_inner_begins_anew_in_every_frame(torch: Any, cell: str, reverse: bool) -> None:
    module, weights, activations = recurrence(torch, cell, 3, 5)
    x, h0, c0 = arr(2, 3, 4, 6, 3), arr(2, 3, 4, 5), arr(2, 3, 4, 5)
    names = ("h0", "c0") if cell == "lstm" else ("h0",)
    given = dict(zip(names, (h0, c0), strict=False))
    g = cgru.Graph()
    inputs = [g.input((4, 6, 3), name="x"), *(g.input((4, 5), name=name) for name in given)]
    options = {"cell": cell, "units": 5, "activations": activations, "weights": weights, "reverse": reverse}
    g.output(g.scan_inner(*inputs, name="y", **options))
    if cell == "lstm":
        g.output(g.scan_inner(*inputs, name="memory", emit="c", **options))
    made = cgru.Model(g)({"x": x, **given})
    made = made if isinstance(made, dict) else {"y": made}
    rows = torch.tensor(x).double().flatten(0, 2)
    states = [torch.tensor(value).double().flatten(0, 2)[None] for value in given.values()]
    y, last = module(rows.flip(1) if reverse else rows, tuple(states) if cell == "lstm" else states[0])
    y = (y.flip(1) if reverse else y).detach().unflatten(0, (2, 3, 4))
    np.testing.assert_allclose(made["y"], y, rtol=0, atol=1e-6)
    if cell == "lstm":
        memory = last[1][0].detach().unflatten(0, (2, 3, 4))
        np.testing.assert_allclose(made["memory"][..., 0 if reverse else -1, :], memory, rtol=0, atol=1e-6)


# States and stacks ------------------------------------------------------------------------------------------------


def test_carried_is_what_carry_was_given_a_step_before() -> None:
    """y_t = x_t + y_{t − 1} / 2, against the sum written out; chunk by chunk and row by row."""
    g = cgru.Graph()
    x = g.input((2, 3))
    held = g.carried(x, features=(2, 3))
    half = g.constant(features=(1,), weights={"value": np.array([0.5], np.float32)})
    g.output(g.carry(g.add(x, g.mul(held, half)), held))
    net, data = cgru.Model(g), arr(2, 9, 2, 3)
    wanted = np.zeros((2, 9, 2, 3))
    for t in range(9):
        wanted[:, t] = data[:, t] + (wanted[:, t - 1] / 2 if t else 0)
    np.testing.assert_allclose(net(data), wanted, rtol=0, atol=1e-6)
    stream = net.stream(2)
    parts = [stream.feed(part) for part in np.split(data, [0, 1, 5], axis=1)]
    np.testing.assert_array_equal(np.concatenate(parts, axis=1), net(data))
    np.testing.assert_array_equal(net(data, lengths=[4, 0])[0, :4], net(data)[0, :4])
    assert not net(data, lengths=[4, 0])[1].any()
    first, state = net.run(data[:, :3])
    np.testing.assert_array_equal(net.run(data[:, 3:], state)[0], net(data)[:, 3:])
    assert first.shape[1] == 3


@pytest.mark.parametrize("steady", [True, False])
def test_what_is_carried_may_stand_between_operations_on_the_whole_sequence(steady: bool) -> None:
    """y_t = u_t + y_{t − 1} / 2 over u, the reversed sequence, then its mean: each of them step by step in its turn."""
    g = cgru.Graph()
    x = g.reverse_time(g.input(3))
    x = x if steady else g.conv1d(x, units=3, width=3, left=1, right=1, weights={"weight": arr(3, 3, 3)})
    x = x if steady else g.reverse_time(x)
    held = g.carried(x, features=(3,))
    half = g.constant(features=(1,), weights={"value": np.array([0.5], np.float32)})
    y = g.carry(g.add(x, g.mul(held, half)), held)
    g.output(y, g.pool_whole(y, kind="mean"))
    net, data = cgru.Model(g), arr(3, 9, 3)
    assert steady == all(name == "packed" for name in net.backends)
    for lengths in ([9, 9, 9], [9, 1, 4]):
        made = net(data, lengths=lengths)
        for row, n in enumerate(lengths):
            u, state, rows = data[row, :n][::-1].astype(float), np.zeros(3), []
            if not steady:
                weight = g.store["conv1d"].arrays()["weight"]
                wide = np.pad(u, ((1, 1), (0, 0)))
                u = np.array([np.einsum("ki,oik->o", wide[t : t + 3], weight) for t in range(n)])[::-1]
            for t in range(n):
                state = u[t] + state / 2
                rows.append(state)
            np.testing.assert_allclose(made["carry"][row, :n], rows, rtol=0, atol=2e-6)
            np.testing.assert_allclose(made["pool_whole"][row], np.mean(rows, axis=0), rtol=0, atol=2e-6)


@pytest.mark.parametrize(("stride", "dilation", "left"), [(1, 1, 2), (1, 2, 4), (2, 1, 0)])
def test_stack_frames_then_conv_is_conv_over_time(torch: Any, stride: int, dilation: int, left: int) -> None:
    weight, x = arr(4, 3, 3, 2), arr(2, 11, 3, 6)
    g = cgru.Graph()
    stacked = g.stack_frames(g.input((3, 6)), width=3, stride=stride, dilation=dilation, left=left)
    frames = g.conv_inner(g.transpose(stacked, order=(1, 0, 2)), units=4, weights={"weight": weight}, **kernel((3, 2)))
    g.output(g.reshape(frames, features=(4, 5)))
    functional = torch.nn.functional
    tx = functional.pad(torch.tensor(x).double().transpose(1, 2), (0, 0, left, 0))
    wanted = functional.conv2d(tx, torch.tensor(weight).double(), stride=(stride, 1), dilation=(dilation, 1))
    net = cgru.Model(g)
    np.testing.assert_allclose(net(x), wanted.transpose(1, 2), rtol=0, atol=1e-6)
    stream = net.stream(2)
    parts = [stream.feed(part) for part in np.split(x, [1, 2, 6], axis=1)]
    np.testing.assert_allclose(np.concatenate([*parts, stream.flush()], axis=1), net(x), rtol=0, atol=1e-7)


def test_what_does_not_fit_is_refused() -> None:
    g = cgru.Graph()
    x = g.input((4, 6))
    with pytest.raises(cgru.ShapeError, match="do not fit the axes"):
        g.conv_inner(x, units=2, weights={"weight": arr(2, 4, 3)}, **kernel((3, 3)))
    with pytest.raises(cgru.ShapeError, match="a window of 9 does not fit 6"):
        g.pool_inner(x, kind="max", **kernel((9,)))
    with pytest.raises(cgru.ShapeError, match="no entry 6"):
        g.take(x, axis=1, indices=(6,))
    with pytest.raises(cgru.ShapeError, match="not of the shape that is carried"):
        g.carry(x, g.carried(x, features=(4, 5)))
    with pytest.raises(cgru.ShapeError, match="takes 3 activations"):
        g.scan_inner(x, cell="lstm", units=2, activations=("tanh",), weights={})


@pytest.mark.parametrize(
    ("precision", "most"), [("int8", 2e-2), ("int8x16", 1.5e-2), ("bf16", 1e-2), ("fp16", 1e-3)]
)
@pytest.mark.parametrize(("units", "wide"), [(6, 40), (32, 3)])
def test_convolutions_inside_frames_in_fewer_bits(precision: str, most: float, units: int, wide: int) -> None:
    """Of many places with widened weights, of few as a product in the precision itself: near float32 both."""
    g = cgru.Graph()
    x = g.input((8, wide), name="x")
    more = kernel((3,), pads=(1, 1))
    y = g.conv_inner(x, units=units, groups=1, weights={"weight": arr(units, 8, 3), "bias": arr(units)}, **more)
    weights = {"weight": arr(units, units, 3, 3)}
    g.output(g.conv2d(y, units=units, width=3, left=2, groups=1, weights=weights, **more))
    net = cgru.Model(g)
    reduced = net.quantize(precision)
    data = arr(2, 9, 8, wide)
    wanted, found = net(data), reduced(data)
    assert 0 < np.sqrt(np.mean((found - wanted) ** 2) / np.mean(wanted**2)) < most
    stream = reduced.stream(2)
    np.testing.assert_array_equal(np.concatenate([stream.feed(data[:, :4]), stream.feed(data[:, 4:])], axis=1), found)
