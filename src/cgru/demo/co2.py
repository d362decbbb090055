"""The weekly CO₂ record of Mauna Loa as a forecasting task: causal inputs, the baseline, the two errors.

Everything here is a function of time that looks backwards only: row t of any array but the targets depends
on the weeks 0 … t and on nothing later. Concentrations are in ppm (parts per million by volume).

T weeks in the record, I input features, K weeks ahead (``HORIZON``).
"""

from __future__ import annotations

import csv
import datetime
import os
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

YEAR = 52
"""Weeks in the season that the baseline repeats."""

HORIZON = 52
"""Weeks ahead: every origin gets a forecast of each of the next 52 weeks at once."""

FIRST = 2 * YEAR
"""The first week with inputs: they need two years of history."""

FEATURES = 8

Floats = NDArray[np.float64]


class Series(NamedTuple):
    """A weekly record. ``days`` (T,) dates; ``ppm`` (T,) float64, NaN where nothing was measured."""

    days: NDArray[np.datetime64]
    ppm: Floats


class Scale(NamedTuple):
    """The constants that bring inputs and outputs near unit size; fitted on the training part alone.

    ``season``: spread of a week about the mean of its last 52 weeks (ppm). ``growth_mean`` and
    ``growth``: mean and spread of the rise over a year (ppm). ``error``: spread of the baseline's
    error (ppm), the unit of the network's output.
    """

    season: float
    growth_mean: float
    growth: float
    error: float


def read(path: str | os.PathLike[str]) -> Series:
    """The record in the layout of statsmodels' ``co2.csv``: ``YYYYMMDD,ppm``, empty where not measured."""
    with open(path, newline="", encoding="ascii") as file:
        rows = list(csv.DictReader(file))
    days = np.array([datetime.datetime.strptime(row["date"], "%Y%m%d").date() for row in rows], "datetime64[D]")
    ppm = np.array([float(row["co2"]) if row["co2"] else np.nan for row in rows])
    return Series(days, ppm)


def split(weeks: int) -> int:
    """The first week of the test part, the last 20 % of a record of this many weeks."""
    return weeks * 4 // 5


def fill(ppm: Floats) -> Floats:
    """(T,) with every gap filled from the past: last week's value plus the same week's step a year earlier.

    In the first year, where there is no year earlier, last week's value.
    """
    filled = np.array(ppm, np.float64)
    for t in np.flatnonzero(np.isnan(filled)):
        if t == 0:
            raise ValueError("the first week of the record must be a measured one")
        step = filled[t - YEAR] - filled[t - YEAR - 1] if t > YEAR else 0.0
        filled[t] = filled[t - 1] + step
    return filled


def trailing_mean(filled: Floats) -> Floats:
    """(T,) the mean of the last 52 weeks, NaN in the first 51: the level without the season."""
    mean = np.full(len(filled), np.nan)
    mean[YEAR - 1 :] = np.lib.stride_tricks.sliding_window_view(filled, YEAR).mean(axis=1)
    return mean


def drift(filled: Floats, years: int | None) -> Floats:
    """(T,) the rise per year (ppm) of the trailing mean, over its last ``years`` or all of its history."""
    level = trailing_mean(filled)
    rise = np.full(len(filled), np.nan)
    t = np.arange(FIRST, len(filled))
    start = np.full(len(t), YEAR - 1) if years is None else np.maximum(t - YEAR * years, YEAR - 1)
    rise[t] = (level[t] - level[start]) / (t - start) * YEAR
    return rise


def baseline(filled: Floats, years: int | None = None) -> Floats:
    """(T, K) seasonal-naive plus drift: week t+k is the week a year before it, plus a year's drift.

    Rows before ``FIRST`` are NaN.
    """
    out = np.full((len(filled), HORIZON), np.nan)
    t = np.arange(FIRST, len(filled))
    ahead = np.arange(1, HORIZON + 1)
    out[t] = filled[t[:, None] + ahead - YEAR] + drift(filled, years)[t, None]
    return out


def targets(ppm: Floats) -> Floats:
    """(T, K) what was measured 1 … K weeks after each week, NaN where nothing was or the record has ended."""
    padded = np.concatenate([ppm[1:], np.full(HORIZON, np.nan)])
    return np.lib.stride_tricks.sliding_window_view(padded, HORIZON).copy()
