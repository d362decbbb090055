"""Numbers at the edge of float32, and arrays that hold more than their numbers: nothing is dropped in silence."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import cgru

torch = pytest.importorskip("torch", reason="the comparisons with PyTorch need it")


# ---- states that are infinite, or nearly so ---------------------------------------------------------------------


@pytest.mark.parametrize("value", [np.inf, -np.inf, 3e38, -3e38])
@pytest.mark.parametrize("kind", ["GRU", "LSTM h", "LSTM c", "RNN"])
@pytest.mark.parametrize("size", [3, 17])
def test_a_state_without_bounds_gives_what_torch_gives(backend: str, kind: str, size: int, value: float) -> None:
    if backend == "reference" and kind != "LSTM c":
        pytest.skip("reference: its float64 keeps finite what overflows in torch's float32")
    torch.manual_seed(size)
    name, _, which = kind.partition(" ")
    module = getattr(torch.nn, name)(4, size, batch_first=True)
    layer = getattr(cgru, name).from_torch(module.state_dict())
    x, big, small = torch.randn(2, 3, 4), torch.randn(1, 2, size), torch.randn(1, 2, size)
    big[0, :, 1] = value
    state: Any = big if not which else (big, small) if which == "h" else (small, big)
    want = module(x, state)[0].detach().numpy()
    given = state.numpy() if not which else tuple(part.numpy() for part in state)
    got = layer(x.numpy(), given, backend=backend)[0]
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5, equal_nan=True)


# ---- masks --------------------------------------------------------------------------------------------------------


def gru(inputs: int = 4, hidden: int = 5, seed: int = 0, **options: Any) -> cgru.GRU:
    rng = np.random.default_rng(seed)
    shapes = {
        "weight_ih_l0": (3 * hidden, inputs), "weight_hh_l0": (3 * hidden, hidden),
        "bias_ih_l0": (3 * hidden,), "bias_hh_l0": (3 * hidden,),
    }  # fmt: skip
    return cgru.GRU({key: rng.standard_normal(shape).astype(np.float32) for key, shape in shapes.items()}, **options)


@pytest.mark.parametrize("value", [0.0, -0.0, 1e-40, -3.5, np.nan])
def test_masking_tells_subnormals_from_zero(backend: str, value: float) -> None:
    """A step counts where any feature differs from the value, as IEEE 754 and numpy say."""
    steps = [0.0, -0.0, 1e-40, -1e-40, 2e-40, 1e-45, -3.5, np.nan, np.inf, 1.0]
    x = np.repeat(np.array(steps, np.float32)[None, :, None], 4, axis=2)
    x[0, -1, :3] = value
    layer = gru()
    counts = (x != np.float32(value)).any(axis=-1)
    want = cgru.Model([layer], backend=backend)(np.where(counts[..., None], x, 0), mask=counts)
    got = cgru.Model([cgru.Masking(value), layer], backend=backend)(x)
    assert np.array_equal(got, want, equal_nan=True)


@pytest.mark.parametrize("steps", [0, 1, 3])
@pytest.mark.parametrize("threads", [1, 2])
def test_masking_after_the_last_output_clears_rows_and_masks_nothing(backend: str, steps: int, threads: int) -> None:
    """Keras' Masking on (B, F) multiplies by whether any feature differs; Dense takes no mask."""
    rng = np.random.default_rng(3)
    layer = gru(return_sequences=False)
    dense = cgru.Dense(rng.standard_normal((2, 5)).astype(np.float32), np.ones(2, np.float32))
    x = rng.standard_normal((70, steps, 4)).astype(np.float32)
    h = cgru.Model([layer], backend=backend)(x)
    want = cgru.Model([dense], backend=backend)(np.where((h != 0).any(-1, keepdims=True), h, 0))
    got = cgru.Model([layer, cgru.Masking(), dense], backend=backend)(x, threads=threads)
    np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("first", ["features", "ids"])
def test_any_byte_but_zero_is_true(backend: str, first: str) -> None:
    """A mask made by .view(bool) may hold other bytes than 0 and 1."""
    rng = np.random.default_rng(4)
    table = cgru.Embedding(rng.standard_normal((6, 4)).astype(np.float32), mask_zero=True)
    net = cgru.Model([*([table] if first == "ids" else []), gru()], backend=backend)
    x: Any = rng.integers(0, 6, (2, 8)) if first == "ids" else rng.standard_normal((2, 8, 4)).astype(np.float32)
    raw = np.array([[2, 1, 0, 255, 4, 0, 128, 1], [0, 2, 2, 2, 1, 0, 3, 0]], np.uint8)
    want = net(x, mask=raw != 0)
    assert np.array_equal(net(x, mask=raw.view(bool)), want)
    assert not np.array_equal(net(x), want)


# ---- numbers that float32 does not hold, or that are said not to count ----------------------------------------------


@pytest.mark.parametrize("value", [1e39, -1e300, np.longdouble(3.5e38)])
def test_numbers_beyond_float32_are_refused_by_name(value: Any) -> None:
    layer = gru()
    net, x = cgru.Model([layer]), np.zeros((2, 3, 4), np.asarray(value).dtype)
    x[1, 2, 3] = value
    for call in (lambda: net(x), lambda: net.stream(2).feed(x), lambda: net.gates(x), lambda: layer(x)):
        with pytest.raises(cgru.ShapeError, match=r"x: .* at \(1, 2, 3\) is beyond float32"):
            call()
    with pytest.raises(cgru.ShapeError, match=r"h0: .*beyond float32"):
        layer(x[:1] * 0, np.full((1, 1, 5), value))
    with pytest.raises(cgru.ShapeError, match=r"fc: weight: .*beyond float32"):
        cgru.Dense(np.full((2, 5), value), name="fc")
    x[1, 2, 3] = np.inf  # which float32 does hold
    assert np.isnan(net(x)).any() or np.isfinite(net(x)).all()


def test_masked_arrays_are_refused_where_anything_is_masked() -> None:
    net = cgru.Model([gru()])
    x = np.ma.masked_greater(np.random.default_rng(0).standard_normal((2, 3, 4)).astype(np.float32), 0.5)
    layer, plain = gru(), np.zeros((2, 3, 4), np.float32)
    ids = cgru.Model([cgru.Embedding(np.ones((9, 4), np.float32)), gru()])
    tokens = np.ma.masked_equal(np.arange(6).reshape(2, 3), 4)
    stream, pool = net.stream(2), net.pool(2)
    sids = [pool.open(), pool.open()]
    calls: dict[str, Any] = {
        "x": [
            lambda: net(x), lambda: net(list(x)), lambda: stream.feed(x), lambda: stream.step(x[:, 2]),
            lambda: ids(tokens), lambda: ids.stream(2).step(tokens[:, 1]), lambda: layer(x),
            lambda: pool.step(sids, x[:, 2]),
        ],
        "h0": [lambda: layer(plain, np.ma.masked_equal(np.ones((1, 2, 5)), 1))],
        "lengths": [lambda: net(plain, np.ma.masked_equal([2, 3], 3))],
        "mask": [lambda: net(plain, mask=np.ma.masked_equal(np.ones((2, 3), bool), True))],
        "weight": [lambda: cgru.Dense(x[0])],
    }  # fmt: skip
    for name, each in calls.items():
        for call in each:
            with pytest.raises(cgru.ShapeError, match=f"{name}.*masked"):
                call()
    with pytest.raises(cgru.CgruError):
        pool.step(np.ma.masked_equal(sids, sids[1]), plain[:, 0])
    nothing = np.ma.array(plain)
    assert np.array_equal(net(nothing), net(plain))
    with pytest.raises(cgru.ShapeError, match=r"out.*masked"):
        net.run(plain, out=np.ma.zeros((2, 3, 5), np.float32))


# ---- whose state it is -------------------------------------------------------------------------------------------


def test_a_state_goes_to_its_network_and_its_twin_alone(backend: str, tmp_path: Any) -> None:
    net, other = (cgru.Model([gru(seed=seed)], backend=backend) for seed in (0, 1))
    x = np.random.default_rng(0).standard_normal((2, 3, 4)).astype(np.float32)
    state = net.run(x)[1]
    want, _ = net.run(x, state)
    net.save(tmp_path / "net.safetensors")
    twin = cgru.load(tmp_path / "net.safetensors", backend=backend)
    assert np.array_equal(twin.run(x, state)[0], want)
    assert np.array_equal(net.run(x, twin.run(x)[1])[0], want)
    with pytest.raises(cgru.CgruError, match=r"state: it belongs to another network .*state\.arrays\(\)"):
        other.run(x, state)
    with pytest.raises(cgru.CgruError, match="another network"):
        net.quantize("int8").run(x, state)
    other.run(x, state.arrays())
