"""The demo: its networks give what PyTorch and Keras gave, its errors are what it prints, and nothing looks ahead.

The golden outputs in fixtures/demo/ were written by the frameworks when examples/*.py trained the networks.
"""

from __future__ import annotations

import csv
import importlib.util
import io
import json
import math
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import cgru
from cgru import demo
from cgru.demo import chart, co2, words

GOLDEN = Path(__file__).parent / "fixtures" / "demo"
SERIES = co2.read(demo.FILES / "co2.csv")
SCALING = co2.Scaling.load(demo.FILES / "co2_gru.json")
WEEKS = len(SERIES.ppm)
TEST = co2.split(WEEKS)

needs_matplotlib = pytest.mark.skipif(
    importlib.util.find_spec("matplotlib") is None, reason="needs matplotlib: pip install cgru[plot]"
)


@pytest.fixture(scope="module")
def result() -> demo.Forecast:
    return demo.forecast()


def plain_record() -> list[float | None]:
    """The measured column, read without the code under test."""
    with open(demo.FILES / "co2.csv", encoding="ascii") as file:
        return [float(row[1]) if row[1] else None for row in list(csv.reader(file))[1:]]


def plain_fill(record: list[float | None]) -> list[float]:
    filled: list[float] = []
    for t, value in enumerate(record):
        if value is None:
            value = filled[t - 1] + (filled[t - 52] - filled[t - 53] if t >= 53 else 0.0)
        filled.append(value)
    return filled


def errors(pairs: list[tuple[float, float]]) -> tuple[float, float]:
    """RMSE and MAE of (forecast, truth) pairs, by their definitions."""
    squares = math.fsum((forecast - truth) ** 2 for forecast, truth in pairs)
    return math.sqrt(squares / len(pairs)), math.fsum(abs(f - truth) for f, truth in pairs) / len(pairs)


# ---- the record and the task ------------------------------------------------------------------------------


def test_record_is_the_weekly_one_with_its_gaps() -> None:
    assert (SERIES.days[0], SERIES.days[-1]) == (np.datetime64("1958-03-29"), np.datetime64("2001-12-29"))
    assert set(np.diff(SERIES.days)) == {np.timedelta64(7, "D")}
    assert (WEEKS, int(np.isnan(SERIES.ppm).sum())) == (2284, 59)
    assert abs(TEST / WEEKS - 0.8) < 1 / WEEKS


def test_gaps_are_filled_from_the_past() -> None:
    np.testing.assert_allclose(co2.fill(SERIES.ppm), plain_fill(plain_record()), rtol=0, atol=1e-9)


@settings(max_examples=40, deadline=None)
@given(
    known=st.integers(co2.FIRST + 30, WEEKS - 1),
    hole=st.integers(0, 20),
    seed=st.integers(0, 2**32 - 1),
    gaps=st.sampled_from([0.0, 0.3, 1.0]),
)
def test_the_future_changes_nothing_before_it(known: int, hole: int, seed: int, gaps: float) -> None:
    """Replace all that comes after ``known`` weeks, the last ``hole`` of them not measured: up to there the inputs,
    the reference and the baseline keep their bits."""
    rng = np.random.default_rng(seed)
    ppm = SERIES.ppm.copy()
    ppm[known - hole : known] = np.nan
    changed = ppm.copy()
    changed[known:] = rng.uniform(100, 900, WEEKS - known)
    changed[known + 1 :][rng.random(WEEKS - known - 1) < gaps] = np.nan
    series, other = co2.Series(SERIES.days, ppm), co2.Series(SERIES.days, changed)
    for made in (
        lambda series: co2.fill(series.ppm),
        lambda series: co2.inputs(series, SCALING),
        lambda series: co2.reference(series, SCALING),
        lambda series: co2.baseline(co2.fill(series.ppm)),
    ):
        before, after = made(series), made(other)
        np.testing.assert_array_equal(after[:known], before[:known])
        assert not np.array_equal(after[known], before[known])


def test_forecasts_made_at_the_time_are_the_ones_shown(result: demo.Forecast) -> None:
    """The whole chain on the record as it stood at four origins, against the run over the whole record."""
    net = cgru.load(demo.FILES / "co2_gru.pt")
    for origin in (0, 100, 333, len(result.days) - 1):
        known = SERIES.before(TEST + origin + 1)
        assert known.days[-1] == result.days[origin]
        y = net(co2.inputs(known, SCALING)[co2.FIRST :].astype(np.float32))
        made = co2.combine(co2.reference(known, SCALING)[-1], y[-1], SCALING)
        np.testing.assert_allclose(made, result.network[origin], rtol=0, atol=5e-6)


def test_constants_are_fitted_on_the_training_part_alone() -> None:
    fitted = co2.fit(SERIES.before(TEST))
    np.testing.assert_allclose(fitted.season, SCALING.season, rtol=1e-9)
    np.testing.assert_allclose(fitted[1:], SCALING[1:], rtol=1e-9)
    assert np.isnan(co2.targets(SERIES.before(TEST).ppm)[-1]).all()


def test_reference_is_level_plus_drift_plus_season() -> None:
    """By its definition, with the standard library, from two origins."""
    filled = plain_fill(plain_record())
    days = [day.item() for day in SERIES.days]

    def season(day) -> float:
        angle = 2 * math.pi * (day - day.replace(month=1, day=1)).days / 365.25
        pairs = zip(SCALING.season[::2], SCALING.season[1::2], strict=True)
        return sum(a * math.sin(j * angle) + b * math.cos(j * angle) for j, (a, b) in enumerate(pairs, start=1))

    made = co2.reference(SERIES, SCALING)
    for t in (700, 2000):
        drift = (sum(filled[t - 51 : t + 1]) - sum(filled[t - 571 : t - 519])) / 52 / 10
        level = sum(filled[i] - season(days[i]) for i in range(t - 7, t + 1)) / 8 + 3.5 / 52 * drift
        for k in (1, 13, 26):
            expected = level + k / 52 * drift + season(days[t] + (days[1] - days[0]) * k)
            assert made[t, k - 1] == pytest.approx(expected, abs=1e-9)


# ---- the forecaster ---------------------------------------------------------------------------------------


def test_forecaster_agrees_with_pytorch() -> None:
    with np.load(GOLDEN / "co2_torch.npz") as golden:
        expected = golden["output"]
    x = co2.inputs(SERIES, SCALING)[co2.FIRST :].astype(np.float32)
    y = cgru.load(demo.FILES / "co2_gru.pt")(x)
    np.testing.assert_allclose(y[TEST - co2.FIRST :], expected, rtol=0, atol=2e-6)


def test_printed_errors_are_those_of_the_forecasts_and_of_the_baseline() -> None:
    """RMSE and MAE recomputed in plain Python: PyTorch's output for the network, the definition for the baseline."""
    record = plain_record()
    filled = plain_fill(record)
    with np.load(GOLDEN / "co2_torch.npz") as golden:
        ppm = co2.reference(SERIES, SCALING)[TEST:] + golden["output"].astype(np.float64) * SCALING.output
    network, naive = [], []
    for t in range(TEST, WEEKS - 26):
        drift = (sum(filled[t - 51 : t + 1]) - sum(filled[t - 571 : t - 519])) / 52 / 10
        for k in range(1, 27):
            truth = record[t + k]
            if truth is not None:
                network.append((float(ppm[t - TEST, k - 1]), truth))
                naive.append((filled[t + k - 52] + drift, truth))

    out = io.StringIO()
    assert demo.run(out=out) == 0
    printed = {line[:24].strip(): line[24:].split()[:2] for line in out.getvalue().splitlines()}
    assert printed["network"] == [f"{error:.3f}" for error in errors(network)]
    assert printed["seasonal-naive + drift"] == [f"{error:.3f}" for error in errors(naive)]
    assert errors(network)[0] < 0.7 * errors(naive)[0]


def test_network_beats_the_baseline_at_every_week_ahead(result: demo.Forecast) -> None:
    assert result.network.shape == result.baseline.shape == (WEEKS - TEST - 26, 26)
    for k in range(26):
        assert co2.rmse(result.network[:, k], result.truth[:, k]) < co2.rmse(result.baseline[:, k], result.truth[:, k])
        assert co2.mae(result.network[:, k], result.truth[:, k]) < co2.mae(result.baseline[:, k], result.truth[:, k])


# ---- the classifier ---------------------------------------------------------------------------------------


def test_classifier_agrees_with_keras() -> None:
    with np.load(GOLDEN / "stress_keras.npz") as golden:
        expected = golden["probability"]
    classified = demo.classify()
    np.testing.assert_allclose(classified.probability, expected, rtol=0, atol=2e-6)
    np.testing.assert_array_equal(classified.words.keras, expected.argmax(axis=1))

    with open(demo.FILES / "stress.csv", encoding="ascii") as file:
        rows = list(csv.DictReader(file))
    right = sum(int(row["stress"]) == guess + 1 for row, guess in zip(rows, expected.argmax(axis=1), strict=True))
    out = io.StringIO()
    demo.run(out=out)
    shown = f"Right: {right / 1000:.1%} of 1000 words; Keras {right / 1000:.1%}; both say the same for 1000."
    assert shown in " ".join(out.getvalue().split())


def test_listed_words_are_test_words_and_encode_by_hand() -> None:
    listed = words.read(demo.FILES / "stress.csv")
    assert len(set(listed.spelling)) == 1000
    assert {zlib.crc32(word[:5].encode()) % 10 for word in listed.spelling} == {9}
    assert set(listed.stress) <= set(range(4))
    np.testing.assert_array_equal(words.encode(["abz", "a" * 16]), [[1, 2, 26] + [0] * 13, [1] * 16])


# ---- what is shown ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [40, 80, 200])
@pytest.mark.parametrize("encoding", ["ascii", "utf-8"])
def test_output_fits_the_terminal(monkeypatch: pytest.MonkeyPatch, width: int, encoding: str) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    raw = io.BytesIO()
    out = io.TextIOWrapper(raw, encoding=encoding)
    demo.run(out=out)
    out.flush()
    lines = raw.getvalue().decode(encoding).splitlines()
    assert max(map(len, lines)) <= width
    assert any("⊕" in line for line in lines) == (encoding == "utf-8")


def test_chart_puts_each_value_in_its_row() -> None:
    """Values 0 … 11 in twelve rows; measured above forecast, both in one place, and a week that was not measured."""
    days = np.datetime64("2000-12-16") + 7 * np.arange(8)
    truth = np.array([11.0, 0, 5, 0, np.nan, 0, 8, 0])
    forecast = np.array([0.0, 0, 5, 0, 2, 0, 9, 0])
    lines = chart.text(days, truth, forecast, 40, plain=True)
    body = [line[7:] for line in lines[:12]]
    assert [row for row in range(12) if "o" in body[row]] == [0, 3]
    assert [row for row in range(12) if "+" in body[row]] == [2, 9, 11]
    assert [body[6].find("@"), body[11].find("+"), body[9].find("+")] == [1, 0, 2]
    assert lines[6].startswith("    5 |")


def test_json_holds_the_same_figures(result: demo.Forecast) -> None:
    out = io.StringIO()
    demo.run(json=True, out=out)
    found = json.loads(out.getvalue())["forecast"]
    assert (found["origins"], found["weeks_ahead"]) == (431, 26)
    assert found["network"]["rmse"] == pytest.approx(co2.rmse(result.network, result.truth))
    assert found["seasonal_naive_drift"]["mae"] == pytest.approx(co2.mae(result.baseline, result.truth))
    assert len(found["network"]["rmse_by_week"]) == 26
    assert found["seconds_per_forecast"] > 0


@needs_matplotlib
def test_plot_is_drawn(tmp_path: Path) -> None:
    out = io.StringIO()
    demo.run(plot=tmp_path / "out.png", out=out)
    assert (tmp_path / "out.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert str(tmp_path / "out.png") in out.getvalue()
    with pytest.raises(cgru.CgruError, match=r"out\.nonsense.*\.png"):
        demo.run(plot=tmp_path / "out.nonsense", out=io.StringIO())


def test_plot_without_matplotlib_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(cgru.CgruError, match=r'pip install "cgru\[plot\]"'):
        demo.run(plot=tmp_path / "out.png", out=io.StringIO())


def test_files_are_small() -> None:
    sizes = {path.name: path.stat().st_size for path in demo.FILES.iterdir() if path.is_file()}
    assert max(sizes["co2_gru.pt"], sizes["stress_gru.keras"]) < 150_000
    assert sum(sizes.values()) < 400_000
