"""Padding written before a convolution, as PyTorch and ONNX write causal ones, is the convolution's own."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import cgru

RNG = np.random.default_rng(5)
X = RNG.standard_normal((3, 12, 4)).astype(np.float32)


def weights(*shape: int) -> dict[str, np.ndarray]:
    """(O, C, width, …) and a bias (O,)."""
    return {
        "weight": RNG.standard_normal(shape).astype(np.float32),
        "bias": RNG.standard_normal(shape[0]).astype(np.float32),
    }


def ops(net: Any) -> list[str]:
    return [node.op for node in net.graph.nodes]


@pytest.mark.parametrize("pads", [[(2, 0)], [(4, 0)], [(1, 1), (3, 0)], [(0, 3)]])
def test_zeros_before_a_convolution(pads: list[tuple[int, int]]) -> None:
    """To the bit what a sequence gives that zeros were put around."""
    arrays = weights(5, 4, 3)
    g, plain = cgru.Graph(), cgru.Graph()
    x = g.input(4)
    for left, right in pads:
        x = g.pad_time(x, left=left, right=right)
    g.output(g.conv1d(x, units=5, width=3, dilation=2, weights=arrays))
    plain.output(plain.conv1d(plain.input(4), units=5, width=3, dilation=2, weights=arrays))
    net = cgru.Model(g)
    assert ops(net) == ["conv1d"]
    left, right = (sum(pad[side] for pad in pads) for side in (0, 1))
    around = np.pad(X, [(0, 0), (left, right), (0, 0)])
    np.testing.assert_array_equal(net(X), cgru.Model(plain)(around))
    lengths = [12, 7, 1]
    whole = net(X, lengths=lengths)
    for row, length in enumerate(lengths):
        alone = net(X[row, :length])
        np.testing.assert_array_equal(whole[row, : len(alone)], alone)


def test_a_causal_one_is_stepped_in_a_pool() -> None:
    g = cgru.Graph()
    x = g.input(4)
    y = g.activation(g.conv1d(g.pad_time(x, left=2), units=5, width=3, weights=weights(5, 4, 3)), activation="relu")
    g.output(g.conv1d(g.pad_time(y, left=4), units=5, width=3, dilation=2, groups=5, weights=weights(5, 1, 3)))
    net = cgru.Model(g)
    pool = net.pool(3)
    sids = [pool.open() for _ in X]
    steps = [pool.step(sids, X[:, t]) for t in range(X.shape[1])]
    np.testing.assert_array_equal(np.stack(steps, axis=1), net(X))


def test_over_frames_with_an_inner_axis() -> None:
    g = cgru.Graph()
    x = g.reshape(g.input(4), features=(1, 4))
    y = g.conv2d(g.pad_time(x, left=2), units=5, width=3, kernel=(3,), pads=(1, 1), weights=weights(5, 1, 3, 3))
    g.output(g.reshape(y, features=(20,)))
    net = cgru.Model(g)
    assert "pad_time" not in ops(net)
    np.testing.assert_allclose(net(X), net(X, backend="reference"), rtol=0, atol=5e-6)
    stream = net.stream(3)
    np.testing.assert_array_equal(np.stack([stream.step(X[:, t]) for t in range(12)], axis=1), net(X))


def test_what_something_else_reads_or_reaches_too_far_stays() -> None:
    arrays = weights(5, 4, 3)
    g = cgru.Graph()
    x = g.pad_time(g.input(4), left=2)
    g.output(g.conv1d(x, units=5, width=3, weights=arrays), g.pool(x, kind="max", width=3))
    far = cgru.Graph()
    far.output(far.conv1d(far.pad_time(far.input(4), left=3), units=5, width=3, weights=arrays))
    cut = cgru.Graph()
    cut.output(cut.conv1d(cut.pad_time(cut.input(4), left=-1), units=5, width=3, weights=arrays))
    edge = cgru.Graph()
    edge.output(edge.conv1d(edge.pad_time(edge.input(4), left=2, mode="edge"), units=5, width=3, weights=arrays))
    for graph in (g, far, cut, edge):
        assert "pad_time" in ops(cgru.Model(graph))
    assert cgru.Model(far)(X).shape == (3, 13, 5)
