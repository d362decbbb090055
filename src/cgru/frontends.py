"""Fixed feature front ends, as operations of a graph: spectra of sound, mel bands, deltas, mean and variance.

::

    g = cgru.Graph()
    sound = g.input(1)                                       # samples, one a step
    power = frontends.spectrum(g, sound, size=512, hop=160, power=2)
    bands = frontends.mel(g, power, rate=16000, bands=40)
    x = frontends.log(g, bands)
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .arrays import Float32, float32, positive
from .builder import Graph
from .errors import CgruError, ShapeError
from .spec.values import Value


def _value(g: Graph, x: str) -> Value:
    """The type of a value of the graph."""
    if x not in g.values:
        raise CgruError(f"{x!r} is no value of this graph; there are {', '.join(list(g.values)[:12])}")
    return g.values[x]


def spectrum(g: Graph, x: str, *, size: int, hop: int, window: Any = None, power: int = 1) -> str:
    """Magnitudes (``power`` 1) or powers (2) of windows of ``size`` samples, every ``hop``: (1,) → (size // 2 + 1,).

    The short-time Fourier transform as torch.stft has it with center=False; ``window`` (size,) is Hann's, periodic,
    where none is given. Frame j sees samples j · hop … j · hop + size − 1. It is a convolution with cosines and sines.
    """
    size, hop = positive(size, "size"), positive(hop, "hop")
    if _value(g, x).features != (1,):
        raise ShapeError(f"spectrum: expected one sample a step, found {g.values[x].describe()}")
    if power not in (1, 2):
        raise CgruError(f"power: expected 1 or 2, found {power!r}")
    if window is None:
        shape = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(size) / size)
    else:
        shape = float32(window, "window", (1,)).astype(np.float64)
        if shape.shape != (size,):
            raise ShapeError(f"window: expected {size} numbers, found shape {shape.shape}")
    bins = size // 2 + 1
    angle = 2 * np.pi * np.outer(np.arange(bins), np.arange(size)) / size
    waves = np.concatenate([np.cos(angle), -np.sin(angle)]) * shape
    both = g.conv1d(x, units=2 * bins, width=size, stride=hop, weights={"weight": waves[:, None].astype(np.float32)})
    pair = g.reshape(both, features=(2, bins))
    made = g.reduce(pair, kind="sum_square" if power == 2 else "l2", axes=(0,))
    return str(g.reshape(made, features=(bins,)))


def mel(
    g: Graph, x: str, *, rate: float, bands: int, low: float = 0.0, high: float | None = None, scale: str = "slaney",
    area: bool = True,
) -> str:  # fmt: skip
    """Sums of a spectrum over ``bands`` triangles of equal width in mel: (bins,) → (bands,).

    See :func:`mel_weights`; ``x`` is what :func:`spectrum` gives, or any spectrum from 0 to rate / 2.
    """
    weights = mel_weights(_value(g, x).size, rate=rate, bands=bands, low=low, high=high, scale=scale, area=area)
    return str(g.dense(x, units=bands, weights={"weight": weights}))


def mel_weights(
    bins: int, *, rate: float, bands: int, low: float = 0.0, high: float | None = None, scale: str = "slaney",
    area: bool = True,
) -> Float32:  # fmt: skip
    """The triangles (bands, bins), linear in hertz between centres that are equally far apart in mel.

    ``scale`` "slaney": linear below 1 kHz, logarithmic above (Slaney's Auditory Toolbox, librosa's default); "htk":
    2595 log₁₀(1 + f / 700). ``area``: every triangle divided by half its width in hertz. Frequencies in hertz.
    """
    bins, bands = positive(bins, "bins"), positive(bands, "bands")
    for name, value in (("rate", rate), ("low", low), ("high", 0.0 if high is None else high)):
        if not isinstance(value, (int, float)):
            raise CgruError(f"{name}: expected a frequency in hertz, found {value!r}")
    high = rate / 2 if high is None else high
    if scale not in ("slaney", "htk"):
        raise CgruError(f"scale: expected 'slaney' or 'htk', found {scale!r}")
    if not 0 <= low < high <= rate / 2 or bins < 2:
        raise CgruError(
            f"mel: expected 0 ≤ low < high ≤ {rate / 2:g} Hz, bands and a spectrum; found {low} to {high} Hz"
        )
    edges = _to_hertz(np.linspace(_to_mel(low, scale), _to_mel(high, scale), bands + 2), scale)
    at = np.linspace(0, rate / 2, bins)
    rising = (at - edges[:-2, None]) / np.diff(edges)[:-1, None]
    falling = (edges[2:, None] - at) / np.diff(edges)[1:, None]
    weights = np.maximum(0, np.minimum(rising, falling))
    if area:
        weights *= 2 / (edges[2:] - edges[:-2])[:, None]
    return weights.astype(np.float32)


#: Slaney's scale: 200/3 Hz a mel below 1 kHz, and 27 mel a factor of 6.4 above.
_LINEAR, _KNEE, _STEP = 200 / 3, 1000.0, np.log(6.4) / 27


def _to_mel(hertz: Any, scale: str) -> Any:
    hertz = np.asarray(hertz, np.float64)
    if scale == "htk":
        return 2595 * np.log10(1 + hertz / 700)
    above = _KNEE / _LINEAR + np.log(np.maximum(hertz, _KNEE) / _KNEE) / _STEP
    return np.where(hertz < _KNEE, hertz / _LINEAR, above)


def _to_hertz(mels: Any, scale: str) -> Any:
    if scale == "htk":
        return 700 * (10 ** (mels / 2595) - 1)
    knee = _KNEE / _LINEAR
    return np.where(mels < knee, mels * _LINEAR, _KNEE * np.exp(_STEP * (np.maximum(mels, knee) - knee)))


def log(g: Graph, x: str, *, floor: float = 1e-10) -> str:
    """The natural logarithm of what is at least ``floor``."""
    if not floor > 0:
        raise CgruError(f"floor: expected a number above 0, found {floor!r}")
    return str(g.unary(g.clip(x, low=floor), kind="log"))


def deltas(g: Graph, x: str, *, width: int = 9, streams: bool = False) -> str:
    """Slopes over time by regression over ``width`` frames: Σ n (x_{t+n} − x_{t−n}) / 2 Σ n², n to width // 2.

    The HTK Book's formula, torchaudio's compute_deltas: the first and last frame stand for those outside. With
    ``streams`` zeros do, so that a stream runs it, late by width // 2 frames.
    """
    if positive(width, "width") < 3 or width % 2 == 0:
        raise CgruError(f"width: expected an odd number of at least 3 frames, found {width!r}")
    half, size = width // 2, _value(g, x).size
    kernel = np.arange(-half, half + 1) / (2 * sum(n * n for n in range(1, half + 1)))
    weight = np.tile(kernel.astype(np.float32), (size, 1, 1))
    sides = {"left": half, "right": half}
    if not streams:
        x, sides = g.pad_time(x, mode="edge", **sides), {}
    return str(g.conv1d(x, units=size, width=width, groups=size, weights={"weight": weight}, **sides))


def normalize(g: Graph, x: str, mean: Any, deviation: Any) -> str:
    """(x − mean) / deviation, of each feature, with statistics (F,) given."""
    center, spread = float32(mean, "mean", (1,)), float32(deviation, "deviation", (1,))
    if not np.all(spread > 0):
        raise CgruError("deviation: every number must be above 0")
    scale = 1 / spread.astype(np.float64)
    weights = {"scale": scale.astype(np.float32), "shift": (-center * scale).astype(np.float32)}
    return str(g.scale_shift(x, weights=weights))
