"""Feature front ends against their definitions, torch's STFT and published values of the mel scale."""

from __future__ import annotations

import numpy as np
import pytest

import cgru
from cgru import frontends

RNG = np.random.default_rng(8)


def sound(samples: int) -> np.ndarray:
    return RNG.standard_normal((2, samples, 1)).astype(np.float32)


@pytest.mark.parametrize("power", [1, 2])
@pytest.mark.parametrize("own", [False, True])
def test_spectrum(power: int, own: bool) -> None:
    """Every frame is the discrete Fourier transform of its windowed samples; streams give the same bits."""
    x = sound(200)
    window = RNG.uniform(0.1, 1, 32).astype(np.float32) if own else 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(32) / 32)
    g = cgru.Graph()
    g.output(frontends.spectrum(g, g.input(1), size=32, hop=12, power=power, window=window if own else None))
    net = cgru.Model(g)
    wanted = [np.abs(np.fft.rfft(x[:, s : s + 32, 0] * window)) ** power for s in range(0, 169, 12)]
    np.testing.assert_allclose(net(x), np.stack(wanted, axis=1), rtol=2e-5, atol=2e-5)
    stream = net.stream(2)
    parts = [stream.feed(part) for part in np.split(x, [7, 50, 51], axis=1)]
    np.testing.assert_array_equal(np.concatenate([*parts, stream.flush()], axis=1), net(x))


def test_spectrum_is_torchs() -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    x = sound(400)
    g = cgru.Graph()
    g.output(frontends.spectrum(g, g.input(1), size=64, hop=16))
    window = torch.hann_window(64, dtype=torch.float64)
    theirs = torch.stft(
        torch.tensor(x[..., 0]).double(), 64, 16, window=window, center=False, return_complex=True
    ).abs()
    np.testing.assert_allclose(cgru.Model(g)(x), theirs.transpose(1, 2), rtol=1e-5, atol=2e-5)


def test_mel_scales_have_their_published_values() -> None:
    np.testing.assert_allclose(
        frontends._to_mel([60, 110, 220, 440], "slaney"), [0.9, 1.65, 3.3, 6.6]
    )  # librosa's docs
    np.testing.assert_allclose(frontends._to_mel(1000, "htk"), 1000, atol=0.02)
    for scale in ("slaney", "htk"):
        hertz = np.array([0.0, 300, 999, 1001, 7000])
        np.testing.assert_allclose(frontends._to_hertz(frontends._to_mel(hertz, scale), scale), hertz, atol=1e-9)


@pytest.mark.parametrize("scale", ["slaney", "htk"])
def test_mel_bands_are_triangles(scale: str) -> None:
    x = np.abs(sound(6)) * np.ones(129, np.float32)
    g = cgru.Graph()
    g.output(frontends.mel(g, g.input(129), rate=8000, bands=10, low=100, high=3500, scale=scale, area=False))
    mels = np.linspace(frontends._to_mel(100, scale), frontends._to_mel(3500, scale), 12)
    edges = frontends._to_hertz(mels, scale)
    at = np.arange(129) * 4000 / 128
    triangles = np.array([np.interp(at, edges[m : m + 3], [0, 1, 0]) for m in range(10)])
    np.testing.assert_allclose(cgru.Model(g)(x), x @ triangles.T, rtol=1e-5)
    whole = frontends.mel_weights(4097, rate=8000, bands=10, low=100, high=3500, scale=scale)
    np.testing.assert_allclose(whole.sum(axis=1) * 4000 / 4096, 1, rtol=2e-3)  # areas


@pytest.mark.parametrize("streams", [False, True])
def test_deltas(streams: bool) -> None:
    x = RNG.standard_normal((2, 12, 3)).astype(np.float32)
    g = cgru.Graph()
    g.output(frontends.deltas(g, g.input(3), width=5, streams=streams))
    padded = np.pad(x.astype(float), ((0, 0), (2, 2), (0, 0)), mode="constant" if streams else "edge")
    wanted = sum(n * (padded[:, 2 + n : 14 + n] - padded[:, 2 - n : 14 - n]) for n in (1, 2)) / 10
    np.testing.assert_allclose(cgru.Model(g)(x), wanted, rtol=0, atol=1e-6)


def test_log_and_normalize() -> None:
    x = np.abs(RNG.standard_normal((2, 5, 3))).astype(np.float32)
    x[0, 0, 0] = 0
    mean, deviation = np.array([0.1, -1, 2]), np.array([2, 0.5, 1])
    g = cgru.Graph()
    g.output(frontends.normalize(g, frontends.log(g, g.input(3), floor=1e-3), mean, deviation))
    wanted = (np.log(np.maximum(x.astype(float), 1e-3)) - mean) / deviation
    np.testing.assert_allclose(cgru.Model(g)(x), wanted, rtol=0, atol=5e-6)


def test_what_does_not_fit_is_refused() -> None:
    g = cgru.Graph()
    two = g.input(2)
    with pytest.raises(cgru.ShapeError, match="one sample a step"):
        frontends.spectrum(g, two, size=8, hop=4)
    with pytest.raises(cgru.CgruError, match="low < high"):
        frontends.mel(g, two, rate=8000, bands=2, low=5000)
    with pytest.raises(cgru.CgruError, match="odd number"):
        frontends.deltas(g, two, width=4)
    with pytest.raises(cgru.CgruError, match="above 0"):
        frontends.normalize(g, two, [0.0, 0.0], [1.0, 0.0])
