"""Networks as tables for notebooks and as pictures."""

from __future__ import annotations

import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from networks import noise

import cgru
from cgru.cli.commands import main

NAME = "<script>alert('$x^$')</script>&"


def net() -> cgru.Model:
    g = cgru.Graph()
    x = g.input(3)
    c = g.conv1d(x, units=3, width=2, left=1, weights={"weight": noise((3, 3, 2), 0)}, name="front")
    h = g.layer(cgru.GRU({"weight_ih_l0": noise((12, 3), 1), "weight_hh_l0": noise((12, 4), 2)}, name=NAME), c)
    g.output(g.layer(cgru.Dense(noise((2, 7), 3)), g.concat(h, x, name="join")))
    return cgru.Model(g)


class Cells(HTMLParser):
    """The texts of a table's cells, and every tag there is."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.texts: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.add(tag)
        self.texts.append("")

    def handle_data(self, data: str) -> None:
        self.texts[-1] += data


def test_a_model_as_html_says_what_print_says() -> None:
    model = net().noting("a note with <b>tags</b>")
    found = Cells(model._repr_html_())
    assert found.tags <= {"table", "thead", "tbody", "tr", "th", "td", "div"}
    for text in (NAME, "front", "conv1d", "a note with <b>tags</b>", f"{model.parameters:,} parameters"):
        assert any(text in cell for cell in found.texts), text
    for line in str(model).splitlines()[2:-3]:
        assert line.split("  ")[0] in found.texts


def test_long_options_are_cut() -> None:
    g = cgru.Graph()
    g.output(g.reshape(g.input(64), features=(1,) * 60 + (64,)))
    assert max(map(len, str(cgru.Model(g)).splitlines())) < 200


def test_a_graph_as_html() -> None:
    g = cgru.Graph()
    x = g.input(3, name="<i>")
    g.output(g.add(x, x, name="sum"))
    found = Cells(g._repr_html_())
    assert "i" not in found.tags
    assert [text for text in found.texts if text] == [
        *("value", "operation", "of", "shape"),
        *("<i>", "input", "(B, T, 3)"),
        *("sum", "add", "<i>, <i>", "(B, T, 3)"),
        "outputs: sum",
    ]


def test_entries_as_html() -> None:
    g = cgru.Graph()
    g.output(g.layer(cgru.Dense(noise((2, 3), 3)), g.input(3)))
    entries: Any = {"<encode>": g}
    page = cgru.Model(entries)._repr_html_()
    assert "&lt;encode&gt;" in page
    assert "<encode>" not in page


matplotlib = pytest.importorskip("matplotlib", reason="matplotlib is not installed; pip install cgru[plot]")


def test_every_part_stands_below_what_it_reads() -> None:
    from cgru.reports.drawing import layout

    boxes, edges = layout(net())
    assert set(edges) == {
        ("input x", "layer front"), ("layer front", f"layer {NAME}"), (f"layer {NAME}", "layer join"),
        ("input x", "layer join"), ("layer join", "layer dense"), ("layer dense", "output dense"),
    }  # fmt: skip
    assert all(boxes[a].row < boxes[b].row for a, b in edges)
    assert len({(box.column, box.row) for box in boxes.values()}) == len(boxes)


def test_info_draws_the_network(tmp_path: Path, capsys: Any) -> None:
    file, out = tmp_path / "net.safetensors", tmp_path / "net.png"
    net().save(file)
    assert main(["info", str(file), "--plot", str(out)]) == 0
    pixels = matplotlib.image.imread(out)[..., :3]
    assert min(pixels.shape[:2]) > 200
    assert np.ptp(pixels) > 0.5
    assert main(["info", str(file), "--plot", str(tmp_path / "net.tables")]) == 2
    assert "net.tables" in capsys.readouterr().err


def test_without_matplotlib_it_says_what_to_install(tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    file = tmp_path / "net.safetensors"
    net().save(file)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert main(["info", str(file), "--plot", str(tmp_path / "net.png")]) == 2
    assert 'pip install "cgru[plot]"' in capsys.readouterr().err
    assert not (tmp_path / "net.png").exists()
