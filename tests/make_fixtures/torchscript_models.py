"""Makes tests/fixtures/torchscript: small modules as TorchScript archives, traced and scripted, and what they compute.

Run ``python tests/make_fixtures/torchscript_models.py`` with PyTorch 2.13.0 installed. ``golden.npz`` holds, under
``<file>:<name>``, the inputs by the names of forward()'s arguments and its outputs, y or y0 and y1.
"""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

FOLDER = Path(__file__).resolve().parent.parent / "fixtures" / "torchscript"


class Spotter(nn.Module):
    """(B, F, T) → classes: convolution, normalisation, GRU, last step."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(5, 6, 3, stride=2)
        self.bn = nn.BatchNorm1d(6)
        self.gru = nn.GRU(6, 4, 2, batch_first=True)
        self.fc = nn.Linear(4, 3)
        self.bn.running_mean.uniform_(-1, 1)
        self.bn.running_var.uniform_(0.5, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = torch.relu(self.bn(self.conv(x))).transpose(1, 2)
        return self.fc(self.gru(h)[0][:, -1])


class Loop(nn.Module):
    """A cell in a loop over the frames, which only scripting keeps."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.LSTMCell(3, 4)
        self.fc = nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h, c = torch.zeros(x.size(0), 4), torch.zeros(x.size(0), 4)
        found = []
        for t in range(x.size(1)):
            h, c = self.cell(x[:, t], (h, c))
            found.append(self.fc(h))
        return torch.stack(found, 1)


class Two(nn.Module):
    """Two inputs; a learned initial state; two outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Embedding(11, 3)
        self.read = nn.GRU(3, 4, batch_first=True)
        self.write = nn.GRU(2, 4, batch_first=True)
        self.start = nn.Parameter(torch.randn(1, 1, 4))

    def forward(self, ids: torch.Tensor, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        _, h = self.read(self.tokens(ids), self.start.expand(-1, ids.size(0), -1).contiguous())
        return self.write(x, h)[0], h[-1]


def save(name: str, module: torch.jit.ScriptModule) -> None:
    """The archive without the members that quote source code, which hold paths of the machine, deflated."""
    held = io.BytesIO()
    torch.jit.save(module, held)
    with zipfile.ZipFile(held) as source, zipfile.ZipFile(FOLDER / name, "w", zipfile.ZIP_DEFLATED) as target:
        for item in source.infolist():
            if not item.filename.endswith(".debug_pkl") and "traced_inputs" not in item.filename:
                target.writestr(zipfile.ZipInfo(item.filename, (1980, 1, 1, 0, 0, 0)), source.read(item))


def main() -> None:
    torch.manual_seed(8)
    FOLDER.mkdir(parents=True, exist_ok=True)
    golden: dict[str, Any] = {}
    cases: list[tuple[str, nn.Module, dict[str, torch.Tensor]]] = [
        ("spotter", Spotter(), {"x": torch.randn(3, 5, 31)}),
        ("loop", Loop(), {"x": torch.randn(2, 7, 3)}),
        ("two", Two(), {"ids": torch.randint(0, 11, (3, 6)), "x": torch.randn(3, 6, 2)}),
    ]
    for name, module, inputs in cases:
        module.eval()
        args = tuple(inputs.values())
        with torch.no_grad():
            y = module(*args)
        scripted = torch.jit.script(module)
        made = {f"{name}.scripted.pt": scripted}
        if name != "loop":
            made[f"{name}.traced.pt"] = torch.jit.trace(module, args)
        if name == "spotter":
            made[f"{name}.frozen.pt"] = torch.jit.freeze(scripted)
        for file, archive in made.items():
            save(file, archive)
            outputs = y if isinstance(y, tuple) else (y,)
            golden.update({f"{file}:{key}": value.numpy() for key, value in inputs.items()})
            golden.update({f"{file}:y{i}": value.numpy() for i, value in enumerate(outputs)})
    np.savez_compressed(FOLDER / "golden.npz", **golden)


if __name__ == "__main__":
    main()
