"""net.gates, the picture of it, and what other cells would cost."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from oracle import FUNCTIONS
from strategies import Case

import cgru
from cgru.cli import commands as cli
from cgru.reports import cell_costs

CASE = Case(5, 7, 2, 2, True, 3, 9, seed=2, lengths=(9, 4, 0))


def test_shapes_names_and_the_equation_of_the_state() -> None:
    net = cgru.Model([CASE.gru(name="enc"), Case(14, 3, 1, 1, True, 1, 1, 3).gru()])
    begin = net.state({"enc.h": CASE.h0}, batch=3)
    found = net.gates(CASE.x, CASE.lengths, state=begin)
    assert list(found) == ["enc.l0", "enc.l0.reverse", "enc.l1", "enc.l1.reverse", "gru.l0"]
    y, state = net.run(CASE.x, begin, CASE.lengths)
    assert np.abs(found["gru.l0"]["h"][0] - y[0]).max() <= 1e-6
    for k, name in enumerate(list(found)[:4]):
        gates = found[name]
        assert set(gates) == {"r", "z", "n", "h"}
        assert {(values.shape, values.dtype.str) for values in gates.values()} == {((3, 9, 7), "<f4")}
        h, steps = gates["h"], [slice(0, 8), slice(1, 9)]
        before, after = steps if "reverse" not in name else steps[::-1]
        # z is the fraction kept: h' = z h + (1 − z) n, step after step, in either direction.
        z, n = gates["z"][0, after], gates["n"][0, after]
        np.testing.assert_allclose(h[0, after], z * h[0, before] + (1 - z) * n, rtol=0, atol=1e-6)
        last = state.arrays()["enc.h"][k]
        np.testing.assert_allclose(h[0, 0 if "reverse" in name else 8], last[0], rtol=0, atol=1e-6)
        assert np.array_equal(gates["z"][1, 4:], np.ones((5, 7)))
        assert not gates["r"][1, 4:].any()
        assert not gates["n"][2].any()
    single = net.gates(CASE.x[0], state={"enc.h": CASE.h0[:, :1]})
    assert np.array_equal(single["enc.l1"]["z"], found["enc.l1"]["z"][0])


def test_gates_of_a_first_step_by_hand() -> None:
    case = Case(3, 4, 1, 1, True, 1, 1, seed=5)
    held, x = {k: v.astype(np.float64) for k, v in case.arrays.items()}, case.x[0, 0].astype(np.float64)
    W, b, c = (np.split(held[stem + "_l0"], 3) for stem in ("weight_ih", "bias_ih", "bias_hh"))
    σ = FUNCTIONS["sigmoid"]
    r, z = σ(W[0] @ x + b[0] + c[0]), σ(W[1] @ x + b[1] + c[1])
    n = np.tanh(W[2] @ x + b[2] + r * c[2])
    found = cgru.Model([case.gru()]).gates(case.x)["gru.l0"]
    for name, want in {"r": r, "z": z, "n": n, "h": (1 - z) * n}.items():
        np.testing.assert_allclose(found[name][0, 0], want, rtol=0, atol=1e-6, err_msg=name)


def test_running_records_nothing_and_is_not_changed() -> None:
    net = cgru.Model([CASE.gru()])
    want = net(CASE.x)
    net.gates(CASE.x)
    assert net(CASE.x).tobytes() == want.tobytes()
    assert list(net._plans) == [net._backend]


def test_a_simple_rnn_keeps_nothing() -> None:
    rng = np.random.default_rng(0)
    rnn = cgru.RNN({"weight_ih_l0": rng.standard_normal((4, 2)), "weight_hh_l0": rng.standard_normal((4, 4))})
    found = cgru.Model([rnn]).gates(np.ones((3, 2), np.float32))["rnn.l0"]
    assert set(found) == {"z", "h"}
    assert not found["z"].any()


# The picture ----------------------------------------------------------------------------------------------

matplotlib = pytest.importorskip("matplotlib", reason="matplotlib is not installed; pip install cgru[plot]")


def known_gates(steps: int = 60) -> dict[str, np.ndarray]:
    """Four units that keep 0.5, 0.99, 0.1 and 0.9 of their state at each step."""
    keep = np.array([0.5, 0.99, 0.1, 0.9], np.float32)
    z = np.tile(keep, (steps, 1))
    r = np.tile(np.arange(4, dtype=np.float32) / 4, (steps, 1))
    return {"z": z, "r": r, "n": r - 0.5, "h": (r - 0.5) * np.linspace(0, 1, steps, dtype=np.float32)[:, None]}


def test_memory_is_the_half_life() -> None:
    from cgru.reports import plot

    lives = plot.half_life(known_gates()["z"])
    np.testing.assert_allclose(lives, np.log(0.5) / np.log([0.5, 0.99, 0.1, 0.9]), rtol=1e-5)
    assert lives[0] == pytest.approx(1)
    assert np.isinf(plot.half_life(np.ones((5, 1), np.float32)))
    assert 0 < plot.half_life(np.zeros((5, 1), np.float32))[0] < 0.1


def test_the_figure_carries_what_it_says() -> None:
    from cgru.reports import plot

    found, x = known_gates(), np.random.default_rng(0).standard_normal((60, 2))
    figure = plot.gates_figure(found, x, title="a title", names=["one", "two"])
    axes: list[Any] = [one for one in figure.axes if one.get_label() != "<colorbar>"]
    top, keep, reset, state, lives = axes
    assert top.get_title() == "a title"
    assert [np.array_equal(line.get_ydata(), x[:, k]) for k, line in enumerate(top.lines)] == [True, True]
    assert [text.get_text() for text in top.get_legend().get_texts()] == ["one", "two"]
    order = [1, 3, 0, 2]  # the longest memory on top
    for panel, gate, word in ((keep, "z", "fraction kept"), (reset, "r", "reset gate"), (state, "h", "state")):
        (picture,) = panel.images
        assert np.array_equal(np.asarray(picture.get_array()), found[gate][:, order].T), gate
        assert word in panel.get_ylabel()
        left, right, bottom, top_edge = picture.get_extent()
        assert (left, right) == (-0.5, 59.5)
        assert bottom > top_edge  # row 0, which remembers longest, is the uppermost
    assert keep.images[0].get_clim() == (0, 1)
    assert state.images[0].get_clim()[0] == -state.images[0].get_clim()[1]
    assert lives.get_xscale() == "log"
    assert sum(bar.get_height() for bar in lives.patches) == 4
    assert "half-life" in lives.get_xlabel()
    (median,) = [text.get_text() for text in lives.texts if "median" in text.get_text()]
    assert median == f"median {np.median(plot.half_life(found['z'])):.3g} steps"
    values = plot.half_life(found["z"])
    for bar in lives.patches:
        low, high = bar.get_x(), bar.get_x() + bar.get_width()
        assert bar.get_height() == ((values >= low) & (values < high)).sum()


def test_many_features_ids_and_long_sequences() -> None:
    from cgru.reports import plot

    long = {gate: np.repeat(values, 100, axis=0) for gate, values in known_gates().items()}
    figure = plot.gates_figure(long, np.arange(6000))
    keep = figure.axes[1].images[0]
    assert np.asarray(keep.get_array()).shape == (4, plot.COLUMNS)
    np.testing.assert_allclose(np.asarray(keep.get_array())[0], 0.99, rtol=1e-6)
    wide = plot.gates_figure(known_gates(), np.ones((60, 30)))
    assert np.asarray(wide.axes[0].images[0].get_array()).shape == (30, 60)
    rnn = plot.gates_figure({"z": np.zeros((5, 3)), "h": np.ones((5, 3))}, np.ones((5, 1)))
    assert "state" in rnn.axes[1].get_ylabel()
    with pytest.raises(cgru.ShapeError, match="one sequence"):
        plot.gates_figure({"z": np.zeros((2, 5, 3)), "h": np.zeros((2, 5, 3))}, np.ones((5, 1)))


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    cgru.Model([CASE.gru()]).save(tmp_path / "net.safetensors")
    np.save(tmp_path / "x.npy", CASE.x)
    return tmp_path / "net.safetensors", tmp_path / "x.npy"


def test_the_command_draws(files: tuple[Path, Path], tmp_path: Path, capsys: Any) -> None:
    out = tmp_path / "gates.png"
    options = ["--layer", "gru.l1.reverse", "--row", "2"]
    assert cli.main(["gates", *map(str, files), "-o", str(out), *options]) == 0
    assert out.read_bytes().startswith(b"\x89PNG")
    assert "gru.l1.reverse, 9 steps" in capsys.readouterr().out
    pixels = matplotlib.image.imread(out)[..., :3]
    assert pixels.shape[0] > 600
    assert len(np.unique((pixels * 255).astype(np.uint8).reshape(-1, 3), axis=0)) > 200  # heat maps, not a blank page


@pytest.mark.parametrize(
    ("options", "says"),
    [(["--layer", "gru.l7"], "gru.l0.reverse"), (["--row", "3"], "rows 0 to 2"), (["-o", "x.doc"], ".png")],
)
def test_the_command_refuses(files: tuple[Path, Path], options: list[str], says: str, capsys: Any) -> None:
    assert cli.main(["gates", *map(str, files), *options]) == 2
    assert says in capsys.readouterr().err


def test_without_matplotlib_it_says_what_to_install(files: tuple[Path, Path], monkeypatch: Any, capsys: Any) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert cli.main(["gates", *map(str, files)]) == 2
    assert 'pip install "cgru[plot]"' in capsys.readouterr().err


# Costs ----------------------------------------------------------------------------------------------------


def test_costs_are_those_of_the_sizes(files: tuple[Path, Path], capsys: Any) -> None:
    net = cgru.load(files[0])
    found = {cost.cell: cost for cost in cell_costs.costs(net.layers)}
    assert list(found) == ["GRU", "LSTM", "RNN"]
    assert found["GRU"].parameters == net.parameters
    assert 4 * found["GRU"].parameters == 3 * found["LSTM"].parameters == 12 * found["RNN"].parameters
    # I·H + H·H for each gate, both directions, the second layer fed by both.
    assert found["RNN"].multiply_adds == 2 * (5 * 7 + 7 * 7) + 2 * (14 * 7 + 7 * 7)
    assert found["LSTM"].multiply_adds == 4 * found["RNN"].multiply_adds
    assert all(cost.microseconds > 0 and cost.bytes >= 4 * cost.parameters for cost in found.values())
    assert cli.main(["info", str(files[0])]) == 0
    printed = capsys.readouterr().out
    for cell, cost in found.items():
        assert any(line.startswith(cell) and f"{cost.parameters:,}" in line for line in printed.splitlines()), cell
    assert cell_costs.costs([cgru.Dense(np.ones((2, 3)))]) == []
