"""Torch modules whose forward() counts frames or takes some of them: positions, last steps, differences, spectra."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import cgru
from cgru.errors import CgruError, ShapeError, UnsupportedError

torch: Any = pytest.importorskip("torch", reason="PyTorch is not installed: pip install cgru[parity]")
nn: Any = torch.nn


class Own(nn.Module):
    """A module whose forward() is given."""

    def __init__(self, call: Any, **parts: Any) -> None:
        super().__init__()
        self.call = call
        for name, part in parts.items():
            if isinstance(part, torch.Tensor) and not isinstance(part, nn.Parameter):
                self.register_buffer(name, part)
            else:
                setattr(self, name, part)

    def forward(self, x: Any) -> Any:
        return self.call(self, x)


def _sinusoids(frames: Any, size: int) -> Any:
    angle = frames[:, None] * torch.exp(torch.arange(0, size, 2) * (-np.log(1e4) / size))
    return torch.stack([torch.sin(angle), torch.cos(angle)], -1).flatten(1)


def _counted(m: Any, x: Any) -> Any:
    return m.gru(m.embed(x) + m.places(torch.arange(x.size(1)).unsqueeze(0).expand(x.size(0), -1)))[0]


def _joined(m: Any, x: Any) -> Any:
    places = m.table[: x.shape[1]].unsqueeze(0).expand(x.shape[0], -1, -1)
    return m.gru(torch.cat([x, places], -1))[0]


def _computed(m: Any, x: Any) -> Any:
    frames = torch.arange(x.size(1), dtype=torch.float32)
    return m.gru(x + _sinusoids(frames, 8))[0]


def _cumulative_norm(m: Any, x: Any) -> Any:
    """Conv-TasNet's causal normalisation, over all that was heard so far."""
    c, t = x.shape[1:]
    count = torch.arange(c, c * (t + 1), c, dtype=x.dtype).view(1, -1)
    mean = torch.cumsum(x.sum(1), 1) / count
    spread = torch.cumsum(x.pow(2).sum(1), 1) / count - mean.pow(2)
    y = (x - mean.unsqueeze(1)) / (spread + 1e-8).sqrt().unsqueeze(1)
    return m.gru((y * m.table[:8, :1]).transpose(1, 2))[0]


def _spectrum(m: Any, x: Any) -> Any:
    found = torch.stft(x, 32, 8, window=m.window, center=False, return_complex=True)
    return m.gru(torch.log(found.real**2 + found.imag**2 + 0.1).transpose(1, 2))[0]


def _mel(m: Any, x: Any) -> Any:
    found = torch.stft(x, 32, 8, win_length=20, window=m.window[:20], return_complex=True, normalized=True)
    return m.gru(torch.log(found.abs().pow(2).transpose(-1, -2) @ m.mel + 0.1))[0]


def _pairs(m: Any, x: Any) -> Any:
    found = torch.view_as_real(torch.stft(x, 32, 8, window=m.window, return_complex=True))
    return m.gru(found.permute(0, 2, 3, 1).flatten(2))[0]


def _gru(size: int) -> Any:
    return nn.GRU(size, 5, batch_first=True)


def _of(size: int, call: Any, **parts: Any) -> Callable[[], Any]:
    return lambda: Own(call, gru=_gru(size), table=torch.randn(30, 4), **parts)


#: What forward() does, the module, its input's other shape, whether a stream gives the same.
FEATURES: dict[str, tuple[Callable[[], Any], bool]] = {
    "a learned table": (
        lambda: Own(lambda m, x: m.gru(x + m.places[:, : x.size(1)])[0], gru=_gru(8),
                    places=nn.Parameter(torch.randn(1, 30, 8))), True),
    "a table beside the features": (_of(12, _joined), True),
    "sinusoids of a count": (_of(8, _computed), True),
    "all so far": (lambda: Own(lambda m, x: _cumulative_norm(m, x.transpose(1, 2)), gru=_gru(8),
                               table=torch.rand(8, 1) + 0.5), True),
    "the last four": (_of(8, lambda m, x: m.gru(x)[0][:, -4:]), False),
    "the mean of the last four": (_of(8, lambda m, x: m.gru(x)[0][:, -4:].mean(1)), False),
    "the last four but one": (_of(8, lambda m, x: m.gru(x)[0][:, -4:-1].flatten(1)), False),
    "differences": (_of(8, lambda m, x: m.gru(torch.diff(x, dim=1))[0]), True),
    "differences from the first": (
        _of(8, lambda m, x: m.gru(torch.diff(x, dim=1, prepend=x[:, :1]))[0]), True),
    "the first frame twice": (_of(8, lambda m, x: m.gru(torch.cat([x[:, :1], x], 1))[0]), True),
    "a frame of its own in front": (
        lambda: Own(lambda m, x: m.gru(torch.cat([m.token.expand(x.size(0), -1, -1), x], 1))[0], gru=_gru(8),
                    token=nn.Parameter(torch.randn(1, 1, 8))), True),
    "differences of features": (_of(7, lambda m, x: m.gru(torch.diff(x))[0]), True),
}  # fmt: skip
SOUNDS: dict[str, tuple[Callable[[], Any], bool]] = {
    "a power spectrum": (_of(17, _spectrum, window=torch.hann_window(32)), True),
    "mel bands": (_of(6, _mel, window=torch.hann_window(32), mel=torch.rand(17, 6)), False),
    "real and imaginary parts": (_of(34, _pairs, window=torch.hann_window(32)), False),
}


def _checked(net: cgru.Model, module: Any, x: Any, streams: bool) -> None:
    with torch.no_grad():
        want, exact = module(x).numpy(), module.double()(x.double() if x.is_floating_point() else x).numpy()
    module.float()
    given = x.numpy() if x.dim() == 3 or not x.is_floating_point() else x.numpy()[..., None]
    y = net(given)
    assert np.abs(y - exact).max() <= max(2e-6, 2 * np.abs(want - exact).max())
    if not streams:
        with pytest.raises(CgruError, match="whole sequence"):
            net.stream()
        return
    stream = net.stream(len(x))
    parts = [stream.feed(given[:, a:b]) for a, b in ((0, 3), (3, 4), (4, x.shape[1]))]
    np.testing.assert_array_equal(np.concatenate([*parts, stream.flush()], axis=1), y)


def _traced(module: Any, x: Any, shape: tuple[int | None, ...]) -> cgru.Model:
    file = io.BytesIO()
    torch.jit.save(torch.jit.trace(module, x, check_trace=False), file)
    return cgru.load(file.getvalue(), inputs={"x": shape})


def _exported(module: Any, x: Any) -> cgru.Model:
    file = io.BytesIO()
    torch.export.save(torch.export.export(module, (x,), strict=False), file)
    return cgru.load(file.getvalue())


@pytest.mark.parametrize("case", FEATURES)
def test_features(case: str) -> None:
    torch.manual_seed(3)
    make, streams = FEATURES[case]
    module = make().eval()
    x = torch.randn(2, 11, 8)
    for net in (cgru.from_torch(module, example=x), _exported(module, x), _traced(module, x, (None, None, 8))):
        _checked(net, module, torch.randn(3, 17, 8), streams)


@pytest.mark.parametrize("case", SOUNDS)
def test_sounds(case: str) -> None:
    torch.manual_seed(3)
    make, streams = SOUNDS[case]
    module = make().eval()
    x = torch.randn(2, 160)
    for net in (cgru.from_torch(module, example=x), _exported(module, x), _traced(module, x, (None, None))):
        _checked(net, module, torch.randn(3, 200), streams)


@pytest.mark.parametrize("file", ["live", "exported", "traced"])
def test_positions_of_ids(file: str) -> None:
    torch.manual_seed(4)
    module = Own(_counted, embed=nn.Embedding(20, 8), places=nn.Embedding(30, 8), gru=_gru(8)).eval()
    x = torch.randint(0, 20, (2, 11))
    if file == "live":
        net = cgru.from_torch(module, example=x)
    elif file == "exported":
        net = _exported(module, x)
    else:
        data = io.BytesIO()
        torch.jit.save(torch.jit.trace(module, x), data)
        net = cgru.load(data.getvalue())
    _checked(net, module, torch.randint(0, 20, (3, 17)), True)


@pytest.fixture(params=["packed", "reference"])
def positioned(request: Any) -> cgru.Model:
    torch.manual_seed(5)
    make, _ = FEATURES["a learned table"]
    return cgru.from_torch(make().eval(), example=torch.randn(2, 11, 8), backend=request.param)


def test_more_frames_than_positions_are_refused(positioned: cgru.Model) -> None:
    x = np.zeros((2, 31, 8), np.float32)
    positioned(x[:, :30])
    positioned(x, lengths=[30, 4])
    for lengths in (None, [31, 4]):
        with pytest.raises(ShapeError, match="positions"):
            positioned(x, lengths=lengths)


def test_a_stream_without_positions_left_is_refused_and_stays_where_it_was(positioned: cgru.Model) -> None:
    x = np.random.default_rng(1).standard_normal((2, 30, 8)).astype(np.float32)
    stream = positioned.stream(2)
    stream.feed(x[:, :29])
    with pytest.raises(ShapeError, match="positions"):
        stream.feed(x[:, :2])
    np.testing.assert_allclose(stream.feed(x[:, 29:]), positioned(x)[:, 29:], atol=1e-6)
    with pytest.raises(ShapeError, match="positions"):
        stream.step(x[:, 0])


def test_streams_of_a_pool_are_at_positions_of_their_own(positioned: cgru.Model) -> None:
    x = np.random.default_rng(2).standard_normal((1, 6, 8)).astype(np.float32)
    want, pool = positioned(x)[0], positioned.pool(2)
    first = pool.open()
    for t in range(2):
        np.testing.assert_allclose(pool.step([first], x[:, t])[0], want[t], atol=1e-6)
    second = pool.open()
    got = pool.step([first, second], np.stack([x[0, 2], x[0, 0]]))
    np.testing.assert_allclose(got, np.stack([want[2], want[0]]), atol=1e-6)


def test_fewer_frames_than_the_last_ones_wanted_are_refused() -> None:
    make, _ = FEATURES["the last four"]
    net = cgru.from_torch(make().eval(), example=torch.randn(2, 11, 8))
    assert net(np.zeros((1, 4, 8), np.float32)).shape == (1, 4, 5)
    with pytest.raises(ShapeError, match="the last 4 frames"):
        net(np.zeros((1, 3, 8), np.float32))


def _relative(m: Any, x: Any) -> Any:
    return m.gru(x + (torch.arange(x.shape[1]) / x.shape[1])[:, None])[0]


def test_positions_that_hang_on_the_length_are_refused() -> None:
    module, x = Own(_relative, gru=_gru(8)).eval(), torch.randn(2, 11, 8)
    with pytest.raises(UnsupportedError, match="disagree"):
        cgru.from_torch(module, example=x)
    with pytest.raises(UnsupportedError):
        _exported(module, x)
