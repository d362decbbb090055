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
    state = big if not which else (big, small) if which == "h" else (small, big)
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
