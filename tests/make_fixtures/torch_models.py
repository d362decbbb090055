"""Makes tests/fixtures/torch: small networks as .pt files, and what PyTorch makes of them.

Run ``python tests/make_fixtures/torch_models.py`` with PyTorch 2.13.0 installed. ``golden.npz`` holds, under
``<file>:<name>``, the inputs (x, h0, lengths) and the outputs (y, h_n) of the live modules; h0 is never zero,
and no two of its rows are equal.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from torch import nn

FOLDER = Path(__file__).resolve().parent.parent / "fixtures" / "torch"


class Tagger(nn.Module):
    def __init__(self, *, tied: bool = False) -> None:
        super().__init__()
        self.embed = nn.Embedding(17, 7)
        self.rnn = nn.GRU(7, 7 if tied else 3, bidirectional=not tied, batch_first=True)
        self.head = nn.Linear(7 if tied else 6, 17 if tied else 5)
        if tied:
            self.head.weight = self.embed.weight

    def forward(self, ids: torch.Tensor, h0: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        out, h_n = self.rnn(self.embed(ids), h0)
        return self.head(out), h_n


class Classifier(nn.Module):
    """An activation and a last step that the file does not hold."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.GRU(3, 17, num_layers=2, batch_first=True)
        self.fc1 = nn.Linear(17, 7)
        self.fc2 = nn.Linear(7, 1)

    def forward(self, x: torch.Tensor, h0: torch.Tensor, lengths: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        packed = nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        h_n = self.rnn(packed, h0)[1]
        return self.fc2(torch.relu(self.fc1(h_n[-1]))), h_n


class Forecaster(nn.Module):
    def __init__(self, bias: bool) -> None:
        super().__init__()
        self.gru = nn.GRU(1, 17, batch_first=True, bias=bias)
        self.out = nn.Linear(17, 1, bias=bias)

    def forward(self, x: torch.Tensor, h0: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        out, h_n = self.gru(x, h0)
        return self.out(out), h_n


def stack() -> tuple[nn.Module, dict[str, torch.Tensor]]:
    """A bare two-layer bidirectional GRU over ragged rows."""
    module = nn.GRU(3, 7, num_layers=2, bidirectional=True, batch_first=True)
    x, h0, lengths = torch.randn(4, 6, 3), torch.randn(4, 4, 7), torch.tensor([4, 6, 1, 3])
    packed = nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
    out, h_n = module(packed, h0)
    y = nn.utils.rnn.pad_packed_sequence(out, batch_first=True, total_length=6)[0]
    return module, {"x": x, "h0": h0, "lengths": lengths, "y": y, "h_n": h_n}


def cell() -> tuple[nn.Module, dict[str, torch.Tensor]]:
    module = nn.GRUCell(7, 3)
    x, h0 = torch.randn(3, 5, 7), torch.randn(1, 3, 3)
    states = [h0[0]]
    for t in range(5):
        states.append(module(x[:, t], states[-1]))
    return module, {"x": x, "h0": h0, "y": torch.stack(states[1:], 1), "h_n": states[-1][None]}


def tagger(tied: bool) -> tuple[nn.Module, dict[str, torch.Tensor]]:
    module = Tagger(tied=tied)
    x = torch.randint(0, 17, (3, 7))
    h0 = torch.randn(1, 3, 7) if tied else torch.randn(2, 3, 3)
    y, h_n = module(x, h0)
    return module, {"x": x, "h0": h0, "y": y, "h_n": h_n}


def forecaster(bias: bool) -> tuple[nn.Module, dict[str, torch.Tensor]]:
    module = Forecaster(bias)
    x, h0 = torch.randn(2, 9, 1), torch.randn(1, 2, 17)
    y, h_n = module(x, h0)
    return module, {"x": x, "h0": h0, "y": y, "h_n": h_n}


def classifier() -> tuple[nn.Module, dict[str, torch.Tensor]]:
    module = Classifier()
    x, h0, lengths = torch.randn(3, 7, 3), torch.randn(2, 3, 17), torch.tensor([2, 7, 5])
    y, h_n = module(x, h0, lengths)
    return module, {"x": x, "h0": h0, "lengths": lengths, "y": y, "h_n": h_n}


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(20)
    golden: dict[str, np.ndarray] = {}
    cases = {
        "stack": stack(),
        "cell": cell(),
        "tagger": tagger(tied=False),
        "tied": tagger(tied=True),
        "forecaster": forecaster(bias=True),
        "no_bias": forecaster(bias=False),
        "classifier": classifier(),
    }
    for name, (module, arrays) in cases.items():
        torch.save(module.state_dict(), folder / f"{name}.pt")
        golden |= {f"{name}:{key}": array.detach().numpy() for key, array in arrays.items()}
    np.savez_compressed(folder / "golden.npz", **golden)  # type: ignore[arg-type]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=FOLDER)
    main(parser.parse_args().folder)
