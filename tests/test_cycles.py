"""A carried state beside operations that give no frame for each step, or one for all: each frame is carried once."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import cgru
from cgru.errors import UnsupportedError

RNG = np.random.default_rng(41)
WEIGHT = (RNG.standard_normal((3, 3, 3)) * 0.5).astype(np.float32)


def halved(g: cgru.Graph, x: str) -> str:
    """y_t = x_t + y_{t − 1} / 2."""
    held = g.carried(x, features=(3,))
    half = g.constant(features=(1,), weights={"value": np.array([0.5], np.float32)})
    return g.carry(g.add(x, g.mul(held, half)), held)


def running(frames: np.ndarray) -> np.ndarray:
    """The same by a loop over one row."""
    y, made = np.zeros(3), []
    for frame in frames:
        y = frame + y / 2
        made.append(y)
    return np.array(made)


@pytest.mark.parametrize(("left", "right", "stride"), [(2, 0, 1), (1, 1, 1), (0, 2, 1), (1, 1, 2), (0, 4, 3)])
@pytest.mark.parametrize("backend", [None, "reference"])
def test_behind_a_window_that_looks_ahead(left: int, right: int, stride: int, backend: str | None) -> None:
    g, x = cgru.Graph(), (RNG.standard_normal((2, 9, 3))).astype(np.float32)
    y = g.conv1d(g.input(3), units=3, width=3, left=left, right=right, stride=stride, weights={"weight": WEIGHT})
    g.output(y, halved(g, y))
    net = cgru.Model(g, backend=backend)
    convolved, found = net(x).values()
    for row, wanted in zip(found, convolved, strict=True):
        np.testing.assert_allclose(row, running(wanted), rtol=0, atol=1e-6)
    # A row of fewer steps, and the frames that come only at the end of a stream.
    short = net(x, lengths=[9, 6])
    for whole, part in zip(net(x[1:, :6]).values(), short.values(), strict=True):
        np.testing.assert_allclose(part[1, : whole.shape[1]], whole[0], rtol=0, atol=1e-6)
    stream = net.stream()
    fed: list[Any] = [stream.feed(part) for part in np.split(x[0], [4, 5])]
    parts = [list(part.values())[1] for part in fed]
    parts.append(np.asarray(list(stream.flush().values())[1]).reshape(-1, 3))
    np.testing.assert_allclose(np.concatenate(parts), found[0], rtol=0, atol=1e-6)


def test_between_operations_on_whole_sequences() -> None:
    g, x = cgru.Graph(), RNG.standard_normal((2, 7, 3)).astype(np.float32)
    y = g.reverse_time(halved(g, g.reverse_time(g.input(3))))
    g.output(y, g.pool_whole(y, kind="mean"))
    sequence, mean = cgru.Model(g)(x).values()
    for row, found, average in zip(x, sequence, mean, strict=True):
        wanted = running(row[::-1])[::-1]
        np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-6)
        np.testing.assert_allclose(average, wanted.mean(axis=0), rtol=0, atol=1e-6)


def test_two_cycles_one_behind_the_other() -> None:
    g, x = cgru.Graph(), RNG.standard_normal((1, 6, 3)).astype(np.float32)
    first = halved(g, g.input(3))
    g.output(halved(g, g.sub(first, g.pool_whole(first, kind="max"))))
    once = running(x[0])
    np.testing.assert_allclose(cgru.Model(g)(x)[0], running(once - once.max(axis=0)), rtol=0, atol=1e-6)


def test_a_window_over_what_is_carried() -> None:
    """The core runs it beside the mean of the whole sequence; the reference, which would go step by step, says no."""
    g = cgru.Graph()
    x = g.input(3)
    held = g.carried(x, features=(3,))
    y = g.carry(g.conv1d(g.add(x, held), units=3, width=3, left=2, weights={"weight": WEIGHT}), held)
    g.output(y, g.pool_whole(y, kind="mean"))
    with pytest.raises(UnsupportedError, match="a step at a time"):
        cgru.Model(g, backend="reference")(np.zeros((1, 4, 3), np.float32))
    net = cgru.Model(g)
    if net.backends[0] == "reference":
        return
    frames = RNG.standard_normal((6, 3)).astype(np.float32) * 0.5
    seen, state, wanted = [np.zeros(3), np.zeros(3)], np.zeros(3), []
    for frame in frames:
        seen.append(frame + state)
        state = np.einsum("oik,ki->o", WEIGHT.astype(np.float64), np.array(seen[-3:]))
        wanted.append(state)
    sequence, mean = net(frames[None]).values()
    np.testing.assert_allclose(sequence[0], wanted, rtol=0, atol=1e-5)
    np.testing.assert_allclose(mean[0], np.mean(wanted, axis=0), rtol=0, atol=1e-5)
