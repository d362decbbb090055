"""Makes tests/fixtures/onnx: ordinary PyTorch modules as both of torch's exporters write them, and what they give.

    python tests/make_fixtures/onnx_exports.py          # needs torch 2.13, onnx and onnxscript

The networks are random and of this script, so the fixtures are under cgru's own licence.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import torch
from torch import Tensor, nn

FOLDER = Path(__file__).resolve().parent.parent / "fixtures" / "onnx"


class Normed(nn.Module):
    """Two GRUs, layer normalisation between them, batch normalisation behind."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.GRU(5, 6, batch_first=True), nn.GRU(6, 6, 2, batch_first=True, bidirectional=True)
        self.layer, self.batch, self.last = nn.LayerNorm(6), nn.BatchNorm1d(12), nn.Linear(12, 3)
        for running in (self.batch.running_mean, self.batch.running_var):
            assert running is not None
            running.uniform_(0.5, 1.5)

    def forward(self, x: Tensor) -> Tensor:
        y = self.second(self.layer(self.first(x)[0]))[0]
        return self.last(self.batch(y.transpose(1, 2)).transpose(1, 2))


class Spotter(nn.Module):
    """A strided convolution, an LSTM of two layers, the last step."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv1d(5, 8, 5, stride=2), nn.BatchNorm1d(8)
        self.lstm, self.last = nn.LSTM(8, 6, 2, batch_first=True), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.norm(self.conv(x.transpose(1, 2)))).transpose(1, 2)
        return self.last(self.lstm(y)[0][:, -1])


class Residual(nn.Module):
    """A skip around a GRU, GELU, a gate of two halves, log-softmax."""

    def __init__(self) -> None:
        super().__init__()
        self.before, self.gru, self.last = nn.Linear(5, 8), nn.GRU(8, 8, batch_first=True), nn.Linear(8, 6)

    def forward(self, x: Tensor) -> Tensor:
        h = nn.functional.gelu(self.before(x))
        a, b = self.last(h + self.gru(h)[0]).chunk(2, dim=-1)
        return torch.log_softmax(a * torch.sigmoid(b), dim=-1)


class Causal(nn.Module):
    """Depthwise and dilated convolutions that see the past alone, PReLU, an RNN."""

    def __init__(self) -> None:
        super().__init__()
        self.deep, self.wide = nn.Conv1d(5, 5, 3, groups=5), nn.Conv1d(5, 6, 3, dilation=2)
        self.act, self.rnn = nn.PReLU(6), nn.LSTM(6, 4, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        y = self.deep(nn.functional.pad(x.transpose(1, 2), (2, 0)))
        y = self.act(self.wide(nn.functional.pad(y, (4, 0))))
        return self.rnn(y.transpose(1, 2))[0]


class Spectral(nn.Module):
    """Frames of a spectrum: convolutions over time and frequency, a GRU over the frequencies of each frame."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 3, (3, 3), stride=(1, 2), padding=(0, 1))
        self.over, self.last = nn.GRU(3, 4, batch_first=True, bidirectional=True), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.conv(nn.functional.pad(x[:, None], (0, 0, 2, 0)))).permute(0, 2, 3, 1)
        rows = y.reshape(-1, y.shape[2], y.shape[3])
        return self.last(self.over(rows)[0]).reshape(y.shape[0], y.shape[1], -1)


class Translator(nn.Module):
    """An encoder's last state begins a decoder over another sequence."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = nn.GRU(5, 6, batch_first=True), nn.GRU(3, 6, batch_first=True)

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        return self.decoder(z, self.encoder(x)[1])[0]


class Stepped(nn.Module):
    """One step of an LSTM whose state the caller holds."""

    def __init__(self) -> None:
        super().__init__()
        self.cell, self.last = nn.LSTM(5, 6, 2), nn.Linear(6, 2)

    def forward(self, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        y, (h, c) = self.cell(x[None], (h, c))
        return self.last(y[0]), h, c


MODULES: dict[str, tuple[type[nn.Module], list[tuple[str, Sequence[int], dict[int, str]]], list[str]]] = {
    "normed": (Normed, [("x", (2, 9, 5), {0: "batch", 1: "time"})], ["y"]),
    "spotter": (Spotter, [("x", (2, 13, 5), {0: "batch", 1: "time"})], ["y"]),
    "residual": (Residual, [("x", (2, 9, 5), {0: "batch", 1: "time"})], ["y"]),
    "causal": (Causal, [("x", (2, 9, 5), {0: "batch", 1: "time"})], ["y"]),
    "spectral": (Spectral, [("x", (2, 9, 7), {0: "batch", 1: "time"})], ["y"]),
    "translator": (
        Translator, [("x", (2, 9, 5), {0: "batch", 1: "source"}), ("z", (2, 7, 3), {0: "batch", 1: "time"})], ["y"],
    ),
    "stepped": (Stepped, [("x", (3, 5), {0: "batch"}), ("h", (2, 3, 6), {1: "batch"}), ("c", (2, 3, 6), {1: "batch"})],
                ["y", "hn", "cn"]),
}  # fmt: skip


def main() -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    golden: dict[str, np.ndarray] = {}
    warnings.simplefilter("ignore")
    for name, (kind, inputs, outputs) in MODULES.items():
        torch.manual_seed(sum(name.encode()))
        module = kind().eval()
        arrays = [torch.randn(*shape) for _, shape, _ in inputs]
        names = [label for label, _, _ in inputs]
        with torch.no_grad():
            made = module(*arrays)
        made = made if isinstance(made, tuple) else (made,)
        golden |= {f"{name}|{label}": array.numpy() for label, array in zip(names, arrays, strict=True)}
        golden |= {f"{name}|{label}": array.numpy() for label, array in zip(outputs, made, strict=True)}
        axes = {label: axes for label, _, axes in inputs}
        torch.onnx.export(
            module, tuple(arrays), str(FOLDER / f"{name}.torchscript.onnx"), input_names=names, output_names=outputs,
            dynamic_axes=axes, dynamo=False,
        )  # fmt: skip
        for what, shapes in (("fixed", None), ("dynamo", tuple(_dims(axes[label]) for label in names))):
            try:
                torch.onnx.export(
                    module, tuple(arrays), str(FOLDER / f"{name}.{what}.onnx"), input_names=names, output_names=outputs,
                    dynamic_shapes=shapes, dynamo=True, external_data=False, verbose=False,
                )  # fmt: skip
            except Exception as error:
                print(f"{name}.{what}: {str(error)[:200]}")
    for path in FOLDER.glob("*.onnx"):
        _without_traces(path)
    np.savez_compressed(FOLDER / "golden.npz", **golden)  # type: ignore[arg-type]


def _without_traces(path: Path) -> None:
    """The exporter writes where in which file each node came from: nothing of a network, and of this machine."""
    model = onnx.load(path)
    del model.metadata_props[:]
    for part in (model.graph, *model.graph.node, *model.graph.input, *model.graph.output, *model.graph.value_info):
        del part.metadata_props[:]
        part.doc_string = ""
    for tensor in model.graph.initializer:
        del tensor.metadata_props[:]
    model.doc_string = model.graph.doc_string = ""
    onnx.save(model, path)


_SIZES = {"batch": torch.export.Dim("batch", min=1, max=1000), "time": torch.export.Dim("time", min=1, max=100_000),
          "source": torch.export.Dim("source", min=1, max=100_000)}  # fmt: skip


def _dims(axes: dict[int, str]) -> dict[int, object]:
    return {axis: torch.export.Dim.AUTO if label != "batch" else _SIZES[label] for axis, label in axes.items()}


if __name__ == "__main__":
    main()
