"""A forecast beside what happened: as text for any terminal, and as a picture where matplotlib is installed."""

from __future__ import annotations

import os

import numpy as np

from cgru.demo import co2
from cgru.reports.plot import require_matplotlib, save

MARKS = ("o", "+", "⊕")
PLAIN_MARKS = ("o", "+", "@")
"""Measured, forecast, and both in one place."""

ROWS = 12
WEEKS_A_COLUMN = 2


def text(days: co2.Days, truth: co2.Floats, forecast: co2.Floats, width: int, plain: bool) -> list[str]:
    """Lines of at most ``width`` columns: as much of the end of the record as fits, one column for two weeks.

    ``days``, ``truth`` (NaN where not measured) and ``forecast`` are (N,). ``plain`` keeps to ASCII.
    """
    columns = max(width - 7, 8)
    shown = slice(max(len(days) - columns * WEEKS_A_COLUMN, 0), None, WEEKS_A_COLUMN)
    days, truth, forecast = days[shown], truth[shown], forecast[shown]
    values = np.concatenate([truth[~np.isnan(truth)], forecast])
    low, high = np.floor(values.min()), np.ceil(values.max())
    measured, expected, both = PLAIN_MARKS if plain else MARKS
    bar = "|" if plain else "│"

    def row(value: float) -> int:
        return round(float((high - value) / (high - low)) * (ROWS - 1))

    grid = [[" "] * len(days) for _ in range(ROWS)]
    for column, value in enumerate(forecast):
        grid[row(value)][column] = expected
    for column, value in enumerate(truth):
        if not np.isnan(value):
            cells = grid[row(value)]
            cells[column] = both if cells[column] == expected else measured

    labels = {row(value): f"{value:.0f}" for value in _ticks(low, high)}
    lines = [f"{labels.get(i, ''):>5} {bar}" + "".join(cells).rstrip() for i, cells in enumerate(grid)]
    return [*lines, f"{'':6}{'+' if plain else '└'}" + _years(days)]


def _ticks(low: float, high: float) -> co2.Floats:
    """Three to five round values between the ends."""
    step = next(step for step in (1, 2, 5, 10, 20, 50, 100) if (high - low) / step <= 5)
    return np.arange(np.ceil(low / step) * step, high + 0.5, step)


def _years(days: co2.Days) -> str:
    """The axis: each year's number where the year begins, if it fits."""
    axis = ""
    years = days.astype("datetime64[Y]")
    for column in np.flatnonzero(years[1:] != years[:-1]) + 1:
        if column + 4 <= len(days):
            axis += " " * (column - len(axis)) + str(years[column])
    return axis


def draw(
    path: str | os.PathLike[str],
    days: co2.Days,
    truth: co2.Floats,
    forecast: co2.Floats,
    errors: dict[str, list[float]],
) -> None:
    """Draw the forecast beside what happened, and ``errors`` (ppm) by weeks ahead, into ``path``.

    :class:`CgruError` where matplotlib is missing or does not know the file's ending.
    """
    require_matplotlib()
    from matplotlib.figure import Figure

    # A Figure of its own, not pyplot's, needs no display and leaves the caller's figures alone.
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=[2.6, 1])
    left.plot(days, truth, ".", ms=3, color="0.35", label="measured")
    left.plot(days, forecast, color="C3", lw=1.2, label=f"forecast made {co2.HORIZON} weeks before")
    left.set(title="CO₂ at Mauna Loa, weekly", ylabel="ppm")
    left.legend(frameon=False)
    for name, by_week in errors.items():
        right.plot(range(1, len(by_week) + 1), by_week, label=name)
    right.set(title="error", xlabel="weeks ahead", ylabel="RMSE (ppm)", ylim=(0, None))
    right.legend(frameon=False)
    save(figure, path)
