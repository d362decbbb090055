"""Normalisations and activations that a neighbour does as well: which nodes go, which stay, and that results are those
of the graph as it was written, by its equations in float64."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from networks import noise

import cgru
from cgru.engine.network import Network
from cgru.spec.activations import ACTIVATIONS

Build = Callable[[cgru.Graph, str], str]


def norm(g: cgru.Graph, x: str, size: int, axis: int = 0, mean: float = 1.0, spread: float = 1.5) -> str:
    scale = np.linspace(1, spread, size).astype(np.float32) * np.where(np.arange(size) % 3, 1, -1).astype(np.float32)
    return g.scale_shift(x, axis=axis, weights={"scale": scale, "shift": noise((size,), 3) * np.float32(mean)})


def conv1d(g: cgru.Graph, x: str, units: int = 6, *, width: int = 3, groups: int = 1, **options: Any) -> str:
    shape = (units, g.values[x].features[0] // groups, width)
    weights = {"weight": noise(shape, 1), "bias": noise((units,), 2)}
    return g.conv1d(x, units=units, width=width, groups=groups, weights=weights, **options)


def dense(g: cgru.Graph, x: str, units: int = 6, bias: bool = True, **options: Any) -> str:
    weights = {"weight": noise((units, g.values[x].features[-1]), 4), "bias": noise((units,), 5) if bias else None}
    return g.dense(x, units=units, weights=weights, **options)


def gru(g: cgru.Graph, x: str, *rest: str, bias: bool = True, **options: Any) -> str:
    size = g.values[x].features[0]
    weights = {"weight_ih": noise((15, size), 6), "weight_hh": noise((15, 5), 7)}
    weights |= {"bias_ih": noise((15,), 8), "bias_hh": noise((15,), 9)} if bias else {}
    return g.scan(x, *rest, cell="gru_reset_after", units=5, weights=weights, **options)


def plane(g: cgru.Graph, x: str, op: str, groups: int = 1, bias: bool = True, **options: Any) -> str:
    """A convolution of (4, 3) a frame with six units."""
    y = x if len(g.values[x].features) == 2 else g.reshape(x, features=(4, 3))
    transposed, timed = "transpose" in op, not op.endswith("inner")
    ends = (4, 6 // groups) if transposed else (6, 4 // groups)
    weights = {"weight": noise((*ends, *((2,) if timed else ()), 2), 10), "bias": noise((6,), 11) if bias else None}
    if timed:
        options["width"] = 2
    else:
        options = {"strides": (1,), "dilations": (1,), "pads": (0, 0)} | options
    return g.node(op, y, units=6, groups=groups, kernel=(2,), weights=weights, **options)


def graph(build: Build, size: int = 12) -> cgru.Graph:
    g = cgru.Graph()
    g.output(build(g, g.input(size, name="x")))
    return g


def agrees(g: cgru.Graph, steps: int = 9, atol: float = 3e-6) -> cgru.Model:
    """The network of ``g`` in the core and by the equations, beside the graph as it was written."""
    as_written = cgru.Model(Network(g.build(), g.store), backend="reference")
    x = noise((3, steps, g.inputs["x"].size), 20)
    net = cgru.Model(g, backend="packed")
    for lengths in (None, [steps, 4, 0]):
        wanted = as_written(x, lengths=lengths)
        for made in (net, cgru.Model(g, backend="reference")):
            found = made(x, lengths=lengths)
            np.testing.assert_allclose(found, wanted, rtol=0, atol=atol * max(1, np.abs(wanted).max(initial=0)))
    assert set(net.store) == {node.weights for node in net.graph.nodes if node.weights}
    return net


def ops(net: cgru.Model) -> list[str]:
    return [node.op for node in net.graph.nodes if node.op != "reshape"]


PRODUCTS: Mapping[str, Build] = {
    "dense": dense,
    "dense without bias": lambda g, x: dense(g, x, bias=False),
    "conv1d": lambda g, x: conv1d(g, x, left=2),
    "conv1d of groups": lambda g, x: conv1d(g, x, groups=3, stride=2, left=1, right=1),
    "depthwise conv1d": lambda g, x: conv1d(g, x, 12, groups=12, dilation=2),
    "conv2d": lambda g, x: plane(g, x, "conv2d", groups=2, left=1, pads=(1, 0)),
    "conv_inner": lambda g, x: plane(g, x, "conv_inner", pads=(1, 1)),
    "conv_transpose": lambda g, x: plane(g, x, "conv_transpose", stride=2, bias=False),
    "conv_transpose of groups": lambda g, x: plane(g, x, "conv_transpose", groups=2),
    "conv_transpose_inner": lambda g, x: plane(g, x, "conv_transpose_inner", groups=2, extra=(0,)),
}


@pytest.mark.parametrize("name", PRODUCTS)
def test_behind_a_product(name: str) -> None:
    def build(g: cgru.Graph, x: str) -> str:
        y = PRODUCTS[name](g, x)
        return g.activation(norm(g, y, g.values[y].features[0]), activation="softsign")

    net = agrees(graph(build))
    (op,) = ops(net)
    (node,) = [node for node in net.graph.nodes if node.op == op]
    assert node.options["activation"] == "softsign"
    assert node.name == "activation"
    assert node.layer == node.weights == op


def test_behind_a_product_of_vectors_in_a_frame() -> None:
    """A dense layer's units are its last axis: a normalisation along it goes, one along another stays."""

    def build(axis: int) -> Build:
        return lambda g, x: norm(g, dense(g, g.reshape(x, features=(3, 4))), (3, 6)[axis], axis)

    assert ops(agrees(graph(build(1)))) == ["dense"]
    assert ops(agrees(graph(build(0)))) == ["dense", "scale_shift"]


def both_ways(g: cgru.Graph, x: str) -> str:
    y = norm(g, x, 12)
    return g.concat(gru(g, y), gru(g, y, reverse=True, bias=False))


BEFORE: Mapping[str, Build] = {
    "dense": lambda g, x: dense(g, norm(g, x, 12)),
    "dense without bias": lambda g, x: dense(g, norm(g, x, 12), bias=False),
    "conv1d": lambda g, x: conv1d(g, norm(g, x, 12), groups=3, dilation=2),
    "conv2d": lambda g, x: plane(g, norm(g, g.reshape(x, features=(4, 3)), 4), "conv2d", groups=2),
    "scan, scan": both_ways,
    "dense, after two": lambda g, x: dense(g, norm(g, norm(g, x, 12), 12)),
    "dense, dense": lambda g, x: g.add(dense(g, y := norm(g, x, 12)), dense(g, y)),
}


@pytest.mark.parametrize("name", BEFORE)
def test_before_its_readers(name: str) -> None:
    net = agrees(graph(BEFORE[name]))
    assert "scale_shift" not in ops(net)


def quiet(g: cgru.Graph, x: str) -> str:
    """A scale alone: zeros of padding stay zeros."""
    return g.scale_shift(x, weights={"scale": noise((12,), 3) * 0.1 + 1, "shift": np.zeros(12, np.float32)})


def test_before_padding_goes_a_scale_alone() -> None:
    assert ops(agrees(graph(lambda g, x: conv1d(g, quiet(g, x), left=2)))) == ["conv1d"]
    assert ops(agrees(graph(lambda g, x: conv1d(g, norm(g, x, 12), left=2)))) == ["scale_shift", "conv1d"]
    padded = graph(lambda g, x: conv1d(g, g.pad_time(norm(g, x, 12), left=2, right=0)))
    assert ops(agrees(padded)) == ["scale_shift", "conv1d"]


STAYS: Mapping[str, Build] = {
    "a reader does not take it": lambda g, x: g.add(dense(g, y := norm(g, x, 12), 12), y),
    "it is read twice": lambda g, x: g.concat(dense(g, y := norm(g, x, 12)), g.apply_mask(y, g.mask_of(y, value=9.0))),
    "the mean is many deviations": lambda g, x: dense(g, norm(g, x, 12, mean=40)),
    "the sizes are far apart": lambda g, x: dense(g, norm(g, x, 12, spread=40)),
    "an activation comes first": lambda g, x: norm(g, dense(g, x, activation="relu"), 6),
    "the product is read elsewhere": lambda g, x: g.add(norm(g, y := dense(g, x), 6), y),
    "the weights are shared": lambda g, x: g.add(norm(g, dense(g, x), 6), g.dense(x, units=6, weights="dense")),
}


@pytest.mark.parametrize("name", STAYS)
def test_what_stays(name: str) -> None:
    assert "scale_shift" in ops(agrees(graph(STAYS[name])))


def test_outputs_stay() -> None:
    g = cgru.Graph()
    c = conv1d(g, g.input(12, name="x"))
    n = norm(g, c, 6)
    g.output(c, n, g.activation(n, activation="relu", name="y"))
    net, x = cgru.Model(g), noise((2, 5, 12), 1)
    assert ops(net) == ["conv1d", "scale_shift", "activation"]
    made = net(x)
    assert list(made) == [c, n, "y"]
    np.testing.assert_array_equal(made["y"], np.maximum(made[n], 0))


def test_a_sum_beyond_float32_stays() -> None:
    g = cgru.Graph()
    y = g.dense(g.input(2, name="x"), units=1, weights={"weight": np.array([[1e30, 1e30]], np.float32)})
    g.output(g.scale_shift(y, weights={"scale": np.array([1e30], np.float32), "shift": np.zeros(1, np.float32)}))
    net = cgru.Model(g)
    assert ops(net) == ["dense", "scale_shift"]
    assert net(np.array([[1e-30, 1e-30]], np.float32)) == np.float32(2e30)


#: Without a multiply-add, which products of float32 round once and nodes of their own, whatever the processor, twice.
EXACT = ("linear", "relu", "relu6", "hard_tanh")


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("layer", [dense, conv1d, lambda g, x: conv1d(g, x, 12, groups=12)], ids=["d", "c", "w"])
def test_an_activation_of_its_own_is_the_same(layer: Build, activation: str) -> None:
    g, alone = cgru.Graph(), cgru.Graph()
    y = layer(g, g.input(12, name="x"))
    g.output(g.activation(y, activation=activation, name="y"))
    y = layer(alone, alone.input(12, name="x"))
    alone.output(y, alone.activation(y, activation=activation, name="y"))
    one, two = cgru.Model(g, backend="packed"), cgru.Model(alone, backend="packed")
    joins = activation != "softmax" or one.graph.nodes[0].op == "dense"
    assert len(one.graph.nodes) == (1 if joins else 2)
    assert len(two.graph.nodes) == 2
    x = noise((7, 23, 12), 1) * 3
    found, wanted = one(x), two(x)["y"]
    if activation in EXACT:
        np.testing.assert_array_equal(found, wanted)
    np.testing.assert_allclose(found, wanted, rtol=1e-6, atol=3e-7)
    np.testing.assert_array_equal(one.quantize("int8")(x), two.quantize("int8")(x)["y"])


def test_reduced_weights_keep_their_normalisation(tmp_path: Path) -> None:
    """int8 is made of what was absorbed; a file whose weights are int8 already runs as it says."""
    g = graph(lambda g, x: g.activation(norm(g, dense(g, x), 6), activation="relu"))
    x = noise((2, 5, 12), 1)
    assert ops(cgru.Model(g).quantize("int8")) == ["dense"]
    as_written = cgru.Model(Network(g.build(), g.store)).quantize("int8")
    as_written.save(tmp_path / "net.safetensors")
    net = cgru.load(tmp_path / "net.safetensors")
    assert ops(net) == ["dense", "scale_shift", "activation"]
    np.testing.assert_array_equal(net(x), as_written(x))


def test_files_and_streams_hold_what_runs(tmp_path: Path) -> None:
    g = graph(lambda g, x: gru(g, g.activation(norm(g, conv1d(g, x, left=2), 6), activation="relu")))
    net, x = cgru.Model(g), noise((1, 9, 12), 1)
    net.save(tmp_path / "net.safetensors")
    again = cgru.load(tmp_path / "net.safetensors")
    assert ops(again) == ops(net) == ["conv1d", "scan"]
    np.testing.assert_array_equal(again(x), net(x))
    stream = net.stream()
    np.testing.assert_array_equal(np.stack([stream.step(frame) for frame in x[0]]), net(x)[0])
    again.stream().restore(stream.dump())


def test_of_a_torch_module() -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    nn = torch.nn

    class Net(nn.Module):  # type: ignore[name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv1d(12, 16, 3, padding=1, bias=False), nn.BatchNorm1d(16)
            self.gru, self.between, self.head = nn.GRU(16, 8, batch_first=True), nn.BatchNorm1d(8), nn.Linear(8, 4)

        def forward(self, x: Any) -> Any:
            y = torch.relu(self.norm(self.conv(x.transpose(1, 2))))
            y = self.between(self.gru(y.transpose(1, 2))[0].transpose(1, 2))
            return torch.sigmoid(self.head(y.transpose(1, 2)))

    torch.manual_seed(0)
    module = Net()
    x = torch.randn(4, 20, 12)
    for _ in range(20):
        module(torch.randn(4, 20, 12))  # statistics
    module.eval()
    net = cgru.from_torch(module, example=x)
    assert not {"scale_shift", "activation"} & set(ops(net))
    with torch.no_grad():
        np.testing.assert_allclose(net(x.numpy()), module(x).numpy(), rtol=0, atol=1e-6)


def test_a_weighted_sum_has_the_bits_of_the_product_and_its_sum() -> None:
    """Attention pooling: the core makes no product of its own where nothing else reads it."""

    def network(shown: bool, masked: bool) -> cgru.Model:
        g = cgru.Graph()
        x = g.input(12, name="x")
        mask = (g.mask_of(x, value=2.0),) if masked else ()
        product = g.mul(g.softmax_time(dense(g, x, 1)), x, name="product")
        g.output(g.pool_whole(product, *mask, kind="sum", name="y"), *((product,) if shown else ()))
        return cgru.Model(g, backend="packed")

    x = noise((5, 30, 12), 1)
    x[:, ::4] = 2
    for masked in (False, True):
        pooled, both = network(False, masked), network(True, masked)
        reference = cgru.Model(pooled._network, backend="reference")
        for lengths in (None, [30, 7, 1, 0, 16]):
            made = both(x, lengths=lengths)
            np.testing.assert_array_equal(pooled(x, lengths=lengths), made["y"])
            np.testing.assert_allclose(made["y"], reference(x, lengths=lengths), rtol=0, atol=1e-6)
            shown = np.arange(30) < np.array([30] * 5 if lengths is None else lengths)[:, None]
            if masked:
                shown = shown & (x != 2).any(axis=2)
            total = np.where(shown[..., None], made["product"].astype(np.float64), 0).sum(axis=1)
            np.testing.assert_allclose(made["y"], total, rtol=0, atol=1e-6)
