"""Batch normalisation beside other layers: part of their weights where they take it, else a scale and a shift."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from networks import noise

import cgru
from cgru import CgruError

X = noise((3, 6, 4), 11)


def norm(size: int, seed: int = 20, **options: Any) -> cgru.BatchNorm:
    mean, gamma, beta = (noise((size,), seed + i) for i in range(3))
    return cgru.BatchNorm(mean, np.abs(noise((size,), seed + 3)) + 0.1, gamma, beta, **options)


def formula(layer: cgru.BatchNorm, x: np.ndarray, seed: int = 20) -> np.ndarray:
    size = x.shape[-1]
    mean, gamma, beta = (noise((size,), seed + i).astype(np.float64) for i in range(3))
    variance = (np.abs(noise((size,), seed + 3)) + 0.1).astype(np.float64)
    return gamma * (x.astype(np.float64) - mean) / np.sqrt(variance + 1e-5) + beta


def dense(inputs: int, units: int, bias: bool = True, activation: str = "linear") -> cgru.Dense:
    return cgru.Dense(noise((units, inputs), 1), noise((units,), 2) if bias else None, activation=activation)


def gru(inputs: int, bias: bool = True, **options: Any) -> cgru.GRU:
    shapes = {"weight_ih": (15, inputs), "weight_hh": (15, 5), **({"bias_ih": (15,)} if bias else {})}
    ends = ("", "_reverse") if options.get("bidirectional") else ("",)
    held = {f"{k}_l0{end}": noise(s, 30 + i + 5 * len(end)) for end in ends for i, (k, s) in enumerate(shapes.items())}
    return cgru.GRU(held, **options)


def test_alone(backend: str) -> None:
    layer = norm(4)
    net = cgru.Model([layer], backend=backend)
    want = formula(layer, X)
    np.testing.assert_allclose(net(X), want, rtol=0, atol=1e-6)
    np.testing.assert_allclose(layer(X), want, rtol=0, atol=1e-6)
    stream, pool = net.stream(3), net.pool(3)
    np.testing.assert_allclose(stream.step(X[:, 0]), want[:, 0], rtol=0, atol=1e-6)
    np.testing.assert_allclose(pool.step([pool.open() for _ in X], X[:, 0]), want[:, 0], rtol=0, atol=1e-6)
    assert not net(X, lengths=[6, 2, 0])[1, 2:].any()


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("name", ["dense behind", "gru behind", "both directions behind", "dense before"])
def test_a_neighbour_takes_it(name: str, bias: bool, backend: str) -> None:
    layers: list[Any] = {
        "dense behind": [norm(4), dense(4, 3, bias, "tanh")],
        "gru behind": [norm(4), gru(4, bias)],
        "both directions behind": [norm(4), gru(4, bias, bidirectional=True)],
        "dense before": [dense(4, 5, bias), norm(5), cgru.Activation("relu")],
    }[name]
    net = cgru.Model(layers, backend=backend)
    assert "batch_norm" not in [layer.kind for layer in net.layers]
    y: Any = X
    for layer in layers:
        if isinstance(layer, cgru.BatchNorm):
            y = formula(layer, y).astype(np.float32)
        else:
            y = cgru.Model([layer], backend="reference")(y)
    np.testing.assert_allclose(net(X), y, rtol=0, atol=3e-6)


def test_where_nobody_takes_it_the_network_runs_all_the_same(tmp_path: Any, backend: str) -> None:
    net = cgru.Model([gru(4), norm(5), cgru.Activation("relu")], backend=backend)
    assert [layer.kind for layer in net.layers] == ["gru", "batch_norm", "activation"]
    want = np.maximum(formula(norm(5), cgru.Model([gru(4)], backend="reference")(X)), 0)
    np.testing.assert_allclose(net(X), want, rtol=0, atol=3e-6)
    net.save(tmp_path / "net.safetensors")
    np.testing.assert_array_equal(cgru.load(tmp_path / "net.safetensors", backend=backend)(X), net(X))
    reduced = net.quantize("int8")
    assert [layer.precision for layer in reduced.layers] == ["int8", "float32", "float32"]
    assert np.abs(reduced(X) - want).max() < 0.2
    assert len(cgru.compare(net, reduced, X).layers) == 3


def test_against_torch() -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed: pip install cgru[parity]")
    for affine in (True, False):
        module = torch.nn.BatchNorm1d(4, eps=0.01, affine=affine)
        with torch.no_grad():
            for _ in range(3):
                module(torch.from_numpy(X).mT * 2 + 1)
            want = module.eval()(torch.from_numpy(X).mT).mT.numpy()
        np.testing.assert_allclose(cgru.BatchNorm.from_torch(module)(X), want, rtol=0, atol=1e-6)
    tensors = torch.nn.BatchNorm1d(4).state_dict()
    np.testing.assert_allclose(cgru.BatchNorm.from_torch(tensors)(X), X / np.sqrt(1 + 1e-5), rtol=0, atol=1e-6)


def test_in_kerass_order() -> None:
    mean, gamma, beta = (noise((4,), 20 + i) for i in range(3))
    variance = np.abs(noise((4,), 23)) + 0.1
    made = cgru.BatchNorm.from_keras([gamma, beta, mean, variance], epsilon=1e-5)
    np.testing.assert_allclose(made(X), formula(norm(4), X), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("arrays", "says"),
    [
        ((np.zeros(3), np.ones(4)), r"mean \(3,\), variance \(4,\)"),
        ((np.zeros(4), -np.ones(4)), "above 0"),
        ((np.zeros(4), np.ones(4), np.ones(5)), r"gamma \(5,\)"),
        ((np.zeros(0), np.zeros(0)), "one shape"),
        ((None, np.ones(4)), "mean: expected an array"),
    ],
)
def test_what_does_not_fit(arrays: Any, says: str) -> None:
    with pytest.raises(CgruError, match=says):
        cgru.BatchNorm(*arrays)


def test_an_activation_in_between_keeps_it_apart() -> None:
    net = cgru.Model([dense(4, 5, True, "relu"), norm(5)])
    assert [layer.kind for layer in net.layers] == ["dense", "batch_norm"]
    want = formula(norm(5), np.maximum(X.astype(np.float64) @ noise((5, 4), 1).T + noise((5,), 2), 0))
    np.testing.assert_allclose(net(X), want, rtol=0, atol=2e-6)
