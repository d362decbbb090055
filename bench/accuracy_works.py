"""The networks whose reduced precision is measured: random GRUs, and the layers and chains of trained networks."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from cells import Cell, make_tensors

import cgru

ROOT = Path(__file__).resolve().parents[1]

Tensors = dict[str, np.ndarray]


@dataclass(frozen=True)
class Work:
    """Layers in a chain and the inputs they were made for: arrays (B, T, I), each by itself."""

    name: str
    layers: list[Any]
    inputs: list[np.ndarray] = field(repr=False)


def random_work() -> Iterator[Work]:
    for scale in (1.0, 2.5):
        cell = Cell(4, 120, 192, 192)
        tensors = {key: np.float32(scale) * array for key, array in make_tensors(cell).items()}
        x = np.random.default_rng(1).standard_normal((cell.B, cell.T, cell.I), dtype=np.float32)
        yield Work(f"random H=192, weights × {scale:g}", [cgru.GRU(tensors)], [x])


def trained_work(models: Path) -> Iterator[Work]:
    yield from _nsnet2(models / "nsnet2")
    yield from _g2p(models / "g2p_en")
    yield from _rnnoise(models / "rnnoise17")
    yield from _silero(models / "silero")
    yield from _rtneural(models / "rtneural")
    yield from _gtcrn(models / "gtcrn" / "gtcrn_simple.onnx", models / "gtcrn" / "gtcrn_ref.npz")


def _initializers(path: Path) -> Tensors:
    sys.path.insert(0, str(ROOT / "tests"))
    try:
        from onnx_wire import initializers
    finally:
        del sys.path[0]
    return initializers(path)


def _onnx_gru(w: np.ndarray, r: np.ndarray, b: np.ndarray) -> cgru.GRU:
    """ONNX stacks z, r, h, has directions first, and both biases of one in a row."""
    biases = [[np.split(row, 2)[k] for row in b] for k in range(2)]
    both = len(w) == 2
    return cgru.GRU.from_arrays(list(w), list(r), *biases, gates="zrh", bidirectional=both)


def _nsnet2(folder: Path) -> Iterator[Work]:
    held = _initializers(folder / "nsnet2.onnx")
    first, second = (_onnx_gru(*(held[key] for key in keys)) for keys in (("192", "193", "194"), ("212", "213", "214")))
    with np.load(folder / "nsnet2_ref.npz") as ref:
        x1, x2, feat = ref["gru1_x"][None, :, 0], ref["gru1_y"][None, :, 0, 0], ref["feat"]
    dense = [
        cgru.Dense(held[matrix].T, held[bias], activation=activation)
        for matrix, bias, activation in (
            ("172", "fi", "relu"), ("215", "fc_out_0_bias", "relu"), ("216", "fc_out_2_bias", "relu"),
            ("217", "fc_out_4_bias", "sigmoid"),
        )
    ]  # fmt: skip
    yield Work("nsnet2, first GRU", [first], [x1])
    yield Work("nsnet2, second GRU", [second], [x2])
    yield Work("nsnet2, whole", [dense[0], first, second, *dense[1:]], [feat])


def _g2p(folder: Path) -> Iterator[Work]:
    with np.load(folder / "checkpoint20.npz") as held, np.load(folder / "g2p_ref.npz") as ref:
        arrays, words = dict(held), ref["words"].tolist()
    encoder, decoder = (
        cgru.GRU.from_arrays(*(arrays[f"{side}_{key}"] for key in ("w_ih", "w_hh", "b_ih", "b_hh")))
        for side in ("enc", "dec")
    )
    letters = ["<pad>", "<unk>", "</s>", *"abcdefghijklmnopqrstuvwxyz"]
    spelled = [[letters.index(letter) for letter in word] + [letters.index("</s>")] for word in words]
    yield Work("g2p_en, encoder", [encoder], [arrays["enc_emb"][None, ids] for ids in spelled])
    inputs = [_greedy(encoder, decoder, arrays, ids) for ids in spelled]
    yield Work("g2p_en, decoder from zero", [decoder], inputs)


def _greedy(encoder: cgru.GRU, decoder: cgru.GRU, arrays: Tensors, ids: list[int]) -> np.ndarray:
    """What enters the decoder for one word: vectors of <s> and of the phonemes it gives, up to </s>."""
    _, h = encoder(arrays["enc_emb"][None, ids])
    entered: list[np.ndarray] = []
    phoneme = 2
    while phoneme != 3 and len(entered) < 20:
        entered.append(arrays["dec_emb"][phoneme])
        y, h = decoder(entered[-1][None, None], h)
        phoneme = int(np.argmax(arrays["fc_w"] @ y[0, 0] + arrays["fc_b"]))
    return np.stack(entered)[None]


def _rnnoise(folder: Path) -> Iterator[Work]:
    with np.load(folder / "rnnoise17_ref.npz") as ref:
        held = dict(ref)
    x, v, n = held["real_features"], held["real_vad_gru"], held["real_noise_gru"]
    d = np.tanh(x @ held["input_dense/W"] + held["input_dense/b"])
    inputs = {"vad": d, "noise": np.hstack([d, v, x]), "denoise": np.hstack([v, n, x])}
    for name, entering in inputs.items():
        arrays = [held[f"{name}_gru/{key}"] for key in "WUb"]
        activation = "relu" if name == "noise" else "tanh"
        layer = cgru.GRU.from_keras(arrays, reset_after=False, activation=activation)
        yield Work(f"rnnoise17, {name} GRU", [layer], [entering[None].astype(np.float32)])


def _silero(folder: Path) -> Iterator[Work]:
    with np.load(folder / "silero_ref.npz") as ref:
        layer = cgru.LSTM.from_arrays(*(ref[key] for key in ("W_ih", "W_hh", "b_ih", "b_hh")))
        yield Work("silero, LSTM", [layer], [ref["lstm_x"][None]])


def _rtneural(folder: Path) -> Iterator[Work]:
    for name in ("gru", "gru_1d", "lstm", "lstm_1d"):
        layers = [_rtneural_layer(entry) for entry in json.loads((folder / f"{name}.json").read_text())["layers"]]
        x = np.loadtxt(folder / f"{name}_x_python.csv", ndmin=2, dtype=np.float32)
        yield Work(f"rtneural, {name}", layers, [x[None]])
    kinds: dict[str, Any] = {"gru": cgru.GRU, "lstm": cgru.LSTM}
    for name, kind in kinds.items():
        held = {key: np.array(value) for key, value in json.loads((folder / f"{name}_torch.json").read_text()).items()}
        stems = (f"{name}.", f"{name}2.")
        recurrent = [kind.from_torch({k: a for k, a in held.items() if k.startswith(s)}, prefix=s) for s in stems]
        x = np.loadtxt(folder / f"{name}_torch_x_python.csv", ndmin=2, dtype=np.float32)
        head = cgru.Dense(held["dense.weight"], held["dense.bias"])
        yield Work(f"rtneural, {name}_torch", [*recurrent, head], [x[None]])


def _rtneural_layer(entry: dict[str, Any]) -> Any:
    """RTNeural's JSON has Keras' arrays and order of the gates."""
    arrays = [np.array(weight) for weight in entry["weights"]]
    if entry["type"] in ("gru", "lstm"):
        return (cgru.GRU if entry["type"] == "gru" else cgru.LSTM).from_keras(arrays)
    return cgru.Dense(arrays[0].T, arrays[1], activation=entry["activation"] or "linear")


def _gtcrn(path: Path, reference: Path) -> Iterator[Work]:
    """Every GRU on what enters it over 200 frames: those along time carry their state, those along bands do not."""
    try:
        import onnx
        import onnxruntime
    except ImportError as error:
        print(f"GTCRN is left out: {error}", file=sys.stderr)
        return
    model = onnx.load(str(path))
    held = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    nodes = [node for node in model.graph.node if node.op_type == "GRU"]
    for name in dict.fromkeys(node.input[0] for node in nodes):
        model.graph.output.append(onnx.ValueInfoProto(name=name))
    session = onnxruntime.InferenceSession(model.SerializeToString())
    feeds = {i.name: np.zeros(i.shape, np.float32) for i in session.get_inputs()}
    names = [output.name for output in session.get_outputs()]
    entered: dict[str, list[np.ndarray]] = {node.input[0]: [] for node in nodes}
    with np.load(reference) as ref:
        frames = ref["mix_stft"]
    for frame in frames:
        found = dict(zip(names, session.run(None, feeds | {"mix": frame[None, :, None]}), strict=True))
        feeds = {key: found.get(f"{key}_out", value) for key, value in feeds.items()}
        for name, kept in entered.items():
            kept.append(found[name].swapaxes(0, 1))
    for node in nodes:
        layer = _onnx_gru(*(held[name] for name in node.input[1:4]))
        x = np.concatenate(entered[node.input[0]], axis=0 if layer.bidirectional else 1)
        yield Work(f"gtcrn, {node.name}", [layer], [x])
