"""Columns of sequences in Parquet and Arrow, in every form that a list of steps takes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from networks import Kind, build, noise
from test_archive import sequences

import cgru
from cgru import CgruError
from cgru.archive import columns
from cgru.cli.commands import main

pa = pytest.importorskip("pyarrow", reason="pyarrow is not installed (cgru[arrow])")
import pyarrow.parquet as pq  # noqa: E402

NET = build(Kind(6, 20, layers=2, head=3), 1, "packed")
STEP = pa.list_(pa.float32(), 6)


def column(form: str, xs: list[np.ndarray]) -> Any:
    if form == "flat":
        return pa.array([x.ravel() for x in xs], pa.list_(pa.float32()))
    kind = {
        "fixed": pa.list_(STEP),
        "lists": pa.list_(pa.list_(pa.float32())),
        "large": pa.large_list(STEP),
        "double": pa.list_(pa.list_(pa.float64())),
    }[form]
    return pa.array([x.tolist() for x in xs], kind)


def rows(found: Any) -> list[np.ndarray]:
    return [np.array(y, np.float32).reshape(-1, 3) for y in found.to_pylist()]


@pytest.mark.parametrize("form", ["flat", "fixed", "lists", "large", "double"])
def test_a_column_is_a_dataset(form: str) -> None:
    xs = sequences(25)
    whole = column(form, xs)
    for given in (whole, pa.chunked_array([whole[:7], whole[7:7], whole[7:]])):
        for x, y in zip(xs, cgru.map(NET, given), strict=True):
            assert np.array_equal(y, NET(x))


@pytest.mark.parametrize("form", ["flat", "fixed", "lists", "large", "double"])
def test_rows_at_once_are_the_rows_one_by_one(form: str) -> None:
    """Views of all numbers of a column, where nothing about it is odd; a slice of it, empty rows and nulls included."""
    whole = column(form, [*sequences(9), np.zeros((0, 6), np.float32), *sequences(3)])
    for given in (whole, whole[4:11], whole[9:]):
        at_once = columns._Rows(pa, given, NET)
        assert at_once._plain is not None
        for at in range(len(given)):
            assert np.array_equal(at_once[at], columns._sequence(pa, given, at, NET))
    odd = pa.concat_arrays([whole, pa.nulls(1, whole.type), whole])
    assert columns._plain(pa, odd, NET) is None
    assert np.array_equal(columns._Rows(pa, odd, NET)[3], sequences(9)[3])


def test_ids() -> None:
    net = build(Kind(9, 5, head=3, embedded=True), 1, "packed")
    xs = [np.random.default_rng(k).integers(0, 9, k) for k in range(8)]
    given = pa.array(xs, pa.list_(pa.int32()))
    for x, y in zip(xs, cgru.map(net, given), strict=True):
        assert np.array_equal(y, net(x))


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(columns, "PART", 16)
    NET.save("net.safetensors")
    made = pa.table({"id": [f"r{k}" for k in range(50)], "x": column("fixed", sequences(50))})
    pq.write_table(made, "in.parquet", row_group_size=13)
    with pa.ipc.new_file("in.arrow", made.schema) as file:
        file.write_table(made, max_chunksize=11)
    return made


@pytest.mark.parametrize("source", ["in.parquet", "in.arrow"])
@pytest.mark.parametrize("target", ["out.parquet", "out.arrow"])
def test_a_table(table: Any, source: str, target: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "net.safetensors", source, "-o", target, "--jobs", "2"]) == 0
    assert capsys.readouterr().out == f"{target}: 50 run\n"
    found = pq.read_table(target) if target.endswith("parquet") else pa.ipc.open_file(target).read_all()
    assert found.column_names == ["id", "x", "y"]
    assert found.select(["id", "x"]).to_pylist() == table.to_pylist()
    for x, y in zip(sequences(50), rows(found["y"]), strict=True):
        assert np.array_equal(y, NET(x))
    assert sorted(path.name for path in Path().iterdir()) == sorted(
        {"in.arrow", "in.parquet", "net.safetensors", target}
    )


def test_a_network_that_gives_its_last_output(table: Any) -> None:
    net = build(Kind(6, 20, head=3, last=True), 1, "packed")
    net.save("last.safetensors")
    assert main(["run", "last.safetensors", "in.parquet", "-o", "out.parquet", "--output-column", "score"]) == 0
    found = np.array(pq.read_table("out.parquet")["score"].to_pylist(), np.float32)
    assert np.array_equal(found, np.stack([net(x) for x in sequences(50)]))


def test_it_goes_on_where_it_stopped(
    table: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write, calls = columns.write_whole, []

    def stops(target: Path, data: Any) -> None:
        calls.append(target)
        if len(calls) == 4:  # the mark and two parts are there
            raise KeyboardInterrupt
        write(target, data)

    monkeypatch.setattr(columns, "write_whole", stops)
    command = ["run", "net.safetensors", "in.parquet", "-o", "out.parquet"]
    assert main(command) == 2
    assert not Path("out.parquet").exists()
    monkeypatch.setattr(columns, "write_whole", write)
    capsys.readouterr()
    assert main([*command, "--output-column", "z"]) == 2
    assert "it holds parts of another run" in capsys.readouterr().err
    assert main(command) == 0
    assert capsys.readouterr().out == "out.parquet: 18 run, 32 there already\n"
    for x, y in zip(sequences(50), rows(pq.read_table("out.parquet")["y"]), strict=True):
        assert np.array_equal(y, NET(x))


def test_rows_that_are_bad(table: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """Told and null; with --strict it stops. The number is the row's in the file."""
    values = column("lists", sequences(50)).to_pylist()
    values[3], values[20], values[33], values[34] = None, [[1.0] * 5], [[1.0] * 6, None], [[1.0] * 6, [1.0] * 5]
    pq.write_table(pa.table({"x": pa.array(values, pa.list_(pa.list_(pa.float32())))}), "bad.parquet")
    assert main(["run", "net.safetensors", "bad.parquet", "-o", "out.parquet"]) == 1
    told = capsys.readouterr()
    assert told.out == "out.parquet: 46 run, 4 bad and left out\n"
    assert "bad.parquet: row 3 is null" in told.err
    assert "bad.parquet: row 20 x: the network takes 6 features" in told.err
    assert "bad.parquet: row 33 has a step that is null" in told.err
    assert "bad.parquet: row 34 has steps of different numbers of features" in told.err
    found = pq.read_table("out.parquet")["y"]
    assert [k for k, y in enumerate(found) if not y.is_valid] == [3, 20, 33, 34]
    assert np.array_equal(rows(found.slice(35, 1))[0], NET(sequences(50)[35]))
    assert main(["run", "net.safetensors", "bad.parquet", "-o", "strict.parquet", "--strict"]) == 2
    assert "bad.parquet: row 3 is null" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["in.parquet", "-o", "in.parquet"], "would take the place of the input"),
        (["in.parquet", "-o", "out.npy"], "one table makes one table"),
        (["in.parquet", "-o", "out.parquet", "--format", "npy"], "--format belongs to a folder of outputs"),
        (["in.parquet", "-o", "out.parquet", "--column", "z"], "no column is named 'z'"),
        (["in.parquet", "-o", "out.parquet", "--column", "id"], "expected a column of lists"),
        (["in.parquet", "-o", "out.parquet", "--output-column", "id"], "has a column 'id' already"),
        (["net.parquet", "-o", "out.parquet"], "net.parquet"),
    ],
)
def test_what_is_asked_wrongly(
    table: Any, capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    Path("net.parquet").write_bytes(b"PAR1 and no more")
    assert main(["run", "net.safetensors", *arguments]) == 2
    assert words in capsys.readouterr().err


def test_what_no_column_of_sequences_is() -> None:
    with pytest.raises(CgruError, match="cast the column"):
        list(cgru.map(NET, pa.array([[1, 2, 3, 4, 5, 6]])))
    with pytest.raises(CgruError, match="no multiple of 6"):
        list(cgru.map(NET, pa.array([noise((5,), 0)])))
    with pytest.raises(CgruError, match="found one of double"):
        list(cgru.map(NET, pa.array([1.0, 2.0])))
    with pytest.raises(CgruError, match="found Table"):
        list(cgru.map(NET, pa.table({"x": [1.0]})))
