"""Train the forecaster of `cgru demo`: a PyTorch GRU on the weekly CO₂ record of Mauna Loa.

    python examples/train_co2_forecaster.py             # half a minute on one core
    python examples/train_co2_forecaster.py --validate  # how the settings below were chosen

One pass over the record gives, in every week, a forecast of each of the next 26. The last 20 % of the record is
the test part: no constant, setting or seed of the network is fitted or chosen on it. --validate holds back the last
20 % of the remaining 80 % in the same way, and the settings below did best there.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from torch import nn

from cgru.demo import co2

DATA = Path(co2.__file__).parent
GOLDEN = Path(__file__).parents[1] / "tests" / "fixtures" / "demo"

HIDDEN = 32
UPDATES = 400
BATCH = 8
WINDOW = 260  # weeks in a training sequence
WARM_UP = 26  # weeks of a sequence that only bring the state into being and are not scored
RATE = 5e-3
DECAY = 0.1
DROPOUT = 0.5
NOISE = 1.0  # added to the three measured inputs, in units of their spread


class Forecaster(nn.Module):
    """(B, T, 8) → (B, T, 26), in units of the scaling's ``output``."""

    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(8, HIDDEN, batch_first=True)
        self.head = nn.Linear(HIDDEN, co2.HORIZON)
        # Near zero, so that training starts from the reference forecast.
        nn.init.normal_(self.head.weight, std=0.01)
        nn.init.zeros_(self.head.bias)

    def forward(self, x: torch.Tensor, dropout: float = 0.0) -> torch.Tensor:
        hidden, _ = self.gru(x)
        return self.head(nn.functional.dropout(hidden, dropout))


def train(known: co2.Series, seed: int) -> tuple[Forecaster, co2.Scaling]:
    """A network and its constants from ``known`` alone: its targets end where the record given here ends."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    scaling = co2.fit(known)
    error = (co2.targets(known.ppm) - co2.reference(known, scaling)) / scaling.output
    x = torch.tensor(co2.inputs(known, scaling)[co2.FIRST :], dtype=torch.float32)
    y = torch.tensor(error[co2.FIRST :], dtype=torch.float32)

    network = Forecaster()
    optimiser = torch.optim.AdamW(network.parameters(), lr=RATE, weight_decay=DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, RATE, total_steps=UPDATES)
    for _ in range(UPDATES):
        starts = rng.integers(0, len(x) - WINDOW + 1, size=BATCH)
        inputs = torch.stack([x[s : s + WINDOW] for s in starts])
        truth = torch.stack([y[s : s + WINDOW] for s in starts])
        inputs[:, :, :3] += NOISE * torch.randn(BATCH, WINDOW, 3)
        scored = ~torch.isnan(truth)
        scored[:, :WARM_UP] = False
        loss = (network(inputs, DROPOUT)[scored] - truth[scored]).square().mean()
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        schedule.step()
    return network.eval(), scaling


def forecast(network: Forecaster, series: co2.Series, scaling: co2.Scaling) -> tuple[np.ndarray, np.ndarray]:
    """The network's output for the weeks from FIRST on, and the forecast in ppm for all weeks (NaN before)."""
    with torch.no_grad():
        x = torch.tensor(co2.inputs(series, scaling)[co2.FIRST :], dtype=torch.float32)
        output = network(x[None])[0].numpy()
    ppm = co2.reference(series, scaling)
    ppm[co2.FIRST :] = co2.combine(ppm[co2.FIRST :], output, scaling)
    return output, ppm


def report(series: co2.Series, scaling: co2.Scaling, ppm: np.ndarray) -> None:
    """Print the errors over the origins of the last 20 % of ``series``, all weeks ahead and some of them."""
    rows = co2.origins(len(series.ppm))
    truth = co2.targets(series.ppm)[rows]
    forecasts = {
        "network": ppm,
        "seasonal-naive + drift": co2.baseline(co2.fill(series.ppm)),
        "level + drift + season": co2.reference(series, scaling),
    }
    ahead = (1, 4, 8, 13, 26)
    print(f"{'ppm':24}  RMSE    MAE   RMSE at week " + " ".join(f"{k:5d}" for k in ahead))
    for name, every in forecasts.items():
        each = every[rows]
        by_week = " ".join(f"{co2.rmse(each[:, k - 1], truth[:, k - 1]):5.3f}" for k in ahead)
        print(f"{name:24} {co2.rmse(each, truth):.3f}  {co2.mae(each, truth):.3f}{'':15}{by_week}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--validate", action="store_true", help="train on 64 %%, report on the next 16 %%")
    parser.add_argument("--seed", type=int, default=1958)
    arguments = parser.parse_args()
    torch.set_num_threads(1)

    series = co2.read(DATA / "co2.csv")
    test = co2.split(len(series.ppm))
    if arguments.validate:
        known = series.before(test)
        network, scaling = train(known.before(co2.split(test)), arguments.seed)
        report(known, scaling, forecast(network, known, scaling)[1])
        return

    network, scaling = train(series.before(test), arguments.seed)
    output, ppm = forecast(network, series, scaling)
    report(series, scaling, ppm)
    scaling.save(DATA / "co2_gru.json")
    torch.save(network.state_dict(), DATA / "co2_gru.pt")
    GOLDEN.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(GOLDEN / "co2_torch.npz", output=output[test - co2.FIRST :])


if __name__ == "__main__":
    main()
