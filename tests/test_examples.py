"""The examples: sound through a stream in frames."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import wave
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

import cgru

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


live_audio = example("live_audio")


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


# ---- phonemes ----------------------------------------------------------------------------------------------------


def test_the_speller_decodes_as_pytorch_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """The graphs of examples/phonemes.py on the module that its training defines, with weights as they begin."""
    torch = pytest.importorskip("torch")
    monkeypatch.syspath_prepend(str(EXAMPLES))
    phonemes, training = example("phonemes"), example("train_phonemes")
    torch.manual_seed(3)
    model = training.Speller().eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():  # as they begin all words would be said alike
            weight *= 6 if name == "out.weight" else 2.5
    net = phonemes.network({name: array.numpy() for name, array in model.state_dict().items()})
    words = ["abandon", "it's", "spectrogram", "a"]
    ids, lengths = phonemes.spelled(words)
    for width in (1, 5):
        found = cgru.beam(net, ids, lengths=lengths, start=0, stop=1, max_steps=phonemes.MOST, width=width)
        for word, tokens, score in zip(words, *found, strict=True):
            (wanted, path), *_ = phonemes.by_torch(model, word, width)
            assert tokens.tolist() == path
            assert score == pytest.approx(wanted, abs=1e-3)
    assert phonemes.distance([1, 2, 3, 4], [1, 3, 4, 5]) == 2


#: Words of the test part, and what the dictionary says of them.
SPELLED = {
    "honeymooner": "HH AH N IY M UW N ER",
    "exchangeable": "IH K S CH EY N JH AH B AH L",
    "puppetry": "P AH P AH T R IY",
    "clayton's": "K L EY T AH N Z",
}


def test_the_trained_speller_says_words_it_never_saw() -> None:
    """The committed weights; the dictionary's own phonemes of two words of its test part."""
    command = [sys.executable, str(EXAMPLES / "phonemes.py"), *SPELLED]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [f"{word} {said}" for word, said in SPELLED.items()]


#: What the committed Keras model says of them, with a beam of 5: of two, what the dictionary says.
SPELLED_BY_KERAS = {
    "honeymooner": "HH AA N IY M UW N ER",
    "puppetry": "P AH P AH T R IY",
    "exchangeable": "EH K S K EY N JH IY B AH L",
    "clayton's": "K L EY T AH N Z",
}


def test_the_keras_pair_says_words_it_never_saw(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(str(EXAMPLES))
    monkeypatch.setattr(sys, "argv", ["phonemes_keras.py", *SPELLED_BY_KERAS])
    example("phonemes_keras").main()
    assert capsys.readouterr().out.splitlines() == [f"{word} {said}" for word, said in SPELLED_BY_KERAS.items()]


@pytest.mark.filterwarnings("ignore")
def test_the_keras_pair_decodes_as_keras_does(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The committed file, by the layers of the model that Keras makes of it: words of several lengths in one batch."""
    monkeypatch.setenv("KERAS_BACKEND", os.environ.get("KERAS_BACKEND", "torch"))
    keras = pytest.importorskip("keras", reason="Keras is not installed")
    monkeypatch.syspath_prepend(str(EXAMPLES))
    pair, phonemes = example("phonemes_keras"), example("phonemes")
    known = {word: [phonemes.PHONEMES.index(p) + 2 for p in said.split()] for word, said in SPELLED.items()}
    net = pair.network()
    pair.compare(net, keras.saving.load_model(pair.WEIGHTS), known)
    assert capsys.readouterr().out.splitlines()[-1].startswith("0 of 4 words differ")


# ---- CO₂ in paths ------------------------------------------------------------------------------------------------


def test_intervals_of_the_paths_hold_about_as_often_as_they_say(monkeypatch: pytest.MonkeyPatch) -> None:
    """On the part of the record that training never saw: of 25 years that overlap, 80 % and 95 % give or take 8."""
    monkeypatch.syspath_prepend(str(EXAMPLES))
    co2_paths = example("co2_paths")
    tensors = cgru.read(co2_paths.WEIGHTS)
    series, known = co2_paths.co2.read(co2_paths.DATA), co2_paths.constants(tensors)
    origins = np.arange(co2_paths.co2.split(len(series.ppm)) - 1, len(series.ppm) - co2_paths.AHEAD, 16)
    drawn = co2_paths.paths(co2_paths.network(tensors), series, origins, known, 100)
    assert drawn.shape == (len(origins), 100, 52)
    truth = co2_paths.measured(series, origins)
    seen = ~np.isnan(truth)
    low, less, middle, more, high = np.quantile(drawn, co2_paths.LEVELS, axis=1)
    assert 0.72 < ((less <= truth) & (truth <= more))[seen].mean() < 0.88
    assert 0.87 < ((low <= truth) & (truth <= high))[seen].mean() < 0.99
    assert co2_paths.co2.rmse(middle, truth) < 0.8


def test_the_paths_begin_as_pytorch_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """Location, scale and freedom of the next rise by the module that was trained, and the path of locations."""
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    monkeypatch.syspath_prepend(str(EXAMPLES))
    co2_paths, training = example("co2_paths"), example("train_co2_paths")
    tensors = cgru.read(co2_paths.WEIGHTS)
    model = training.Rises().eval()
    model.load_state_dict({n: torch.tensor(np.asarray(tensors[n])) for n in model.state_dict()})
    series = co2_paths.co2.read(co2_paths.DATA)
    x = co2_paths.frames(series, co2_paths.constants(tensors))
    net = co2_paths.network(tensors)
    with torch.no_grad():
        np.testing.assert_allclose(net(x[:300]), model(torch.tensor(x[:300])).numpy(), rtol=1e-5, atol=2e-5)
        history = x[:300].copy()
        for week in range(300, 310):
            location = float(model(torch.tensor(history))[-1, 0])
            history = np.concatenate([history, [[location, *x[week, 1:]]]]).astype(np.float32)
    found = cgru.forecast(net, x[:300], steps=10, head="student", scale="softplus", known=x[300:310, 1:])
    np.testing.assert_allclose(found[:, 0], history[300:, 0], rtol=1e-4, atol=1e-5)


def test_a_picture_of_the_paths(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    monkeypatch.syspath_prepend(str(EXAMPLES))
    co2_paths = example("co2_paths")
    series = co2_paths.co2.read(co2_paths.DATA)
    origin = len(series.ppm) - 60
    middle = np.full((20, 52), 370.0) + np.linspace(-2, 2, 20)[:, None]
    quantiles = np.quantile(middle, co2_paths.LEVELS, axis=0)
    co2_paths.draw(str(tmp_path / "year.png"), series, origin, middle, quantiles)
    assert (tmp_path / "year.png").read_bytes().startswith(b"\x89PNG")
