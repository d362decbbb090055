"""What the command line says of ONNX files, and what it can be told of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx_side import arr, branches, graph, model, node, value, weights

import cgru
from cgru.cli.commands import main

FIXTURES = Path(__file__).resolve().parent / "fixtures" / "onnx"


def gated() -> bytes:
    """y = x · 2 at 16 kHz, x · 3 elsewhere; sizes of x are open."""
    made = weights(k16=np.array(16000), two=np.array(2.0), three=np.array(3.0))
    times = [graph([node("Mul", ["x", name], [f"y_{name}"])], [f"y_{name}"], []) for name in ("two", "three")]
    nodes = [node("Equal", ["sr", "k16"], ["is16"]), node("If", ["is16"], ["y"], *branches(*times))]
    inputs = [value("x", ("batch", "time", "size")), value("sr", (), 7)]
    return model(graph(nodes, [value("y", ("batch", "time", "size"))], inputs, initializer=made))


def stepped() -> bytes:
    """One step: y = next = x + previous / 2, under names that do not pair off."""
    nodes = [node("Mul", ["before", "half"], ["m"]), node("Add", ["x", "m"], ["y"]), node("Identity", ["y"], ["after"])]
    inputs = [value("x", ("batch", 3)), value("before", ("batch", 3))]
    outputs = [value("y", ("batch", 3)), value("after", ("batch", 3))]
    return model(graph(nodes, outputs, inputs, initializer=weights(half=np.array(0.5))))


@pytest.fixture
def files(tmp_path: Path) -> Path:
    (tmp_path / "gated.onnx").write_bytes(gated())
    (tmp_path / "stepped.onnx").write_bytes(stepped())
    np.save(tmp_path / "x.npy", arr(2, 5, 3))
    return tmp_path


def test_inputs_are_fixed_and_shaped(files: Path, capfd: pytest.CaptureFixture[str]) -> None:
    x = np.load(files / "x.npy")
    said = ["--inputs", "sr=16000", "--inputs", "x=?,?,3"]
    assert main(["run", str(files / "gated.onnx"), str(files / "x.npy"), "-o", str(files / "y.npy"), *said]) == 0
    np.testing.assert_allclose(np.load(files / "y.npy"), 2 * x, rtol=1e-6)
    said[1] = "sr=8000"
    assert main(["convert", str(files / "gated.onnx"), str(files / "g.safetensors"), *said]) == 0
    np.testing.assert_allclose(cgru.load(files / "g.safetensors")(x), 3 * x, rtol=1e-6)
    np.savez(files / "io.npz", x=x, y=3 * x)
    assert main(["verify", str(files / "gated.onnx"), str(files / "io.npz"), *said]) == 0
    assert main(["bench", str(files / "gated.onnx"), *said]) == 0
    assert main(["compare", str(files / "gated.onnx"), str(files / "g.safetensors"), str(files / "x.npy"), *said]) == 0
    assert main(["info", str(files / "gated.onnx"), *said]) == 0
    capfd.readouterr()
    assert main(["run", str(files / "gated.onnx"), str(files / "x.npy")]) == 2
    assert "inputs=" in capfd.readouterr().err


def test_states_and_time(files: Path) -> None:
    x = np.load(files / "x.npy")
    said = ["--state", "before=after", "--time-axis", "frame"]
    assert main(["run", str(files / "stepped.onnx"), str(files / "x.npy"), "-o", str(files / "y.npy"), *said]) == 0
    wanted, held = [], np.zeros((2, 3))
    for t in range(5):
        held = x[:, t] + held / 2
        wanted.append(held)
    np.testing.assert_allclose(np.load(files / "y.npy"), np.stack(wanted, axis=1), rtol=0, atol=1e-6)
    said = ["--inputs", "sr=1", "--inputs", "x=?,?,3", "--time-axis"]
    for axis in ("1", "x=1", "-2"):
        out = ["-o", str(files / "y.npy")]
        assert main(["run", str(files / "gated.onnx"), str(files / "x.npy"), *out, *said, axis]) == 0
    np.testing.assert_allclose(np.load(files / "y.npy"), 3 * x, rtol=1e-6)


@pytest.mark.parametrize(
    ("given", "says"),
    [(["--inputs", "sr"], "NAME=VALUE"), (["--inputs", "sr=fast"], "a number, a JSON list, or a shape"),
     (["--inputs", "x=?,a,3"], "a shape such as"), (["--state", "h="], "NAME=VALUE"),
     (["--time-axis", "first"], "an axis such as 1"), (["--inputs", "z=1"], "the graph has no input 'z'"),
     (["--state", "x=z"], "'x' → 'z': the graph has")],
)  # fmt: skip
def test_what_does_not_fit_is_said(files: Path, capfd: pytest.CaptureFixture[str], given: list[str], says: str) -> None:
    try:
        status: Any = main(["run", str(files / "gated.onnx"), str(files / "x.npy"), *given])
    except SystemExit as end:
        status = end.code
    error = capfd.readouterr().err
    assert status == 2
    assert says in error
    assert error.count("\n") == 1


def test_other_files_take_none_of_it(files: Path, capfd: pytest.CaptureFixture[str]) -> None:
    cgru.Model([cgru.Dense(arr(2, 3), arr(2))]).save(files / "net.safetensors")
    assert main(["run", str(files / "net.safetensors"), str(files / "x.npy"), "--inputs", "sr=1"]) == 2
    assert "inputs: this is for" in capfd.readouterr().err


def test_info_of_what_runs(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", str(FIXTURES / "normed.torchscript.onnx")]) == 0
    printed = capsys.readouterr().out
    assert "operator sets: ai.onnx 20; written by pytorch" in printed
    assert "GRU 3" in printed
    assert "inputs: x float32 (batch, time, 5)" in printed
    assert "does not run" not in printed
    assert main(["info", "--json", str(FIXTURES / "normed.torchscript.onnx")]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["graph"]["operators"]["GRU"] == 3
    assert found["graph"]["unknown"] == []


def test_info_of_what_does_not_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Whatever can be read is told, and what is in the way."""
    nodes = [node("NonZero", ["x"], ["n"]), node("Thing", ["n"], ["y"], domain="org.example")]
    opsets = [{"version": 17}, {"domain": "org.example", "version": 1}]
    (tmp_path / "odd.onnx").write_bytes(model(graph(nodes, initializer=weights(w=arr(3, 4))), opset_import=opsets))
    assert main(["info", str(tmp_path / "odd.onnx")]) == 0
    printed = capsys.readouterr().out
    assert "operators that cgru does not run: NonZero, org.example.Thing" in printed
    assert "not run as it is: " in printed
    assert main(["info", "--json", str(tmp_path / "odd.onnx")]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["graph"]["unknown"] == ["NonZero", "org.example.Thing"]
    assert found["graph"]["outputs"] == {"y": "float32 (2)"}
    (tmp_path / "open.onnx").write_bytes(gated())
    assert main(["info", str(tmp_path / "open.onnx")]) == 0
    assert "say what is fixed" in (printed := capsys.readouterr().out) or "inputs=" in printed
