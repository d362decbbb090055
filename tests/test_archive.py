"""Archives: many sequences, many files, columns of tables; in order, to the bit, from where the last run stopped."""

from __future__ import annotations

import io
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from networks import KINDS, Kind, build, noise
from test_graph import GRAPHS

import cgru
from cgru import CgruError
from cgru.archive import batches, folders
from cgru.archive.progress import Progress
from cgru.cli.commands import main

NET = build(Kind(6, 20, layers=2, head=3), 1, "packed")


def sequences(count: int, seed: int = 0) -> list[np.ndarray]:
    lengths = np.random.default_rng(seed).integers(0, 60, count)
    return [noise((int(length), 6), seed + k) for k, length in enumerate(lengths)]


# ---- cgru.map ------------------------------------------------------------------------------------------------------


@given(KINDS, st.lists(st.integers(0, 20), max_size=30), st.integers(1, 3), st.integers(1, 2000))
def test_every_sequence_comes_back_in_order_with_its_own_bits(
    kind: Kind, lengths: list[int], jobs: int, window: int
) -> None:
    net = build(kind, 1, "packed")
    rng = np.random.default_rng(len(lengths))
    if kind.embedded:
        xs: list[np.ndarray] = [rng.integers(0, kind.inputs, length) for length in lengths]
    else:
        xs = [rng.standard_normal((length, kind.inputs), np.float32) for length in lengths]
    found = list(cgru.map(net, iter(xs), jobs=jobs, window=window))
    assert len(found) == len(xs)
    for x, y in zip(xs, found, strict=True):
        assert np.array_equal(y, net(x))


def test_two_directions_and_several_arrays() -> None:
    rng = np.random.default_rng(0)
    shapes = {"weight_ih_l0": (15, 4), "weight_hh_l0": (15, 5), "bias_ih_l0": (15,), "bias_hh_l0": (15,)}
    tensors = {
        name + end: rng.standard_normal(shape, np.float32) for end in ("", "_reverse") for name, shape in shapes.items()
    }
    net = cgru.Model([cgru.GRU.from_torch(tensors)])
    xs = [rng.standard_normal((n, 4), np.float32) for n in (5, 1, 9, 3)]
    for x, y in zip(xs, cgru.map(net, xs), strict=True):
        assert np.array_equal(y, net(x))


@pytest.mark.parametrize("name", GRAPHS)
def test_graphs(name: str) -> None:
    """One that looks ahead, and one whose outputs have fewer steps than its input."""
    net = cgru.Model(GRAPHS[name]())
    xs = [noise((n, net.input_size), n) for n in (9, 0, 4, 17, 8)]
    for x, y in zip(xs, cgru.map(net, xs), strict=True):
        assert np.array_equal(y, net(x))


def test_a_graph_of_several_inputs_is_refused() -> None:
    two = cgru.Graph()
    two.output(two.add(two.input(3, name="a"), two.input(3, name="b")))
    with pytest.raises(cgru.UnsupportedError, match=r"cgru.map takes networks of one input and one output"):
        cgru.map(cgru.Model(two), [])


def test_memory_is_bounded() -> None:
    """A generator without end is read three windows ahead and no further."""
    read = [0]

    def endless() -> Iterator[np.ndarray]:
        while True:
            read[0] += 1
            yield noise((10, 6), 0)

    going = cgru.map(NET, endless(), jobs=2, window=10 * 240)
    for _ in range(100):
        next(going)
    assert read[0] <= 100 + 3 * 10 + 1
    going.close()  # type: ignore[attr-defined]


def test_batches_are_of_similar_length_and_bounded() -> None:
    lengths = np.random.default_rng(0).integers(0, 5000, 3000).tolist()
    parts = list(batches._batches(lengths))
    assert sorted(i for part in parts for i in part) == list(range(3000))
    steps = sum(len(part) * max(lengths[i] for i in part) for part in parts)
    assert steps < 1.01 * sum(lengths), "hardly any step is padding"
    for part in parts:
        assert len(part) <= batches.ROWS
        assert len(part) == 1 or len(part) * max(lengths[i] for i in part) <= batches.STEPS


def test_jobs_run_beside_one_another() -> None:
    meeting = threading.Barrier(2, timeout=30)

    class Meeting(cgru.Model):
        def __call__(self, *args: Any, **options: Any) -> Any:
            meeting.wait()
            return super().__call__(*args, **options)

    net = Meeting(NET.layers)
    xs = [noise((5, 6), k) for k in range(2 * batches.ROWS)]
    assert len(list(cgru.map(net, xs, jobs=2))) == len(xs)


@pytest.mark.parametrize(
    ("dataset", "words"),
    [
        ([noise((3, 6), 0), noise((3, 5), 0)], "dataset: sequence 1: x: the network takes 6 features"),
        ([noise((2, 3, 6), 0)], r"dataset: sequence 0: expected one sequence, \(T, I\)"),
        ([None], "dataset: sequence 0"),
        (7, "dataset: expected sequences to go through"),
    ],
)
def test_what_does_not_fit_is_named(dataset: Any, words: str) -> None:
    with pytest.raises(CgruError, match=words):
        list(cgru.map(NET, dataset))


def test_the_bar_tells_rate_and_remaining_time() -> None:
    now = [0.0]

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    bar = Progress(1000, "files", before=200, stream=terminal, clock=lambda: now[0])
    bar.add(100)
    assert terminal.getvalue() == "", "nothing in the first two seconds"
    now[0] = 10.0
    bar.add(100)
    assert "400 of 1,000 files, 20 a second, 0:30 left" in terminal.getvalue()
    assert "[#########               ]" in terminal.getvalue()
    assert Progress(None, "rows").line(2.0) == "0 rows, 0 a second"
    long = Progress(3701, "files")
    assert "? left" in long.line(1.0)
    long.add(1)
    assert "1:01:40 left" in long.line(1.0)


# ---- folders -------------------------------------------------------------------------------------------------------


@pytest.fixture
def archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A network and twenty files in two folders; one is damaged, one of other features, one holds a batch."""
    monkeypatch.chdir(tmp_path)
    NET.save("net.safetensors")
    for k, x in enumerate(sequences(20)):
        path = tmp_path / "data" / f"part{k % 2}" / f"{k:02}.npy"
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, x)
    (tmp_path / "data" / "part0" / "04.npy").write_bytes(b"\x93NUMPY no")
    np.save(tmp_path / "data" / "part1" / "07.npy", noise((3, 5), 0))
    np.savez(tmp_path / "data" / "part1" / "batch.npz", x=noise((2, 9, 6), 5), lengths=[9, 4])
    return tmp_path


def test_a_folder_of_files(archive: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "net.safetensors", "data/**/*.np[yz]", "-o", "out/", "--jobs", "2"]) == 1
    told = capsys.readouterr()
    assert told.out == "out/: 19 run, 2 bad and left out\n"
    assert "data/part0/04.npy: left out: no readable .npy array" in told.err
    assert "data/part1/07.npy: left out: x: the network takes 6 features" in told.err
    assert told.err.count("\n") == 2
    for k, x in enumerate(sequences(20)):
        target = archive / "out" / f"part{k % 2}" / f"{k:02}.npy"
        if k in (4, 7):
            assert not target.exists()
        else:
            assert np.array_equal(np.load(target), NET(x))
    assert np.array_equal(np.load(archive / "out" / "part1" / "batch.npy"), NET(noise((2, 9, 6), 5), [9, 4]))
    assert not list(archive.glob("out/**/*.part"))


def test_it_goes_on_where_it_stopped(archive: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    (archive / "data" / "part0" / "04.npy").unlink()
    (archive / "data" / "part1" / "07.npy").unlink()
    written: list[Path] = []
    write = folders.write_whole

    def stops(target: Path, data: Any) -> None:
        if len(written) == 8:
            raise KeyboardInterrupt
        written.append(target)
        write(target, data)

    monkeypatch.setattr(folders, "write_whole", stops)
    assert main(["run", "net.safetensors", "data/**/*.np[yz]", "-o", "out/"]) == 2
    monkeypatch.setattr(folders, "write_whole", write)
    before = {path: path.stat().st_mtime_ns for path in (archive / "out").rglob("*.npy")}
    assert len(before) == 7  # and the mark
    capsys.readouterr()
    assert main(["run", "net.safetensors", "data/**/*.np[yz]", "-o", "out/"]) == 0
    assert capsys.readouterr().out == "out/: 12 run, 7 there already\n"
    assert {path: path.stat().st_mtime_ns for path in before} == before
    # A file that has changed since is run again.
    changed = archive / "data" / "part0" / "02.npy"
    np.save(changed, noise((4, 6), 99))
    os.utime(changed, ns=(2**62, 2**62))
    assert main(["run", "net.safetensors", "data/**/*.np[yz]", "-o", "out/"]) == 0
    assert capsys.readouterr().out == "out/: 1 run, 18 there already\n"
    assert np.array_equal(np.load(archive / "out" / "part0" / "02.npy"), NET(noise((4, 6), 99)))


def test_strict_stops_at_the_first(archive: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "net.safetensors", "data/part0/*.npy", "-o", "out/", "--strict"]) == 2
    assert "04.npy: no readable .npy array" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["data/part0/*.npy"], "name one with -o"),
        (["data/*.nothing", "-o", "out/"], "no file that this pattern fits"),
        (["data/part0/00.npy", "data/part0/02.npy", "-o", "y.npy"], "give a folder"),
        (["data/part0/00.npy", "data/part0/02.npy", "-o", "data/part0"], "would take its place"),
        (["data/part0/*.npy", "-o", "out/", "--stream"], "belong to a run over a single file"),
        (["data/part0/*.npy", "-o", "out/", "--jobs", "0"], "at least 1"),
        (["data/part0/*.npy", "-o", "out/", "--column", "id"], "--column belongs to a .parquet or .arrow file"),
        (["data/part0/*.npy", "-o", "out/", "--format", "wav", "--strict"], "can only be written from a .wav"),
    ],
)
def test_what_is_asked_wrongly(
    archive: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    try:
        status = main(["run", "net.safetensors", *arguments])
    except SystemExit as error:  # argparse's own
        status = error.code  # type: ignore[assignment]
    assert status == 2
    assert words in capsys.readouterr().err


def test_outputs_of_two_networks_are_not_mixed(archive: Path, capsys: pytest.CaptureFixture[str]) -> None:
    build(Kind(6, 20, layers=2, head=3), 2, "packed").save("other.safetensors")
    assert main(["run", "net.safetensors", "data/part0/00.npy", "-o", "out/"]) == 0
    assert main(["run", "other.safetensors", "data/part0/02.npy", "-o", "out/"]) == 2
    assert "it holds the results of another network" in capsys.readouterr().err


def test_names_that_would_meet(archive: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.savetxt("data/part0/00.csv", noise((3, 6), 0), delimiter=",")
    assert main(["run", "net.safetensors", "data/part0/00.*", "-o", "out/"]) == 2
    assert "would both be written to" in capsys.readouterr().err
