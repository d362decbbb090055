"""The examples: sound through a stream in frames, and a service that holds its clients' streams in one pool."""

from __future__ import annotations

import asyncio
import importlib.util
import subprocess
import sys
import wave
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from networks import Kind, build, noise

from cgru.engine.pool import Pool

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
NSNET2 = Path(__file__).resolve().parents[2] / "shared" / "models" / "nsnet2"
if not EXAMPLES.is_dir():
    pytest.skip("the examples are not here (they come with the repository)", allow_module_level=True)


def example(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


live_audio, stream_service = example("live_audio"), example("stream_service")


# ---- live_audio ------------------------------------------------------------------------------------------------


class Gain:
    """Stands in for a network: a stream that gives the same gain everywhere, and keeps what it was shown."""

    def __init__(self, gain: float) -> None:
        self.gain = np.full(161, gain, np.float32)
        self.seen: list[np.ndarray] = []

    def stream(self) -> Gain:
        return self

    def step(self, x: np.ndarray) -> np.ndarray:
        self.seen.append(x)
        return self.gain


@pytest.mark.parametrize("gain", [1.0, 0.25])
def test_spectra_overlap_to_the_sound_itself(gain: float) -> None:
    sound = np.random.default_rng(0).uniform(-1, 1, 50 * 160)
    denoise = live_audio.Denoiser(Gain(gain))
    out = np.concatenate([denoise(frame) for frame in sound.reshape(-1, 160)])
    np.testing.assert_allclose(out[160:], gain * sound[:-160], atol=1e-6)
    assert np.abs(out[:160]).max() < 1e-12


def test_features_are_the_log_power_of_a_tone() -> None:
    """1 kHz is bin 20 of 50 Hz each, and a full sine gives (Σ window / 2)² there, but for what leaks from −1 kHz."""
    net = Gain(1.0)
    denoise = live_audio.Denoiser(net)
    tone = np.sin(2 * np.pi * 1000 * np.arange(800) / 16000)
    for frame in tone.reshape(-1, 160):
        denoise(frame)
    features = net.seen[-1]
    assert features.shape == (161,)
    assert features.dtype == np.float32
    assert features.argmax() == 20
    np.testing.assert_allclose(features[20], 2 * np.log10(live_audio.WINDOW.sum() / 2), atol=1e-3)


def test_nsnet2_frame_by_frame() -> None:
    """The gains of 500 frames of speech in noise, one step each, as ONNX Runtime computed them in one run."""
    pytest.importorskip("onnx", reason="onnx is not installed")
    if not NSNET2.is_dir():
        pytest.skip("NSNet2 is not here (../shared/models beside the checkout)")
    stream = live_audio.nsnet2(NSNET2 / "nsnet2.onnx").stream()
    with np.load(NSNET2 / "nsnet2_ref.npz") as ref:
        features, gains = ref["feat"][0], ref["gain"][0]
    assert features.shape == (500, 161)
    got = np.stack([stream.step(row) for row in features])
    np.testing.assert_allclose(got, gains, rtol=0, atol=5e-6)


def wav(path: Path, samples: np.ndarray, rate: int = 16000, channels: int = 1) -> bytes:
    with wave.open(str(path), "wb") as file:
        file.setparams((channels, 2, rate, 0, "NONE", "not compressed"))
        file.writeframes(samples.astype("<i2").tobytes())
    return path.read_bytes()


def run(*arguments: str, given: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, str(EXAMPLES / "live_audio.py"), *arguments]
    return subprocess.run(command, input=given, capture_output=True, timeout=120)


def test_from_a_file_and_from_pipes(tmp_path: Path) -> None:
    """A .wav file, the same down a pipe, and its bare samples: 21 frames of the same sound, and a line about them."""
    sound = np.random.default_rng(1).integers(-8000, 8000, 20 * 160 + 37)
    data = wav(tmp_path / "in.wav", sound)
    whole = np.concatenate([sound, np.zeros(123)]).astype("<i2").tobytes()
    absent = ("--model", str(tmp_path / "nothing"))
    done = run(str(tmp_path / "in.wav"), "-o", str(tmp_path / "out.wav"), *absent)
    assert done.returncode == 0, done.stderr
    assert b"the demo's network" in done.stderr
    assert b"21 frames of 10 ms: median" in done.stderr
    with wave.open(str(tmp_path / "out.wav")) as file:
        assert file.readframes(10**6) == whole
    for given in (data, sound.astype("<i2").tobytes()):
        done = run("-", "-o", "-", *absent, given=given)
        assert done.returncode == 0, done.stderr
        assert done.stdout == whole


def test_no_sound_at_all(tmp_path: Path) -> None:
    done = run("-", "-o", "-", "--model", str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert done.stdout == b""


@pytest.mark.parametrize(("rate", "channels"), [(8000, 1), (16000, 2)])
def test_sound_of_another_kind_is_refused(tmp_path: Path, rate: int, channels: int) -> None:
    wav(tmp_path / "in.wav", np.zeros(800), rate, channels)
    done = run(str(tmp_path / "in.wav"), "--model", str(tmp_path))
    assert done.returncode == 2
    assert f"found {rate} Hz, {channels} channels".encode() in done.stderr


# ---- stream_service --------------------------------------------------------------------------------------------

SERVED = Kind(6, 20, layers=2, head=3)


async def until(true: object, *, tries: int = 2000) -> None:
    """Let the loop go round until ``true()``."""
    assert callable(true)
    for _ in range(tries):
        if true():
            return
        await asyncio.sleep(0.005)
    raise AssertionError("it never became true")


def test_every_client_gets_what_it_would_alone() -> None:
    """Clients of different lengths at the same time, some after others in the same places: all to the bit."""
    net = build(SERVED, 1, "packed")
    xs = [noise((5 + 7 * k, 6), k) for k in range(12)]

    async def scenario() -> tuple[list[np.ndarray], stream_service.Service]:  # type: ignore[name-defined]
        async with stream_service.Service(net, capacity=6) as service:
            first = await asyncio.gather(*(stream_service.ask(*service.address, x) for x in xs[:6]))
            await until(lambda: len(service.pool) == 0)
            second = await asyncio.gather(*(stream_service.ask(*service.address, x) for x in xs[6:]))
            await until(lambda: len(service.pool) == 0)
            return [*first, *second], service

    found, service = asyncio.run(scenario())
    for x, y in zip(xs, found, strict=True):
        assert np.array_equal(y, net.stream().feed(x))
    assert service.steps == sum(map(len, xs))
    assert service.ticks < service.steps, "no two clients ever shared a tick"


def test_a_client_that_goes_or_will_not_read_holds_nobody_up() -> None:
    """One leaves in the middle of a step, one without a word, one sends for ever and never reads: the others go on,
    places come free again, and what waits for the one that does not read stays bounded."""
    net = build(SERVED, 1, "packed")
    x = noise((60, 6), 3)

    async def scenario() -> tuple[np.ndarray, bool, int]:
        async with stream_service.Service(net, capacity=4) as service:
            gone, quiet, deaf = [await asyncio.open_connection(*service.address) for _ in range(3)]
            await until(lambda: len(service.pool) == 3)
            gone[1].write(x[0].tobytes() + b"half a")
            gone[1].close()
            quiet[1].transport.abort()
            held_back = False
            flood = noise((1000, 6), 4).tobytes()
            for _ in range(2000):
                deaf[1].write(flood)
                try:
                    await asyncio.wait_for(deaf[1].drain(), 0.2)
                except TimeoutError:
                    held_back = True
                    break
            y = await stream_service.ask(*service.address, x)
            await until(lambda: len(service.pool) == 1)
            waiting = len(service.waiting)
            deaf[1].transport.abort()
            await until(lambda: len(service.pool) == 0)
            return y, held_back, waiting

    y, held_back, waiting = asyncio.run(scenario())
    assert held_back
    assert waiting <= 1
    assert np.array_equal(y, net.stream().feed(x))


def test_no_place_free() -> None:
    net = build(SERVED, 1, "packed")
    x = noise((3, 6), 3)

    async def scenario() -> np.ndarray:
        async with stream_service.Service(net, capacity=1) as service:
            _, writer = await asyncio.open_connection(*service.address)
            await until(lambda: len(service.pool) == 1)
            with pytest.raises(ConnectionRefusedError, match="every place"):
                await stream_service.ask(*service.address, x)
            writer.close()
            await until(lambda: len(service.pool) == 0)
            return await stream_service.ask(*service.address, x)

    assert np.array_equal(asyncio.run(scenario()), net.stream().feed(x))


def test_nan_of_one_client_reaches_no_other() -> None:
    net = build(SERVED, 1, "packed")
    xs = [noise((40, 6), k) for k in range(3)]
    ill = xs[1].copy()
    ill[10] = np.nan

    async def scenario() -> list[np.ndarray]:
        async with stream_service.Service(net, capacity=3) as service:
            return await asyncio.gather(*(stream_service.ask(*service.address, x) for x in (xs[0], ill, xs[2])))

    found = asyncio.run(scenario())
    for k in (0, 2):
        assert np.array_equal(found[k], net.stream().feed(xs[k]))
    assert np.array_equal(found[1][:10], net.stream().feed(xs[1][:10]))
    assert np.isnan(found[1][10:]).all()


def test_a_client_dropped_while_it_waits_for_a_tick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its place is given back before the tick comes, which must no longer count on it."""
    net = build(SERVED, 1, "packed")
    x = noise((4, 6), 0)
    monkeypatch.setattr(stream_service, "TICK", 0.2)

    async def scenario() -> np.ndarray:
        async with stream_service.Service(net, capacity=3) as service:
            _, writer = await asyncio.open_connection(*service.address)
            await until(lambda: len(service.pool) == 1)
            async with service.turn:
                writer.write(x[0].tobytes())
                await until(lambda: service.waiting)
                for task in service.clients:
                    task.cancel()
                await asyncio.sleep(0.05)
            other = asyncio.create_task(stream_service.ask(*service.address, x))
            await until(lambda: len(service.pool) == 1 and len(service.clients) == 1)
            writer.close()
            return await asyncio.wait_for(other, 60)

    assert np.array_equal(asyncio.run(scenario()), net.stream().feed(x))


def test_a_step_that_fails_lets_its_clients_go_and_nobody_else() -> None:
    net = build(SERVED, 1, "packed")
    x = noise((4, 6), 0)

    def fail(*_: object) -> np.ndarray:
        raise MemoryError("none left")

    async def scenario() -> np.ndarray:
        async with stream_service.Service(net, capacity=3) as service:
            works, service.pool = service.pool, Broken(service.pool, fail)
            with pytest.raises(asyncio.IncompleteReadError):
                await stream_service.ask(*service.address, x)
            await until(lambda: len(works) == 0)
            service.pool = works
            return await stream_service.ask(*service.address, x)

    assert np.array_equal(asyncio.run(scenario()), net.stream().feed(x))


class Broken:
    """A pool whose steps do something else."""

    def __init__(self, pool: Pool, step: Callable[..., np.ndarray]) -> None:
        self.open, self.close, self.capacity, self.length = pool.open, pool.close, pool.capacity, pool.__len__
        self.step = step

    def __len__(self) -> int:
        return self.length()


def test_the_service_ends_with_clients_connected() -> None:
    net = build(SERVED, 1, "packed")

    async def scenario() -> int:
        async with stream_service.Service(net, capacity=3) as service:
            reader, writer = await asyncio.open_connection(*service.address)
            await until(lambda: len(service.pool) == 1)
            writer.write(noise((1, 6), 0).tobytes())
            await reader.readexactly(8 + 12)
        assert await reader.read() == b""
        writer.close()
        return len(service.pool)

    assert asyncio.run(scenario()) == 0
