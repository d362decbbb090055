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


# ---- translation -------------------------------------------------------------------------------------------------

#: In the layout of the dictionary, and of our own making.
DICTIONARY = """\
# a comment :: is none
Hund {m} [zool.] | Hunde {pl} :: dog | dogs
alter Hund (ugs.); alter Köter :: old dog /OD/; old cur <old tyke>
er/sie schläft | jetzt :: the/dogs sleeps | right now; now
Der Hund schläft. | Die Hunde (alle) schlafen.; Alle Hunde schlafen. :: The dog sleeps. | All dogs sleep.; \
The dogs sleep.
Wo ist der „Hund“ jetzt? :: Where is the ‘dog’ now?
Er kam 1990. :: He came in 1990.
ein Satz :: This is one.
"""


def test_pairs_of_the_dictionary(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(EXAMPLES))
    pairs = example("sentence_pairs")
    found = pairs.read(DICTIONARY, one_in=10**9, familiar=1)
    both = ("All dogs sleep.", "The dogs sleep.")
    assert found.sentences == [
        ("Der Hund schläft.", ("The dog sleeps.",)), ("Die Hunde schlafen.", both), ("Alle Hunde schlafen.", both),
        ('Wo ist der "Hund" jetzt?', ("Where is the 'dog' now?",)),
    ]  # fmt: skip
    assert found.entries == [  # those that are said in the sentences' words: no old dog, no cur
        ("Hund", ("dog",)), ("Hunde", ("dogs",)),
        ("er schläft", ("the sleeps",)), ("sie schläft", ("dogs sleeps",)), ("jetzt", ("now",)),
    ]  # fmt: skip
    assert found.held_out == []
    assert pairs.read(DICTIONARY, one_in=10**9, familiar=2).entries == found.entries[:2]
    away = pairs.read(DICTIONARY, one_in=1, familiar=1)
    assert away.sentences == []
    assert away.entries == []
    assert away.held_out == found.sentences


def test_no_sentence_is_held_out_and_trained_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not one that is written with other capitals and signs, either, and not as a phrase."""
    monkeypatch.syspath_prepend(str(EXAMPLES))
    pairs = example("sentence_pairs")
    same = ("Der Hund schläft.", "Der Hund schläft!", "der Hund schläft", "Der Hund - schläft.")
    lines = [f"{german} ({'x' * i}) :: The dog sleeps." for german in same for i in range(8)]
    other = "Die Katze schläft. :: The dog sleeps."
    sides = [pairs.read("\n".join([line, other]), one_in=2, familiar=1) for line in lines]
    assert {len(found.held_out) for found in sides} != {0}  # some of the lines are held out, others not
    found = pairs.read("\n".join(lines), one_in=2, familiar=1)
    assert found.held_out
    assert not found.sentences
    assert not found.entries


def test_a_dictionary_that_is_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.syspath_prepend(str(EXAMPLES))
    pairs = example("sentence_pairs")
    (tmp_path / "package.deb").write_bytes(b"!<arch>\n" + b"x" * 70)
    (tmp_path / "text").write_text("nothing", "utf-8")
    for name, said in (("package.deb", "it is no package"), ("text", "found none"), ("absent", "No such file")):
        with pytest.raises(SystemExit, match=said):
            pairs.dictionary(str(tmp_path / name))


def test_pieces_of_words(monkeypatch: pytest.MonkeyPatch) -> None:
    """The most frequent pair becomes a piece first; what is taken apart comes together again, spaces and all."""
    monkeypatch.syspath_prepend(str(EXAMPLES))
    subwords = example("subwords")
    pieces = subwords.Pieces.learned(["ab ab abc, ab", "abc b."] * 20, size=16, least=1)
    assert pieces.merges[:3] == [("a", "b"), ("▁", "ab"), ("▁ab", "c")]
    for text in ("abc ab, b.", "cab abcab"):
        assert pieces.text(pieces.ids(text)) == text
        assert subwords.Pieces.load(pieces.dump()).ids(text) == pieces.ids(text)
    assert pieces.ids("ab")[-1] == subwords.STOP
    assert subwords.UNKNOWN in pieces.ids("xab")
    assert pieces.unknown("xaby") == ["x", "y"]


def test_the_translator_trains_and_searches_as_pytorch_does(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two epochs on a handful of sentences; then the graphs of examples/translate.py beside the module's own search."""
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    pytest.importorskip("sacrebleu", reason="sacrebleu is not installed")
    monkeypatch.syspath_prepend(str(EXAMPLES))
    translate, training, pairs = example("translate"), example("train_translate"), example("sentence_pairs")
    for name, size in (("GERMAN", 60), ("ENGLISH", 60), ("FEATURES", 24), ("ENCODER", 20), ("DECODER", 28)):
        monkeypatch.setattr(training, name, size)
    read = pairs.read(DICTIONARY * 20, one_in=10**9, familiar=1)
    read = read._replace(held_out=read.sentences)
    training.train(read, tmp_path, epochs=2)
    assert "held out" in capsys.readouterr().err
    texts = translate.Texts.load(tmp_path)
    state = torch.load(tmp_path / "translate.pt")
    for weight in state.values():  # as they begin all sentences would be translated alike
        weight *= 2.5
    model = training.Translator(*map(len, texts)).eval()
    model.load_state_dict(state)
    net = translate.network({name: array.numpy() for name, array in state.items()})
    sentences = ["Der Hund schläft.", "Wo ist er?", "alle Hunde schlafen, alle"]
    for sentence, tokens in zip(sentences, translate.translated(net, texts, sentences), strict=True):
        assert tokens == translate.by_torch(model, texts.ids(sentence))[0][1]
    translate.test(net, model, texts, read, 4)
    assert "0 differ" in capsys.readouterr().out


def test_capitals_of_a_translation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(EXAMPLES))
    translate, pairs, subwords = example("translate"), example("sentence_pairs"), example("subwords")
    pieces = subwords.Pieces.learned(["the dog. I sleep" * 9], size=40, least=1)
    texts = translate.Texts(pieces, pieces)
    said = pieces.ids("the dog")
    assert texts.text("Der Hund!", said) == texts.text("Der 'Hund.'", said) == "The dog"
    assert texts.text("Der Hund", said) == "the dog"
    assert [pairs.uncapitalized(text) for text in ("I sleep", "I'm", "It is", "")] == ["I sleep", "I'm", "it is", ""]


def test_the_nearest_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(EXAMPLES))
    translate, pairs = example("translate"), example("sentence_pairs")
    nearest = translate.Nearest(pairs.read(DICTIONARY, one_in=10**9).sentences)
    assert nearest.translation("Schläft der Hund?") == "The dog sleeps."
    assert nearest.translation("Wo ist er?") == "Where is the 'dog' now?"
