"""The next year of the CO₂ record of Mauna Loa, as 200 paths drawn from an autoregressive GRU with a Student head.

    python examples/co2_paths.py                         # how often the intervals hold, on the last 20 % of the record
    python examples/co2_paths.py --plot co2_paths.png    # the intervals of one year; needs matplotlib

co2_paths.pt holds what train_co2_paths.py trained on the first 80 %. The network reads a week's rise of the
concentration without its season, beside the time of year, and says location, scale and degrees of freedom of the next
week's; what is drawn is its next input (cgru.forecast). A path is the concentration that those rises add up to.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

import cgru
from cgru.demo import co2

WEIGHTS = Path(__file__).with_name("co2_paths.pt")
DATA = Path(co2.__file__).with_name("co2.csv")
WAVES = 4  # of co2.waves: the year, and half of it
HISTORY = 5 * co2.YEAR  # weeks that a forecast begins with
AHEAD = co2.YEAR
LEVELS = (0.025, 0.1, 0.5, 0.9, 0.975)

Floats = NDArray[np.float64]


class Constants(NamedTuple):
    """Fitted on the training part: the season's coefficients (ppm), and the spread (ppm) of a week's rise."""

    season: Floats
    rise: float


def network(tensors: Mapping[str, Any]) -> cgru.Model:
    """(B, T, 5) rise and time of year → (B, T, 3) location, and by a softplus scale and degrees of freedom."""
    return cgru.Model([cgru.GRU.from_torch(tensors, "gru."), cgru.Dense.from_torch(tensors, "head.")])


def constants(tensors: Mapping[str, Any]) -> Constants:
    return Constants(np.asarray(tensors["season"], np.float64), float(tensors["rise"][0]))


def frames(series: co2.Series, known: Constants) -> NDArray[np.float32]:
    """(T, 5) of every week: its rise since the week before in units of the spread, and the time of year."""
    waves = co2.waves(series.days)
    level = co2.fill(series.ppm) - waves @ known.season
    rise = np.diff(level, prepend=level[0]) / known.rise
    return np.column_stack([rise, waves[:, :WAVES]]).astype(np.float32)


def paths(net: cgru.Model, series: co2.Series, origins: NDArray[np.int64], known: Constants, count: int) -> Floats:
    """(N, count, 52) concentrations in the year after each origin, a week of the record from HISTORY on."""
    x = frames(series, known)
    days = series.days[origins][:, None] + 7 * np.arange(1, AHEAD + 1).astype("timedelta64[D]")
    waves = co2.waves(days.ravel()).reshape(len(origins), AHEAD, -1)
    rises = cgru.forecast(
        net, np.stack([x[t + 1 - HISTORY : t + 1] for t in origins]), steps=AHEAD, paths=count,
        head="student", scale="softplus", known=waves[:, :, :WAVES].astype(np.float32), seed=1958,
    )  # fmt: skip
    level = co2.fill(series.ppm)[origins] - co2.waves(series.days[origins]) @ known.season
    risen = np.cumsum(rises[..., 0].astype(np.float64), axis=2) * known.rise
    return level[:, None, None] + risen + (waves @ known.season)[:, None]


def measured(series: co2.Series, origins: NDArray[np.int64]) -> Floats:
    """(N, 52) what was measured in the year after each origin; NaN where nothing was."""
    return series.ppm[origins[:, None] + np.arange(1, AHEAD + 1)]


def report(quantiles: Floats, truth: Floats, naive: Floats) -> None:
    """Print how often the intervals held, and the median's error beside the record of a year before plus drift."""
    seen = ~np.isnan(truth)
    low, less, middle, more, high = quantiles
    ahead = (1, 4, 13, 26, 52)
    print(f"{'':34}  all weeks   at week " + " ".join(f"{k:5d}" for k in ahead))
    for name, below, above in (("80 % interval holds, %", less, more), ("95 % interval holds, %", low, high)):
        held = (truth >= below) & (truth <= above)
        each = " ".join(f"{100 * held[:, k - 1][seen[:, k - 1]].mean():5.1f}" for k in ahead)
        print(f"{name:34}  {100 * held[seen].mean():9.1f}   {'':7} {each}")
    wide = " ".join(f"{(more - less)[:, k - 1].mean():5.2f}" for k in ahead)
    print(f"{'width of the 80 % interval, ppm':34}  {(more - less).mean():9.2f}   {'':7} {wide}")
    for name, guess in (("RMSE of the median, ppm", middle), ("RMSE of a year before + drift, ppm", naive)):
        each = " ".join(f"{co2.rmse(guess[:, k - 1], truth[:, k - 1]):5.2f}" for k in ahead)
        print(f"{name:34}  {co2.rmse(guess, truth):9.2f}   {'':7} {each}")


def draw(path: str, series: co2.Series, origin: int, some: Floats, quantiles: Floats) -> None:
    """Intervals, a few of the paths and what was measured, as a picture."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise SystemExit("--plot needs matplotlib: pip install matplotlib") from None
    figure = Figure(figsize=(9, 4.5), layout="constrained")
    axes = figure.subplots()
    days = series.days[origin] + 7 * np.arange(1, AHEAD + 1).astype("timedelta64[D]")
    before = slice(origin - co2.YEAR, origin + 1)
    axes.plot(series.days[before], series.ppm[before], color="black", linewidth=1.2, label="measured")
    axes.plot(days, measured(series, np.array([origin]))[0], ".", color="black", markersize=4, label="measured later")
    axes.fill_between(days, quantiles[0], quantiles[4], color="tab:blue", alpha=0.15, label="95 %")
    axes.fill_between(days, quantiles[1], quantiles[3], color="tab:blue", alpha=0.3, label="80 %")
    axes.plot(days, quantiles[2], color="tab:blue", label="median")
    axes.plot(days, some[:5].T, color="tab:gray", linewidth=0.5)
    axes.set_ylabel("CO₂, ppm by volume")
    axes.legend(loc="upper left")
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--paths", type=int, default=200)
    parser.add_argument("--every", type=int, default=4, metavar="WEEKS", help="weeks from one origin to the next")
    parser.add_argument("--plot", metavar="FILE", help="draw the year after the first of the origins")
    options = parser.parse_args()
    tensors = cgru.read(WEIGHTS)
    net, known = network(tensors), constants(tensors)
    series = co2.read(DATA)
    origins = np.arange(co2.split(len(series.ppm)) - 1, len(series.ppm) - AHEAD, options.every)
    drawn = paths(net, series, origins, known, options.paths)
    quantiles = np.quantile(drawn, LEVELS, axis=1)
    filled = co2.fill(series.ppm)
    naive = filled[origins[:, None] + np.arange(1, AHEAD + 1) - co2.YEAR] + co2.drift(filled)[origins][:, None]
    print(f"{len(origins)} origins, {options.paths} paths of {AHEAD} weeks from each")
    report(quantiles, measured(series, origins), naive)
    if options.plot:
        draw(options.plot, series, int(origins[0]), drawn[0], quantiles[:, 0])


if __name__ == "__main__":
    main()
