"""Sound as it arrives, frame by frame through a stream: speech comes out with less noise.

    python examples/live_audio.py speech.wav -o clean.wav
    arecord -t raw -f S16_LE -r 16000 -c 1 | python examples/live_audio.py - -o - | aplay -t raw -f S16_LE -r 16000

Reads 16-bit mono sound at 16 kHz from a .wav file, or from a pipe (a .wav or bare samples), 10 ms at a time. With
NSNet2 at hand (`--model DIR` with nsnet2.onnx, by default ../shared/models/nsnet2, and the package onnx to read it)
every frame is denoised and written to `-o`, 10 ms late. Without it, the network of `cgru demo` runs on the levels of
eight bands: its numbers mean nothing here, its time does. What a frame took is printed at the end.

NSNet2: S. Braun, I. Tashev, "Data augmentation and loss normalization for deep noise suppression", 2020; log-power
spectra, Dense 400, two GRUs of 400, Dense 600 twice, and a gain for each of 161 frequencies.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import sys
import time
import wave
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np

import cgru

RATE = 16_000
HOP = 160  # samples of a frame: 10 ms
WINDOW = np.sqrt(0.5 - 0.5 * np.cos(2 * np.pi * np.arange(2 * HOP) / (2 * HOP)))  # its square overlaps to one
LEAST_POWER = 1e-12
MODEL = Path(__file__).resolve().parents[2] / "shared" / "models" / "nsnet2"


def nsnet2(path: Path) -> cgru.Model:
    """The network from its ONNX file: log-power (161) at each step → a gain in [0, 1] for each frequency."""
    import onnx
    from onnx import numpy_helper

    graph = onnx.load(path).graph
    tensors = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}

    def dense(weight: str, bias: str, activation: str) -> cgru.Dense:
        return cgru.Dense(tensors[weight].T, tensors[bias], activation=activation)

    def gru(w: str, r: str, b: str) -> cgru.GRU:
        return cgru.GRU.from_arrays(
            tensors[w][0], tensors[r][0], *np.split(tensors[b][0], 2), gates="zrh", reset="after"
        )

    return cgru.Model(
        [
            dense("172", "fi", "relu"),
            gru("192", "193", "194"),
            gru("212", "213", "214"),
            dense("215", "fc_out_0_bias", "relu"),
            dense("216", "fc_out_2_bias", "relu"),
            dense("217", "fc_out_4_bias", "sigmoid"),
        ]
    )


class Denoiser:
    """Frames of sound in, frames of less noise out, one frame later: short-time spectra times the network's gains."""

    def __init__(self, net: cgru.Model) -> None:
        self.stream = net.stream()
        self.recent = np.zeros(2 * HOP)
        self.tail = np.zeros(HOP)

    def __call__(self, frame: np.ndarray) -> np.ndarray:
        """``frame`` (160,) in [−1, 1] → the frame before it (160,), denoised."""
        self.recent = np.concatenate([self.recent[HOP:], frame])
        spectrum = np.fft.rfft(self.recent * WINDOW)
        power = np.maximum(spectrum.real**2 + spectrum.imag**2, LEAST_POWER)
        gain = self.stream.step(np.log10(power).astype(np.float32))
        sound = np.fft.irfft(spectrum * gain) * WINDOW
        ready, self.tail = self.tail + sound[:HOP], sound[HOP:]
        return ready


class Levels:
    """The stand-in: levels of as many bands as the network takes inputs; the sound itself passes unchanged."""

    def __init__(self, net: cgru.Model) -> None:
        self.stream = net.stream()
        self.bands = np.linspace(0, HOP // 2, net.input_size + 1).astype(int)[:-1]

    def __call__(self, frame: np.ndarray) -> np.ndarray:
        power = np.abs(np.fft.rfft(frame)) ** 2
        levels = np.log10(np.maximum(np.add.reduceat(power, self.bands), LEAST_POWER))
        self.stream.step(levels.astype(np.float32))
        return frame


def processor(model: Path) -> tuple[Denoiser | Levels, str]:
    """What can run here, and its name."""
    path = model / "nsnet2.onnx"
    if not path.is_file():
        missing = f"{path} is not there"
    elif importlib.util.find_spec("onnx") is None:
        missing = "the package onnx, which reads NSNet2, is not installed"
    else:
        return Denoiser(nsnet2(path)), "NSNet2"
    demo = importlib.util.find_spec("cgru.demo")
    assert demo is not None
    assert demo.origin is not None
    return Levels(cgru.load(Path(demo.origin).with_name("co2_gru.pt"))), f"the demo's network ({missing})"


def frames(source: BinaryIO) -> Iterator[np.ndarray]:
    """Frames of 160 samples in [−1, 1] as they arrive; the last one filled up with silence."""
    head = source.read(4)
    if head == b"RIFF":
        with wave.open(cast(BinaryIO, Rejoined(head, source)), "rb") as sound:
            found = (sound.getframerate(), sound.getnchannels(), 8 * sound.getsampwidth())
            if found != (RATE, 1, 16):
                raise ValueError(
                    "expected 16000 Hz, 1 channel, 16 bits; found {} Hz, {} channels, {} bits".format(*found)
                )
            while data := sound.readframes(HOP):
                yield samples(data)
        return
    pipe = Rejoined(head, source)
    while data := pipe.read(2 * HOP):
        yield samples(data)


class Rejoined:
    """A pipe with the bytes put back that were read to see what it is."""

    def __init__(self, head: bytes, source: BinaryIO) -> None:
        self.head, self.source = head, source

    def read(self, size: int) -> bytes:
        """Exactly ``size`` bytes, less only at the end: a pipe gives what it has, and a frame may come in two."""
        data = self.head[:size]
        self.head = self.head[size:]
        while len(data) < size and (more := self.source.read(size - len(data))):
            data += more
        return data

    def flush(self) -> None: ...

    def close(self) -> None: ...


def samples(data: bytes) -> np.ndarray:
    whole = data[: len(data) // 2 * 2].ljust(2 * HOP, b"\0")
    return np.frombuffer(whole, "<i2") / 32768.0


def pcm(sound: np.ndarray) -> bytes:
    return np.clip(np.rint(32768.0 * sound), -32768, 32767).astype("<i2").tobytes()


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("input", help="a .wav file, or - for a pipe")
    parser.add_argument("-o", "--output", help="a .wav file, or - for a pipe (bare samples)")
    parser.add_argument("--model", type=Path, default=MODEL, help="the folder of nsnet2.onnx")
    args = parser.parse_args(argv)
    process, name = processor(args.model)
    print(f"running {name}", file=sys.stderr)
    seconds = []
    with contextlib.ExitStack() as opened:
        out = None
        if args.output and args.output != "-":
            out = opened.enter_context(wave.open(args.output, "wb"))
            out.setparams((1, 2, RATE, 0, "NONE", "not compressed"))
        try:
            source = sys.stdin.buffer if args.input == "-" else opened.enter_context(open(args.input, "rb"))
            for frame in frames(source):
                begin = time.perf_counter()
                clean = process(frame)
                seconds.append(time.perf_counter() - begin)
                if out is not None:
                    out.writeframes(pcm(clean))
                elif args.output:
                    sys.stdout.buffer.write(pcm(clean))
                    sys.stdout.buffer.flush()
        except (OSError, ValueError, EOFError, wave.Error) as error:
            if not isinstance(error, BrokenPipeError):  # which is the ordinary end of a pipe
                print(f"{args.input}: {error}", file=sys.stderr)
                return 2
        except KeyboardInterrupt:
            pass
    if seconds:
        micro = 1e6 * np.sort(seconds)
        print(
            f"{len(micro)} frames of 10 ms: median {np.median(micro):.0f} µs, 99 % within "
            f"{micro[int(0.99 * (len(micro) - 1))]:.0f} µs, longest {micro[-1]:.0f} µs",
            file=sys.stderr,
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
