"""Are whole networks faster than in the libraries that run the same file? `python bench/whole_networks.py [NAME …]`

Published networks (RNNoise of 2017, Silero VAD, NSNet2, GTCRN from ``../shared/models`` and PyPI's silero-vad), the
keyword spotter of tests/fixtures/trained, and Conv1d + relu + GRU 128 + Dense 10 over 100 steps. One process, one core,
the libraries taking turns on the same ONNX file; every answer is compared with cgru's before anything is timed. A frame
is one call with the states carried along, or begun anew where the file has none to carry. Medians of rounds; the ratio
is the fastest other's median over cgru's. A library whose answer is another is not timed. With --ceiling, of networks
whose multiplications are counted, the last column says how much of the time the core would need for them at its peak.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
from ceiling import float32_peak

import cgru

ROOT = Path(__file__).resolve().parents[1]
TESTS, MODELS = ROOT / "tests", ROOT.parent / "shared" / "models"
BLOCK_S = 0.05
#: Above this difference, as a share of the largest value, somebody computes something else.
AGREED = 1e-3
#: The same where cgru has its weights in int8 and the others have not.
INT8_AGREED = 0.1

Call = Callable[[], Any]


class Work(NamedTuple):
    """A network to run: cgru's call, the file, what the others feed it, and which of their outputs is compared."""

    title: str
    ours: Call
    file: str | bytes
    feeds: dict[str, np.ndarray]
    output: str | None = None
    torch: Call | None = None
    agreed: float = AGREED
    multiply_adds: int | None = None


# ---- the others ------------------------------------------------------------------------------------------------------


def onnxruntime(work: Work) -> Call:
    """A session with its inputs and outputs bound beforehand."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    session = ort.InferenceSession(work.file, options, providers=["CPUExecutionProvider"])
    binding = session.io_binding()
    for name, array in work.feeds.items():
        binding.bind_cpu_input(name, array)
    names = [item.name for item in session.get_outputs()]
    for name in names:
        binding.bind_output(name)
    wanted = names.index(work.output) if work.output else 0

    def call() -> np.ndarray:
        session.run_with_iobinding(binding)
        return binding.get_outputs()[wanted].numpy()

    return call


def openvino(work: Work) -> Call:
    """A request whose tensors are set beforehand, held to float32 and one thread."""
    import openvino as ov

    core = ov.Core()
    model = core.read_model(work.file)
    model.reshape({name: array.shape for name, array in work.feeds.items()})
    hints = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1, "NUM_STREAMS": 1}
    request = core.compile_model(model, "CPU", hints).create_infer_request()
    for name, array in work.feeds.items():
        request.set_tensor(name, ov.Tensor(array, shared_memory=True))

    def call() -> np.ndarray:
        request.infer()
        output = request.get_tensor(work.output) if work.output else request.get_output_tensor(0)
        return np.array(output.data)

    return call


def pytorch(work: Work) -> Call:
    if work.torch is None:
        raise LookupError("no module of it")
    import torch

    torch.set_num_threads(1)
    return work.torch


def tract(work: Work) -> Call:
    """A runnable with the inputs' shapes fixed, its inputs as its own tensors."""
    import tract as library

    with tempfile.TemporaryDirectory() as folder:
        path = Path(work.file) if isinstance(work.file, str) else Path(folder, "net.onnx")
        if isinstance(work.file, bytes):
            path.write_bytes(work.file)
        model = library.onnx().load(path)
        names = [model.input_name(i) for i in range(model.input_count())]
        for i, name in enumerate(names):
            array = work.feeds[name]
            kind = "f32" if array.dtype == np.float32 else "i64"
            model.set_input_fact(i, ",".join([*map(str, array.shape), kind]))
        wanted = [model.output_name(i) for i in range(model.output_count())].index(work.output) if work.output else 0
        try:
            runnable = model.into_model().into_runnable()
        except library.TractError as reason:
            raise RuntimeError(str(reason)) from reason
    tensors = [library.Tensor.from_numpy(np.ascontiguousarray(work.feeds[name])) for name in names]

    def call() -> Any:
        return runnable.run(tensors)[wanted].to_numpy()

    return call


OTHERS: dict[str, Callable[[Work], Call]] = {
    "ONNX Runtime": onnxruntime, "OpenVINO": openvino, "tract": tract, "PyTorch": pytorch,
}  # fmt: skip

# ---- the networks ----------------------------------------------------------------------------------------------------


def gtcrn() -> Iterator[Work]:
    path = MODELS / "gtcrn" / "gtcrn_simple.onnx"
    frame = np.load(MODELS / "gtcrn" / "gtcrn_ref.npz")["mix_stft"][0]
    stream = cgru.load(path).stream()
    begun = stream.dump()
    first = stream.step(frame)
    stream.restore(begun)
    yield Work("GTCRN, a frame", _first(first, lambda: stream.step(frame)), str(path), _zeros(path, mix=frame))


def nsnet2() -> Iterator[Work]:
    path = MODELS / "nsnet2" / "nsnet2.onnx"
    x = np.ascontiguousarray(np.load(MODELS / "nsnet2" / "nsnet2_ref.npz")["feat"])
    net = cgru.load(path)
    name = next(iter(_inputs(path)))
    products = 161 * 400 + 2 * 2 * 3 * 400 * 400 + 400 * 600 + 600 * 600 + 600 * 161
    yield Work("NSNet2, 500 frames", lambda: net(x), str(path), {name: x}, multiply_adds=products * x.shape[1])
    small = net.quantize("int8")
    yield Work("… cgru in int8", lambda: small(x), str(path), {name: x}, agreed=INT8_AGREED)
    stream, frame = net.stream(), np.ascontiguousarray(x[0, 0])
    first = net(x[:, :1])
    yield Work("NSNet2, a frame", _first(first, lambda: stream.step(frame)), str(path), {name: x[:, :1].copy()})


def silero() -> Iterator[Work]:
    found = importlib.util.find_spec("silero_vad")
    if found is None or found.origin is None:
        raise LookupError("silero-vad is not installed")
    path = Path(found.origin).parent / "data" / "silero_vad_16k_op15.onnx"
    window = np.random.default_rng(0).standard_normal(576).astype(np.float32) * 0.1
    stream = cgru.load(path, inputs={"input": (None, 576), "sr": 16000}).stream()
    begun = stream.dump()
    first = stream.step(window)
    stream.restore(begun)
    feeds = _zeros(path, input=window)
    yield Work("Silero VAD, a window", _first(first, lambda: stream.step(window)), str(path), feeds)


def rnnoise() -> Iterator[Work]:
    sys.path.insert(0, str(TESTS))
    import shared_networks

    net, x, _ = shared_networks.rnnoise()
    frame = np.ascontiguousarray(x[0], np.float32)
    stream, first = net.stream(), net(frame[None])["denoise_output"]
    file = _written(net)
    yield Work(
        "RNNoise of 2017, a frame", _first(first, lambda: stream.step(frame)), file,
        {next(iter(_inputs(file))): frame[None, None]}, "denoise_output",
    )  # fmt: skip


def spotter() -> Iterator[Work]:
    """The keyword spotter that tests/make_fixtures/trained_spotter.py trained: 97 log-mel frames → logits."""
    net = cgru.load(TESTS / "fixtures" / "trained" / "spotter.pt2")
    with np.load(TESTS / "fixtures" / "trained" / "spotter.npz") as heard:
        frames = np.ascontiguousarray(heard["frames"], np.float32)
    file = _written(net)
    name = next(iter(_inputs(file)))
    for batch in (1, 64):
        x = np.resize(frames, (batch, *frames.shape[1:]))
        yield Work(f"Keyword spotter, B={batch}", _bound(net, x), file, {name: x}, torch=_spotter_module(x))


def _spotter_module(frames: np.ndarray) -> Call | None:
    if importlib.util.find_spec("torch") is None:
        return None
    import torch

    sys.path.insert(0, str(TESTS / "make_fixtures"))
    import trained_spotter

    net = trained_spotter.Spotter().eval()
    net.load_state_dict(torch.export.load(TESTS / "fixtures" / "trained" / "spotter.pt2").state_dict)
    x = torch.tensor(frames)

    def call() -> Any:
        with torch.inference_mode():
            return net(x)

    return call


#: Channels, width, groups of the convolutions before the GRU.
CONVOLUTIONS = {
    "C=40 w3": (40, 3, 1), "C=64 w5": (64, 5, 1), "C=128 w33": (128, 33, 1), "C=64 w5, depthwise": (64, 5, 64),
}  # fmt: skip


def conv1d() -> Iterator[Work]:
    rng, steps, hidden = np.random.default_rng(1), 100, 128

    def arr(*shape: int) -> np.ndarray:
        return (rng.uniform(-1, 1, shape) / np.sqrt(shape[-1])).astype(np.float32)

    for title, (channels, width, groups) in CONVOLUTIONS.items():
        kernel, bias = arr(channels, channels // groups, width), arr(channels)
        weights = {"weight_ih_l0": arr(3 * hidden, channels), "weight_hh_l0": arr(3 * hidden, hidden)}
        weights |= {"bias_ih_l0": arr(3 * hidden), "bias_hh_l0": arr(3 * hidden)}
        head = {"weight": arr(10, hidden), "bias": arr(10)}
        g = cgru.Graph()
        x = g.input(channels, name="x")
        c = g.conv1d(
            x, units=channels, width=width, groups=groups, left=width // 2, right=width // 2, activation="relu",
            weights={"weight": kernel, "bias": bias},
        )  # fmt: skip
        h = g.layer(cgru.GRU(weights), c)
        g.output(g.layer(cgru.Dense(head["weight"], head["bias"]), h))
        net = cgru.Model(g)
        file = _written(net)
        name = next(iter(_inputs(file)))
        for batch in (1, 8, 64):
            data = rng.standard_normal((batch, steps, channels)).astype(np.float32)
            module = _module(kernel, bias, groups, weights, head, data)
            products = batch * steps * (kernel.size + 3 * hidden * (channels + hidden) + 10 * hidden)
            yield Work(
                f"Conv1d {title}, B={batch}", _bound(net, data), file, {name: data}, torch=module,
                multiply_adds=products,
            )  # fmt: skip


def _bound(net: cgru.Model, data: np.ndarray) -> Call:
    return lambda: net(data)


def _module(
    kernel: np.ndarray, bias: np.ndarray, groups: int, weights: dict[str, np.ndarray], head: dict[str, np.ndarray],
    data: np.ndarray,
) -> Call | None:  # fmt: skip
    if importlib.util.find_spec("torch") is None:
        return None
    import torch

    channels, _, width = kernel.shape
    conv = torch.nn.Conv1d(channels, channels, width, groups=groups, padding=width // 2)
    gru, dense = torch.nn.GRU(channels, len(weights["bias_hh_l0"]) // 3, batch_first=True), torch.nn.Linear(128, 10)
    conv.load_state_dict({"weight": torch.tensor(kernel), "bias": torch.tensor(bias)})
    gru.load_state_dict({name: torch.tensor(array) for name, array in weights.items()})
    dense.load_state_dict({name: torch.tensor(array) for name, array in head.items()})
    x = torch.tensor(data)

    def call() -> Any:
        with torch.inference_mode():
            return dense(gru(torch.relu(conv(x.transpose(1, 2))).transpose(1, 2))[0])

    return call


NETWORKS = {
    "rnnoise": rnnoise, "silero": silero, "nsnet2": nsnet2, "gtcrn": gtcrn, "spotter": spotter, "conv1d": conv1d,
}  # fmt: skip

# ---- files -----------------------------------------------------------------------------------------------------------


def _inputs(file: Any) -> dict[str, list[Any]]:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 4
    source = str(file) if isinstance(file, Path) else file
    session = ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    return {item.name: item.shape for item in session.get_inputs()}


def _zeros(path: Path, **given: np.ndarray) -> dict[str, np.ndarray]:
    """Every input of the file: those given, in its shape, 16 kHz for a rate, zeros for states."""
    feeds: dict[str, np.ndarray] = {}
    for name, shape in _inputs(path).items():
        sizes = [size if isinstance(size, int) else 1 for size in shape]
        if name in given:
            feeds[name] = given[name].reshape(sizes if np.prod(sizes) == given[name].size else (1, -1))
        elif name == "sr":
            feeds[name] = np.array(16000, np.int64)
        else:
            feeds[name] = np.zeros(sizes, np.float32)
    return feeds


def _written(net: cgru.Model) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "net.onnx")
        net.save(path)
        return path.read_bytes()


def _first(answer: Any, call: Call) -> Call:
    """A call whose first answer is one from a state of zeros, as the others give it."""
    waiting = [answer]
    return lambda: waiting.pop() if waiting else call()


# ---- measuring -------------------------------------------------------------------------------------------------------


def measure(work: Work, rounds: int, clock: Callable[[], float]) -> tuple[dict[str, float], dict[str, str]]:
    """Median seconds by library, and why others are left out."""
    calls: dict[str, Call] = {"cgru": work.ours}
    missing: dict[str, str] = {}
    ours = work.ours()
    wanted = np.asarray(ours[work.output] if isinstance(ours, dict) else ours)
    for name, prepare in OTHERS.items():
        try:
            call = prepare(work)
            found = np.asarray(call())
        except (ImportError, LookupError, RuntimeError, ValueError) as reason:
            missing[name] = " ".join(str(reason).split())[-160:]
            continue
        error = float(np.abs(found.reshape(wanted.shape) - wanted).max() / max(np.abs(wanted).max(), 1e-30))
        if error <= work.agreed:
            calls[name] = call
            continue
        missing[name] = f"differs from cgru by {error:.1e} of the largest value"
        if name == next(iter(OTHERS)):
            raise SystemExit(f"{work.title}: {name} {missing[name]}")
    counts: dict[str, int] = {}
    for name, call in calls.items():
        start = clock()
        call()
        counts[name] = max(1, int(BLOCK_S / max(clock() - start, 1e-7)))
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            start = clock()
            for _ in range(counts[name]):
                call()
            seconds[name].append((clock() - start) / counts[name])
    return {name: statistics.median(times) for name, times in seconds.items()}, missing


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(NETWORKS))
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--cpu", action="store_true", help="processor time, for a machine that is not quiet")
    parser.add_argument("--json", type=Path, help="write the seconds here as well")
    parser.add_argument("--ceiling", type=Path, help="what ceiling.py --json wrote: shows cgru's share of it")
    options = parser.parse_args(argv)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    if unknown := set(options.names) - set(NETWORKS):
        raise SystemExit(f"no network named {', '.join(sorted(unknown))}; there are {', '.join(NETWORKS)}")
    clock = time.process_time if options.cpu else time.perf_counter
    columns = ["cgru", *OTHERS]
    peak = float32_peak(json.loads(options.ceiling.read_text(encoding="utf-8"))) if options.ceiling else None
    print(f"{'µs':32}" + "".join(f"{name:>14}" for name in columns) + f"{'ratio':>8}" + f"{'of peak':>9}" * bool(peak))
    found: dict[str, dict[str, float]] = {}
    for name in options.names or NETWORKS:
        try:
            for work in NETWORKS[name]():
                found[work.title], missing = measure(work, options.rounds, clock)
                times = found[work.title]
                others = [seconds for key, seconds in times.items() if key != "cgru"]
                row = "".join(f"{1e6 * times[key]:14.1f}" if key in times else f"{'–':>14}" for key in columns)
                row += f"{min(others) / times['cgru']:8.2f}" if others else f"{'–':>8}"
                if peak and work.multiply_adds:
                    row += f"{2e-9 * work.multiply_adds / times['cgru'] / peak:9.0%}"
                print(f"{work.title:32}{row}", flush=True)
                for key, reason in missing.items():
                    print(f"  {key}: {reason}")
        except (FileNotFoundError, LookupError, cgru.UnsupportedError) as reason:
            print(f"{name}: {str(reason)[:150]}")
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
