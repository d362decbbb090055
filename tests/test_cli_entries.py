"""The command line on files of several networks, and on networks of several inputs and outputs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from seq2seq import graphs

import cgru
from cgru.cli import commands as cli

X = np.random.default_rng(6).integers(1, 9, (3, 7))


@pytest.fixture(scope="module")
def net() -> Any:
    return cgru.Model(graphs("general"))


@pytest.fixture(scope="module")
def folder(net: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both networks in one file, one by itself, and what goes into them."""
    made = tmp_path_factory.mktemp("entries")
    net.save(made / "two.safetensors")
    net["encode"].save(made / "one.safetensors")
    y = net["encode"](X)
    np.save(made / "x.npy", X)
    np.savez(made / "decode.npz", token=X, **y)
    np.savez(made / "io.npz", x=X, **y)
    np.savez(made / "io_decode.npz", token=X, **y, y=net["decode"]({"token": X, **y}))
    return made


def call(folder: Path, *arguments: str) -> int:
    names = {path.name: str(path) for path in folder.iterdir()}
    return cli.main([names.get(argument, argument) for argument in arguments])


ONE_AT_A_TIME = [
    ("run", "two.safetensors", "x.npy"),
    ("run", "two.safetensors", "x.npy", "--stream"),
    ("run", "two.safetensors", "x.npy", "x.npy", "-o", "out/"),
    ("verify", "two.safetensors", "io.npz"),
    ("compare", "two.safetensors", "two.safetensors", "x.npy"),
    ("bench", "two.safetensors"),
    ("serve", "two.safetensors", "--port", "0"),
    ("convert", "two.safetensors", "two.onnx"),
    ("gates", "two.safetensors", "x.npy"),
]


@pytest.mark.parametrize("arguments", ONE_AT_A_TIME, ids=" ".join)
def test_what_runs_one_network_asks_which(
    folder: Path, arguments: tuple[str, ...], capfd: pytest.CaptureFixture[str]
) -> None:
    if arguments[0] == "gates":
        pytest.importorskip("matplotlib")
    assert call(folder, *arguments) == 2
    said = capfd.readouterr().err
    assert "two.safetensors holds the networks encode, decode, of which one runs at a time: say --entry encode" in said


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("two.safetensors", "x.npy", "--entry", "decoder"), "has no such entry; there are encode, decode"),
        (("one.safetensors", "x.npy", "--entry", "encode"), "holds one network, which has no name"),
        (("two.safetensors", "x.npy", "--entry", "decode"), "inputs token, h0, memory; give an .npz with an array of"),
        (("two.safetensors", "io.npz", "--entry", "decode"), "no input 'x'; it takes token, h0, memory"),
        (("two.safetensors", "decode.npz", "--entry", "decode", "--stream"), "several inputs runs whole"),
        (("two.safetensors", "x.npy", "--entry", "encode", "-o", "y.npy"), "only an .npz can hold"),
    ],
)
def test_what_cannot_run(
    folder: Path, arguments: tuple[str, ...], expected: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert call(folder, "run", *arguments) == 2
    assert expected in capfd.readouterr().err


@pytest.mark.parametrize(("command", "file"), [("gates", "x.npy"), ("bench", "")])
def test_several_inputs_where_one_is_wanted(
    folder: Path, command: str, file: str, capfd: pytest.CaptureFixture[str]
) -> None:
    if command == "gates":
        pytest.importorskip("matplotlib")
    assert call(folder, command, "two.safetensors", *([file] if file else []), "--entry", "decode") == 2
    assert "takes the inputs token, h0, memory" in capfd.readouterr().err


@pytest.mark.parametrize("way", [(), ("--stream",)])
def test_an_entry_runs_with_all_its_outputs(net: Any, folder: Path, tmp_path: Path, way: tuple[str, ...]) -> None:
    out = tmp_path / "y.npz"
    assert call(folder, "run", "two.safetensors", "x.npy", "--entry", "encode", "-o", str(out), *way) == 0
    found, wanted = np.load(out, allow_pickle=False), net["encode"](X)
    assert set(found) == set(wanted)
    for name in wanted:
        np.testing.assert_array_equal(found[name], wanted[name])


def test_many_rows_of_several_outputs(net: Any, folder: Path, tmp_path: Path) -> None:
    many, out = np.tile(X, (200, 1)), tmp_path / "y.npz"
    np.save(tmp_path / "many.npy", many)
    assert call(folder, "run", "one.safetensors", str(tmp_path / "many.npy"), "-o", str(out)) == 0
    for name, wanted in net["encode"](many).items():
        np.testing.assert_array_equal(np.load(out)[name], wanted)


def test_several_inputs_of_an_npz(net: Any, folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    given = {"token": X, **net["encode"](X)}
    out, short = tmp_path / "y.npy", tmp_path / "short.npz"
    assert call(folder, "run", "two.safetensors", "decode.npz", "--entry", "decode", "-o", str(out)) == 0
    np.testing.assert_array_equal(np.load(out), net["decode"](given))
    np.savez(short, **given, memory_lengths=[7, 2, 3])
    assert call(folder, "run", "two.safetensors", str(short), "--entry", "decode", "--json") == 0
    found = json.loads(capfd.readouterr().out)
    assert found["input_shape"] == {"token": [3, 7], "h0": [3, 8], "memory": [3, 7, 8], "memory_lengths": [3]}
    wanted = net["decode"]({**given, "memory_lengths": [7, 2, 3]})
    np.testing.assert_array_equal(np.array(found["y"][0], np.float32), wanted)


def test_verify_and_compare_an_entry(net: Any, folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert call(folder, "verify", "two.safetensors", "io.npz", "--entry", "encode") == 0
    assert call(folder, "verify", "two.safetensors", "io_decode.npz", "--entry", "decode") == 0
    wrong = {"x": X, **net["encode"](X)}
    np.savez(tmp_path / "wrong.npz", **wrong | {"h0": wrong["h0"] + 1})
    assert call(folder, "verify", "two.safetensors", str(tmp_path / "wrong.npz"), "--entry", "encode") == 1
    capfd.readouterr()
    assert call(folder, "verify", "two.safetensors", "decode.npz", "--entry", "decode") == 2
    assert "expected token, h0, memory and y" in capfd.readouterr().err
    small = tmp_path / "small.safetensors"
    assert call(folder, "convert", "two.safetensors", str(small), "--precision", "int8") == 0
    for entry, given in (("encode", "x.npy"), ("decode", "decode.npz")):
        capfd.readouterr()
        assert call(folder, "compare", "two.safetensors", str(small), given, "--entry", entry, "--json") == 0
        assert 0 < json.loads(capfd.readouterr().out)["output"]["relative_rms"] < 0.2


def test_info_and_convert_take_all_or_one(
    net: Any, folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert call(folder, "info", "two.safetensors", "--json") == 0
    found = json.loads(capfd.readouterr().out)["entries"]
    assert list(found) == ["encode", "decode"]
    assert list(found["decode"]["inputs"]) == ["token", "h0", "memory"]
    assert list(found["encode"]["outputs"]) == ["memory", "h0"]
    assert call(folder, "info", "two.safetensors", "--entry", "decode", "--json") == 0
    assert json.loads(capfd.readouterr().out)["entries"] is None
    out = tmp_path / "encode.onnx"
    assert call(folder, "convert", "two.safetensors", str(out), "--entry", "encode") == 0
    np.testing.assert_allclose(cgru.load(out)(X)["memory"], net["encode"](X)["memory"], rtol=1e-6)


def test_verify_of_named_outputs(net: Any) -> None:
    y = net["encode"](X)
    assert cgru.verify(net["encode"], X, y).max_abs == 0
    assert cgru.verify(net["encode"], X, {"h0": y["h0"], "memory": y["memory"]}).max_abs == 0
    with pytest.raises(cgru.CgruError, match="other outputs"):
        cgru.verify(net["encode"], X, y | {"h0": y["h0"] + 1})
    for wrong in (y["memory"], {"memory": y["memory"]}):
        with pytest.raises(cgru.ShapeError, match="expected a mapping of the outputs memory, h0"):
            cgru.verify(net["encode"], X, wrong)
    with pytest.raises(cgru.CgruError, match="each runs by itself"):
        cgru.compare(net, net, X)
