"""Train the network of examples/co2_paths.py: a GRU that says how the next week's rise of CO₂ is distributed.

    pip install torch
    python examples/train_co2_paths.py              # ten seconds on one core; writes examples/co2_paths.pt
    python examples/train_co2_paths.py --validate   # trained on 64 % of the record, judged on the next 16 %

The last 20 % of the record is the test part, of which nothing here sees a week. What is maximised is the likelihood
of each week's rise given those before it, by Student's distribution.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from co2_paths import AHEAD, DATA, LEVELS, WAVES, Constants, constants, frames, measured, network, paths, report
from torch import nn

from cgru.demo import co2

SEED = 1958
HIDDEN = 16
UPDATES = 100  # with more, weeks that are not trained on become less likely
BATCH = 8
WINDOW = 156  # weeks in a training sequence
RATE = 8e-3
DECAY = 0.1
DROPOUT = 0.3
WARM_UP = 26  # weeks of a sequence that only bring the state into being


class Rises(nn.Module):
    """(B, T, 5) → (B, T, 3): location, and what a softplus makes scale and degrees of freedom of."""

    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(1 + WAVES, HIDDEN, batch_first=True)
        self.head = nn.Linear(HIDDEN, 3)
        nn.init.normal_(self.head.weight, std=0.01)
        self.head.bias = nn.Parameter(torch.tensor([0.0, 0.5, 8.0]))

    def forward(self, x: torch.Tensor, dropout: float = 0.0) -> torch.Tensor:
        return self.head(nn.functional.dropout(self.gru(x)[0], dropout))


def fit(series: co2.Series) -> Constants:
    season = np.array(co2.fit(series).season)
    rises = np.diff(series.ppm - co2.waves(series.days) @ season)
    return Constants(season, float(np.nanstd(rises)))


def train(series: co2.Series, seed: int) -> tuple[Rises, Constants]:
    """The network and its constants of a record, of which every week is for training."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    known = fit(series)
    x = torch.tensor(frames(series, known))
    seen = ~np.isnan(series.ppm)
    scored = torch.tensor(seen[1:] & seen[:-1])  # a rise from or to a week that was filled is none
    model = Rises()
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=UPDATES)
    for _ in range(UPDATES):
        starts = rng.integers(0, len(x) - WINDOW, size=BATCH)
        given = torch.stack([x[s : s + WINDOW] for s in starts])
        truth = torch.stack([x[s + 1 : s + WINDOW + 1, 0] for s in starts])
        counts = torch.stack([scored[s : s + WINDOW] for s in starts])
        counts[:, :WARM_UP] = False
        location, scale, freedom = model(given, DROPOUT).unbind(dim=2)
        student = torch.distributions.StudentT(
            nn.functional.softplus(freedom), location, nn.functional.softplus(scale)
        )
        loss = -student.log_prob(truth)[counts].mean()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    print(f"loss {float(loss.detach()):.3f}")
    return model.eval(), known


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--validate", action="store_true")
    parser.add_argument("--seed", type=int, default=SEED)
    options = parser.parse_args()
    torch.set_num_threads(1)
    series = co2.read(DATA).before(co2.split(len(co2.read(DATA).ppm)))
    before = co2.split(len(series.ppm)) if options.validate else len(series.ppm)
    model, known = train(series.before(before), options.seed)
    tensors = {name: array.numpy() for name, array in model.state_dict().items()}
    tensors |= {"season": known.season, "rise": np.array([known.rise])}
    if not options.validate:
        held = {name: torch.tensor(array) for name, array in tensors.items()}
        torch.save(held, Path(__file__).with_name("co2_paths.pt"))
        return
    origins = np.arange(before - 1, len(series.ppm) - AHEAD, 4)
    drawn = paths(network(tensors), series, origins, constants(tensors), 200)
    filled = co2.fill(series.ppm)
    naive = filled[origins[:, None] + np.arange(1, AHEAD + 1) - co2.YEAR] + co2.drift(filled)[origins][:, None]
    report(np.quantile(drawn, LEVELS, axis=1), measured(series, origins), naive)


if __name__ == "__main__":
    main()
