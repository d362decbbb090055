"""Trains tests/fixtures/trained/{co2,sunspots}.pt2: residual dilated convolutions and a GRU that forecast, in PyTorch.

    pip install statsmodels==0.15.0                       # its wheel carries both records, in the public domain
    python tests/make_fixtures/trained_forecasters.py     # needs torch 2.13 too; three minutes on one core

CO₂: the weekly record of Mauna Loa, as the demo prepares it (cgru.demo.co2). Sunspots: the yearly numbers of 1700 to
2008. The last 20 % of each record are the test; nothing is fitted or chosen on them. Seeds are fixed.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from exported import save
from torch import Tensor, nn

from cgru.demo import co2

FOLDER = Path(__file__).resolve().parent.parent / "fixtures" / "trained"

DILATIONS = (1, 2, 4, 8)
#: Years of the cycle of sunspots, and of three of them.
CYCLE, MEAN_YEARS = 11, 33


class Forecaster(nn.Module):
    """(B, T, inputs) → (B, T, horizon): at every step a forecast of the next ones; it sees the past alone."""

    def __init__(self, inputs: int, channels: int, hidden: int, horizon: int, dropout: float) -> None:
        super().__init__()
        self.widen = nn.Conv1d(inputs, channels, 1)
        self.convs = nn.ModuleList(nn.Conv1d(channels, channels, 3, dilation=d) for d in DILATIONS)
        self.gru, self.drop = nn.GRU(channels, hidden, batch_first=True), nn.Dropout(dropout)
        self.head = nn.Linear(channels + hidden, horizon)
        nn.init.normal_(self.head.weight, std=0.01)
        nn.init.zeros_(self.head.bias)

    def forward(self, x: Tensor) -> Tensor:
        y = self.widen(x.transpose(1, 2))
        for conv, dilation in zip(self.convs, DILATIONS, strict=True):
            y = y + self.drop(torch.relu(conv(nn.functional.pad(y, (2 * dilation, 0)))))
        y = y.transpose(1, 2)
        return self.head(self.drop(torch.cat([y, self.gru(y)[0]], dim=-1)))


@dataclass(frozen=True)
class Task:
    """``x`` (T, inputs), ``y`` (T, horizon; NaN where nothing is known), and a forecast that costs nothing."""

    x: np.ndarray
    y: np.ndarray
    naive: np.ndarray
    known: int  # steps whose targets end before the test begins
    window: int  # steps in a training sequence
    warm: int  # steps of it that only bring the state into being
    noise: float


def carbon() -> tuple[Task, Forecaster]:
    """The demo's inputs and what is to be added to its reference forecast, in units of its spread."""
    series = co2.read(Path(co2.__file__).parent / "co2.csv")
    test = co2.split(len(series.ppm))
    scaling = co2.fit(series.before(test))
    error = (co2.targets(series.ppm) - co2.reference(series, scaling)) / scaling.output
    inputs, known = co2.inputs(series, scaling)[co2.FIRST :], test - co2.FIRST - co2.HORIZON
    y = error[co2.FIRST :]
    task = Task(inputs, y, np.zeros_like(y), known, window=260, warm=26, noise=1.0)
    return task, Forecaster(8, 24, 32, co2.HORIZON, 0.4)


def sunspots() -> tuple[Task, Forecaster]:
    """The square root of the yearly number over its mean of the last 33 years; the next five years in the same unit."""
    import statsmodels.datasets.sunspots as source

    with open(Path(source.__file__).parent / "sunspots.csv", newline="", encoding="ascii") as file:
        root = np.sqrt([float(row["SUNACTIVITY"]) for row in csv.DictReader(file)])
    ahead, spread, first = 5, 0.4, MEAN_YEARS - 1
    mean = np.convolve(root, np.ones(MEAN_YEARS) / MEAN_YEARS, "valid")
    coming = np.lib.stride_tricks.sliding_window_view(np.concatenate([root[1:], np.full(ahead, np.nan)]), ahead)
    x, y = (root[first:] / mean - 1) / spread, (coming[first:] / mean[:, None] - 1) / spread
    before = np.stack([np.roll(root, CYCLE - 1 - k) for k in range(ahead)], axis=1)[first:]
    naive = (before / mean[:, None] - 1) / spread
    task = Task(x[:, None], y, naive, len(root) * 4 // 5 - first - ahead, window=80, warm=20, noise=0.3)
    return task, Forecaster(1, 16, 24, ahead, 0.3)


def train(task: Task, net: Forecaster, updates: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    x, y = (torch.tensor(part[: task.known], dtype=torch.float32) for part in (task.x, task.y))
    optimiser = torch.optim.AdamW(net.parameters(), lr=4e-3, weight_decay=0.1)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 4e-3, total_steps=updates)
    for _ in range(updates):
        starts = rng.integers(0, len(x) - task.window + 1, size=8)
        inputs, truth = (torch.stack([part[s : s + task.window] for s in starts]) for part in (x, y))
        scored = ~torch.isnan(truth)
        scored[:, : task.warm] = False
        loss = (net(inputs + task.noise * torch.randn(inputs.shape))[scored] - truth[scored]).square().mean()
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimiser.step()
        schedule.step()


def report(task: Task, net: Forecaster, name: str) -> None:
    """Root mean square errors over the test, in units of the scaling."""
    with torch.no_grad():
        made = net(torch.tensor(task.x, dtype=torch.float32)[None])[0].numpy()
    rows = slice(task.known + task.y.shape[1], None)
    truth = task.y[rows]
    for guess, values in (("network", made[rows]), ("without one", task.naive[rows])):
        print(f"{name}, {guess}: {np.sqrt(np.nanmean((values - truth) ** 2)):.3f}")


def golden(task: Task, net: Forecaster, name: str) -> None:
    """The network; two windows of the test and what it gives of them, in float32 and float64."""
    first = task.known + task.y.shape[1] - task.window
    x = np.stack([task.x[s : s + 60] for s in (first, len(task.x) - 60)]).astype(np.float32)
    given = torch.from_numpy(x)
    save(net, (given[:, :20],), FOLDER / f"{name}.pt2")
    with torch.no_grad():
        made = net(given).numpy()
        exact = net.double()(given.double()).numpy()
    np.savez_compressed(FOLDER / f"{name}.npz", x=x, y=made, exact=exact)


def main() -> None:
    torch.set_num_threads(1)
    FOLDER.mkdir(exist_ok=True)
    for name, make, updates in (("co2", carbon, 400), ("sunspots", sunspots, 150)):
        torch.manual_seed(1749)
        task, net = make()
        train(task, net, updates, 1749)
        net.eval()
        report(task, net, name)
        golden(task, net, name)


if __name__ == "__main__":
    main()
