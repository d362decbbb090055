"""The weekly CO₂ record of Mauna Loa as a forecasting task: what the network sees, the baseline, the errors.

Every function of a week looks backwards only: row t of any array but :func:`targets` depends on the weeks
0 … t and on nothing later, and gaps are filled from the past. Concentrations are in ppm by volume.

T weeks in the record, I = 8 inputs, K = 26 weeks ahead.
"""

from __future__ import annotations

import csv
import datetime
import json
import os
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

YEAR = 52
"""Weeks in the season that the baseline repeats."""

HORIZON = 26
"""K: each origin gets a forecast of every one of the next 26 weeks at once."""

FIRST = 2 * YEAR
"""The first week with inputs: they need two years of history."""

DRIFT_YEARS = 10
"""Years over which the drift is measured, long enough to smooth over El Niño; examples/README.md has the others."""

HARMONICS = 4

LEVEL_WEEKS = 8
"""Weeks whose mean is the level to start from; of 1, 4, 8, 13, 26 and 52, 8 did best on the validation weeks."""

Floats = NDArray[np.float64]
Days = NDArray[np.datetime64]


class Series(NamedTuple):
    """A weekly record. ``days`` (T,): the dates; ``ppm`` (T,): the concentration, NaN where not measured."""

    days: Days
    ppm: Floats

    def before(self, week: int) -> Series:
        """The record as it stood when the weeks 0 … week−1 had been measured."""
        return Series(self.days[:week], self.ppm[:week])


class Scaling(NamedTuple):
    """Constants fitted once, on the training part alone.

    ``season``: sine and cosine coefficients (ppm) of the yearly cycle and its harmonics. The others are the
    spreads (ppm) by which the inputs and the output are divided.
    """

    season: tuple[float, ...]
    week: float
    months: float
    growth: float
    output: float

    def save(self, path: str | os.PathLike[str]) -> None:
        with open(path, "w", encoding="ascii") as file:
            json.dump(self._asdict(), file, indent=1)
            file.write("\n")

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Scaling:
        with open(path, encoding="ascii") as file:
            fields = json.load(file)
        return cls(**{**fields, "season": tuple(fields["season"])})


def read(path: str | os.PathLike[str]) -> Series:
    """The record in the layout of statsmodels' ``co2.csv``: ``YYYYMMDD,ppm``, empty where not measured."""
    with open(path, newline="", encoding="ascii") as file:
        rows = list(csv.DictReader(file))
    days = [datetime.datetime.strptime(row["date"], "%Y%m%d").date() for row in rows]
    ppm = [float(row["co2"]) if row["co2"] else np.nan for row in rows]
    return Series(np.array(days, "datetime64[D]"), np.array(ppm))


def split(weeks: int) -> int:
    """The first week of the last 20 % of so many weeks."""
    return weeks * 4 // 5


def fill(ppm: Floats) -> Floats:
    """(T,) with each gap filled from the past: the week before, plus the step made in that week a year earlier.

    In the first year there is no year earlier, and the value is that of the week before.
    """
    filled = np.array(ppm, np.float64)
    if np.isnan(filled[0]):
        raise ValueError("the first week of the record must be a measured one")
    for t in np.flatnonzero(np.isnan(filled)):
        step = filled[t - YEAR] - filled[t - YEAR - 1] if t > YEAR else 0.0
        filled[t] = filled[t - 1] + step
    return filled


def level(filled: Floats) -> Floats:
    """(T,) the mean of the last 52 weeks, which has no season; NaN in the first 51 weeks."""
    mean = np.full(len(filled), np.nan)
    mean[YEAR - 1 :] = np.lib.stride_tricks.sliding_window_view(filled, YEAR).mean(axis=1)
    return mean


def drift(filled: Floats, years: int | None = DRIFT_YEARS) -> Floats:
    """(T,) the rise per 52 weeks of the level over the last ``years``, or all there is of them. NaN before FIRST."""
    mean = level(filled)
    rise = np.full(len(filled), np.nan)
    t = np.arange(FIRST, len(filled))
    start = np.full(len(t), YEAR - 1) if years is None else np.maximum(t - YEAR * years, YEAR - 1)
    rise[t] = (mean[t] - mean[start]) / (t - start) * YEAR
    return rise


def baseline(filled: Floats, years: int | None = DRIFT_YEARS) -> Floats:
    """(T, K) seasonal-naive plus drift: the week 52 before the one forecast, plus a year's drift. NaN before FIRST."""
    forecast = np.full((len(filled), HORIZON), np.nan)
    t = np.arange(FIRST, len(filled))[:, None]
    forecast[FIRST:] = filled[t + np.arange(1, HORIZON + 1) - YEAR] + drift(filled, years)[t]
    return forecast


def targets(ppm: Floats) -> Floats:
    """(T, K) what was measured 1 … K weeks after each week; NaN where nothing was, or the record has ended."""
    padded = np.concatenate([ppm[1:], np.full(HORIZON, np.nan)])
    return np.lib.stride_tricks.sliding_window_view(padded, HORIZON).copy()


def waves(days: Days) -> Floats:
    """(N, 8) sine and cosine of the time of year and of its first harmonics."""
    years = days.astype("datetime64[Y]")
    angle = 2 * np.pi * (days - years).astype(np.float64) / 365.25
    return np.stack([wave(j * angle) for j in range(1, HARMONICS + 1) for wave in (np.sin, np.cos)], axis=1)


def _mean(values: Floats, weeks: int, rise: Floats) -> Floats:
    """(T,) the mean of so many weeks, brought forward from their middle to the last of them at ``rise`` (T,)."""
    mean = np.full(len(values), np.nan)
    mean[weeks - 1 :] = np.lib.stride_tricks.sliding_window_view(values, weeks).mean(axis=1)
    return mean + rise * (weeks - 1) / 2 / YEAR


def _parts(series: Series, season: tuple[float, ...]) -> tuple[Floats, Floats, Floats, Floats]:
    """(T,) each: the filled record less its season, its level by 8 weeks, its level by 52 weeks, the drift."""
    filled = fill(series.ppm)
    rise = drift(filled)
    trend = filled - waves(series.days) @ np.array(season)
    return trend, _mean(trend, LEVEL_WEEKS, rise), _mean(filled, YEAR, rise), rise


def fit(series: Series) -> Scaling:
    """The constants for a record; give it the training part and no more."""
    filled = fill(series.ppm)
    design = np.column_stack([np.ones(len(filled)), waves(series.days)])[YEAR - 1 :]
    season = np.linalg.lstsq(design, (filled - level(filled))[YEAR - 1 :], rcond=None)[0][1:]
    unit = Scaling(tuple(map(float, season)), 1.0, 1.0, 1.0, 1.0)
    week, months, growth = (float(column.std()) for column in inputs(series, unit)[FIRST:, :3].T)
    output = float(np.nanstd((targets(series.ppm) - reference(series, unit))[FIRST:]))
    return Scaling(unit.season, week, months, growth, output)


def inputs(series: Series, scaling: Scaling) -> Floats:
    """(T, I) what the network sees in each week; NaN before FIRST. None of it grows with the concentration.

    0. how far the week lies from the level of the last 8 weeks, both without the season; 1. how far that lies
    from the level of the last 52; 2. the rise of the latter over a year, less the drift; 3. whether the week was
    measured (1) or filled (0); 4–7. the time of year.
    """
    trend, months, year, rise = _parts(series, scaling.season)
    mean = level(fill(series.ppm))
    columns = np.full((len(trend), 8), np.nan)
    columns[:, 0] = (trend - months) / scaling.week
    columns[:, 1] = (months - year) / scaling.months
    columns[YEAR:, 2] = (mean[YEAR:] - mean[:-YEAR] - rise[YEAR:]) / scaling.growth
    columns[:, 3] = ~np.isnan(series.ppm)
    columns[:, 4:] = waves(series.days)[:, :4]
    columns[:FIRST] = np.nan
    return columns


def reference(series: Series, scaling: Scaling) -> Floats:
    """(T, K) level of 8 weeks + drift + season, carried forward: the network gives what to add. NaN before FIRST."""
    _, months, _, rise = _parts(series, scaling.season)
    ahead = np.arange(1, HORIZON + 1)
    days = series.days[:, None] + (7 * ahead).astype("timedelta64[D]")
    season = (waves(days.ravel()) @ np.array(scaling.season)).reshape(days.shape)
    return months[:, None] + rise[:, None] * ahead / YEAR + season


def combine(expected: Floats, output: NDArray[np.floating], scaling: Scaling) -> Floats:
    """(N, K) the forecast in ppm: the reference's rows plus the network's output rows."""
    return expected + output.astype(np.float64) * scaling.output


def origins(weeks: int) -> slice:
    """The weeks of the test part from which all 26 weeks ahead lie within the record."""
    return slice(split(weeks), weeks - HORIZON)


def rmse(forecast: Floats, truth: Floats) -> float:
    """Root mean square error (ppm) over what was measured."""
    return float(np.sqrt(np.nanmean((forecast - truth) ** 2)))


def mae(forecast: Floats, truth: Floats) -> float:
    """Mean absolute error (ppm) over what was measured."""
    return float(np.nanmean(np.abs(forecast - truth)))
