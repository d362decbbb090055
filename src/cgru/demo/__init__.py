"""What ``cgru demo`` does: run a forecaster from PyTorch and a classifier from Keras on real data.

The files lie beside this one; SOURCES.md says where the data come from, and ``examples/`` holds the scripts
that trained the networks.
"""

from __future__ import annotations

import json as json_module
import os
import shutil
import statistics
import sys
import textwrap
import time
from pathlib import Path
from typing import Any, NamedTuple, TextIO

import numpy as np
from numpy.typing import NDArray

from cgru.demo import chart, co2, words

__all__ = ["Classification", "Forecast", "classify", "forecast", "run"]

FILES = Path(__file__).parent
REPEATS = 5


class Forecast(NamedTuple):
    """What the forecaster did. N origins of the test part, K = 26 weeks ahead, ppm.

    ``days`` (N,): the origins; ``truth`` (N, K), NaN where nothing was measured; ``network`` and ``baseline``
    (N, K); ``weeks``: how many origins the network ran over, from the start of the record; ``load_seconds``;
    ``run_seconds``: the median time of one call over all ``weeks``.
    """

    days: co2.Days
    truth: co2.Floats
    network: co2.Floats
    baseline: co2.Floats
    weeks: int
    load_seconds: float
    run_seconds: float


class Classification(NamedTuple):
    """What the classifier did on N words: ``probability`` (N, 4) and the times as in :class:`Forecast`."""

    words: words.Words
    probability: NDArray[np.float32]
    load_seconds: float
    run_seconds: float


def forecast() -> Forecast:
    """Load ``co2_gru.pt`` and run it over the whole record in one call: each week yields a forecast."""
    series = co2.read(FILES / "co2.csv")
    scaling = co2.Scaling.load(FILES / "co2_gru.json")
    x = co2.inputs(series, scaling)[co2.FIRST :].astype(np.float32)
    y, load_seconds, run_seconds = _time(FILES / "co2_gru.pt", x)
    test = co2.origins(len(series.ppm))
    output = y[test.start - co2.FIRST : test.stop - co2.FIRST]
    return Forecast(
        days=series.days[test],
        truth=co2.targets(series.ppm)[test],
        network=co2.combine(co2.reference(series, scaling)[test], output, scaling),
        baseline=co2.baseline(co2.fill(series.ppm))[test],
        weeks=len(x),
        load_seconds=load_seconds,
        run_seconds=run_seconds,
    )


def classify() -> Classification:
    """Load ``stress_gru.keras`` and run it over the test words."""
    listed = words.read(FILES / "stress.csv")
    return Classification(listed, *_time(FILES / "stress_gru.keras", words.encode(listed.spelling)))


def _time(path: Path, x: NDArray[Any]) -> tuple[NDArray[np.float32], float, float]:
    """``cgru.load(path)(x)``, the seconds that loading took, and the median seconds of a call."""
    import cgru

    start = time.perf_counter()
    net = cgru.load(path)
    load_seconds = time.perf_counter() - start
    seconds = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        y = net(x)
        seconds.append(time.perf_counter() - start)
    return y, load_seconds, statistics.median(seconds)


def run(*, plot: str | os.PathLike[str] | None = None, json: bool = False, out: TextIO | None = None) -> int:
    """Run both networks, print what they did to ``out`` (standard output), draw the forecast into ``plot``.

    Returns 0; raises :class:`cgru.CgruError` where ``plot`` is given and matplotlib is missing.
    """
    out = sys.stdout if out is None else out
    if plot is not None:
        chart.require_matplotlib()
    result = forecast()
    classified = classify()
    if plot is not None:
        days, truth, made = _made_before(result)
        by_week = {name: scores["rmse_by_week"] for name, scores in _scores(result).items()}
        chart.draw(plot, days, truth, made, by_week)
    if json:
        print(json_module.dumps(_summary(result, classified), ensure_ascii=False), file=out)
    else:
        width = min(shutil.get_terminal_size((80, 24)).columns, 120)
        plain = not _encodes("".join(chart.MARKS) + "│└₂×µ", out)
        lines = [*_forecast_lines(result, width, plain), "", *_word_lines(classified, width, plain)]
        if plot is not None:
            lines += ["", f"Drawn in {os.fspath(plot)}"]
        print("\n".join(lines), file=out)
    return 0


def _encodes(characters: str, out: TextIO) -> bool:
    try:
        characters.encode(getattr(out, "encoding", None) or "utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _made_before(result: Forecast) -> tuple[co2.Days, co2.Floats, co2.Floats]:
    """(N,) each: the weeks K after the origins, what was measured in them, what had been forecast."""
    ahead = np.timedelta64(7 * co2.HORIZON, "D")
    return result.days + ahead, result.truth[:, -1], result.network[:, -1]


def _scores(result: Forecast) -> dict[str, dict[str, Any]]:
    """RMSE and MAE in ppm, over all weeks ahead and by each."""
    return {
        name: {
            "rmse": co2.rmse(each, result.truth),
            "mae": co2.mae(each, result.truth),
            "rmse_by_week": [co2.rmse(each[:, k], result.truth[:, k]) for k in range(co2.HORIZON)],
        }
        for name, each in (("network", result.network), ("seasonal-naive + drift", result.baseline))
    }


def _accuracy(classified: Classification) -> tuple[float, float, int]:
    """The share of words right by cgru and by Keras, and on how many words the two agree."""
    guess = classified.probability.argmax(axis=1)
    listed = classified.words
    return (
        float(np.mean(guess == listed.stress)),
        float(np.mean(listed.keras == listed.stress)),
        int(np.sum(guess == listed.keras)),
    )


def _summary(result: Forecast, classified: Classification) -> dict[str, Any]:
    summary: dict[str, Any] = {
        "forecast": {
            "file": "co2_gru.pt",
            "unit": "ppm",
            "weeks_ahead": co2.HORIZON,
            "origins": len(result.days),
            "first_origin": str(result.days[0]),
            "last_origin": str(result.days[-1]),
            **{name.replace(" + ", "_").replace("-", "_"): scores for name, scores in _scores(result).items()},
            "load_seconds": result.load_seconds,
            "run_seconds": result.run_seconds,
            "seconds_per_forecast": result.run_seconds / result.weeks,
        }
    }
    ours, keras, agreed = _accuracy(classified)
    summary["classifier"] = {
        "file": "stress_gru.keras",
        "words": len(classified.words.spelling),
        "accuracy": ours,
        "keras_accuracy": keras,
        "agrees_with_keras": agreed,
        "load_seconds": classified.load_seconds,
        "run_seconds": classified.run_seconds,
        "seconds_per_word": classified.run_seconds / len(classified.words.spelling),
    }
    return summary


def _forecast_lines(result: Forecast, width: int, plain: bool) -> list[str]:
    weeks = co2.HORIZON
    measured, expected, both = chart.PLAIN_MARKS if plain else chart.MARKS
    gas, times = ("CO2", "x") if plain else ("CO₂", "×")
    ahead = [k for k in (1, 4, 13, weeks) if width >= 72]
    table = [f"{'':24}{'RMSE':>7}{'MAE':>7}" + "".join(f"{f'week {k}':>9}" for k in ahead)]
    scores = _scores(result)
    for name, score in scores.items():
        by_week = "".join(f"{score['rmse_by_week'][k - 1]:9.3f}" for k in ahead)
        table.append(f"{name:24}{score['rmse']:7.3f}{score['mae']:7.3f}{by_week}")
    network, baseline = (score["rmse"] for score in scores.values())
    return [
        *_prose(f"Weekly {gas} at Mauna Loa (ppm): a GRU from PyTorch, co2_gru.pt", width),
        *_prose(f"{measured} measured   {expected} forecast {weeks} weeks before   {both} both", width),
        "",
        *chart.text(*_made_before(result), width, plain),
        "",
        *_prose(
            f"Error in ppm over the last 20 %: {len(result.days)} origins {times} {weeks} weeks ahead, "
            f"{result.days[0]} to {result.days[-1]}",
            width,
        ),
        *table,
        *_prose(
            f"The network's RMSE is {network / baseline:.0%} of the baseline's. "
            f"Loaded in {_duration(result.load_seconds, plain)}; {result.weeks} forecasts in "
            f"{_duration(result.run_seconds, plain)}, {_duration(result.run_seconds / result.weeks, plain)} each.",
            width,
        ),
    ]


def _word_lines(classified: Classification, width: int, plain: bool) -> list[str]:
    title = _prose("Stress of English words from their spelling: a GRU from Keras, stress_gru.keras", width)
    listed, probability = classified.words, classified.probability
    guess = probability.argmax(axis=1)
    count = len(guess)
    table = [f"{'word':18}{'network':12}dictionary"]
    for i in range(0, count, count // 8):
        heard = f"{words.CLASSES[guess[i]]} {probability[i, guess[i]]:.0%}"
        table.append(f"{listed.spelling[i]:18}{heard:12}{words.CLASSES[listed.stress[i]]}")
    ours, keras, agreed = _accuracy(classified)
    return [
        *title,
        *table,
        *_prose(
            f"Right: {ours:.1%} of {count} words; Keras {keras:.1%}; both say the same for {agreed}. "
            f"Loaded in {_duration(classified.load_seconds, plain)}; {count} words in "
            f"{_duration(classified.run_seconds, plain)}, {_duration(classified.run_seconds / count, plain)} each.",
            width,
        ),
    ]


def _prose(text: str, width: int) -> list[str]:
    return textwrap.wrap(text, width)


def _duration(seconds: float, plain: bool) -> str:
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("us" if plain else "µs", 1e-6)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds / 1e-9:.3g} ns"
