"""Trains tests/fixtures/trained/spotter.pt2: a keyword spotter in PyTorch, on words that espeak-ng speaks.

    apt install espeak-ng
    python tests/make_fixtures/trained_spotter.py            # needs torch 2.13 and SciPy; four minutes on one core
    python tests/make_fixtures/trained_spotter.py --golden   # only what the network gives; ten seconds

Ten words, other words and noise alone make twelve classes. Ten voices of espeak-ng 1.51 speak at several speeds and
pitches; eight of them are for training, two for the test. Noise, white, pink or other speech, is 0 to 20 dB below the
word. Seeds are fixed. espeak-ng is under the GPL 3 or later, which does not extend to the sound that it makes.
"""

from __future__ import annotations

import io
import subprocess
import sys
import wave
from pathlib import Path

import numpy as np
import torch
from exported import save
from scipy.signal import resample_poly
from torch import Tensor, nn

FOLDER = Path(__file__).resolve().parent.parent / "fixtures" / "trained"

WORDS = ["yes", "no", "up", "down", "left", "right", "on", "off", "stop", "go"]
OTHERS = [
    "bed", "bird", "cat", "dog", "eight", "five", "four", "happy", "house", "learn", "marvin", "nine", "one", "seven",
    "six", "three", "tree", "two", "visual", "zero", "blue", "green", "window", "river", "paper", "summer", "open",
    "close", "begin", "never",
]  # fmt: skip
CLASSES = [*WORDS, "other", "noise"]
#: Accent and variant of each voice; the last two are heard in the test alone.
VOICES = [
    "en-us+m1", "en-us+f2", "en-gb+m3", "en-gb+f4", "en-gb-scotland+m5", "en-gb-x-rp+f1", "en-gb-x-gbclan+m7",
    "en-us-nyc+f3", "en-029+m2", "en-gb-x-gbcwmd+f5",
]  # fmt: skip
HELD_BACK = 2
SPEEDS, PITCHES = (130, 160, 190, 220), (35, 50, 65)

RATE = 8000
SAMPLES = RATE  # one second
WINDOW, HOP, BANDS = 256, 80, 40
BATCH, UPDATES, PEAK = 96, 1600, 4e-3


def triangles() -> np.ndarray:
    """Mel bands (BANDS, WINDOW // 2 + 1) between 60 Hz and 3.8 kHz, on the scale 2595 log₁₀(1 + f / 700)."""
    low, high = (2595 * np.log10(1 + f / 700) for f in (60.0, 3800.0))
    edges = 700 * (10 ** (np.linspace(low, high, BANDS + 2) / 2595) - 1)
    at = np.linspace(0, RATE / 2, WINDOW // 2 + 1)
    rising = (at - edges[:-2, None]) / np.diff(edges)[:-1, None]
    falling = (edges[2:, None] - at) / np.diff(edges)[1:, None]
    return np.maximum(0, np.minimum(rising, falling))


class LogMel(nn.Module):
    """Sound (B, samples, 1) → the logarithm of the power in mel bands (B, T, BANDS); nothing in it is learned."""

    def __init__(self) -> None:
        super().__init__()
        bins = WINDOW // 2 + 1
        angle = 2 * np.pi * np.outer(np.arange(bins), np.arange(WINDOW)) / WINDOW
        hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(WINDOW) / WINDOW)
        waves = np.concatenate([np.cos(angle), -np.sin(angle)]) * hann
        self.register_buffer("waves", torch.tensor(waves[:, None], dtype=torch.float32), persistent=False)
        self.register_buffer("mel", torch.tensor(triangles(), dtype=torch.float32), persistent=False)

    def forward(self, sound: Tensor) -> Tensor:
        real, imaginary = nn.functional.conv1d(sound.transpose(1, 2), self.waves, stride=HOP).chunk(2, dim=1)
        power = (real.square() + imaginary.square()).transpose(1, 2)
        return torch.log(nn.functional.linear(power, self.mel).clamp(min=1e-6))


class Spotter(nn.Module):
    """Log-mel frames (B, T, BANDS) → logits of the classes (B, 12)."""

    def __init__(self) -> None:
        super().__init__()
        self.scale, self.conv, self.norm = nn.BatchNorm1d(BANDS), nn.Conv1d(BANDS, 48, 5, stride=2), nn.BatchNorm1d(48)
        self.gru, self.score, self.head = nn.GRU(48, 48, batch_first=True), nn.Linear(48, 1), nn.Linear(48, 12)

    def forward(self, frames: Tensor) -> Tensor:
        x = self.scale(frames.transpose(1, 2))
        h, _ = self.gru(torch.relu(self.norm(self.conv(x))).transpose(1, 2))
        attention = torch.softmax(self.score(torch.tanh(h)), dim=1)
        return self.head((attention * h).sum(dim=1))


class SoundSpotter(nn.Module):
    """Sound (B, samples, 1) → logits (B, 12)."""

    def __init__(self, spotter: Spotter) -> None:
        super().__init__()
        self.frames, self.spotter = LogMel(), spotter

    def forward(self, sound: Tensor) -> Tensor:
        return self.spotter(self.frames(sound))


def speak(word: str, voice: str, speed: int, pitch: int) -> np.ndarray:
    """The word at RATE, without silence around it, at a mean square of 1."""
    command = ["espeak-ng", "-v", voice, "-s", str(speed), "-p", str(pitch), "--stdout", word]
    with wave.open(io.BytesIO(subprocess.run(command, check=True, capture_output=True).stdout)) as file:
        # A pipe's header does not know its length, so all there is is read.
        sound = np.frombuffer(file.readframes(10 * 22050), "<i2").astype(np.float64)
    sound = resample_poly(sound, 160, 441)
    loud = np.flatnonzero(np.abs(sound) > 0.02 * np.abs(sound).max())
    sound = sound[loud[0] : loud[-1] + 1][: SAMPLES - 400]
    return sound / np.sqrt(np.mean(sound**2))


def noise(kind: int, speech: list[np.ndarray], rng: np.random.Generator) -> np.ndarray:
    """One second of white noise, pink noise, or four voices at once; mean square 1."""
    made = rng.standard_normal(SAMPLES)
    if kind == 1:
        spectrum = np.fft.rfft(made)
        made = np.fft.irfft(spectrum / np.sqrt(np.maximum(np.arange(len(spectrum)), 1)), SAMPLES)
    if kind == 2:
        made = np.zeros(SAMPLES)
        for _ in range(4):
            word = speech[rng.integers(len(speech))]
            made += np.roll(np.resize(word, SAMPLES), rng.integers(SAMPLES))
    return made / np.sqrt(np.mean(made**2))


def stretched(word: np.ndarray, factor: float) -> np.ndarray:
    """Played slower or faster, which moves the formants as another throat does."""
    return np.interp(np.arange(0, len(word) - 1, factor), np.arange(len(word)), word)[: SAMPLES - 400]


def mixed(
    spoken: list[tuple[int, np.ndarray]], speech: list[np.ndarray], count: int, stretch: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """``count`` seconds of sound (count, samples, 1) and their classes: a word somewhere in it, or none, and noise."""
    sound, classes = np.empty((count, SAMPLES, 1), np.float32), rng.integers(len(CLASSES), size=count)
    by_class = [[word for label, word in spoken if label == k] for k in range(len(WORDS) + 1)]
    for row, label in enumerate(classes):
        made = noise(int(rng.integers(3)), speech, rng) * 10 ** (-rng.uniform(0, 20) / 20)
        if label < len(by_class):
            word = by_class[label][rng.integers(len(by_class[label]))]
            word = stretched(word, rng.uniform(1 - stretch, 1 + stretch)) if stretch else word
            start = rng.integers(SAMPLES - len(word))
            made[start : start + len(word)] += word
        sound[row, :, 0] = made * 10 ** rng.uniform(-2.5, -1)
    return sound, classes


def said(voices: list[str], others: list[str]) -> list[tuple[int, np.ndarray]]:
    """Every word in these voices, with its class."""
    return [
        (min(label, len(WORDS)), speak(word, voice, speed, pitch))
        for label, word in enumerate([*WORDS, *others]) for voice in voices for speed in SPEEDS for pitch in PITCHES
    ]  # fmt: skip


def train() -> None:
    torch.manual_seed(1)
    torch.set_num_threads(1)
    rng = np.random.default_rng(1)
    # The test hears words among "other" that training did not hear either.
    known, unheard = said(VOICES[:-HELD_BACK], OTHERS[:20]), said(VOICES[-HELD_BACK:], OTHERS[20:])
    net = Spotter()
    whole = SoundSpotter(net)
    optimiser = torch.optim.AdamW(net.parameters(), PEAK, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, PEAK, total_steps=UPDATES)
    for update in range(UPDATES):
        sound, classes = mixed(known, [word for _, word in known], BATCH, 0.18, rng)
        loss = nn.functional.cross_entropy(whole(torch.from_numpy(sound)), torch.from_numpy(classes))
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        if update % 100 == 0:
            print(f"{update}: {loss.item():.3f}", flush=True)
    whole.eval()
    for voices, spoken in (("two other voices", unheard), ("the voices of training", known)):
        sound, classes = mixed(spoken, [word for _, word in unheard], 1200, 0, rng)
        with torch.no_grad():
            logits = torch.cat([whole(torch.from_numpy(part)) for part in np.split(sound, 12)])
        right = logits.argmax(1).numpy() == classes
        print(f"{voices}: {100 * right.mean():.1f} % right; the ten words: {100 * right[classes < 10].mean():.1f} %")
    save(net, (LogMel()(torch.from_numpy(sound[:2, :2000])),), FOLDER / "spotter.pt2")


def golden() -> None:
    """Six words in voices of training, in noise, and what the network gives of them, in float32 and float64."""
    rng = np.random.default_rng(2)
    spoken = said(VOICES[:2], OTHERS[:2])
    sound, classes = mixed(spoken, [word for _, word in spoken], 6, 0, rng)
    heard = torch.from_numpy(np.round(sound * 32768).clip(-32768, 32767) / 32768).float()
    net = Spotter().eval()
    net.load_state_dict(torch.export.load(FOLDER / "spotter.pt2").state_dict)
    whole = SoundSpotter(net).eval()
    with torch.no_grad():
        frames = whole.frames(heard)
        logits = net(frames)
        exact = net.double()(frames.double())
        exact_from_sound = whole.double()(heard.double())
    np.savez_compressed(
        FOLDER / "spotter.npz", sound=(heard.numpy() * 32768).astype(np.int16), classes=classes, frames=frames.numpy(),
        logits=logits.numpy(), exact=exact.numpy(), exact_from_sound=exact_from_sound.numpy(),
    )  # fmt: skip


if __name__ == "__main__":
    if "--golden" not in sys.argv:
        train()
    golden()
